"""Shapes of rows: recognised by content, converted to one normal form. One small function a shape, one table.

The normal form of an SFT row is `{"messages": [{"role", "content"}, …]}` with roles system, user and assistant, the
last one the assistant's. A row that can't be brought there raises RowError with the reason that the report shows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from playground.data.records import KINDS, UNSAFE, shown

Record = dict[str, Any]
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
class Shape:
    """A way in which people write rows down, known by its columns."""

    name: str
    columns: tuple[str, ...]
    convert: Callable[[Record], list[dict[str, str]]]


def sft_messages(record: Record) -> tuple[str, list[dict[str, str]]]:
    """(shape's name, clean messages) of one record, or RowError."""
    shape = recognise(record)
    if shape is None:
        if {"chosen", "rejected"} <= set(record):
            raise RowError("a preference pair (chosen and rejected), which teaches preferences, not single answers")
        columns = ", ".join(shown(name)[:30] for name in list(record)[:6]) or "none"
        raise RowError(f"no columns of a known shape (found: {columns})")
    return shape.name, clean(shape.convert(record))


def recognise(record: Record) -> Shape | None:
    """The first shape in the table whose columns are filled, else the first whose columns are there at all."""
    filled = {name for name, value in record.items() if value not in (None, "", [])}
    found = (shape for names in (filled, set(record)) for shape in SFT_SHAPES if names.issuperset(shape.columns))
    return next(found, None)


def clean(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """One system message in front at most, neighbours of one role merged, the last word the assistant's."""
    merged: list[dict[str, str]] = []
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


def _text(value: Any, field: str) -> str:
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
            return "\n".join(_text(text, field) for text in texts)
    raise RowError(f"{field} is not text but {KINDS[type(value)]}")


def _turns(value: Any, field: str) -> list[dict[str, str]]:
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
    return {"role": ROLES[role], "content": _text(_first(turn, "content", "value"), "a message")}


def _exchange(turn: Record) -> list[dict[str, str]]:
    """ms-swift writes a whole exchange as one object: {"human": …, "assistant": …}."""
    return [{"role": ROLES[name], "content": _text(turn[name], "a message")} for name in ("human", "assistant")]


def _first(record: Record, *names: str) -> Any:
    """The value of the first of these fields that is there and not null."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def _system(record: Record) -> list[dict[str, str]]:
    """The system column as a message, if it says anything."""
    text = _text(record.get("system"), "'system'").strip()
    return [{"role": "system", "content": text}] if text else []


def _pair(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt.strip()}, {"role": "assistant", "content": answer.strip()}]


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _with_system(record: Record, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """A conversation's own system message wins over the column."""
    own = messages[0]["role"] == "system" and messages[0]["content"].strip()
    return messages if own else _system(record) + messages


def _from_turns(field: str) -> Callable[[Record], list[dict[str, str]]]:
    return lambda record: _with_system(record, _turns(record[field], field))


def _from_prompt_completion(record: Record) -> list[dict[str, str]]:
    prompt, completion = record["prompt"], record["completion"]
    if not _is_turns(prompt) and not _is_turns(completion):
        return _system(record) + _pair(_text(prompt, "'prompt'"), _text(completion, "'completion'"))
    before, after = (
        _turns(value, field) if _is_turns(value) else [{"role": role, "content": _text(value, f"'{field}'").strip()}]
        for value, field, role in ((prompt, "prompt", "user"), (completion, "completion", "assistant"))
    )
    repeated = after[: len(before)] == before  # some sets write the whole conversation as the completion
    return _with_system(record, after if repeated else before + after)


def _from_alpaca(record: Record) -> list[dict[str, str]]:
    asked = _text(record["instruction"], "'instruction'") + "\n" + _text(record.get("input"), "'input'")
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise RowError("'history' is not a list of [question, answer] pairs")
    earlier = [message for pair in history for message in _pair(*(_text(text, "'history'") for text in pair))]
    return _system(record) + earlier + _pair(asked, _text(record["output"], "'output'"))


SFT_SHAPES = (
    Shape("messages", ("messages",), _from_turns("messages")),
    Shape("sharegpt", ("conversations",), _from_turns("conversations")),
    Shape("sharegpt", ("conversation",), _from_turns("conversation")),
    Shape("prompt-completion", ("prompt", "completion"), _from_prompt_completion),
    Shape("alpaca", ("instruction", "output"), _from_alpaca),
)
