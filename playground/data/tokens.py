"""Rows as the tokens of training: how long they are, what a limit does to them, and the tokens themselves.

The page counts and shows with the functions that prepare the rows for a run, so nobody sees other tokens than a model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from playground.data.pairs import Pair
from playground.data.prompts import Prompt
from playground.data.rendering import Encoded, Pieces, Renderer, RenderError
from playground.data.report import some
from playground.data.shapes import Row
from playground.data.texts import answers, texts

AT_ONCE = 256  # rows tokenized together: enough for every core, few enough to hold


@dataclass(frozen=True)
class Lengths:
    """Token counts of the kept rows under one model's template, and what a limit does to them.

    tokens counts whole conversations (both sides of a pair are two), learned their targets. A conversation that is too
    long is cut; a pair is left out, because half an answer can't be compared, and so is a prompt.
    cut, lost: rows that are cut, and how many tokens each of them loses. endless: those of them that still teach
    something, but no longer that their last answer ends.
    """

    tokens: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    endless: list[int] = field(default_factory=list)
    unlearnable: list[int] = field(default_factory=list)
    too_long: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    control: list[int] = field(default_factory=list)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """(chosen, rejected): tokens of the two answers of each pair."""
        return list(zip(self.learned[::2], self.learned[1::2], strict=False))

    def cut_words(self, limit: int) -> list[str]:
        """What is cut off the rows that are too long, and what that costs; nothing where nothing is cut."""
        if not self.cut:
            return []
        be = "row is" if len(self.cut) == 1 else "rows are"
        words = f"{len(self.cut)} {be} longer than {limit} tokens and cut at the end: {_tokens(sum(self.lost))} lost"
        words += f", {max(self.lost):,} at most in one row" if len(self.cut) > 1 else ""
        lines = [f"{words} (row {some(self.cut)}). Nothing is cut at {limit + max(self.lost):,} tokens."]
        if self.endless:
            lines.append(
                f"In {len(self.endless)} of them the end of the last answer is lost, with the token that ends it: "
                f"nothing there teaches the model to stop (row {some(self.endless)})."
            )
        return lines


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
    for row, sides in _encoded(rows, renderer):
        if isinstance(sides, RenderError):
            found.refused.append((row.row, str(sides)))
            continue
        longest = max(len(encoded.ids) for encoded in sides)
        if isinstance(row, Row):
            whole = sides[0]
            sides = [whole.cut(max_length)]
            if longest > max_length:
                found.cut.append(row.row)
                found.lost.append(longest - max_length)
            if not any(sides[0].learned):
                found.unlearnable.append(row.row)
            elif whole.end > max_length:
                found.endless.append(row.row)
            found.tokens.append(longest)
        else:
            found.tokens.extend(len(encoded.ids) for encoded in sides)
            if longest > max_length:
                found.too_long.append(row.row)
        found.learned.extend(sum(encoded.learned) for encoded in sides)
        if any(renderer.control_tokens(text) for text in texts(row)):
            found.control.append(row.row)
    return found


def cut_note(whole: Encoded, limit: int) -> str:
    """What becomes of one conversation that is longer than the limit; "" if it is not."""
    lost = len(whole.ids) - limit
    if lost <= 0:
        return ""
    if not any(whole.cut(limit).learned):
        return f"Nothing is left to learn within {limit} tokens, so this row is left out."
    ends = whole.end <= limit
    return f"{_tokens(lost)} cut off here" + (
        "; the answers are whole." if ends else ", with the end of the last answer and the token that ends it."
    )


def encoded_sides(row: Any, renderer: Renderer) -> list[Encoded]:
    """The conversation as tokens, or the two conversations of a pair: chosen, rejected. Of a prompt none is learned."""
    return renderer.tokenized(_rendered(row, renderer))


def training_rows(rows: list[Row], renderer: Renderer, max_length: int) -> list[Encoded]:
    """The tokens that training uses: cut to max_length; rows with nothing left to learn are left out."""
    sides = (sides for _, sides in _encoded(rows, renderer) if not isinstance(sides, RenderError))
    kept = (whole.cut(max_length) for (whole,) in sides)
    return [encoded for encoded in kept if any(encoded.learned)]


def training_pairs(rows: list[Pair], renderer: Renderer, max_length: int) -> list[EncodedPair]:
    """The tokens that training uses, whole; pairs of which a side is longer than max_length are left out."""
    kept = []
    for row, sides in _encoded(rows, renderer):
        if not isinstance(sides, RenderError) and max(len(encoded.ids) for encoded in sides) <= max_length:
            chosen, rejected = (encoded.ids[encoded.start :] for encoded in sides)
            kept.append(EncodedPair(sides[0].ids[: sides[0].start], chosen, rejected, row.label))
    return kept


def _encoded(rows: list[Any], renderer: Renderer) -> Iterator[tuple[Any, list[Encoded] | RenderError]]:
    """Each row with its sides as tokens, or with the reason why the template refuses it; tokenized many at once."""
    for first in range(0, len(rows), AT_ONCE):
        part = rows[first : first + AT_ONCE]
        rendered: list[list[Pieces] | RenderError] = []
        for row in part:
            try:
                rendered.append(_rendered(row, renderer))
            except RenderError as error:
                rendered.append(error)
        whole = [pieces for sides in rendered if not isinstance(sides, RenderError) for pieces in sides]
        encoded = iter(renderer.tokenized(whole))
        for row, sides in zip(part, rendered, strict=True):
            yield row, sides if isinstance(sides, RenderError) else [next(encoded) for _ in sides]


def _rendered(row: Any, renderer: Renderer) -> list[Pieces]:
    """The row's sides as the template writes them."""
    if isinstance(row, Row):
        return [renderer.pieces(row.messages)]
    if isinstance(row, Prompt):
        return [[(text, False) for text, _ in renderer.pieces(row.messages, add_generation_prompt=True)]]
    return renderer.answer_pieces(row.asked, answers(row))


def _tokens(count: int) -> str:
    return "1 token is" if count == 1 else f"{count:,} tokens are"
