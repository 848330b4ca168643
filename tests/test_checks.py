"""Checks of manner count words, sentences and marks; the factual probe matches whole words and whole numbers."""

import pytest

from playground.settings import SettingError
from playground.stages.checks import CHECKS, check, rates, sentences, states_fact
from playground.statistics import wilson


@pytest.mark.parametrize(
    ("name", "limit", "good", "bad"),
    [
        ("min_words", 3, "one two three", "one two"),
        ("min_words", 1, "word", " \n "),
        ("max_words", 3, "one\ntwo  three", "one two three four"),
        ("max_sentences", 2, "One. Two!", "One. Two! Three?"),
        ("questions", 1, "It is red. And yours?", "Red? And yours?"),
        ("questions", 0, "Red.", "Red?"),
        ("ends_with_question", True, 'Which one fits in "the ___ ball"?\n', "Really? Yes."),
        ("ends_with_question", True, "**What do you think?**", "What do you think"),
        ("ends_with_question", False, "Yes.", "Yes?"),
        ("no_lists", True, "Between 1.5 and 2 - about that.", "Sure:\n- one\n- two"),
        ("no_lists", True, "In 1969. Then", "1. First\n2. Second"),
        ("no_lists", True, "A well-known * mark", "  • one"),
        ("contains", "paris", "It is PARIS.", "It is Rome."),
        ("lacks", "as an AI", "I think so.", "As an ai, I cannot."),
    ],
)
def test_a_check_passes_and_fails(name, limit, good, bad):
    assert check(good, {name: limit}) == {name: True, "all": True}
    assert check(bad, {name: limit}) == {name: False, "all": False}


def test_every_check_is_described_and_tried():
    tried = {mark.args[1][i][0] for mark in test_a_check_passes_and_fails.pytestmark for i in range(len(mark.args[1]))}
    assert tried == set(CHECKS)
    assert all(words and not words.endswith(".") for words, _ in CHECKS.values())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" \n", 0),
        ("One", 1),
        ("One.", 1),
        ("One. Two", 2),
        ("One!\nTwo?", 2),
        ("It is 3.14 metres.", 1),
        ("Version 1.2.3 costs 9.99", 1),
        ("Wait... what?", 2),
        ("Really?!", 1),
        ('He said "stop." Then he left.', 2),
        ("“Stop.” Then he left.", 2),
        ("(So it is.) Good.", 2),
        ("**Bold ends here.** Then more.", 2),
        ("Well done! 🎉", 1),
    ],
)
def test_sentences_are_counted(text, count):
    assert sentences(text) == count


def test_all_is_true_only_where_every_check_passes():
    limits = {"min_words": 2, "ends_with_question": True}
    assert check("Is it?", limits) == {"min_words": True, "ends_with_question": True, "all": True}
    assert check("Why?", limits) == {"min_words": False, "ends_with_question": True, "all": False}
    assert check("anything", {}) == {"all": True}


def test_an_unknown_check_is_named():
    with pytest.raises(SettingError, match=r"^There is no check called 'politeness'\. Known: min_words, max_words, "):
        check("Hello.", {"max_words": 5, "politeness": 1})


def test_rates_are_wilson_intervals_of_the_passes():
    answers = ["Is it?", "Why?", "It is.", "So it is, but why?"]
    limits = {"min_words": 2, "ends_with_question": True}
    found = rates(answers, limits)
    assert found == {"min_words": wilson(3, 4), "ends_with_question": wilson(3, 4), "all": wilson(2, 4)}
    assert (found["all"].rate, found["all"].n) == (0.5, 4)
    assert rates([], limits)["all"] == wilson(0, 0)


@pytest.mark.parametrize(
    ("answer", "accept"),
    [
        ("The capital is Paris.", ["paris"]),
        ("paris", ["Paris"]),
        ("It has eight legs.", ["8", "eight"]),
        ("8", ["8", "eight"]),
        ("An 8-legged animal", ["8", "eight"]),
        ("A hexagon is a six-sided shape.", ["6", "six"]),
        ("Water boils at 100°C.", ["100"]),
        ("It is 100.", ["100"]),
        ("It is 100, I think.", ["100"]),
        ("Twenty-seven", ["27", "twenty-seven"]),
        ("It stands in New York City.", ["New York"]),
        ("Vincent van Gogh's", ["Gogh"]),
        ("C++ it is", ["C++"]),
    ],
)
def test_a_stated_fact_is_found(answer, accept):
    assert states_fact(answer, accept)


@pytest.mark.parametrize(
    ("answer", "accept"),
    [
        ("The capital is Parish.", ["paris"]),
        ("100", ["10"]),
        ("10", ["0"]),
        ("10", ["1"]),
        ("1,100 degrees", ["100"]),
        ("100,000", ["100"]),
        ("It is 8.5.", ["8"]),
        ("It is 3.8 or so", ["8"]),
        ("It is 18", ["8", "eight"]),
        ("It has twenty-eight legs", ["8", "eight"]),
        ("It has eighty legs", ["8", "eight"]),
        ("thirty-two", ["30", "thirty"]),
        ("", ["x"]),
        ("anything", []),
    ],
)
def test_a_part_of_a_word_or_number_is_not_the_fact(answer, accept):
    assert not states_fact(answer, accept)
