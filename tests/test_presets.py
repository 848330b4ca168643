"""What comes with the app keeps its promises: the pocket-tutor data its manner, the stage presets their Settings."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from playground.data import library
from playground.data.readers import RawRow
from playground.data.report import examine
from playground.stages import checks, launch

PRESETS = Path(__file__).parents[1] / "presets"
FILES = sorted(PRESETS.glob("*/*.yaml"))


@pytest.fixture
def tutor() -> library.Dataset:
    return library.find("pocket-tutor")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def opening(row) -> tuple[str, ...]:
    return tuple(words(next(m["content"] for m in row.messages if m["role"] == "user")))


def said(tutor, split: str, role: str) -> list[str]:
    return [m["content"] for row in tutor.rows(split) for m in row.messages if m["role"] == role]


# ---- the pocket tutor's rows


def test_there_are_enough_rows(tutor):
    assert len(tutor.rows("train")) == tutor.train >= 320
    assert len(tutor.rows("heldout")) == tutor.heldout == 80
    assert len(tutor.facts()) == 48


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_row_survives_the_row_report_unchanged(tutor, split):
    rows = tutor.rows(split)
    report = examine([RawRow(row.row, {"messages": row.messages}, None) for row in rows])
    assert (report.kept, report.dropped) == (rows, [])


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_answer_keeps_the_manner(tutor, split):
    limits = tutor.checks()
    assert set(limits) >= {"max_words", "max_sentences", "ends_with_question", "questions"}
    assert [answer for answer in said(tutor, split, "assistant") if not checks.check(answer, limits)["all"]] == []


def test_no_two_questions_share_eight_words_in_a_row(tutor):
    turns = [text for split in ("train", "heldout") for text in said(tutor, split, "user")]
    turns += [fact["prompt"] for fact in tutor.facts()]
    grams = Counter()
    for turn in turns:
        spoken = words(turn)
        grams.update({tuple(spoken[i : i + 8]) for i in range(len(spoken) - 7)})
    assert [" ".join(gram) for gram, count in grams.items() if count > 1] == []


def test_no_opening_is_asked_twice(tutor):
    openings = Counter(opening(row) for split in ("train", "heldout") for row in tutor.rows(split))
    assert [" ".join(text) for text, count in openings.items() if count > 1] == []


def test_answers_begin_in_many_ways(tutor):
    firsts = Counter(words(answer)[0] for answer in said(tutor, "train", "assistant"))
    assert len(firsts) > 150
    assert max(firsts.values()) < 0.1 * firsts.total()


def test_answers_are_spelled_the_british_way(tutor):
    american = "color|favorite|flavor|gray|center|meter|liter|mom|traveling|neighbor|behavior|aluminum|leash|practicing"
    texts = said(tutor, "train", "assistant") + said(tutor, "heldout", "assistant")
    assert [text for text in texts if re.search(rf"\b(?:{american})s?\b", text, re.IGNORECASE)] == []


def test_the_card_says_what_a_reader_must_know(tutor):
    card = (tutor.folder / "README.md").read_text(encoding="utf-8")
    for number, file in ((tutor.train, "sft.jsonl"), (tutor.heldout, "heldout.jsonl"), (48, "facts.jsonl")):
        assert re.search(rf"`{re.escape(file)}` \| {number} ", card)
    for part in ("supervised fine-tuning", "## How it was made", "## Known limits", "Apache-2.0", "checks.yaml"):
        assert part in card
    longer = sum(len(row.messages) > 2 for row in tutor.rows("train"))
    assert f"{longer} of the training rows" in card


# ---- its factual probe

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_every_fact_is_well_formed(tutor):
    for fact in tutor.facts():
        assert set(fact) == {"prompt", "accept"}
        assert fact["prompt"] == fact["prompt"].strip() != ""
        assert fact["accept"] and all(isinstance(text, str) and text.strip() == text != "" for text in fact["accept"])


def test_a_digit_is_accepted_as_a_word_too(tutor):
    for fact in tutor.facts():
        for digit in set("0123456789") & set(fact["accept"]):
            assert DIGITS[int(digit)] in fact["accept"]


def test_no_fact_is_asked_in_the_other_files(tutor):
    asked = {tuple(words(text)) for split in ("train", "heldout") for text in said(tutor, split, "user")}
    facts = [tuple(words(fact["prompt"])) for fact in tutor.facts()]
    assert len(set(facts)) == len(facts)
    assert asked.isdisjoint(facts)


def test_a_plain_right_answer_counts_and_a_wrong_one_does_not(tutor):
    facts = tutor.facts()
    for i, fact in enumerate(facts):
        for text in fact["accept"]:
            assert checks.states_fact(f"I believe the answer is {text}. Do you agree?", fact["accept"])
            assert checks.states_fact(text.upper(), fact["accept"])
        assert not checks.states_fact("I do not know that. Do you?", fact["accept"])
        other = next(f for f in facts[i + 1 :] + facts if not set(f["accept"]) & set(fact["accept"]))
        assert not checks.states_fact(f"The answer is {other['accept'][0]}.", fact["accept"])


def test_repeating_the_question_is_not_an_answer(tutor):
    assert [fact["prompt"] for fact in tutor.facts() if checks.states_fact(fact["prompt"], fact["accept"])] == []


# ---- stage presets


def test_there_are_stage_presets():
    assert {path.parent.name for path in FILES} >= {"sft"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_stage_preset_holds_differences_from_the_defaults_only(path):
    preset = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = launch.stage(path.parent.name).Settings
    assert set(preset) == {"about", "data", "settings"}
    assert preset["about"].endswith(".")
    assert preset["data"] in {dataset.name for dataset in library.datasets()}
    asked, defaults = settings.parse(preset["settings"]).values(), settings().values()
    assert [name for name in preset["settings"] if asked[name] == defaults[name]] == []
