"""What PPO pays for: rules as people write them, also badly or with bad intent, and the sum that an answer earns."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.settings import SettingError
from playground.stages import checks
from playground.stages.rewards import (
    GRADED,
    KNOWN,
    MOST_RULES,
    Payer,
    Rewards,
    keyword,
    length_band,
    parse_rules,
    rule_reward,
    rule_scores,
)

ONE_A_LINE = "Rules: write one rule a line, as max_words: 60."
NO_BAND = "Rules: length_band needs two numbers of words, as 20-60."
NAMES = (
    "min_words, max_words, max_sentences, questions, ends_with_question, no_lists, contains, lacks, "
    "length_band, keyword"
)


def words(count):
    return " ".join(["word"] * count)


def refusal(text):
    with pytest.raises(SettingError) as caught:
        parse_rules(text)
    return str(caught.value)


# --- rules as text


@pytest.mark.parametrize("text", ["", " ", "\n\n  \n", "\t"])
def test_nothing_written_is_no_rules(text):
    assert parse_rules(text) == {}


def test_rules_come_in_their_order_and_of_their_own_type():
    text = """
    max_words: 60
    ends_with_question: true
    no_lists: false
    contains: Paris   # the capital
    keyword: "please: "
    lacks: 5
    length_band: 20-60
    """
    found = parse_rules("\n".join(line.strip() for line in text.splitlines()))
    assert list(found.items()) == [
        ("max_words", 60),
        ("ends_with_question", True),
        ("no_lists", False),
        ("contains", "Paris"),
        ("keyword", "please: "),
        ("lacks", "5"),
        ("length_band", "20-60"),
    ]
    assert [type(limit) for limit in found.values()] == [int, bool, bool, str, str, str, str]


@pytest.mark.parametrize("name", KNOWN)
def test_each_known_rule_can_be_written_kept_as_json_and_counted(name):
    limit = {"length_band": "2-4", "no_lists": "true", "ends_with_question": "true"}.get(name, "3")
    found = parse_rules(f"{name}: {limit}")
    assert json.loads(json.dumps(found)) == found
    assert 0 <= rule_scores("What 3 words?", found)[name] <= 1


def test_the_known_rules_are_the_checks_and_the_graded_ones():
    assert ", ".join(KNOWN) == NAMES
    assert set(KNOWN) == set(checks.CHECKS) | set(GRADED)


def test_words_of_any_script_can_be_keywords():
    assert parse_rules("keyword: 日本 🎌") == {"keyword": "日本 🎌"}


@pytest.mark.parametrize("said", ["yes", "No", "on", "007", "1.50", "1_000", "1e3", "0x10", "12:30", "2024-01-01"])
def test_a_text_is_looked_for_as_it_was_written(said):
    assert parse_rules(f"keyword: {said}") == {"keyword": said}


@pytest.mark.parametrize("band", ["20-60", "20 - 60", "20–60", "20 to 60", "'  20-60 '"])
def test_a_band_can_be_written_in_several_ways(band):
    (limit,) = parse_rules(f"length_band: {band}").values()
    assert length_band(words(20), limit) == length_band(words(60), limit) == 1
    assert length_band(words(19), limit) < 1
    assert length_band(words(61), limit) < 1


@pytest.mark.parametrize("text", ["hello", "max_words", "5", "null", "- max_words: 3", "[max_words]", "true"])
def test_text_that_is_no_list_of_rules_says_how_to_write_one(text):
    assert refusal(text) == ONE_A_LINE


@pytest.mark.parametrize(("text", "line"), [
    ("max_words: 3\nkeyword: [", 2),
    ("max_words: 3\nkeyword: a\nlacks: b: c", 3),
    ("\tkeyword: a", 1),
    ("keyword: 'a", 1),
    ("max_words: *nothing", 1),
    ("max_words: 3\n---\nmax_words: 4", 2),
    ("max_words: 3\n? [a, b]\n: 4", 2),
    ("keyword: a\x00b", 1),
])  # fmt: skip
def test_a_line_that_can_t_be_read_is_named(text, line):
    assert refusal(text) == f"Rules: line {line} can't be read; write one rule a line, as max_words: 60."


@pytest.mark.parametrize(("name", "shown"), [
    ("max_word", "'max_word'"), ("Max_words", "'Max_words'"), ("all", "'all'"), ("5", "'5'"),
    ("<b>hi</b>", "'<b>hi</b>'"), ("x" * 100, repr("x" * 40)),
])  # fmt: skip
def test_an_unknown_rule_is_named_with_those_that_exist(name, shown):
    assert refusal(f"max_words: 3\n{name}: 3") == f"Rules: there is none called {shown}. Known: {NAMES}."


def test_too_many_rules_are_counted():
    text = "\n".join(f"rule{i}: 3" for i in range(MOST_RULES + 1))
    assert refusal(text) == "Rules: 13 of them, 12 at most."


@pytest.mark.parametrize("name", ["min_words", "max_words", "max_sentences", "questions"])
@pytest.mark.parametrize("limit", ["", "1.5", "many", "true", "[3]", "{a: 3}", "2024-01-01", ".inf", ".nan"])
def test_a_count_must_be_a_whole_number(name, limit):
    assert refusal(f"{name}: {limit}") == f"Rules: {name} needs a whole number."


@pytest.mark.parametrize("name", ["ends_with_question", "no_lists"])
@pytest.mark.parametrize("limit", ["", "1", "maybe", "[true]"])
def test_a_yes_or_no_must_be_one(name, limit):
    assert refusal(f"{name}: {limit}") == f"Rules: {name} needs true or false."


@pytest.mark.parametrize("name", ["contains", "lacks", "keyword"])
@pytest.mark.parametrize("limit", ["", "''", "'  '", "[a]", "{a: b}"])
def test_a_text_must_be_there(name, limit):
    assert refusal(f"{name}: {limit}") == f"Rules: {name} needs a text."


@pytest.mark.parametrize(
    "band", ["60-20", "0-5", "20", "-5-10", "a-b", "1-2-3", "[20, 60]", "{20: 60}", "", "true", "1.5-2"]
)
def test_a_band_must_be_two_numbers_the_smaller_one_first(band):
    assert refusal(f"length_band: {band}") == NO_BAND


# --- rules with bad intent

BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
BILLION_LIMIT = "min_words: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i, name in enumerate(KNOWN[1:])
)
HOSTILE = {
    "lists in lists, unclosed": "[" * 10_000,
    "lists in lists": f"max_words: {'[' * 10_000}{']' * 10_000}",
    "mappings in mappings": "{a: " * 10_000,
    "mappings in mappings, by indent": "\n".join(" " * i + "a:" for i in range(3000)),
    "a billion laughs": BILLION,
    "a billion laughs as limits": BILLION_LIMIT,
    "a billion laughs as a text": BILLION.replace("j:", "keyword:"),
    "a list within itself": "keyword: &a [*a]",
    "a mapping within itself": "&a\nmax_words: 3\nkeyword: *a",
    "a mapping as its own name": "&a {? *a : 3}",
    "an object": "keyword: !!python/object/apply:os.system ['true']",
    "a number of 5000 digits": f"max_words: {'9' * 5000}",
    "a hexadecimal number of 5000 digits": f"max_words: 0x{'f' * 5000}",
    "a hexadecimal number of 5000 digits as a name": f"? 0x{'f' * 5000}\n: 3",
    "a hexadecimal number of 5000 digits as a text": f"keyword: 0x{'f' * 5000}",
    "a hexadecimal number without digits": "max_words: 0x_",
    "a band of 5000 digits": f"length_band: {'9' * 5000}-{'9' * 5000}",
    "a date that does not exist": "keyword: 2024-13-45",
    "a time that does not exist": "keyword: 2024-01-01T25:61:61Z",
    "a time zone that does not exist": "keyword: 2024-01-01T00:00:00+99:99",
    "a word tagged as a number": "max_words: !!int foo",
    "nothing tagged as a number": "max_words: !!int ''",
    "a word tagged as a float": "max_words: !!float foo",
    "a word tagged as true or false": "no_lists: !!bool foo",
    "a word tagged as a time": "keyword: !!timestamp foo",
    "half a character": 'keyword: "\\uD800"',
    "a megabyte of spaces": " " * 1_000_000 + "x",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_rules_are_refused_in_words_or_are_harmless_text_and_take_no_time(kind):
    began = time.process_time()
    try:
        found = parse_rules(HOSTILE[kind])
    except SettingError as error:
        assert str(error).startswith("Rules: ")
        assert len(str(error)) < 400
    else:
        assert set(found) == {"keyword"}
        json.dumps(found, ensure_ascii=False).encode()  # as a run's request is written
    assert time.process_time() - began < 30


def test_an_object_in_the_rules_is_not_made(tmp_path):
    refusal(f"keyword: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    assert not list(tmp_path.iterdir())


PIECES = [*KNOWN, ": ", "\n", "3", "- ", "[", "{", "&a ", "*a", "'", "|", "20-60", "true", "!!int ", "0x", "2024-13-01"]


@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_whatever_is_typed_gives_rules_that_can_be_counted_or_a_sentence(text):
    try:
        found = parse_rules(text)
    except SettingError as error:
        assert str(error).startswith("Rules: ")
    else:
        assert json.loads(json.dumps(found, ensure_ascii=False).encode()) == found
        assert not found or -1 <= rule_reward("Some words, 20-60 of them?", found) <= 1


# --- graded rules


@pytest.mark.parametrize(("count", "expected"), [
    (0, 0), (5, 0), (9, 0), (10, 0), (15, 0.5), (19, 0.9), (20, 1), (40, 1), (60, 1), (61, 1 - 1 / 60), (90, 0.5),
    (119, 1 / 60), (120, 0), (1000, 0),
])  # fmt: skip
def test_a_band_pays_1_inside_and_falls_to_0_at_its_half_and_its_double(count, expected):
    assert length_band(words(count), "20-60") == pytest.approx(expected)


@pytest.mark.parametrize(("band", "by_count"), [("1-1", [0, 1, 0, 0]), ("3-3", [0, 0, 1 / 3, 1, 2 / 3, 1 / 3, 0])])
def test_a_band_of_one_length(band, by_count):
    assert [length_band(words(i), band) for i in range(len(by_count))] == pytest.approx(by_count)


def test_a_band_counts_words_between_any_spaces():
    assert length_band("  one\n\ntwo\tthree ", "3-3") == 1
    assert length_band("", "1-5") == length_band(" \n", "1-5") == 0


@pytest.mark.parametrize(("text", "expected"), [
    ("", 0), ("no such thing", 0), ("Please", 0.2), ("PLEASE, please!", 0.4), ("pleased " * 4, 0.8),
    ("please" * 5, 1), ("please " * 50, 1),
])  # fmt: skip
def test_a_keyword_pays_a_fifth_each_time_up_to_1_whatever_the_case(text, expected):
    assert keyword(text, "plEase") == pytest.approx(expected)


def test_a_keyword_is_folded_like_its_text_and_counted_without_overlap():
    assert keyword("STRASSE straße", "Straße") == pytest.approx(0.4)
    assert keyword("aaaa", "aa") == pytest.approx(0.4)
    assert keyword("a.c abc", "a.c") == pytest.approx(0.2)


# --- the mean of rules


def test_shares_stand_under_their_rules_names_in_order():
    rules = {"keyword": "yes", "max_words": 3, "length_band": "2-4", "ends_with_question": True, "lacks": "no"}
    found = rule_scores("Yes, yes no", rules)
    assert list(found.items()) == [
        ("keyword", 0.4), ("max_words", 1), ("length_band", 1), ("ends_with_question", 0), ("lacks", 0),
    ]  # fmt: skip
    assert rule_reward("Yes, yes no", rules) == pytest.approx(2 * (0.4 + 1 + 1 + 0 + 0 + 0) / 6 - 1)


def test_rules_pay_between_minus_1_and_1():
    rules = {"max_words": 3, "contains": "a", "keyword": "a", "length_band": "1-3"}
    assert rule_reward("a a aaa", rules) == 1
    assert rule_reward(words(50).replace("a", "e"), rules) == -1
    assert rule_reward("b", {"contains": "a"}) == -1


def test_the_worst_rule_counts_twice_so_that_missing_one_of_many_is_not_nearly_the_best():
    assert rule_reward("b", {"contains": "a", "lacks": "a"}) == pytest.approx(2 * (0 + 1 + 0) / 3 - 1)
    rules = {"contains": "a", "keyword": "a", "max_words": 3, "lacks": "b"}
    assert rule_reward("a a", rules) == pytest.approx(2 * (1 + 0.4 + 1 + 1 + 0.4) / 5 - 1)
    assert rule_reward("a a", {"keyword": "a"}) == pytest.approx(2 * 0.4 - 1)  # of a single rule nothing changes


@given(st.text(max_size=200))
def test_no_text_is_paid_more_than_1_or_less_than_minus_1(text):
    rules = {"keyword": "e", "length_band": "3-9", "max_words": 5, "min_words": 2, "questions": 1, "no_lists": True,
             "ends_with_question": False, "contains": "a", "lacks": "b", "max_sentences": 2}  # fmt: skip
    assert set(rules) == set(KNOWN)
    assert -1 <= rule_reward(text, rules) <= 1
    for name in rules:
        assert -1 <= rule_reward(text, {name: rules[name]}) <= 1


# --- the sum that is paid


def payer(**values):
    known = {"rules": {}, "rules_weight": 1.0, "reward_weight": 1.0, "mean": 0.0, "std": 1.0, "clip": 5.0}
    return Payer(**{**known, "missing_eos_penalty": 1.0, **values})


def test_a_score_is_paid_in_standard_deviations_from_the_mean():
    found = payer(mean=2.0, std=4.0).pay(["a", "b", "c"], [True] * 3, [2.0, 6.0, -4.0])
    assert found.scores == pytest.approx([0, 1, -1.5])
    assert found.raw == [2.0, 6.0, -4.0]
    assert found.rules == []


def test_the_score_is_clipped_before_it_is_weighed():
    found = payer(mean=1.0, std=2.0, clip=3.0, reward_weight=0.5).pay(["a"] * 4, [True] * 4, [100.0, -100.0, 7.0, 3.0])
    assert found.scores == pytest.approx([1.5, -1.5, 1.5, 0.5])


def test_all_parts_are_weighed_and_added_and_an_answer_without_end_pays_the_penalty():
    texts, ended, raw = ["short", words(10), "short", words(10)], [True, True, False, False], [1.0, 3.0, 1.0, 3.0]
    paid = payer(rules={"max_words": 5}, rules_weight=0.7, reward_weight=2.0, mean=1.0, std=0.5,
                 missing_eos_penalty=1.25).pay(texts, ended, raw)  # fmt: skip
    assert paid.rules == [1, -1, 1, -1]
    expected = []
    for by_rules, done, score in zip(paid.rules, ended, raw, strict=True):
        expected.append(2.0 * (score - 1) / 0.5 + 0.7 * by_rules - (0 if done else 1.25))
    assert paid.scores == pytest.approx(expected)


def test_the_penalty_is_taken_once_and_stands_outside_the_clip():
    assert payer(clip=1.0, missing_eos_penalty=3.0).pay(["a"], [False], [-50.0]).scores == [-4]
    assert payer(missing_eos_penalty=0.0).pay(["a"], [False], [1.0]).scores == [1]


def test_without_a_reward_run_rules_alone_are_paid():
    found = payer(rules={"contains": "yes"}, rules_weight=2.0, mean=100.0, std=0.1).pay(
        ["yes", "no"], [True, False], []
    )
    assert found.scores == [2, -3]
    assert found.raw == []
    assert found.parts == [{"rules": 1}, {"rules": -1}]


def test_without_rules_the_reward_run_alone_is_paid():
    found = payer(rules_weight=9.0).pay(["a", "b"], [True, True], [0.5, -0.5])
    assert found.scores == [0.5, -0.5]
    assert found.parts == [{"reward model": 0.5}, {"reward model": -0.5}]


def test_with_neither_only_the_end_counts():
    found = payer().pay(["a", "b"], [True, False], [])
    assert found.scores == [0, -1]
    assert found.parts == [{}, {}]


def test_a_weight_of_0_leaves_a_part_visible_but_unpaid():
    found = payer(rules={"contains": "a"}, rules_weight=0.0, reward_weight=0.0).pay(["a"], [True], [3.0])
    assert found.scores == [0]
    assert found.parts == [{"reward model": 3.0, "rules": 1.0}]


def test_scores_that_were_all_the_same_in_training_stay_within_the_clip():
    found = payer(mean=2.0, std=0.0).pay(["a", "b", "c"], [True] * 3, [2.0, 2.5, -7.0])
    assert found.scores == [0, 5, -5]


@pytest.mark.parametrize("raw", [math.inf, -math.inf, 1e308])
def test_a_score_without_bounds_is_clipped(raw):
    assert payer(std=0.5).pay(["a"], [True], [raw]).scores == [math.copysign(5, raw)]


def test_a_score_that_is_no_number_is_not_paid_like_the_best_one():
    (score,) = payer().pay(["a"], [True], [math.nan]).scores
    assert math.isnan(score) or score <= 0


def test_nobody_is_paid_nothing():
    assert payer(rules={"max_words": 3}).pay([], [], []) == Rewards([], [], [])


def test_what_was_scored_is_kept_apart_from_the_caller_s_list():
    raw = [1.0]
    found = payer().pay(["a"], [True], raw)
    raw.append(2.0)
    assert found.raw == [1.0]
