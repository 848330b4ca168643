"""Which of two answers a verdict names, in all its words, and the sentences where it names none."""

import pytest

from playground.data.pair_shapes import PAIR_SHAPES
from playground.data.pairs import Pair
from playground.data.readers import RawRow
from playground.data.report import Report, examine
from playground.data.shapes import Reading, RowError
from playground.data.votes import VOTE_SHAPES

ASK, GOOD, BAD = "What is a fjord?", "A narrow arm of the sea.", "A kind of cheese."


def converted(record: dict, reading: Reading | None = None) -> Pair:
    shape = next(shape for shape in PAIR_SHAPES if shape.fits(record))
    assert shape in VOTE_SHAPES
    (found,) = shape.convert(1, record, reading or Reading())
    return found


def reason(record: dict, reading: Reading | None = None) -> str:
    with pytest.raises(RowError) as caught:
        converted(record, reading)
    assert 0 < len(str(caught.value)) < 300
    return str(caught.value)


def vote(winner, first: str = "response_a", second: str = "response_b", column: str = "winner", **more) -> dict:
    return {"prompt": ASK, first: GOOD, second: BAD, column: winner, **more}


@pytest.mark.parametrize(
    "word",
    ["a", "A", " a ", "model_a", "Model A", "response_a", "Response A", "text_a", "assistant_a", "left", "First"],
)
def test_words_that_name_the_first_answer(word):
    found = converted(vote(word))
    assert (found.prompt, found.chosen, found.rejected) == ([{"role": "user", "content": ASK}], GOOD, BAD)


@pytest.mark.parametrize("word", ["b", "B.", "model_b", "MODEL-B", "response_b", "answer b", "right", "second"])
def test_words_that_name_the_second_answer(word):
    assert converted(vote(word)).chosen == BAD


@pytest.mark.parametrize(
    ("first", "second", "winner", "chosen"),
    [
        ("response_0", "response_1", 0, GOOD),
        ("response_0", "response_1", "1", BAD),
        ("response_0", "response_1", 1.0, BAD),  # an integer beside an empty cell becomes a fraction in many tables
        ("response_1", "response_2", 1, GOOD),
        ("response_1", "response_2", "2.0", BAD),
        ("output_1", "output_2", "output_2", BAD),
        ("answer1", "answer2", "answer1", GOOD),
        ("text_a", "text_b", "text_b", BAD),
        ("completion_a", "completion_b", "a", GOOD),
        ("summary_0", "summary_1", 0, GOOD),
    ],
)
def test_numbers_and_columns_name_an_answer(first, second, winner, chosen):
    assert converted(vote(winner, first, second)).chosen == chosen


@pytest.mark.parametrize("column", ["winner", "preferred", "choice", "better", "label", "preference", "chosen"])
def test_the_verdict_stands_in_many_columns(column):
    assert converted(vote("b", column=column)).chosen == BAD


def test_a_model_may_be_named():
    models = {"model_a": "tiny-b", "model_b": "large"}
    assert converted(vote("tiny-b", **models)).chosen == GOOD
    assert converted(vote("large", **models)).chosen == BAD
    both = {"model_a": "same", "model_b": "same"}
    assert reason(vote("same", **both)) == "a tie: neither answer was preferred"


@pytest.mark.parametrize("word", ["tie", "Tie", "draw", "equal", "same", "both", "tievote"])
def test_a_tie_makes_no_pair(word):
    assert reason(vote(word)) == "a tie: neither answer was preferred"


@pytest.mark.parametrize("word", ["tie (bothbad)", "both bad", "bothbad", "both_bad", "neither", "Tie (both bad)"])
def test_two_bad_answers_make_no_pair(word):
    assert reason(vote(word)) == "both answers were judged bad: neither was preferred"


@pytest.mark.parametrize("nothing", [None, "", " ", []])
def test_an_undecided_vote_makes_no_pair(nothing):
    assert reason(vote(nothing)) == "no winner is named"


@pytest.mark.parametrize(
    ("winner", "shown"),
    [("c", "c"), (1, "1"), (True, "True"), ("not a", "not a"), ("yes", "yes"), ("左", "左"), ({"a": 1}, "{'a': 1}")],
)
def test_a_verdict_that_names_neither_makes_no_pair(winner, shown):
    assert reason(vote(winner)) == f"the winner is '{shown}', which names neither answer"


def test_answers_without_a_prompt_make_no_pair():
    """That two answers begin alike makes no prompt of their beginning."""
    record = {"response_a": "I think so.", "response_b": "I think not.", "winner": "a"}
    assert reason(record) == "no prompt: there are answers, but nothing that was asked"
    classes = {"text_1": "It rains.", "text_2": "It pours.", "label": 1}  # which of them says what, not which is better
    assert reason(classes) == "no prompt: there are answers, but nothing that was asked"


def test_whole_transcripts_need_no_prompt():
    start = "\n\nHuman: What is a fjord?\n\nAssistant: "
    found = converted({"text_a": start + GOOD, "text_b": start + BAD, "preferred_text": "text_a"})
    assert found == Pair(1, [{"role": "user", "content": ASK}], GOOD, BAD)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (vote("a") | {"response_a": " "}, "'chosen' is empty"),
        (vote("a") | {"response_b": None}, "'rejected' is empty"),
        (vote("a") | {"response_b": GOOD}, "both answers are the same"),
        (vote("a") | {"response_b": ["x"]}, "'rejected' is not text but a list"),
        (
            {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": "strong"},
            "the preference's strength is 'strong', not a number",
        ),
        (
            {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": None},
            "no score to compare the answers by",
        ),
        (
            {"history": ASK, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 2},
            "'labels' is neither 0 nor 1, so no answer is preferred",
        ),
        ({"info": {"post": ASK}, "summaries": [{"text": GOOD}], "choice": 0}, "not two summaries to choose from"),
        (
            {"type": "leftvote", "states": [{"messages": [["USER"]]}, {"messages": []}]},
            "the messages of a vote are not [role, text] pairs",
        ),
        (
            {"prompt": [ASK], "response_a": [GOOD, ""], "response_b": [BAD], "winner_model_a": 1, "winner_model_b": 0},
            "the answers have not as many turns as the prompt",
        ),
        (
            {"prompt": "[1", "response_a": "[]", "response_b": "[]", "winner_model_a": 1, "winner_model_b": 0},
            "'prompt' is not a list of texts",
        ),
    ],
)
def test_votes_that_are_refused(record, words):
    assert reason(record) == words


def test_the_strength_of_a_preference_can_be_asked_for():
    record = {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": -1}
    assert converted(record, Reading(min_margin=1)).notes == {"margin": 1.0}
    assert reason(record, Reading(min_margin=2)) == "the two answers' scores are nearer than 2"


def test_one_meaning_of_better_is_taken_where_there_is_no_other():
    record = {"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 1}
    assert converted(record, Reading(better="safe")).chosen == GOOD


# ---- what a whole column of numbers means


def examined(numbers: list, first: str = "response_1", second: str = "response_2", column: str = "label") -> Report:
    rows = [{"prompt": f"{ASK} {n}", first: GOOD, second: BAD, column: number} for n, number in enumerate(numbers, 1)]
    return examine([RawRow(n, row, None) for n, row in enumerate(rows, 1)])


@pytest.mark.parametrize("number", [-2, -1, "-1", -2.0, " -1 ", "\u22121"])
@pytest.mark.parametrize(("first", "second"), [("response_1", "response_2"), ("text_a", "text_b")])
def test_a_number_below_0_names_neither_answer(number, first, second):
    words = f"the winner is '{number}': a number below 0 names neither answer"
    assert reason(vote(number, first, second, "preference")) == words


def test_a_column_of_strengths_names_no_better_answer():
    report = examined([-2, -1, 1, 2], column="preference")
    assert (report.kept, [row for row, _ in report.dropped]) == ([], [1, 2, 3, 4])
    assert report.dropped[2][1] == "the winner is '1 on a scale', which names neither answer"
    assert report.notes[0] == "'preference' goes from -2 to 2: no numbers of answers, so it names no better one."
    assert examined([-2]).notes == ["'label' holds -2: no numbers of answers, so it names no better one."]
    assert examined([1, 3, 5, 2]).kept == []  # 1 to 5, from the first answer to the second


@pytest.mark.parametrize(
    ("first", "second", "numbers", "chosen"),
    [
        ("response_1", "response_2", [0, 1, 1, 0], [GOOD, BAD, BAD, GOOD]),
        ("answer_1", "answer_2", ["1", "0"], [BAD, GOOD]),
        ("response_1", "response_2", [1.0, 0.0, None], [BAD, GOOD]),
        ("response_1", "response_2", [0], [GOOD]),
        ("response_0", "response_1", [1, 2], [GOOD, BAD]),
    ],
)
def test_a_column_that_counts_otherwise_than_the_answers_is_read_as_a_whole(first, second, numbers, chosen):
    report = examined(numbers, first, second)
    assert [pair.chosen for pair in report.kept] == chosen
    start = 1 if 2 in numbers else 0
    assert report.notes[0] == f"'label' counts from {start}, so {start} is '{first}' and {start + 1} '{second}'."


@pytest.mark.parametrize(
    ("first", "second", "numbers", "chosen"),
    [
        ("response_1", "response_2", [1, 1], [GOOD, GOOD]),
        ("response_1", "response_2", [1, 2, "2.0"], [GOOD, BAD, BAD]),
        ("response_1", "response_2", [1, 2, 0], [GOOD, BAD]),  # 0 is a tie
        ("response_0", "response_1", [0, 1, 1], [GOOD, BAD, BAD]),
    ],
)
def test_a_column_that_counts_as_the_answers_do_stays(first, second, numbers, chosen):
    report = examined(numbers, first, second)
    assert [pair.chosen for pair in report.kept] == chosen
    assert not any("counts" in note for note in report.notes)


def test_true_and_false_are_no_numbers_of_answers():
    assert examined([True, False]).kept == []
