"""What a row is, what a shape is, and the pieces from which shapes are made: texts, turns, roles, and their cleaning.

The normal form of an SFT row is `{"messages": [{"role", "content"}, …]}` with roles system, user and assistant, the
last one the assistant's. A row that can't be brought there raises RowError with the reason that the report shows; what
was mended on the way is told in the row's notes.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
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
TOOLS = {"tool", "function", "function_call", "function_response", "observation", "ipython"}
TEXT_PARTS = ("text", "input_text", "output_text")
MESSAGE = "a message"  # what its text is called in reasons
MEDIA = ("image", "images", "audio", "audios", "video", "videos")  # columns of sets that show as well as tell
SYSTEMS = ("system", "system_prompt")
# The beginning of a list of messages, as JSON, Python or NumPy spells it; it may be cut off anywhere.
_LISTED = re.compile(r"\s*+\[\s*+\{\s*+['\"](?:role|content|from|value(?=.*['\"]from['\"]\s*+:))['\"]\s*+:", re.DOTALL)
MOST_MESSAGES = 100  # rendering a conversation takes time with the square of its turns

# What may be mended, as the report says it: "In 3 rows, …".
TRIMMED = "the last question has no answer and is left out"
OPENED = "the assistant speaks first; what it says before the first question is left out"
MERGED = "neighbouring messages of one role are joined"
TWO_SYSTEMS = "the conversation's own system message is kept, not the system column"


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
class Reading:
    """How a file is read where its content leaves a choice; each default is the most common wish.

    kind: of rows to take from a mixed file, or from a shape that offers several; "" leaves it to the content.
    columns: field of the normal form → the column that holds it, where a person said so.
    pairs_by: which answers of a ranking are paired: "best-worst", "adjacent" or "all".
    min_margin: two answers whose scores are nearer than this make no pair.
    better: what "better" means where a set knows two meanings: "helpful" or "safe".
    good_from: ratings from here on are thumbs up; None takes the middle of the scale that the file shows.
    """

    kind: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    pairs_by: str = "best-worst"
    min_margin: float = 0.0
    better: str = "helpful"
    good_from: float | None = None


@dataclass(frozen=True)
class Shape:
    """A way in which people write rows down, known by its content.

    name: what a person reads: "412 preference pairs in {name} shape"; kind: of the rows it gives;
    convert: (number in the file, record, how to read it) → rows, or RowError with the reason why there are none.
    """

    name: str
    kind: str
    fits: Callable[[Record], bool]
    convert: Callable[[int, Record, Reading], list[Any]]


def has(*names: str) -> Callable[[Record], bool]:
    """The question whether a record has all of these columns."""
    wanted = set(names)
    return lambda record: wanted <= record.keys()


def fitting(shapes: Iterable[Shape], record: Record) -> Shape | None:
    """The first of these shapes that fits a record."""
    return next((shape for shape in shapes if shape.fits(record)), None)


def converted(shape: Shape, number: int, record: Record, reading: Reading) -> list[Any]:
    """The rows of a record, which is shown to its shape without the empty columns if the shape fits it so."""
    full = filled(record)
    return shape.convert(number, full if shape.fits(full) else record, reading)


def filled(record: Record) -> Record:
    """A record without its empty columns: a table of mixed rows has every column in every row."""
    return {name: value for name, value in record.items() if not is_blank(value)}


def is_blank(value: Any) -> bool:
    """True for nothing, an empty list and a text of spaces."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def number_of(value: Any) -> float | None:
    """A finite number, written as one or as a text."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def column(record: Record, wanted: tuple[str, ...]) -> str | None:
    """The first of these columns that a record has."""
    return next((name for name in wanted if name in record), None)


def mend(mended: list[str] | None, what: str) -> None:
    """Keeps in mind what was mended, once."""
    if mended is not None and what not in mended:
        mended.append(what)


def clean(messages: list[Message], mended: list[str] | None = None) -> list[Message]:
    """One system message in front at most, neighbours of one role merged, the last word the assistant's."""
    merged: list[Message] = []
    for message in messages:
        if not message["content"].strip():
            if message["role"] == "system":
                continue  # many exports write one for every row, filled or not
            raise RowError(f"an empty {message['role']} message")
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": merged[-1]["content"] + "\n\n" + message["content"]}
            mend(mended, MERGED)
        else:
            merged.append(message)
    if any(message["role"] == "system" for message in merged[1:]):
        raise RowError("a system message in the middle of the conversation")
    while merged and merged[-1]["role"] != "assistant":
        merged.pop()  # a last question without an answer teaches nothing
        mend(mended, TRIMMED)
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
        if field != MESSAGE and _LISTED.match(value) and not _is_json(value):
            raise RowError(f"{field} looks like a list of messages that can't be read")
        return UNSAFE.sub("\ufffd", value)
    if value is None:
        return ""  # clean() says whose message is empty
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if other := [part["type"] for part in value if part.get("type", "text") not in TEXT_PARTS]:
            kind = shown(other[0])[:30] if isinstance(other[0], str) else "unknown"
            raise RowError(f"{field} holds {kind} content; only text is trained here")
        texts = [first(part, "text", "value") for part in value]
        if not any(isinstance(text, list) for text in texts):  # a hostile row nests parts until the stack ends
            return "\n".join(text_of(text, field) for text in texts)
    raise RowError(f"{field} is not text but {KINDS[type(value)]}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


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


def _message(turn: Record) -> Message:
    role = role_of(first(turn, "role", "from"))
    content = text_of(first(turn, "content", "value"), MESSAGE)
    if turn.get("tool_calls") and not content.strip():
        raise RowError("a message only calls a tool; conversations with tools are not trained here")
    return {"role": role, "content": content}


def role_of(name: Any) -> str:
    """system, user or assistant, whatever a file calls them."""
    role = name.strip().lower() if isinstance(name, str) else ""
    if not role:
        raise RowError("a message has no role")
    if role in TOOLS:
        raise RowError(f"a message has the role '{role}'; conversations with tools are not trained here")
    if role not in ROLES:
        raise RowError(f"a message has the unknown role '{shown(role)[:30]}'")
    return ROLES[role]


def _exchange(turn: Record) -> list[Message]:
    """ms-swift writes a whole exchange as one object: {"human": …, "assistant": …}."""
    return [{"role": ROLES[name], "content": text_of(turn[name], MESSAGE)} for name in ("human", "assistant")]


def first(record: Record, *names: str) -> Any:
    """The value of the first of these fields that is there and not null."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def system_of(record: Record) -> list[Message]:
    """The system column as a message, if it says anything."""
    name = next((name for name in SYSTEMS if record.get(name) is not None), "system")
    text = text_of(record.get(name), f"'{name}'").strip()
    return [{"role": "system", "content": text}] if text else []


def is_turns(value: Any) -> bool:
    """True for a list that begins with an object."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def with_system(record: Record, messages: list[Message], mended: list[str] | None = None) -> list[Message]:
    """A conversation's own system message wins over the column."""
    column = system_of(record)
    if not (messages and messages[0]["role"] == "system" and messages[0]["content"].strip()):
        return column + messages
    if column and column[0]["content"] != messages[0]["content"].strip():
        mend(mended, TWO_SYSTEMS)
    return messages
