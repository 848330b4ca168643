"""What may be wrong with rows is told in sentences that name the rows, and only when it is so."""

import csv
import io
import random
import time
from dataclasses import replace

import pytest

from playground.data import languages as tongues
from playground.data import library
from playground.data.languages import language_words, languages
from playground.data.leakage import ALIKE, nearly_asked
from playground.data.pairs import Pair
from playground.data.prompts import Prompt
from playground.data.quality import EMAIL, MARK, PHONE, balanced, extremes, findings
from playground.data.readers import RawRow
from playground.data.rendering import Renderer
from playground.data.report import examine
from playground.data.report_file import report_csv
from playground.data.shapes import Row
from playground.data.splits import split_by_prompt
from playground.data.texts import plain, words_of
from playground.data.thumbs import Thumb
from playground.data.tokens import measure


def row(number: int, asked: str, answer: str = "That I do not know.", **notes) -> Row:
    return Row(number, [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], notes)


def pair(number: int, asked: str, chosen: str, rejected: str) -> Pair:
    return Pair(number, [{"role": "user", "content": asked}], chosen, rejected)


def prompt(number: int, asked: str, **notes) -> Prompt:
    return Prompt(number, [{"role": "user", "content": asked}], notes)


def told(rows, heldout=(), code: str = "") -> list[tuple[str, list[int], str]]:
    """(sentence, rows, severity) of what is found, of one code if it is named."""
    found = findings(rows, heldout)
    return [(f.sentence, f.rows, f.severity) for f in found if code in ("", f.code)]


# ---- nothing is found where nothing is wrong


def test_rows_of_another_kind_and_parts_of_rows_are_in_the_file_too():
    pair = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    talk = {"prompt": "Why?", "completion": "So."}
    report = examine([RawRow(1, pair, None), RawRow(2, talk, None), RawRow(3, {**pair, "prompt": "How?"}, None)])
    lines = list(csv.reader(io.StringIO(report_csv(report))))
    assert lines[2] == ["2", "elsewhere", "one of the conversations"]
    tree = [{"message_id": "a", "parent_id": None, "role": "prompter", "text": "Why?"},
            {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "So."}]  # fmt: skip
    report = examine([RawRow(number, record, None) for number, record in enumerate(tree, 1)])
    found = [line[:2] for line in csv.reader(io.StringIO(report_csv(report)))][1:]
    assert found == [["1", "kept"], ["2", "elsewhere"]]


def test_plain_rows_give_no_finding():
    assert findings([row(i, f"What is {i}?", f"A number, {i}.") for i in range(1, 9)]) == []
    assert findings([prompt(i, f"What is {i}?") for i in range(1, 9)]) == []
    assert findings([]) == []


def test_the_set_for_a_first_run_is_found_clean():
    tutor = library.find("pocket-tutor", "sft")
    assert findings(tutor.rows("train"), tutor.rows("heldout")) == []


# ---- repeats


def test_rows_that_differ_in_case_and_punctuation_only():
    rows = [row(3, "Why is that?", "No idea!"), row(5, "why  is that", "no idea"), row(6, "Why is that?", "I know.")]
    words = "1 row is the same as an earlier one but for case, punctuation and spacing (row 5)."
    assert told(rows) == [(words, [5], "note")]
    again = [*rows, row(9, "WHY is that?!", "No, idea.")]
    words = "2 rows are the same as an earlier one but for case, punctuation and spacing (row 5, 9)."
    assert told(again) == [(words, [5, 9], "note")]


def test_signs_and_other_scripts_are_not_taken_for_the_same():
    assert findings([row(1, "👍"), row(2, "👎"), row(3, "好"), row(4, "不好")]) == []


def test_a_prompt_that_is_asked_often():
    rows = [row(i, "Who are you?", f"Number {i}.") for i in range(1, 13)]
    rows += [row(i, f"What is {i}?") for i in range(13, 15)]
    words = "One prompt stands in 12 of 14 rows (row 1, 2, 3, 4, 5, 6, 7, 8 …): the oftener it is asked, the more its "
    assert told(rows) == [(f"{words}answers weigh.", list(range(1, 13)), "note")]
    rows += [row(i, "Where are you?", f"At {i}.") for i in range(20, 30)]
    assert ", and 1 more in 10 or more each: " in told(rows)[0][0]
    assert findings(rows[3:14]) == []  # nine times is not yet often


def test_pairs_that_contradict_one_another():
    rows = [pair(1, "Tea?", "Yes, please.", "No."), pair(2, "tea", "no", "yes please"), pair(3, "Tea?", "Oui.", "No.")]
    words = "2 rows are contradicted by another: the same prompt and answers, judged the other way round (row 1, 2)."
    assert told(rows, code="contradictions") == [(words, [1, 2], "warning")]
    assert told(rows[1:], code="contradictions") == []


def test_an_answer_that_is_liked_and_disliked():
    asked = [{"role": "user", "content": "Tea?"}]
    rows = [Thumb(1, asked, "Yes.", True), Thumb(2, asked, "yes", False), Thumb(3, asked, "No.", False)]
    words = "2 rows are contradicted by another: the same prompt and answers, judged the other way round (row 1, 2)."
    assert told(rows) == [(words, [1, 2], "warning")]


def test_pairs_whose_sides_differ_in_punctuation_only():
    rows = [pair(4, "Tea?", "Yes, please!", "yes please"), pair(5, "Coffee?", "Yes.", "No.")]
    words = (
        "In 1 row both answers are the same but for case, punctuation and spacing (row 4). There is little to prefer."
    )
    assert told(rows, code="sides-alike") == [(words, [4], "note")]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_answer_that_repeats_the_question(side):
    echo = {"chosen": "It is blue.", "rejected": "It is red."} | {side: "Why is the sky blue? Because of the air."}
    rows = [pair(2, "Why is the sky blue?", **echo), pair(3, "Is it?", "Is it? Yes.", "It is.")]
    words = "In 1 row an answer repeats the question word for word (row 2). A model learns to do so, too."
    assert told(rows, code="echo") == [(words, [2], "note")]
    assert told([row(1, "Why is the sky", "Why is the skyline so?")], code="echo") == []  # no word is cut in two


# ---- text that does not belong there


@pytest.mark.parametrize("mark", ["<|im_start|>", "[INST]", "[/INST]", "<<SYS>>", "<end_of_turn>", "### Response:",
                                  "### Human:", "<|start_header_id|>"])  # fmt: skip
def test_the_marks_of_a_template(mark):
    words = (
        f"In 1 row the marks of a chat template stand as text, such as {mark} (row 7). "
        "Training writes a template around each message, so the model would read two of them."
    )
    assert told([row(1, "Why?"), row(7, f"So {mark}user why?")]) == [(words, [7], "warning")]
    assert told([row(1, "Why?"), pair(7, "Why?", "Yes.", f"No.{mark}")], code="template-marks")[0][1] == [7]


def test_what_only_looks_like_a_mark():
    assert findings([row(1, "a <| b |> c, x[i], <b>, #Human, ## Response: so")]) == []


def test_personal_data_is_counted_and_never_shown():
    rows = [
        row(1, "Write to jo.doe+x@mail.example.org!"),
        row(2, "Call +49 (0) 30 1234-567."),
        row(3, "Call 555-123-4567"),
    ]
    words = (
        "E-mail addresses in 1 row and phone numbers in 2 rows (row 1, 2, 3): make sure that a model may learn them."
    )
    assert told(rows) == [(words, [1, 2, 3], "note")]
    words = "Phone numbers in 1 row (row 3): make sure that a model may learn them."
    assert told(rows[2:]) == [(words, [3], "note")]


@pytest.mark.parametrize("text", ["at 10@5 a piece", "@decorator.name", "1990-1995 2000", "3.14159265358979",
                                  "12345678901234567890", "1.555-123-4567", "2024-11-23", "a +1 b"])  # fmt: skip
def test_what_only_looks_like_personal_data(text):
    assert findings([row(1, text)]) == []


def test_hostile_questions_are_announced():
    rows = [prompt(i, f"How do I steal {i} cars?") for i in (1, 4, 6)] + [prompt(i, f"What is {i}?") for i in (2, 3)]
    words = (
        "60% of the opening questions speak of violence, crime or drugs, as those of red-team sets do (by a short list "
        "of English words): the rows may be distressing to read."
    )
    assert told(rows) == [(words, [1, 4, 6], "warning")]
    assert findings(rows[1:]) == []  # two are no manner
    assert findings([*rows, *(prompt(i, f"What is {i}?") for i in range(10, 40))]) == []  # a tenth is no manner either
    assert [f.code for f in findings([prompt(i, f"Take {i} bikes", kind="harmful") for i in range(3)])] == ["hostile"]


def test_the_red_team_set_is_announced():
    found = findings(library.find("red-team", "prompts").rows("train"))
    assert [finding.code for finding in found] == ["hostile"]


# ---- length and balance


def lengths(*sides: tuple[int, int]) -> list[Pair]:
    return [pair(i, f"What is {i}?", "a" * chosen, "b" * rejected) for i, (chosen, rejected) in enumerate(sides, 1)]


def test_a_length_gap_is_told_with_what_a_model_makes_of_it():
    rows = lengths(*[(210, 100)] * 30, *[(100, 210)] * 10)
    words = (
        "Chosen answers have 182 characters on average, rejected ones 128: chosen is 1.4× as long. The longer answer "
        "is chosen in 75% (60% to 86%, n = 40), so a model may learn length instead of what you mean. "
        "Balanced, 20 of 40 pairs would be left."
    )
    assert told(rows) == [(words, [], "warning")]


def test_shorter_answers_that_are_chosen_are_a_gap_as_well():
    words = (
        "Chosen answers have 10 characters on average, rejected ones 1,500: rejected is 150.0× as long. The longer "
        "answer is chosen in 0% (0% to 16%, n = 20), so a model may learn length instead of what you mean. "
        "No pair is the other way round."
    )
    assert told(lengths(*[(10, 1500)] * 20)) == [(words, [], "warning")]


def test_lengths_that_tell_nothing_are_a_note():
    words = "Chosen answers have 15 characters on average, rejected ones 15. The longer answer is chosen in 50%"
    assert told(lengths((10, 20), (20, 10))) == [(f"{words} (9% to 91%, n = 2).", [], "note")]
    few = told(lengths((20, 10), (20, 10), (10, 20)))  # 67%, but three pairs prove nothing
    assert [severity for *_, severity in few] == ["note"]


def test_balanced_pairs_are_as_many_as_can_be_and_the_widest_gaps_go():
    rows = lengths((9, 1), (5, 5), (3, 2), (1, 2), (8, 2), (2, 3))
    assert [pair.row for pair in balanced(rows)] == [2, 3, 4, 5, 6]
    flipped = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in rows]
    assert [pair.row for pair in balanced(flipped)] == [2, 3, 4, 5, 6]
    assert balanced([]) == balanced(lengths((2, 1))) == []
    assert balanced(lengths((2, 2))) == lengths((2, 2))


@pytest.mark.parametrize("seed", range(20))
def test_the_longer_answer_is_chosen_in_half_of_the_balanced_pairs(seed):
    chance = random.Random(seed)
    rows = lengths(*[(chance.randint(1, 5), chance.randint(1, 4)) for _ in range(chance.randint(0, 60))])
    kept = balanced(rows)
    gaps, all_gaps = ([len(p.chosen) - len(p.rejected) for p in found] for found in (kept, rows))
    assert sum(gap > 0 for gap in gaps) == sum(gap < 0 for gap in gaps)
    most = 2 * min(sum(gap > 0 for gap in all_gaps), sum(gap < 0 for gap in all_gaps)) + all_gaps.count(0)
    assert len(kept) == most
    assert kept == [pair for pair in rows if pair in kept]  # in their order
    assert balanced(kept) == kept


def test_the_longest_and_the_shortest_rows():
    rows = [row(i, "a" * i, "b") for i in (5, 1, 9, 3)]
    longest, shortest = extremes(rows, 2)
    assert ([r.row for r in longest], [r.row for r in shortest]) == ([9, 5], [1, 3])
    assert extremes([], 3) == ([], [])


# ---- leaks


TALE = "Tell me a long tale about a small blue dragon who lives near the old river and eats only bread"


def test_a_held_out_question_that_is_nearly_one_of_training():
    train = [row(1, TALE), row(2, "What is a tale?")]
    heldout = [
        row(3, TALE.replace("small", "tiny") + "!"),
        row(4, "Tell me a tale about a dragon"),
        row(5, "WHAT is a tale"),
    ]
    words = (
        "2 held-out questions are almost word for word one that is trained on (held-out row 3, 5): what is measured on "
        "them flatters the model."
    )
    assert told([*train, *heldout], heldout, "leaked-questions") == [(words, [3, 5], "warning")]
    assert told(train, heldout, "leaked-questions") == [(words, [3, 5], "warning")]  # a stored set's, apart from them
    assert told([*train, *heldout], code="leaked-questions") == []


def test_a_question_that_nearly_everybody_asks_is_still_found_on_both_sides():
    train = [row(i, "Hello!", f"Hi, number {i}.") for i in range(1, 1200)]
    assert told(train, [row(3, "hello"), row(4, "Hello there")], "leaked-questions")[0][1] == [3]


def test_a_held_out_answer_that_is_one_of_training():
    said = "The river is long, and it ends in the sea."
    rows = [row(1, "Where does it end?", said), row(2, "How long is it?", said.upper()), row(3, "Really?", "Yes.")]
    words = (
        "1 held-out answer is almost word for word one that is trained on (held-out row 2): what is measured on them "
        "flatters the model."
    )
    assert told(rows, rows[1:2]) == [(words, [2], "warning")]
    assert findings([row(1, "Is it?", "Yes."), row(2, "So?", "Yes.")], [row(9, "Well?", "Yes.")]) == []


@pytest.mark.parametrize("seed", range(10))
def test_the_short_cut_finds_what_comparing_all_with_all_finds(seed):
    chance = random.Random(seed)
    words = [f"w{i}" for i in range(60)]
    rows = [row(i, " ".join(chance.sample(words, chance.randint(17, 24)))) for i in range(60)]
    for i in range(20):  # some that are nearly another
        asked = rows[i].messages[0]["content"].split()
        asked[chance.randrange(len(asked))] = chance.choice(words)
        rows.append(row(100 + i, " ".join(asked)))
    chance.shuffle(rows)
    train, heldout = rows[:60], rows[60:]
    sets = {r.row: set(r.messages[0]["content"].split()) for r in rows}
    plainly = [
        out.row
        for out in heldout
        if any(len(sets[out.row] & sets[other.row]) >= ALIKE * len(sets[out.row] | sets[other.row]) for other in train)
    ]
    assert nearly_asked(list(map(words_of, train)), list(map(words_of, heldout))) == sorted(plainly)
    assert plainly


def test_the_librarys_split_of_different_questions_has_no_leak():
    rows = [row(i, f"What is {i} and {i * 7}?", f"Two numbers, {i} and {i * 7}, no more.") for i in range(200)]
    assert findings(rows, split_by_prompt(rows)[1]) == []


# ---- languages


def test_languages_are_named_most_frequent_first():
    rows = [row(i, "The weather is fine and the children are playing in the garden.") for i in range(5)]
    rows += [
        row(i, "Das Wetter ist schön, und die Kinder spielen draußen im Garten.", "Das ist gut so.") for i in (6, 7)
    ]
    rows += [row(8, "Hi", "Yo")]
    assert languages(rows) == [("English", 5), ("German", 2), ("not sure", 1)]
    assert language_words(languages(rows)) == "Languages, guessed from 8 rows: 62% English, 25% German, 12% not sure."
    assert languages([]) == []


def test_at_most_a_thousand_rows_are_looked_at(monkeypatch):
    monkeypatch.setattr(tongues, "_language", lambda text: text.split()[0])
    found = dict(languages([row(i, "new" if i < 5000 else "old") for i in range(10_000)]))
    assert found == {"new": 500, "old": 500}
    assert language_words([("a", 6), ("b", 2), ("c", 1), ("d", 1)]) == (
        "Languages, guessed from 10 rows: 60% a, 20% b, 10% c, 10% others."
    )


# ---- as fast as it must be, whatever is in the rows


def test_fifty_thousand_rows_take_seconds():
    chance = random.Random(0)
    words = [f"word{chance.randrange(5000)}" for _ in range(50_040)]
    rows = [row(i, " ".join(words[i : i + 15]), " ".join(words[i + 15 : i + 40])) for i in range(50_000)]
    heldout = split_by_prompt(rows)[1]
    before = time.process_time()
    findings(rows, heldout)
    extremes(rows)
    assert time.process_time() - before < 12  # two on an idle machine


SLOW = [
    *("a@" * 16_000, "a@" + "a." * 16_000, "a@" + "a" * 32_000, "+1" * 16_000, "1" * 32_000, "+1 " * 10_000),
    *("+" + "1-" * 16_000, "(555) " * 5_000, "<|" * 16_000, "<|" + "a" * 32_000, "### " * 8_000),
]


@pytest.mark.parametrize("text", SLOW, ids=range(len(SLOW)))
def test_no_text_makes_a_search_slow(text):
    before = time.process_time()
    for pattern in (EMAIL, PHONE, MARK):
        pattern.search(text)
    plain(text)
    assert time.process_time() - before < 0.5


# ---- the report as a file


def test_the_report_as_csv_tells_what_became_of_every_row(tiny_model):
    raw = [
        RawRow(1, {"prompt": "Why?", "completion": "So."}, None),
        RawRow(2, {"messages": [{"role": "=HYPERLINK(1)", "content": "x"}]}, None),
        RawRow(3, {"prompt": "Why not?", "completion": "So. " * 40}, None),
        RawRow(4, {"prompt": "Why? " * 40, "completion": "So."}, None),
        RawRow(5, None, "=1+1 is no record"),
    ]
    report = examine(raw)
    found = measure(report.kept, Renderer(tiny_model), 64)
    lines = list(csv.reader(io.StringIO(report_csv(report, found))))
    assert lines == [
        ["row", "what happened", "reason"],
        ["1", "kept", ""],
        ["2", "dropped", "a message has the unknown role '=hyperlink(1)'"],
        ["3", "cut", f"tokens lost at the end: {found.lost[0]}, with the end of the last answer"],
        ["4", "left out", "nothing left to learn"],
        ["5", "dropped", "'=1+1 is no record"],
    ]
    assert [line[1] for line in csv.reader(io.StringIO(report_csv(report)))][1:] == [
        "kept", "dropped", "kept", "kept", "dropped",
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(start):
    text = report_csv(examine([RawRow(1, None, f"{start}cmd|' /C calc'!A0"), RawRow(2, {"text": "x"}, None)]))
    cell = list(csv.reader(io.StringIO(text)))[1][2]
    assert cell == f"'{start}cmd|' /C calc'!A0"
