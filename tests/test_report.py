"""The row report counts every row of a file once, and measures exactly what training will use."""

import json
import shutil

import pytest

from playground.data.readers import RawRow, read_text
from playground.data.rendering import Renderer
from playground.data.report import Row, examine, measure, training_rows

CHAT = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "Yes."}]
LONG = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "Yes. " * 40}]
SLOW = [{"role": "user", "content": "hello? " * 40}, {"role": "assistant", "content": "Yes."}]


def jsonl(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def pair(number: int) -> dict:
    return {"prompt": f"Question {number}?", "completion": f"Answer {number}."}


@pytest.fixture
def renderer(tiny_model) -> Renderer:
    return Renderer(tiny_model)


@pytest.fixture
def with_template(tiny_model, tmp_path):
    """The tiny model with another template."""

    def new(template: str) -> Renderer:
        shutil.copytree(tiny_model, tmp_path / "model")
        (tmp_path / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")
        return Renderer(tmp_path / "model")

    return new


# ---- examine: every row is kept or dropped


def test_every_row_is_counted_once_under_its_own_number():
    text = (
        "\n" + jsonl(pair(1), {"text": "x"}) + "{broken\n\n" + jsonl(pair(2), {"prompt": "a", "completion": " "}, [1])
    )
    report = examine(read_text(text))
    assert (report.kind, report.shape, report.rows) == ("sft", "prompt-completion", 6)
    assert [row.row for row in report.kept] == [2, 6]
    assert report.kept[1].messages == [
        {"role": "user", "content": "Question 2?"},
        {"role": "assistant", "content": "Answer 2."},
    ]
    numbers, reasons = zip(*report.dropped, strict=True)
    assert numbers == (3, 4, 7, 8)
    assert reasons[0] == "no columns of a known shape (found: text)"
    assert reasons[1].startswith("not valid JSON (")
    assert reasons[2:] == ("an empty assistant message", "not an object: found a list")


def test_a_repeated_row_is_dropped_whatever_its_shape():
    again = {"messages": [{"role": "human", "content": "Question 1?"}, {"role": "gpt", "content": "Answer 1."}]}
    report = examine(read_text(jsonl(pair(1), again, pair(2), pair(1))))
    assert [row.row for row in report.kept] == [1, 3]
    assert report.dropped == [(2, "the same as an earlier row"), (4, "the same as an earlier row")]


def test_mixed_shapes_are_named_most_frequent_first():
    alpaca = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(3)]
    assert examine(read_text(jsonl({"messages": CHAT}, *alpaca))).shape == "alpaca and messages"
    assert examine(read_text(jsonl({"text": "x"}))).shape == "unknown"


def test_a_row_without_value_or_problem_still_has_a_reason():
    assert examine([RawRow(3, None, None)]).dropped == [(3, "not readable")]


def test_reasons_are_grouped_most_frequent_first():
    bad = [{"messages": [CHAT[0], {"role": "tool", "content": str(n)}, CHAT[1]]} for n in range(2)]
    late = {"messages": [*CHAT, CHAT[0], {"role": "tool", "content": "x"}]}
    report = examine(read_text(jsonl({"text": "x"}, *bad, pair(1), late)))
    assert report.reasons() == [
        ("a message has the unknown role 'tool'", [2, 3, 5]),
        ("no columns of a known shape (found: text)", [1]),
    ]


def test_the_report_as_json():
    report = examine(read_text(jsonl(pair(1), {"text": "x"})))
    found = report.as_json()
    assert set(found) >= {"kind", "shape", "rows", "kept", "dropped"}
    assert {key: found[key] for key in ("kind", "shape", "rows", "kept", "dropped")} == {
        "kind": "sft",
        "shape": "prompt-completion",
        "rows": 2,
        "kept": 1,
        "dropped": [{"row": 2, "reason": "no columns of a known shape (found: text)"}],
    }
    assert json.loads(json.dumps(found)) == found


def test_few_rows_get_a_note():
    assert examine(read_text(jsonl(*map(pair, range(8))))).notes == []
    assert examine(read_text(jsonl(pair(1)))).notes[0].startswith("Only 1 row:")
    assert examine(read_text(jsonl(*map(pair, range(7))))).notes[0].startswith("Only 7 rows:")
    assert examine(read_text(jsonl({"text": "x"}))).notes == []


# ---- measure and training_rows: the same tokens


def test_the_lengths_are_those_of_the_training_rows(renderer):
    rows = [Row(number, chat) for number, chat in enumerate((CHAT, LONG, SLOW, CHAT), 4)]
    found = measure(rows, renderer, 64)
    assert found.tokens == [len(renderer.encode(row.messages).ids) for row in rows]
    assert (found.cut, found.unlearnable, found.refused, found.control) == ([5, 6], [6], [], [])
    used = training_rows(rows, renderer, 64)
    assert [len(row.ids) for row in used] == [min(64, tokens) for tokens in (found.tokens[i] for i in (0, 1, 3))]
    assert [sum(row.learned) for row in used] == [n for n in found.learned if n]
    assert used[1] == renderer.encode(LONG).cut(64)


def test_a_row_that_fits_exactly_is_not_cut(renderer):
    length = len(renderer.encode(CHAT).ids)
    assert measure([Row(1, CHAT)], renderer, length).cut == []
    assert measure([Row(1, CHAT)], renderer, length - 1).cut == [1]
    assert training_rows([Row(1, CHAT)], renderer, length) == [renderer.encode(CHAT)]


@pytest.mark.parametrize("limit", range(16, 120, 8))
def test_measure_and_training_agree_at_every_limit(renderer, limit):
    rows = [Row(number, chat) for number, chat in enumerate((CHAT, LONG, SLOW, LONG + SLOW, SLOW + LONG), 1)]
    found = measure(rows, renderer, limit)
    used = training_rows(rows, renderer, limit)
    assert len(used) == len(rows) - len(found.unlearnable) - len(found.refused)
    assert sum(map(len, (row.ids for row in used))) == sum(
        min(limit, n) for n, learned in zip(found.tokens, found.learned, strict=True) if learned
    )


def test_typed_control_tokens_are_noticed(renderer):
    typed = [{"role": "user", "content": "what is <|im_end|>?"}, CHAT[1]]
    assert measure([Row(1, CHAT), Row(2, typed)], renderer, 64).control == [2]


def test_a_row_that_the_template_refuses_is_reported_and_left_out(with_template):
    renderer = with_template(
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system role here') }}"
        "{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rows = [Row(1, [{"role": "system", "content": "Be brief."}, *CHAT]), Row(2, CHAT)]
    found = measure(rows, renderer, 64)
    assert found.refused == [(1, "the chat template refuses it: no system role here")]
    assert len(found.tokens) == len(found.learned) == 1
    assert training_rows(rows, renderer, 64) == [renderer.encode(CHAT)]


def test_a_template_that_drops_the_answer_leaves_nothing_to_learn(with_template):
    renderer = with_template(
        "{% for message in messages if message['role'] == 'user' %}{{ message['content'] }}{% endfor %}"
    )
    found = measure([Row(1, CHAT)], renderer, 64)
    assert (found.cut, found.unlearnable, found.learned) == ([], [1], [0])
    assert training_rows([Row(1, CHAT)], renderer, 64) == []
