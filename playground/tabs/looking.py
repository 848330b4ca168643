"""What a visitor has on the desk: rows of a file or of a stored dataset, and what was changed in them but not stored.

One object a page, which lives in a gr.State and is changed in place: nothing is copied for a key that is pressed.
"""

import secrets
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from playground.data.dataset import Dataset
from playground.data.edits import Draft, Key, matching
from playground.data.quality import length
from playground.data.records import RawRow
from playground.data.report import Report, examine
from playground.data.shapes import Reading

MOST_ASIDE = 2  # things with changes that wait while another is looked at; a file of them is held in memory
ALL, CHANGED = "all", "changed here"
MOST_HELD = 60_000_000  # characters on the desks of all pages; each costs about fifteen bytes while it lies there

_turn = threading.Lock()
_desks: list["weakref.ref[Desk]"] = []  # of all pages, those that nothing came to for longest in front


@dataclass(eq=False)
class Looked:
    """Rows in view with what was changed in them: a file's, which come from `raw` by its report's reading, or those of
    a stored dataset. key: what the page calls these rows, another name for other rows; file: what it calls the file,
    however it is read, so that a choice in the header counts that was made before the answer to another had come."""

    title: str
    draft: Draft
    raw: list[RawRow] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    report: Report | None = None
    dataset: Dataset | None = None
    editing: set[Key] = field(default_factory=set)
    asked: tuple[str, str] = ("", ALL)  # what was searched for, and which rows
    first: int = 0  # where in `listed` the page begins
    checked: Any = None  # what the report found in the rows as they came; it takes seconds to find
    key: str = field(default_factory=lambda: secrets.token_hex(4))
    file: str = field(default_factory=lambda: secrets.token_hex(4))

    def __post_init__(self) -> None:
        self.size = sum(map(length, self.rows))
        self.places = [(split, index) for split, rows in self.draft.rows.items() for index in range(len(rows))]
        self.listed = self.places

    @property
    def rows(self) -> list[Any]:
        """All rows as they were when they came."""
        return [row for rows in self.draft.rows.values() for row in rows]

    @property
    def kind(self) -> str:
        """The kind of the rows."""
        return self.dataset.kind if self.dataset else self.report.kind if self.report else ""

    def was(self, key: Key) -> Any:
        """The row as it was when it came."""
        return self.draft.rows[key[0]][key[1]]

    def now(self, key: Key) -> Any:
        """The row as it is now; a dropped one as it was."""
        return self.draft.now(key) or self.was(key)

    def turn(self, by: int, page: int) -> None:
        """Goes pages on or back."""
        last = max(0, (len(self.listed) - 1) // page * page)
        self.first = min(max(0, self.first + by * page), last)

    def search(self, query: str, only: str) -> None:
        """Lists the rows that hold the query as they are now; "#12" is the row of that number."""
        number = query.strip().removeprefix("#")
        by_number = query.strip().startswith("#") and number.isdecimal() and len(number) < 9
        rows = [self.now(key) for key in self.places] if self.draft.changed else self.rows
        if by_number:
            found = matching(rows, "", {int(number)})
        else:
            found = matching(rows, query, ALL if only == CHANGED else only)
        self.listed = [self.places[i] for i in found]
        if only == CHANGED and not by_number:
            self.listed = [key for key in self.listed if key in self.draft.changed]
        self.asked, self.first, self.editing = (query, only), 0, set()

    def show(self, key: Key) -> None:
        """Brings one row into view, alone."""
        self.asked = (f"#{self.was(key).row}", ALL)
        self.listed, self.first, self.editing = [key], 0, set()


def of_file(title: str, raw: list[RawRow], reading: Reading | None = None) -> Looked:
    """The rows of a file, read by its content unless somebody said how."""
    reading = reading or Reading()
    report = examine(raw, reading)
    return Looked(title, Draft({"train": report.kept}), raw, reading, report)


def of_dataset(dataset: Dataset) -> Looked:
    """The rows of a stored dataset."""
    return Looked(dataset.name, Draft.of(dataset), dataset=dataset)


def read_anew(looked: Looked, reading: Reading) -> tuple[Looked, int]:
    """(the file read in another way, how many changes are gone): changes of rows that come out the same stay."""
    found = replace(of_file(looked.title, looked.raw, reading), file=looked.file)
    if not looked.draft.changed:
        return found, 0
    before = {_same(looked.was(key)): row for key, row in looked.draft.changed.items()}
    there = {_same(found.was(key)): key for key in found.places}
    found.draft.changed = {there[name]: row for name, row in before.items() if name in there}
    return found, len(before) - len(found.draft.changed)


def _same(row: Any) -> tuple[int, str]:
    return row.row, repr(row.content)


def as_report(looked: Looked) -> Report:
    """A file's report with its rows as they are now, for the library to store."""
    assert looked.report is not None
    return replace(looked.report, kept=looked.draft.applied()["train"])


@dataclass(eq=False)
class Desk:
    """The rows in view, and those with changes that wait."""

    looked: Looked | None = None
    aside: list[Looked] = field(default_factory=list)

    def open(self, looked: Looked) -> list[str]:
        """Brings rows into view; what was in view waits if it was changed. Returns the titles of what had to go."""
        self._set_aside()
        self.looked = looked
        _make_room(self)
        gone, self.aside = self.aside[:-MOST_ASIDE], self.aside[-MOST_ASIDE:]
        return [found.title for found in gone]

    def back(self, found: Looked) -> None:
        """Brings something that waits into view again."""
        if found in self.aside:
            self.aside.remove(found)
            self._set_aside()
            self.looked = found

    @property
    def size(self) -> int:
        """Characters of everything that lies here."""
        return sum(found.size for found in [*([self.looked] if self.looked else []), *self.aside])

    def changes(self) -> bool:
        """True if something lies here that a person changed and has not stored."""
        return any(self._changed())

    def waiting(self, dataset: Dataset) -> Looked | None:
        """A stored version with changes, if it waits or is in view."""
        return next((found for found in self._changed() if found.dataset and found.dataset.id == dataset.id), None)

    def _changed(self) -> Iterator[Looked]:
        yield from ([self.looked] if self.looked and self.looked.draft.changed else [])
        yield from self.aside

    def _set_aside(self) -> None:
        if self.looked is not None and self.looked.draft.changed:
            self.aside.append(self.looked)


def _make_room(mine: Desk) -> None:
    """Clears other pages' desks where all together hold too much: those without changes first, then the oldest."""
    with _turn:
        others = [desk for ref in _desks if (desk := ref()) is not None and desk is not mine]
        _desks[:] = map(weakref.ref, [*others, mine])
        held = sum(desk.size for desk in others) + mine.size
        for desk in sorted(others, key=Desk.changes):
            if held <= MOST_HELD:
                return
            held -= desk.size
            desk.looked, desk.aside = None, []
