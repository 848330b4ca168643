"""The library: datasets by name, each with its numbered versions. Those in presets/ are version 1, read-only.

The rows of a version are never written again: what a person changes is the next one, and a run finds the one that it
used by its id. Rows whose first question is the same never stand on both sides of the split.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from playground.data.dataset import FILES, SPLITS, Dataset, digest, every, root
from playground.data.readers import DataError, read_file
from playground.data.report import Report, examine
from playground.data.shapes import Reading
from playground.data.splits import kept_apart, split_by_prompt
from playground.home import clean_name, free_name, write_atomically

ACCEPTED = {  # stages' rows → kinds
    "sft": ("sft",),
    "preference": ("preference",),
    "prompts": tuple(FILES),
}
BESIDE = ("checks.yaml", "facts.jsonl")  # what may lie with the rows; the next version has it too
MOST_NOTED = 200  # characters


def datasets() -> list[Dataset]:
    """The newest version of every dataset, the presets first, then by age."""
    return _newest(every())


def versions(dataset: Dataset) -> list[Dataset]:
    """The versions of a dataset, oldest first, without those deleted since."""
    return sorted((d for d in every() if d.series == dataset.series), key=lambda d: d.version)


def find(reference: str, kind: str | None = None) -> Dataset:
    """The dataset with this id, the newest version of "name", or the version of "name@number".

    A preset's folder name stands for whichever of its datasets fits the rows that a stage asks for: "sft",
    "preference" or "prompts", which any dataset has.
    """
    known, kinds = every(), ACCEPTED.get(kind or "", ())
    newest = _newest(known)
    found = [d for d in known if reference == d.id] or [d for d in known if reference == d.reference]
    found += [d for d in newest if reference == d.name]
    found += [d for d in newest if d.preset and d.kind in kinds and d.folder.name == reference]
    wanted = [d for d in found if kind is None or d.kind in kinds] or found
    if wanted:
        return wanted[0]
    name, _, number = reference.partition("@")
    if numbers := ", ".join(str(d.version) for d in known if d.name == name):
        raise DataError(f"{name} has no version {number[:20]!r}; it has {numbers}.")
    raise DataError(f"There is no dataset called {reference[:60]!r}. Known: {', '.join(d.name for d in newest[:12])}.")


def store(report: Report, name: str, source: str) -> Dataset:
    """Keeps the report's rows under a name; the folder appears complete in one step."""
    if not report.kept:
        raise DataError(report.refusal())
    facts = {"kind": report.kind, "shape": report.shape, "source": source, "dropped": report.as_json()["dropped"]}
    with _writing():
        return _written({"name": _free(name), **facts}, *split_by_prompt(report.kept))


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
    with _writing():
        known = next((d for d in every() if (d.kind, d.sha256, d.origin) == (kind, sha256, origin)), None)
        return known or _written({"name": _free(name), "kind": kind, "source": source, "origin": origin}, *parts)


def import_file(path: Path, name: str | None = None, kind: str | None = None) -> tuple[Dataset, Report]:
    """Reads, examines and stores a file, but neither one stored already nor one without rows of the kind."""
    raw = read_file(path, path.name)
    report = examine(raw)
    if kind and report.kind not in ACCEPTED[kind]:
        own = examine(raw, Reading(kind=kind))  # a stage takes its own rows from a file of several kinds
        if not own.kept:
            raise DataError(f"{path.name} holds {report.kind} rows; {kind} rows are needed here.")
        report = own
    if report.kept:
        train, heldout = split_by_prompt(report.kept)
        sha256, wanted = digest(train, heldout), name and clean_name(name, "data")
        known = next((d for d in every() if d.sha256 == sha256 and wanted in (None, d.name)), None)
        if known:
            return known, report
    return store(report, name or path.stem, f"file {path.name}"), report


def revise(dataset: Dataset, rows: Mapping[str, list[Any]], note: str = "") -> Dataset:
    """Keeps changed rows as the next version; where nothing differs from the newest one, that one is returned.

    rows: "train" and "heldout", each row where it was, and "new" ones, which are split by their questions. A preset
    can't change, nor can what was deleted meanwhile: the rows become the first version of a dataset of their own.
    """
    train, heldout = kept_apart(rows["train"], rows["heldout"], rows.get("new", []))
    if not train:
        raise DataError("No row would be left to train on; keep at least one.")
    facts = {
        "kind": dataset.kind,
        "shape": dataset.shape,
        "source": f"a revision of {dataset.name}" if dataset.preset else dataset.source,
        "origin": dataset.origin,
        "parent": dataset.id,
        "note": note[:MOST_NOTED],
    }
    with _writing():
        known = versions(dataset)
        if known and known[-1].sha256 == digest(train, heldout):
            return known[-1]
        if known and known[-1].id != dataset.id and not dataset.preset:
            facts["note"] = f"from version {dataset.version}: {note}"[:MOST_NOTED]
        if dataset.preset or not known:
            return _written({"name": _free(dataset.name), **facts}, train, heldout, dataset.folder)
        number = max(known[-1].version, known[-1].last) + 1
        place = {"name": known[-1].name, "series": dataset.series, "version": number}
        return _written({**place, **facts}, train, heldout, dataset.folder)


def rename(dataset: Dataset, name: str) -> Dataset:
    """Calls every version of a stored dataset by another name. Runs know it by its id and find it all the same."""
    if dataset.preset:
        raise DataError("A dataset that comes with the app can't be renamed.")
    if not (wanted := clean_name(name, "")):
        raise DataError("A name needs at least one letter or digit.")
    with _writing():
        if any(d.name == wanted and d.series != dataset.series for d in datasets()):
            raise DataError(f"Another dataset is called {wanted} already; choose another name.")
        for version in versions(dataset):  # the newest last: its name is the one that counts, should this be cut short
            _amend(version, name=wanted)
    return find(dataset.id)


def delete(*which: Dataset) -> None:
    """Removes stored versions, `*versions(dataset)` for all. Runs keep the hash of what they used."""
    if any(dataset.preset for dataset in which):
        raise DataError("A dataset that comes with the app can't be deleted.")
    with _writing():
        for dataset in which:
            if left := [version for version in versions(dataset) if version.id != dataset.id]:
                last = max(dataset.version, dataset.last, left[-1].last)
                _amend(left[-1], last=last)  # a number is given once, even where its version is deleted: runs name it
            if dataset.folder.exists():
                shutil.rmtree(dataset.folder.rename(_part(dataset.id)))


def _newest(known: list[Dataset]) -> list[Dataset]:
    """The newest version of each, in the place of its oldest."""
    newest: dict[str, Dataset] = {}
    for dataset in known:
        if dataset.series not in newest or dataset.version > newest[dataset.series].version:
            newest[dataset.series] = dataset
    return list(newest.values())


def _writing() -> filelock.BaseFileLock:
    """The lock of whoever changes the library, so that two pages never take one name or number."""
    return filelock.FileLock(root() / ".lock", timeout=30)


def _free(name: str) -> str:
    return free_name(clean_name(name, "data"), {d.name for d in datasets()})


def _part(data_id: str) -> Path:
    """Where a folder is filled before it appears, and emptied after it is gone."""
    return root() / f".{data_id}.part"


def _amend(dataset: Dataset, **facts: Any) -> None:
    """Changes what a stored version is called, never what it holds."""
    path = dataset.folder / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    write_atomically(path, json.dumps({**meta, **facts}, indent=1, ensure_ascii=False))


def _written(facts: dict[str, Any], train: list[Any], heldout: list[Any], like: Path | None = None) -> Dataset:
    """A new version's folder: these rows and facts, with what can be counted, and what lies beside the rows of `like`.

    Only whoever holds the lock may write.
    """
    for stale in root().glob(".data_*.part"):  # a crash left it
        shutil.rmtree(stale)
    data_id = f"data_{secrets.token_hex(6)}"
    counted = {"sha256": digest(train, heldout), "train": len(train), "heldout": len(heldout)}
    meta = {"id": data_id, "created": time.time(), **counted, **facts}
    part = _part(data_id)
    part.mkdir()
    for split, rows in zip(SPLITS, (train, heldout), strict=True):
        lines = [json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows]
        (part / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (part / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    for beside in BESIDE:
        if like and (like / beside).exists():
            shutil.copyfile(like / beside, part / beside)
    for path in part.iterdir():
        with path.open("rb+") as file:  # the rows are on the disk before their name is: no loss of power empties them
            os.fsync(file.fileno())
    part.rename(root() / data_id)
    return find(data_id)
