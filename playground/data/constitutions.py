"""The constitutions that are kept: each name with its numbered versions. Those in presets/ are version 1, read-only.

A saved version is `constitutions/<name>/<number>.yaml` and is never written again. A number is given once, even where
versions have been deleted since: runs name it.
"""

import dataclasses
import datetime
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import filelock

from playground.data.constitution import (
    TEXTS,
    Constitution,
    ConstitutionError,
    Principle,
    check,
    dump,
    kept_name,
    parse,
)
from playground.data.constitution_text import MOST_BYTES, shown
from playground.home import clean_name, home

PRESETS = Path(__file__).resolve().parents[2] / "presets" / "constitutions"
_NUMBERED = re.compile(r"([1-9]\d{0,8})\.yaml")
_LAST = "last"  # the highest number that was ever given, kept when its version is deleted


@dataclass(frozen=True)
class Version:
    """One numbered state of a constitution."""

    constitution: Constitution
    number: int
    preset: bool

    @property
    def name(self) -> str:
        return self.constitution.name

    @property
    def sha256(self) -> str:
        return self.constitution.sha256

    @property
    def label(self) -> str:
        return f"{self.name}, version {self.number}"

    @property
    def reference(self) -> str:
        """What `find` knows it by."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class Change:
    """One difference. Its kind: added, removed, moved, renamed, changed (a field) or about (the line on the whole)."""

    kind: str
    title: str
    field: str = ""
    before: Any = None
    after: Any = None


def root() -> Path:
    """The folder of the saved versions."""
    path = home() / "constitutions"
    path.mkdir(exist_ok=True)
    return path


def names() -> list[str]:
    """Every name, the presets first, then by alphabet."""
    presets = _presets()
    saved = sorted(folder.name for folder in root().iterdir() if folder.is_dir() and _numbers(folder))
    return presets + [name for name in saved if name not in presets]


def versions(name: str) -> list[Version]:
    """The versions of a name, oldest first; files that can't be read are left out."""
    name = _spelled(name)
    found = [_preset(PRESETS / f"{name}.yaml")] if name in _presets() else []
    folder = _folder(name)
    for number in _numbers(folder):
        try:
            found.append(_saved(folder, number))
        except (ConstitutionError, OSError):  # damaged by hand, or just being deleted; find() says so
            continue
    return found


def newest(name: str) -> Version | None:
    """The newest version that can be read, without reading the others; None if there is none."""
    name = _spelled(name)
    folder = _folder(name)
    for number in reversed(_numbers(folder)):
        try:
            return _saved(folder, number)
        except (ConstitutionError, OSError):
            continue
    return _preset(PRESETS / f"{name}.yaml") if name in _presets() else None


def find(reference: str) -> Version:
    """The version of "name@number", or the newest of "name"."""
    asked, mark, wanted = reference.strip().partition("@")
    name = _known_name(asked)
    known, saved = versions(name), _numbers(_folder(name))
    if not mark:
        wanted = str(max([*saved, *(version.number for version in known)]))
    if found := next((version for version in known if str(version.number) == wanted), None):
        return found
    if wanted in map(str, saved):
        return _saved(_folder(name), int(wanted))  # it can't be read: raises why
    numbers = ", ".join(str(version.number) for version in known)
    raise ConstitutionError(f"{name} has no version '{shown(wanted)}'; it has {numbers or 'none that can be read'}.")


def save(constitution: Constitution) -> Version:
    """Keeps it as the next version of its name; the newest one is returned where nothing differs from it."""
    constitution = check(constitution)
    constitution = dataclasses.replace(constitution, name=_spelled(constitution.name))
    folder = _folder(constitution.name)
    folder.mkdir(exist_ok=True)
    with filelock.FileLock(folder / ".lock", timeout=30):  # another page or process may be saving under this name
        known = versions(constitution.name)
        if known and known[-1].constitution == constitution:
            return known[-1]
        number = max([*_numbers(folder), _last(folder), *(version.number for version in known)], default=0) + 1
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        _write(folder / f"{number}.yaml", f"# Saved {now}\n{dump(constitution)}")
        return _saved(folder, number)


def read_file(path: Path, name: str | None = None) -> Constitution:
    """The constitution in a file of any known shape; `name` goes before the one that stands in it."""
    try:
        text = _decoded(_bytes(path))
        found = parse(text, name or path.stem, path.suffix)
    except ConstitutionError as error:
        raise ConstitutionError(f"{shown(path.name)}: {error}") from None
    return check(dataclasses.replace(found, name=name)) if name else found


def import_file(path: Path, name: str | None = None) -> Version:
    """Reads a file and saves what is in it."""
    return save(read_file(path, name))


def delete(name: str) -> None:
    """Removes the saved versions of a name; what came with the app stays. Runs keep the text that they used."""
    folder = _folder(_known_name(name))
    if not _numbers(folder):
        raise ConstitutionError("A constitution that comes with the app can't be deleted.")
    with filelock.FileLock(folder / ".lock", timeout=30):
        numbers = _numbers(folder)
        _write(folder / _LAST, str(max([*numbers, _last(folder)])))
        for number in numbers:
            (folder / f"{number}.yaml").unlink()


def known(version: Version) -> dict[str, Any]:
    """What a run records of the constitution that it followed: all of it."""
    principles = [dataclasses.asdict(principle) for principle in version.constitution.principles]
    return {"name": version.name, "version": version.number, "sha256": version.sha256, "principles": principles}


def compared(first: str, second: str | None = None) -> tuple[Version, Version]:
    """What two references or files name; with one, its newest version and the one before."""
    if second is not None:
        old, new = (_named(reference) for reference in (first, second))
        return old, new
    last = find(first)
    earlier = [version for version in versions(last.name) if version.number < last.number]
    if not earlier:
        raise ConstitutionError(f"{last.name} has no version before {last.number}; name a second one to compare.")
    return earlier[-1], last


def diff(old: Version | Constitution, new: Version | Constitution) -> list[Change]:
    """What was done to the old principles to make the new ones; a retitled one is known by a text that it kept."""
    before, after = (x.constitution if isinstance(x, Version) else x for x in (old, new))
    pairs = _pairs(before.principles, after.principles)
    changes = [
        Change("removed", p.title, before=dataclasses.asdict(p))
        for i, p in enumerate(before.principles)
        if i not in pairs
    ]
    kept, still = {j: i for i, j in pairs.items()}, _unmoved(pairs)
    for j, new_one in enumerate(after.principles):
        if j not in kept:
            changes.append(Change("added", new_one.title, after=dataclasses.asdict(new_one)))
            continue
        old_one = before.principles[kept[j]]
        if kept[j] not in still:
            changes.append(Change("moved", new_one.title, before=kept[j] + 1, after=j + 1))
        if old_one.title != new_one.title:
            changes.append(Change("renamed", new_one.title, "title", old_one.title, new_one.title))
        for field in (*TEXTS, "weight", "enabled"):
            was, now = getattr(old_one, field), getattr(new_one, field)
            if was != now:
                changes.append(Change("changed", new_one.title, field, was, now))
    if before.about != after.about:
        changes.append(Change("about", "", "about", before.about, after.about))
    return changes


def diff_words(changes: list[Change]) -> list[str]:
    """The changes in sentences."""
    return [_words(change) for change in changes] or ["Nothing differs."]


def _words(change: Change) -> str:
    title = f'"{change.title}"'
    if change.kind in ("added", "removed"):
        return f"{change.kind.capitalize()} {title}."
    if change.kind == "moved":
        return f"Moved {title} from place {change.before} to {change.after}."
    if change.kind == "renamed":
        return f'Renamed "{change.before}" to {title}.'
    if change.kind == "about":
        return f'The line about it was "{change.before}" and is now "{change.after}".'
    if change.field == "enabled":
        return f"Switched {'on' if change.after else 'off'} {title}."
    if change.field == "weight":
        return f"The weight of {title} was {change.before:g} and is now {change.after:g}."
    return f'The {change.field} of {title} was "{change.before}" and is now "{change.after}".'


def _pairs(before: tuple[Principle, ...], after: tuple[Principle, ...]) -> dict[int, int]:
    """Old place → new place of each principle that is still there: by its title, else by a text that only it kept."""
    titles = {p.title.casefold(): j for j, p in enumerate(after)}
    pairs = {i: titles[p.title.casefold()] for i, p in enumerate(before) if p.title.casefold() in titles}
    for wanted in (3, 2, 1):  # the most alike first
        for i, old in enumerate(before):
            for j, new in enumerate(after):
                alike = sum(getattr(old, field) == getattr(new, field) for field in TEXTS)
                if i not in pairs and j not in pairs.values() and alike >= wanted:
                    pairs[i] = j
    return pairs


def _unmoved(pairs: dict[int, int]) -> set[int]:
    """The old places of the most principles that kept their order; of equally many, those nearest their old place."""
    best: dict[int, tuple[int, tuple[int, ...]]] = {}  # old place → (score, the longest row of them that ends there)
    for i in sorted(pairs):
        score, row = max((best[k] for k in best if pairs[k] < pairs[i]), default=(0, ()))
        best[i] = (score + 10_000 - abs(pairs[i] - i), (*row, i))
    return set(max(best.values(), default=(0, ()))[1])


def _named(reference: str) -> Version:
    """A stored version, or the content of a file as a version that has no number."""
    path = Path(reference)
    return Version(read_file(path), 0, False) if path.is_file() else find(reference)


def _folder(name: str) -> Path:
    return root() / clean_name(name, "constitution")  # never outside, whatever the name


def _numbers(folder: Path) -> list[int]:
    """The numbers of the saved versions, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NUMBERED.fullmatch(path.name)))


def _last(folder: Path) -> int:
    try:
        return int((folder / _LAST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def _presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _spelled(name: str) -> str:
    """The name as it is kept already: some file systems can't tell `Kind` from `kind`, so nobody should need to."""
    return next((known for known in names() if known.casefold() == name.casefold()), name)


def _known_name(name: str) -> str:
    known = names()
    for wanted in (name, kept_name(name)):  # "My rules" is kept as My-rules
        if (spelled := _spelled(wanted)) in known:
            return spelled
    raise ConstitutionError(f"There is no constitution called '{shown(name)}'. Known: {', '.join(known[:12])}.")


@cache
def _preset(path: Path) -> Version:
    """A preset, which can't change while the app runs."""
    return Version(dataclasses.replace(read_file(path), name=path.stem), 1, True)


def _saved(folder: Path, number: int) -> Version:
    """A saved version. The folder says its name, whatever somebody may have written into the file."""
    try:
        found = parse(_decoded(_bytes(folder / f"{number}.yaml")), folder.name, "yaml")
    except ConstitutionError as error:
        raise ConstitutionError(f"{folder.name}, version {number} can't be read: {error}") from None
    return Version(dataclasses.replace(found, name=folder.name), number, False)


def _write(path: Path, text: str) -> None:
    """Replaces a file in one step, under the lock of its folder.

    What it holds is on the disk before its name is, so a loss of power never leaves an empty version.
    """
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _bytes(path: Path) -> bytes:
    """What a file holds, if it is a file of a constitution's size."""
    if not path.is_file():
        raise ConstitutionError("There is no such file.")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ConstitutionError(
            f"This is larger than {MOST_BYTES // 1000} kB, the limit for a constitution; keep less."
        )
    return data


def _decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 where it says so."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConstitutionError(f"Line {line} is not UTF-8 text; save it as plain UTF-8 text.") from None
