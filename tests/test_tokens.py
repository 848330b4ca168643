"""Rows are measured as exactly the tokens that training will use."""

import shutil

import pytest

from playground.data.pairs import Pair
from playground.data.rendering import Renderer
from playground.data.shapes import Row
from playground.data.tokens import Lengths, measure, training_pairs, training_rows

CHAT = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "Yes."}]
LONG = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "Yes. " * 40}]
SLOW = [{"role": "user", "content": "hello? " * 40}, {"role": "assistant", "content": "Yes."}]


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


# ---- measure and training_pairs: the same tokens, whole

ASKED = CHAT[:1]
PAIRS = [
    Pair(4, ASKED, "Yes.", "No, not at all."),
    Pair(5, ASKED, "Yes. " * 40, "No."),
    Pair(6, ASKED, "Yes.", "No. " * 40),
    Pair(7, [*LONG, *ASKED], "Yes.", "No."),
    Pair(8, [{"role": "system", "content": "Be brief."}, *CHAT, *ASKED], "Oui.", "Non, merci."),
]


def test_the_tokens_of_pairs_are_counted_side_by_side(renderer):
    found = measure(PAIRS, renderer, 64)
    answers = [renderer.answer(row.prompt, text) for row in PAIRS for text in (row.chosen, row.rejected)]
    assert found.tokens == [len(answer.ids) for answer in answers]
    assert found.learned == [sum(answer.learned) for answer in answers]
    assert found.too_long == [5, 6, 7, 8]
    assert (found.cut, found.unlearnable, found.refused, found.control) == ([], [], [], [])
    assert found.sides == list(zip(found.learned[::2], found.learned[1::2], strict=True))
    assert found.sides[0] == tuple(
        len(renderer.tokenizer.encode(text, add_special_tokens=False).ids) + 1 for text in ("Yes.", "No, not at all.")
    )
    assert Lengths().sides == []


@pytest.mark.parametrize("limit", range(16, 280, 12))
def test_training_takes_the_pairs_that_fit_whole_and_in_order(renderer, limit):
    found = measure(PAIRS, renderer, limit)
    used = training_pairs(PAIRS, renderer, limit)
    fitting = [row for row in PAIRS if row.row not in found.too_long]
    assert len(used) == len(fitting)
    for row, pair in zip(fitting, used, strict=True):
        assert pair.prompt == renderer.prompt_ids(row.prompt)
        assert pair.prompt + pair.chosen == renderer.answer(row.prompt, row.chosen).ids
        assert pair.prompt + pair.rejected == renderer.answer(row.prompt, row.rejected).ids
        assert len(pair) == max(len(pair.prompt + side) for side in (pair.chosen, pair.rejected)) <= limit
        for side, text in ((pair.chosen, row.chosen), (pair.rejected, row.rejected)):
            assert side == [*renderer.tokenizer.encode(text, add_special_tokens=False).ids, renderer.eos_id]


def test_a_pair_that_fits_exactly_is_used(renderer):
    length = max(measure(PAIRS[:1], renderer, 999).tokens)
    assert measure(PAIRS[:1], renderer, length).too_long == []
    assert len(training_pairs(PAIRS[:1], renderer, length)) == 1
    assert measure(PAIRS[:1], renderer, length - 1).too_long == [4]
    assert training_pairs(PAIRS[:1], renderer, length - 1) == []


@pytest.mark.parametrize("part", ["prompt", "chosen", "rejected"])
def test_typed_control_tokens_are_noticed_on_every_side_of_a_pair(renderer, part):
    typed = {"prompt": ASKED, "chosen": "Yes.", "rejected": "No."}
    typed[part] = [{"role": "user", "content": "<|im_end|>?"}] if part == "prompt" else "It is <|im_start|>."
    assert measure([PAIRS[0], Pair(9, **typed)], renderer, 512).control == [9]


def test_a_pair_that_the_template_refuses_is_reported_and_left_out(with_template):
    renderer = with_template(
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system role here') }}"
        "{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    found = measure([PAIRS[4], PAIRS[0]], renderer, 512)
    assert found.refused == [(8, "the chat template refuses it: no system role here")]
    assert len(found.tokens) == len(found.learned) == 2
    assert training_pairs([PAIRS[4], PAIRS[0]], renderer, 512) == training_pairs(PAIRS[:1], renderer, 512)
