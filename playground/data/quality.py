"""What may be wrong with rows that are kept: each finding a sentence with the rows that it is about.

Nothing here drops or changes a row by itself, and no model or tokenizer is needed: 50,000 rows take a few seconds.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from playground.data.leakage import nearly_asked, same_answers
from playground.data.pairs import Pair
from playground.data.report import some
from playground.data.texts import Words, texts, words_of
from playground.data.thumbs import Thumb
from playground.statistics import wilson, wins

OFTEN = 10  # rows with one prompt that are worth a word
ECHO = 4  # words of a question that an answer does not repeat by chance
HOSTILE_SHARE = 0.1  # of the prompts; ordinary questions hold such a word now and then
# What chat templates write around messages; a tokenizer's own special tokens are looked for when rows are measured.
MARK = re.compile(
    r"<\|[a-z0-9_]{2,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|### ?(?:Human|Assistant|Instruction|Response):"
)
# Both begin with a sign that is rare in text: a search that begins with a repetition takes time with its square.
EMAIL = re.compile(r"(?<=\w)@(?:[a-z0-9-]{1,63}\.){1,4}[a-z]{2,24}\b", re.IGNORECASE)
PHONE = re.compile(r"(?<![\w.])(?:\+\d(?:[ ().-]{0,2}\d){7,13}|\(\d{3}\) ?\d{3}-\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?!\w)")
HOSTILE = {  # in an opening question; words, not meanings: enough to warn whoever is about to read on
    "assault", "assaulting", "blackmail", "bomb", "bombs", "cocaine", "explosive", "explosives", "heroin", "hitman",
    "kidnap", "kidnapping", "kill", "killing", "meth", "molest", "murder", "murdering", "nazi", "nazis", "poison",
    "poisoning", "porn", "rape", "raping", "robbery", "shoot", "shooting", "shoplift", "shoplifting", "stab",
    "stabbing", "stalk", "stalking", "steal", "stealing", "suicide", "terrorist", "terrorists", "torture", "torturing",
    "weapon", "weapons",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something to know about some rows before they train; severity is "note" or "warning"."""

    code: str
    sentence: str
    rows: list[int]
    severity: str = "note"


def findings(rows: list[Any], heldout: Iterable[Any] = ()) -> list[Finding]:
    """What may be wrong with these rows, warnings first.

    heldout: rows that are measured with and not trained on, some of `rows` or others beside them.
    """
    said, apart = [words_of(row) for row in rows], [words_of(row) for row in heldout]
    out = {id(one.row) for one in apart}
    found = [finding for check in CHECKS for finding in check(said)]
    found += _leaks([one for one in said if id(one.row) not in out], apart)
    return sorted(found, key=lambda finding: finding.severity == "note")


def _nearly_same(said: list[Words]) -> list[Finding]:
    seen: set[Any] = set()
    rows = []
    for one in said:
        key = (one.asked, one.answers, isinstance(one.row, Thumb) and one.row.good)
        if key in seen:
            rows.append(one.row.row)
        seen.add(key)
    words = f"{_are(rows)} the same as an earlier one but for case, punctuation and spacing (row {some(rows)})."
    return [Finding("near-duplicates", words, rows)] if rows else []


def _sides_alike(said: list[Words]) -> list[Finding]:
    rows = [one.row.row for one in said if isinstance(one.row, Pair) and len(set(one.answers)) == 1]
    words = f"In {_rows(rows)} both answers are the same but for case, punctuation and spacing (row {some(rows)})."
    return [Finding("sides-alike", f"{words} There is little to prefer.", rows)] if rows else []


def _often_asked(said: list[Words]) -> list[Finding]:
    prompts = Counter(one.asked for one in said)
    often = [prompt for prompt, times in prompts.most_common() if times >= OFTEN]
    if not often:
        return []
    rows = [one.row.row for one in said if one.asked == often[0]]
    words = f"One prompt stands in {len(rows):,} of {len(said):,} rows (row {some(rows)})"
    words += f", and {len(often) - 1:,} more in {OFTEN} or more each" if len(often) > 1 else ""
    return [Finding("same-prompt", f"{words}: the oftener it is asked, the more its answers weigh.", rows)]


def _contradictions(said: list[Words]) -> list[Finding]:
    """The same answers to the same prompt, judged both ways: pairs turned round, or one answer liked and disliked."""
    verdicts: dict[Any, dict[Any, list[int]]] = {}
    for one in said:
        if not one.answers:
            continue
        verdict = one.row.good if isinstance(one.row, Thumb) else one.answers
        verdicts.setdefault((one.asked, frozenset(one.answers)), {}).setdefault(verdict, []).append(one.row.row)
    rows = sorted(row for found in verdicts.values() if len(found) > 1 for same in found.values() for row in same)
    words = f"{_are(rows)} contradicted by another: the same prompt and answers, judged the other way round "
    return [Finding("contradictions", f"{words}(row {some(rows)}).", rows, "warning")] if rows else []


def _echoes(said: list[Words]) -> list[Finding]:
    rows = [
        one.row.row
        for one in said
        if one.asked[-1].count(" ") >= ECHO - 1 and any(f" {one.asked[-1]} " in f" {text} " for text in one.answers)
    ]
    words = f"In {_rows(rows)} an answer repeats the question word for word (row {some(rows)})."
    return [Finding("echo", f"{words} A model learns to do so, too.", rows)] if rows else []


def _marks(said: list[Words]) -> list[Finding]:
    found = [(one.row.row, mark[0]) for one in said if (mark := _first(MARK, texts(one.row)))]
    if not found:
        return []
    rows = [row for row, _ in found]
    words = f"In {_rows(rows)} the marks of a chat template stand as text, such as {found[0][1]} (row {some(rows)})."
    words += " Training writes a template around each message, so the model would read two of them."
    return [Finding("template-marks", words, rows, "warning")]


def _length_gap(said: list[Words]) -> list[Finding]:
    pairs = [one.row for one in said if isinstance(one.row, Pair)]
    if not pairs:
        return []
    chosen, rejected = (sum(len(getattr(pair, side)) for pair in pairs) / len(pairs) for side in ("chosen", "rejected"))
    longer = wilson(wins(map(_gap, pairs)), len(pairs))
    words = f"Chosen answers have {chosen:,.0f} characters on average, rejected ones {rejected:,.0f}"
    side, times = "chosen" if chosen >= rejected else "rejected", max(chosen, rejected) / max(min(chosen, rejected), 1)
    words += f": {side} is {times:.1f}× as long" if times >= 1.05 else ""
    words += f". The longer answer is chosen in {longer}"
    if abs(longer.rate - 0.5) <= 0.1 or longer.low <= 0.5 <= longer.high:
        return [Finding("length-gap", f"{words}.", [])]
    kept = len(balanced(pairs))
    words += ", so a model may learn length instead of what you mean. "
    words += f"Balanced, {kept:,} of {len(pairs):,} pairs would be left." if kept else "No pair is the other way round."
    return [Finding("length-gap", words, [], "warning")]


def _personal(said: list[Words]) -> list[Finding]:
    """Counted, never shown: the row numbers are enough to look for oneself."""
    emails = [one.row.row for one in said if _first(EMAIL, (t for t in texts(one.row) if "@" in t))]
    phones = [one.row.row for one in said if _first(PHONE, texts(one.row))]
    rows = sorted({*emails, *phones})
    what = [f"{name} in {_rows(found)}" for name, found in (("e-mail addresses", emails), ("phone numbers", phones))]
    words = " and ".join(words for words, found in zip(what, (emails, phones), strict=True) if found)
    words = f"{words[:1].upper()}{words[1:]} (row {some(rows)}): make sure that a model may learn them."
    return [Finding("personal-data", words, rows)] if rows else []


def _hostile(said: list[Words]) -> list[Finding]:
    rows = [
        one.row.row
        for one in said
        if one.row.notes.get("kind") == "harmful" or not HOSTILE.isdisjoint(one.opening.split())
    ]
    if len(rows) < 3 or len(rows) < HOSTILE_SHARE * len(said):
        return []
    words = f"{len(rows) / len(said):.0%} of the opening questions speak of violence, crime or drugs, as those of "
    words += "red-team sets do (by a short list of English words): the rows may be distressing to read."
    return [Finding("hostile", words, rows, "warning")]


def _leaks(train: list[Words], heldout: list[Words]) -> list[Finding]:
    asked, answered = nearly_asked(train, heldout), same_answers(train, heldout)
    told = (("leaked-questions", "held-out question", asked), ("leaked-answers", "held-out answer", answered))
    return [
        Finding(
            code,
            f"{_are(rows, what)} almost word for word one that is trained on (held-out row {some(rows)}): what is "
            "measured on them flatters the model.",
            rows,
            "warning",
        )
        for code, what, rows in told
        if rows
    ]


CHECKS = (
    _nearly_same,
    _sides_alike,
    _often_asked,
    _contradictions,
    _echoes,
    _marks,
    _length_gap,
    _personal,
    _hostile,
)


def balanced(pairs: list[Pair]) -> list[Pair]:
    """As many of the pairs as possible such that the longer answer is chosen in half of them, in their order.

    Of the side that is too many, the pairs whose answers differ most in length go first: that brings the averages
    together, too. Length is counted in characters.
    """
    longer, shorter = ([i for i, p in enumerate(pairs) if sign * _gap(p) > 0] for sign in (1, -1))
    many, few = (longer, shorter) if len(longer) > len(shorter) else (shorter, longer)
    most_apart = sorted(many, key=lambda i: -abs(_gap(pairs[i])))
    dropped = set(most_apart[: len(many) - len(few)])
    return [pair for i, pair in enumerate(pairs) if i not in dropped]


def extremes(rows: list[Any], n: int = 3) -> tuple[list[Any], list[Any]]:
    """(the n longest rows, the n shortest), counted in characters, the most extreme one first."""
    order = sorted(rows, key=length)
    return order[::-1][:n], order[:n]


def length(row: Any) -> int:
    """Characters of everything that stands in a row."""
    return sum(map(len, texts(row)))


def _gap(pair: Pair) -> int:
    return len(pair.chosen) - len(pair.rejected)


def _rows(rows: list[int]) -> str:
    return _number(rows, "row")


def _are(rows: list[int], what: str = "row") -> str:
    return f"{_number(rows, what)} {'is' if len(rows) == 1 else 'are'}"


def _number(rows: list[int], what: str) -> str:
    return f"{len(rows):,} {what}{'' if len(rows) == 1 else 's'}"


def _first(pattern: re.Pattern[str], given: Iterable[str]) -> re.Match[str] | None:
    return next(filter(None, map(pattern.search, given)), None)
