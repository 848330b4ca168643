"""What a reward model's scores are worth: accuracy with its interval, calibration, and whether it only counts words."""

import json
import time
from typing import Any

from playground.data.tokens import EncodedPair
from playground.home import write_atomically
from playground.runs.run import Run
from playground.statistics import (
    calibration_error,
    correlation,
    percentile,
    reliability,
    temperature,
    wilson,
    wins,
)

FILE = "scores.json"  # beside the adapter's weights


def judge(scores: list[tuple[float, float]], lengths: list[tuple[int, int]]) -> dict[str, Any]:
    """Held-out (chosen, rejected) scores and answer lengths in tokens → metrics, and the reliability curve.

    A pair with equal scores counts as half right. The temperature is fitted on the same pairs: a little too kind.
    """
    margins = [chosen - rejected for chosen, rejected in scores]
    right = wins(margins)
    rate = wilson(right, len(margins))
    both = [score for pair in scores for score in pair]
    counts = [float(count) for pair in lengths for count in pair]
    longer = wins(c - r for c, r in lengths)
    metrics = {
        "eval_accuracy": rate.rate,
        "eval_accuracy_low": rate.low,
        "eval_accuracy_high": rate.high,
        "eval_n": rate.n,
        "eval_margin": sum(margins) / len(margins),
        "eval_ece": calibration_error(margins),
        "eval_temperature": temperature(margins),
        "eval_length_correlation": correlation(both, counts),
        "eval_longer_is_chosen": longer / len(lengths),
    }
    return {"metrics": metrics, "reliability": [b._asdict() for b in reliability(margins)], "margins": margins}


def write_scores(model: Any, sample: list[EncodedPair], found: dict[str, Any], run: Run) -> dict[str, float]:
    """Scores a sample of the training pairs and keeps everything that the explorer and PPO need beside the weights;
    returns mean and spread of the scores. A run that is being stopped skips it."""
    from playground.models.scoring import score_rows

    rows = [row.prompt + side for row in sample for side in (row.chosen, row.rejected)]
    was_training = model.training
    model.eval()
    began = time.monotonic()

    def tell(done: int) -> None:
        eta = (time.monotonic() - began) / done * (len(rows) - done)
        run.update(phase=f"scoring a sample of the training answers, {done} of {len(rows)}", eta=eta)

    scored = score_rows(model, model.get_base_model().score, rows, tell, run.stop_requested)
    model.train(was_training)
    if not all(scored):
        return {}
    last = [scores[-1] for scores in scored]
    mean = sum(last) / len(last)
    std = (sum((score - mean) ** 2 for score in last) / len(last)) ** 0.5
    known = {**found, "mean": mean, "std": std, "training": sorted(last)}
    write_atomically(run.adapter / FILE, json.dumps(known, indent=1))
    return {"score_mean": mean, "score_std": std}


def read_scores(run: Run) -> dict[str, Any]:
    """What is known of a reward run's scores; empty for one that was stopped early."""
    path = run.adapter / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def rank(score: float, known: dict[str, Any]) -> float | None:
    """Share of the training answers that score lower; None where they were never scored."""
    return percentile(score, known["training"]) if known.get("training") else None
