"""The answers that a run wrote while it trained, as the page shows them, and what it says of a PPO run's curves."""

import math
import re
from html import unescape

import pytest

from playground.runs import run as runs
from playground.runs.run import Run
from playground.stages import launch
from playground.tabs import rollouts, stage, view

ATTACK = "<img src=x onerror=\"alert('1')\"><script>alert(2)</script>"


@pytest.fixture
def run() -> Run:
    return made("first")


def made(name: str, by: str = "ppo") -> Run:
    asked = {"base_title": "tiny", "base": "embedded", "dataset": {"name": "sums"}, "settings": {}}
    return runs.create(name, {"stage": by, "parent": None, **asked})


def wrote(run: Run, step: int, scores: list[float], **changes) -> None:
    """An iteration whose answers earn these scores; the KL of each is its place."""
    for i, score in enumerate(scores):
        row = {"prompt": f"What is {i} + {i}?", "answer": "Two.", "score": score, "parts": {"rules": score},
               "ended": i % 2 == 0, "kl": float(i), "tokens": ["Two", ".\n"], "token_kl": [1.0, -0.5]}  # fmt: skip
        run.rollout(step, {**row, **changes})
    run.update(step=step, total=20)


def skipped(value: object) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1


def summaries(shown: str) -> list[str]:
    return [unescape(text) for text in re.findall("<summary>(.*?)</summary>", shown)]


def words(shown: str) -> str:
    return unescape(re.sub("<[^>]*>", "", shown))


# ---- one iteration's answers


@pytest.mark.parametrize(
    ("order", "places"), [("Highest reward", [1, 2, 0]), ("Lowest reward", [0, 2, 1]), ("Highest KL", [2, 1, 0])]
)
def test_answers_stand_in_the_order_that_was_asked_for(run, order, places):
    wrote(run, 1, [-1.0, 2.0, 0.5])
    shown = rollouts.rollouts_html(run.rollouts(1), order)
    assert [int(re.search(r"What is (\d)", line)[1]) for line in summaries(shown)] == places
    assert f"Iteration 1: 3 answers, {order.casefold()} first." in words(shown)


def test_an_answer_tells_what_it_earned_for_what_and_whether_it_ended(run):
    wrote(run, 4, [1.5, 0.25], parts={"reward model": 0.75, "rules": -1.0})
    shown = rollouts.rollouts_html(run.rollouts(4), "Highest reward")
    assert summaries(shown) == ["Reward +1.50 · KL 0.0 · What is 0 + 0?", "Reward +0.25 · KL 1.0 · What is 1 + 1?"]
    assert "reward model +0.75; rules -1.00; came to its end" in words(shown)
    assert "reward model +0.75; rules -1.00; cut off before its end" in words(shown)
    assert shown.count("<details open>") == 1  # the first


def test_tokens_are_coloured_by_how_far_they_have_moved_and_tell_by_how_much(run):
    wrote(run, 1, [1.0])
    shown = rollouts.rollouts_html(run.rollouts(1), "Highest reward")
    blue, orange = re.findall(r'<span style="background: ([^"]*)" title="([^"]*)">', shown)
    assert (blue[1], orange[1]) == ("+1.00", "-0.50")
    assert "#3b82f6" in blue[0] and "#f97316" in orange[0]
    share = [int(re.search(r"(\d+)%", colour)[1]) for colour, _ in (blue, orange)]
    assert share[0] == pytest.approx(2 * share[1], abs=1)
    assert "Blue tokens have become likelier" in rollouts.INTRO


def test_a_long_question_is_cut_in_the_line_and_whole_under_it(run):
    question = "Tell me all about it, " * 20 + "please."
    wrote(run, 1, [1.0], prompt=question)
    shown = rollouts.rollouts_html(run.rollouts(1), "Highest reward")
    assert summaries(shown)[0].endswith("…") and len(summaries(shown)[0]) < 150
    assert f"<p>{question}</p>" in shown


def test_at_most_sixteen_answers_are_listed(run):
    wrote(run, 1, [float(i) for i in range(20)])
    assert len(summaries(rollouts.rollouts_html(run.rollouts(1), "Highest reward"))) == rollouts.MOST == 16


def test_hostile_answers_show_as_text(run):
    wrote(run, 1, [1.0], prompt=ATTACK, answer=ATTACK, tokens=[ATTACK, ATTACK], parts={ATTACK: 1.0})
    shown = rollouts.rollouts_html(run.rollouts(1), "Highest reward")
    assert set(re.findall(r"<([a-z0-9]+)", shown)) <= {"div", "p", "span", "details", "summary"}
    assert "onerror" not in "".join(re.findall(r"<[^>]*>", shown))
    assert words(shown).count(ATTACK) == 4  # the question, two tokens, a part


def test_an_answer_without_a_token_is_shown_too(run):
    wrote(run, 1, [1.0], answer="", tokens=[], token_kl=[])
    assert len(summaries(rollouts.shown(run)[1])) == 1


# ---- which iteration


def test_before_there_is_an_answer_the_page_says_what_will_appear(run):
    for empty in (None, run):
        picker, shown, _ = rollouts.shown(empty)
        assert (picker.choices, picker.value) == ([("newest", "newest")], "newest")
        assert words(shown) == rollouts.EMPTY


def test_the_newest_is_followed_until_another_is_picked(run):
    wrote(run, 1, [1.0])
    picker, shown, seen = rollouts.shown(run)
    assert "Iteration 1:" in words(shown)
    wrote(run, 2, [1.0])
    picker, shown, seen = rollouts.shown(run, "newest", "Highest reward", seen)
    assert "Iteration 2:" in words(shown)
    assert ([value for _, value in picker.choices], picker.value) == (["newest", 2, 1], "newest")
    picker, shown, seen = rollouts.shown(run, 1, "Highest reward", seen)
    assert (picker.value, "Iteration 1:" in words(shown)) == (1, True)
    wrote(run, 3, [1.0])
    picker, shown, _ = rollouts.shown(run, 1, "Highest reward", seen)
    assert [value for _, value in picker.choices] == ["newest", 3, 2, 1]
    assert picker.value == 1
    assert skipped(shown)  # what the reader has unfolded stays


def test_what_has_not_changed_is_neither_read_nor_sent_again(run, monkeypatch):
    wrote(run, 1, [1.0])
    seen = rollouts.shown(run)[-1]
    monkeypatch.setattr(Run, "rollouts", lambda *_: pytest.fail("read"))
    assert all(map(skipped, rollouts.shown(run, "newest", "Highest reward", seen)))


def test_another_order_or_another_run_is_shown_at_once(run):
    wrote(run, 1, [1.0, 2.0])
    seen = rollouts.shown(run)[-1]
    assert summaries(rollouts.shown(run, "newest", "Lowest reward", seen)[1])[0].startswith("Reward +1.00")
    other = made("other")
    wrote(other, 1, [5.0, 2.0])
    assert summaries(rollouts.shown(other, "newest", "Highest reward", seen)[1])[0].startswith("Reward +5.00")
    picker, shown, _ = rollouts.shown(other, 7, None, seen)  # an iteration that this run has not
    assert (picker.value, "Iteration 1:" in words(shown)) == ("newest", True)


def test_the_tick_shows_new_answers_and_leaves_the_list_alone_while_only_the_phase_changes(run):
    first = stage.tick("ppo", run.id, None)
    asked = ("newest", "Highest reward", first[-2])
    wrote(run, 1, [1.0])
    later = stage.tick("ppo", run.id, first[-1], *asked)
    assert "Iteration 1:" in words(later[-3])
    asked = ("newest", "Highest reward", later[-2])
    run.update(phase="updating, epoch 1 of 2")
    again = stage.tick("ppo", run.id, later[-1], *asked)
    assert not skipped(again[3])  # the status
    assert all(map(skipped, again[-4:-1]))
    assert all(map(skipped, stage.tick("ppo", run.id, again[-1], *asked)))


def test_only_stages_that_write_answers_have_the_browser(run):
    for name in launch.STAGES:
        extra = len(stage.shown(name, None)) - 2 * len(view.metrics_of(name)) - 4
        assert extra == (4 if name == "ppo" else 0)


# ---- alerts and the plot against √KL


def learned(run: Run, gold: bool = True, falls: float = 0.6) -> None:
    for i in range(1, 11):
        checks = {"checks": 0.8 - falls * i / 10} if gold else {}
        run.log("train", i, {"objective/scores": i / 10, "objective/kl": i * i / 10, **checks})


def test_an_alert_stands_in_the_status_box_with_its_reason(run):
    learned(run)
    shown = view.status_html(run)
    assert shown.startswith('<div role="status"')
    assert '<div class="pg-alert"><span aria-hidden="true">⚠ </span><strong>Reward hacking.</strong>' in shown
    assert "The reward rises while fewer answers pass the checks" in words(shown)
    status = stage.shown("ppo", run.id)[0]
    assert status == shown


def test_a_run_that_goes_well_has_no_alert_and_neither_has_another_stage(run):
    learned(run, falls=-0.1)
    assert "pg-alert" not in view.status_html(run)
    other = made("imitator", "sft")
    for i in range(1, 21):
        other.log("train", i, {"loss": 3 - i / 10, "grad_norm": 1.0})
    assert "pg-alert" not in view.status_html(other)
    assert "pg-alert" not in view.status_html(None)


def test_the_plot_against_the_root_of_the_kl_has_proxy_and_gold(run):
    learned(run)
    frame = view.frontier(run.metrics())
    assert list(frame.columns) == ["√KL", "value", "series"]
    assert list(dict.fromkeys(frame["series"])) == ["reward (proxy)", "checks passed (gold)"]
    assert frame["√KL"].tolist()[:10] == pytest.approx([math.sqrt(i * i / 10) for i in range(1, 11)])
    assert frame["value"].tolist()[9] == 1.0
    update = stage.shown("ppo", run.id)[-5]
    assert update["value"].equals(frame)
    assert update["color_map"] == stage.FRONTIER_COLOURS


def test_a_kl_below_zero_counts_as_none_and_what_is_no_number_is_left_out(run):
    run.log("train", 1, {"objective/scores": 0.5, "objective/kl": -0.01})
    run.log("train", 2, {"objective/scores": math.nan, "objective/kl": 1.0})
    run.log("train", 3, {"objective/scores": 0.5, "objective/kl": math.inf})
    run.log("eval", 3, {"eval_objective/scores": 0.5})
    assert view.frontier(run.metrics()).values.tolist() == [[0.0, 0.5, "reward (proxy)"]]


def test_without_a_point_there_is_no_plot_and_without_checks_no_gold(run):
    assert view.frontier([]) is None
    assert stage.shown("ppo", run.id)[-5] is None
    learned(run, gold=False)
    assert stage.shown("ppo", run.id)[-5]["color_map"] == {"reward (proxy)": stage.COLOURS["training"]}


def test_a_long_run_has_at_most_five_hundred_points_a_series():
    events = [{"values": {"objective/scores": 1.0, "objective/kl": float(i), "checks": 0.5}} for i in range(2000)]
    frame = view.frontier(events)
    assert frame["series"].value_counts().max() <= view.MOST_POINTS
    assert frame["√KL"].max() == math.sqrt(1999)
