"""The row report: kept, dropped and why, how long, what is cut. Made by the same code that prepares the rows for
training.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from playground.data.readers import RawRow
from playground.data.recognise import GATHERINGS, KINDS, RANK_SHAPES, kinds_of, mapped, recognise, tidied, unknown
from playground.data.shapes import Reading, RowError, Shape, converted
from playground.data.thumbs import judged
from playground.data.votes import numbered

AS_IT_IS = Reading()
MOST_TRIED = 200  # rows looked at for other ways to read the file
WORDS = {
    "sft": ("conversation", "conversations"),
    "preference": ("preference pair", "preference pairs"),
    "thumbs": ("answer with a thumb", "answers with a thumb"),
    "prompts": ("prompt", "prompts"),
}  # kind → one, several
SEVERAL = {"FeeL", *(shape.name for shape in RANK_SHAPES)}  # shapes of which one record may make several rows
NEEDS = {
    "sft": "messages, or prompt and completion, or instruction and output, or conversations",
    "preference": "a prompt, a chosen and a rejected answer, or two whole conversations",
    "thumbs": "a prompt, a completion and a label that says whether it is good",
    "prompts": "a prompt or a question, or messages that end with the user",
}


@dataclass
class Report:
    """What became of every row of a file, read as rows of one kind.

    others: kind → rows that are of another kind, which are neither kept nor dropped; found: (kind, shape) → rows;
    offers: which choices of Reading matter for this file; scale: the lowest and highest rating, where that is one;
    elsewhere: the numbers of those other rows, and of rows that became a part of another one, with what they are.
    """

    kind: str
    shape: str
    rows: int
    kept: list[Any] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    offers: list[str] = field(default_factory=list)
    scale: tuple[float, float] | None = None
    elsewhere: list[tuple[int, str]] = field(default_factory=list)

    @property
    def guess(self) -> str:
        """What the file seems to hold: "412 preference pairs in HH-RLHF shape and 30 conversations in alpaca shape"."""
        parts = [f"{_held(kind, shape, count)} in {shape} shape" for (kind, shape), count in self.found.most_common()]
        return ", ".join(parts[:-1]) + (" and " if parts[:-1] else "") + parts[-1] if parts else "nothing known"

    def as_json(self) -> dict[str, Any]:
        """The report as the command line prints it."""
        return {
            "kind": self.kind,
            "shape": self.shape,
            "guess": self.guess,
            "rows": self.rows,
            "kept": len(self.kept),
            "dropped": [{"row": row, "reason": reason} for row, reason in self.dropped],
            "others": self.others,
            "offers": self.offers,
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
        sources = len({row.row for row in self.kept})
        made = f"; they make {counted(self.kind, len(self.kept))}" if len(self.kept) != sources else ""
        lines = [f"{sources} of {self.rows} rows kept, recognised as {self.shape}{made}."]
        reasons = self.reasons()
        lines += [f"{len(rows)} dropped: {reason} (row {some(rows)})." for reason, rows in reasons[:5]]
        if untold := reasons[5:]:
            count, why = sum(len(rows) for _, rows in untold), "reason" if len(untold) == 1 else "reasons"
            lines.append(f"{count:,} more dropped, for {len(untold):,} other {why}.")
        if self.others:
            others = " and ".join(counted(kind, count) for kind, count in self.others.items())
            lines.append(f"Not of this kind, and left for another dataset: {others}.")
        return lines + self.notes

    def refusal(self) -> str:
        """Why none of the rows can be used, and what to do."""
        needs = f"Each row needs {NEEDS[self.kind]}."
        if not self.dropped:
            return f"No row can be used: the file holds {self.guess}, but no {WORDS[self.kind][1]}. {needs}"
        reason, rows = self.reasons()[0]
        return f"No row can be used: {reason} (row {some(rows)}). {needs}"


def counted(kind: str, count: int) -> str:
    """ "1 conversation", "412 preference pairs"."""
    return f"{count:,} {WORDS[kind][count != 1]}"


def _held(kind: str, shape: str, count: int) -> str:
    """ "412 preference pairs", or "1 row of preference pairs" where a row of this shape may make several."""
    if shape not in SEVERAL:
        return counted(kind, count)
    return f"{count:,} {'row' if count == 1 else 'rows'} of {WORDS[kind][1]}"


def some(rows: list[int]) -> str:
    """The first few row numbers."""
    return ", ".join(map(str, rows[:8])) + (" …" if len(rows) > 8 else "")


def examine(raw: list[RawRow], reading: Reading = AS_IT_IS) -> Report:
    """Recognises and converts every row of one kind, the one asked for or else the most frequent.

    Exact repetitions are dropped after the first; rows of other kinds are counted.
    """
    recognised, draft = _recognised(raw, reading)
    return _report(recognised, draft, reading)


Recognised = list[tuple[RawRow, Shape | None]]


def _recognised(raw: list[RawRow], reading: Reading) -> tuple[Recognised, Report]:
    """Every row with its shape, and a report that says as much as can be said before rows are converted."""
    rows = tidied(mapped(raw, reading.columns))
    for gathered in GATHERINGS:
        rows = gathered(rows)
    rows, notes, scale = judged(rows, reading)
    rows, told = numbered(rows)
    notes += told
    if len(rows) != len(raw):
        made = sum(item.value is not None for item in rows)
        notes = [f"{len(raw):,} rows of the file belong together and make {made:,}.", *notes]
    recognised = [(item, recognise(item.value, reading.kind) if item.value is not None else None) for item in rows]
    if any(shape is None for _, shape in recognised):
        names = {item.row: list(item.value or {}) for item in raw}  # as the file has them
        recognised = [(item if shape else _unknown(item, names), shape) for item, shape in recognised]
    found = Counter((shape.kind, shape.name) for _, shape in recognised if shape)
    kinds = Counter(shape.kind for _, shape in recognised if shape)
    kind = reading.kind or max(KINDS, key=lambda kind: kinds[kind])  # the first of them where there are as many
    offers = _offers(recognised) + (["good_from"] if scale else [])
    there = {item.row for item in rows}
    parts = [(item.row, "a part of another row") for item in raw if item.row not in there]
    report = Report(kind, "", len(rows), notes=notes, found=found, offers=offers, scale=scale, elsewhere=parts)
    return recognised, report


def _unknown(item: RawRow, names: dict[int, list[str]]) -> RawRow:
    """A row that no shape fits, with the reason."""
    reason = item.problem if item.value is None else unknown(item.value, names.get(item.row) or list(item.value))
    return replace(item, value=None, problem=reason)


def _others(draft: Report) -> dict[str, int]:
    """Kind → rows of it, for the kinds that a report is not about, the largest first."""
    counts: Counter[str] = Counter()
    for (kind, _), count in draft.found.items():
        counts[kind] += count
    return {kind: count for kind, count in counts.most_common() if kind != draft.kind}


def _offers(recognised: Recognised) -> list[str]:
    """The choices of Reading that the shapes of a file leave open."""
    kinds = {shape.kind for _, shape in recognised if shape}
    tried = [(item.value or {}, shape) for item, shape in recognised[:MOST_TRIED] if shape]
    kinds = kinds.union(*(kinds_of(record) for record, _ in tried))
    offers = ["kind"] if len(kinds) > 1 else []
    if any(shape in RANK_SHAPES for _, shape in tried):
        offers.append("pairs_by")
    if any({"better_response_id", "safer_response_id"} <= record.keys() for record, _ in tried):
        offers.append("better")
    return offers


def _report(recognised: Recognised, draft: Report, reading: Reading) -> Report:
    """The draft with the rows of its kind converted."""
    report = replace(draft, others=_others(draft))
    shapes: Counter[str] = Counter()
    seen: set[bytes] = set()
    for item, shape in recognised:
        if shape and shape.kind != report.kind:
            report.elsewhere.append((item.row, f"one of the {WORDS[shape.kind][1]}"))
            continue
        try:
            if shape is None:
                raise RowError(item.problem or "not readable")
            fresh = {_digest(row.content): row for row in converted(shape, item.row, item.value or {}, reading)}
            if seen.issuperset(fresh):
                raise RowError("the same as an earlier row")
            report.kept += [row for key, row in fresh.items() if key not in seen]
            seen.update(fresh)
            shapes[shape.name] += 1
        except RowError as error:
            report.dropped.append((item.row, _reason(str(error), item)))
    report.shape = " and ".join(name for name, _ in shapes.most_common()) or "unknown"
    report.notes += _mended(report.kept)
    if 0 < len(report.kept) < 8:
        few = "1 row" if len(report.kept) == 1 else f"{len(report.kept)} rows"
        report.notes.append(f"Only {few}: enough to see a run work, too few to learn a manner.")
    return report


def _reason(reason: str, item: RawRow) -> str:
    """Why a row was dropped; where something is empty that a table wrote as a word, the word is told."""
    return f"{reason} ('{item.missing}' counts as missing)" if item.missing and "empty" in reason else reason


def _digest(content: Any) -> bytes:
    """What tells one row from another, in 16 bytes: whole texts would fill the memory a second time."""
    return hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _mended(rows: list[Any]) -> list[str]:
    """What was mended, and in which rows."""
    found: dict[str, list[int]] = {}
    for row in rows:
        for what in row.notes.get("mended", ()):
            found.setdefault(what, []).append(row.row)
    return [
        f"In {len(which):,} {'row' if len(which) == 1 else 'rows'}, {what} (row {some(which)})."
        for what, which in found.items()
    ]
