"""Prompts without answers: what a model is asked, for training that lets it answer by itself.

The normal form is TRL's prompt-only one, `{"prompt": [messages]}`, the last one the user's. A file of plain texts in a
column `prompt` or `question` is brought there; of its other columns, `id`, `topic` and `kind` are kept as notes.
"""

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from playground.data.conversations import ABOUT, TALKS, asked_of, joined, only_asks
from playground.data.pairs import is_pair
from playground.data.shapes import (
    Message,
    Reading,
    Record,
    RowError,
    Shape,
    clean,
    column,
    has,
    is_blank,
    mend,
    with_system,
)

ASKS = ("prompt", "question", "query", "instruction", "problem")
# Columns that hold an answer in public sets: whoever has them beside a prompt did not mean to drop them.
# Case, spaces, underscores and numbers don't matter: best_answer, "Expected output", response_0.
_ANSWER = re.compile(
    r"(?:best|correct|incorrect|right|wrong|final|full|expected|reference|target|gold|golden|ideal|model|human|chatgpt"
    r"|assistant|generated|chosen|rejected|preferred|nonpreferred)?(?:answer|response|output|completion|solution|reply|generation)(?:s|text|[abjk])?"
    r"|(?:target|reference|generated)(?:s|text)?|gold|golden|ideal|expected|groundtruth|replies|summary|assistant"
    r"|(?:chosen|rejected|preferred)(?:text|messages)?|candidates"
)
NOTED = ("id", "topic", "kind")
MOST_NOTED = 60  # characters; a longer text in such a column is something else
# HHH: "…\n\nOptions:\n (A) [[[…]]]\n (B) [[[…]]]"; only the question before them is asked.
_OPTIONS = re.compile(r"\bOptions:\s*\(A\)\s*\[\[\[")

NO_OPTIONS = "the options to choose from are left out, so that the question is answered freely"
FIRST_ONLY = "only the first thing that the person says is kept"


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
    if is_pair(record) or answer_beside(record):
        return False
    talk = _talk(record)
    return only_asks(record[talk]) if talk else column(record, ASKS) is not None


def _talk(record: Record) -> str | None:
    return next((name for name in TALKS if not is_blank(record.get(name))), None)


def answer_beside(record: Record) -> str | None:
    """The column that seems to hold an answer."""
    return _answer(tuple(record))


@lru_cache(maxsize=64)  # the rows of a file have the same columns
def _answer(names: tuple[str, ...]) -> str | None:
    return next((name for name in names if _ANSWER.fullmatch(re.sub("[^a-z]", "", name.casefold()))), None)


def stored_prompt(number: int, record: Record) -> Prompt:
    """A prompt as the library stores it, or as the presets are written: its notes are columns."""
    (found,) = _prompt(number, record)
    return replace(found, notes=record["notes"]) if "notes" in record else found


def _prompt(number: int, record: Record, reading: Reading | None = None) -> list[Prompt]:
    mended: list[str] = []
    name = _talk(record) or column(record, ASKS) or "prompt"
    about = [other for other in ABOUT if other in record]
    value = joined(record, name, *about) if about and isinstance(record[name], str) else record[name]
    return [_asked(number, record, asked_of(value, name, mended), name, mended)]


def _attempt(number: int, record: Record, reading: Reading) -> list[Prompt]:
    """The opening of a red-team attempt."""
    mended: list[str] = []
    turns = asked_of(record["transcript"], "transcript", mended)
    if len(turns) > 1:
        mend(mended, FIRST_ONLY)
    return [_asked(number, record, turns[:1], "transcript", mended)]


def _choice(number: int, record: Record, reading: Reading) -> list[Prompt]:
    """The question of a choice between two answers."""
    text = str(record["prompt"])
    mended = [NO_OPTIONS]
    asked = asked_of(text[: _OPTIONS.search(text).start()], "prompt", mended)  # type: ignore[union-attr] # it fits
    return [_asked(number, record, asked, "prompt", mended)]


def _asked(number: int, record: Record, asked: list[Message], name: str, mended: list[str]) -> Prompt:
    """A prompt of these messages, cleaned as a conversation is."""
    if not asked or asked[-1]["role"] != "user":
        raise RowError(f"'{name}' does not end with the user, so there is nothing to answer")
    stands_for_answer = {"role": "assistant", "content": "."}  # conversations are cleaned with their answer
    messages = clean([*with_system(record, asked, mended), stands_for_answer], mended)[:-1]
    return Prompt(number, messages, _notes(record) | ({"mended": mended} if mended else {}))


def _notes(record: Record) -> dict[str, Any]:
    """The small columns that say what a prompt is about; a file of the library's own form has them under `notes`."""
    own = record.get("notes")
    columns = own if isinstance(own, dict) else record
    found = {name: columns.get(name) for name in NOTED}
    return {name: text for name, text in found.items() if isinstance(text, str) and 0 < len(text) <= MOST_NOTED}


def _is_choice(record: Record) -> bool:
    return isinstance(record.get("prompt"), str) and _OPTIONS.search(record["prompt"]) is not None


def _column_that_asks(name: str) -> Shape:
    def fits(record: Record) -> bool:
        return column(record, (name,)) is not None and is_prompt(record)

    return Shape(f"{name}-only", "prompts", fits, _prompt)


PROMPT_SHAPES = (
    Shape("red-team attempts", "prompts", has("transcript", "min_harmlessness_score_transcript"), _attempt),
    Shape("HHH evaluation", "prompts", lambda record: _is_choice(record) and is_prompt(record), _choice),
    Shape("messages-only", "prompts", lambda record: bool(_talk(record)) and is_prompt(record), _prompt),
    *map(_column_that_asks, ASKS),
)
