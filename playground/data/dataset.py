"""A dataset as it lies on the disk: one version, a folder with its rows and what is known of them.

A stored version is `datasets/<id>/` with meta.json, train.jsonl and heldout.jsonl; presets lie in presets/data/.
"""

import hashlib
import json
import re
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from playground.data.pairs import Pair
from playground.data.prompts import stored_prompt
from playground.data.records import DataError
from playground.data.shapes import Row
from playground.data.thumbs import Thumb
from playground.home import home

ID = re.compile(r"data_[0-9a-f]{12}")
PRESETS = Path(__file__).resolve().parents[2] / "presets" / "data"
FILES = {
    "sft": ("sft.jsonl", "heldout.jsonl"),
    "preference": ("preferences.jsonl", "preferences-heldout.jsonl"),
    "prompts": ("prompts.jsonl", "prompts-heldout.jsonl"),
    "thumbs": ("thumbs.jsonl", "thumbs-heldout.jsonl"),
}
SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset that can be trained on.

    origin: what made the rows, where a run of the app did; parent: the id of what it was revised from; note: how;
    series: the id of the first version, the same in all; last: the highest number that was given, if above its own.
    """

    id: str
    name: str
    kind: str
    folder: Path
    sha256: str
    train: int
    heldout: int
    source: str
    origin: dict[str, Any] | None = None
    shape: str = ""
    created: float = 0.0
    version: int = 1
    parent: str | None = None
    note: str = ""
    series: str = ""
    last: int = 0

    def rows(self, split: str) -> list[Any]:
        """The rows of "train" or "heldout": Row, Pair, Prompt or Thumb, as the kind says. Held-out rows are counted on
        from the others, so that a number is one row's."""
        path, read = self.folder / self._file(split), _READ[self.kind]
        first = 1 + self.train if split == "heldout" else 1
        try:
            with path.open(encoding="utf-8") as file:
                return [read(number, json.loads(line)) for number, line in enumerate(file, first)]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{self.label} can't be read: its {path.name} is missing or damaged.") from error

    def checks(self) -> dict[str, Any]:
        """The declarative checks that belong to this dataset; empty if it has none."""
        path = self.folder / "checks.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}

    def facts(self) -> list[dict[str, Any]]:
        """The small factual probe that belongs to this dataset; empty if it has none."""
        path = self.folder / "facts.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @property
    def preset(self) -> bool:
        """True for a dataset that comes with the app."""
        return self.folder.parent == PRESETS

    @property
    def label(self) -> str:
        """What a person reads: its name and version."""
        return f"{self.name}, version {self.version}"

    @property
    def reference(self) -> str:
        """What `find` knows this version by."""
        return f"{self.name}@{self.version}"

    def _file(self, split: str) -> str:
        return FILES[self.kind][split == "heldout"] if self.preset else f"{split}.jsonl"


def root() -> Path:
    """The folder of the stored datasets."""
    path = home() / "datasets"
    path.mkdir(exist_ok=True)
    return path


def every() -> list[Dataset]:
    """Every version of every dataset, the presets first, then by age. What is damaged is left out."""
    presets = [
        _preset(folder, kind)
        for folder in sorted(PRESETS.iterdir())
        for kind in FILES
        if (folder / FILES[kind][0]).exists()
    ]
    stored = [_stored(path) for path in root().iterdir() if ID.fullmatch(path.name)]
    return presets + sorted(filter(None, stored), key=lambda found: found.created)


def digest(train: list[Any], heldout: list[Any]) -> str:
    """SHA-256 of the normalised rows, split included."""
    text = json.dumps([[row.content for row in train], [row.content for row in heldout]], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _row(number: int, stored: dict[str, Any]) -> Row:
    return Row(number, stored["messages"], stored.get("notes", {}))


def _pair(number: int, stored: dict[str, Any]) -> Pair:
    chosen, rejected = (stored[side][-1]["content"] for side in ("chosen", "rejected"))
    return Pair(number, stored["prompt"], chosen, rejected, stored.get("label", 1.0), stored.get("notes", {}))


def _thumb(number: int, stored: dict[str, Any]) -> Thumb:
    answer = stored["completion"][-1]["content"]
    return Thumb(number, stored["prompt"], answer, stored["label"], stored.get("notes", {}))


_READ = {"sft": _row, "preference": _pair, "prompts": stored_prompt, "thumbs": _thumb}


def _stored(folder: Path) -> Dataset | None:
    """A stored version; None if its folder is damaged or just being deleted."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        known = {field.name: meta[field.name] for field in fields(Dataset) if field.name in meta}
        found = Dataset(**{"series": folder.name, **known, "id": folder.name, "folder": folder})
        whole = all((folder / f"{split}.jsonl").exists() for split in SPLITS)
        return found if whole and found.kind in FILES and _sound(found) else None
    except (OSError, ValueError, TypeError):
        return None


def _sound(found: Dataset) -> bool:
    """True if everything that lists and looks for datasets relies on is of the right type."""
    texts = (found.name, found.sha256, found.source, found.series)
    numbers = (found.train, found.heldout, found.version, found.last)
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) for number in numbers)
        and isinstance(found.created, int | float)
    )


@cache
def _preset(folder: Path, kind: str) -> Dataset:
    """A preset's dataset, which can't change while the app runs; it bears the folder's name, and pairs say besides
    that they are preferences."""
    name = f"{folder.name}-preferences" if kind == "preference" else folder.name
    draft = Dataset(name, name, kind, folder, "", 0, 0, "comes with the app", series=name)
    train, heldout = draft.rows("train"), draft.rows("heldout")
    return replace(draft, sha256=digest(train, heldout), train=len(train), heldout=len(heldout))
