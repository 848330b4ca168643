"""A dataset as a file for other tools: JSONL in TRL's own forms, conversational throughout.

sft: messages. preference: prompt, chosen, rejected. prompts: prompt. thumbs: prompt, completion, label. What else is
known stands in columns that TRL passes over, except `margin`, which its reward trainer reads:

- `margin`: how much better the chosen answer is; 0, which changes no loss, where a pair has none.
- `soft_label`: the probability that it is the better one.
- `id`, `topic`, `kind`: what a prompt is about.
- `notes`: the other notes as one JSON text, because their fields differ from row to row.

A column is filled in every row or stands in none: `datasets` takes columns and types from the first rows that it sees.
"""

import json
from pathlib import Path
from typing import Any

from playground.data.dataset import SPLITS, Dataset
from playground.data.prompts import NOTED
from playground.data.readers import DataError
from playground.home import write_atomically

TRL = {
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "thumbs": ("prompt", "completion", "label"),
}
MISSING: dict[str, Any] = {"margin": 0.0, "soft_label": 1.0, **dict.fromkeys((*NOTED, "notes"), "")}


def export(dataset: Dataset, split: str, file: Path) -> int:
    """Writes the rows of "train" or "heldout", or "all" of them, and says how many; the file appears in one step."""
    if split not in ("all", *SPLITS):
        raise DataError(f"The rows are called train, heldout or all; got {split[:20]!r}.")
    if file.is_dir():
        raise DataError(f"{file} is a folder; name a file in it.")
    if not file.absolute().parent.is_dir():
        raise DataError(f"There is no folder {file.absolute().parent}.")
    rows = [row for part in (SPLITS if split == "all" else (split,)) for row in dataset.rows(part)]
    records = [_record(row.as_json(), dataset.kind) for row in rows]
    used = set().union(*records)
    columns = [*TRL[dataset.kind], *(name for name in MISSING if name in used)]
    lines = [
        json.dumps({name: record.get(name, MISSING.get(name)) for name in columns}, ensure_ascii=False) + "\n"
        for record in records
    ]
    write_atomically(file, "".join(lines))
    return len(lines)


def _record(stored: dict[str, Any], kind: str) -> dict[str, Any]:
    """One row with what is known of it in columns."""
    record = {name: stored[name] for name in TRL[kind]}
    notes = dict(stored.get("notes", {}))
    if kind == "preference":
        record |= {"soft_label": stored["label"]} if "label" in stored else {}
        record |= {"margin": float(notes.pop("margin"))} if "margin" in notes else {}
    if kind == "prompts":
        record |= {name: notes.pop(name) for name in NOTED if isinstance(notes.get(name), str)}
    return record | ({"notes": json.dumps(notes, ensure_ascii=False)} if notes else {})
