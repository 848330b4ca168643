"""What stands in a row as text, whatever kind of row it is, and how texts are compared."""

import re
from dataclasses import dataclass
from typing import Any

from playground.data.pairs import SIDES, Pair
from playground.data.prompts import Prompt

_WORD = re.compile(r"\w+")


def answers(row: Any) -> list[str]:
    """The answers that a row is about: the last one of a conversation, both of a pair, none of a prompt."""
    if isinstance(row, Pair):
        return [getattr(row, side) for side in SIDES]
    return [] if isinstance(row, Prompt) else [row.messages[-1]["content"]]


def texts(row: Any) -> list[str]:
    """Everything that somebody wrote in a row."""
    return [*(message["content"] for message in row.asked), *answers(row)]


def plain(text: str) -> str:
    """The words of a text alone: what is left without case, punctuation and spacing. A text of signs stays as it is."""
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


@dataclass(frozen=True)
class Words:
    """The plain words of a row: each message before the answers, the user's first one, and the answers."""

    row: Any
    asked: tuple[str, ...]
    opening: str
    answers: tuple[str, ...]


def words_of(row: Any) -> Words:
    """The plain words of a row."""
    asked = tuple(plain(message["content"]) for message in row.asked)
    first = next(i for i, message in enumerate(row.asked) if message["role"] == "user")
    return Words(row, asked, asked[first], tuple(map(plain, answers(row))))
