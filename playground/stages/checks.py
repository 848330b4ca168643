"""Declarative checks of an answer's manner: a YAML of `check: limit` in, pass rates with Wilson intervals out.

They count words and question marks, not truth. Whether an answer is right is what the factual probe asks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playground.settings import SettingError
from playground.statistics import Rate, wilson

_CLOSING = "\"'”’»)]*_"  # what may stand behind a sentence's mark, Markdown's bold included
_ENDED = re.compile(rf"[.!?]+[{re.escape(_CLOSING)}]*(?=\s|$)")
_ONES = "one|two|three|four|five|six|seven|eight|nine"


def words(text: str) -> int:
    """Words between spaces."""
    return len(text.split())


def sentences(text: str) -> int:
    """Runs of . ! ? followed by space or the end; a last sentence without a mark counts too."""
    ends = [match.end() for match in _ENDED.finditer(text)]
    return len(ends) + bool(re.search(r"\w", text[ends[-1] if ends else 0 :]))


def _ends_with_question(text: str) -> bool:
    return text.rstrip().rstrip(_CLOSING).endswith("?")


# name → (what it asks, test(answer, limit))
CHECKS: dict[str, tuple[str, Callable[[str, Any], bool]]] = {
    "min_words": ("at least so many words", lambda text, limit: words(text) >= limit),
    "max_words": ("at most so many words", lambda text, limit: words(text) <= limit),
    "max_sentences": ("at most so many sentences", lambda text, limit: sentences(text) <= limit),
    "questions": ("exactly so many question marks", lambda text, limit: text.count("?") == limit),
    "ends_with_question": (
        "the last mark is a question mark, or is not",
        lambda text, limit: _ends_with_question(text) == limit,
    ),
    "no_lists": ("no line starts with a bullet or a number", lambda text, limit: _has_list(text) != limit),
    "contains": ("holds this text, whatever the case", lambda text, limit: str(limit).casefold() in text.casefold()),
    "lacks": ("does not hold this text", lambda text, limit: str(limit).casefold() not in text.casefold()),
}


def _has_list(text: str) -> bool:
    return re.search(r"^\s*([-*•]|\d+[.)])\s", text, re.MULTILINE) is not None


def check(answer: str, limits: Mapping[str, Any]) -> dict[str, bool]:
    """Which of the checks this answer passes, and under "all" whether it passes every one."""
    if unknown := sorted(set(limits) - set(CHECKS)):
        raise SettingError(f"There is no check called {unknown[0]!r}. Known: {', '.join(CHECKS)}.")
    passed = {name: CHECKS[name][1](answer, limit) for name, limit in limits.items()}
    return {**passed, "all": all(passed.values())}


def rates(answers: Sequence[str], limits: Mapping[str, Any]) -> dict[str, Rate]:
    """Pass rate of each check, and of all together, with its 95% interval."""
    results = [check(answer, limits) for answer in answers]
    return {name: wilson(sum(r[name] for r in results), len(results)) for name in (*limits, "all")}


def states_fact(answer: str, accept: Sequence[str]) -> bool:
    """True if one of the accepted strings stands in the answer as a whole word, not as a part of a longer number."""
    before, after = r"(?<!\w)(?<!\d[.,])(?<!ty-)", rf"(?!\w|[.,]\d|-(?:{_ONES})\b)"
    return any(re.search(before + re.escape(word) + after, answer, re.IGNORECASE) for word in accept)
