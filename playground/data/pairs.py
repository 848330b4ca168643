"""Preference pairs: one prompt, two answers, the first preferred; recognised by content, converted to one normal form.

The normal form is TRL's explicit conversational one, `{"prompt": [messages], "chosen": [answer], "rejected":
[answer]}`: the prompt ends with the user, each side is one assistant message. A transcript is split at its last answer;
what the two sides share before it is the prompt.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from playground.data.records import is_chat, shown
from playground.data.shapes import Message, Record, RowError, clean, is_turns, system_of, text_of, turns_of

SIDES = ("chosen", "rejected")
# HH-RLHF's turns; "Hum:" is a slip that its files repeat.
TURN = re.compile(r"(?:^|\n\n)(Human|Hum|Assistant):[ \t]?")


@dataclass(frozen=True)
class Pair:
    """A prompt with the answer that is preferred and the one that is not; `row` is its number in the file.

    label: the probability that `chosen` is the better one; 1 unless whoever compared them was in doubt.
    """

    row: int
    prompt: list[Message]
    chosen: str
    rejected: str
    label: float = 1.0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> list[Message]:
        """The conversation up to the answers."""
        return self.prompt

    @property
    def content(self) -> Any:
        """What a dataset's hash is made of; a certain label is no part of it, nor is where the pair came from."""
        return [self.prompt, self.chosen, self.rejected] + ([self.label] if self.label != 1 else [])

    def conversation(self, side: str) -> list[Message]:
        """The prompt with the answer of one side, "chosen" or "rejected"."""
        return [*self.prompt, {"role": "assistant", "content": getattr(self, side)}]

    def as_json(self) -> Record:
        """The pair as it is stored, in the form that TRL reads."""
        found: Record = {"prompt": self.prompt}
        found |= {side: [{"role": "assistant", "content": getattr(self, side)}] for side in SIDES}
        found |= {"label": self.label} if self.label != 1 else {}
        return found | ({"notes": self.notes} if self.notes else {})


def is_pair(record: Record) -> bool:
    """True for a record with both sides; whether they are filled is told row by row."""
    return set(SIDES) <= set(record)


def pair(number: int, record: Record) -> tuple[str, Pair]:
    """(shape's name, pair) of one record, or RowError."""
    if not is_pair(record):
        raise RowError("no chosen and rejected answer among rows that are mostly preference pairs")
    for side in SIDES:
        if _is_blank(record[side]):
            raise RowError(f"'{side}' is empty")
    sides = {side: _opened(record[side]) for side in SIDES}
    prompt = None if _is_blank(record.get("prompt")) else _opened(record["prompt"])
    if all(isinstance(value, str) for value in sides.values()) and not any(map(_is_transcript, sides.values())):
        shape, pieces = _from_texts(sides, prompt)
    else:
        shape, pieces = _from_conversations(sides, prompt)
    asked, *answers = pieces
    if not asked:
        raise RowError("'prompt' holds no question")
    for side, answer in zip(SIDES, answers, strict=True):
        if not answer.strip():
            raise RowError(f"the {side} answer is empty")
    if answers[0].strip() == answers[1].strip():
        raise RowError("both answers are the same")
    own = asked[0]["role"] == "system" and asked[0]["content"].strip()
    asked = asked if own else system_of(record) + asked
    # cleaned with their prompt: two assistant turns in a row are one answer
    first, second = (clean([*asked, {"role": "assistant", "content": answer.strip()}]) for answer in answers)
    label = _soft_label(record)
    return shape, Pair(number, first[:-1], first[-1]["content"].strip(), second[-1]["content"].strip(), label)


def _soft_label(record: Record) -> float:
    """The probability that `chosen` is the better answer, 1 where none is given.

    Many public sets have a column `label` that means something else, so an upload's label is called `soft_label`.
    `label` is taken only as a fraction in a file of the library's own form, which has no further columns.
    """
    value = record.get("soft_label")
    own = set(record) <= {"prompt", *SIDES, "label", "notes"} and isinstance(record.get("prompt"), list)
    if value is None and own and isinstance(record.get("label"), float):
        value = record["label"]
    if _is_blank(value):
        return 1.0
    try:
        label = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        label = -1.0
    if not 0 <= label <= 1:
        raise RowError(f"the soft label is {shown(str(value))[:20]}, not a number from 0 to 1")
    return label


Pieces = tuple[list[Message], str, str]


def _from_texts(sides: dict[str, str], prompt: Any) -> tuple[str, Pieces]:
    """Answers as plain texts, after a prompt of their own or with the prompt as their common beginning."""
    chosen, rejected = (text_of(sides[side], f"'{side}'") for side in SIDES)
    if prompt is None:
        shorter = min(len(chosen), len(rejected))
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), shorter)
        shared = chosen[: max(chosen.rfind(space, 0, same) for space in " \t\n") + 1]  # no word is cut in two
        if not shared.strip():
            raise RowError("no prompt, and the two answers have no common beginning that could be one")
        return "implicit prompt", (_user(shared), chosen[len(shared) :], rejected[len(shared) :])
    before = prompt.strip() if isinstance(prompt, str) else ""
    if before and all(_repeats(text.lstrip(), before) for text in (chosen, rejected)):
        chosen, rejected = (text.lstrip()[len(before) :] for text in (chosen, rejected))
    return "prompt, chosen, rejected", (conversation_of(prompt, "prompt"), chosen, rejected)


def _from_conversations(sides: dict[str, Any], prompt: Any) -> tuple[str, Pieces]:
    """Whole conversations or transcripts, or lists that hold the answer alone."""
    shape = "HH transcript" if any(map(_is_transcript, sides.values())) else "conversations"
    before = conversation_of(prompt, "prompt") if prompt is not None else []
    split = [_split(conversation_of(value, side), side) for side, value in sides.items()]
    (asked, chosen), (other, rejected) = split
    if asked != other:
        raise RowError("the two sides part ways before the last answer, so they answer different prompts")
    if not before:
        if not asked:
            raise RowError("no prompt: each side holds an answer alone")
        return shape, (asked, chosen, rejected)
    if not _holds(asked, before, range(len(asked))):
        asked = before if _holds(before, asked, [len(before) - len(asked)]) else before + asked
    return shape, (asked, chosen, rejected)


def _split(messages: list[Message], side: str) -> tuple[list[Message], str]:
    """(what comes before the last answer, the last answer)."""
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if not messages:
        raise RowError(f"'{side}' holds no assistant answer")
    return messages[:-1], messages[-1]["content"]


def conversation_of(value: Any, field: str) -> list[Message]:
    """Messages from a list of turns, one turn, a transcript, or a plain text (which is the user's in a prompt)."""
    if isinstance(value, dict):
        value = [value]
    if is_turns(value):
        return turns_of(value, field)
    text = text_of(value, f"'{field}'").lstrip()
    if not _is_transcript(text):
        role = "user" if field == "prompt" else "assistant"
        return [{"role": role, "content": text.strip()}]
    pieces = TURN.split(text)[1:]  # role, text, role, text, …; what stands before the first role is no turn
    roles = {"Human": "user", "Hum": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[role], "content": said.strip()} for role, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if field == "prompt" and turns and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()  # "…\n\nAssistant:" asks for the answer
    return turns


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and TURN.match(value.lstrip()) is not None


def _holds(messages: list[Message], part: list[Message], starts: Iterable[int]) -> bool:
    """True if these messages hold the others from one of these places on, whatever the spacing."""
    said, wanted = ([(m["role"], m["content"].split()) for m in turns] for turns in (messages, part))
    return any(start >= 0 and said[start : start + len(wanted)] == wanted for start in starts)


def _repeats(text: str, prompt: str) -> bool:
    """True if a text repeats its prompt; "Hello! I am well." does not repeat "Hello"."""
    rest = text.removeprefix(prompt)
    return text.startswith(prompt) and (not rest or rest[0].isspace() or not prompt[-1].isalnum())


def _opened(value: Any) -> Any:
    """A cell of a table may hold a list of messages as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            found = json.loads(value, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return value
        return found if is_chat(found) else value
    return value


def _is_blank(value: Any) -> bool:
    return value in (None, "", []) or (isinstance(value, str) and not value.strip())


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text.strip()}]
