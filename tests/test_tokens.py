"""Rows are measured as exactly the tokens that training will use."""

import shutil

import pytest

from playground.data import tokens
from playground.data.pairs import Pair
from playground.data.rendering import Renderer
from playground.data.shapes import Row
from playground.data.thumbs import Thumb
from playground.data.tokens import Lengths, cut_note, measure, training_pairs, training_rows

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


def test_what_is_cut_is_told_with_what_it_costs(renderer):
    rows = [Row(number, chat) for number, chat in enumerate((CHAT, LONG, SLOW, LONG), 4)]
    whole = [len(renderer.encode(row.messages).ids) for row in rows]
    found = measure(rows, renderer, 64)
    assert (found.cut, found.lost) == ([5, 6, 7], [tokens - 64 for tokens in whole[1:]])
    assert found.endless == [5, 7]  # of row 6 nothing is left at all
    lost, most = sum(whole[1:]) - 3 * 64, max(whole) - 64
    assert found.cut_words(64) == [
        f"3 rows are longer than 64 tokens and cut at the end: {lost} tokens are lost, {most} at most in one row "
        f"(row 5, 6, 7). Nothing is cut at {max(whole)} tokens.",
        "In 2 of them the end of the last answer is lost, with the token that ends it: nothing there teaches the model "
        "to stop (row 5, 7).",
    ]
    assert measure(rows, renderer, max(whole)).cut_words(max(whole)) == []


def test_a_line_break_behind_the_last_answer_is_no_loss(renderer):
    length = len(renderer.encode(CHAT).ids)
    found = measure([Row(1, CHAT)], renderer, length - 1)
    assert found.cut_words(length - 1) == [
        f"1 row is longer than {length - 1} tokens and cut at the end: 1 token is lost (row 1). "
        f"Nothing is cut at {length} tokens."
    ]
    assert (found.endless, found.learned) == ([], [sum(renderer.encode(CHAT).learned)])


def test_one_row_says_what_the_limit_does_to_it(renderer):
    whole = renderer.encode(LONG)
    length = len(whole.ids)
    assert cut_note(whole, length) == ""
    assert cut_note(whole, length - 1) == "1 token is cut off here; the answers are whole."
    lost = "with the end of the last answer and the token that ends it"
    assert cut_note(whole, length - 2) == f"2 tokens are cut off here, {lost}."
    assert cut_note(whole, whole.start + 1) == f"{length - whole.start - 1} tokens are cut off here, {lost}."
    nothing = f"Nothing is left to learn within {whole.start} tokens, so this row is left out."
    assert cut_note(whole, whole.start) == nothing


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


@pytest.mark.parametrize("at_once", [1, 2, 3, 256])
def test_rows_keep_their_tokens_however_many_are_tokenized_at_once(with_template, monkeypatch, at_once):
    monkeypatch.setattr(tokens, "AT_ONCE", at_once)
    renderer = with_template(
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    talks = [CHAT, [{"role": "system", "content": "No."}, *CHAT], LONG, CHAT, LONG + SLOW]
    rows = [Row(number, talk) for number, talk in enumerate(talks, 1)]
    whole = [renderer.encode(talk) for i, talk in enumerate(talks) if i != 1]
    assert training_rows(rows, renderer, 999) == whole
    found = measure(rows, renderer, 999)
    assert (found.tokens, [row for row, _ in found.refused]) == ([len(encoded.ids) for encoded in whole], [2])
    pairs = [Pair(row.row, row.asked, "Yes.", "No.") for row in rows]
    used = training_pairs(pairs, renderer, 999)
    assert [pair.prompt for pair in used] == [renderer.prompt_ids(row.asked) for row in rows if row.row != 2]


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


def test_a_thumb_is_measured_as_its_prompt_and_whole_answer(renderer):
    rows = [Thumb(4, ASKED, "Yes.", True), Thumb(5, ASKED, "No. " * 40, False)]
    found = measure(rows, renderer, 64)
    assert found.tokens == [len(renderer.answer(row.prompt, row.answer).ids) for row in rows]
    assert (found.too_long, found.cut) == ([5], [])
