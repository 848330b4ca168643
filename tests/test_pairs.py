"""Every shape in which people write preference pairs down, and every mess, with the sentence that the report shows."""

import json
import random
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from playground.data.pair_shapes import PAIR_SHAPES
from playground.data.pairs import SIDES, STRIPPED, Pair, is_pair, pair
from playground.data.readers import DataError, RawRow, read_file, read_text
from playground.data.report import examine
from playground.data.shapes import MERGED, ROLES, TRIMMED, Reading, RowError

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "What is a fjord?"}
GOOD, BAD = "A narrow arm of the sea.", "A kind of cheese."
MORE = [{"role": "assistant", "content": "A long inlet."}, {"role": "user", "content": "Where?"}]
QUESTION, HUM = "\n\nHuman: What is a fjord?", "\n\nHum: What is a fjord?"
SECOND = "\n\nAssistant: A long inlet.\n\nHuman: Where?"


def said(text) -> dict:
    return {"role": "assistant", "content": text}


def asks(text) -> dict:
    return {"role": "user", "content": text}


def sides(chosen, rejected, **columns) -> dict:
    return {**columns, "chosen": chosen, "rejected": rejected}


def transcripts(before: str, good: str = GOOD, bad: str = BAD, **columns) -> dict:
    return sides(f"{before}\n\nAssistant: {good}", f"{before}\n\nAssistant: {bad}", **columns)


def reason(record: dict) -> str:
    """Why a pair is refused; a reason stands in one line of the report, so it is short whatever the row holds."""
    with pytest.raises(RowError) as caught:
        pair(1, record)
    assert 0 < len(str(caught.value)) < 300
    return str(caught.value)


# ---- shapes, each of them the same pair after it

EXPLICIT, IMPLICIT, HH = "prompt, chosen, rejected", "chosen, rejected", "HH-RLHF"


@pytest.mark.parametrize(
    ("record", "shape", "prompt"),
    [
        (sides(GOOD, BAD, prompt="What is a fjord?"), EXPLICIT, [ASK]),
        (sides(f" {GOOD}\n", f"\n{BAD}", prompt=" What is a fjord?\n"), EXPLICIT, [ASK]),
        (sides(GOOD, BAD, prompt=[ASK]), EXPLICIT, [ASK]),
        (sides(GOOD, BAD, prompt=ASK), EXPLICIT, [ASK]),
        (sides(GOOD, BAD, prompt=[SYSTEM, ASK, *MORE]), EXPLICIT, [SYSTEM, ASK, *MORE]),
        (sides(GOOD, BAD, prompt=f"{QUESTION}\n\nAssistant:"), EXPLICIT, [ASK]),
        (sides(GOOD, BAD, prompt=f"{QUESTION}{SECOND}\n\nAssistant: "), EXPLICIT, [ASK, *MORE]),
        (sides([said(GOOD)], [said(BAD)], prompt=[ASK]), EXPLICIT, [ASK]),
        (sides([said(GOOD)], [said(BAD)], prompt=[SYSTEM, ASK, *MORE]), EXPLICIT, [SYSTEM, ASK, *MORE]),
        (sides(said(GOOD), said(BAD), prompt="What is a fjord?"), EXPLICIT, [ASK]),
        (sides([said(GOOD)], BAD, prompt="What is a fjord?"), EXPLICIT, [ASK]),
        (sides(f"What is a fjord? {GOOD}", f"What is a fjord? {BAD}"), IMPLICIT, [asks("What is a fjord? A")]),
        (sides([ASK, said(GOOD)], [ASK, said(BAD)]), IMPLICIT, [ASK]),
        (sides([SYSTEM, ASK, *MORE, said(GOOD)], [SYSTEM, ASK, *MORE, said(BAD)]), IMPLICIT, [SYSTEM, ASK, *MORE]),
        (
            sides(
                [{"from": "human", "value": ASK["content"]}, {"from": "gpt", "value": GOOD}],
                [{"from": "human", "value": ASK["content"]}, {"from": "gpt", "value": BAD}],
            ),
            IMPLICIT,
            [ASK],
        ),
        (transcripts(QUESTION), HH, [ASK]),
        (transcripts(QUESTION + SECOND), HH, [ASK, *MORE]),
        (transcripts(HUM + SECOND), HH, [ASK, *MORE]),
        (transcripts(QUESTION + SECOND.replace("Human", "Hum")), HH, [ASK, *MORE]),
        (transcripts(" \n" + QUESTION.strip()), HH, [ASK]),
        (transcripts(QUESTION, prompt="", source="x", score=None), HH, [ASK]),
        (transcripts(QUESTION, prompt=None, system="Be brief."), HH, [SYSTEM, ASK]),
        (sides(GOOD, BAD, prompt="What is a fjord?", system="Be brief."), EXPLICIT, [SYSTEM, ASK]),
        (sides(GOOD, BAD, prompt=[SYSTEM, ASK], system="Another."), EXPLICIT, [SYSTEM, ASK]),
        (sides(GOOD, BAD, prompt=[ASK], system=" "), EXPLICIT, [ASK]),
        (sides(json.dumps([said(GOOD)]), json.dumps([said(BAD)]), prompt=json.dumps([ASK])), EXPLICIT, [ASK]),
    ],
)
def test_a_shape_becomes_a_pair(record, shape, prompt):
    before = json.dumps(record)
    good, bad = (text.removeprefix("A ") if prompt[-1]["content"].endswith(" A") else text for text in (GOOD, BAD))
    found = next(known for known in PAIR_SHAPES if known.fits(record))
    (row,) = found.convert(7, record, Reading())
    assert (found.name, replace(row, notes={})) == (shape, Pair(7, prompt, good, bad))
    assert json.dumps(record) == before


@pytest.mark.parametrize(
    "record",
    [
        sides(f"What is a fjord? {GOOD}", f"What is a fjord?\n{BAD}", prompt="What is a fjord?"),
        sides(f" What is a fjord?\n{GOOD}", f"What is a fjord?{BAD}", prompt="What is a fjord? "),
        transcripts(QUESTION, prompt=QUESTION),
        transcripts(QUESTION, prompt=f"{QUESTION}\n\nAssistant:"),
        transcripts(QUESTION, prompt="What is a fjord?"),
        sides([ASK, said(GOOD)], [ASK, said(BAD)], prompt="What is a fjord?"),
        sides([ASK, said(GOOD)], [ASK, said(BAD)], prompt="What is  a\nfjord? "),
        sides([ASK, said(GOOD)], [ASK, said(BAD)], prompt=[ASK]),
        sides([ASK, said(GOOD)], [ASK, said(BAD)], prompt=" \n"),
    ],
)
def test_a_prompt_that_the_answers_repeat_stands_there_once(record):
    found = pair(1, record)
    plain = str(record["chosen"]).lstrip().startswith("What")
    assert found == Pair(1, [ASK], GOOD, BAD, notes={"mended": [STRIPPED]} if plain else {})


@pytest.mark.parametrize("spaces", ["", " ", "\n"])
@pytest.mark.parametrize("prompt", ["What is a fjord?", "Where?", [ASK], [SYSTEM, ASK], [SYSTEM, ASK, *MORE]])
def test_whole_conversations_may_repeat_any_part_of_the_prompt(prompt, spaces):
    talk = [SYSTEM, asks(ASK["content"] + spaces), *MORE]
    found = pair(1, sides([*talk, said(GOOD)], [*talk, said(BAD)], prompt=prompt))
    assert found == Pair(1, talk, GOOD, BAD)


def test_a_prompt_that_says_more_than_the_conversations_wins():
    for talk in ([ASK], MORE[1:], []):
        before = [SYSTEM, *talk] if talk else [SYSTEM, ASK]
        found = pair(1, sides([*talk, said(GOOD)], [*talk, said(BAD)], prompt=before))
        assert found == Pair(1, before, GOOD, BAD)


def test_a_prompt_that_is_not_repeated_stands_in_front():
    found = pair(1, sides([*MORE, said(GOOD)], [*MORE, said(BAD)], prompt="What is a fjord?"))
    assert found == Pair(1, [ASK, *MORE], GOOD, BAD)


@pytest.mark.parametrize(
    ("prompt", "good", "bad"),
    [
        ("Hi", "High tide is at six.", "Hills are high."),
        ("Hello", "Hello! How are you?", "Hello."),
        ("What is a fjord?", "What is a fjord? A narrow arm of the sea.", "No idea."),
    ],
)
def test_answers_that_merely_begin_like_the_prompt_are_left_alone(prompt, good, bad):
    assert pair(1, sides(good, bad, prompt=prompt)) == Pair(1, [asks(prompt)], good, bad)


# ---- implicit prompts


@pytest.mark.parametrize(
    ("good", "bad", "prompt", "answers"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", ("blue.", "green.")),
        ("What is it?\nGood.", "What is it?\nGreat.", "What is it?", ("Good.", "Great.")),
        ("What is it?\tYes", "What is it?\tNo", "What is it?", ("Yes", "No")),
        ("Is it? Yes", "Is it? Yes, and more", "Is it?", ("Yes", "Yes, and more")),
        ("Is it? Yesterday", "Is it? Yes", "Is it?", ("Yesterday", "Yes")),
    ],
)
def test_the_common_beginning_is_the_prompt_and_no_word_is_cut(good, bad, prompt, answers):
    assert pair(1, sides(good, bad)) == Pair(1, [asks(prompt)], *answers)


# ---- transcripts


def test_a_transcript_is_split_at_its_last_answer():
    record = transcripts(QUESTION + SECOND + "\n\nAssistant: In Norway.\n\nHuman: Also here?", "No.", "Yes.")
    found = pair(1, record)
    assert found.prompt == [ASK, *MORE, said("In Norway."), asks("Also here?")]
    assert (found.chosen, found.rejected) == ("No.", "Yes.")


def test_a_last_question_without_an_answer_is_trimmed():
    record = sides(f"{QUESTION}\n\nAssistant: {GOOD}\n\nHuman: Thanks!", f"{QUESTION}\n\nAssistant: {BAD}")
    assert pair(1, record) == Pair(1, [ASK], GOOD, BAD, notes={"mended": [TRIMMED]})


def test_two_answers_in_a_row_are_one():
    joined = Pair(1, [ASK], f"Well.\n\n{GOOD}", f"Well.\n\n{BAD}", notes={"mended": [MERGED]})
    assert pair(1, transcripts(f"{QUESTION}\n\nAssistant: Well.")) == joined
    talk = [ASK, said("Well.")]
    assert pair(1, sides([*talk, said(GOOD)], [*talk, said(BAD)])) == joined
    assert pair(1, sides(GOOD, BAD, prompt=talk)) == joined


def test_two_questions_in_a_row_are_one():
    found = pair(1, transcripts(f"{QUESTION}\n\nHuman: Quickly!"))
    assert found.prompt == [asks("What is a fjord?\n\nQuickly!")]


def test_an_answer_keeps_its_paragraphs_and_its_inner_labels():
    good = "Two ways:\n\n1. Write Human: here.\n2. Say\nHuman: aloud.\n\n\nHumans: many. The Assistant: one."
    assert pair(1, transcripts(QUESTION, good)).chosen == good
    for answer in (good, "Label it Human: or Assistant:", "So.\n\nHuman: no"):
        assert pair(1, sides(answer, BAD, prompt="What is a fjord?")) == Pair(1, [ASK], answer, BAD)


def test_a_question_that_names_a_label_is_no_transcript():
    found = pair(1, sides(GOOD, BAD, prompt="Why does it say Human: there?\n\nAssistant: too"))
    assert found.prompt == [asks("Why does it say Human: there?\n\nAssistant: too")]


def test_an_answer_that_is_json_but_no_conversation_stays_text():
    for answer in ('[{"name": "Ann"}]', "[1, 2]", "[see below", '["a"]', "[" * 30_000):
        assert pair(1, sides(answer, BAD, prompt="What is a fjord?")).chosen == answer


# ---- tables and files

PLAIN = Pair(1, [ASK], GOOD, BAD)
TURNS = {"prompt": [ASK], "chosen": [said(GOOD)], "rejected": [said(BAD)]}


def cell(value) -> str:
    return '"' + (value if isinstance(value, str) else json.dumps(value)).replace('"', '""') + '"'


def table(*records: dict, mark: str = ",") -> str:
    lines = [list(records[0]), *(map(cell, record.values()) for record in records)]
    return "".join(mark.join(line) + "\n" for line in lines)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize(
    "record",
    [
        sides(GOOD, BAD, prompt="What is a fjord?", note="x"),
        TURNS,
        {side: [ASK, *TURNS[side]] for side in SIDES},
        transcripts(QUESTION),
    ],
)
def test_a_table_holds_pairs(tmp_path, record, mark, start):
    text = table(record, mark=mark)
    (tmp_path / "pairs.csv").write_text(start + text, encoding="utf-8")
    for rows in (read_text(start + text), read_file(tmp_path / "pairs.csv")):
        report = examine(rows)
        assert (report.kind, report.kept, report.dropped) == ("preference", [PLAIN], [])


def test_cells_spelled_in_python_or_left_empty_are_read_too():
    text = f"prompt,chosen,rejected,system\n{cell(repr([ASK]))},{cell(repr([said(GOOD)]))},{cell(BAD)},Be brief.\n"
    text += f"{cell(ASK['content'])},{cell(GOOD)},,\n"
    report = examine(read_text(text))
    assert report.kept == [Pair(1, [SYSTEM, ASK], GOOD, BAD)]
    assert report.dropped == [(2, "'rejected' is empty")]


@pytest.mark.parametrize("record", [sides(GOOD, BAD, prompt="What is a fjord?"), TURNS, transcripts(QUESTION)])
def test_parquet_holds_pairs(tmp_path, record):
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "pairs.parquet")
    report = examine(read_file(tmp_path / "pairs.parquet"))
    assert (report.kind, report.kept) == ("preference", [PLAIN])


@pytest.mark.parametrize("write", [lambda r: json.dumps(r) + "\n", lambda r: json.dumps([r]), lambda r: table(r)])
def test_every_container_gives_the_same_pair(write):
    assert examine(read_text(write(TURNS))).kept == [PLAIN]


# ---- the normal form


def test_the_normal_form_is_trl_s_and_its_own_normal_form():
    found = Pair(3, [SYSTEM, ASK, *MORE], GOOD, BAD)
    assert found.as_json() == {"prompt": found.prompt, "chosen": [said(GOOD)], "rejected": [said(BAD)]}
    assert pair(3, found.as_json()) == found
    assert found.asked == found.prompt
    assert found.conversation("chosen") == [*found.prompt, said(GOOD)]
    assert found.conversation("rejected") == [*found.prompt, said(BAD)]
    assert found.content == [found.prompt, GOOD, BAD]


def test_a_pair_is_known_by_both_columns():
    assert is_pair(dict.fromkeys(SIDES)) and is_pair(TURNS)
    assert not any(map(is_pair, ({}, {"chosen": "a"}, {"rejected": "a"}, {"Chosen": "a", "Rejected": "b"})))


# ---- what is refused, and in which words

PART = "the two sides part ways before the last answer, so they answer different prompts"


def nested(levels: int) -> list:
    return [{"text": nested(levels - 1) if levels else "deep"}]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "What?", "chosen": "a"}, "'rejected' is empty"),
        ({}, "'chosen' is empty"),
        (sides(None, BAD, prompt="What?"), "'chosen' is empty"),
        (sides(GOOD, " \n", prompt="What?"), "'rejected' is empty"),
        (sides([], BAD, prompt="What?"), "'chosen' is empty"),
        (sides(GOOD, GOOD, prompt="What?"), "both answers are the same"),
        (sides(GOOD, f" {GOOD}\n", prompt="What?"), "both answers are the same"),
        (sides([said(GOOD)], GOOD, prompt="What?"), "both answers are the same"),
        (sides([ASK, said(GOOD)], [ASK, said(GOOD)]), "both answers are the same"),
        (transcripts(QUESTION, GOOD, GOOD), "both answers are the same"),
        (sides("What? It is.", "What? It is."), "both answers are the same"),
        (sides("\0", "\ud800", prompt="What?"), "both answers are the same"),
        (sides(5, "5", prompt="What?"), "both answers are the same"),
        (transcripts(QUESTION, ""), "the chosen answer is empty"),
        (transcripts(QUESTION, bad=" "), "the rejected answer is empty"),
        (sides([ASK, said(GOOD)], [ASK, said(None)]), "the rejected answer is empty"),
        (sides([said("")], BAD, prompt="What?"), "the chosen answer is empty"),
        (sides("What?", "What? No.", prompt="What?"), "the chosen answer is empty"),
        (sides([ASK, said([{"type": "text"}])], [ASK, said(BAD)]), "the chosen answer is empty"),
        (sides(GOOD, "Cheese."), "no prompt, and the two answers have no common beginning that could be one"),
        (sides("Yes", "Yesterday"), "no prompt, and the two answers have no common beginning that could be one"),
        (
            sides(GOOD, "Cheese.", prompt=" "),
            "no prompt, and the two answers have no common beginning that could be one",
        ),
        (sides([said(GOOD)], [said(BAD)]), "no prompt: each side holds an answer alone"),
        (sides([said(GOOD)], [said(BAD)], prompt=[]), "no prompt: each side holds an answer alone"),
        (sides(1, 2), "no prompt: each side holds an answer alone"),
        (transcripts(""), "no prompt: each side holds an answer alone"),
        (transcripts("", prompt="\n\nAssistant:"), "no prompt: each side holds an answer alone"),
        (sides(GOOD, BAD, prompt="\n\nAssistant: "), "'prompt' holds no question"),
        (sides(GOOD, BAD, prompt="Human:"), "an empty user message"),
        (sides([asks(" "), said(GOOD)], [asks(" "), said(BAD)]), "an empty user message"),
        (transcripts(f"{QUESTION}\n\nAssistant:\n\nHuman: Well?"), "an empty assistant message"),
        (sides([ASK, said(GOOD)], [asks("Where?"), said(BAD)]), PART),
        (sides([ASK, *MORE, said(GOOD)], [ASK, said(BAD)]), PART),
        (sides(f"{QUESTION}\n\nAssistant: {GOOD}", f"{QUESTION}{SECOND}\n\nAssistant: {BAD}"), PART),
        (sides(f"{QUESTION}\n\nAssistant: {GOOD}", BAD), PART),
        (sides([said("a"), asks("b"), said(GOOD)], [said(BAD)], prompt="What?"), PART),
        (sides([ASK], [ASK, said(BAD)]), "'chosen' holds no assistant answer"),
        (sides(GOOD, QUESTION, prompt="What?"), "'rejected' holds no assistant answer"),
        (sides([SYSTEM], [SYSTEM], prompt="What?"), "'chosen' holds no assistant answer"),
        (transcripts("Assistant: Hi!\n\nHuman: What?"), "the conversation starts with the assistant"),
        (sides(GOOD, BAD, prompt=[said("Hi!"), ASK]), "the conversation starts with the assistant"),
        (sides(GOOD, BAD, prompt=[said("Hi!")]), "the conversation starts with the assistant"),
        (sides(GOOD, BAD, prompt=[SYSTEM]), "the conversation starts with the assistant"),
        (sides(GOOD, BAD, prompt=[ASK, SYSTEM]), "a system message in the middle of the conversation"),
        (sides(GOOD, BAD, prompt=[ASK, *MORE * 60]), "more than 100 messages in one conversation"),
        (transcripts(QUESTION + SECOND * 60), "more than 100 messages in one conversation"),
        (
            sides(GOOD, BAD, prompt=[{"role": "tool", "content": "x"}]),
            "a message has the role 'tool'; conversations with tools are not trained here",
        ),
        (sides({}, BAD, prompt="What?"), "a message has no role"),
        (sides({"text": GOOD}, {"text": BAD}, prompt="What?"), "a message has no role"),
        (sides([ASK, 5], [ASK, said(BAD)]), "a message in 'chosen' is not an object"),
        (sides(["a"], BAD, prompt="What?"), "'chosen' is not text but a list"),
        (sides(GOOD, [[said(BAD)]], prompt="What?"), "'rejected' is not text but a list"),
        (sides(GOOD, BAD, prompt=["What?"]), "'prompt' is not text but a list"),
        (sides([said({"text": GOOD})], BAD, prompt="What?"), "a message is not text but an object"),
        (sides([said(nested(400))], BAD, prompt="What?"), "a message is not text but a list"),
        (sides(GOOD, BAD, prompt="What?", system={"a": 1}), "'system' is not text but an object"),
        (
            sides(GOOD, BAD, prompt=[asks([{"type": "image_url", "image_url": {}}])]),
            "a message holds image_url content; only text is trained here",
        ),
    ],
)
def test_pairs_that_are_refused(record, words):
    assert reason(record) == words


def test_plain_values_are_read_as_text():
    assert pair(1, sides(5, 6, prompt=7)) == Pair(1, [asks("7")], "5", "6")
    assert pair(1, sides(0, True, prompt="What?")) == Pair(1, [asks("What?")], "0", "True")


def test_what_can_not_be_written_to_a_file_is_replaced():
    for record in (
        sides("a\ud800", "b\0", prompt="c\udfff", system="d\0"),
        sides([said("a\ud800")], [said("b\0")], prompt=[asks("c\0")], system="d\0"),
        transcripts("Human: c\0", "a\ud800", "b\0", system="d\ud800"),
    ):
        system = {"role": "system", "content": "d\ufffd"}
        assert pair(1, record) == Pair(1, [system, asks("c\ufffd")], "a\ufffd", "b\ufffd")


@pytest.mark.parametrize(
    "text",
    ["x" * 100_000, " x" * 50_000, "\n\nHuman: x" * 9_000, "\n\nAssistant:" * 8_000, "[" * 100_000, "\n" * 99_999],
)
@pytest.mark.parametrize(
    "put",
    [
        lambda text: sides(text + "a", text + "b"),
        lambda text: sides(GOOD, BAD, prompt=text),
        lambda text: sides(text, BAD, prompt="What?"),
        lambda text: transcripts(QUESTION, text),
    ],
    ids=["both", "prompt", "side", "transcript"],
)
def test_a_very_long_text_is_kept_or_refused(put, text):
    try:
        check_pair(pair(1, put(text)))
    except RowError as error:
        assert 0 < len(str(error)) < 300


def test_deep_nesting_and_long_fields_never_leave_the_readers():
    deep = '{"prompt": "a", "chosen": ' + "[" * 500 + "]" * 500 + ', "rejected": "b"}\n'
    long = json.dumps(sides("x" * 100_000, BAD, prompt="What?")) + "\n"
    report = examine(read_text(deep + long + json.dumps(sides(GOOD, BAD, prompt="What is a fjord?"))))
    assert (report.kind, [row.row for row in report.kept]) == ("preference", [3])
    assert report.dropped == [(1, "nested deeper than 20 levels"), (2, "a field is larger than 32 KB: 'chosen'")]


# ---- anything at all


def check_pair(found: Pair) -> None:
    assert found.chosen.strip() and found.rejected.strip() and found.chosen != found.rejected
    roles = [message["role"] for message in found.prompt]
    roles = roles[roles[0] == "system" :]
    assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))]
    assert roles[-1] == "user"
    assert all(set(m) == {"role", "content"} and m["content"].strip() for m in found.prompt)
    json.dumps(found.as_json(), ensure_ascii=False).encode()
    assert pair(found.row, found.as_json()).content == found.content


WORDS = st.sampled_from(["\n\nHuman:", "\n\nHum:", "\n\nAssistant:", "Human: ", " ", "\n", "a", "b b", "[", "\0", "?"])
TEXT = st.lists(WORDS, max_size=8).map("".join) | st.text(max_size=8)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(sorted(ROLES)), "content": TEXT}, optional={"weight": st.integers()}
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | MESSAGE | st.lists(MESSAGE, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "from", "content", "value", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=12,
)
VALUE = JSON | JSON.map(json.dumps)
RECORDS = st.fixed_dictionaries(
    {"chosen": VALUE, "rejected": VALUE}, optional={"prompt": VALUE, "system": VALUE, "other": VALUE}
) | st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "messages", "system"]), VALUE, max_size=5)


@settings(deadline=None, max_examples=300)
@given(RECORDS)
@example(sides(f'[{{"role":"assistant","content":{json.dumps(nested(300))}}}]', [said("a")], prompt="b"))
@example(sides('[{"role":' * 400, "a", prompt="b"))
@example(sides("a", "b", prompt=float("nan")))
@example(sides("\n\nHuman: a\n\nAssistant: \0", "\n\nHuman: a\n\nAssistant: \ud800"))
def test_any_record_is_either_a_clean_pair_or_refused_in_a_short_sentence(record):
    try:
        found = pair(1, record)
    except RowError as error:
        assert 0 < len(str(error)) < 300
        return
    check_pair(found)


TALK = st.lists(MESSAGE, max_size=3)
ANSWERS = st.tuples(TEXT, TEXT).filter(lambda two: two[0] != two[1])


@settings(deadline=None, max_examples=200)
@given(TALK, ANSWERS, st.sampled_from(["explicit", "implicit", "both", "plain"]))
def test_any_two_answers_to_one_prompt_are_a_clean_pair_or_refused(talk, answers, way):
    chosen, rejected = ([said(text)] for text in answers)
    record = {
        "explicit": sides(chosen, rejected, prompt=talk),
        "implicit": sides(talk + chosen, talk + rejected),
        "both": sides(talk + chosen, talk + rejected, prompt=talk),
        "plain": sides(*answers, prompt=talk),
    }[way]
    try:
        found = pair(1, record)
    except RowError as error:
        assert 0 < len(str(error)) < 300
        return
    check_pair(found)


@settings(deadline=None, max_examples=100)
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_any_file_is_read_or_refused(records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    try:
        report = examine(read_text(text))
    except DataError:
        return
    assert len(report.kept) + len(report.dropped) + sum(report.others.values()) == report.rows
    for row in report.kept:
        if report.kind == "preference":
            check_pair(row)


def test_a_pair_is_the_same_in_every_way_of_writing_it_down():
    chance = random.Random(0)
    for _ in range(100):
        rounds = chance.randrange(3)
        talk = [(asks, said)[i % 2](f"{chance.random()} {chance.random()}") for i in range(2 * rounds + 1)]
        good, bad = f"G{chance.random()}", f"B{chance.random()}"
        labels = {"user": "Human", "assistant": "Assistant"}
        before = "".join(f"\n\n{labels[m['role']]}: {m['content']}" for m in talk)
        ways = [
            sides(good, bad, prompt=talk),
            sides([said(good)], [said(bad)], prompt=talk),
            sides([*talk, said(good)], [*talk, said(bad)]),
            sides([*talk, said(good)], [*talk, said(bad)], prompt=talk[0]["content"]),
            transcripts(before, good, bad),
            transcripts(before, good, bad, prompt=f"{before}\n\nAssistant:"),
            sides(good, bad, prompt=f"{before}\n\nAssistant:"),
        ]
        assert [pair(1, way) for way in ways] == [Pair(1, talk, good, bad)] * len(ways)


@pytest.mark.parametrize(
    "text",
    [
        "[{'content': 'q 0', 'role': 'user'} {'content': 'good', ...",
        "[{'role': 'user', 'content': 'q 0'}\n ...\n {'role': 'assistant', 'content': 'good'}]",
        '[{"from": "human", "value": "q 0"}, {"from": "gpt", "val',
        "[{'value': 'q 0', 'from': 'human'}, oops]",
        "[ { 'content': 'q 0', 'ro",
    ],
)
def test_a_list_of_messages_that_cannot_be_read_is_not_trained_on_as_text(text):
    sentence = "looks like a list of messages that can't be read"
    report = examine([RawRow(1, {"prompt": "q 0", "chosen": text, "rejected": "bad"}, None)])
    assert report.dropped == [(1, f"'chosen' {sentence}")]
    report = examine([RawRow(1, {"prompt": "q 0", "completion": text}, None)])
    assert report.dropped == [(1, f"'completion' {sentence}")]
    report = examine([RawRow(1, {"prompt": text}, None)])
    assert report.dropped == [(1, f"'prompt' {sentence}")]


@pytest.mark.parametrize("text", ["[{'value': 1}, {'value': 2}]", "[{'a': 'role'}]", "[role] {content}", "[1, 2"])
def test_other_lists_are_text(text):
    (pair,) = examine([RawRow(1, {"prompt": "q 0", "chosen": text, "rejected": "bad"}, None)]).kept
    assert pair.chosen == text
