"""What a curve says, in one sentence: rules in one table, the first that holds speaks.

The thresholds are rules of thumb, each with its reason beside it; the sentences name what to do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Curves = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Rule:
    """`sentence` is said under the plot of `metric` where `holds` does."""

    metric: str
    holds: Callable[[Curves], bool]
    sentence: str


def curves_of(events: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Every logged value by metric, oldest first; what was not a number is left out."""
    found: dict[str, list[float]] = {}
    for event in events:
        for name, value in event["values"].items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def reading(metric: str, curves: Curves) -> str:
    """One sentence about this metric's curve; nothing before there is one."""
    if not curves.get(metric) and not curves.get(f"eval_{metric}"):
        return ""
    for rule in RULES:
        if rule.metric == metric and rule.holds(curves):
            return rule.sentence
    return _plainly(metric, curves)


def _plainly(metric: str, curves: Curves) -> str:
    """Where no rule speaks: from where to where."""
    held, trained = curves.get(f"eval_{metric}", []), curves.get(metric, [])
    values, which = (held, "held-out") if len(held) > 1 else (trained, "training")
    if len(values) < 2:
        return "One point so far."
    start, end = (values[0], values[-1]) if which == "held-out" else (_early(values), _late(values))
    return f"The {which} line went from {_number(start)} to {_number(end)}."


def _early(values: Sequence[float]) -> float:
    """Mean of the first fifth: single batches jump about."""
    return fmean(values[: max(1, len(values) // 5)])


def _late(values: Sequence[float]) -> float:
    return fmean(values[-max(1, len(values) // 5) :])


def _number(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _held(curves: Curves, metric: str) -> Sequence[float]:
    return curves.get(f"eval_{metric}", [])


def displaced(curves: Curves) -> bool:
    """Chosen answers themselves grow unlikely while the margin rises (Razin et al. 2024): their held-out log-prob is
    down by more than a tenth, or in training by more than a fifth (batches differ in length)."""
    held, trained = _held(curves, "logps/chosen"), curves.get("logps/chosen", [])
    margins = curves.get("rewards/margins", [])
    if len(margins) < 5 or _late(margins) <= _early(margins):
        return False
    if len(held) > 1:
        return held[-1] < held[0] - 0.1 * abs(held[0])
    return len(trained) >= 10 and _late(trained) < _early(trained) - 0.2 * abs(_early(trained))


def one_pair_batches(metric: str) -> Callable[[Curves], bool]:
    """Only 0 and 1 ever: one pair a step, so that the line can't show a rate."""
    return lambda curves: len(curves.get(metric, [])) >= 4 and set(curves[metric]) == {0.0, 1.0}


def memorising(curves: Curves) -> bool:
    """The held-out loss has turned up by a twentieth from its lowest, or ends 0.3 nats above the training loss."""
    held, trained = _held(curves, "loss"), curves.get("loss", [])
    if len(held) < 2 or len(trained) < 5:
        return False
    turned = held[-1] > 1.05 * min(held) and _late(trained) < _early(trained)
    return turned or held[-1] - _late(trained) > 0.3


def gap(metric: str, width: float) -> Callable[[Curves], bool]:
    """At the end training is better than held-out by more than `width`."""

    def holds(curves: Curves) -> bool:
        held, trained = _held(curves, metric), curves.get(metric, [])
        return bool(held) and len(trained) >= 5 and _late(trained) - held[-1] > width

    return holds


def surer(curves: Curves) -> bool:
    """The margin on training pairs ends more than twice as large as on held-out ones."""
    held, trained = _held(curves, "margin"), curves.get("margin", [])
    return len(held) > 1 and len(trained) >= 5 and _late(trained) > max(2 * held[-1], 0.5)


def last_held(metric: str, test: Callable[[float], bool]) -> Callable[[Curves], bool]:
    """The last of at least two held-out measurements passes the test."""
    return lambda curves: len(_held(curves, metric)) > 1 and test(_held(curves, metric)[-1])


def above(metric: str, share: float) -> Callable[[Curves], bool]:
    """The last held-out measurement, even if it is the only one, lies above this share."""
    return lambda curves: len(h := _held(curves, metric)) > 0 and h[-1] > share


def fell(metric: str, share: float) -> Callable[[Curves], bool]:
    """The held-out line is lower at the end than at the start by this share."""
    return lambda curves: len(h := _held(curves, metric)) > 1 and h[-1] < h[0] - share * abs(h[0])


def rose(metric: str, share: float) -> Callable[[Curves], bool]:
    """The held-out line is higher at the end than at the start by this share."""
    return lambda curves: len(h := _held(curves, metric)) > 1 and h[-1] > h[0] + share * abs(h[0])


def jumped(curves: Curves) -> bool:
    """One gradient ten times the middle one."""
    norms = curves.get("grad_norm", [])
    return len(norms) >= 5 and max(norms[1:]) > 10 * sorted(norms)[len(norms) // 2]


def still(curves: Curves) -> bool:
    """Ten steps, and the margin is where it began."""
    margins = curves.get("rewards/margins", [])
    return len(margins) >= 10 and abs(_late(margins)) < 0.02


def drifting(curves: Curves) -> bool:
    """All scores lie to one side by more than the margin between chosen and rejected."""
    means, margins = curves.get("mean_reward", []), curves.get("margin", [])
    return len(means) >= 5 and abs(_late(means)) > max(1.0, abs(_late(margins or [0.0])))


_CARRIES = "It carries over to pairs that were never trained on; the interval stands with the result."
_ONE_PAIR = "Only 0 and 1: a batch of one pair can show nothing else. Read the held-out line, or raise the batch size."
_MEMORISED = (
    "Much better on training pairs than on held-out ones: it is memorising. Train fewer steps, or bring more pairs."
)

RULES = (
    Rule(
        "loss", memorising, "The held-out loss is parting from the training loss: it is memorising. Train fewer steps."
    ),
    Rule("loss", fell("loss", 0.02), "The held-out loss falls: what is learned carries over to rows never trained on."),
    Rule("loss", rose("loss", 0.02), "The held-out loss has risen: lower the learning rate."),
    Rule("loss", last_held("loss", bool), "The held-out loss has hardly moved: raise the learning rate or the steps."),
    Rule("accuracy", one_pair_batches("accuracy"), _ONE_PAIR),
    Rule("accuracy", gap("accuracy", 0.15), _MEMORISED),
    Rule("accuracy", last_held("accuracy", lambda share: share < 0.55), "On held-out pairs it is still guessing."),
    Rule("accuracy", last_held("accuracy", bool), _CARRIES),
    Rule(
        "margin", surer, "It is far surer of training pairs than of held-out ones: its scores will be over-confident."
    ),
    Rule("mean_reward", drifting, "All scores drift to one side; raise Centring, or read differences only."),
    Rule("rewards/margins", still, "The policy has hardly moved: raise the learning rate or the steps, or lower β."),
    Rule("rewards/accuracies", one_pair_batches("rewards/accuracies"), _ONE_PAIR),
    Rule("rewards/accuracies", gap("rewards/accuracies", 0.15), _MEMORISED),
    Rule("rewards/accuracies", above("rewards/accuracies", 0.55), _CARRIES),
    Rule(
        "logps/chosen",
        displaced,
        "Chosen answers grow unlikely while the margin rises (likelihood displacement): raise β or add the SFT term.",
    ),
    Rule(
        "logps/chosen",
        fell("logps/chosen", 0.0),
        "Chosen answers lose a little likelihood; the margin comes from rejected ones losing more.",
    ),
    Rule(
        "logps/chosen",
        last_held("logps/chosen", bool),
        "Chosen answers keep their likelihood or gain: as it should be.",
    ),
    Rule("logps/rejected", fell("logps/rejected", 0.02), "Rejected answers grow unlikely: as it should be."),
    Rule(
        "grad_norm", jumped, "One update was ten times the usual size: look for odd rows, or lower the learning rate."
    ),
)
