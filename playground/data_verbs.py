"""The `data` verb of the command line: check a file, and keep house in the library."""

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground.data import library
from playground.data.export import export
from playground.data.languages import language_words, languages
from playground.data.quality import extremes, findings
from playground.data.readers import read_file
from playground.data.recognise import FIELDS
from playground.data.report import Report, examine, some
from playground.data.shapes import Reading
from playground.data.splits import split_by_prompt
from playground.stages import inputs

READING = ("kind", "map", "pairs_by", "min_margin", "better", "good_from")  # options that say how a file is read


def data(args: argparse.Namespace) -> Any:
    """Check a file (what is kept, dropped and why) or keep it, list what is stored, or export, rename or delete it."""
    function, wanted = _ACTIONS[args.action]
    if args.action not in ("check", "keep") and (
        given := [name for name in READING if getattr(args, name) not in (None, [])]
    ):
        raise ValueError(f"--{given[0].replace('_', '-')} goes with data check and data keep.")
    if args.action != "keep" and args.name:
        raise ValueError("--name goes with data keep.")
    if args.action != "export" and args.split:
        raise ValueError("--split goes with data export.")
    if len(args.what) != len(wanted):
        needs = " and ".join(wanted) or "nothing more"
        raise ValueError(f"data {args.action} needs {needs}" + (f"; got {len(args.what)}." if args.what else "."))
    return function(args)


def check(args: argparse.Namespace) -> Any:
    """What would become of a file's rows: the guess, what is kept and dropped, and what to know of the kept ones."""
    report = _examined(args)
    if args.json and not report.kept:
        args.code = 1
        return report.as_json()
    _usable(report, args)
    found, spoken = findings(report.kept, split_by_prompt(report.kept)[1]), languages(report.kept)
    longest, shortest = ([row.row for row in rows] for rows in extremes(report.kept))
    if args.json:
        told = {"findings": [dataclasses.asdict(finding) for finding in found], "languages": dict(spoken)}
        return report.as_json() | told | {"longest": longest, "shortest": shortest}
    lines = [f"{report.guess}.", *report.words(), *(finding.sentence for finding in found), language_words(spoken)]
    return "\n".join([*lines, f"Longest rows: {some(longest)}; shortest: {some(shortest)}."])


def keep(args: argparse.Namespace) -> Any:
    """Stores a file's rows, read as the options say."""
    path = Path(args.what[0])
    made = library.store(_usable(_examined(args), args), args.name or path.name.split(".")[0], f"file {path.name}")
    return {"id": made.id, "name": made.name, "kind": made.kind, "train": made.train, "heldout": made.heldout}


def _examined(args: argparse.Namespace) -> Report:
    path = Path(args.what[0])
    if not path.is_file():
        raise ValueError(f"There is no file {args.what[0]}.")
    report = examine(read_file(path, path.name), reading(args))
    return report


def _usable(report: Report, args: argparse.Namespace) -> Report:
    """The report, if a row can be used."""
    if not report.kept:
        raise ValueError(f"{Path(args.what[0]).name}: {report.refusal()}")
    return report


def reading(args: argparse.Namespace) -> Reading:
    """How the options say that the file is to be read."""
    if wrong := [pair for pair in args.map if "=" not in pair]:
        raise ValueError(f"--map takes FIELD=COLUMN, such as prompt=question; got {wrong[0]!r}.")
    pairs = [pair.split("=", 1) for pair in args.map]
    fields = sorted(set().union(*FIELDS.values()))
    if unknown := [field for field, _ in pairs if field not in fields]:
        raise ValueError(f"--map knows no field {unknown[0]!r}; the fields are {', '.join(fields)}.")
    if twice := [field for i, (field, _) in enumerate(pairs) if field in dict(pairs[:i])]:
        raise ValueError(f"--map names a column for {twice[0]!r} twice.")
    for name in ("min_margin", "good_from"):
        if (number := getattr(args, name)) is not None and not math.isfinite(number):
            raise ValueError(f"--{name.replace('_', '-')} must be a number, got {number}.")
    if args.min_margin is not None and args.min_margin < 0:
        raise ValueError(f"--min-margin must be 0 or more, got {args.min_margin:g}.")
    given = {name: getattr(args, name) for name in READING if name != "map" and getattr(args, name) is not None}
    return Reading(columns=dict(pairs), **given)


def listed(args: argparse.Namespace) -> Any:
    """Every dataset in its newest version, with the runs that used one of its versions."""
    uses = inputs.uses()
    return [
        {
            "name": d.name,
            "kind": d.kind,
            "version": d.version,
            "train": d.train,
            "heldout": d.heldout,
            "sha256": d.sha256,
            "source": d.source,
            "used_by": [run.name for v in library.versions(d) for run in uses.get((v.id, v.sha256), [])],
        }
        for d in library.datasets()
    ]


def exported(args: argparse.Namespace) -> Any:
    """Writes a dataset as JSONL that TRL reads."""
    name, file = args.what
    dataset = library.find(name)
    rows = export(dataset, args.split or "all", Path(file))
    return {"dataset": dataset.reference, "file": file, "rows": rows}


def renamed(args: argparse.Namespace) -> Any:
    """Calls a dataset by another name."""
    old, new = args.what
    made = library.rename(library.find(old), new)
    return {"id": made.id, "name": made.name}


def deleted(args: argparse.Namespace) -> Any:
    """Removes a dataset with all of its versions; "name@number" or an id stands for one of them."""
    dataset = library.find(args.what[0])
    which = library.versions(dataset) if args.what[0] == dataset.name else [dataset]
    inputs.delete_datasets(which)
    return {"deleted": [version.reference for version in which]}


_ACTIONS: dict[str, tuple[Callable[[argparse.Namespace], Any], tuple[str, ...]]] = {
    "check": (check, ("a file",)),
    "keep": (keep, ("a file",)),
    "list": (listed, ()),
    "export": (exported, ("a name", "a file")),
    "rename": (renamed, ("a name", "a new name")),
    "delete": (deleted, ("a name",)),
}
