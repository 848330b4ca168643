"""Judging the judge: 48 pairs of answers, of which one is plainly the better, put to it as it will be asked later.

A label is worth no more than the judge that gave it, so what it gets right here stands beside everything made with it.
Where the words that it chooses between are themselves chosen by this probe, the best of several is bound to look better
than it is: then each half of the pairs is measured with the words that were best on the other half.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from playground.stages.judging import Judge, Pair, Question, Verdict, compare, formats
from playground.statistics import Rate, wilson

PROBE = Path(__file__).resolve().parents[2] / "presets" / "judge-probe.jsonl"
POOR = 0.6  # below it a judge says little more than a coin does
ADVICE = "hardly better than chance here, so its labels say little; use revision pairs or human votes"


class Answered(NamedTuple):
    """One probe pair as a judge saw it. right: 1, 0, or a half where it could not tell."""

    topic: str
    right: float
    consistent: bool
    first: float | None


@cache
def probe_rows() -> tuple[dict[str, Any], ...]:
    """The bundled pairs: id, topic, prompt, better, worse."""
    return tuple(json.loads(line) for line in PROBE.read_text(encoding="utf-8").splitlines())


def pair_of(row: dict[str, Any]) -> Pair:
    """A probe row as a pair, the better answer first: the judge reads both orders alike."""
    return Pair([{"role": "user", "content": row["prompt"]}], row["better"], row["worse"])


def answered(row: dict[str, Any], verdict: Verdict) -> Answered:
    """What the verdict on a probe row is worth."""
    right = 0.5 if verdict.p == 0.5 else float(verdict.p > 0.5)
    return Answered(row["topic"], right, verdict.consistent, verdict.first)


def rate_of(seen: Sequence[Answered]) -> Rate:
    """Accuracy with its 95% interval."""
    return wilson(sum(one.right for one in seen), len(seen))


def summary(seen: Sequence[Answered]) -> dict[str, Any]:
    """Accuracy, consistency and first-slot rate of one format, and the accuracy by topic."""
    n = max(len(seen), 1)
    firsts = [one.first for one in seen if one.first is not None]
    topics = dict.fromkeys(one.topic for one in seen)
    return {
        "accuracy": rate_of(seen)._asdict(),
        "consistency": sum(one.consistent for one in seen) / n,
        "first_slot": sum(firsts) / len(firsts) if firsts else None,
        "topics": {topic: rate_of([one for one in seen if one.topic == topic])._asdict() for topic in topics},
    }


def best(tried: dict[str, dict[int, Answered]], ids: Sequence[int]) -> str:
    """The format that gets most of these pairs right; of equals the first."""
    return max(tried, key=lambda name: sum(tried[name][i].right for i in ids if i in tried[name]))


def split_half(tried: dict[str, dict[int, Answered]]) -> Rate:
    """Accuracy of choosing the best format: chosen on one half of the pairs, measured on the other, both ways."""
    ids = sorted({i for seen in tried.values() for i in seen})
    halves = [[i for i in ids if i // 2 % 2 == side] for side in (0, 1)]  # both of every topic, long and short answers
    seen: list[Answered] = []
    for chosen_on, measured_on in (halves, halves[::-1]):
        name = best(tried, chosen_on)
        seen += [tried[name][i] for i in measured_on if i in tried[name]]
    return rate_of(seen)


def probe(
    judge: Judge,
    asked: Sequence[Question],
    options: str = "auto",
    progress: Callable[[str, float], None] = lambda text, share: None,
    rows: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What the judge gets right, and the format that it is to use: the one asked for, or with "auto" the best.

    Stopped on the way, nothing is known: {}.
    """
    rows = probe_rows() if rows is None else rows
    usable, skipped = formats(judge.writer.renderer, judge.method)
    names = usable if options == "auto" else [options]
    tried: dict[str, dict[int, Answered]] = {}
    for at, name in enumerate(names):

        def tell(done: int, at: int = at, name: str = name) -> None:
            progress(name, (at + done / len(rows)) / len(names))

        found = compare(replace(judge, options=name), [pair_of(row) for row in rows], asked, tell)
        if judge.writer.should_stop():
            return {}
        tried[name] = {rows[i]["id"]: answered(rows[i], verdict) for i, verdict in found.items()}
    chosen = best(tried, [row["id"] for row in rows])
    seen = list(tried[chosen].values())
    honest = split_half(tried) if len(tried) > 1 else rate_of(seen)
    return {
        "method": judge.method,
        "options": chosen,
        **summary(seen),
        "honest": honest._asdict(),
        "formats": {name: summary(list(found.values())) for name, found in tried.items()},
        "skipped": skipped if options == "auto" else {},
        "too_long": len(rows) - len(seen),
    }


def words(found: dict[str, Any]) -> str:
    """The judge's worth in a sentence, always with its interval; below 60% it says what to do instead."""
    rate = Rate(**found["honest"])
    if not rate.n:
        return "The judge could read none of the probe pairs, so nothing is known of it."
    how = "" if len(found["formats"]) == 1 else ", its words chosen on the other half of them"
    said = f"On {rate.n} pairs with a known answer the judge is right in {rate}{how}"
    return f"{said}: {ADVICE}." if rate.rate < POOR else f"{said}."
