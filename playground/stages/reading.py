"""What a curve says, in one sentence: rules in one table, the first that holds speaks. What is going wrong, as alerts
in another: each that holds is shown.

The thresholds are rules of thumb, each with its reason beside it; the sentences name what to do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

Curves = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Rule:
    """`sentence`, written or made from the curves, is said under the plot of `metric` where `holds` does."""

    metric: str
    holds: Callable[[Curves], bool]
    sentence: str | Callable[[Curves], str]


@dataclass(frozen=True)
class Alert:
    """`title` and `sentence` stand in the status box of a run whose curves `holds` is true of."""

    title: str
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
            return rule.sentence if isinstance(rule.sentence, str) else rule.sentence(curves)
    return _plainly(metric, curves)


def alerts(curves: Curves) -> list[Alert]:
    """What goes wrong in this run; nothing where a stage has none of the curves."""
    return [alert for alert in ALERTS if alert.holds(curves)]


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


def _line(curves: Curves, metric: str) -> Sequence[float]:
    """The held-out line where it has two points, else the training line where it has five: single batches jump."""
    held, trained = _held(curves, metric), curves.get(metric, [])
    return held if len(held) > 1 else trained if len(trained) >= 5 else []


def moved(metric: str, by: float) -> Callable[[Curves], bool]:
    """The line ends higher than it began by more than `by`; lower, where `by` is negative."""
    return lambda curves: len(v := _line(curves, metric)) > 0 and (_late(v) - _early(v)) / by > 1


def ends(metric: str, test: Callable[[float], bool], least: int = 5) -> Callable[[Curves], bool]:
    """The last fifth of the training line, which has at least so many points, passes the test."""
    return lambda curves: len(v := curves.get(metric, [])) >= least and test(_late(v))


def shrank(metric: str, to: float) -> Callable[[Curves], bool]:
    """The training line ends below this share of its start."""
    return lambda curves: len(v := curves.get(metric, [])) >= 5 and _late(v) < to * _early(v)


def grew(metric: str, to: float) -> Callable[[Curves], bool]:
    """The training line ends above so many times its start."""
    return lambda curves: len(v := curves.get(metric, [])) >= 5 and _late(v) > to * _early(v)


def gamed(curves: Curves) -> bool:
    """The proxy rises by a tenth of a reward while fewer answers pass the checks (gold), by a twentieth at least.

    Gold is a share of a few answers: its fall must also be half as large again as the usual step between two points,
    without which every fourth run of 20 iterations that loses nothing would be accused.
    """
    for prefix, least in (("", 5), ("eval_", 3)):
        proxy, gold = (curves.get(prefix + name, []) for name in ("objective/scores", "checks"))
        if min(len(proxy), len(gold)) >= least:
            usual = fmean(abs(b - a) for a, b in pairwise(gold))
            fall = _early(gold) - _late(gold)
            if _late(proxy) - _early(proxy) > 0.1 and fall > max(0.05, 1.5 * usual):
                return True
    return False


def unending(curves: Curves) -> bool:
    """Answers that end have become rarer by three in ten: more than chance does to a few."""
    rates = curves.get("val/eos_rate", [])
    return len(rates) >= 5 and _early(rates) - _late(rates) > 0.3


def fleeing(curves: Curves) -> bool:
    """Three iterations above 15 nats a response, and rising. The usual target is 6; the target is not in the curves."""
    last = curves.get("objective/kl", [])[-3:]
    return len(last) == 3 and min(last) > 15 and last[-1] > last[0]


def blind(curves: Curves) -> bool:
    """Five iterations in which the critic foresaw less than the mean would; it starts at 0."""
    last = curves.get("val/explained_variance", [])[-5:]
    return len(last) == 5 and max(last) < 0


def timed(curves: Curves) -> bool:
    """The parts of an iteration were measured too."""
    return all(curves.get(f"seconds/{name}") for name in ("iteration", "rollout", "score", "update"))


def seconds_words(curves: Curves) -> str:
    """Where the time of a usual iteration went."""
    mean = {name: fmean(curves[f"seconds/{name}"]) for name in ("iteration", "rollout", "score", "update")}
    digits = 0 if mean["iteration"] >= 10 else 1
    whole, wrote, scored, rest = (f"{value:.{digits}f}" for value in mean.values())
    return f"Of {whole} s an iteration, {wrote} went into writing answers, {scored} into scoring, {rest} into updating."


collapsed = shrank("policy/entropy_avg", 0.3)  # so low that samples hardly differ
shortened = shrank("val/length", 0.4)  # well below what tidying up an answer takes away

_CARRIES = "It carries over to pairs that were never trained on; the interval stands with the result."
_ONE_PAIR = "Only 0 and 1: a batch of one pair can show nothing else. Read the held-out line, or raise the batch size."
_MEMORISED = (
    "Much better on training pairs than on held-out ones: it is memorising. Train fewer steps, or bring more pairs."
)
_CLIPPED = "Over 30% of the tokens leave the clip range: the updates are too large; lower the learning rate."

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
    Rule("objective/scores", gamed, "The reward rises while fewer answers pass the checks: it is being gamed."),
    Rule("objective/scores", moved("objective/scores", 0.1), "The reward rises; read rollouts to see what for."),
    Rule("objective/scores", moved("objective/scores", -0.1), "The reward falls: lower the learning rate, or β."),
    Rule("objective/scores", ends("objective/scores", lambda _: True, 10), "Hardly moved: raise the learning rate."),
    Rule("checks", moved("checks", 0.05), "More answers pass the checks than at first: it nears the goal."),
    Rule("checks", moved("checks", -0.05), "Fewer answers pass the checks than at first: the reward asks otherwise."),
    Rule("objective/kl", fleeing, "Above 15 nats and rising: raise β, set a KL target, or lower the learning rate."),
    Rule("objective/kl", ends("objective/kl", lambda kl: kl < 0.2, 10), "Hardly moved: raise the learning rate."),
    Rule("objective/kl", ends("objective/kl", lambda kl: kl < 10), "It stays near the reference: as it should be."),
    Rule("policy/entropy_avg", collapsed, "Below a third of its start: the policy repeats itself. Raise β."),
    Rule("policy/entropy_avg", grew("policy/entropy_avg", 1.5), "It grows undecided: lower the learning rate."),
    Rule("policy/entropy_avg", shrank("policy/entropy_avg", 0.9), "It grows surer of its words: as it should be."),
    Rule("val/length", shortened, "Less than half as long as at first: see whether a rule asks for it."),
    Rule("val/length", grew("val/length", 1.5), "Answers grow longer: see whether length is all that pays."),
    Rule("val/eos_rate", unending, "Ever fewer answers come to their end: raise the No-end penalty."),
    Rule("val/eos_rate", ends("val/eos_rate", lambda rate: rate > 0.9), "Nearly all answers come to their end."),
    Rule("val/eos_rate", ends("val/eos_rate", lambda rate: True), "Some answers are cut off: raise Longest answer."),
    Rule("policy/clipfrac_avg", ends("policy/clipfrac_avg", lambda share: share > 0.3), _CLIPPED),
    Rule("val/explained_variance", blind, "It foresees less than the mean would: raise the Value coefficient."),
    Rule("val/explained_variance", ends("val/explained_variance", lambda v: v > 0.3), "It foresees much of them."),
    Rule("seconds/iteration", timed, seconds_words),
)

ALERTS = (
    Alert(
        "Reward hacking",
        gamed,
        "The reward rises while fewer answers pass the checks: PPO is paid without doing what is meant. Read the "
        "answers with the highest reward; then raise β, change the reward, or train fewer iterations.",
    ),
    Alert(
        "KL runs away",
        fleeing,
        "The policy is over 15 nats a response from its reference and goes on; the reward's judgement holds for "
        "answers near the reference only. Raise β, set a KL target, or lower the learning rate.",
    ),
    Alert(
        "Entropy collapse",
        collapsed,
        "The policy is less than a third as undecided as at first: it writes ever the same and explores no more. "
        "Raise β, or lower the learning rate.",
    ),
    Alert(
        "Length collapse",
        shortened,
        "Answers are less than half as long as at first. Unless a rule asks for that, the reward pays for saying "
        "little: add a length_band rule, or raise β.",
    ),
    Alert(
        "Answers no longer end",
        unending,
        "Far fewer answers come to their end than at first. Raise the No-end penalty or Longest answer, or see "
        "whether the reward pays for length.",
    ),
    Alert(
        "The critic is not learning",
        blind,
        "For five iterations it has foreseen less of the returns than their mean would: updates are noisy. Raise "
        "the Value coefficient or the rollouts, or lower the learning rate.",
    ),
)
