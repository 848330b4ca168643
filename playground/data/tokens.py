"""Rows as the tokens of training: how long they are, what a limit does to them, and the tokens themselves.

The page counts and shows with the functions that prepare the rows for a run, so nobody sees other tokens than a model.
"""

from dataclasses import dataclass, field
from typing import Any

from playground.data.pairs import SIDES, Pair
from playground.data.prompts import Prompt
from playground.data.rendering import Encoded, Renderer, RenderError
from playground.data.shapes import Row


@dataclass(frozen=True)
class Lengths:
    """Token counts of the kept rows under one model's template, and what a limit does to them.

    tokens counts whole conversations (both sides of a pair are two), learned their targets. A conversation that is too
    long is cut; a pair is left out, because half an answer can't be compared, and so is a prompt.
    """

    tokens: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    unlearnable: list[int] = field(default_factory=list)
    too_long: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    control: list[int] = field(default_factory=list)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """(chosen, rejected): tokens of the two answers of each pair."""
        return list(zip(self.learned[::2], self.learned[1::2], strict=False))


@dataclass(frozen=True)
class EncodedPair:
    """A pair as tokens: the prompt, and both answers up to and with the token that ends them.

    label: the probability that `chosen` is the better one.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    label: float = 1.0

    def __len__(self) -> int:
        """Tokens of the longer side."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def measure(rows: list[Any], renderer: Renderer, max_length: int) -> Lengths:
    """Tokenizes every row as training will and counts."""
    found = Lengths()
    for row in rows:
        try:
            sides = encoded_sides(row, renderer)
        except RenderError as error:
            found.refused.append((row.row, str(error)))
            continue
        longest = max(len(encoded.ids) for encoded in sides)
        if isinstance(row, Row):
            sides = [sides[0].cut(max_length)]
            if longest > max_length:
                found.cut.append(row.row)
            if not any(sides[0].learned):
                found.unlearnable.append(row.row)
            found.tokens.append(longest)
        else:
            found.tokens.extend(len(encoded.ids) for encoded in sides)
            if longest > max_length:
                found.too_long.append(row.row)
        found.learned.extend(sum(encoded.learned) for encoded in sides)
        if any(renderer.control_tokens(text) for text in _texts(row)):
            found.control.append(row.row)
    return found


def encoded_sides(row: Any, renderer: Renderer) -> list[Encoded]:
    """The conversation as tokens, or the two conversations of a pair: chosen, rejected. Of a prompt none is learned."""
    if isinstance(row, Pair):
        return [renderer.answer(row.prompt, getattr(row, side)) for side in SIDES]
    if isinstance(row, Prompt):
        asked = renderer.encode(row.messages, add_generation_prompt=True)
        return [Encoded(asked.ids, [False] * len(asked.ids), asked.texts)]
    return [renderer.encode(row.messages)]


def training_rows(rows: list[Row], renderer: Renderer, max_length: int) -> list[Encoded]:
    """The tokens that training uses: cut to max_length; rows with nothing left to learn are left out."""
    kept = []
    for row in rows:
        try:
            encoded = renderer.encode(row.messages).cut(max_length)
        except RenderError:
            continue
        if any(encoded.learned):
            kept.append(encoded)
    return kept


def training_pairs(rows: list[Pair], renderer: Renderer, max_length: int) -> list[EncodedPair]:
    """The tokens that training uses, whole; pairs of which a side is longer than max_length are left out."""
    kept = []
    for row in rows:
        try:
            sides = encoded_sides(row, renderer)
        except RenderError:
            continue
        if max(len(encoded.ids) for encoded in sides) <= max_length:
            chosen, rejected = (encoded.ids[encoded.start :] for encoded in sides)
            kept.append(EncodedPair(sides[0].ids[: sides[0].start], chosen, rejected, row.label))
    return kept


def _texts(row: Any) -> list[str]:
    """Everything that somebody wrote in a row."""
    messages = [*row.prompt, *(row.conversation(side)[-1] for side in SIDES)] if isinstance(row, Pair) else row.messages
    return [message["content"] for message in messages]
