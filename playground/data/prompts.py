"""Prompts without answers: what a model is asked, for training that lets it answer by itself.

The normal form is TRL's prompt-only one, `{"prompt": [messages]}`, the last one the user's. A file of plain texts in a
column `prompt` or `question` is brought there; of its other columns, `id`, `topic` and `kind` are kept as notes.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from playground.data.pairs import conversation_of, is_pair
from playground.data.shapes import ROLES, Message, Record, RowError, clean, recognise, with_system

ASKS = ("prompt", "question")
TALKS = ("messages", "conversations", "conversation")
# Columns that hold an answer in public sets: whoever has them beside a prompt did not mean to drop them.
# Case, spaces, underscores and numbers don't matter: best_answer, "Expected output", response_0.
_ANSWER = re.compile(
    r"(?:best|correct|incorrect|right|wrong|final|full|expected|reference|target|gold|golden|ideal|model|human|chatgpt"
    r"|assistant|generated)?(?:answer|response|output|completion|solution|reply|generation)(?:s|text|[abjk])?"
    r"|(?:target|reference|generated)(?:s|text)?|gold|golden|ideal|expected|groundtruth|replies|summary|assistant"
    r"|chosen|rejected"
)
NOTED = ("id", "topic", "kind")
MOST_NOTED = 60  # characters; a longer text in such a column is something else


@dataclass(frozen=True)
class Prompt:
    """A prompt that ends with the user; `row` is its number in the file, `notes` say what it is about."""

    row: int
    messages: list[Message]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> list[Message]:
        """The conversation up to the answer."""
        return self.messages

    @property
    def content(self) -> Any:
        """What a dataset's hash is made of: what is asked, not the notes on it."""
        return self.messages

    def as_json(self) -> Record:
        """The prompt as it is stored, in the form that TRL reads."""
        return {"prompt": self.messages} | ({"notes": self.notes} if self.notes else {})


def is_prompt(record: Record) -> bool:
    """True for a record that asks something and has no place for an answer."""
    if is_pair(record) or _has_answer(record):
        return False
    talk = next((record[name] for name in TALKS if name in record), None)
    return any(name in record for name in ASKS) if talk is None else _only_asks(talk)


def _has_answer(record: Record) -> bool:
    return any(_ANSWER.fullmatch(re.sub("[^a-z]", "", name.casefold())) for name in record)


def _only_asks(turns: Any) -> bool:
    """True for messages that end with the user and hold no assistant's."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return False
    roles = [ROLES.get(str(turn.get("role") or turn.get("from")).strip().lower()) for turn in turns]
    return roles[-1] == "user" and {"assistant", None}.isdisjoint(roles)


def prompt(number: int, record: Record) -> tuple[str, Prompt]:
    """(shape's name, prompt) of one record, or RowError."""
    if not is_prompt(record):
        if is_pair(record) or _has_answer(record) or recognise(record):
            raise RowError("a row with an answer among rows that are mostly prompts without one")
        raise RowError("no prompt or question among rows that are mostly prompts")
    name = next(name for name in (*TALKS, *ASKS) if name in record)
    asked = conversation_of(record[name], "prompt")
    if not asked or asked[-1]["role"] != "user":
        raise RowError(f"'{name}' does not end with the user, so there is nothing to answer")
    stands_for_answer = {"role": "assistant", "content": "."}  # conversations are cleaned with their answer
    messages = clean([*with_system(record, asked), stands_for_answer])[:-1]
    shape = "messages without an answer" if name in TALKS else f"{name} without an answer"
    return shape, Prompt(number, messages, _notes(record))


def stored_prompt(number: int, record: Record) -> Prompt:
    """A prompt as the library stores it, or as the presets are written: its notes are columns."""
    found = prompt(number, record)[1]
    return replace(found, notes=record["notes"]) if "notes" in record else found


def _notes(record: Record) -> dict[str, Any]:
    """The small columns that say what a prompt is about; a file of the library's own form has them under `notes`."""
    own = record.get("notes")
    columns = own if isinstance(own, dict) else record
    found = {name: columns.get(name) for name in NOTED}
    return {name: text for name, text in found.items() if isinstance(text, str) and 0 < len(text) <= MOST_NOTED}
