"""What a constitution or an AI feedback run made, row by row: read, judged by a person, handed over as a dataset.

A run's rows.jsonl is only appended to; what a person decides stands beside it in review.json, so neither is ever lost.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import filelock

from playground.data import library
from playground.data.library import Dataset
from playground.data.pairs import Pair
from playground.data.rendering import Message
from playground.data.shapes import Row
from playground.home import write_atomically
from playground.runs.run import Run, list_runs

ROWS, REVIEW, JUDGE = "rows.jsonl", "review.json", "judge.json"
MAKERS = ("constitution", "feedback")
VERDICTS = ("accept", "edit", "drop")
MOST_LETTERS = 8000


class HarvestError(ValueError):
    """A row that can't be decided about or handed over; the text says what to do."""


@dataclass(frozen=True)
class Item:
    """One prompt with the worse answer and the better one; reason: the filter that dropped it; verdict: a person's.

    edited: whether the better answer is a person's own; aside: what a person wrote before taking their verdict back.
    """

    index: int
    prompt: list[Message]
    answer: str
    better: str
    label: float
    reason: str | None
    verdict: str
    notes: dict[str, Any]
    edited: bool = False
    aside: str = ""

    @property
    def kept(self) -> bool:
        """True if it goes into the dataset: a person's word counts more than a filter's."""
        return self.verdict in ("accept", "edit") or (self.reason is None and self.verdict != "drop")


def append(run: Run, rows: Iterable[dict[str, Any]], name: str = ROWS) -> None:
    """Writes finished rows and sees that they are on the disk: after this a power loss can't take them."""
    with (run.folder / name).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def rows(run: Run, name: str = ROWS) -> list[dict[str, Any]]:
    """Finished rows in the order of their prompts, the first of each index; a line cut by a crash is left out."""
    path = run.folder / name
    if not path.exists():
        return []
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # other line ends belong to the texts
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            found.setdefault(row["index"], row)
    return [found[index] for index in sorted(found)]


def mend(run: Run, name: str = ROWS) -> None:
    """Ends a file that a crash cut within a line, so that what is appended next starts on a line of its own."""
    path = run.folder / name
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def judge_known(run: Run) -> dict[str, Any]:
    """Who judged a run's pairs and what of the known ones it gets right; {} where nobody does, or it was not tried."""
    path = run.folder / JUDGE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def makers() -> list[Run]:
    """The runs that made rows, newest first."""
    found = [run for run in reversed(list_runs()) if run.request["stage"] in MAKERS]
    return [run for run in found if (run.folder / ROWS).exists()]


def items(run: Run) -> list[Item]:
    """Every row of a run with what a person decided about it."""
    decided = _review(run)
    read = _revised if run.request["stage"] == "constitution" else _compared
    found = []
    for row in rows(run):
        said = decided.get(str(row["index"]), {})
        found.append(replace(read(row, said), edited=bool(said.get("text")), aside=said.get("aside", "")))
    return found


def _revised(row: dict[str, Any], decided: dict[str, str]) -> Item:
    better = decided.get("text") or row["revision"]
    titles = [step["principle"] for step in row["steps"]]
    notes = {**row["notes"], "principles": titles, "steps": row["steps"], "answer": row["answer"]}
    verdict = decided.get("verdict", "")
    return Item(row["index"], row["prompt"], row["answer"], better, 1.0, row["reason"], verdict, notes)


def _compared(row: dict[str, Any], decided: dict[str, str]) -> Item:
    told = {name: row[name] for name in ("p", "consistent", "per_principle") if name in row}
    notes = {**row["notes"], **told}
    better, verdict = decided.get("text") or row["chosen"], decided.get("verdict", "")
    label = 1.0 if verdict in ("accept", "edit") else row["label"]  # a person is no guess
    return Item(row["index"], row["prompt"], row["rejected"], better, label, row["reason"], verdict, notes)


def decide(run: Run, index: int, verdict: str, text: str | None = None) -> None:
    """Keeps a person's verdict on a row: "accept", "edit" (with the new text), "drop", or "" to take it back.

    Their words are never erased. They stay with a row that is dropped, so that "accept" brings them back; where the
    verdict is taken back, the row is again as it was made, and they lie aside.
    """
    if verdict not in ("", *VERDICTS):
        raise HarvestError(f"The verdict must be one of {', '.join(VERDICTS)}; got {verdict!r}.")
    if index not in {row["index"] for row in rows(run)}:
        raise HarvestError(f"{run.name} has no row {index}.")
    text = (text or "").strip()
    if verdict == "edit" and not text:
        raise HarvestError(f"Row {index + 1}: the edited answer is empty; write one, or drop the row.")
    if len(text) > MOST_LETTERS:
        raise HarvestError(f"Row {index + 1}: the edited answer has {len(text):,} letters, {MOST_LETTERS:,} at most.")
    with filelock.FileLock(run.folder / "review.lock", timeout=10):  # two pages may decide at once
        decided = _review(run)
        before = decided.pop(str(index), {})
        words = text or before.get("text", "")
        aside = before.get("aside", "") if verdict else words or before.get("aside", "")
        verdict = "edit" if verdict == "accept" and words else verdict
        now = {"verdict": verdict, "text": words if verdict else "", "aside": aside}
        if now := {name: said for name, said in now.items() if said}:
            decided[str(index)] = now
        write_atomically(run.folder / REVIEW, json.dumps(decided, ensure_ascii=False, indent=1))


def _review(run: Run) -> dict[str, dict[str, str]]:
    path = run.folder / REVIEW
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def accepted(run: Run, kind: str) -> list[Item]:
    """The kept rows that make a row of this kind: a pair needs two different answers."""
    kept = [item for item in items(run) if item.kept]
    return kept if kind == "sft" else [item for item in kept if item.better.strip() != item.answer.strip()]


def hand_over(run: Run, kind: str) -> Dataset:
    """The accepted rows as a dataset of the library: "sft" (the better answers) or "preference" (better ≻ worse)."""
    kept = accepted(run, kind)
    if not kept:
        raise HarvestError(f"{run.name} has no accepted rows: accept or edit some in the review first.")
    made: list[Any] = []
    for number, item in enumerate(kept, 1):
        notes = {**item.notes, **({"review": item.verdict} if item.verdict else {})}
        if kind == "sft":
            made.append(Row(number, [*item.prompt, {"role": "assistant", "content": item.better}], notes))
        else:
            made.append(Pair(number, item.prompt, item.better, item.answer or "…", item.label, notes))
    used = run.request["constitution"]
    origin = {
        "run": run.id,
        "run_name": run.name,
        "constitution": {name: used[name] for name in ("name", "version", "sha256")},
        "reviewed": sum(bool(item.verdict) for item in kept),
    }
    if judge := judge_known(run):
        origin["judge"] = {name: judge[name] for name in ("judge", "method", "honest")}
    source = f"{run.name}, made with {used['name']}, version {used['version']}"
    return library.make(f"{run.name}-{'rows' if kind == 'sft' else 'pairs'}", kind, made, source, origin)


def dropped(found: Iterable[Item]) -> dict[str, int]:
    """How many rows each filter dropped, the most first."""
    return dict(Counter(item.reason for item in found if item.reason).most_common())
