"""Shapes of rows: recognised by content, converted to one normal form. One small function a shape, one table.

The normal form of an SFT row is `{"messages": [{"role", "content"}, …]}` with roles system, user and assistant, the
last one the assistant's. A row that can't be brought there raises RowError with the reason that the report shows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playground.data.records import KINDS, UNSAFE, shown

Record = dict[str, Any]
Message = dict[str, str]
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "hum": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
}
MOST_MESSAGES = 100  # rendering a conversation takes time with the square of its turns


class RowError(ValueError):
    """Why one row can't be used."""


@dataclass(frozen=True)
class Row:
    """A conversation that can be trained on; `row` is its number in the file, `notes` say where it came from."""

    row: int
    messages: list[Message]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> list[Message]:
        """The conversation up to its last answer."""
        return self.messages[:-1]

    @property
    def content(self) -> Any:
        """What a dataset's hash is made of: what is learned, not where it came from."""
        return self.messages

    def as_json(self) -> Record:
        """The row as it is stored."""
        return {"messages": self.messages} | ({"notes": self.notes} if self.notes else {})


@dataclass(frozen=True)
class Shape:
    """A way in which people write rows down, known by its columns."""

    name: str
    columns: tuple[str, ...]
    convert: Callable[[Record], list[Message]]


def conversation(number: int, record: Record) -> tuple[str, Row]:
    """(shape's name, row) of one record, or RowError."""
    shape = recognise(record)
    if shape is None:
        if {"chosen", "rejected"} <= set(record):
            raise RowError("a preference pair (chosen and rejected) among rows that are mostly conversations")
        columns = ", ".join(shown(name)[:30] for name in list(record)[:6]) or "none"
        raise RowError(f"no columns of a known shape (found: {columns})")
    return shape.name, Row(number, clean(shape.convert(record)))


def recognise(record: Record) -> Shape | None:
    """The first shape in the table whose columns are filled, else the first whose columns are there at all."""
    filled = {name for name, value in record.items() if value not in (None, "", [])}
    found = (shape for names in (filled, set(record)) for shape in SFT_SHAPES if names.issuperset(shape.columns))
    return next(found, None)


def clean(messages: list[Message]) -> list[Message]:
    """One system message in front at most, neighbours of one role merged, the last word the assistant's."""
    merged: list[Message] = []
    for message in messages:
        if not message["content"].strip():
            if message["role"] == "system":
                continue  # many exports write one for every row, filled or not
            raise RowError(f"an empty {message['role']} message")
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1]["content"] += "\n\n" + message["content"]
        else:
            merged.append(dict(message))
    if any(message["role"] == "system" for message in merged[1:]):
        raise RowError("a system message in the middle of the conversation")
    while merged and merged[-1]["role"] != "assistant":
        merged.pop()  # a last question without an answer teaches nothing
    if len(merged) > MOST_MESSAGES:
        raise RowError(f"more than {MOST_MESSAGES} messages in one conversation")
    if not merged:
        raise RowError("no assistant answer to learn from")
    if next(m["role"] for m in merged if m["role"] != "system") != "user":
        raise RowError("the conversation starts with the assistant")
    return merged


def text_of(value: Any, field: str) -> str:
    """A text field's text, "" where it is missing; lists of {"type": "text"} parts are joined."""
    if isinstance(value, str):
        return UNSAFE.sub("\ufffd", value)
    if value is None:
        return ""  # clean() says whose message is empty
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if other := [part["type"] for part in value if part.get("type", "text") != "text"]:
            kind = shown(other[0])[:30] if isinstance(other[0], str) else "unknown"
            raise RowError(f"{field} holds {kind} content; only text is trained here")
        texts = [_first(part, "text", "value") for part in value]
        if not any(isinstance(text, list) for text in texts):  # a hostile row nests parts until the stack ends
            return "\n".join(text_of(text, field) for text in texts)
    raise RowError(f"{field} is not text but {KINDS[type(value)]}")


def turns_of(value: Any, field: str) -> list[Message]:
    """Messages from a list of {"role", "content"} or {"from", "value"} objects, whatever the roles are called."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=lambda _: None)  # NaN, Infinity
        except (ValueError, RecursionError):
            raise RowError(f"'{field}' is a text, not a list of messages") from None
    if not isinstance(value, list) or not value:
        raise RowError(f"'{field}' holds no messages")
    messages = []
    for turn in value:
        if not isinstance(turn, dict):
            raise RowError(f"a message in '{field}' is not an object")
        messages += _exchange(turn) if set(turn) == {"human", "assistant"} else [_message(turn)]
    return messages


def _message(turn: Record) -> dict[str, str]:
    said = _first(turn, "role", "from")
    role = said.strip().lower() if isinstance(said, str) else ""
    if not role:
        raise RowError("a message has no role")
    if role not in ROLES:
        raise RowError(f"a message has the unknown role '{shown(role)[:30]}'")
    return {"role": ROLES[role], "content": text_of(_first(turn, "content", "value"), "a message")}


def _exchange(turn: Record) -> list[Message]:
    """ms-swift writes a whole exchange as one object: {"human": …, "assistant": …}."""
    return [{"role": ROLES[name], "content": text_of(turn[name], "a message")} for name in ("human", "assistant")]


def _first(record: Record, *names: str) -> Any:
    """The value of the first of these fields that is there and not null."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def system_of(record: Record) -> list[Message]:
    """The system column as a message, if it says anything."""
    text = text_of(record.get("system"), "'system'").strip()
    return [{"role": "system", "content": text}] if text else []


def _pair(prompt: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": prompt.strip()}, {"role": "assistant", "content": answer.strip()}]


def is_turns(value: Any) -> bool:
    """True for a list that begins with an object."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def with_system(record: Record, messages: list[Message]) -> list[Message]:
    """A conversation's own system message wins over the column."""
    own = messages[0]["role"] == "system" and messages[0]["content"].strip()
    return messages if own else system_of(record) + messages


def _from_turns(field: str) -> Callable[[Record], list[Message]]:
    return lambda record: with_system(record, turns_of(record[field], field))


def _from_prompt_completion(record: Record) -> list[Message]:
    prompt, completion = record["prompt"], _first(record, "completion", "answer", "response")
    if not is_turns(prompt) and not is_turns(completion):
        return system_of(record) + _pair(text_of(prompt, "'prompt'"), text_of(completion, "'completion'"))
    before, after = (
        turns_of(value, field) if is_turns(value) else [{"role": role, "content": text_of(value, f"'{field}'").strip()}]
        for value, field, role in ((prompt, "prompt", "user"), (completion, "completion", "assistant"))
    )
    repeated = after[: len(before)] == before  # some sets write the whole conversation as the completion
    return with_system(record, after if repeated else before + after)


def _from_alpaca(record: Record) -> list[Message]:
    asked = text_of(record["instruction"], "'instruction'") + "\n" + text_of(record.get("input"), "'input'")
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise RowError("'history' is not a list of [question, answer] pairs")
    earlier = [message for pair in history for message in _pair(*(text_of(text, "'history'") for text in pair))]
    return system_of(record) + earlier + _pair(asked, text_of(record["output"], "'output'"))


SFT_SHAPES = (
    Shape("messages", ("messages",), _from_turns("messages")),
    Shape("sharegpt", ("conversations",), _from_turns("conversations")),
    Shape("sharegpt", ("conversation",), _from_turns("conversation")),
    Shape("prompt-completion", ("prompt", "completion"), _from_prompt_completion),
    Shape("prompt-answer", ("prompt", "answer"), _from_prompt_completion),
    Shape("prompt-response", ("prompt", "response"), _from_prompt_completion),
    Shape("alpaca", ("instruction", "output"), _from_alpaca),
)
