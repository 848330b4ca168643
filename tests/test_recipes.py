"""Recipes: steps queued at once, each filled in when what it waits for is there."""

import shutil

import pytest
import yaml

from playground import worker
from playground.data import constitutions, library
from playground.models import catalog
from playground.runs import queue
from playground.runs import run as runs
from playground.settings import SettingError
from playground.stages import harvest, launch, recipes
from playground.stages.inputs import StageError
from playground.tabs import view

STEPS = {
    "revise": {
        "stage": "constitution",
        "data": "red-team",
        "settings": {"num_prompts": 4, "shots": 0, "max_length": 1024},
    },
    "sft": {"stage": "sft", "data": "revise", "settings": {"max_steps": 2}},
    "dpo": {"stage": "dpo", "data": "revise", "parent": "sft", "settings": {"max_steps": 2}},
}


@pytest.fixture
def started(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"about": "x", "steps": STEPS}, sort_keys=False))
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    monkeypatch.setattr(queue, "start_worker", lambda: None)
    return recipes.start("small", catalog.prepare(str(tiny_model)))


def row(index: int) -> dict:
    step = {"principle": "Be kind", "critique": "Rude.", "revision": f"hello {index}", "reason": None}
    return {"index": index, "prompt": [{"role": "user", "content": f"the end {index}"}], "answer": "no",
            "steps": [step], "revision": f"hello {index}", "reason": None, "notes": {}}  # fmt: skip


def test_every_step_is_queued_and_says_what_it_waits_for(started):
    revise, sft, dpo = started
    assert [run.status().state for run in started] == ["queued"] * 3
    assert "waits_for" not in revise.request
    assert sft.request["waits_for"] == {"data": revise.id}
    assert dpo.request["waits_for"] == {"data": revise.id, "parent": sft.id}
    assert dpo.request["dataset"]["name"] == revise.name and dpo.request["parent"]["name"] == sft.name


def test_a_step_is_filled_in_from_what_the_earlier_ones_made(started):
    revise, sft, _ = started
    harvest.append(revise, [row(i) for i in range(4)])
    revise.update(state="finished")
    request = recipes.resolve(sft)
    made = library.find(request["dataset"]["id"])
    assert made.kind == "sft" and made.train == 4 and made.origin["run"] == revise.id
    assert request["dataset"]["sha256"] == made.sha256 and "waits_for" not in request
    assert sft.request == request and recipes.resolve(sft) == request


def test_a_step_whose_ground_is_missing_says_so(started):
    _, sft, dpo = started
    with pytest.raises(StageError, match=r"small-revise.*queued"):
        recipes.resolve(sft)
    assert "waits_for" in dpo.request


@pytest.mark.parametrize("state", ["stopped", "interrupted", "failed"])
def test_steps_wait_in_the_queue_until_what_they_build_on_has_finished(started, state):
    revise, sft, dpo = started
    assert queue.queued() == [revise]
    assert queue.waits_for(dpo) == [revise, sft]
    revise.update(state=state)
    assert queue.queued() == []  # and none of them fails for it
    assert f"{revise.name} ({state})" in view.status_html(sft)
    revise.requeue()
    assert queue.queued() == [revise]
    revise.update(state="finished")
    assert queue.queued() == [sft] and queue.waits_for(dpo) == [sft]
    assert "It builds on" not in view.status_html(sft)


def test_a_step_does_not_wait_for_a_run_that_was_deleted(started):
    revise, sft, _ = started
    shutil.rmtree(revise.folder)
    assert queue.queued() == [sft]
    with pytest.raises((StageError, runs.RunError)):
        recipes.resolve(sft)


def test_a_recipe_goes_through_the_worker_and_on_from_a_stopped_step(started, monkeypatch):
    """The queue's own worker, the stages' own processes."""
    revise, sft, dpo = started
    sft.request_stop()
    sft.update(state="queued")  # asked to stop just before it starts
    harvest.append(revise, [row(i) for i in range(4)])
    worker.main()
    assert [run.status().state for run in started] == ["finished", "stopped", "queued"], sft.status().message
    sft.requeue()
    worker.main()
    assert [run.status().state for run in started] == ["finished"] * 3, dpo.status().message
    assert dpo.request["parent"]["id"] == sft.id and dpo.request["parent"]["weights_sha256"]
    assert dpo.request["dataset"]["origin"]["run"] == revise.id


def test_all_steps_apply_the_same_version_of_a_constitution(started, tiny_model, tmp_path):
    own = constitutions.import_file(_constitution(tmp_path), "mine")
    steps = {"revise": STEPS["revise"], "judge": {"stage": "feedback", "data": "red-team", "parent": "tuned"}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"about": "x", "steps": steps}, sort_keys=False))
    base = catalog.prepare(str(tiny_model))
    made = recipes.start("two", base, "mine")
    assert [run.request["settings"]["constitution"] for run in made] == [own.reference] * 2 == ["mine@1"] * 2
    assert made[0].request["constitution"]["name"] == "mine"
    plain = recipes.start("two", base)
    assert {run.request["settings"]["constitution"] for run in plain} == {"harmless-and-candid@1"}
    (tmp_path / "none.yaml").write_text(yaml.safe_dump({"about": "x", "steps": {"sft": {**STEPS["sft"]}}}))
    with pytest.raises(SettingError, match="No step of none applies"):
        recipes.start("none", base, "mine")


def _constitution(folder):
    path = folder / "mine.txt"
    path.write_text("Be kind to whoever asks.\nSay what is true.\n")
    return path


def test_a_run_that_others_wait_for_is_not_deleted(started):
    revise = started[0]
    revise.update(state="finished")
    with pytest.raises(runs.RunError, match="needs"):
        revise.delete()


def test_an_unknown_recipe_names_the_known_ones(started):
    with pytest.raises(SettingError, match="small"):
        recipes.steps("nope")


@pytest.mark.parametrize("name", sorted(recipes.recipes()))
def test_the_recipes_that_come_with_the_app_can_be_queued(name, embedded_model, monkeypatch):
    monkeypatch.setattr(queue, "start_worker", lambda: None)
    made = recipes.start(name, embedded_model)
    assert len(made) == len(recipes.steps(name)) and all(step.request["recipe"] == name for step in made)
    for step in made:
        launch.stage(step.request["stage"]).Settings.parse(step.request["settings"])
    assert recipes.recipes()[name]["about"]
