"""Changing rows by hand: search them, edit, flip and drop some, take it back; what is left is the next version.

A row is known by its place, (split, index). An edited row is checked by the code that checks an upload.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from playground.data.dataset import SPLITS, Dataset
from playground.data.pairs import SIDES, Pair
from playground.data.prompts import Prompt
from playground.data.records import LIMITS, checked_row
from playground.data.report import examine
from playground.data.shapes import Message, Reading, Row, RowError
from playground.data.texts import texts as all_texts
from playground.data.thumbs import Thumb

Key = tuple[str, int]
KINDS = {Row: "sft", Pair: "preference", Prompt: "prompts", Thumb: "thumbs"}
DOUBTFUL = 0.75  # a pair whose better side is less probable than this may well be the wrong way round
FILTERS: dict[str, dict[str, Callable[[Any], bool]]] = {  # kind of rows → what can be asked for besides their length
    "preference": {"doubtful": lambda pair: pair.label < DOUBTFUL},
    "thumbs": {"up": lambda thumb: thumb.good, "down": lambda thumb: not thumb.good},
}
ORDERS = ("all", "longest", "shortest")
MOST_STEPS = 100  # that can be taken back


def texts(row: Any) -> dict[str, str]:
    """What a person may change in a row, by name, in its order: system, earlier turns, prompt, and the answers."""
    said = [message["content"] for message in row.asked if message["role"] != "system"]
    found = {"system": "".join(message["content"] for message in row.asked if message["role"] == "system")}
    found |= {f"turn {number}": text for number, text in enumerate(said[:-1], 1)} | {"prompt": said[-1]}
    if isinstance(row, Pair):
        return found | {side: getattr(row, side) for side in SIDES}
    if isinstance(row, Thumb):
        return found | {"completion": row.answer}
    return found | ({"completion": row.messages[-1]["content"]} if isinstance(row, Row) else {})


def edited(row: Any, changes: Mapping[str, str]) -> Any:
    """The row with some of its texts() changed; RowError with the reason if it can't be used so."""
    said = texts(row)
    if unknown := [name for name in changes if name not in said]:
        raise RowError(f"there is no {unknown[0][:20]!r} in this row; it has {', '.join(said)}")
    record = _with(row, {**said, **changes}).as_json()
    kept: dict[str, Any] = {"notes": record.pop("notes", {})}
    if isinstance(row, Pair):
        kept["label"] = record.pop("label", 1.0)
    report = examine([checked_row(row.row, record, LIMITS)], Reading(kind=KINDS[type(row)]))
    if report.dropped:
        raise RowError(report.dropped[0][1])
    return replace(report.kept[0], **kept)


def _with(row: Any, said: dict[str, str]) -> Any:
    """The row with these texts, not checked yet."""
    asked = [_message("system", said["system"])] if said["system"].strip() else []
    turns = [message for message in row.asked if message["role"] != "system"]
    names = [*(f"turn {number}" for number in range(1, len(turns))), "prompt"]
    asked += [_message(turn["role"], said[name]) for turn, name in zip(turns, names, strict=True)]
    if isinstance(row, Pair):
        return replace(row, prompt=asked, chosen=said["chosen"], rejected=said["rejected"])
    if isinstance(row, Thumb):
        return replace(row, prompt=asked, answer=said["completion"])
    answer = [_message("assistant", said["completion"])] if isinstance(row, Row) else []
    return replace(row, messages=asked + answer)


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def flipped(row: Any) -> Any:
    """The pair with its sides exchanged, the thumb turned round.

    Whoever compared the two said otherwise, so neither their doubt nor their margin holds: a person is no guess.
    """
    if isinstance(row, Pair):
        notes = {name: note for name, note in row.notes.items() if name != "margin"}
        return replace(row, chosen=row.rejected, rejected=row.chosen, label=1.0, notes=notes)
    if isinstance(row, Thumb):
        return replace(row, good=not row.good)
    raise RowError("only pairs and thumbs can be flipped")


def matching(rows: list[Any], query: str = "", only: str | Collection[int] = "all") -> list[int]:
    """The indices of the rows that hold the query, whatever its case.

    only: "all" in their order, "longest" or "shortest" first, one of FILTERS, or the numbers of some rows.
    """
    if not rows:
        return []
    wanted = query.strip().casefold()
    fits = _filter(rows, only)
    found = [i for i, row in enumerate(rows) if fits(row) and (not wanted or wanted in _said(row).casefold())]
    if only in ("longest", "shortest"):
        found.sort(key=lambda i: len(_said(rows[i])), reverse=only == "longest")
    return found


def _filter(rows: list[Any], only: str | Collection[int]) -> Callable[[Any], bool]:
    if not isinstance(only, str):
        numbers = frozenset(only)
        return lambda row: row.row in numbers
    known = FILTERS.get(KINDS[type(rows[0])], {})
    if only not in (*ORDERS, *known):
        raise RowError(f"rows can't be filtered by {only[:20]!r}; known are {', '.join((*ORDERS, *known))}")
    return known.get(only, lambda row: True)


def _said(row: Any) -> str:
    return "\n".join(all_texts(row))


@dataclass
class Draft:
    """What a person changed of a dataset's rows and has not saved.

    rows: by split, as they are stored; changed: the rows that will differ, None for those dropped; steps: for each
    thing done, what stood in its places before.
    """

    rows: dict[str, list[Any]]
    changed: dict[Key, Any] = field(default_factory=dict)
    steps: list[dict[Key, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, dataset: Dataset) -> "Draft":
        """A draft in which nothing is changed yet."""
        return cls({split: dataset.rows(split) for split in SPLITS})

    def now(self, key: Key) -> Any:
        """The row as it will be; None if it is dropped."""
        return self.changed[key] if key in self.changed else self._stored(key)

    def edit(self, key: Key, changes: Mapping[str, str]) -> None:
        """Changes some texts of a row; RowError if it can't be used so."""
        self._step({key: edited(self._there(key), changes)})

    def flip(self, *keys: Key) -> None:
        """Flips rows; flipped again, a row is as it was stored."""
        found = {}
        for key in keys:
            row, stored = self._there(key), self._stored(key)
            turned = flipped(row)
            found[key] = stored if row == flipped(stored) else turned
        self._step(found)

    def drop(self, *keys: Key) -> None:
        """Leaves rows out."""
        self._step(dict.fromkeys(keys))

    def restore(self, *keys: Key) -> None:
        """Has rows as they are stored again."""
        self._step({key: self._stored(key) for key in keys})

    def undo(self) -> list[Key]:
        """Takes the last step back, and says which rows it was about."""
        before = self.steps.pop() if self.steps else {}
        self._put(before)
        return list(before)

    def counts(self) -> dict[str, int]:
        """How many rows are edited, flipped and dropped."""
        return dict(Counter(map(self.how, self.changed)))

    def words(self) -> str:
        """What was done, for the note on the next version: "2 rows flipped, 1 row dropped"."""
        return ", ".join(f"{count} {'row' if count == 1 else 'rows'} {how}" for how, count in self.counts().items())

    def applied(self) -> dict[str, list[Any]]:
        """The rows as they will be, each in its split: what library.revise() takes."""
        now = {split: [self.now((split, i)) for i in range(len(rows))] for split, rows in self.rows.items()}
        return {split: [row for row in rows if row is not None] for split, rows in now.items()}

    def how(self, key: Key) -> str:
        """What was done to a row: "edited", "flipped", "dropped" or nothing."""
        if key not in self.changed:
            return ""
        if (row := self.changed[key]) is None:
            return "dropped"
        return "flipped" if isinstance(row, Pair | Thumb) and row == flipped(self._stored(key)) else "edited"

    def _stored(self, key: Key) -> Any:
        split, index = key
        if split not in self.rows or not 0 <= index < len(self.rows[split]):
            raise RowError(f"there is no row {index + 1} in {split[:20]!r}")
        return self.rows[split][index]

    def _there(self, key: Key) -> Any:
        if (row := self.now(key)) is None:
            raise RowError(f"row {key[1] + 1} is dropped; restore it first")
        return row

    def _step(self, rows: dict[Key, Any]) -> None:
        before = {key: self.now(key) for key, row in rows.items() if self.now(key) != row}
        if before:
            self._put(rows)
            self.steps.append(before)
            del self.steps[:-MOST_STEPS]

    def _put(self, rows: dict[Key, Any]) -> None:
        for key, row in rows.items():
            self.changed[key] = row
            if row == self._stored(key):
                del self.changed[key]
