"""From verdicts to labelled pairs: which side is chosen, how sure the label is, and which pairs are of no use. Pure."""

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from playground.stages.judging import Verdict


def unusable(written: dict[str, Any]) -> str | None:
    """Why the two `answers` of a prompt can't be compared; None if they can. `ended`: whether each came to its end."""
    first, second = written["answers"]
    if not all(re.search(r"\w", answer) for answer in (first, second)):
        return "empty answer"
    if not all(written["ended"]):
        return "unfinished"
    return "identical answers" if first.split() == second.split() else None


def label_of(p: float, consistent: bool, settings: Any) -> float:
    """The label of the chosen side from its probability p ≥ ½: near ties and inconsistent pairs each halfway to ½ where
    they are softened, then kept within ½ ± clamp (Bai et al. 2022 keep the labels of a judge that thinks aloud within
    40–60%)."""
    distance = p - 0.5
    near_tie = distance < settings.tau
    if near_tie and settings.ties == "soften":
        distance /= 2
    if not consistent and settings.inconsistent == "soften":
        distance /= 2
    return 0.5 + min(distance, settings.clamp)


def row_of(
    written: dict[str, Any], verdict: Verdict | None, settings: Any, titles: Sequence[str], accuracy: str
) -> dict[str, Any]:
    """A line of rows.jsonl: the pair with the preferred side as `chosen`, and why it is of no use, if it is not.

    p, per_principle (logits) and orders (what was read of both orders, or of the chosen and of the rejected answer) are
    told from the chosen side.
    """
    first, second = written["answers"]
    row = {name: written[name] for name in ("index", "prompt", "answers")}
    if verdict is None:
        good, bad = (first, second) if re.search(r"\w", first) else (second, first)
        why = unusable(written) or "too long for the judge"
        return {**row, "chosen": good, "rejected": bad, "label": 0.5, "reason": why, "notes": {}}
    turned = verdict.p < 0.5
    p = 1 - verdict.p if turned else verdict.p
    reason: str | None = None
    if p - 0.5 < settings.tau and settings.ties == "drop":
        reason = "near tie"
    elif not verdict.consistent and settings.inconsistent == "drop":
        reason = "inconsistent"
    return {
        **row,
        "p": p,
        "per_principle": [-logit if turned else logit for logit in verdict.logits],
        "consistent": verdict.consistent,
        "chosen": second if turned else first,
        "rejected": first if turned else second,
        "label": label_of(p, verdict.consistent, settings),
        "reason": reason,
        "notes": {
            "principles": list(titles),
            "orders": list(reversed(verdict.readings) if turned else verdict.readings),
            "first_slot": verdict.first,
            "judge_accuracy": accuracy,
        },
    }


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The stage's metrics over every row so far."""
    judged = [row for row in rows if "p" in row]
    found = {"kept": fmean(row["reason"] is None for row in rows)}
    if not judged:
        return found
    firsts = [row["notes"]["first_slot"] for row in judged if row["notes"]["first_slot"] is not None]
    longer = [_longer(row) for row in judged]
    found |= {
        "consistency": fmean(row["consistent"] for row in judged),
        "sureness": fmean(row["p"] - 0.5 for row in judged),
        "longer": fmean(longer),
    }
    return found | ({"first_slot": fmean(firsts)} if firsts else {})


def _longer(row: dict[str, Any]) -> float:
    """1 where the longer answer won, a half where both have as many words."""
    chosen, rejected = (len(row[side].split()) for side in ("chosen", "rejected"))
    return 0.5 if chosen == rejected else float(chosen > rejected)
