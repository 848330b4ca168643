"""The library: stored datasets, named, hashed and split by prompt. The datasets in presets/ are part of it, read-only.

A stored dataset is a folder `datasets/<id>/` with meta.json, train.jsonl and heldout.jsonl. Rows whose first question
is the same never stand on both sides of the split.
"""

import dataclasses
import hashlib
import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from playground.data.pairs import Pair
from playground.data.prompts import Prompt, stored_prompt
from playground.data.readers import DataError, read_file
from playground.data.report import Report, examine
from playground.data.shapes import Row
from playground.home import clean_name, free_name, home

ID = re.compile(r"data_[0-9a-f]{12}")
PRESETS = Path(__file__).resolve().parents[2] / "presets" / "data"
FILES = {
    "sft": ("sft.jsonl", "heldout.jsonl"),
    "preference": ("preferences.jsonl", "preferences-heldout.jsonl"),
    "prompts": ("prompts.jsonl", "prompts-heldout.jsonl"),
}
ACCEPTED = {  # stages' rows → kinds
    "sft": ("sft",),
    "preference": ("preference",),
    "prompts": ("sft", "preference", "prompts"),
}
HELDOUT_SHARE = 0.1
HELDOUT_MOST = 200


@dataclass(frozen=True)
class Dataset:
    """A dataset that can be trained on."""

    id: str
    name: str
    kind: str
    folder: Path
    sha256: str
    train: int
    heldout: int
    source: str
    origin: dict[str, Any] | None = None  # what made the rows, where a run of the app did

    def rows(self, split: str) -> list[Any]:
        """The rows of "train" or "heldout": conversations (Row), pairs (Pair) or prompts (Prompt), as the kind says."""
        read = {"sft": _row, "preference": _pair, "prompts": stored_prompt}[self.kind]
        with (self.folder / self._file(split)).open(encoding="utf-8") as file:
            return [read(number, json.loads(line)) for number, line in enumerate(file, 1)]

    def checks(self) -> dict[str, Any]:
        """The declarative checks that belong to this dataset; empty if it has none."""
        return _yaml(self.folder / "checks.yaml")

    def facts(self) -> list[dict[str, Any]]:
        """The small factual probe that belongs to this dataset; empty if it has none."""
        path = self.folder / "facts.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @property
    def preset(self) -> bool:
        return self.folder.parent == PRESETS

    def _file(self, split: str) -> str:
        return FILES[self.kind][split == "heldout"] if self.preset else f"{split}.jsonl"


def root() -> Path:
    """The folder of the stored datasets."""
    path = home() / "datasets"
    path.mkdir(exist_ok=True)
    return path


def datasets() -> list[Dataset]:
    """Every dataset, the presets first, then by age."""
    stored = [_stored(path) for path in root().iterdir() if ID.fullmatch(path.name)]
    presets = [
        _preset(folder, kind)
        for folder in sorted(PRESETS.iterdir())
        for kind in FILES
        if (folder / FILES[kind][0]).exists()
    ]
    return presets + [dataset for _, dataset in sorted(filter(None, stored), key=lambda found: found[0])]


def find(reference: str, kind: str | None = None) -> Dataset:
    """The dataset with this id or name. A preset's folder name stands for whichever of its datasets fits the rows that
    a stage asks for: "sft", "preference" or "prompts", which any dataset has."""
    known, kinds = datasets(), ACCEPTED.get(kind or "", ())
    found = [d for d in known if reference in (d.id, d.name)]
    found += [d for d in known if d.preset and d.kind in kinds and d.folder.name == reference]
    wanted = [d for d in found if kind is None or d.kind in kinds] or found
    if not wanted:
        names = ", ".join(d.name for d in datasets()[:12])
        raise DataError(f"There is no dataset called {reference[:60]!r}. Known: {names}.")
    return wanted[0]


def store(report: Report, name: str, source: str) -> Dataset:
    """Keeps the report's rows under a name; the folder appears complete in one step."""
    if not report.kept:
        raise DataError(report.refusal())
    facts = {"kind": report.kind, "shape": report.shape, "source": source, "dropped": report.as_json()["dropped"]}
    return _written(name, facts, *split_by_prompt(report.kept))


def make(
    name: str,
    kind: str,
    rows: list[Any],
    source: str,
    origin: dict[str, Any],
    heldout: list[Any] | None = None,
) -> Dataset:
    """Keeps rows that a run of the app made, split as an upload's are unless the held-out ones are named.

    The same rows of the same origin are kept once. Stored rows are numbered from 1 in each part, whatever they were.
    """
    if not rows:
        raise DataError(f"There are no rows to keep as {clean_name(name, 'data')}.")
    parts = split_by_prompt(rows) if heldout is None else (rows, heldout)
    sha256 = digest(*parts)
    known = next((d for d in datasets() if (d.kind, d.sha256, d.origin) == (kind, sha256, origin)), None)
    return known or _written(name, {"kind": kind, "source": source, "origin": origin}, *parts)


def _written(name: str, facts: dict[str, Any], train: list[Any], heldout: list[Any]) -> Dataset:
    """A new dataset's folder, of these rows and with these facts beside what can be counted."""
    meta = {
        "id": f"data_{secrets.token_hex(6)}",
        "name": free_name(clean_name(name, "data"), {d.name for d in datasets()}),
        "created": time.time(),
        "sha256": digest(train, heldout),
        "train": len(train),
        "heldout": len(heldout),
        **facts,
    }
    part = root() / f".{meta['id']}.part"
    part.mkdir()
    for split, rows in (("train", train), ("heldout", heldout)):
        lines = [json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows]
        (part / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (part / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    part.rename(root() / str(meta["id"]))
    return find(str(meta["id"]))


def import_file(path: Path, name: str | None = None, kind: str | None = None) -> tuple[Dataset, Report]:
    """Reads, examines and stores a file, but neither one stored already nor one of another kind."""
    report = examine(read_file(path, path.name))
    if kind and report.kind not in ACCEPTED[kind]:
        raise DataError(f"{path.name} holds {report.kind} rows; {kind} rows are needed here.")
    if report.kept:
        train, heldout = split_by_prompt(report.kept)
        sha256, wanted = digest(train, heldout), name and clean_name(name, "data")
        known = next((d for d in datasets() if d.sha256 == sha256 and wanted in (None, d.name)), None)
        if known:
            return known, report
    return store(report, name or path.stem, f"file {path.name}"), report


def delete(dataset: Dataset) -> None:
    """Removes a stored dataset. Runs keep the hash of what they used."""
    if dataset.preset:
        raise DataError("A dataset that comes with the app can't be deleted.")
    shutil.rmtree(dataset.folder)


def split_by_prompt(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """(train, held-out): a tenth of the opening questions, chosen by their hash, never more than 200 rows.

    The choice depends on the text alone: the same file is split in the same way everywhere.
    """
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(_opening(row), []).append(row)
    if len(groups) < 10:
        return rows, []
    ordered = sorted(groups, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    wanted = min(max(1, round(len(rows) * HELDOUT_SHARE)), HELDOUT_MOST)
    chosen: set[str] = set()
    for text in ordered:
        if len(groups[text]) <= wanted:  # a much-repeated question stays in training
            chosen.add(text)
            wanted -= len(groups[text])
    return [r for r in rows if _opening(r) not in chosen], [r for r in rows if _opening(r) in chosen]


def half(rows: list[Any], which: str) -> list[Any]:
    """The "first" or "second" half of the opening questions, by their hash; "all" is every row.

    A judge trained on one half has not seen what the model that it judges learned from.
    """
    if which == "all":
        return rows
    order = sorted(
        {_opening(row) for row in rows}, key=lambda text: hashlib.sha256(b"half " + text.encode()).hexdigest()
    )
    first = set(order[: len(order) // 2])
    return [row for row in rows if (_opening(row) in first) == (which == "first")]


def digest(train: list[Any], heldout: list[Any]) -> str:
    """SHA-256 of the normalised rows, split included."""
    text = json.dumps([[row.content for row in train], [row.content for row in heldout]], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _row(number: int, stored: dict[str, Any]) -> Row:
    return Row(number, stored["messages"], stored.get("notes", {}))


def _pair(number: int, stored: dict[str, Any]) -> Pair:
    chosen, rejected = (stored[side][-1]["content"] for side in ("chosen", "rejected"))
    return Pair(number, stored["prompt"], chosen, rejected, stored.get("label", 1.0), stored.get("notes", {}))


def _opening(row: Row | Pair | Prompt) -> str:
    first = next(message["content"] for message in row.asked if message["role"] == "user")
    return " ".join(first.casefold().split())


def _stored(folder: Path) -> tuple[float, Dataset] | None:
    """(when it was made, dataset); None if the folder is damaged or just being deleted."""
    fields = ("name", "kind", "sha256", "train", "heldout", "source")
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        known = {field: meta[field] for field in fields}
        return meta["created"], Dataset(id=folder.name, folder=folder, **known, origin=meta.get("origin"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _preset(folder: Path, kind: str) -> Dataset:
    """A preset's dataset; it bears the folder's name, and pairs say besides that they are preferences."""
    name = f"{folder.name}-preferences" if kind == "preference" else folder.name
    draft = Dataset(name, name, kind, folder, "", 0, 0, "comes with the app")
    train, heldout = draft.rows("train"), draft.rows("heldout")
    return dataclasses.replace(draft, sha256=digest(train, heldout), train=len(train), heldout=len(heldout))


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
