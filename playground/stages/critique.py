"""Critique and revision in words: what the model is asked under a principle, and which of its revisions are of use.

The form is that of Constitutional AI's supervised part (Bai et al. 2022, section 3): answer → critique request →
critique → revision request → revision, as turns of one conversation. A few finished conversations in front show a
model that was never taught to criticise itself how it is done. Pure text: no model here.
"""

import difflib
import json
import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from playground.data.constitution import Principle
from playground.data.rendering import Message

SHOTS = Path(__file__).resolve().parents[2] / "presets" / "critique-shots.jsonl"
UNCHANGED = 0.05  # share of words; less is the same answer
ECHO = 0.85  # likeness to another text; more is a copy of it
CRITICISE = "Criticise your answer. "
REVISE = "Write the better answer, and nothing else. "
LEAST = 8  # words of whole sentences that a text which ran out of tokens must have
LONGEST = 60  # words that any revision may have; beyond them at most twice the answer's


@cache
def shots() -> list[dict[str, str]]:
    """Finished examples: prompt, answer, critique request, critique, revision request, revision."""
    return [json.loads(line) for line in SHOTS.read_text(encoding="utf-8").splitlines()]


def opening(count: int) -> list[Message]:
    """The first `count` examples as turns; a refusal and a helpful answer take turns, so that neither is the habit."""
    return [message for shot in shots()[:count] for message in _turns(shot)]


def _turns(shot: dict[str, str]) -> list[Message]:
    asked = [shot["prompt"], CRITICISE + shot["critique_request"], REVISE + shot["revision_request"]]
    said = [shot["answer"], shot["critique"], shot["revision"]]
    turns = [text for pair in zip(asked, said, strict=True) for text in pair]
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(turns)]


def critique_request(asked: list[Message], answer: str, principle: Principle, examples: int) -> list[Message]:
    """The conversation whose next turn is the critique of `answer` under the principle."""
    said = {"role": "assistant", "content": answer or "…"}
    return [*opening(examples), *asked, said, {"role": "user", "content": CRITICISE + principle.critique}]


def revision_request(critiqued: list[Message], critique: str, principle: Principle) -> list[Message]:
    """The same one turn later: the next turn is the revised answer."""
    said = {"role": "assistant", "content": critique or "…"}
    return [*critiqued, said, {"role": "user", "content": REVISE + principle.revision}]


def draw(principles: Sequence[Principle], seed: int, index: int, rounds: int) -> list[Principle]:
    """The principles of one prompt's rounds: drawn by weight, none twice before each was had; the same whenever asked,
    so that a resumed run goes on as it would have."""
    chance = random.Random(f"{seed} {index}")
    found: list[Principle] = []
    left: list[Principle] = []
    for _ in range(rounds):
        left = left or list(principles)
        (chosen,) = chance.choices(left, [principle.weight for principle in left])
        left.remove(chosen)
        found.append(chosen)
    return found


def changed(before: str, after: str) -> float:
    """Share of words that differ between two texts, 0 to 1."""
    return 1 - difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False).ratio()


def whole(text: str, ended: bool) -> tuple[str, bool]:
    """A text that ran out of tokens, cut after its last whole sentence; (text, whether it is whole now)."""
    if ended:
        return text, True
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s)", text)]
    cut = text[: ends[-1]] if ends else ""
    return (cut, True) if len(cut.split()) >= LEAST else (text, False)


def problem(prompt: str, before: Sequence[str], step: dict[str, Any], ended: bool = True) -> str | None:
    """Why a revision is of no use, in one or two words; None if it is. `step` holds requests, critique and revision;
    before: the first answer and what an earlier round made of it, neither of which it may be."""
    revision = step["revision"].strip()
    words = len(revision.split())
    if not re.search(r"\w", revision):
        return "empty"
    copied = (step["critique"], step["critique_request"], step["revision_request"], prompt)
    if any(_copies(revision, text) for text in copied):
        return "echo"
    if any(changed(text, revision) < UNCHANGED for text in before):
        return "unchanged"
    if words > max(LONGEST, 2 * len(before[0].split())):
        return "too long"
    if not ended:
        return "unfinished"
    return "going round in circles" if _circles(revision) else None


def _copies(text: str, source: str) -> bool:
    """True if `text` is nearly `source`, or holds a long one whole."""
    plain, other = _plain(text), _plain(source)
    return bool(other) and (
        (len(other) > 30 and other in plain) or (len(plain) > 30 and plain in other) or changed(plain, other) < 1 - ECHO
    )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.casefold()))


def _circles(text: str) -> bool:
    """True if the same five words come three times: what a small model does when it no longer knows what to say."""
    words = _plain(text).split()
    fives = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    return any(fives.count(five) >= 3 for five in fives)
