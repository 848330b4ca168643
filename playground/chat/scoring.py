"""Scores for people: what a reward run says of answers, alone, against each other, word by word, or a file of them.

The base is loaded as the run was trained on it, whole or NF4: a score on other weights is another score.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from playground.chat import resident
from playground.data.pairs import SIDES, Pair
from playground.data.prompts import Prompt
from playground.data.rendering import Encoded, Message
from playground.models import scoring
from playground.models.catalog import ModelError, Progress, silent
from playground.runs.run import Run
from playground.stages.judgement import rank, read_scores
from playground.statistics import Rate, sigmoid, wilson, wins

AT_ONCE = 32  # rows scored in one turn; a chat may have the next one

Item = tuple[list[Message], str]  # prompt, answer


@dataclass(frozen=True)
class Score:
    """What a reward model says of one answer; texts and after: its tokens, and the score once each is read."""

    score: float
    percentile: float | None
    texts: list[str]
    after: list[float]


def score(
    run: Run,
    items: Sequence[Item],
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Score]:
    """The scores of (prompt, answer) items, in order; fewer if it was stopped."""
    request, known = run.request, read_scores(run)
    if request["stage"] != "reward":
        raise ModelError(f"{run.name} is not a reward model; train one in the Reward model tab.")
    found: list[Score] = []
    for start in range(0, len(items), AT_ONCE):
        with resident.turn:
            loaded = resident.load(
                request["base"], request["base_identity"], progress, request["settings"]["quantization"]
            )
            most = loaded.model.config.max_position_embeddings
            rows = [_encoded(loaded, item, start + i, most) for i, item in enumerate(items[start : start + AT_ONCE], 1)]
            role = resident.attach(loaded, run)
            assert loaded.adapters is not None
            with loaded.adapters.use(role):
                head = scoring.read_head(run.adapter, loaded.model.device)
                scored = scoring.score_rows(
                    loaded.adapters.model, head, [row.ids for row in rows], should_stop=should_stop
                )
        for row, after in zip(rows, scored, strict=True):
            if not after:
                return found
            value = after[-1]
            found.append(Score(value, rank(value, known), row.texts[row.start :], after[row.start :]))
        progress(f"{len(found)} of {len(items)} answers", len(found) / len(items))
    return found


def _encoded(loaded: resident.Loaded, item: Item, number: int, most: int) -> Encoded:
    try:
        encoded = loaded.renderer.answer(*item)
    except ValueError as error:
        raise ModelError(f"Answer {number} can't be read: {error}.") from error
    if len(encoded.ids) > most:
        raise ModelError(f"Answer {number} is {len(encoded.ids)} tokens long with its prompt; {most} at most.")
    return encoded


def preferred(a: float, b: float) -> float:
    """P(A ≻ B) = σ(score(A) − score(B)) (Bradley & Terry 1952)."""
    return sigmoid(a - b)


def items_of(rows: Sequence[Any]) -> list[tuple[Item, dict[str, Any]]]:
    """Every answer of rows or pairs with what a table says of it: its row number, and its side."""
    found: list[tuple[Item, dict[str, Any]]] = []
    for row in rows:
        if isinstance(row, Pair):
            found += [((row.prompt, getattr(row, side)), {"row": row.row, "side": side}) for side in SIDES]
        elif isinstance(row, Prompt):
            raise ModelError(f"Row {row.row} is a prompt without an answer, so there is nothing to score.")
        else:
            found.append(((row.asked, row.messages[-1]["content"]), {"row": row.row}))
    return found


def score_table(
    run: Run, rows: Sequence[Any], progress: Progress = silent, should_stop: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """A line for every answer: row, side (of a pair), prompt, answer, score, percentile."""
    found = items_of(rows)
    scores = score(run, [item for item, _ in found], progress, should_stop)
    return [
        {
            **where,
            "prompt": prompt[-1]["content"],
            "answer": answer,
            "score": scored.score,
            "percentile": scored.percentile,
        }
        for ((prompt, answer), where), scored in zip(found, scores, strict=False)
    ]


def accuracy(table: Sequence[dict[str, Any]]) -> Rate | None:
    """How often the chosen side scores higher, a tie counting half; None where there are no pairs."""
    sides = {side: {line["row"]: line["score"] for line in table if line.get("side") == side} for side in SIDES}
    margins = [sides["chosen"][row] - score for row, score in sides["rejected"].items() if row in sides["chosen"]]
    if not margins:
        return None
    return wilson(wins(margins), len(margins))


def as_csv(table: Sequence[dict[str, Any]]) -> str:
    """The table as CSV text. A cell that a spreadsheet would run as a formula gets an apostrophe in front."""
    if not table:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in line.items()} for line in table)
    return out.getvalue()


def _harmless(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
