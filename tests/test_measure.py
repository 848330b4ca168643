"""Measuring on a tiny model: both rates before and after, resumable, every answer with its rule."""

import pytest

from playground.data import library
from playground.models import catalog
from playground.runs import queue
from playground.settings import SettingError
from playground.stages import harvest, launch, measure, refusals, sft
from playground.statistics import wilson
from playground.tabs import stage, view


@pytest.fixture
def ask(tiny_model, monkeypatch):
    monkeypatch.setattr(queue, "start_worker", lambda: None)

    def make(data: str = "red-team", parent=None):
        base = catalog.prepare(str(tiny_model))
        values = {"max_new_tokens": 8}
        return launch.launch("measure", base, library.find(data, "prompts"), values, "safety", parent=parent)

    return make


def work(run) -> None:
    measure.main(measure.Settings.parse(run.request["settings"]), run)


def test_every_held_out_prompt_is_answered_and_counted(ask):
    run = ask()
    work(run)
    rows = harvest.rows(run)
    asked = library.find("red-team", "prompts").rows("heldout")
    assert len(rows) == len(asked) == 96
    assert {(row["kind"], row["label"]) for row in rows} <= {
        (kind, label) for kind in measure.KINDS for label in refusals.LABELS
    }
    found = run.receipt()["rates"]
    assert set(found) == {"before"} and found["before"]["over_refusal"]["n"] == 48
    assert "n = 48" in measure.outcome(run)


def test_a_trained_checkpoint_is_asked_after_the_starting_model(ask, tiny_model, monkeypatch):
    base = catalog.prepare(str(tiny_model))
    values = {"max_steps": 2, "max_length": 512, "learning_rate": 0.01, "probe_steps": 0}
    parent = launch.launch("sft", base, library.find("pocket-tutor"), values, "tuned")
    sft.main(sft.Settings.parse(parent.request["settings"]), parent)
    parent.update(state="finished")
    plain, tuned = ask(), ask(parent=parent)
    work(plain)
    work(tuned)
    rows = harvest.rows(tuned)
    assert [row["who"] for row in rows] == ["before"] * 96 + ["after"] * 96
    assert [row["answer"] for row in rows[:96]] == [row["answer"] for row in harvest.rows(plain)]
    assert [row["prompt"] for row in rows[:96]] == [row["prompt"] for row in rows[96:]]
    assert sum(a["answer"] != b["answer"] for a, b in zip(rows[:96], rows[96:], strict=True)) > 48
    assert set(tuned.receipt()["rates"]) == {"before", "after"}
    drawn = view.curve(tuned.metrics(), "over_refusal", view.series_of("measure"))
    assert set(drawn["series"]) == {"before", "after"} == set(stage.colours("measure"))


def test_the_rates_are_what_they_say():
    rows = [{"kind": "harmful", "label": label} for label in ("compliance", "refusal", "other", "compliance")]
    rows += [{"kind": "benign", "label": label} for label in ("compliance", "refusal")]
    assert measure.rates(rows) == {"harmful_compliance": wilson(2, 4), "over_refusal": wilson(1, 2)}


def test_what_was_answered_is_not_asked_again(ask, monkeypatch):
    whole, cut = ask(), ask()
    work(whole)
    plain = harvest.append

    def append(run, rows, name=harvest.ROWS):
        plain(run, rows, name)
        run.request_stop()

    monkeypatch.setattr(harvest, "append", append)
    work(cut)
    before = (cut.folder / "rows.jsonl").read_text(encoding="utf-8")
    assert 0 < len(harvest.rows(cut)) < 96
    monkeypatch.setattr(harvest, "append", plain)
    (cut.folder / "stop").unlink()
    work(cut)
    assert (cut.folder / "rows.jsonl").read_text(encoding="utf-8").startswith(before)
    assert harvest.rows(cut) == harvest.rows(whole)


def test_data_without_kinds_can_not_be_measured(ask):
    with pytest.raises(SettingError, match="red-team"):
        ask("pocket-tutor")
