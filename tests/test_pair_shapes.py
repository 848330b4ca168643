"""Which shape a record of preferences has where several could fit, and that no record breaks any of them."""

import json
from copy import deepcopy
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pair_samples import EXPECTED, SAMPLES, TABLE

from playground.data.pairs import Pair
from playground.data.ranks import gathered
from playground.data.readers import read_file
from playground.data.records import RawRow
from playground.data.report import examine
from playground.data.shapes import Reading, RowError

ASK = {"role": "user", "content": "What is a fjord?"}
GOOD, BAD = {"role": "assistant", "content": "An arm of the sea."}, {"role": "assistant", "content": "A cheese."}
SIDES = {"chosen": "An arm of the sea.", "rejected": "A cheese."}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def first_shape(record: dict):
    return next(shape for shape in TABLE if shape.fits(record))


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"prompt": "What?", **SIDES}, "prompt, chosen, rejected"),
        ({"prompt": "What?", "question": "Why?", "instruction": "How?", **SIDES}, "prompt, chosen, rejected"),
        ({"prompt": "", "question": "Why?", **SIDES}, "axolotl Intel"),
        ({"instruction": "How?", "input": "", **SIDES}, "LlamaFactory Alpaca"),
        ({"input": "How?", **SIDES}, "axolotl ICR"),
        ({"prompt": "?", "messages": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, "prompt, chosen, rejected"),
        ({"messages": [ASK], "chosen": GOOD, "rejected": BAD}, "axolotl chat"),
        ({"messages": [ASK, GOOD], "chosen": "x", "rejected": "y"}, "chosen, rejected"),
        ({"prompt": "What?", "response_a": "x", "response_b": "y", "winner": "a", **SIDES}, "prompt, chosen, rejected"),
        ({"prompt": "What?", "output": "x", "rejected": "y"}, "H2O"),
        ({"prompt": "What?", "text": "x", "rejected_text": "y"}, "AutoTrain"),
        ({"prompt": "What?", "response_a": "x", "response_b": "y", "label": "a", "score_a": 1, "score_b": 2},
         "two answers and a winner"),
    ],
)  # fmt: skip
def test_the_most_specific_shape_wins(record, name):
    assert first_shape(record).name == name


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASK, GOOD]},
        {"prompt": "What?", "completion": "That."},
        {"prompt": "What?", "completion": "That.", "label": True},
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"prompt": "What?", "chosen": "x"},
        {"prompt": "What?", "completions": ["x", "y"], "labels": [True, False]},  # steps of one answer
        {"question": "What?", "answers": [{"text": "That.", "answer_start": 3}]},
        {"prompt": "What?", "response_a": "x", "response_b": "y"},
        {"query": "What?", "sample0": "x", "sample1": "y", "best": 0},
        {"winner": "a", "model_a": "one", "model_b": "two"},
    ],
)
def test_what_is_no_preference_has_none_of_these_shapes(record):
    assert not any(shape.fits(record) for shape in TABLE)


@pytest.mark.parametrize(
    ("record", "margin"),
    [
        ({"margin": 2}, 2.0),
        ({"margin": "2.5"}, 2.5),
        ({"margin": None, "score_chosen": 4, "score_rejected": 1}, 3.0),
        ({"margin": 1, "score_chosen": 4, "score_rejected": 1}, 1.0),
        ({"chosen_score": "4.3", "rejected_score": "4"}, 0.3),
        ({"chosen-rating": 5, "rejected-rating": 2}, 3.0),
        ({"notes": {"margin": 0.5}}, 0.5),
        ({"chosen_rating": [4], "rejected_rating": [2]}, None),  # means something else, so the pair stays
        ({"chosen_rating": None, "rejected_rating": 2}, None),
        ({"score": 3}, None),
    ],
)
def test_the_margin_of_a_pair(record, margin):
    record = {"prompt": "What?", **SIDES, **record}
    (found,) = first_shape(record).convert(1, record, Reading())
    assert found.notes == ({} if margin is None else {"margin": margin})


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"margin": "much"}, "the margin is 'much', not a number"),
        ({"margin": True}, "the margin is 'True', not a number"),
        ({"margin": -1}, "the margin is below 0: the rejected answer is rated higher than the chosen one"),
        (
            {"score_chosen": 1, "score_rejected": 4},
            "the margin is below 0: the rejected answer is rated higher than the chosen one",
        ),
        ({"soft_label": "often"}, "the soft label is 'often', not a number"),
        ({"soft_label": 2}, "the soft label is 2, not a number from 0 to 1"),
    ],
)
def test_numbers_that_are_refused(record, words):
    record = {"prompt": "What?", **SIDES, **record}
    with pytest.raises(RowError) as caught:
        first_shape(record).convert(1, record, Reading())
    assert str(caught.value) == words


ABOUT = "The sky is green today."


@pytest.mark.parametrize(
    "record",
    [
        {"context": ABOUT, "question": "What colour?", "chosen": "green", "rejected": "blue"},
        {"context": ABOUT, "question": "What colour?", "answer_a": "green", "answer_b": "blue", "winner": "a"},
        {
            "context": ABOUT,
            "question": "What colour?",
            "answer_a": "green",
            "answer_b": "blue",
            "score_a": 2,
            "score_b": 1,
        },
        {"instruction": "What colour?", "input": ABOUT, "chosen_response": "green", "rejected_response": "blue"},
        {"instruction": "What colour?", "input": ABOUT, "output": "green", "rejected": "blue"},
        {"instruction": "What colour?", "input": ABOUT, "chosen": "green", "rejected": "blue"},
        {"prompt": "What colour?", "input": ABOUT, "chosen": "green", "rejected": "blue"},
        {"prompt": "What colour?", "input": ABOUT, "chosen": [said("green")], "rejected": [said("blue")]},
        {"prompt": "What colour?", "input": ABOUT, "text": "green", "rejected_text": "blue"},
        {"prompt": "What colour?", "context": ABOUT, "responses": ["green", "blue"], "scores": [2, 1]},
    ],
)
def test_what_a_question_is_about_belongs_to_the_prompt(record):
    (pair,) = examine([RawRow(1, record, None)]).kept
    assert pair.prompt == [{"role": "user", "content": f"What colour?\n{ABOUT}"}]
    assert (pair.chosen, pair.rejected) == ("green", "blue")


@pytest.mark.parametrize(
    "record",
    [
        {"context": [user("What colour?")], "response1": "green", "response2": "blue", "overall_preference": -1},
        {"prompt": "What colour?", "input": "What colour?", "chosen": "green", "rejected": "blue"},
        {"prompt": "What colour?", "context": {"day": 1}, "chosen": "green", "rejected": "blue"},
        {
            "prompt": "What colour?",
            "input": ABOUT,
            "chosen": [user("What colour?"), said("green")],
            "rejected": [user("What colour?"), said("blue")],
        },
    ],
)
def test_nothing_is_asked_twice(record):
    (pair,) = examine([RawRow(1, record, None)]).kept
    assert pair.prompt == [user("What colour?")]


def test_roles_may_be_capitalised():
    record = {
        "chosen": [{"role": "Human", "content": "What?"}, {"role": "Assistant", "content": "That."}],
        "rejected": [{"role": "Human", "content": "What?"}, {"role": "Assistant", "content": "No."}],
    }
    (found,) = first_shape(record).convert(1, record, Reading())
    assert found == Pair(1, [{"role": "user", "content": "What?"}], "That.", "No.")


def test_the_system_column_has_two_names():
    for name in ("system", "system_prompt"):
        for record in (
            {"question": "What?", **SIDES},
            {"question": "What?", "response_a": "x", "response_b": "y", "winner": "b"},
            {"question": "What?", "responses": ["x", "y"], "scores": [1, 2]},
        ):
            (found,) = first_shape(record).convert(1, record | {name: "Be brief."}, Reading())
            assert found.prompt[0] == {"role": "system", "content": "Be brief."}


# ---- anything at all


@cache
def records() -> list[dict]:
    """Every record of the samples, also those that only make sense together."""
    raw = [item for name in EXPECTED for item in read_file(SAMPLES / name)]
    return [item.value for item in raw + gathered(read_file(SAMPLES / "pairs-helpsteer2.jsonl")) if item.value]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["a", "model_b", "1", "tie", "[", "\n\nHuman: a\n\nAssistant: b", [ASK], [ASK, GOOD], GOOD]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "text", "score", "rank", "messages", "pref"]), inner),
    max_leaves=8,
)  # fmt: skip


@st.composite
def broken(draw) -> dict:
    """A sample's record with a few values, some of them deep inside, replaced by others."""
    record = json.loads(json.dumps(draw(st.sampled_from(records()))))
    for _ in range(draw(st.integers(1, 3))):
        place: dict | list = record
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = deepcopy(draw(VALUES))
            break
    return record


READINGS = st.builds(
    Reading,
    pairs_by=st.sampled_from(["best-worst", "adjacent", "all"]),
    min_margin=st.sampled_from([0.0, 1.0]),
    better=st.sampled_from(["helpful", "safe"]),
)


@settings(deadline=None, max_examples=500)
@given(broken(), READINGS)
def test_any_record_becomes_clean_pairs_or_is_refused_in_a_short_sentence(record, reading):
    before = json.dumps(record)
    for shape in TABLE:
        if not shape.fits(record):
            continue
        try:
            found = shape.convert(1, record, reading)
        except RowError as error:
            assert 0 < len(str(error)) < 300
            continue
        assert found
        for pair in found:
            assert pair.chosen.strip() and pair.rejected.strip() and pair.chosen != pair.rejected
            assert pair.prompt[-1]["role"] == "user"
            assert pair.notes.get("margin", 1.0) >= reading.min_margin
            json.dumps(pair.as_json(), allow_nan=False).encode()
    assert json.dumps(record) == before


@settings(deadline=None, max_examples=100)
@given(st.lists(broken(), max_size=6))
def test_any_table_can_be_gathered(table):
    raw = [RawRow(number, record, None) for number, record in enumerate(table, 1)]
    found = gathered(raw)
    assert {item.row for item in found} <= {item.row for item in raw}
    assert sum(len(item.value.get("candidates", [1])) if item not in raw else 1 for item in found) == len(raw)
