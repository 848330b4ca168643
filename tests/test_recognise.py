"""Rows are known by what they hold: the most specific shape wins, and what nothing fits is told in a sentence."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.data.prompts import ASKS
from playground.data.readers import RawRow, read_text
from playground.data.recognise import KINDS, kinds_of, mapped, recognise, tidied, unknown
from playground.data.report import examine
from playground.data.shapes import Reading

ASK = {"role": "user", "content": "What is a fjord?"}
ANSWER = {"role": "assistant", "content": "A narrow arm of the sea."}
CHATML = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"


def known(record: dict, kind: str = "") -> tuple[str, str] | None:
    shape = recognise(record, kind)
    return shape and (shape.kind, shape.name)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        # the more specific one of two that fit
        ({"instruction": "a", "response": "b"}, ("sft", "query-response")),
        ({"instruction": "a", "response": "b", "category": "c"}, ("sft", "Dolly")),
        ({"instruction": "a", "response": "b", "context": ""}, ("sft", "query-response")),
        ({"instruction": "a", "output": "b", "response": "c"}, ("sft", "alpaca")),
        ({"prompt": "a", "completion": "b", "answer": "c"}, ("sft", "prompt-completion")),
        ({"prompt": "a", "completion": "b", "label": "yes"}, ("thumbs", "KTO")),
        ({"prompt": "a", "completion": "b", "label": "blue"}, ("sft", "prompt-completion")),
        ({"prompt": "a", "completion": "", "label": "yes"}, ("thumbs", "KTO")),
        ({"prompt": "a", "label": "yes"}, ("prompts", "prompt-only")),
        ({"conversation": [ASK, {**ANSWER, "rating": 1}]}, ("thumbs", "FeeL")),
        ({"conversation": [ASK, {**ANSWER, "rating": None}]}, ("sft", "ShareGPT")),
        ({"prompt": "a", "instruction": "b", "output": "c"}, ("sft", "alpaca")),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, ("sft", "stepwise")),
        ({"prompt": "a", "text": CHATML}, ("sft", "templated text")),
        ({"prompt": "a", "text": "b"}, ("sft", "query-response")),
        ({"messages": [ASK, ANSWER], "text": CHATML}, ("sft", "messages")),
        ({"messages": [ASK, ANSWER], "prompt": "a", "completion": "b"}, ("sft", "messages")),
        ({"messages": [ASK], "prompt": "a"}, ("prompts", "messages-only")),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "messages": [ASK, ANSWER]}, ("preference", None)),
        # other columns of turns
        ({"texts": [ASK, ANSWER]}, ("sft", "messages")),
        ({"agent_trace": [ASK, ANSWER]}, ("sft", "messages")),
        ({"texts": ["a", "b"]}, None),
        ({"tags": [ASK, ANSWER]}, None),
        # an empty column is no column, but no answer makes no prompt
        ({"messages": None, "instruction": "a", "output": "b"}, ("sft", "alpaca")),
        ({"prompt": "a", "completion": ""}, ("sft", "prompt-completion")),
        ({"prompt": "a", "completion": "b", "chosen": None, "rejected": ""}, ("sft", "prompt-completion")),
        ({"prompt": "a", "chosen": "", "rejected": ""}, ("preference", None)),
        ({"prompt": "a", "messages": None}, ("prompts", "prompt-only")),
        # an answer that is the number of a choice
        ({"question": "a", "choices": ["b", "c"], "answer": 1}, None),
        ({"text": "a"}, None),
        ({"question": {"text": "a"}, "answers": {"text": ["b"]}}, ("sft", "query-response")),
        ({}, None),
    ],
)
def test_the_most_specific_shape_wins(record, expected):
    found = known(record)
    assert found == expected or (expected and expected[1] is None and found[0] == expected[0])


@pytest.mark.parametrize(
    ("record", "kind", "shape"),
    [
        ({"Prompt": "a", "Expected": "b"}, "sft", "query-response"),
        ({"QUESTION": "a", " answer ": "b"}, "sft", "query-response"),
        ({"Instruction": "a", "Input": "c", "Output": "b"}, "sft", "alpaca"),
        ({"Prompt": "a", "Completion": "b", "KTO tag": "yes"}, "thumbs", "LlamaFactory KTO"),
        ({"prompt ": "a", "output-text": "", "completion": "b"}, "sft", "prompt-completion"),
        ({"Question": "a"}, "prompts", "question-only"),
        ({"Question": "a", "question ": "b"}, "sft", "unknown"),
    ],
)
def test_names_of_columns_may_be_written_in_any_case(record, kind, shape):
    report = examine([RawRow(1, record, None)])
    assert (report.kind, report.shape) == (kind, shape)


def test_a_capital_inside_a_name_is_its_own():
    (row,) = tidied([RawRow(1, {"human_ref_A": "a", "Human Ref B": "b"}, None)])
    assert row.value == {"human_ref_A": "a", "human_ref_b": "b"}


def test_what_a_question_is_about_is_asked_with_it():
    for record in (
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
        {"instruction": "Add.", "context": "2 and 3", "response": "5"},
        {"question": "Add.", "context": "2 and 3", "answer": "5"},
        {"prompt": "Add.", "input": "2 and 3", "output": "5"},
        {"Instruction": "Add.", "Input": "2 and 3", "Output": "5"},
    ):
        (row,) = examine([RawRow(1, record, None)]).kept
        assert [message["content"] for message in row.messages] == ["Add.\n2 and 3", "5"]


@pytest.mark.parametrize("name", ASKS)
def test_a_column_that_only_asks_holds_prompts(name):
    assert known({name: "Why?", "topic": "reasons"}) == ("prompts", f"{name}-only")
    (row,) = examine([RawRow(1, {name: "Why?", "topic": "reasons"}, None)]).kept
    assert row.as_json() == {"prompt": [{"role": "user", "content": "Why?"}], "notes": {"topic": "reasons"}}


def test_an_instruction_is_asked_together_with_its_input():
    (row,) = examine([RawRow(1, {"instruction": "Add.", "input": "2 and 3"}, None)]).kept
    assert row.messages == [{"role": "user", "content": "Add.\n2 and 3"}]


def test_of_several_readings_the_kind_that_is_asked_for_comes_first():
    record = {"prompt": "a", "chosen": "b", "rejected": "c", "messages": [ASK, ANSWER]}
    assert kinds_of(record) == ["sft", "preference"]
    assert [recognise(record, kind).kind for kind in ("", *KINDS)] == [
        "preference", "sft", "preference", "preference", "preference",
    ]  # fmt: skip
    assert kinds_of({"prompt": "a", "completion": "b", "label": True}) == ["sft", "preference", "thumbs"]
    assert kinds_of({"prompt": "a", "completion": "b"}) == ["sft"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"day": "Monday", "rain": 3}, "no columns of a known shape (found: day, rain)"),
        ({"text": "Once."}, "a text alone has no answer to learn from; if it is a prompt, map it to 'prompt'"),
        (
            {"prompt": "a", "best_answer": "b"},
            "an answer of unknown meaning stands beside the prompt, in 'best_answer'; map the columns",
        ),
    ],
)
def test_what_no_shape_fits_is_told_with_what_to_do(record, words):
    assert (recognise(record), unknown(record, list(record))) == (None, words)
    report = examine([RawRow(4, record, None)])
    assert report.dropped == [(4, words)]
    assert report.refusal().startswith(f"No row can be used: {words} (row 4). Each row needs ")
    assert report.guess == "nothing known"


def test_plain_texts_can_be_mapped_to_prompts():
    rows = read_text("text\nWhy is the sky blue?\nWhy is snow white?\n")
    assert examine(rows).kept == []
    report = examine(rows, Reading(columns={"prompt": "text"}))
    assert (report.kind, [row.messages[0]["content"] for row in report.kept]) == (
        "prompts",
        ["Why is the sky blue?", "Why is snow white?"],
    )


def test_mapping_leaves_the_other_columns_out():
    rows = [RawRow(1, {"q": "a", "a": "b", "label": True}, None), RawRow(2, {"q": "c"}, None), RawRow(3, None, "bad")]
    assert mapped(rows, {}) is rows
    assert mapped(rows, {"prompt": "q", "completion": "a"}) == [
        RawRow(1, {"prompt": "a", "completion": "b"}, None),
        RawRow(2, {"prompt": "c"}, None),
        RawRow(3, None, "bad"),
    ]


def test_fifty_thousand_rows_are_examined_in_a_few_seconds():
    rows = [
        RawRow(n, {"instruction": f"Describe {n}. " * 6, "input": "", "output": f"It is {n}. " * 30}, None)
        for n in range(1, 50_001)
    ]
    began = time.process_time()
    report = examine(rows)
    assert time.process_time() - began < 6
    assert (len(report.kept), report.guess) == (50_000, "50,000 conversations in alpaca shape")


# ---- anything at all

NAMES = ["prompt", "completion", "chosen", "rejected", "messages", "conversations", "conversation", "texts", "text"]
NAMES += ["instruction", "input", "output", "context", "category", "response", "question", "answer", "history"]
NAMES += ["system", "system_prompt", "images", "label", "rating", "completions", "labels", "init_prompt", "transcript"]
NAMES += ["revision_response", "min_harmlessness_score_transcript", "message_id", "id", "parent_id", "role", "rank"]
TURN = st.dictionaries(
    st.sampled_from(["role", "from", "content", "value", "weight", "rating", "human", "assistant", "tool_calls"]),
    st.sampled_from(["user", "assistant", "system", "tool", "", "Hi"]) | st.integers(-1, 1) | st.none(),
    max_size=4,
)
VALUE = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(TURN, max_size=4)
    | st.sampled_from([CHATML, "### Human: a### Assistant: b", "\n\nHuman: a\n\nAssistant: b", "Options: (A) [[["])
    | st.lists(st.text(max_size=2) | st.booleans() | st.none() | st.lists(st.text(max_size=2), max_size=2), max_size=3)
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=6), min_size=1, max_size=4)


@settings(deadline=None, max_examples=500)
@given(RECORDS, st.sampled_from(["", *KINDS]))
def test_every_row_of_any_file_is_kept_dropped_or_counted_as_another_kind(records, kind):
    rows = [RawRow(number, record, None) for number, record in enumerate(records, 1)]
    before = json.dumps(records)
    for report in (examine(rows, Reading(kind=kind)), examine(rows)):
        kept, dropped = {row.row for row in report.kept}, {row for row, _ in report.dropped}
        assert len(kept | dropped) + sum(report.others.values()) <= report.rows <= len(rows)
        assert all(0 < len(reason) < 300 for _, reason in report.dropped)
        assert report.guess and all(report.words())
        json.dumps([report.as_json(), *(row.as_json() for row in report.kept)], ensure_ascii=False).encode()
    assert json.dumps(records) == before


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "text": "So.", "rejected_text": ""},
        {"instruction": "Why?", "output": "So.", "rejected": None},
        {"prompt": "Why?", "chosen": "So.", "rejected": ""},
    ],
)
def test_a_pair_without_its_rejected_side_is_dropped_as_one_and_not_taken_for_a_conversation(record):
    whole = {name: value or "No." for name, value in record.items()}
    report = examine([RawRow(1, whole, None), RawRow(2, record, None)])
    assert (report.kind, len(report.kept), report.others) == ("preference", 1, {})
    assert [(row, "empty" in reason) for row, reason in report.dropped] == [(2, True)]
