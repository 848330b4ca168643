"""DPO for real, on a 2-layer model: from an SFT run or the base, the parent as reference, stop and resume."""

import hashlib
import json
import math
import os
import shutil

import psutil
import pytest
import torch
from safetensors.torch import load_file

from playground import worker
from playground.data import library
from playground.data.readers import RawRow
from playground.data.rendering import Renderer
from playground.data.report import examine
from playground.data.tokens import training_pairs
from playground.models import catalog, loading
from playground.models.adapters import open_adapters
from playground.runs import run as runs
from playground.stages import dpo, launch, sft, training, trl_bridge, trl_trainers
from playground.stages.dpo import REFERENCE, DPOSettings
from playground.stages.inputs import StageError

QUICK = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "max_length": 128,
    "learning_rate": 1e-2,
    "lora_r": 4,
    "probe_prompts": "",
}
PROBED = {"probe_tokens": 8, "probe_prompts": "What is 2?"}
WEIGHTS = "adapter_model.safetensors"
LOSSES = ("sigmoid", "ipo", "hinge", "robust", "sigmoid+sft")


def pairs(count=120):
    """Short pairs; a tenth of them is held out, which is two batches."""
    raw = [
        {"prompt": f"What is {i} + {i}?", "chosen": f"It is {2 * i}, I think.", "rejected": f"No idea about {i}"}
        for i in range(count)
    ]
    return library.store(examine([RawRow(i, row, None) for i, row in enumerate(raw)]), "likes", "a test")


def started(tiny_model, patch, dataset=None, stage="dpo", parent=None, **values):
    """A run of the tiny model that waits for a worker which never comes."""
    patch.setattr(launch.queue, "start_worker", lambda: None)
    base = catalog.prepare(str(tiny_model))
    return launch.launch(stage, base, dataset or pairs(), {**QUICK, **values}, parent=parent)


@pytest.fixture
def start(tiny_model, monkeypatch):
    return lambda **options: started(tiny_model, monkeypatch, **options)


def train(run):
    dpo.main(DPOSettings.parse(run.request["settings"]), run)
    return run


def work(run, patch):
    """What the worker's child does with the run, in this process."""
    patch.setattr(worker.os, "nice", lambda by: 0)
    patch.setattr(worker.signal, "signal", lambda *_: None)
    run.update(state="running", pid=os.getpid(), pid_started=psutil.Process().create_time())
    worker.work(run)
    return run


def sft_parent(tiny_model, patch):
    """A finished fine-tuning that has moved the tiny model away from its base."""
    rows = [RawRow(i, {"prompt": f"Say {i}.", "completion": f"{i}, of course."}, None) for i in range(20)]
    run = started(tiny_model, patch, library.store(examine(rows), "sums", "a test"), "sft", max_steps=4)
    sft.main(sft.Settings.parse(run.request["settings"]), run)
    run.update(state="finished")
    return run


@pytest.fixture(scope="module")
def sft_run(tiny_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(tmp_path_factory.mktemp("parent")))
        return sft_parent(tiny_model, patch)


@pytest.fixture
def parent(sft_run):
    """The same in this test's home."""
    shutil.copytree(sft_run.folder, runs.runs_root() / sft_run.id)
    return runs.Run(sft_run.id)


@pytest.fixture(scope="module", params=["none", "nf4"])
def finished(request, tiny_model, tmp_path_factory):
    """A finished run that continues an SFT run, to look at, and what was seen of its model."""
    seen = {"quantization": request.param, "files": weights_hash(tiny_model)}
    real = trl_trainers.PairDPOTrainer.train

    def spy(trainer, *args, **options):
        model = trainer.model
        seen["dtypes"] = {p.dtype for p in model.parameters() if p.requires_grad}
        seen["first"] = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        result = real(trainer, *args, **options)
        after = dict(model.named_parameters())
        seen["same"] = all(torch.equal(after[n], p) for n, p in frozen.items())
        seen["changed"] = {n for n, p in seen["first"].items() if not torch.equal(after[n], p)}
        seen["adapters"] = set(model.peft_config)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(tmp_path_factory.mktemp("finished")))
        seen["parent"], seen["dataset"] = sft_parent(tiny_model, patch), pairs()
        patch.setattr(trl_trainers.PairDPOTrainer, "train", spy)
        run = started(tiny_model, patch, seen["dataset"], parent=seen["parent"], quantization=request.param, **PROBED)
        seen["run"] = work(run, patch)
    return seen


def values(run, name="loss"):
    return [event["values"][name] for event in run.metrics() if name in event["values"]]


def weights_hash(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def encoded(tiny_model, dataset, split="heldout"):
    """The pairs in the order in which the stage takes them."""
    rows = training_pairs(dataset.rows(split), Renderer(tiny_model), QUICK["max_length"])
    return sorted(rows, key=len) if split == "heldout" else rows


def opened(tiny_model, run, quantization="none"):
    """The base with a run's adapter, or the base alone, on the weights that the run was trained on."""
    base = loading.load_base(catalog.prepare(str(tiny_model)), loading.placement(quantization))
    return open_adapters(base, "default", run.adapter).model if run else base


@torch.no_grad()
def plain_sums(model, rows):
    """[chosen, rejected] log-probs of each pair, one answer at a time, from all logits."""

    def one(prompt, answer):
        ids = torch.tensor([prompt + answer])
        log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        return float(log_probs[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]].sum())

    return torch.tensor([[one(row.prompt, row.chosen), one(row.prompt, row.rejected)] for row in rows])


def reference(run):
    return [torch.tensor(part) for part in json.loads((run.folder / REFERENCE).read_text())]


def assert_same_weights(one, other, tolerance=1e-6):
    first, second = load_file(one.adapter / WEIGHTS), load_file(other.adapter / WEIGHTS)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=tolerance, rtol=1e-5)


# --- a finished run that continues an SFT run


def test_a_run_changes_the_adapter_and_not_one_bit_of_the_base(finished, tiny_model):
    assert finished["dtypes"] == {torch.float32}
    assert finished["same"]
    assert finished["changed"] and all("lora_" in name for name in finished["changed"])
    assert finished["adapters"] == {"default"}  # TRL's own copy for a reference is not needed
    assert weights_hash(tiny_model) == finished["files"]
    saved = load_file(finished["run"].adapter / WEIGHTS)
    assert all("lora_" in name for name in saved)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert not (finished["run"].adapter / "ref").exists()


def test_a_run_begins_with_its_parents_weights_bit_for_bit_and_leaves_the_parent_as_it_was(finished):
    before = load_file(finished["parent"].adapter / WEIGHTS)
    for name, parameter in finished["first"].items():
        assert torch.equal(parameter, before[name.replace(".default", "")]), name
    asked = finished["run"].request["parent"]
    assert asked["weights_sha256"] == weights_hash(finished["parent"].adapter)[WEIGHTS]
    assert load_file(finished["run"].adapter / WEIGHTS).keys() == before.keys()


def test_a_run_leaves_a_complete_folder(finished):
    run = finished["run"]
    assert run.status().state == "finished"
    assert all(math.isfinite(value) for name in ("loss", "eval_loss", "grad_norm") for value in values(run, name))
    assert [event["step"] for event in run.metrics()] == [0, 1, 2, 3, 3]
    assert [sample["step"] for sample in run.samples()] == [0, 3]
    assert {proof["name"] for proof in run.proofs()} == {
        "The base and the template match the parent's",
        "The end token is inside the labels",
        "Both sides differ",
        "Only the adapter is trained",
        "The margin starts at 0",
        "The loss starts where it must",
    }
    assert all(proof["passed"] for proof in run.proofs())
    assert run.proofs()[0]["words"] == f"As in {finished['parent'].name}."
    assert {path.name for path in run.adapter.iterdir()} >= {
        WEIGHTS, "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert not (run.folder / "checkpoints").exists()


def test_the_receipt_has_trls_names_and_what_was_measured_last(finished):
    run, receipt = finished["run"], finished["run"].receipt()
    metrics = receipt["metrics"]
    assert set(metrics) >= {
        "loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "grad_norm", "learning_rate",
        "step", "train_seconds", "peak_rss_mb", "eval_loss", "eval_rewards/accuracies", "eval_rewards/margins",
        "eval_logps/chosen", "eval_logps/rejected", "eval_n",
    }  # fmt: skip
    for name in ("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_logps/chosen"):
        assert metrics[name] == values(run, name)[-1]
    assert (metrics["step"], metrics["eval_n"], receipt["rows_left_out"]) == (3, 12, 0)
    assert ("NF4" in receipt["placement"]) == (finished["quantization"] == "nf4")
    said = dpo.outcome(run)
    assert said.startswith("On held-out pairs it moved more towards the chosen answer in ") and "n = 12" in said
    assert f"with a margin of {metrics['eval_rewards/margins']:.2f}." in said


def test_the_reference_is_the_parent_and_not_the_base(finished, tiny_model):
    run, quantization = finished["run"], finished["quantization"]
    settings = DPOSettings.parse(run.request["settings"])
    rows = training.pair_rows(finished["dataset"], settings, Renderer(tiny_model))[0]
    model = opened(tiny_model, finished["parent"], quantization)
    assert [len(part) for part in rows] == [12, 12]  # three steps of four, and what is held out
    for found, part in zip(reference(run), rows, strict=True):
        torch.testing.assert_close(found, plain_sums(model, part), atol=1e-4, rtol=1e-5)
    assert (reference(run)[1] - plain_sums(opened(tiny_model, None, quantization), rows[1])).abs().mean() > 0.1


def test_the_margin_measures_the_way_from_the_parent(finished, tiny_model):
    run, quantization = finished["run"], finished["quantization"]
    rows = encoded(tiny_model, finished["dataset"])
    policy, parent = (plain_sums(opened(tiny_model, r, quantization), rows) for r in (run, finished["parent"]))
    rewards = 0.1 * (policy - parent)
    metrics, margins = run.receipt()["metrics"], rewards[:, 0] - rewards[:, 1]
    assert metrics["eval_rewards/margins"] == pytest.approx(float(margins.mean()), abs=1e-4)
    assert metrics["eval_rewards/accuracies"] == pytest.approx(float((margins > 0).float().mean()), abs=1e-6)
    assert metrics["eval_loss"] == pytest.approx(float(-margins.sigmoid().log().mean()), abs=1e-4)
    assert [metrics["eval_logps/chosen"], metrics["eval_logps/rejected"]] == pytest.approx(
        policy.mean(0).tolist(), abs=1e-3
    )
    assert abs(metrics["eval_rewards/margins"]) > 1e-3


# --- where it starts


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_first_step_has_the_loss_of_margin_0_whatever_the_loss(start, parent, tiny_model, loss_type, quantization):
    dataset = pairs(30)
    options = {"loss_type": loss_type, "quantization": quantization, "sft_weight": 0.7, "beta": 0.2}
    run = train(start(dataset=dataset, parent=parent, max_steps=1, per_device_train_batch_size=27, **options))
    expected = {"ipo": 1 / 0.4**2, "hinge": 1.0}.get(loss_type, math.log(2))
    held = expected
    if loss_type == "sigmoid+sft":
        model = opened(tiny_model, parent, quantization)
        nll = []
        for split in ("train", "heldout"):
            rows = encoded(tiny_model, dataset, split)
            nll.append(-plain_sums(model, rows)[:, 0].sum() / sum(len(row.chosen) for row in rows))
        expected, held = expected + 0.7 * float(nll[0]), held + 0.7 * float(nll[1])
    assert values(run)[0] == pytest.approx(expected, abs=1e-4)
    assert values(run, "rewards/margins")[0] == pytest.approx(0, abs=1e-4)
    assert values(run, "eval_loss")[0] == pytest.approx(held, abs=1e-4)
    assert values(run, "eval_rewards/margins")[0] == 0
    assert "rewards/accuracies" not in run.metrics()[1]["values"]  # nobody is ahead yet
    assert "eval_rewards/accuracies" not in run.metrics()[0]["values"]
    assert all(proof["passed"] for proof in run.proofs())


def test_what_is_said_of_step_0_is_what_a_measurement_gives(start, parent, monkeypatch):
    seen = {}
    real = trl_bridge.train

    def spy(trainer, run, *rest):
        seen.update(trainer.evaluate())
        return real(trainer, run, *rest)

    monkeypatch.setattr(trl_bridge, "train", spy)
    run = train(start(parent=parent, loss_type="sigmoid+sft", max_steps=1))
    start_values = run.metrics()[0]["values"]
    assert set(start_values) == {"eval_loss", "eval_rewards/margins", "eval_logps/chosen", "eval_logps/rejected"}
    for name, value in start_values.items():
        assert value == pytest.approx(seen[name], rel=2e-3, abs=1e-4), name  # TRL's SFT term is a mean of batch means


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_from_the_base_the_base_is_the_reference(start, tiny_model, quantization):
    dataset = pairs()
    run = train(start(dataset=dataset, quantization=quantization))
    of_base = plain_sums(opened(tiny_model, None, quantization), encoded(tiny_model, dataset))
    torch.testing.assert_close(reference(run)[1], of_base, atol=1e-4, rtol=1e-5)
    assert values(run)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert values(run, "rewards/margins")[-1] > 0.01
    assert run.proofs()[0]["name"] == "The base is the one that was asked for"
    assert all(proof["passed"] for proof in run.proofs())
    assert any(tensor.abs().max() > 0 for name, tensor in load_file(run.adapter / WEIGHTS).items() if "lora_B" in name)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_a_run_learns(start, parent, loss_type):
    run = train(start(parent=parent, max_steps=12, learning_rate=3e-3, loss_type=loss_type))
    metrics = run.receipt()["metrics"]
    assert metrics["eval_rewards/accuracies"] > 0.9
    assert values(run, "eval_loss")[-1] < values(run, "eval_loss")[0]
    assert metrics["eval_rewards/margins"] > 0.1


def test_a_trained_run_can_be_continued_again(start, parent, tiny_model):
    first = train(start(parent=parent))
    first.update(state="finished")
    dataset = pairs()
    second = train(start(dataset=dataset, parent=first, max_steps=1))
    of_first = plain_sums(opened(tiny_model, first), encoded(tiny_model, dataset))
    torch.testing.assert_close(reference(second)[1], of_first, atol=1e-4, rtol=1e-5)
    assert values(second)[0] == pytest.approx(math.log(2), abs=1e-4)


def test_a_parent_that_was_trained_further_or_deleted_is_refused(start, parent):
    run = start(parent=parent)
    weights = (parent.adapter / WEIGHTS).read_bytes()
    (parent.adapter / WEIGHTS).write_bytes(weights + b" ")
    with pytest.raises(StageError, match="was trained further since this run was asked for"):
        train(run)
    run.update(state="stopped")
    parent.delete()
    with pytest.raises(StageError, match="which this run needs, has been deleted"):
        train(run)
    assert not run.adapter.exists()


# --- which pairs


def test_only_the_pairs_that_the_steps_reach_are_measured_and_trained_on(start, monkeypatch):
    measured, trained = [], []
    real_logps, real_loss = trl_trainers.PairDPOTrainer.sequence_logps, trl_trainers.PairDPOTrainer.compute_loss

    def logps(trainer, rows):
        measured.extend(rows)
        return real_logps(trainer, rows)

    def loss(trainer, model, inputs, *rest, **options):
        if model.training:
            trained.extend(inputs["ref_chosen_logps"].tolist())
        return real_loss(trainer, model, inputs, *rest, **options)

    monkeypatch.setattr(trl_trainers.PairDPOTrainer, "sequence_logps", logps)
    monkeypatch.setattr(trl_trainers.PairDPOTrainer, "compute_loss", loss)
    run = train(start(max_steps=2, gradient_accumulation_steps=2))
    assert len(measured) == 2 * 4 * 2 + 12
    assert len({tuple(row["prompt_ids"]) for row in measured}) == len(measured)
    assert [len(part) for part in reference(run)] == [16, 12]
    assert sorted(trained) == pytest.approx(sorted(reference(run)[0][:, 0].tolist()), abs=1e-5)


def test_another_seed_reaches_other_pairs_and_the_same_seed_the_same(tiny_model):
    dataset, renderer = pairs(), Renderer(tiny_model)

    def prompts(seed):
        settings = DPOSettings(max_steps=2, per_device_train_batch_size=4, seed=seed)
        return [row.prompt for row in training.pair_rows(dataset, settings, renderer)[0][0]]

    assert len(prompts(1)) == 8
    assert prompts(1) == prompts(1) != prompts(2)
    everything = [row.prompt for row in encoded(tiny_model, dataset, "train")]
    settings = DPOSettings(max_steps=1000)
    assert [row.prompt for row in training.pair_rows(dataset, settings, renderer)[0][0]] == everything


def test_the_halves_share_no_prompt(start, tiny_model, monkeypatch):
    seen = []
    real = trl_trainers.split_pairs
    monkeypatch.setattr(trl_trainers, "split_pairs", lambda rows, ref: (seen.append(rows), real(rows, ref))[1])
    dataset, used = pairs(), {}
    for half in ("first", "second"):
        seen.clear()
        run = train(start(dataset=dataset, half=half, max_steps=0, num_train_epochs=0.1))
        used[half] = {tuple(row.prompt) for row in seen[0]}
        assert len(reference(run)[0]) == len(used[half]) > 40
    assert not used["first"] & used["second"]
    assert len(used["first"] | used["second"]) == dataset.train


def test_without_held_out_rows_a_run_trains_and_claims_nothing(start):
    run = train(start(dataset=pairs(8), max_steps=2))
    assert [event["kind"] for event in run.metrics()] == ["train", "train"]
    assert not [name for name in run.receipt()["metrics"] if name.startswith("eval_")]
    assert dpo.outcome(run) == "Trained 2 steps; nothing was measured on held-out pairs."


def test_two_small_batches_make_the_same_step_and_the_same_curves_as_one_large_one(start, parent):
    dataset = pairs()
    one = train(start(dataset=dataset, parent=parent, per_device_train_batch_size=8, max_steps=2))
    two = train(start(dataset=dataset, parent=parent, gradient_accumulation_steps=2, max_steps=2))
    for name in ("loss", "rewards/margins", "logps/chosen", "logps/rejected", "eval_loss"):
        assert values(one, name) == pytest.approx(values(two, name), rel=1e-4, abs=1e-4), name


# --- stop, resume, trouble


def press_stop(monkeypatch, phase, time=1):
    """The Stop button, pressed when this phase is reported for the n-th time."""
    real, seen = runs.Run.update, []

    def update(run, **changes):
        real(run, **changes)
        seen.extend([phase] * changes.get("phase", "").startswith(phase))
        if len(seen) == time and changes.get("phase", "").startswith(phase):
            run.request_stop()

    monkeypatch.setattr(runs.Run, "update", update)


def assert_loadable(run, tiny_model):
    model = opened(tiny_model, run)
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


@pytest.mark.parametrize(("phase", "time"), [
    ("preparing the model", 1), ("reading the data", 1), ("loading the model", 1), ("computing the reference", 1),
    ("computing the reference", 4), ("training", 1), ("answering the probe prompts", 1),
])  # fmt: skip
def test_a_stop_before_the_first_step_leaves_nothing(start, parent, monkeypatch, phase, time):
    press_stop(monkeypatch, phase, time)
    run = work(start(parent=parent, **PROBED), monkeypatch)
    assert run.status().state == "stopped"
    assert run.status().message == "Stopped before the first step; nothing was saved."
    assert not run.adapter.exists()
    assert values(run) == []
    assert (run.folder / REFERENCE).exists() == (phase in ("training", "answering the probe prompts") or time == 4)


@pytest.mark.parametrize(("eval_steps", "time"), [(0, 1), (0, 2), (3, 1)])  # 3: as a part of training itself
def test_a_stop_in_the_last_measurement_keeps_the_trained_weights(
    start, parent, monkeypatch, tiny_model, eval_steps, time
):
    press_stop(monkeypatch, "measuring the held-out rows", time)  # two batches
    run = work(start(parent=parent, eval_steps=eval_steps), monkeypatch)
    assert (run.status().state, run.status().step) == ("finished", 3)
    assert_loadable(run, tiny_model)
    assert ("eval_n" in run.receipt()["metrics"]) == (time == 2)  # else half a measurement
    assert ("eval_loss" in run.receipt()["metrics"]) == (time == 2)


@pytest.mark.parametrize(("phase", "time"), [("answering the probe prompts", 2), ("saving", 1)])
def test_a_stop_after_the_last_step_keeps_the_weights(start, parent, monkeypatch, tiny_model, phase, time):
    press_stop(monkeypatch, phase, time)
    run = work(start(parent=parent, **PROBED), monkeypatch)
    assert (run.status().state, run.receipt()["metrics"]["step"]) == ("finished", 3)
    assert_loadable(run, tiny_model)


def stop_after(monkeypatch, step):
    """The Stop button, pressed while this step runs."""
    real = trl_bridge.RunCallback.on_step_begin

    def pressed(self, args, state, control, **options):
        real(self, args, state, control, **options)
        if state.global_step == step - 1:
            self.run.request_stop()

    monkeypatch.setattr(trl_bridge.RunCallback, "on_step_begin", pressed)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_stopped_run_keeps_its_weights_and_resumes_on_the_same_path(
    start, parent, monkeypatch, tiny_model, quantization
):
    options = {"dataset": pairs(), "parent": parent, "max_steps": 5, "quantization": quantization}
    whole = work(start(**options), monkeypatch)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        run = work(start(**options), monkeypatch)
    assert (run.status().state, run.status().step) == ("stopped", 2)
    assert_loadable(run, tiny_model)
    assert "eval_loss" not in run.receipt()["metrics"]
    assert dpo.outcome(run) == "Trained 2 steps; nothing was measured on held-out pairs."
    before = (run.folder / REFERENCE).read_bytes()
    run.requeue()
    with monkeypatch.context() as patch:
        patch.setattr(trl_trainers.PairDPOTrainer, "sequence_logps", None)  # the reference is not computed again
        work(run, monkeypatch)
    assert (run.status().state, run.status().step) == ("finished", 5)
    assert (run.folder / REFERENCE).read_bytes() == before == (whole.folder / REFERENCE).read_bytes()
    assert_same_weights(run, whole)
    for name in ("loss", "rewards/margins", "eval_loss", "eval_rewards/margins"):
        assert values(run, name) == pytest.approx(values(whole, name), abs=1e-5), name


def killed_at(patch, step):
    """The process dies as this step begins."""
    real = trl_bridge.RunCallback.on_step_begin

    def killed(self, args, state, control, **options):
        real(self, args, state, control, **options)
        if state.global_step == step - 1:
            raise RuntimeError("power cut")

    patch.setattr(trl_bridge.RunCallback, "on_step_begin", killed)


@pytest.mark.parametrize(("save_steps", "lost"), [(2, True), (25, False)])  # 25: no checkpoint yet, it begins anew
def test_a_killed_run_goes_on_with_the_same_reference_even_if_its_file_is_lost(
    start, parent, monkeypatch, save_steps, lost
):
    options = {"dataset": pairs(), "parent": parent, "max_steps": 4, "save_steps": save_steps, **PROBED}
    whole = work(start(**options), monkeypatch)
    run = start(**options)
    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(SystemExit):
            work(run, monkeypatch)
    assert (run.status().state, run.status().message) == ("failed", "RuntimeError: power cut")
    assert not run.adapter.exists()
    if lost:
        (run.folder / REFERENCE).unlink()
    run.requeue()
    work(run, monkeypatch)
    assert_same_weights(run, whole)
    assert [(e["kind"], e["step"]) for e in run.metrics()] == [(e["kind"], e["step"]) for e in whole.metrics()]
    assert [s["step"] for s in run.samples()] == [s["step"] for s in whole.samples()]
    for now, then in zip(reference(run), reference(whole), strict=True):
        torch.testing.assert_close(now, then, atol=1e-5, rtol=0)


def test_a_run_that_was_stopped_in_the_reference_pass_can_be_resumed(start, parent, monkeypatch):
    options = {"dataset": pairs(), "parent": parent}
    whole = work(start(**options), monkeypatch)
    with monkeypatch.context() as patch:
        press_stop(patch, "computing the reference", 2)
        run = work(start(**options), monkeypatch)
    assert run.status().state == "stopped"
    run.requeue()
    work(run, monkeypatch)
    assert run.status().state == "finished"
    assert_same_weights(run, whole)


def test_a_diverging_run_fails_with_a_sentence(start, monkeypatch):
    real = trl_trainers.PairDPOTrainer.compute_loss

    def poisoned(trainer, model, *args, **options):
        loss = real(trainer, model, *args, **options)
        return loss * float("nan") if model.training else loss

    monkeypatch.setattr(trl_trainers.PairDPOTrainer, "compute_loss", poisoned)
    run = start()
    with pytest.raises(SystemExit):
        work(run, monkeypatch)
    assert run.status().state == "failed"
    assert run.status().message == (
        "loss is no longer a number at step 1: the run diverged. "
        "Lower the learning rate, or look for damaged rows in the data."
    )
    assert not run.adapter.exists()


def test_the_settings_say_the_loss_in_trls_words():
    assert dpo.loss_arguments(DPOSettings(loss_type="sigmoid", beta=0.3)) == {
        "beta": 0.3, "loss_type": ["sigmoid"], "loss_weights": [1.0], "label_smoothing": 0.0,
    }  # fmt: skip
    both = dpo.loss_arguments(DPOSettings(loss_type="sigmoid+sft", sft_weight=0.5))
    assert (both["loss_type"], both["loss_weights"]) == (["sigmoid", "sft"], [1.0, 0.5])
    assert dpo.loss_arguments(DPOSettings(loss_type="robust", label_smoothing=0.2))["label_smoothing"] == 0.2
    assert DPOSettings().learning_rate == 5e-5
