"""Every shape in which people write SFT rows down, and every mess, with the sentence that the report shows."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from playground.data.conversations import QUERIES, RESPONSES, SFT_SHAPES
from playground.data.prompts import is_prompt
from playground.data.readers import RawRow, read_text
from playground.data.recognise import recognise, unknown
from playground.data.report import examine
from playground.data.shapes import ROLES, Reading, Row, RowError, converted

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "What is a fjord?"}
ANSWER = {"role": "assistant", "content": "A narrow arm of the sea."}
MORE = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Norway."}]


def turn(role: str, content) -> dict:
    return {"role": role, "content": content}


def said(role: str, value) -> dict:
    return {"from": role, "value": value}


def conversation(number: int, record: dict) -> tuple[str, Row]:
    """(shape's name, row) of a record that is to be read as a conversation, or RowError."""
    shape = recognise(record, "sft")
    if shape is None:
        raise RowError(unknown(record, list(record)))
    if shape.kind != "sft":
        raise RowError(f"of the kind {shape.kind}")
    (row,) = converted(shape, number, record, Reading())
    return shape.name, row


def sft_messages(record: dict) -> tuple[str, list[dict]]:
    """The shape and the normal form of a record."""
    shape, row = conversation(7, record)
    assert row.row == 7
    return shape, row.messages


def reason(record: dict) -> str:
    """Why a row is refused; a reason stands in one line of the report, so it is short whatever the row holds."""
    with pytest.raises(RowError) as caught:
        sft_messages(record)
    assert 0 < len(str(caught.value)) < 300
    return str(caught.value)


# ---- shapes


@pytest.mark.parametrize(
    ("record", "shape", "messages"),
    [
        ({"messages": [ASK, ANSWER]}, "messages", [ASK, ANSWER]),
        ({"messages": [SYSTEM, ASK, ANSWER, *MORE], "id": 7}, "messages", [SYSTEM, ASK, ANSWER, *MORE]),
        (
            {"messages": [{**ASK, "name": "Ann", "weight": 1}, {**ANSWER, "tool_calls": None}]},
            "messages",
            [ASK, ANSWER],
        ),
        ({"messages": [ASK, ANSWER], "system": "Be brief."}, "messages", [SYSTEM, ASK, ANSWER]),
        ({"messages": [ASK, ANSWER], "system": None}, "messages", [ASK, ANSWER]),
        ({"messages": [ASK, ANSWER], "system": " "}, "messages", [ASK, ANSWER]),
        ({"messages": [SYSTEM, ASK, ANSWER], "system": "Another."}, "messages", [SYSTEM, ASK, ANSWER]),
        ({"messages": [turn("system", ""), ASK, ANSWER]}, "messages", [ASK, ANSWER]),
        ({"messages": [turn("system", None), ASK, ANSWER], "system": "Be brief."}, "messages", [SYSTEM, ASK, ANSWER]),
        ({"messages": json.dumps([ASK, ANSWER])}, "messages", [ASK, ANSWER]),
        ({"messages": [said("human", "What is a fjord?"), ANSWER]}, "messages", [ASK, ANSWER]),
        (
            {"messages": [{"role": None, "from": "human", "content": None, "value": "What is a fjord?"}, ANSWER]},
            "messages",
            [ASK, ANSWER],
        ),
        (
            {
                "conversations": [said("human", "What is a fjord?"), said("gpt", "A narrow arm of the sea.")],
                "tools": "",
            },
            "ShareGPT",
            [ASK, ANSWER],
        ),
        (
            {"conversation": [said("user", "What is a fjord?"), said("bot", "A narrow arm of the sea.")]},
            "ShareGPT",
            [ASK, ANSWER],
        ),
        (
            {
                "conversations": [
                    said("system", "Be brief."),
                    said("human", ASK["content"]),
                    said("gpt", ANSWER["content"]),
                ]
            },
            "ShareGPT",
            [SYSTEM, ASK, ANSWER],
        ),
        (
            {"conversations": [ASK, ANSWER], "system": "Be brief."},
            "ShareGPT",
            [SYSTEM, ASK, ANSWER],
        ),
        (
            {"conversations": None, "conversation": [ASK, ANSWER]},
            "ShareGPT",
            [ASK, ANSWER],
        ),
        (
            {
                "conversation": [
                    {"human": "What is a fjord?", "assistant": "A narrow arm of the sea."},
                    {"assistant": "In Norway.", "human": "Where?"},
                ],
                "system": "Be brief.",
            },
            "ShareGPT",
            [SYSTEM, ASK, ANSWER, *MORE],
        ),
        (
            {"prompt": "What is a fjord?\n", "completion": " A narrow arm of the sea."},
            "prompt-completion",
            [ASK, ANSWER],
        ),
        (
            {"prompt": "What is a fjord?", "completion": "A narrow arm of the sea.", "system": "Be brief."},
            "prompt-completion",
            [SYSTEM, ASK, ANSWER],
        ),
        ({"prompt": [SYSTEM, ASK], "completion": [ANSWER]}, "prompt-completion", [SYSTEM, ASK, ANSWER]),
        ({"prompt": "What is a fjord?", "completion": [ANSWER]}, "prompt-completion", [ASK, ANSWER]),
        ({"prompt": [ASK], "completion": "A narrow arm of the sea."}, "prompt-completion", [ASK, ANSWER]),
        (
            {"prompt": "What is a fjord?", "completion": [ASK, ANSWER], "system": "Be brief."},
            "prompt-completion",
            [SYSTEM, ASK, ANSWER],
        ),
        ({"prompt": [ASK, ANSWER, MORE[0]], "completion": [MORE[1]]}, "prompt-completion", [ASK, ANSWER, *MORE]),
        (
            {"instruction": "What is a fjord?", "input": "", "output": "A narrow arm of the sea."},
            "alpaca",
            [ASK, ANSWER],
        ),
        (
            {"instruction": "Add.", "input": "2 and 3", "output": 5},
            "alpaca",
            [turn("user", "Add.\n2 and 3"), turn("assistant", "5")],
        ),
        (
            {"instruction": "", "input": "What is a fjord?", "output": "A narrow arm of the sea.", "history": None},
            "alpaca",
            [ASK, ANSWER],
        ),
        (
            {
                "instruction": "And then?",
                "output": "The end.",
                "system": "Be brief.",
                "history": [["What is a fjord?", "A narrow arm of the sea."], ["Where?", "In Norway."]],
            },
            "alpaca",
            [SYSTEM, ASK, ANSWER, *MORE, turn("user", "And then?"), turn("assistant", "The end.")],
        ),
    ],
)
def test_a_shape_becomes_messages(record, shape, messages):
    before = json.dumps(record)
    assert sft_messages(record) == (shape, messages)
    assert json.dumps(record) == before


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "value": "a fjord?"}, {"text": "Quick!"}]
    _, messages = sft_messages(
        {"messages": [turn("user", parts), turn("assistant", [{"type": "text", "text": "Sea."}])]}
    )
    assert messages == [turn("user", "What is\na fjord?\nQuick!"), turn("assistant", "Sea.")]


@pytest.mark.parametrize(("alias", "role"), ROLES.items())
def test_roles_have_many_names(alias, role):
    rest = {"system": [ASK, ANSWER], "user": [ANSWER], "assistant": []}[role]
    front = [ASK] if role == "assistant" else []
    expected = [*front, turn(role, "Hello."), *rest]
    for name in (alias, alias.upper(), f" {alias.title()}\n"):
        assert sft_messages({"messages": [*front, turn(name, "Hello."), *rest]})[1] == expected
        assert sft_messages({"conversations": [*front, said(name, "Hello."), *rest]})[1] == expected


def test_the_normal_form_is_its_own_normal_form():
    record = {"messages": [SYSTEM, ASK, ANSWER, *MORE]}
    assert sft_messages({"messages": sft_messages(record)[1]}) == sft_messages(record)


def test_filled_columns_decide_where_several_shapes_fit():
    empty = {"prompt": "What is a fjord?", "completion": "A narrow arm of the sea."}
    for nothing in (None, "", []):
        assert sft_messages({"messages": nothing, **empty}) == ("prompt-completion", [ASK, ANSWER])
    both = {"messages": [ASK, ANSWER], "prompt": "Other?", "completion": "Other."}
    assert sft_messages(both) == ("messages", [ASK, ANSWER])
    assert reason({"messages": None, "prompt": None, "completion": None}) == "'messages' holds no messages"
    assert reason({"prompt": "", "completion": ""}) == "an empty user message"


def test_cells_of_a_table_may_hold_json():
    cell = json.dumps([ASK, ANSWER]).replace('"', '""')
    python = repr([ASK, ANSWER]).replace('"', '""')
    report = examine(read_text(f'messages,source\n"{cell}",a\n"{python}",b\n'))
    assert [row.messages for row in report.kept] == [[ASK, ANSWER]]
    assert report.dropped == [(2, "the same as an earlier row")]
    history = '"[[""What is a fjord?"", ""A narrow arm of the sea.""]]"'
    table = f"instruction,input,output,history\nWhere?,,In Norway.,{history}\n"
    assert examine(read_text(table)).kept[0].messages == [ASK, ANSWER, *MORE]
    swift = json.dumps([{"human": "Where?", "assistant": "In Norway."}])
    assert sft_messages({"conversation": swift}) == ("ShareGPT", MORE)


def test_a_row_knows_its_question_and_how_it_is_stored():
    _, row = conversation(3, {"messages": [SYSTEM, ASK, ANSWER, *MORE], "id": 9})
    assert row.asked == [SYSTEM, ASK, ANSWER, MORE[0]]
    assert row.content == row.messages
    assert row.as_json() == {"messages": row.messages}
    assert conversation(3, row.as_json())[1] == row


def test_a_conversation_with_both_sides_beside_it_is_a_conversation():
    record = {"messages": [ASK, ANSWER], "chosen": "x", "rejected": "y"}
    assert sft_messages(record) == ("messages", [ASK, ANSWER])


# ---- what is mended


def test_neighbours_of_one_role_are_merged():
    messages = [SYSTEM, turn("developer", "In French."), ASK, turn("human", "Quickly!"), ANSWER, turn("gpt", "Cold.")]
    assert sft_messages({"messages": messages})[1] == [
        turn("system", "Be brief.\n\nIn French."),
        turn("user", "What is a fjord?\n\nQuickly!"),
        turn("assistant", "A narrow arm of the sea.\n\nCold."),
    ]


def test_a_last_question_without_an_answer_is_trimmed():
    assert sft_messages({"messages": [ASK, ANSWER, MORE[0]]})[1] == [ASK, ANSWER]


def weighed(message: dict, weight, name: str = "weight") -> dict:
    return {**message, name: weight}


@pytest.mark.parametrize(
    ("record", "messages", "words"),
    [
        ({"messages": [ASK, ANSWER, MORE[0]]}, [ASK, ANSWER], "the last question has no answer and is left out"),
        (
            {"messages": [SYSTEM, ANSWER, ASK, ANSWER]},
            [SYSTEM, ASK, ANSWER],
            "the assistant speaks first; what it says before the first question is left out",
        ),
        (
            {"messages": [ASK, ANSWER, ANSWER]},
            [ASK, turn("assistant", f"{ANSWER['content']}\n\n{ANSWER['content']}")],
            "neighbouring messages of one role are joined",
        ),
        (
            {"messages": [SYSTEM, ASK, ANSWER], "system": "Another."},
            [SYSTEM, ASK, ANSWER],
            "the conversation's own system message is kept, not the system column",
        ),
        (
            {"messages": [ASK, weighed(ANSWER, 1), MORE[0], weighed(MORE[1], 0)]},
            [ASK, ANSWER],
            "the last answers have weight 0 and are left out",
        ),
        (
            {"messages": [ASK, weighed(ANSWER, False, "train"), *MORE]},
            [ASK, ANSWER, *MORE],
            "an earlier answer has weight 0, but every answer of a conversation is learned here",
        ),
    ],
)
def test_what_is_mended_is_told(record, messages, words):
    (row,) = examine([RawRow(3, record, None)]).kept
    assert row.messages == messages
    assert row.notes == {"mended": [words]}
    report = examine([RawRow(3, record, None), RawRow(4, {"messages": [*messages, *MORE]}, None), RawRow(5, {}, None)])
    assert f"In 1 row, {words} (row 3)." in report.words()


def test_what_changes_nothing_is_not_told():
    for record in (
        {"messages": [SYSTEM, ASK, ANSWER], "system": "Be brief. "},
        {"messages": [weighed(ASK, 0), weighed(ANSWER, 1)]},
        {"messages": [ASK, weighed(ANSWER, 0.5, "loss_weight")]},
    ):
        assert conversation(1, record)[1].notes == {}


def test_what_can_not_be_written_to_a_file_is_replaced():
    _, messages = sft_messages(
        {"messages": '[{"role":"user","content":"a\\ud800"},{"role":"assistant","content":"b\\u0000"}]'}
    )
    assert messages == [turn("user", "a\ufffd"), turn("assistant", "b\ufffd")]


# ---- what is refused, and in which words


TOOL = "a message has the role '{}'; conversations with tools are not trained here"
ONLY_CALLS = "a message only calls a tool; conversations with tools are not trained here"
TALK_ALONE = "of the kind prompts"
TEXT_ALONE = "a text alone has no answer to learn from; if it is a prompt, map it to 'prompt'"
BESIDE = "an answer of unknown meaning stands beside the prompt, in '{}'; map the columns"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([turn("user", " \n"), ANSWER], "an empty user message"),
        ([ASK, turn("assistant", "")], "an empty assistant message"),
        ([ASK, turn("assistant", None)], "an empty assistant message"),
        ([ASK, {"role": "assistant"}], "an empty assistant message"),
        ([ASK, turn("assistant", [{"type": "text"}])], "an empty assistant message"),
        ([{"human": "Where?", "assistant": None}], "an empty assistant message"),
        ([ASK, turn("tool", "{}"), ANSWER], TOOL.format("tool")),
        ([ASK, ANSWER, turn("tool", "{}")], TOOL.format("tool")),
        ([said("function_call", "{}"), ANSWER], TOOL.format("function_call")),
        ([turn("x" * 999, "?")], f"a message has the unknown role '{'x' * 30}'"),
        ([{"content": "What?"}, ANSWER], "a message has no role"),
        ([turn({"deep": []}, "What?"), ANSWER], "a message has no role"),
        ([turn(0, "What?"), ANSWER], "a message has no role"),
        ([ASK], TALK_ALONE),
        ([ASK, weighed(ANSWER, 0, "loss")], "every answer has weight 0, so there is nothing to learn"),
        ([ASK, turn("assistant", None), ASK], "an empty assistant message"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], ONLY_CALLS),
        ([SYSTEM], "no assistant answer to learn from"),
        ([ANSWER], "the conversation starts with the assistant"),
        ([SYSTEM, ANSWER, SYSTEM], "a system message in the middle of the conversation"),
        ([ASK, SYSTEM, ANSWER], "a system message in the middle of the conversation"),
        ([ASK, ANSWER, SYSTEM], "a system message in the middle of the conversation"),
        (
            [turn("user", [{"type": "text", "text": "See?"}, {"type": "image_url", "image_url": {}}]), ANSWER],
            "a message holds image_url content; only text is trained here",
        ),
        ([turn("user", [{"type": {"a": 1}}]), ANSWER], "a message holds unknown content; only text is trained here"),
        ([turn("user", [{"type": "text", "text": [{"text": "deep"}]}]), ANSWER], "a message is not text but a list"),
        ([turn("user", {"text": "What?"}), ANSWER], "a message is not text but an object"),
        ([turn("user", ["What?"]), ANSWER], "a message is not text but a list"),
        ([ASK, "A narrow arm of the sea."], "a message in 'messages' is not an object"),
        ([], "'messages' holds no messages"),
        ({"role": "user"}, "'messages' holds no messages"),
        (5, "'messages' holds no messages"),
        ("What is a fjord?", "'messages' is a text, not a list of messages"),
        ("[" * 30_000, "'messages' is a text, not a list of messages"),
    ],
)
def test_messages_that_are_refused(messages, words):
    assert reason({"messages": messages}) == words


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "no columns of a known shape (found: none)"),
        ({"text": "Once upon a time"}, TEXT_ALONE),
        ({"text": " "}, "no columns of a known shape (found: text)"),
        ({"prompt": "What?", "choices": ["a", "b"], "answer": 1}, BESIDE.format("answer")),
        ({"prompt": "What?", "best_answer": "That."}, BESIDE.format("best_answer")),
        (
            {"prompt": "What?", "chosen": "That.", "rejected": "This."},
            "of the kind preference",
        ),
        ({"prompt": "What?", "chosen": "That."}, BESIDE.format("chosen")),
        (dict.fromkeys("abcdefgh"), "no columns of a known shape (found: a, b, c, d, e, f)"),
        (dict.fromkeys(["x" * 999 + str(i) for i in range(9)]), None),
        ({"conversations": []}, "'conversations' holds no messages"),
        ({"conversation": ["a"]}, "a message in 'conversation' is not an object"),
        ({"conversation": [{"human": "a", "assistant": "b"}, 5]}, "a message in 'conversation' is not an object"),
        ({"prompt": "What?", "completion": ""}, "an empty assistant message"),
        ({"prompt": None, "completion": "That."}, "an empty user message"),
        ({"prompt": ["What?"], "completion": "That."}, "'prompt' is not text but a list"),
        ({"prompt": "What?", "completion": {"text": "That."}}, "'completion' is not text but an object"),
        ({"prompt": [ASK], "completion": [ASK]}, "no assistant answer to learn from"),
        ({"instruction": "Add.", "output": None}, "an empty assistant message"),
        ({"instruction": "Add.", "output": "5", "input": {}}, "'input' is not text but an object"),
        ({"instruction": "Add.", "output": "5", "system": {"a": 1}}, "'system' is not text but an object"),
        ({"messages": [ASK, ANSWER], "image": "a.jpg"}, "the column 'image' is filled; only text is trained here"),
        ({"messages": [ASK, ANSWER], "system_prompt": {}}, "'system_prompt' is not text but an object"),
        (
            {"prompt": "What?", "completions": ["a"], "labels": [True, True]},
            "'completions' and 'labels' are not two lists of one length",
        ),
        ({"messages": [ASK, ANSWER], "system": ["a"]}, "'system' is not text but a list"),
        ({"instruction": "Add.", "output": "5", "history": 5}, "'history' is not a list of [question, answer] pairs"),
        (
            {"instruction": "Add.", "output": "5", "history": "ab"},
            "'history' is not a list of [question, answer] pairs",
        ),
        (
            {"instruction": "Add.", "output": "5", "history": {"a": 1}},
            "'history' is not a list of [question, answer] pairs",
        ),
        (
            {"instruction": "Add.", "output": "5", "history": [["a"]]},
            "'history' is not a list of [question, answer] pairs",
        ),
        ({"instruction": "Add.", "output": "5", "history": [["a", None]]}, "an empty assistant message"),
        ({"instruction": "Add.", "output": "5", "history": [["a", {}]]}, "'history' is not text but an object"),
    ],
)
def test_columns_that_are_refused(record, words):
    assert reason(record) == words or words is None


# ---- prompts without answers


@pytest.mark.parametrize("column", [
    "completion", "answers", "response", "Output", "chosen", "solution",
    "target", "best_answer", "Correct Answers", "incorrect_answers", "reference", "reference_answer", "gold",
    "output_text", "expected_output", "ground_truth", "modelResponse", "response_0", "answer_b", "human_answers",
    "chatgpt_answers", "generated_text", "ideal", "summary", "reply",
    "chosen_response", "rejected_text", "preferred_output", "non_preferred_output", "rejected_messages",
])  # fmt: skip
def test_a_column_with_an_answer_is_never_thrown_away(column):
    """Who has one beside a prompt did not mean to drop it: such a file is no list of prompts."""
    for asked in ("prompt", "question"):
        assert not is_prompt({asked: "What is two and two?", column: "Four."})
    rows = [{"question": f"What is {n}?"} for n in range(4)] + [{"question": "What is four?", column: "Two and two."}]
    report = examine(read_text("\n".join(map(json.dumps, rows))))
    assert (report.kind, len(report.kept)) == ("prompts", 4)
    name = "correct_answers" if column == "Correct Answers" else column
    learned = name.lower() in RESPONSES
    assert report.others == ({"sft": 1} if learned else {})
    assert report.dropped == ([] if learned else [(5, BESIDE.format(name))])


@pytest.mark.parametrize(
    "column", ["id", "topic", "kind", "label", "source", "answer_type", "target_language", "gold_id"]
)
def test_other_columns_leave_a_prompt_a_prompt(column):
    assert is_prompt({"prompt": "What is two and two?", column: "sum"})
    assert is_prompt({"messages": [ASK], column: "sum"})


# ---- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(ROLES)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "type", "text", "human", "assistant"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
COLUMNS = ["messages", "conversations", "conversation", "texts", "system", "history", "context", "images", "label"]
COLUMNS += ["completions", "labels", "init_prompt", "revision_response", "transcript", "other", *QUERIES, *RESPONSES]
RECORDS = st.dictionaries(st.sampled_from(COLUMNS), JSON | JSON.map(json.dumps), max_size=6)
NESTED = '[{"text":' * 400 + '"deep"' + "}]" * 400


@settings(deadline=None)
@given(RECORDS)
@example({"messages": f'[{{"role":"user","content":{NESTED}}}]'})
@example({"messages": f'[{{"role":{NESTED},"content":""}}]'})
@example({"conversation": [{"human": "a", "assistant": "b"}, [[]]]})
@example({"instruction": "a", "output": "b", "history": True})
def test_any_row_is_either_clean_or_refused_in_a_short_sentence(record):
    try:
        shape, messages = sft_messages(record)
    except RowError as error:
        assert 0 < len(str(error)) < 300
        return
    assert shape in {known.name for known in SFT_SHAPES}
    roles = [message["role"] for message in messages]
    assert roles[roles[0] == "system" :] == ["user", "assistant"] * (len(roles) // 2)
    assert all(set(m) == {"role", "content"} and m["content"].strip() for m in messages)
    "".join(message["content"] for message in messages).encode()
