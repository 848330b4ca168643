"""Rankings and scores become pairs: which ones, with what margin, and what is told where there are none."""

import pytest

from playground.data.pairs import Pair
from playground.data.ranks import MOST_PAIRS, RANK_SHAPES, gathered
from playground.data.records import RawRow
from playground.data.shapes import Reading, RowError

ASK = "What is a fjord?"


def converted(record: dict, reading: Reading | None = None) -> list[Pair]:
    shape = next(shape for shape in RANK_SHAPES if shape.fits(record))
    return shape.convert(1, record, reading or Reading())


def reason(record: dict, reading: Reading | None = None) -> str:
    with pytest.raises(RowError) as caught:
        converted(record, reading)
    return str(caught.value)


def scored(*scores, **columns) -> dict:
    return {"prompt": ASK, **columns, "candidates": [{"text": f"t{i}", "score": s} for i, s in enumerate(scores)]}


def ranked(*ranks) -> dict:
    return {"prompt": ASK, "candidates": [{"text": f"t{i}", "rank": rank} for i, rank in enumerate(ranks)]}


@pytest.mark.parametrize(
    ("pairs_by", "record", "pairs"),
    [
        ("best-worst", scored(1, 3, 2), [("t1", "t0", 2)]),
        ("adjacent", scored(1, 3, 2), [("t1", "t2", 1), ("t2", "t0", 1)]),
        ("all", scored(1, 3, 2), [("t1", "t2", 1), ("t1", "t0", 2), ("t2", "t0", 1)]),
        ("best-worst", ranked(2, 1, 3), [("t1", "t2", 2)]),
        ("adjacent", ranked(2, 1, 3), [("t1", "t0", 1), ("t0", "t2", 1)]),
        ("best-worst", scored(3, 1, 3, 1), [("t0", "t3", 2)]),
        ("adjacent", scored(3, 1, 3, 1), [("t2", "t1", 2)]),
        ("all", scored(3, 3, 1), [("t0", "t2", 2), ("t1", "t2", 2)]),
        ("all", scored("4.5", None, 4.2), [("t0", "t2", 0.3)]),
    ],
)
def test_answers_are_paired_best_first_and_ties_never(pairs_by, record, pairs):
    found = converted(record, Reading(pairs_by=pairs_by))
    assert [(pair.chosen, pair.rejected, pair.notes["margin"]) for pair in found] == pairs


def test_only_answers_far_enough_apart_are_paired():
    found = converted(scored(1, 2, 4), Reading(pairs_by="all", min_margin=2))
    assert [(pair.chosen, pair.rejected) for pair in found] == [("t2", "t1"), ("t2", "t0")]
    near = reason(scored(1, 2), Reading(min_margin=1.5))
    assert near == "no two answers' scores are 1.5 or more apart"


def test_one_bad_answer_among_many_costs_only_its_own_pairs():
    record = {"prompt": ASK, "responses": ["one", "two", " ", "two"], "scores": [4, 3, 2, 1]}
    found = converted(record, Reading(pairs_by="all"))
    assert [(pair.chosen, pair.rejected) for pair in found] == [("one", "two"), ("one", "two")]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (scored(2, 2), "a tie: neither answer was preferred"),
        (scored(2), "fewer than two answers with a score or a rank"),
        (scored(2, None), "fewer than two answers with a score or a rank"),
        (scored(1, "good"), "a score is 'good', not a number"),
        (scored(1, True), "a score is 'True', not a number"),
        (scored(1, 2) | {"prompt": " "}, "no prompt: there are answers, but nothing that was asked"),
        ({"prompt": ASK, "responses": ["same", "same"], "scores": [1, 2]}, "both answers are the same"),
        ({"prompt": ASK, "responses": ["a", ""], "scores": [1, 2]}, "'chosen' is empty"),
        ({"prompt": ASK, "responses": ["a", ["b"]], "scores": [2, 1]}, "'rejected' is not text but a list"),
        ({"prompt": ASK, "responses": ["a", "b"], "scores": [1]}, "2 answers but 1 in 'scores'"),
    ],
)
def test_rankings_that_are_refused(record, words):
    assert reason(record) == words


def test_very_many_answers_are_not_paired_each_with_each():
    words = "more than 30 pairs from one prompt; pair only its best answer with its worst"
    for way, most in (("adjacent", MOST_PAIRS + 1), ("all", 8)):
        assert len(converted(scored(*range(most)), Reading(pairs_by=way))) <= MOST_PAIRS
        assert reason(scored(*range(most + 1)), Reading(pairs_by=way)) == words
    assert len(converted(scored(*range(1000)))) == 1


def test_a_ranking_keeps_its_system_message():
    (found,) = converted(scored(2, 1, system="Be brief."))
    assert found.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}]


# ---- one answer in each row


def rows(*records: dict | None) -> list[RawRow]:
    return [RawRow(number, record, None if record else "broken") for number, record in enumerate(records, 1)]


def answer(text: str, score, prompt=ASK, column: str = "score") -> dict:
    return {"prompt": prompt, "response": text, column: score}


def test_rows_of_one_prompt_are_gathered_under_the_first_of_them():
    raw = rows(answer("a", 1), answer("x", 2, "Other?"), None, answer("b", 3), answer("y", 2.5, "Other?"))
    found = gathered(raw)
    assert [item.row for item in found] == [1, 2, 3]
    assert found[0].value["candidates"] == [{"text": "a", "score": 1}, {"text": "b", "score": 3}]
    assert found[1].value["candidates"] == [{"text": "x", "score": 2}, {"text": "y", "score": 2.5}]
    assert found[2] is raw[2]
    assert converted(found[0].value) == [Pair(1, [{"role": "user", "content": ASK}], "b", "a", notes={"margin": 2.0})]


def test_prompts_may_be_conversations_and_ranks_go_down():
    talk = [{"role": "user", "content": ASK}]
    (found,) = gathered(rows(answer("a", 2, talk, "rank"), answer("b", "1", talk, "rank")))
    assert [pair.chosen for pair in converted(found.value)] == ["b"]


@pytest.mark.parametrize(
    "records",
    [
        [answer("a", 1), answer("b", 2, "Other?")],  # no prompt stands there twice
        [answer("a", "good"), answer("b", "bad")],  # thumbs
        [answer("a", True), answer("b", False)],
        [answer("a", None), answer("b", None)],
        [{"prompt": ASK, "response": "a"}, {"prompt": ASK, "response": "b"}],
        [{"prompt": ASK, "text": "a", "rejected_text": "b", "score": n} for n in range(3)],  # pairs already
        [answer("a", 1), answer("b", 2), *[{"messages": []}] * 3],  # most rows are something else
        [None],
        [],
    ],
)
def test_any_other_table_is_left_as_it_is(records):
    raw = rows(*records)
    assert gathered(raw) is raw


def test_a_file_is_not_changed_by_gathering():
    raw = rows(answer("a", 1), answer("b", 2))
    gathered(raw)
    assert raw == rows(answer("a", 1), answer("b", 2))
