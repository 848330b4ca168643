"""The row report: which rows of a file are kept, which are dropped and why."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playground.data.pairs import is_pair, pair
from playground.data.prompts import is_prompt, prompt
from playground.data.readers import RawRow
from playground.data.shapes import Record, RowError, conversation

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
