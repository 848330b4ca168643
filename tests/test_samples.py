"""Files as people have them: what each is recognised as, the exact rows that it gives, and what is said of the rest.

The rows that a sample must give stand beside it, in NAME.expected.json, in the form in which they are stored.
"""

import json
from pathlib import Path

import pytest

from playground.data.readers import DataError, read_file
from playground.data.report import Report, examine
from playground.data.shapes import Reading

SAMPLES = Path(__file__).parent / "samples"
KNOWN = {
    "alpaca.jsonl": ("sft", "alpaca"),
    "alpaca-excel.csv": ("sft", "alpaca"),
    "alpaca-text.jsonl": ("sft", "Guanaco text"),
    "bare-lists.jsonl": ("sft", "messages"),
    "chatml-text.jsonl": ("sft", "templated text"),
    "class-label.csv": ("sft", "query-response"),
    "columns.json": ("sft", "alpaca"),
    "content-parts.jsonl": ("sft", "messages"),
    "dolly.jsonl": ("sft", "Dolly"),
    "faq.csv": ("sft", "query-response"),
    "feel.jsonl": ("thumbs", "FeeL"),
    "guanaco.jsonl": ("sft", "Guanaco text"),
    "h2o-chat.csv": ("sft", "tree table"),
    "hhh.jsonl": ("prompts", "HHH evaluation"),
    "kto.jsonl": ("thumbs", "KTO"),
    "kto-mix.jsonl": ("thumbs", "KTO"),
    "legacy-transcript-prompt.jsonl": ("sft", "prompt-completion"),
    "llama2-text.jsonl": ("sft", "templated text"),
    "llama3-text.jsonl": ("sft", "templated text"),
    "llamafactory-kto.json": ("thumbs", "LlamaFactory KTO"),
    "maths.json": ("sft", "query-response"),
    "mixed.jsonl": ("sft", "alpaca and ShareGPT"),
    "oasst-tree.jsonl": ("sft", "tree table"),
    "openai.jsonl": ("sft", "messages"),
    "prompt-completion.jsonl": ("sft", "prompt-completion"),
    "prompt-completion-messages.jsonl": ("sft", "prompt-completion"),
    "prompt-messages.jsonl": ("prompts", "messages-only"),
    "prompts.jsonl": ("prompts", "prompt-only"),
    "questions.csv": ("prompts", "question-only"),
    "red-team-attempts.json": ("prompts", "red-team attempts"),
    "requests.tsv": ("sft", "query-response"),
    "revisions.jsonl": ("sft", "constitutional revisions"),
    "sharegpt.json": ("sft", "ShareGPT"),
    "stars.csv": ("thumbs", "rating"),
    "stepwise.jsonl": ("sft", "stepwise"),
    "swift-exchanges.jsonl": ("sft", "ShareGPT"),
    "swift-kto.jsonl": ("thumbs", "KTO"),
    "swift-query.jsonl": ("sft", "query-response"),
    "traces.jsonl": ("sft", "messages"),
    "transcript-text.jsonl": ("sft", "transcript"),
    "votes.csv": ("thumbs", "rating"),
}
READINGS = {"revisions.jsonl": Reading(kind="sft")}  # a choice that the file leaves to the person


def report(name: str, reading: Reading | None = None) -> Report:
    return examine(read_file(SAMPLES / name), reading or READINGS.get(name, Reading()))


@pytest.mark.parametrize("name", KNOWN)
def test_a_sample_is_recognised_and_gives_exactly_these_rows(name):
    found = report(name)
    assert (found.kind, found.shape) == KNOWN[name]
    expected = json.loads((SAMPLES / f"{name}.expected.json").read_text(encoding="utf-8"))
    assert [row.as_json() for row in found.kept] == expected
    sources = {row.row for row in found.kept} | {row for row, _ in found.dropped}
    assert len(sources) + sum(found.others.values()) == found.rows


# ---- what is said of rows that are mended, left out, or of another kind

SAID = {
    "chatml-text.jsonl": "In 2 rows, a chat template stood in the text; its turns are taken apart, so that it is not "
    "applied twice (row 1, 2).",
    "class-label.csv": "'label' holds 3, 7, 0; these are no thumbs, so it is not used.",
    "content-parts.jsonl": "1 dropped: a message holds image_url content; only text is trained here (row 2).",
    "feel.jsonl": "1 of 2 rows kept, recognised as FeeL; they make 2 answers with a thumb.",
    "hhh.jsonl": "In 2 rows, the options to choose from are left out, so that the question is answered freely "
    "(row 1, 2).",
    "mixed.jsonl": "Not of this kind, and left for another dataset: 1 prompt and 1 answer with a thumb.",
    "oasst-tree.jsonl": "1 dropped: no way leads from this row back to the beginning of a conversation (row 9).",
    "h2o-chat.csv": "3 rows of the file belong together and make 2.",
    "openai.jsonl": "1 dropped: a message only calls a tool; conversations with tools are not trained here (row 4).",
    "red-team-attempts.json": "In 2 rows, only the first thing that the person says is kept (row 1, 2).",
    "sharegpt.json": "In 1 row, the last question has no answer and is left out (row 2).",
    "stars.csv": "'rating' goes from 1 to 5; 3 and more counts as a thumb up.",
    "stepwise.jsonl": "1 dropped: a step is marked as wrong, so the answer is not learned (row 2).",
    "traces.jsonl": "In 1 row, neighbouring messages of one role are joined (row 2).",
    "votes.csv": "1 dropped: 'feedback' is empty, so nobody said whether the answer is good (row 3).",
}
GUESSED = {
    "alpaca.jsonl": "3 conversations in alpaca shape",
    "guanaco.jsonl": "2 conversations in Guanaco text shape",
    "mixed.jsonl": "2 conversations in alpaca shape, 1 conversation in ShareGPT shape, 1 prompt in prompt-only shape "
    "and 1 answer with a thumb in KTO shape",
    "red-team-attempts.json": "2 prompts in red-team attempts shape",
    "kto.jsonl": "3 answers with a thumb in KTO shape",
}


@pytest.mark.parametrize("name", SAID)
def test_the_report_says_what_was_done(name):
    assert SAID[name] in report(name).words()


@pytest.mark.parametrize("name", GUESSED)
def test_the_guess_is_a_sentence(name):
    assert report(name).guess == GUESSED[name]


def test_a_mixed_file_gives_a_report_for_every_kind():
    raw = read_file(SAMPLES / "mixed.jsonl")
    found = [examine(raw), examine(raw, Reading(kind="prompts")), examine(raw, Reading(kind="thumbs"))]
    assert [(r.kind, [row.row for row in r.kept]) for r in found] == [
        ("sft", [1, 2, 5]),
        ("prompts", [3]),
        ("thumbs", [4]),
    ]
    assert [r.others for r in found] == [
        {"prompts": 1, "thumbs": 1},
        {"sft": 3, "thumbs": 1},
        {"sft": 3, "prompts": 1},
    ]
    assert all(r.dropped == [] and r.rows == 5 and "kind" in r.offers for r in found)


def test_the_kind_that_is_asked_for_is_taken_from_a_mixed_file():
    found = report("mixed.jsonl", Reading(kind="prompts"))
    assert (found.kind, [row.row for row in found.kept], found.others) == (
        "prompts",
        [3],
        {"sft": 3, "thumbs": 1},
    )


# ---- the same thumbs as conversations and as pairs


def test_of_thumbs_read_as_conversations_only_the_good_ones_are_learned():
    found = report("kto.jsonl", Reading(kind="sft"))
    assert [row.messages[-1]["content"] for row in found.kept] == [
        "The moon pulls the sea, and the earth turns under it.",
        "Warm air rises, cools and drops its water.",
    ]
    assert found.dropped == [(2, "a thumbs-down answer, which is not to be imitated")]


def test_thumbs_read_as_pairs_set_a_good_answer_beside_a_bad_one_to_the_same_prompt():
    found = report("kto.jsonl", Reading(kind="preference"))
    (pair,) = found.kept
    assert (pair.row, pair.prompt) == (1, [{"role": "user", "content": "Explain tides in a sentence."}])
    assert pair.chosen == "The moon pulls the sea, and the earth turns under it."
    assert pair.rejected == "Tides are a thing of the sea."
    assert found.dropped == [(3, "no answer to the same prompt has the other thumb, so there is nothing to compare")]
    assert "3 rows of the file belong together and make 1." in found.notes


@pytest.mark.parametrize(("start", "good"), [(None, [1, 3]), (2, [1, 2, 3]), (5, [1]), (9, [])])
def test_a_person_says_from_which_rating_on_an_answer_is_good(start, good):
    found = report("stars.csv", Reading(good_from=start))
    assert [row.row for row in found.kept if row.good] == good
    assert ("good_from" in found.offers, found.scale) == (True, (1, 5))


def test_only_files_that_leave_a_choice_offer_one():
    assert report("alpaca.jsonl").offers == []
    assert report("kto.jsonl").offers == ["kind"]
    assert report("stars.csv").offers == ["kind", "good_from"]


# ---- columns that a person maps


def test_columns_are_mapped_to_the_fields_of_the_normal_form():
    columns = {"prompt": "Source", "completion": "Question"}
    found = report("faq.csv", Reading(columns=columns))
    assert (found.kind, found.shape) == ("sft", "prompt-completion")
    assert [row.messages[0]["content"] for row in found.kept] == ["handbook p. 4", "handbook p. 9"]
    only = report("faq.csv", Reading(columns={"prompt": "Answer"}))
    assert (only.kind, [row.messages[0]["content"] for row in only.kept]) == (
        "prompts",
        ["Yes, twice a week.", "No, sorry."],
    )


def test_a_class_that_is_mapped_to_the_label_is_taken_for_a_rating():
    columns = {"prompt": "question", "completion": "answer", "label": "label"}
    found = report("class-label.csv", Reading(columns=columns))
    assert (found.kind, [row.good for row in found.kept], found.scale) == ("thumbs", [False, True, False], (0, 7))


def test_a_column_that_is_not_there_can_not_be_mapped():
    with pytest.raises(DataError) as caught:
        report("faq.csv", Reading(columns={"prompt": "Frage"}))
    assert str(caught.value) == "There is no column 'Frage' to take as prompt; there are: Answer, Question, Source."


def test_of_a_kind_that_a_file_does_not_hold_no_row_can_be_used():
    assert report("alpaca.jsonl", Reading(kind="thumbs")).refusal() == (
        "No row can be used: the file holds 3 conversations in alpaca shape, but no answers with a thumb. "
        "Each row needs a prompt, a completion and a label that says whether it is good."
    )
