"""The row report: kept, dropped and why, how long, what is cut. Made by the same code that prepares the rows for
training.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from playground.data.readers import RawRow
from playground.data.rendering import Encoded, Renderer, RenderError
from playground.data.shapes import RowError, sft_messages


@dataclass(frozen=True)
class Row:
    """A row that can be trained on; `row` is its number in the file."""

    row: int
    messages: list[dict[str, str]]


@dataclass
class Report:
    """What became of every row of a file."""

    kind: str
    shape: str
    rows: int
    kept: list[Row] = field(default_factory=list)
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
        return (
            f"No row can be used: {reason} (row {some(rows)}). Each row needs messages, or prompt and completion, or "
            "instruction and output, or conversations."
        )


def some(rows: list[int]) -> str:
    """The first few row numbers."""
    return ", ".join(map(str, rows[:8])) + (" …" if len(rows) > 8 else "")


@dataclass(frozen=True)
class Lengths:
    """Token counts of the kept rows under one model's template, and what a limit does to them."""

    tokens: list[int]
    learned: list[int]
    cut: list[int]
    unlearnable: list[int]
    refused: list[tuple[int, str]]
    control: list[int]


def examine(raw: list[RawRow]) -> Report:
    """Recognises and converts every row; exact repetitions are dropped after the first."""
    shapes: Counter[str] = Counter()
    report = Report("sft", "", len(raw))
    seen: dict[str, int] = {}
    for item in raw:
        try:
            if item.value is None:
                raise RowError(item.problem or "not readable")
            name, messages = sft_messages(item.value)
            key = repr(messages)
            if key in seen:
                raise RowError("the same as an earlier row")
            seen[key] = item.row
            shapes[name] += 1
            report.kept.append(Row(item.row, messages))
        except RowError as error:
            report.dropped.append((item.row, str(error)))
    report.shape = " and ".join(name for name, _ in shapes.most_common()) or "unknown"
    if 0 < len(report.kept) < 8:
        rows = "1 row" if len(report.kept) == 1 else f"{len(report.kept)} rows"
        report.notes.append(f"Only {rows}: enough to see a run work, too few to learn a manner.")
    return report


def measure(rows: list[Row], renderer: Renderer, max_length: int) -> Lengths:
    """Tokenizes every row as training will and counts."""
    found = Lengths([], [], [], [], [], [])
    for row in rows:
        try:
            encoded = renderer.encode(row.messages)
        except RenderError as error:
            found.refused.append((row.row, str(error)))
            continue
        found.tokens.append(len(encoded.ids))
        found.learned.append(sum(encoded.cut(max_length).learned))
        if len(encoded.ids) > max_length:
            found.cut.append(row.row)
        if not found.learned[-1]:
            found.unlearnable.append(row.row)
        if any(renderer.control_tokens(message["content"]) for message in row.messages):
            found.control.append(row.row)
    return found


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
