"""Critique and revision in words: the requests, the draw of principles, the filters."""

from collections import Counter

import pytest

from playground.data.constitution import Principle
from playground.stages import critique

KIND = Principle("Be kind", "Name what is unkind.", "Say it kindly.", "Which is kinder?")
SHORT = Principle("Be short", "Count the words.", "Say it in ten words.", "Which is shorter?", weight=3.0)
ASKED = [{"role": "user", "content": "How do I wash wool?"}]
ANSWER = "You just throw it into the machine, what else would you do with it."


def step(revision: str, critique_text: str = "It is rude and would spoil the wool.") -> dict[str, str]:
    return {
        "critique_request": KIND.critique,
        "critique": critique_text,
        "revision_request": KIND.revision,
        "revision": revision,
    }


def test_the_requests_take_turns_and_end_with_the_user():
    first = critique.critique_request(ASKED, ANSWER, KIND, 2)
    second = critique.revision_request(first, "It is rude.", KIND)
    for request in (first, second):
        assert [m["role"] for m in request] == ["user", "assistant"] * (len(request) // 2) + ["user"]
    assert second[: len(first)] == first
    assert first[-1]["content"].endswith(KIND.critique) and second[-1]["content"].endswith(KIND.revision)
    assert len(first) == 2 * 6 + 3
    assert critique.critique_request(ASKED, ANSWER, KIND, 0)[0] == ASKED[0]


def test_an_empty_answer_does_not_make_an_empty_turn():
    assert all(m["content"] for m in critique.critique_request(ASKED, "", KIND, 0))


def test_the_examples_say_no_and_yes_in_turn_and_pass_their_own_filter():
    shots = critique.shots()
    assert len(shots) == 6
    for shot in shots:
        assert critique.problem(shot["prompt"], [shot["answer"]], shot) is None


def test_principles_are_drawn_by_weight_and_the_same_again():
    drawn = Counter(critique.draw([KIND, SHORT], 0, index, 1)[0].title for index in range(2000))
    assert 0.70 < drawn["Be short"] / 2000 < 0.80
    assert critique.draw([KIND, SHORT], 7, 3, 4) == critique.draw([KIND, SHORT], 7, 3, 4)
    assert {p.title for p in critique.draw([KIND, SHORT], 0, 5, 2)} == {"Be kind", "Be short"}


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        ("By hand in cool water with a little shampoo, then dry it lying flat.", None),
        ("", "empty"),
        (" … \n", "empty"),
        (ANSWER, "unchanged"),
        ("It is rude and would spoil the wool.", "echo"),
        ("How do I wash wool?", "echo"),
        ("Say it kindly.", "echo"),
        ("It is rude and would spoil the wool. " + "But so is life, they say, every day of it.", "echo"),
        ("wash " + " ".join(f"word{i}" for i in range(80)), "too long"),
        ("Put it in. " + "Then you turn it over again. " * 4, "going round in circles"),
    ],
)
def test_the_filters_name_what_is_wrong(revision, reason):
    assert critique.problem(ASKED[0]["content"], [ANSWER], step(revision)) == reason


def test_a_revision_that_was_cut_off_is_dropped():
    assert (
        critique.problem(ASKED[0]["content"], [ANSWER], step("By hand in cool water with"), ended=False) == "unfinished"
    )


def test_a_long_answer_may_get_a_long_revision():
    long = " ".join(f"a{i}" for i in range(50))
    revision = " ".join(f"b{i}" for i in range(95))
    assert critique.problem("x", [long], step(revision)) is None
    assert critique.problem("x", [long], step(revision + " b b b b b b c")) == "too long"


def test_changed_counts_words():
    assert critique.changed("a b c d", "a b c d") == 0
    assert critique.changed("a b c d", "e f g h") == 1
    assert critique.changed("a b c d", "a b c e") == pytest.approx(0.25)


def test_a_text_that_ran_out_of_tokens_ends_with_its_last_whole_sentence():
    text = "Wash it by hand in cool water, please. Then dry it lying"
    assert critique.whole(text, True) == (text, True)
    assert critique.whole(text, False) == ("Wash it by hand in cool water, please.", True)
    assert critique.whole("No. Then dry it lying", False) == ("No. Then dry it lying", False)
    assert critique.whole("", False) == ("", False)


def test_a_later_round_may_not_go_back_to_the_first_answer_nor_grow_for_ever():
    first, second = "Take the bus, it is quick and cheap.", "Walk along the river, which is free and quiet."
    assert critique.problem("x", [first, second], step(first)) == "unchanged"
    assert critique.problem("x", [first, second], step(second)) == "unchanged"
    longer, longest = (" ".join(f"{word}{i}" for i in range(61)) for word in ("road", "path"))
    assert critique.problem("x", [first, longer], step(longest)) == "too long"
