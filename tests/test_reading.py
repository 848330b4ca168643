"""What the curves are said to say: each rule on curves made for it, and silence or a plain sentence elsewhere."""

import math
import random
import re

import pytest

from playground.runs import run as runs
from playground.stages import launch
from playground.stages.reading import ALERTS, RULES, Rule, alerts, curves_of, reading

FLAT = [0.5] * 20
SCORES, KL, ENTROPY, VARIANCE = "objective/scores", "objective/kl", "policy/entropy_avg", "val/explained_variance"


def line(start: float, end: float, count: int = 20) -> list[float]:
    """Evenly from one value to another."""
    return [start + (end - start) * i / (count - 1) for i in range(count)]


# (metric, a piece of the rule's sentence, curves on which it speaks, curves on which it does not)
CASES = [
    ("loss", "parting from the training loss",
     {"loss": line(3, 1), "eval_loss": [3.0, 2.0, 2.2]}, {"loss": line(3, 2), "eval_loss": [3.0, 2.0, 2.05]}),
    ("loss", "parting from the training loss",
     {"loss": line(3, 1), "eval_loss": [3.0, 1.6]}, {"loss": line(3, 1.5), "eval_loss": [3.0, 1.6]}),
    ("loss", "has risen",
     {"loss": line(1, 3), "eval_loss": [1.0, 3.0]}, {"loss": line(1, 1), "eval_loss": [1.0, 1.01]}),
    ("loss", "has risen",
     {"loss": [1.0, 1.0], "eval_loss": [1.0, 1.5]}, {"loss": [1.0, 1.0], "eval_loss": [1.0]}),
    ("loss", "falls: what is learned carries over",
     {"loss": line(3, 2), "eval_loss": [3.0, 2.1]}, {"loss": line(3, 2), "eval_loss": [2.0, 1.99]}),
    ("loss", "hardly moved",
     {"loss": line(2, 2), "eval_loss": [2.0, 1.99]}, {"loss": line(2, 2), "eval_loss": [2.0]}),
    ("accuracy", "Only 0 and 1",
     {"accuracy": [0.0, 1.0, 1.0, 0.0]}, {"accuracy": [0.0, 0.5, 1.0, 0.0]}),
    ("accuracy", "Much better on training pairs",
     {"accuracy": line(0.5, 1), "eval_accuracy": [0.5, 0.7]}, {"accuracy": line(0.5, 0.8), "eval_accuracy": [0, 0.7]}),
    ("accuracy", "still guessing",
     {"accuracy": FLAT, "eval_accuracy": [0.5, 0.54]}, {"accuracy": FLAT, "eval_accuracy": [0.5, 0.56]}),
    ("accuracy", "carries over to pairs",
     {"accuracy": line(0.5, 0.8), "eval_accuracy": [0.5, 0.75]}, {"accuracy": line(0.5, 0.8), "eval_accuracy": [0.5]}),
    ("margin", "far surer of training pairs",
     {"margin": line(0, 2), "eval_margin": [0.0, 0.5]}, {"margin": line(0, 2), "eval_margin": [0.0, 1.5]}),
    ("mean_reward", "drift to one side",
     {"mean_reward": line(0, -4), "margin": line(0, 1)}, {"mean_reward": line(0, -4), "margin": line(0, 6)}),
    ("rewards/margins", "hardly moved",
     {"rewards/margins": [0.001] * 10}, {"rewards/margins": [0.001] * 9 + [0.5]}),
    ("rewards/accuracies", "Only 0 and 1",
     {"rewards/accuracies": [1.0, 0.0, 1.0, 1.0]}, {"rewards/accuracies": [1.0, 0.0, 1.0]}),
    ("rewards/accuracies", "Much better on training pairs",
     {"rewards/accuracies": line(0.5, 1), "eval_rewards/accuracies": [0.6]},
     {"rewards/accuracies": line(0.5, 0.7), "eval_rewards/accuracies": [0.6]}),
    ("rewards/accuracies", "carries over to pairs",
     {"rewards/accuracies": line(0.5, 0.7), "eval_rewards/accuracies": [0.6]},
     {"rewards/accuracies": line(0.5, 0.6), "eval_rewards/accuracies": [0.5]}),
    ("logps/chosen", "likelihood displacement",
     {"logps/chosen": FLAT, "rewards/margins": line(0, 1), "eval_logps/chosen": [-50.0, -60.0]},
     {"logps/chosen": FLAT, "rewards/margins": line(1, 0), "eval_logps/chosen": [-50.0, -60.0]}),
    ("logps/chosen", "likelihood displacement",
     {"logps/chosen": line(-50, -80), "rewards/margins": line(0, 1)},
     {"logps/chosen": line(-50, -52), "rewards/margins": line(0, 1)}),
    ("logps/chosen", "lose a little likelihood",
     {"logps/chosen": FLAT, "rewards/margins": line(0, 1), "eval_logps/chosen": [-50.0, -52.0]},
     {"logps/chosen": FLAT, "rewards/margins": line(0, 1), "eval_logps/chosen": [-50.0, -49.0]}),
    ("logps/chosen", "keep their likelihood or gain",
     {"logps/chosen": FLAT, "eval_logps/chosen": [-50.0, -45.0]}, {"logps/chosen": FLAT, "eval_logps/chosen": [-50.0]}),
    ("logps/rejected", "Rejected answers grow unlikely",
     {"logps/rejected": FLAT, "eval_logps/rejected": [-50.0, -60.0]},
     {"logps/rejected": FLAT, "eval_logps/rejected": [-50.0, -50.5]}),
    ("grad_norm", "ten times the usual size",
     {"grad_norm": [1.0, 1.0, 11.0, 1.0, 1.0]}, {"grad_norm": [11.0, 1.0, 1.0, 1.0, 1.0, 9.0]}),
    ("objective/scores", "being gamed", {SCORES: line(0, 1), "checks": line(0.8, 0.2)},
     {SCORES: line(0, 1), "checks": line(0.8, 0.79)}),
    ("objective/scores", "The reward rises;", {SCORES: FLAT, f"eval_{SCORES}": [0.0, 0.2]}, {SCORES: line(0, 0.1)}),
    ("objective/scores", "The reward falls", {SCORES: line(1, 0.5)}, {SCORES: FLAT}),
    ("objective/scores", "Hardly moved", {SCORES: FLAT}, {SCORES: FLAT[:9]}),
    ("checks", "More answers pass", {"checks": FLAT, "eval_checks": [0.5, 0.6]}, {"checks": line(0.5, 0.51)}),
    ("checks", "Fewer answers pass", {"checks": line(0.5, 0.2)}, {"checks": line(0.2, 0.5)}),
    ("objective/kl", "Above 15 nats", {KL: [1.0, 15.5, 16.0, 17.0]}, {KL: [17.0, 16.5, 16.0]}),
    ("objective/kl", "Hardly moved", {KL: [0.1] * 10}, {KL: [0.1] * 9}),
    ("objective/kl", "as it should be", {KL: line(0, 6)}, {KL: line(0, 13)}),
    ("policy/entropy_avg", "repeats itself", {ENTROPY: line(2, 0.2)}, {ENTROPY: line(2, 1)}),
    ("policy/entropy_avg", "grows undecided", {ENTROPY: line(1, 3)}, {ENTROPY: line(1, 1.2)}),
    ("policy/entropy_avg", "grows surer", {ENTROPY: line(2, 1)}, {ENTROPY: FLAT}),
    ("val/length", "Less than half as long", {"val/length": line(60, 9)}, {"val/length": line(60, 40)}),
    ("val/length", "Answers grow longer", {"val/length": line(20, 60)}, {"val/length": line(20, 25)}),
    ("val/eos_rate", "Ever fewer answers", {"val/eos_rate": line(1, 0.2)}, {"val/eos_rate": line(1, 0.9)}),
    ("val/eos_rate", "Nearly all answers", {"val/eos_rate": line(0.5, 1)}, {"val/eos_rate": FLAT}),
    ("val/eos_rate", "Some answers are cut off", {"val/eos_rate": FLAT}, {"val/eos_rate": line(0.5, 1)}),
    ("policy/clipfrac_avg", "lower the learning rate",
     {"policy/clipfrac_avg": line(0.1, 0.5)}, {"policy/clipfrac_avg": [0.3] * 5}),
    ("val/explained_variance", "less than the mean", {VARIANCE: [0.1, *[-0.1] * 5]}, {VARIANCE: [*[-0.1] * 4, 0.0]}),
    ("val/explained_variance", "foresees much", {VARIANCE: line(0, 0.5)}, {VARIANCE: line(0, 0.2)}),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "words", "speaks", "silent"), CASES)
def test_a_rule_speaks_on_its_curves_and_is_silent_on_others(metric, words, speaks, silent):
    assert words in reading(metric, speaks)
    assert words not in reading(metric, silent)
    (rule,) = [rule for rule in written() if rule.metric == metric and words in rule.sentence]
    assert reading(metric, speaks) == rule.sentence


def written() -> list[Rule]:
    """The rules whose sentence is not made from the curves."""
    return [rule for rule in RULES if isinstance(rule.sentence, str)]


def test_every_rule_has_curves_above_and_belongs_to_a_metric_that_is_shown():
    spoken = {(metric, words) for metric, words, _, _ in CASES}
    shown = {metric for name in launch.STAGES for metric in launch.stage(name).METRICS}
    for rule in written():
        assert any(metric == rule.metric and words in rule.sentence for metric, words in spoken), rule.sentence
    assert {rule.metric for rule in RULES} <= shown
    assert [rule.metric for rule in RULES if rule not in written()] == ["seconds/iteration"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.metric}: {str(rule.sentence)[:20]}")
def test_no_rule_speaks_before_there_is_a_curve_or_on_its_first_point(rule):
    assert not rule.holds({})
    first = {"loss": 0.693, "accuracy": 0.5, "margin": 0.0, "mean_reward": 0.1, "rewards/margins": 0.0,
             "rewards/accuracies": 0.5, "logps/chosen": -50.0, "logps/rejected": -50.0, "grad_norm": 1.0,
             SCORES: 0.5, "checks": 0.5, KL: 20.0, ENTROPY: 2.0, "val/length": 40.0, "val/eos_rate": 0.5,
             "policy/clipfrac_avg": 0.5, VARIANCE: -0.5, "seconds/iteration": 24.0}  # fmt: skip
    both = {name: [value] for name, value in first.items()}
    assert not rule.holds(both | {f"eval_{name}": [value] for name, value in first.items()})


@pytest.mark.parametrize("metric", ["loss", "accuracy", "rewards/margins", "grad_norm", "anything"])
def test_without_a_curve_there_is_nothing_to_read(metric):
    assert reading(metric, {}) == ""
    assert reading(metric, {metric: [], f"eval_{metric}": []}) == ""
    assert reading(metric, {"another": [1.0, 2.0]}) == ""


def test_where_no_rule_speaks_the_sentence_says_from_where_to_where():
    assert reading("learning_rate", {"learning_rate": [2e-4]}) == "One point so far."
    said = reading("learning_rate", {"learning_rate": [2e-4, 1e-4]})
    assert said == "The training line went from 0.0002 to 0.0001."
    held = reading("margin", {"margin": [5.0], "eval_margin": [0.25, 1.5]})
    assert held == "The held-out line went from 0.25 to 1.50."
    assert (
        reading("logps/rejected", {"logps/rejected": [-150.4, -151.6]}) == "The training line went from -150 to -152."
    )


def test_single_noisy_batches_at_the_ends_do_not_decide():
    values = [9.0, *[1.0] * 48, 9.0]  # a fifth of fifty is ten: (9 + 9·1) / 10
    assert reading("loss", {"loss": values}) == "The training line went from 1.80 to 1.80."


@pytest.mark.parametrize("stage", launch.STAGES)
@pytest.mark.parametrize("count", [1, 2, 4, 5, 30])
def test_every_metric_of_every_stage_has_a_sentence_as_soon_as_it_has_points(stage, count):
    for metric in launch.stage(stage).METRICS:
        for values in ([0.0] * count, [1.0] * count, line(-3, 3, 31)[:count], line(100, 1, 31)[:count]):
            for curves in (
                {metric: values},
                {f"eval_{metric}": values},
                {metric: values, f"eval_{metric}": values[:1]},
                {metric: values, f"eval_{metric}": values[::-1]},
            ):
                said = reading(metric, curves)
                assert said.endswith(".") and "nan" not in said


def test_what_was_not_a_number_is_left_out_of_the_curve():
    run = runs.create("odd", {})
    run.log("train", 1, {"loss": 1.0, "grad_norm": math.nan})
    run.log("train", 2, {"loss": math.nan, "grad_norm": math.inf})
    run.log("train", 3, {"loss": 3.0})
    curves = curves_of(run.metrics())
    assert curves == {"loss": [1.0, 3.0]}
    assert reading("loss", curves) == "The training line went from 1.00 to 3.00."
    assert reading("grad_norm", curves) == ""
    assert curves_of([]) == {}


def test_events_keep_their_order_and_the_two_lines_apart():
    events = [{"values": {"eval_loss": 3.0}}, {"values": {"loss": 2.5, "grad_norm": 1.0}}, {"values": {"loss": 2.0}},
              {"values": {"eval_loss": 2.2}}]  # fmt: skip
    assert curves_of(events) == {"eval_loss": [3.0, 2.2], "loss": [2.5, 2.0], "grad_norm": [1.0]}


def test_the_seconds_of_an_iteration_are_told_by_what_they_went_into():
    """Means over the run; tenths where an iteration is short."""
    spent = {"iteration": [20.0, 28.0], "rollout": [9.0, 11.0], "score": [5.0, 5.0], "update": [6.0, 12.0]}
    curves = {f"seconds/{name}": values for name, values in spent.items()}
    said = "Of 24 s an iteration, 10 went into writing answers, 5 into scoring, 9 into updating."
    assert reading("seconds/iteration", curves) == said
    assert reading("seconds/iteration", {name: [v / 10 for v in values] for name, values in curves.items()}) == (
        "Of 2.4 s an iteration, 1.0 went into writing answers, 0.5 into scoring, 0.9 into updating."
    )
    assert "went from" in reading("seconds/iteration", {"seconds/iteration": [20.0, 28.0]})


# (title, curves of which it is true, curves of which it is not)
ALARMS = [
    ("Reward hacking", {SCORES: line(0, 1), "checks": line(0.8, 0.2)}, {SCORES: line(0, 1), "checks": line(0.2, 0.8)}),
    ("Reward hacking", {SCORES: line(0, 1, 5), "checks": line(0.5, 0.4, 5)},
     {SCORES: line(0, 1, 4), "checks": line(0.5, 0.1, 4)}),
    ("Reward hacking", {f"eval_{SCORES}": [0.0, 0.2, 0.4], "eval_checks": [0.6, 0.5, 0.4]},
     {f"eval_{SCORES}": [0.0, 0.4], "eval_checks": [0.6, 0.4]}),
    ("Reward hacking", {SCORES: line(0, 0.2), "checks": line(0.5, 0.4)}, {SCORES: line(0, 0.1), "checks": line(1, 0)}),
    ("Reward hacking", {SCORES: line(0, 1), "checks": line(0.5, 0.3)},
     {SCORES: line(0, 1), "checks": [0.6, 0.3] * 4 + [0.5, 0.2] * 6}),  # falls, by less than it jumps
    ("Reward hacking", {SCORES: line(0, 1), "checks": line(0.5, 0.3)}, {SCORES: line(0, 1)}),
    ("KL runs away", {KL: [1.0, 15.5, 16.0, 17.0]}, {KL: [1.0, 14.0, 16.0, 17.0]}),
    ("KL runs away", {KL: [16.0, 15.5, 17.0]}, {KL: [17.0, 16.0]}),
    ("Entropy collapse", {ENTROPY: line(2, 0.1)}, {ENTROPY: line(2, 0.8)}),
    ("Entropy collapse", {ENTROPY: line(2, 0.1, 5)}, {ENTROPY: line(2, 0.1, 4)}),
    ("Length collapse", {"val/length": line(60, 9)}, {"val/length": line(60, 30)}),
    ("Answers no longer end", {"val/eos_rate": line(1, 0.5)}, {"val/eos_rate": line(1, 0.8)}),
    ("The critic is not learning", {VARIANCE: [0.2, *[-0.01] * 5]}, {VARIANCE: [-1.0, -1.0, -1.0, -1.0, 0.0]}),
]  # fmt: skip


@pytest.mark.parametrize(("title", "wrong", "fine"), ALARMS)
def test_an_alert_holds_on_its_curves_and_not_on_others(title, wrong, fine):
    assert [alert.title for alert in alerts(wrong)] == [title]
    assert alerts(fine) == []


def test_every_alert_has_curves_above_and_says_what_to_do():
    assert [alert.title for alert in ALERTS] == list(dict.fromkeys(title for title, _, _ in ALARMS))
    for alert in ALERTS:
        assert alert.sentence.endswith(".") and re.search(r"(raise|reward a|add a|lower) ", alert.sentence, re.I)


def test_several_alerts_can_hold_at_once_and_other_stages_have_none():
    both = {KL: [16.0, 17.0, 18.0], ENTROPY: line(2, 0.1)}
    assert [alert.title for alert in alerts(both)] == ["KL runs away", "Entropy collapse"]
    assert alerts({}) == []
    assert alerts({"loss": line(3, 9), "eval_loss": line(3, 9), "accuracy": line(1, 0), "grad_norm": line(1, 99)}) == []


def test_checks_that_only_jump_seldom_raise_an_alarm():
    """Sixteen answers of which each passes by the toss of a coin, and a reward that rises."""
    alarms = 0
    for seed in range(300):
        toss = random.Random(seed)
        gold = [sum(toss.random() < 0.5 for _ in range(16)) / 16 for _ in range(20)]
        alarms += bool(alerts({SCORES: line(0, 1), "checks": gold}))
    assert alarms < 0.05 * 300
