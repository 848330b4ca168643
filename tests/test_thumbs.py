"""Words, stars and numbers become thumbs, by what the whole table shows; whatever else they are, it is said."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.data.readers import RawRow
from playground.data.report import examine
from playground.data.shapes import Reading
from playground.data.thumbs import Thumb, thumb_of

ASK = {"role": "user", "content": "What is a fjord?"}
ANSWER = {"role": "assistant", "content": "A narrow arm of the sea."}


def table(column: str, values: list, **more) -> list[RawRow]:
    """One answer a row, with what was said of it in a column."""
    return [
        RawRow(number, {"prompt": f"Question {number}?", "completion": "So.", column: value, **more}, None)
        for number, value in enumerate(values, 1)
    ]


def verdicts(column: str, values: list, **reading) -> list[bool]:
    report = examine(table(column, values), Reading(**reading))
    assert report.kind == "thumbs"
    return [row.good for row in report.kept]


@pytest.mark.parametrize("column", ["label", "kto_tag", "liked", "rating", "feedback", "thumbs", "Label", "KTO tag"])
@pytest.mark.parametrize(
    ("up", "down"),
    [
        (True, False), (1, 0), (1.0, 0.0), (1, -1), ("1", "-1"), ("true", "False"), ("yes", "no"), ("Good", "bad "),
        ("up", "down"), ("👍", "👎"), ("👍🏿", "👎🏻"), ("👍️", "👎️"), ("chosen", "rejected"),
        ("desirable", "undesirable"), ("thumbs_up", "thumbs_down"), ("liked", "disliked"),
    ],
)  # fmt: skip
def test_words_for_up_and_down(column, up, down):
    assert verdicts(column, [up, down, up]) == [True, False, True]


@pytest.mark.parametrize("value", [None, "", "maybe", 2, 0.5, [], {}, "1 star"])
def test_other_words_are_no_thumbs(value):
    assert thumb_of(value) is None


@pytest.mark.parametrize(
    ("values", "good", "scale"),
    [
        ([1, 2, 3, 4, 5], [3, 4, 5], (1, 5)),
        (["1", "5", "4"], [2, 3], (1, 5)),
        ([0, 10, 4.5], [2], (0, 10)),
        ([-3, 3, 0], [2, 3], (-3, 3)),
    ],
)
def test_numbers_are_cut_in_the_middle_of_their_scale(values, good, scale):
    report = examine(table("rating", values))
    assert [row.row for row in report.kept if row.good] == good
    assert report.scale == scale
    assert [row.row for row in report.kept] == list(range(1, len(values) + 1))


@pytest.mark.parametrize(
    ("values", "held"),
    [
        (list(range(10)), "0, 1, 2, 3 and 6 more"),
        ([0, 1, 2], "0, 1, 2"),
        (["sport", "news", "sport"], "sport, news"),
        (["yes", "sport", "news"], "yes, sport, news"),
        ([0.25, 0.5], "0.25, 0.5"),
    ],
)
def test_a_label_that_is_a_class_is_no_thumb(values, held):
    report = examine(table("label", values))
    assert (report.kind, len(report.kept)) == ("sft", len(values))
    assert f"'label' holds {held}; these are no thumbs, so it is not used." in report.words()


def test_rows_on_which_nobody_decided_are_dropped_with_the_reason():
    report = examine(table("feedback", ["👍", "", "maybe", None, "👎"]))
    assert [row.row for row in report.kept] == [1, 5]
    assert report.dropped == [
        (2, "'feedback' is empty, so nobody said whether the answer is good"),
        (3, "'feedback' is maybe, which is neither up nor down"),
        (4, "'feedback' is empty, so nobody said whether the answer is good"),
    ]
    neither = examine(table("rating", [1, 0, -1]))
    assert neither.dropped == [(2, "'rating' is 0, which is neither up nor down")]


def test_beside_a_class_a_rating_is_still_one():
    rows = [
        RawRow(n, {"prompt": f"Question {n}?", "completion": "So.", "label": n, "rating": n}, None) for n in range(1, 6)
    ]
    report = examine(rows)
    assert [row.good for row in report.kept] == [False, False, True, True, True]
    assert "'label' holds 1, 2, 3, 4 and 1 more; these are no thumbs, so it is not used." in report.notes
    assert "'rating' goes from 1 to 5; 3 and more counts as a thumb up." in report.notes


def test_an_empty_answer_with_a_thumb_is_dropped():
    report = examine(
        [*table("label", [True, False]), RawRow(3, {"prompt": "?", "completion": "", "label": True}, None)]
    )
    assert report.dropped == [(3, "an empty assistant message")]


def test_beside_two_answers_a_label_is_no_thumb():
    rows = [RawRow(1, {"prompt": "a", "chosen": "b", "rejected": "c", "label": True}, None)]
    assert examine(rows).kind == "preference"


def test_a_rating_without_an_answer_is_no_thumb():
    assert examine([RawRow(1, {"prompt": "What?", "label": True}, None)]).kind == "prompts"


def test_the_normal_form_is_trl_s_and_its_own_normal_form():
    found = Thumb(3, [ASK], ANSWER["content"], False)
    assert found.as_json() == {"prompt": [ASK], "completion": [ANSWER], "label": False}
    (again,) = examine([RawRow(3, found.as_json(), None)]).kept
    assert again == found
    assert (found.asked, found.messages, found.content) == ([ASK], [ASK, ANSWER], [[ASK], ANSWER["content"], False])


def test_a_completion_may_hold_the_whole_conversation():
    talk = [ASK, ANSWER, {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Norway."}]
    rows = [{"completion": [ASK, ANSWER], "label": True}, {"prompt": None, "completion": talk, "label": False}]
    report = examine([RawRow(number, row, None) for number, row in enumerate(rows, 1)])
    assert (report.kind, report.shape, report.dropped) == ("thumbs", "KTO", [])
    assert [(row.prompt, row.answer, row.good) for row in report.kept] == [
        ([ASK], ANSWER["content"], True),
        (talk[:-1], "In Norway.", False),
    ]


def test_an_answer_with_both_thumbs_is_two_rows():
    same = {"prompt": "What?", "completion": "That."}
    report = examine([RawRow(1, {**same, "label": True}, None), RawRow(2, {**same, "label": False}, None)])
    assert [row.good for row in report.kept] == [True, False]


def test_pairs_use_each_answer_once():
    rows = [
        RawRow(number, {"prompt": prompt, "completion": f"{number}.", "label": good}, None)
        for number, (prompt, good) in enumerate(
            [("a", True), ("b", False), ("a", False), ("a", True), ("b", True), ("b", False), ("c", True)], 1
        )
    ]
    report = examine(rows, Reading(kind="preference"))
    assert [(row.row, row.chosen, row.rejected) for row in report.kept] == [(1, "1.", "3."), (5, "5.", "2.")]
    assert [row for row, _ in report.dropped] == [4, 6, 7]


def test_of_rated_messages_only_answers_become_thumbs():
    talk = [{**ASK, "rating": 1}, {**ANSWER, "rating": "1"}, {**ASK, "rating": None}, {**ANSWER, "rating": -1}, ASK]
    report = examine([RawRow(1, {"conversation": talk}, None)])
    assert report.kept == [
        Thumb(1, [ASK], ANSWER["content"], True),
        Thumb(1, [ASK, ANSWER, ASK], ANSWER["content"], False),
    ]
    long = examine([RawRow(1, {"conversation": talk * 21}, None)])
    assert long.dropped == [(1, "more than 100 messages in one conversation")]


VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.none(), max_size=2)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": VALUE, "rating": VALUE})
RECORD = st.dictionaries(
    st.sampled_from(["prompt", "completion", "label", "rating", "kto_tag", "messages", "conversation", "chosen"]),
    VALUE | st.lists(TURN, max_size=4),
    max_size=5,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(RECORD, min_size=1, max_size=5), st.sampled_from(["", "sft", "preference", "thumbs", "prompts"]))
def test_any_table_is_read_or_refused_row_by_row(records, kind):
    report = examine([RawRow(number, record, None) for number, record in enumerate(records, 1)], Reading(kind=kind))
    sources = {row.row for row in report.kept} | {row for row, _ in report.dropped}
    assert len(sources) + sum(report.others.values()) <= report.rows
    assert all(0 < len(reason) < 300 for _, reason in report.dropped)
    json.dumps([row.as_json() for row in report.kept])
    json.dumps([report.as_json(), report.words(), report.guess])
