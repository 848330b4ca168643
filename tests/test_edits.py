"""Rows changed by hand: checked like an upload, taken back step by step, found by what they say."""

import random
import time

import pytest

from playground.data import edits, library
from playground.data.edits import Draft, edited, flipped, matching, texts
from playground.data.pairs import Pair
from playground.data.prompts import Prompt
from playground.data.shapes import Row, RowError
from playground.data.thumbs import Thumb


def turns(*said: str) -> list[dict[str, str]]:
    """A conversation that the user begins."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


SYSTEM = {"role": "system", "content": "Be brief."}
ROW = Row(3, [SYSTEM, *turns("Hi", "Hello", "How are you?", "Well.")], {"from": "a friend"})
PAIR = Pair(4, turns("Why?"), "Because.", "No idea.", 0.6, {"margin": 2.0, "p": 0.6})
PROMPT = Prompt(5, turns("Why?"), {"topic": "sky"})
THUMB = Thumb(6, turns("Why?"), "Because.", True, {"by": "a vote"})


# ---- one row


def test_the_texts_of_a_row_are_named_in_their_order():
    assert list(texts(ROW).items()) == [
        ("system", "Be brief."), ("turn 1", "Hi"), ("turn 2", "Hello"), ("prompt", "How are you?"),
        ("completion", "Well."),
    ]  # fmt: skip
    assert texts(PAIR) == {"system": "", "prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}
    assert texts(PROMPT) == {"system": "", "prompt": "Why?"}
    assert texts(THUMB) == {"system": "", "prompt": "Why?", "completion": "Because."}


def test_an_edited_row_keeps_everything_else():
    assert edited(ROW, {"turn 2": "Good day", "completion": "Very well."}) == Row(
        3, [SYSTEM, *turns("Hi", "Good day", "How are you?", "Very well.")], {"from": "a friend"}
    )
    assert edited(PAIR, {"rejected": "I don't know."}) == Pair(
        4, turns("Why?"), "Because.", "I don't know.", 0.6, {"margin": 2.0, "p": 0.6}
    )
    assert edited(PROMPT, {"prompt": "Why not?"}) == Prompt(5, turns("Why not?"), {"topic": "sky"})
    for row in (ROW, PAIR, PROMPT):
        assert edited(row, {}) == edited(row, texts(row)) == row


def test_a_system_message_is_added_changed_and_taken_away():
    assert edited(PAIR, {"system": "Be kind."}).prompt == [{"role": "system", "content": "Be kind."}, *turns("Why?")]
    assert edited(ROW, {"system": "Be kind."}).messages[0]["content"] == "Be kind."
    assert edited(ROW, {"system": " "}).messages == ROW.messages[1:]


@pytest.mark.parametrize(
    ("row", "changes", "sentence"),
    [
        (ROW, {"prompt": " "}, "an empty user message"),
        (ROW, {"completion": ""}, "an empty assistant message"),
        (ROW, {"turn 2": "\n"}, "an empty assistant message"),
        (PROMPT, {"prompt": ""}, "an empty user message"),
        (PAIR, {"prompt": ""}, "an empty user message"),
        (PAIR, {"chosen": " "}, "the chosen answer is empty"),
        (PAIR, {"rejected": "Because. "}, "both answers are the same"),
        (PAIR, {"chosen": "a" * 40_000}, "a field is larger than 32 KB: 'chosen'"),
        (PAIR, {"completion": "x"}, "there is no 'completion' in this row; it has system, prompt, chosen, rejected"),
        (PROMPT, {"turn 1": "x"}, "there is no 'turn 1' in this row; it has system, prompt"),
    ],
)
def test_an_edit_is_checked_as_an_upload_is(row, changes, sentence):
    before = repr(row)
    with pytest.raises(RowError) as refused:
        edited(row, changes)
    assert str(refused.value) == sentence
    assert repr(row) == before


def test_hostile_text_is_made_safe():
    assert edited(PAIR, {"chosen": "a\0b\ud800"}).chosen == "a\ufffdb\ufffd"


def test_a_flipped_pair_is_a_person_s_word():
    assert flipped(PAIR) == Pair(4, turns("Why?"), "No idea.", "Because.", 1.0, {"p": 0.6})
    assert flipped(THUMB) == Thumb(6, turns("Why?"), "Because.", False, {"by": "a vote"})
    with pytest.raises(RowError, match="only pairs and thumbs can be flipped"):
        flipped(ROW)


# ---- search and filter


PAIRS = [
    Pair(1, [SYSTEM, *turns("Was ist die STRASSE?")], "A road.", "A river."),
    Pair(2, turns("What is a road?"), "Long " * 9, "No idea.", 0.6),
    Pair(3, turns("Sky?"), "Blue.", "Red.", 0.9),
]


@pytest.mark.parametrize(
    ("query", "only", "found"),
    [
        ("", "all", [0, 1, 2]),
        ("ROAD", "all", [0, 1]),
        ("  road ", "all", [0, 1]),
        ("straße", "all", [0]),
        ("no IDEA", "all", [1]),
        ("brief", "all", [0]),
        ("purple", "all", []),
        ("", "longest", [1, 0, 2]),
        ("", "shortest", [2, 0, 1]),
        ("road", "shortest", [0, 1]),
        ("", "doubtful", [1]),
        ("sky", "doubtful", []),
        ("", {1, 3, 99}, [0, 2]),
        ("sky", [1, 3], [2]),
        ("", [], []),
    ],
)
def test_rows_are_found_by_what_they_say_and_how_they_are(query, only, found):
    assert matching(PAIRS, query, only) == found


def test_thumbs_are_told_apart_and_every_kind_is_searched():
    thumbs = [Thumb(n, turns(f"Question {n}?"), "Yes.", n == 2) for n in (1, 2, 3)]
    assert (matching(thumbs, only="up"), matching(thumbs, only="down")) == ([1], [0, 2])
    assert matching(thumbs, "question 3") == [2]
    assert matching([ROW], "hello") == matching([PROMPT], "why") == [0]
    assert matching([], only="doubtful") == []
    with pytest.raises(
        RowError, match=r"^rows can't be filtered by 'doubtful'; known are all, longest, shortest, up, down$"
    ):
        matching(thumbs, only="doubtful")


def test_fifty_thousand_rows_are_searched_in_half_a_second():
    """Of twenty megabytes, which is as much as a file may hold."""
    chance = random.Random(0)
    words = ["road", "river", "Sky", "blue", "é", "why"]
    said = [" ".join(chance.choices(words, k=30)) for _ in range(1000)]
    rows = [Pair(n, turns(said[n % 1000]), said[n * 7 % 1000], said[n * 11 % 1000]) for n in range(50_000)]
    for query, only in (("road river sky blue why", "all"), ("", "longest"), ("sky", set(range(25_000)))):
        started = time.process_time()
        matching(rows, query, only)
        assert time.process_time() - started < 0.5


# ---- a draft


@pytest.fixture
def draft() -> Draft:
    rows = [Pair(n, turns(f"Question {n}?"), f"Yes {n}.", f"No {n}.", 0.9) for n in range(1, 11)]
    return Draft.of(library.make("mine", "preference", rows[:8], "a test", {}, heldout=rows[8:]))


def test_a_draft_without_changes_is_what_is_stored(draft):
    assert draft.applied() == draft.rows
    assert (draft.counts(), draft.words(), draft.undo()) == ({}, "", [])
    assert library.revise(library.find("mine"), draft.applied()) == library.find("mine@1")


def test_rows_are_edited_flipped_and_dropped_and_saved_as_a_version(draft):
    draft.edit(("train", 0), {"chosen": "Certainly."})
    draft.flip(("train", 1), ("heldout", 1))
    draft.drop(("train", 2), ("heldout", 0))
    draft.drop(("train", 7))
    assert draft.counts() == {"edited": 1, "flipped": 2, "dropped": 3}
    assert draft.words() == "1 row edited, 2 rows flipped, 3 rows dropped"
    assert draft.now(("train", 0)).chosen == "Certainly."
    assert draft.now(("train", 2)) is None
    made = library.revise(library.find("mine"), draft.applied(), draft.words())
    assert (made.version, made.train, made.heldout, made.note) == (2, 6, 1, draft.words())
    answers = [(pair.chosen, pair.rejected, pair.label) for pair in made.rows("train")]
    assert answers[:3] == [("Certainly.", "No 1.", 0.9), ("No 2.", "Yes 2.", 1.0), ("Yes 4.", "No 4.", 0.9)]
    assert [pair.chosen for pair in made.rows("heldout")] == ["No 10."]
    assert draft.rows["train"][0].chosen == "Yes 1."


def test_steps_are_taken_back_one_by_one(draft):
    draft.edit(("train", 0), {"chosen": "Certainly."})
    draft.edit(("train", 0), {"chosen": "Surely."})
    draft.drop(("train", 0), ("train", 1))
    assert draft.undo() == [("train", 0), ("train", 1)]
    assert draft.now(("train", 0)).chosen == "Surely."
    assert draft.undo() == [("train", 0)]
    assert draft.now(("train", 0)).chosen == "Certainly."
    draft.undo()
    assert (draft.changed, draft.steps) == ({}, [])


def test_what_changes_nothing_is_no_step(draft):
    draft.edit(("train", 0), {"chosen": "Yes 1."})
    draft.restore(("train", 0))
    assert (draft.changed, draft.steps) == ({}, [])


def test_a_row_that_is_flipped_twice_is_as_it_was(draft):
    draft.flip(("train", 0))
    draft.flip(("train", 0))
    assert draft.now(("train", 0)) == draft.rows["train"][0]
    assert draft.counts() == {}
    draft.undo()
    assert draft.counts() == {"flipped": 1}


def test_an_edited_row_can_be_flipped_and_restored(draft):
    draft.edit(("train", 0), {"chosen": "Certainly."})
    draft.flip(("train", 0))
    assert (draft.now(("train", 0)).rejected, draft.counts()) == ("Certainly.", {"edited": 1})
    draft.restore(("train", 0))
    assert draft.applied() == draft.rows


def test_a_refused_change_leaves_the_draft_as_it_was(draft):
    draft.drop(("train", 1))
    before = repr(draft)
    for change, sentence in (
        (lambda: draft.edit(("train", 0), {"chosen": ""}), "the chosen answer is empty"),
        (lambda: draft.edit(("train", 1), {"chosen": "x"}), "row 2 is dropped; restore it first"),
        (lambda: draft.flip(("train", 0), ("train", 1)), "row 2 is dropped; restore it first"),
        (lambda: draft.drop(("train", 0), ("train", 8)), "there is no row 9 in 'train'"),
        (lambda: draft.drop(("train", -1)), "there is no row 0 in 'train'"),
        (lambda: draft.now(("other", 0)), "there is no row 1 in 'other'"),
    ):
        with pytest.raises(RowError) as refused:
            change()
        assert str(refused.value) == sentence
    assert repr(draft) == before


def test_a_large_draft_is_quick():
    rows = [Row(n, turns(f"Question {n}?", "So it is.")) for n in range(1, 50_001)]
    draft = Draft({"train": rows, "heldout": []})
    started = time.process_time()
    draft.drop(*(("train", n) for n in range(0, 50_000, 2)))
    assert draft.words() == "25000 rows dropped"
    assert len(draft.applied()["train"]) == 25_000
    draft.undo()
    assert time.process_time() - started < 1


def test_thumbs_are_edited_too():
    assert edited(THUMB, {"completion": "So."}) == Thumb(6, turns("Why?"), "So.", True, {"by": "a vote"})
    assert edited(THUMB, texts(THUMB)) == THUMB


def test_steps_are_forgotten_at_some_length_and_changes_are_not():
    draft = Draft({"train": [PAIR]})
    for _ in range(2 * edits.MOST_STEPS + 1):
        draft.flip(("train", 0))
    assert len(draft.steps) == edits.MOST_STEPS
    assert draft.counts() == {"flipped": 1}
