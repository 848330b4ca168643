"""Preference pairs: one prompt, two answers, the first preferred; recognised by content, converted to one normal form.

The normal form is TRL's explicit conversational one, `{"prompt": [messages], "chosen": [answer], "rejected":
[answer]}`: the prompt ends with the user, each side is one assistant message. A transcript is split at its last answer;
what the two sides share before it is the prompt.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from playground.data.records import is_chat, shown
from playground.data.shapes import (
    ROLES,
    TRIMMED,
    Message,
    Reading,
    Record,
    RowError,
    Shape,
    clean,
    is_blank,
    is_turns,
    mend,
    number_of,
    text_of,
    turns_of,
    with_system,
)

SIDES = ("chosen", "rejected")
STRIPPED = "both answers repeat the prompt, which is cut off there"
# HH-RLHF's turns; "Hum:" is a slip that its files repeat.
TURN = re.compile(r"(?:^|\n\n)(Human|Hum|Assistant):[ \t]?")
# The turns of HelpSteer's prompts, the first one the user's.
STEERED = re.compile(r"\s*<extra_id_1>(User|Assistant)\n")


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
    return record.keys() >= set(SIDES)


def pair_shape(name: str, fits: Callable[[Record], bool], canonical: Callable[[Record, Reading], Record]) -> Shape:
    """A shape whose records are brought to prompt, chosen and rejected, where pair() checks them."""

    def convert(number: int, record: Record, reading: Reading) -> list[Pair]:
        found = pair(number, canonical(record, reading))
        if found.notes.get("margin", math.inf) < reading.min_margin:
            raise RowError(f"the two answers' scores are nearer than {reading.min_margin:g}")
        return [found]

    return Shape(name, "preference", fits, convert)


def pair(number: int, record: Record) -> Pair:
    """The pair in a record of prompt, chosen and rejected, or RowError with the reason why it is none."""
    for side in SIDES:
        if is_blank(record.get(side)):
            raise RowError(f"'{side}' is empty")
    sides = {side: opened(record[side]) for side in SIDES}
    prompt = None if is_blank(record.get("prompt")) else opened(record["prompt"])
    plain = all(isinstance(value, str) and not is_transcript(value) for value in sides.values())
    mended: list[str] = []
    asked, *answers = (_from_texts if plain else _from_conversations)(sides, prompt, mended)
    if not asked:
        raise RowError("'prompt' holds no question")
    for side, answer in zip(SIDES, answers, strict=True):
        if not answer.strip():
            raise RowError(f"the {side} answer is empty")
    if answers[0].strip() == answers[1].strip():
        raise RowError("both answers are the same")
    # cleaned with their prompt: two assistant turns in a row are one answer
    asked = with_system(record, asked, mended)
    talks = [clean([*asked, {"role": "assistant", "content": answer.strip()}], mended) for answer in answers]
    chosen, rejected = (talk[-1]["content"].strip() for talk in talks)
    notes = _margin(record) | ({"mended": mended} if mended else {})
    return Pair(number, talks[0][:-1], chosen, rejected, _soft_label(record), notes)


def _soft_label(record: Record) -> float:
    """The probability that `chosen` is the better answer, 1 where none is given.

    Many public sets have a column `label` that means something else, so an upload's label is called `soft_label`.
    `label` is taken only as a fraction in a file of the library's own form, which has no further columns.
    """
    value = record.get("soft_label")
    own = set(record) <= {"prompt", *SIDES, "label", "notes"} and isinstance(record.get("prompt"), list)
    if value is None and own and isinstance(record.get("label"), float):
        value = record["label"]
    label = number_in(value, "the soft label")
    if label is not None and not 0 <= label <= 1:
        raise RowError(f"the soft label is {shown(str(value))[:20]}, not a number from 0 to 1")
    return 1.0 if label is None else label


def _margin(record: Record) -> dict[str, Any]:
    """By how much the chosen answer is the better one, where the record or its notes say so."""
    own = record.get("notes")
    value = record.get("margin", own.get("margin") if isinstance(own, dict) else None)
    margin = number_in(value, "the margin")
    if margin is not None and margin < 0:
        raise RowError("the margin is below 0: the rejected answer is rated higher than the chosen one")
    return {} if margin is None else {"margin": margin}


def number_in(value: Any, what: str) -> float | None:
    """A number, also where a table holds it as text; None where the field is empty."""
    if is_blank(value):
        return None
    number = None if isinstance(value, bool) else number_of(value)
    if number is None:
        raise RowError(f"{what} is '{shown(str(value))[:20]}', not a number")
    return number


Pieces = tuple[list[Message], str, str]


def _from_texts(sides: dict[str, str], prompt: Any, mended: list[str]) -> Pieces:
    """Answers as plain texts, after a prompt of their own or with the prompt as their common beginning."""
    chosen, rejected = (text_of(sides[side], f"'{side}'") for side in SIDES)
    if prompt is None:
        shorter = min(len(chosen), len(rejected))
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), shorter)
        shared = chosen[: max(chosen.rfind(space, 0, same) for space in " \t\n") + 1]  # no word is cut in two
        if not shared.strip():
            raise RowError("no prompt, and the two answers have no common beginning that could be one")
        return _user(shared), chosen[len(shared) :], rejected[len(shared) :]
    before = prompt.strip() if isinstance(prompt, str) else ""
    if before and all(_repeats(text.lstrip(), before) for text in (chosen, rejected)):
        chosen, rejected = (text.lstrip()[len(before) :] for text in (chosen, rejected))
        mend(mended, STRIPPED)
    return conversation_of(prompt, "prompt"), chosen, rejected


def _from_conversations(sides: dict[str, Any], prompt: Any, mended: list[str]) -> Pieces:
    """Whole conversations or transcripts, or lists that hold the answer alone."""
    before = conversation_of(prompt, "prompt") if prompt is not None else []
    split = [split_answer(conversation_of(value, side), side, mended) for side, value in sides.items()]
    (asked, chosen), (other, rejected) = split
    if asked != other:
        raise RowError("the two sides part ways before the last answer, so they answer different prompts")
    if not before:
        if not asked:
            raise RowError("no prompt: each side holds an answer alone")
        return asked, chosen, rejected
    if not _holds(asked, before, range(len(asked))):
        asked = before if _holds(before, asked, [len(before) - len(asked)]) else before + asked
    return asked, chosen, rejected


def split_answer(messages: list[Message], side: str, mended: list[str] | None = None) -> tuple[list[Message], str]:
    """(what comes before the last answer, the last answer)."""
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
        mend(mended, TRIMMED)
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
    if is_transcript(text):
        pieces = TURN.split(text)[1:]  # role, text, role, text, …; what stands before the first role is no turn
    elif field == "prompt" and STEERED.search(text):
        pieces = ["User", *STEERED.split(text)]
    else:
        role = "user" if field == "prompt" else "assistant"
        return [{"role": role, "content": text.strip()}]
    turns = [
        {"role": ROLES[role.lower()], "content": said.strip()}
        for role, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if field == "prompt" and turns and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()  # "…\n\nAssistant:" asks for the answer
    return turns


def is_transcript(value: Any) -> bool:
    """True for a text that begins with one of HH-RLHF's turns."""
    return isinstance(value, str) and TURN.match(value.lstrip()) is not None


def _holds(messages: list[Message], part: list[Message], starts: Iterable[int]) -> bool:
    """True if these messages hold the others from one of these places on, whatever the spacing."""
    said, wanted = ([(m["role"], m["content"].split()) for m in turns] for turns in (messages, part))
    return any(start >= 0 and said[start : start + len(wanted)] == wanted for start in starts)


def _repeats(text: str, prompt: str) -> bool:
    """True if a text repeats its prompt; "Hello! I am well." does not repeat "Hello"."""
    rest = text.removeprefix(prompt)
    return text.startswith(prompt) and (not rest or rest[0].isspace() or not prompt[-1].isalnum())


def opened(value: Any) -> Any:
    """A cell of a table may hold a list of messages as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            found = json.loads(value, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return value
        return found if is_chat(found) else value
    return value


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text.strip()}]
