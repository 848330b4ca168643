"""What the held-out rows share with those that are trained on, beyond the question that the split keeps apart."""

import math
from collections import Counter

from playground.data.texts import Words

ALIKE = 0.9  # share of their words that two questions have in common when they are nearly the same
COMMON = 1000  # a word that stands in more questions than this leads to none of them in particular
TELLING = 8  # words of an answer that two people don't write alike by chance


def nearly_asked(train: list[Words], heldout: list[Words]) -> list[int]:
    """Numbers of the held-out rows whose opening question has nine words in ten in common with one of training's.

    Two sets of words that share so much share one of the few rarest words of either, so a question is compared only
    with those that hold one of them.
    """
    if not heldout:
        return []
    known = {one.opening for one in train}
    found = {one.row.row for one in heldout if one.opening in known}
    spread: Counter[str] = Counter()
    for one in train:
        spread.update(set(one.opening.split()))
    wanted = {one.row.row: set(one.opening.split()) for one in heldout if one.row.row not in found}
    leads: dict[str, list[int]] = {}
    for number, words in wanted.items():
        rarest = sorted(words, key=lambda word: (spread[word], word))
        for word in rarest[: len(words) - math.ceil(ALIKE * len(words)) + 1]:
            if spread[word] <= COMMON:
                leads.setdefault(word, []).append(number)
    for one in train:
        words = set(one.opening.split())
        for number in {number for word in words & leads.keys() for number in leads[word]} - found:
            if len(words & wanted[number]) >= ALIKE * len(words | wanted[number]):
                found.add(number)
    return sorted(found)


def same_answers(train: list[Words], heldout: list[Words]) -> list[int]:
    """Numbers of the held-out rows of which an answer, long enough to tell, is one of training's as well."""
    known = {text for one in train for text in one.answers if text.count(" ") >= TELLING - 1}
    return sorted(one.row.row for one in heldout if not known.isdisjoint(one.answers))
