"""How rows are divided: what is held out, and two halves. Always by the first question, never through one."""

import hashlib
from typing import Any

HELDOUT_SHARE = 0.1
HELDOUT_MOST = 200


def opening(row: Any) -> str:
    """What a row is divided by: its first question, whatever the case and the spacing."""
    first = next(message["content"] for message in row.asked if message["role"] == "user")
    return " ".join(first.casefold().split())


def split_by_prompt(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """(train, held-out): a tenth of the opening questions, chosen by their hash, never more than 200 rows.

    The choice depends on the text alone: the same file is split in the same way everywhere.
    """
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(opening(row), []).append(row)
    if len(groups) < 10:
        return rows, []
    ordered = sorted(groups, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    wanted = min(max(1, round(len(rows) * HELDOUT_SHARE)), HELDOUT_MOST)
    chosen: set[str] = set()
    for text in ordered:
        if len(groups[text]) <= wanted:  # a much-repeated question stays in training
            chosen.add(text)
            wanted -= len(groups[text])
    return [r for r in rows if opening(r) not in chosen], [r for r in rows if opening(r) in chosen]


def kept_apart(train: list[Any], heldout: list[Any], new: list[Any]) -> tuple[list[Any], list[Any]]:
    """(train, held-out) after rows were changed or added: each stays where it was, new ones are split as a file's are.

    A row that now asks a held-out question is held out too; none ever goes from there into training.
    """
    known = {opening(row) for row in [*train, *heldout]}
    chosen = split_by_prompt([row for row in new if opening(row) not in known])[1]
    asked = {opening(row) for row in [*heldout, *chosen]}
    rows = [*train, *new]
    return [r for r in rows if opening(r) not in asked], [*heldout, *(r for r in rows if opening(r) in asked)]


def half(rows: list[Any], which: str) -> list[Any]:
    """The "first" or "second" half of the opening questions, by their hash; "all" is every row.

    A judge trained on one half has not seen what the model that it judges learned from.
    """
    if which == "all":
        return rows
    order = sorted(
        {opening(row) for row in rows}, key=lambda text: hashlib.sha256(b"half " + text.encode()).hexdigest()
    )
    first = set(order[: len(order) // 2])
    return [row for row in rows if (opening(row) in first) == (which == "first")]
