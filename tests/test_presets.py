"""What comes with the app keeps its promises: the pocket-tutor data its manner, the stage presets their Settings."""

import json
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
FILES = sorted(path for path in PRESETS.glob("*/*.yaml") if path.parent.name not in ("constitutions", "recipes"))


SPLITS = {"train": "preferences.jsonl", "heldout": "preferences-heldout.jsonl"}
FLAWS = ["rambling", "cold", "no_question", "two_questions", "evasive", "wrong_fact"]
AMERICAN = "color|favorite|flavor|gray|center|meter|liter|mom|traveling|neighbor|behavior|aluminum|leash|practicing"


@pytest.fixture
def tutor() -> library.Dataset:
    return library.find("pocket-tutor", "sft")


@pytest.fixture
def taste() -> library.Dataset:
    return library.find("pocket-tutor", "preference")


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


def test_no_two_questions_share_eight_words_in_a_row(tutor, taste):
    turns = [text for split in ("train", "heldout") for text in said(tutor, split, "user")]
    turns += [fact["prompt"] for fact in tutor.facts()]
    turns += [m["content"] for row in taste.rows("train") for m in row.prompt if m["role"] == "user"]
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
    texts = said(tutor, "train", "assistant") + said(tutor, "heldout", "assistant")
    assert [text for text in texts if re.search(rf"\b(?:{AMERICAN})s?\b", text, re.IGNORECASE)] == []


def test_the_card_says_what_a_reader_must_know(tutor, taste):
    card = (tutor.folder / "README.md").read_text(encoding="utf-8")
    assert max(map(len, card.splitlines())) <= 120
    for number, file in zip((taste.train, taste.heldout), SPLITS.values(), strict=True):
        assert re.search(rf"`{re.escape(file)}` \| {number} ", card)
    counts = [Counter(row["flaw"] for row in written(split)) for split in SPLITS]
    for flaw in FLAWS:
        assert re.search(rf"^\| `{flaw}` \| .* \| {counts[0][flaw]} \| {counts[1][flaw]} \|$", card, re.MULTILINE)
    for number, file in ((tutor.train, "sft.jsonl"), (tutor.heldout, "heldout.jsonl"), (48, "facts.jsonl")):
        assert re.search(rf"`{re.escape(file)}` \| {number} ", card)
    for part in ("supervised fine-tuning", "## How it was made", "## Known limits", "Apache-2.0", "checks.yaml"):
        assert part in card
    longer = sum(len(row.messages) > 2 for row in tutor.rows("train"))
    again = sum(len(pair.prompt) > 1 for pair in taste.rows("train"))
    for part in (f"{longer} of the training rows", f"{again} of the training pairs"):
        assert part in " ".join(card.split())


# ---- its preference pairs


def written(split: str) -> list[dict]:
    """The rows as they are published: topic and flaw beside the pair."""
    text = (PRESETS / "data" / "pocket-tutor" / SPLITS[split]).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def both_splits():
    return pytest.mark.parametrize("split", SPLITS)


def sizes():
    return pytest.mark.parametrize("size", [len, checks.words], ids=["characters", "words"])


@pytest.mark.parametrize(
    ("split", "counts"), [("train", (64, 56, 56, 56, 56, 48)), ("heldout", (16, 12, 12, 16, 12, 12))]
)
def test_every_pair_names_its_flaw(taste, split, counts):
    rows = written(split)
    assert len(rows) == len(taste.rows(split)) == getattr(taste, split) == sum(counts)
    assert {tuple(row) for row in rows} == {("topic", "flaw", "prompt", "chosen", "rejected")}
    assert all(row["topic"] == row["topic"].strip() != "" for row in rows)
    assert Counter(row["flaw"] for row in rows) == dict(zip(FLAWS, counts, strict=True))


@both_splits()
def test_every_pair_survives_the_row_report_unchanged(taste, split):
    rows = taste.rows(split)
    report = examine([RawRow(pair.row, row, None) for pair, row in zip(rows, written(split), strict=True)])
    assert (report.kind, report.kept, report.dropped) == ("preference", rows, [])
    for row, pair in zip(written(split), rows, strict=True):
        assert row == {**row, **pair.as_json()}
        assert pair.chosen == pair.chosen.strip() != pair.rejected == pair.rejected.strip()


@both_splits()
def test_every_chosen_answer_keeps_the_manner(taste, split):
    limits = taste.checks()
    kept = [pair.chosen for pair in taste.rows(split)]
    kept += [m["content"] for pair in taste.rows(split) for m in pair.prompt if m["role"] == "assistant"]
    assert [answer for answer in kept if not checks.check(answer, limits)["all"]] == []


def shows(flaw: str, answer: str, limits: dict) -> bool:
    """True if a rejected answer is wrong as its flaw says, as far as that can be counted."""
    count, sentences, questions = checks.words(answer), checks.sentences(answer), answer.count("?")
    return {
        "rambling": count > 60 or sentences >= 5,
        "cold": count <= 45,
        "no_question": questions == 0 and 8 <= count <= 60 and sentences <= 3,
        "two_questions": questions >= 2 and count <= 60,
        "evasive": 8 <= count <= 60,
        "wrong_fact": checks.check(answer, limits)["all"],
    }[flaw]


@both_splits()
def test_every_rejected_answer_shows_its_flaw(taste, split):
    limits = taste.checks()
    texts = [(row["flaw"], row["rejected"][-1]["content"]) for row in written(split)]
    assert [(flaw, text) for flaw, text in texts if not shows(flaw, text, limits)] == []


@both_splits()
def test_cold_and_evasive_answers_often_keep_the_outer_manner(taste, split):
    """What is wrong with them is tone or content: half of them could not be told by counting."""
    for flaw in ("cold", "evasive"):
        texts = [row["rejected"][-1]["content"] for row in written(split) if row["flaw"] == flaw]
        assert 0.25 < sum(checks.check(text, taste.checks())["all"] for text in texts) / len(texts) < 0.75


def differences(pairs: list, size) -> list[int]:
    """How much longer the chosen answers are than the rejected ones."""
    return [size(pair.chosen) - size(pair.rejected) for pair in pairs]


def longer_is_chosen(differences: list[int]) -> float:
    """The share of pairs of which the longer answer is the chosen one; answers of one length count half."""
    return sum((d > 0) + (d == 0) / 2 for d in differences) / len(differences)


def best_by_length(differences: list[int]) -> float:
    """The share that the best rule of one form gets right: the longer answer if both differ by at most so much, else
    the shorter one, or the other way round. Answers of one length count half.
    """
    turned = [[d if abs(d) <= limit else -d for d in differences] for limit in {abs(d) for d in differences}]
    return max(max(share, 1 - share) for share in map(longer_is_chosen, turned))


@both_splits()
@sizes()
def test_neither_the_longer_nor_the_shorter_answer_is_the_better(taste, split, size):
    assert 0.4 <= longer_is_chosen(differences(taste.rows(split), size)) <= 0.6


def within(pair, low: int = 168, high: int = 252) -> float:
    """1 if only the chosen answer has between so many and so many characters, 0 if only the rejected one, else half."""
    return (1 + (low <= len(pair.chosen) <= high) - (low <= len(pair.rejected) <= high)) / 2


def test_the_card_says_what_length_alone_tells(taste):
    card = " ".join((taste.folder / "README.md").read_text(encoding="utf-8").split())
    by = {(s, z): differences(taste.rows(s), z) for s in SPLITS for z in (len, checks.words)}
    longer, best = ({at: f"{rule(d):.0%}" for at, d in by.items()} for rule in (longer_is_chosen, best_by_length))
    for told, place in (
        (
            longer,
            "right in {} of the training pairs and {} of the held-out ones, counted in characters ({} and {} in words)",
        ),
        (
            best,
            "right in {} of the training pairs and {} of the held-out ones by characters, and in {} and {} by words",
        ),
    ):
        assert place.format(*(told[s, z] for z in (len, checks.words) for s in SPLITS)) in card
    shorter = max(1 - longer_is_chosen(d) for d in by.values())
    assert f"the shorter one does no better than {shorter:.0%}" in card
    band = [f"{sum(map(within, taste.rows(split))) / len(taste.rows(split)):.0%}" for split in SPLITS]
    assert (
        f"is right in {band[0]} of the training pairs, to which the two limits were fitted, and in {band[1]} of" in card
    )


def test_the_held_out_pairs_ask_what_the_held_out_conversations_ask(tutor, taste):
    for row, pair in zip(tutor.rows("heldout"), taste.rows("heldout"), strict=True):
        assert (pair.prompt, pair.chosen) == (row.asked, row.messages[-1]["content"])


def test_no_prompt_of_the_pairs_is_asked_elsewhere(tutor, taste):
    asked = [text for split in ("train", "heldout") for text in said(tutor, split, "user")]
    asked += [fact["prompt"] for fact in tutor.facts()]
    own = [m["content"] for pair in taste.rows("train") for m in pair.prompt if m["role"] == "user"]
    openings = Counter(tuple(words(pair.prompt[0]["content"])) for pair in taste.rows("train"))
    assert [" ".join(text) for text, count in openings.items() if count > 1] == []
    assert {tuple(words(text)) for text in own}.isdisjoint({tuple(words(text)) for text in asked})


def test_a_pair_s_prompt_has_one_round_or_two(taste):
    rounds = Counter(len(pair.prompt) for pair in taste.rows("train"))
    assert set(rounds) == {1, 3}
    assert rounds[3] >= 24


def test_the_answers_of_pairs_begin_in_many_ways(taste):
    for side in ("chosen", "rejected"):
        firsts = Counter(words(getattr(pair, side))[0] for pair in taste.rows("train"))
        assert max(firsts.values()) < 0.1 * firsts.total()
        assert len(firsts) > 100


@both_splits()
def test_pairs_are_spelled_the_british_way(taste, split):
    texts = [m["content"] for pair in taste.rows(split) for m in pair.prompt if m["role"] == "assistant"]
    texts += [text for pair in taste.rows(split) for text in (pair.chosen, pair.rejected)]
    assert [text for text in texts if re.search(rf"\b(?:{AMERICAN})s?\b", text, re.IGNORECASE)] == []


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
    stage = launch.stage(path.parent.name)
    settings = stage.Settings
    assert set(preset) - {"parent", "runs"} == {"about", "data", "settings"}
    assert launch.stage(preset.get("parent", "sft"))
    assert preset["about"].endswith(".")
    assert preset["data"] in {dataset.name for dataset in library.datasets()}
    assert library.find(preset["data"], stage.COLUMNS).kind in library.ACCEPTED[stage.COLUMNS]
    for name, made_by in preset.get("runs", {}).items():
        assert settings.specs()[name].runs == made_by
    asked, defaults = settings.parse(preset["settings"]).values(), settings().values()
    assert [name for name in preset["settings"] if asked[name] == defaults[name]] == []
