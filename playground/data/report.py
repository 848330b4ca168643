"""The row report: kept, dropped and why, how long, what is cut. Made by the same code that prepares the rows for
training.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playground.data.pairs import SIDES, Pair, is_pair, pair
from playground.data.prompts import Prompt, is_prompt, prompt
from playground.data.readers import RawRow
from playground.data.rendering import Encoded, Renderer, RenderError
from playground.data.shapes import Record, Row, RowError, conversation

KINDS: dict[str, Callable[[int, Record], tuple[str, Any]]] = {
    "sft": conversation,
    "preference": pair,
    "prompts": prompt,
}  # kind of row → (number, record) → (shape's name, row)


@dataclass
class Report:
    """What became of every row of a file."""

    kind: str
    shape: str
    rows: int
    kept: list[Any] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as the command line prints it."""
        return {
            "kind": self.kind,
            "shape": self.shape,
            "rows": self.rows,
            "kept": len(self.kept),
            "dropped": [{"row": row, "reason": reason} for row, reason in self.dropped],
            "notes": self.notes,
        }

    def reasons(self) -> list[tuple[str, list[int]]]:
        """Reasons for dropping, most frequent first, each with its row numbers."""
        grouped: dict[str, list[int]] = {}
        for row, reason in self.dropped:
            grouped.setdefault(reason, []).append(row)
        return sorted(grouped.items(), key=lambda item: -len(item[1]))

    def words(self) -> list[str]:
        """The report in sentences: what was kept, then the most frequent reasons for dropping with their rows."""
        lines = [f"{len(self.kept)} of {self.rows} rows kept, recognised as {self.shape}."]
        lines += [f"{len(rows)} dropped: {reason} (row {some(rows)})." for reason, rows in self.reasons()[:5]]
        return lines + self.notes

    def refusal(self) -> str:
        """Why none of the rows can be used, and what to do."""
        reason, rows = self.reasons()[0]
        needs = {
            "sft": "messages, or prompt and completion, or instruction and output, or conversations",
            "preference": "a prompt, a chosen and a rejected answer, or two whole conversations",
            "prompts": "a prompt or a question, or messages that end with the user",
        }
        return f"No row can be used: {reason} (row {some(rows)}). Each row needs {needs[self.kind]}."


def some(rows: list[int]) -> str:
    """The first few row numbers."""
    return ", ".join(map(str, rows[:8])) + (" …" if len(rows) > 8 else "")


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


def examine(raw: list[RawRow]) -> Report:
    """Recognises and converts every row; exact repetitions are dropped after the first.

    A file holds one kind of row, the one that most of its records are of.
    """
    shapes: Counter[str] = Counter()
    records = [item.value for item in raw if item.value is not None]
    kinds = {"preference": is_pair, "prompts": is_prompt}
    kind = next((kind for kind, fits in kinds.items() if sum(map(fits, records)) * 2 > len(records)), "sft")
    report = Report(kind, "", len(raw))
    seen: dict[str, int] = {}
    for item in raw:
        try:
            if item.value is None:
                raise RowError(item.problem or "not readable")
            name, row = KINDS[kind](item.row, item.value)
            key = repr(row.content)
            if key in seen:
                raise RowError("the same as an earlier row")
            seen[key] = item.row
            shapes[name] += 1
            report.kept.append(row)
        except RowError as error:
            report.dropped.append((item.row, str(error)))
    report.shape = " and ".join(name for name, _ in shapes.most_common()) or "unknown"
    if 0 < len(report.kept) < 8:
        rows = "1 row" if len(report.kept) == 1 else f"{len(report.kept)} rows"
        report.notes.append(f"Only {rows}: enough to see a run work, too few to learn a manner.")
    return report


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
