"""Reward models for real, on a 2-layer model: what is trained, what the folder holds, what the scores are worth."""

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
from playground.models.scoring import read_head, score_rows
from playground.runs import run as runs
from playground.stages import judgement, launch, reward, sft, training, trl_bridge, trl_trainers
from playground.stages.inputs import StageError
from playground.stages.judgement import judge, rank, read_scores
from playground.stages.reward import RewardSettings
from playground.statistics import wilson

QUICK = {"max_steps": 3, "per_device_train_batch_size": 4, "max_length": 128, "learning_rate": 1e-2, "lora_r": 4}
WEIGHTS = "adapter_model.safetensors"


def pairs(count=120):
    """Short pairs; a tenth of them is held out, which is two batches."""
    raw = [
        {"prompt": f"What is {i} + {i}?", "chosen": f"It is {2 * i}, I think.", "rejected": f"No idea about {i}"}
        for i in range(count)
    ]
    return library.store(examine([RawRow(i, row, None) for i, row in enumerate(raw)]), "likes", "a test")


def started(tiny_model, patch, dataset=None, stage="reward", parent=None, **values):
    """A run of the tiny model that waits for a worker which never comes."""
    patch.setattr(launch.queue, "start_worker", lambda: None)
    base = catalog.prepare(str(tiny_model))
    return launch.launch(stage, base, dataset or pairs(), {**QUICK, **values}, parent=parent)


@pytest.fixture
def start(tiny_model, monkeypatch):
    return lambda **options: started(tiny_model, monkeypatch, **options)


def train(run):
    reward.main(RewardSettings.parse(run.request["settings"]), run)
    return run


def work(run, patch):
    """What the worker's child does with the run, in this process."""
    patch.setattr(worker.os, "nice", lambda by: 0)
    patch.setattr(worker.signal, "signal", lambda *_: None)
    run.update(state="running", pid=os.getpid(), pid_started=psutil.Process().create_time())
    worker.work(run)
    return run


@pytest.fixture(scope="module", params=["none", "nf4"])
def finished(request, tiny_model, tmp_path_factory):
    """A finished run to look at, and what was seen of its model."""
    seen = {"quantization": request.param, "files": weights_hash(tiny_model)}
    real = trl_trainers.PairRewardTrainer.train

    def spy(trainer, *args, **options):
        model = trainer.model
        seen["dtypes"] = {p.dtype for p in model.parameters() if p.requires_grad}
        frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        result = real(trainer, *args, **options)
        after = dict(model.named_parameters())
        seen["same"] = all(torch.equal(after[n], p) for n, p in frozen.items())
        seen["changed"] = {n for n, p in before.items() if not torch.equal(after[n], p)}
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(tmp_path_factory.mktemp("finished")))
        patch.setattr(trl_trainers.PairRewardTrainer, "train", spy)
        seen["dataset"] = pairs()
        seen["run"] = work(started(tiny_model, patch, seen["dataset"], quantization=request.param), patch)
    return seen


@pytest.fixture(scope="module")
def sft_run(tiny_model, tmp_path_factory):
    """A finished fine-tuning of the tiny model."""
    rows = [RawRow(i, {"prompt": f"Say {i}.", "completion": f"{i}, of course."}, None) for i in range(20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(tmp_path_factory.mktemp("parent")))
        dataset = library.store(examine(rows), "sums", "a test")
        run = started(tiny_model, patch, dataset, "sft", probe_tokens=8, lora_alpha=8)
        sft.main(sft.Settings.parse(run.request["settings"]), run)
        run.update(state="finished")
    return run


@pytest.fixture
def parent(sft_run):
    """The same in this test's home."""
    shutil.copytree(sft_run.folder, runs.runs_root() / sft_run.id)
    return runs.Run(sft_run.id)


def values(run, name="loss"):
    return [event["values"][name] for event in run.metrics() if name in event["values"]]


def weights_hash(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def encoded(tiny_model, dataset, split="heldout"):
    """The pairs in the order in which the stage takes them."""
    rows = training_pairs(dataset.rows(split), Renderer(tiny_model), QUICK["max_length"])
    return sorted(rows, key=len) if split == "heldout" else rows


def opened(tiny_model, run, quantization="none"):
    """(the saved adapter on a causal base, its head), as the explorer opens it."""
    base = loading.load_base(catalog.prepare(str(tiny_model)), loading.placement(quantization))
    return open_adapters(base, "judge", run.adapter).model, read_head(run.adapter)


def assert_same_weights(one, other, tolerance=1e-6):
    first, second = load_file(one.adapter / WEIGHTS), load_file(other.adapter / WEIGHTS)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=tolerance, rtol=1e-5)


# --- a finished run


def test_a_run_changes_adapter_and_head_and_not_one_bit_of_the_base(finished, tiny_model):
    assert finished["dtypes"] == {torch.float32}
    assert finished["same"]
    assert any("lora_B" in name for name in finished["changed"])
    assert any(".score." in name for name in finished["changed"])
    assert all("lora_" in name or ".score." in name for name in finished["changed"])
    assert weights_hash(tiny_model) == finished["files"]
    saved = load_file(finished["run"].adapter / WEIGHTS)
    assert [name for name in saved if "lora_" not in name] == ["base_model.model.score.weight"]
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_a_run_leaves_a_complete_folder(finished):
    run = finished["run"]
    assert run.status().state == "finished"
    assert all(math.isfinite(value) for name in ("loss", "eval_loss", "grad_norm") for value in values(run, name))
    assert (len(values(run)), len(values(run, "eval_loss"))) == (
        3,
        2,
    )  # held out: before the first step, after the last
    assert run.samples() == []
    assert {proof["name"] for proof in run.proofs()} == {
        "The base is the one that was asked for",
        "The end token is inside the labels",
        "Both sides differ",
        "Only the adapter is trained",
        "The loss is −log σ(margin)",
    }
    assert all(proof["passed"] for proof in run.proofs())
    assert {path.name for path in run.adapter.iterdir()} >= {
        WEIGHTS, "adapter_config.json", "scores.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert not (run.folder / "checkpoints").exists()


def test_the_receipt_has_trls_names_and_what_was_measured_last(finished):
    run, receipt = finished["run"], finished["run"].receipt()
    metrics = receipt["metrics"]
    assert set(metrics) >= {
        "loss", "accuracy", "margin", "mean_reward", "grad_norm", "learning_rate", "step", "train_seconds",
        "peak_rss_mb", "eval_loss", "eval_accuracy", "eval_accuracy_low", "eval_accuracy_high", "eval_n", "eval_margin",
        "eval_mean_reward", "eval_ece", "eval_temperature", "eval_length_correlation", "eval_longer_is_chosen",
        "score_mean", "score_std",
    }  # fmt: skip
    for name in ("eval_loss", "eval_accuracy", "eval_margin"):
        assert metrics[name] == pytest.approx(values(run, name)[-1], abs=1e-5)
    assert (metrics["step"], metrics["eval_n"]) == (3, 12)
    assert metrics["eval_accuracy_low"] <= metrics["eval_accuracy"] <= metrics["eval_accuracy_high"]
    assert ("NF4" in receipt["placement"]) == (finished["quantization"] == "nf4")
    assert (receipt["rows_left_out"], receipt["trainable_parameters"] > 64) == (0, True)
    assert reward.outcome(run).startswith("On held-out pairs it prefers the chosen answer in ")
    assert "n = 12" in reward.outcome(run)


def test_the_scores_beside_the_weights_are_those_of_the_saved_adapter(finished, tiny_model):
    run, known = finished["run"], read_scores(finished["run"])
    model, head = opened(tiny_model, run, finished["quantization"])
    held = encoded(tiny_model, finished["dataset"])
    chosen, rejected = (
        [scores[-1] for scores in score_rows(model, head, [row.prompt + getattr(row, side) for row in held])]
        for side in ("chosen", "rejected")
    )
    assert known["margins"] == pytest.approx([c - r for c, r in zip(chosen, rejected, strict=True)], abs=1e-4)
    assert sum(bar["n"] for bar in known["reliability"]) == 12
    assert known["metrics"]["eval_accuracy"] == sum(margin > 0 for margin in known["margins"]) / 12

    settings = RewardSettings.parse(run.request["settings"])
    reached = training.pair_rows(finished["dataset"], settings, Renderer(tiny_model))[0][0]  # three steps of four
    rows = [row.prompt + side for row in reached for side in (row.chosen, row.rejected)]
    scores = torch.tensor(sorted(after[-1] for after in score_rows(model, head, rows)))
    assert len(scores) == 24
    assert known["training"] == pytest.approx(scores.tolist(), abs=1e-4)
    assert known["mean"] == pytest.approx(float(scores.mean()), abs=1e-4)
    assert known["std"] == pytest.approx(float(scores.std(correction=0)), abs=1e-4)
    assert run.receipt()["metrics"]["score_mean"] == known["mean"]
    assert (rank(known["training"][0] - 1, known), rank(known["training"][-1] + 1, known)) == (0, 1)


def test_the_saved_adapter_loads_the_standard_way_with_the_same_score(finished, tiny_model):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    config = json.loads((finished["run"].adapter / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and "score" in config["modules_to_save"]
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype=torch.float32)
    standard = PeftModel.from_pretrained(plain, str(finished["run"].adapter)).eval()
    model, head = opened(tiny_model, finished["run"])
    for row in encoded(tiny_model, finished["dataset"])[:5]:
        ids = row.prompt + row.chosen
        with torch.no_grad():
            expected = float(standard(input_ids=torch.tensor([ids])).logits[0, 0])
        assert score_rows(model, head, [ids])[0][-1] == pytest.approx(expected, abs=1e-4)


# --- other starts, other rows


def test_a_run_learns_and_says_so(start):
    run = train(start(max_steps=15))
    metrics = run.receipt()["metrics"]
    assert values(run, "eval_loss")[-1] < 0.5 * values(run, "eval_loss")[0]
    assert (metrics["eval_accuracy"], values(run, "accuracy")[-1]) == (1.0, 1.0)
    assert "in 100% (76% to 100%, n = 12)" in reward.outcome(run)


def test_a_reward_model_starts_from_an_sft_run_with_its_rank_and_a_head_of_its_own(start, parent, tiny_model):
    run = train(start(parent=parent, lora_r=16, learning_rate=1e-7, max_steps=1))
    own, before = load_file(run.adapter / WEIGHTS), load_file(parent.adapter / WEIGHTS)
    assert own.keys() - before.keys() == {"base_model.model.score.weight"}
    for name, tensor in before.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-6, rtol=0)  # one step of 1e-7 each
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "SEQ_CLS")
    assert run.proofs()[0]["words"] == f"As in {parent.name}."
    assert all(proof["passed"] for proof in run.proofs())


def test_the_head_starts_small_and_the_seed_decides_it(tiny_model):
    base, where = catalog.prepare(str(tiny_model)), loading.placement("none")
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(loading.load_base(base, where, scorer=True).score.weight.detach().clone())
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert float(heads[0].std()) == pytest.approx(65**-0.5, rel=0.3)
    assert heads[0].dtype == torch.float32


def test_two_small_batches_make_the_same_step_and_the_same_curves_as_one_large_one(start):
    one = train(start(per_device_train_batch_size=8, max_steps=2))
    two = train(start(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=2))
    for name in ("loss", "accuracy", "margin", "mean_reward", "eval_loss"):
        assert values(one, name) == pytest.approx(values(two, name), abs=1e-5), name
    assert_same_weights(one, two, 2e-5)  # sums in another order, through Adam's division


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(start):
    dataset = pairs()
    first, second, third = (train(start(dataset=dataset, seed=seed, max_steps=2)) for seed in (7, 7, 8))
    assert_same_weights(first, second)
    assert values(first) != pytest.approx(values(third), abs=1e-4)


def test_the_halves_share_no_prompt_and_together_are_everything(tiny_model):
    raw = [
        {"prompt": f"What is {i // 2} + {i // 2}?", "chosen": f"Yes {i}", "rejected": f"No {i}"} for i in range(80)
    ]  # every prompt twice
    dataset = library.store(examine([RawRow(i, row, None) for i, row in enumerate(raw)]), "twice", "a test")
    renderer, found = Renderer(tiny_model), {}
    for half in ("all", "first", "second"):
        (train_rows, _), left_out = training.pair_rows(dataset, RewardSettings(half=half), renderer)
        found[half] = train_rows
        assert left_out == 0
    prompts = {half: {tuple(row.prompt) for row in rows} for half, rows in found.items()}
    assert not prompts["first"] & prompts["second"]
    assert prompts["first"] | prompts["second"] == prompts["all"]
    assert abs(len(prompts["first"]) - len(prompts["second"])) <= 1
    assert len(found["first"]) + len(found["second"]) == len(found["all"]) == dataset.train


def test_a_run_on_a_half_trains_on_that_half_alone(start, monkeypatch):
    seen = {}
    real = trl_trainers.whole_pairs
    monkeypatch.setattr(trl_trainers, "whole_pairs", lambda rows: real(seen.setdefault(len(seen), rows)))
    dataset = pairs()
    for half in ("first", "second"):
        train(start(dataset=dataset, half=half, max_steps=0, num_train_epochs=0.1))
    first, held, second, again = ({tuple(row.prompt) for row in rows} for rows in seen.values())
    assert not first & second
    assert len(first | second) == dataset.train
    assert held == again and len(held) == dataset.heldout  # held out is held out for both


def test_pairs_that_are_too_long_are_left_out_whole_and_counted(tiny_model, start):
    raw = [
        {"prompt": f"What is {i}?", "chosen": "Long " * (40 if i % 2 else 1), "rejected": f"No {i}"} for i in range(40)
    ]
    dataset = library.store(examine([RawRow(i, row, None) for i, row in enumerate(raw)]), "long", "a test")
    run = train(start(dataset=dataset, max_steps=1))
    short = training_pairs(dataset.rows("train"), Renderer(tiny_model), QUICK["max_length"])
    assert run.receipt()["rows_left_out"] == dataset.train - len(short) > 0
    assert run.receipt()["metrics"]["eval_n"] == len(encoded(tiny_model, dataset))
    with pytest.raises(StageError, match="No pair has both sides within 16 tokens; raise the longest pair"):
        training.pair_rows(dataset, RewardSettings(max_length=16), Renderer(tiny_model))


def test_of_many_training_answers_a_sample_is_scored(start, monkeypatch):
    monkeypatch.setattr(reward, "SAMPLE", 5)
    run = train(start(max_steps=2))
    assert len(read_scores(run)["training"]) == 10


def test_without_held_out_rows_a_run_trains_and_claims_nothing(start):
    run = train(start(dataset=pairs(8), max_steps=2))
    assert values(run, "eval_loss") == []
    assert not [name for name in run.receipt()["metrics"] if name.startswith("eval_")]
    assert reward.outcome(run) == "Trained 2 steps; its accuracy was not measured on held-out pairs."
    assert set(read_scores(run)) == {"mean", "std", "training"}


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
    model, head = opened(tiny_model, run)
    assert all(math.isfinite(score) for score in score_rows(model, head, [[1, 2, 3]])[0])


@pytest.mark.parametrize(
    "phase", ["preparing the model", "reading the data", "loading the model", "training", "measuring the held-out rows"]
)
def test_a_stop_before_the_first_step_leaves_nothing(start, monkeypatch, phase):
    press_stop(monkeypatch, phase)
    run = work(start(), monkeypatch)
    assert run.status().state == "stopped"
    assert run.status().message == "Stopped before the first step; nothing was saved."
    assert not run.adapter.exists()
    assert values(run) == []


@pytest.mark.parametrize(("eval_steps", "time"), [(0, 3), (0, 4), (3, 3)])  # 3 steps: as a part of training itself
def test_a_stop_in_the_last_measurement_keeps_the_trained_weights(start, monkeypatch, tiny_model, eval_steps, time):
    press_stop(monkeypatch, "measuring the held-out rows", time)  # two batches at the start, two at the end
    run = work(start(eval_steps=eval_steps), monkeypatch)
    assert (run.status().state, run.status().step) == ("finished", 3)
    assert_loadable(run, tiny_model)
    assert ("eval_accuracy" in run.receipt()["metrics"]) == (time == 4)  # else half a measurement
    assert read_scores(run) == {}


@pytest.mark.parametrize("phase", ["saving", "scoring a sample"])
def test_a_stop_while_saving_or_scoring_keeps_weights_and_measurement(start, monkeypatch, tiny_model, phase):
    press_stop(monkeypatch, phase)
    run = work(start(), monkeypatch)
    assert run.status().state == "finished"
    assert_loadable(run, tiny_model)
    assert run.receipt()["metrics"]["eval_n"] == 12
    assert "score_mean" not in run.receipt()["metrics"]
    assert read_scores(run) == {}
    assert rank(0.0, read_scores(run)) is None


def stop_after(monkeypatch, step):
    """The Stop button, pressed while this step runs."""
    real = trl_bridge.RunCallback.on_step_begin

    def pressed(self, args, state, control, **options):
        real(self, args, state, control, **options)
        if state.global_step == step - 1:
            self.run.request_stop()

    monkeypatch.setattr(trl_bridge.RunCallback, "on_step_begin", pressed)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_stopped_run_keeps_its_weights_and_resumes_on_the_same_path(start, monkeypatch, tiny_model, quantization):
    dataset = pairs()
    whole = work(start(dataset=dataset, max_steps=5, quantization=quantization), monkeypatch)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        run = work(start(dataset=dataset, max_steps=5, quantization=quantization), monkeypatch)
    assert (run.status().state, run.status().step) == ("stopped", 2)
    assert_loadable(run, tiny_model)
    assert "eval_accuracy" not in run.receipt()["metrics"]
    assert reward.outcome(run) == "Trained 2 steps; its accuracy was not measured on held-out pairs."
    run.requeue()
    work(run, monkeypatch)
    assert (run.status().state, run.status().step) == ("finished", 5)
    assert_same_weights(run, whole)  # the head's are among them
    for name in ("loss", "accuracy", "margin", "eval_loss"):
        assert values(run, name) == pytest.approx(values(whole, name), abs=1e-5), name
    assert read_scores(run)["mean"] == pytest.approx(read_scores(whole)["mean"], abs=1e-5)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(start, monkeypatch):
    dataset = pairs()
    whole = work(start(dataset=dataset), monkeypatch)
    with monkeypatch.context() as patch:
        real = trl_bridge.RunCallback.on_step_begin

        def killed(self, args, state, control, **options):
            real(self, args, state, control, **options)
            if state.global_step == 2:
                raise RuntimeError("power cut")

        patch.setattr(trl_bridge.RunCallback, "on_step_begin", killed)
        run = start(dataset=dataset)
        with pytest.raises(SystemExit):
            work(run, monkeypatch)
    assert (run.status().state, run.status().message) == ("failed", "RuntimeError: power cut")
    run.requeue()
    work(run, monkeypatch)
    assert_same_weights(run, whole)
    assert [e["step"] for e in run.metrics()] == [e["step"] for e in whole.metrics()]  # nothing of the first try


def test_a_diverging_run_fails_with_a_sentence(start, monkeypatch):
    real = trl_trainers.PairRewardTrainer.compute_loss

    def poisoned(trainer, model, *args, **options):
        loss = real(trainer, model, *args, **options)
        return loss * float("nan") if model.training else loss

    monkeypatch.setattr(trl_trainers.PairRewardTrainer, "compute_loss", poisoned)
    run = start()
    with pytest.raises(SystemExit):
        work(run, monkeypatch)
    assert run.status().state == "failed"
    assert run.status().message == (
        "loss is no longer a number at step 1: the run diverged. "
        "Lower the learning rate, or look for damaged rows in the data."
    )
    assert not run.adapter.exists()


# --- judging


def test_a_judgement_counts_ties_half_and_looks_at_length():
    scores = [(2.0, 1.0), (0.0, 1.0), (1.0, 1.0), (3.0, 0.0)]
    lengths = [(10, 5), (4, 4), (6, 8), (12, 2)]
    found = judge(scores, lengths)
    metrics = found["metrics"]
    assert metrics["eval_accuracy"] == 2.5 / 4
    assert (metrics["eval_accuracy_low"], metrics["eval_accuracy_high"]) == wilson(2.5, 4)[1:3]
    assert (metrics["eval_n"], metrics["eval_margin"]) == (4, 0.75)
    assert metrics["eval_longer_is_chosen"] == 2.5 / 4
    flat = torch.tensor([[2.0, 1, 0, 1, 1, 1, 3, 0], [10.0, 5, 4, 4, 6, 8, 12, 2]])
    assert metrics["eval_length_correlation"] == pytest.approx(float(torch.corrcoef(flat)[0, 1]), abs=1e-6)
    assert found["margins"] == [1.0, -1.0, 0.0, 3.0]
    assert sum(bar["n"] for bar in found["reliability"]) == 4
    assert 0 <= metrics["eval_ece"] <= 1 and 0.05 <= metrics["eval_temperature"] <= 20
    json.dumps(found)


def test_a_judge_that_only_counts_words_is_found_out():
    lengths = [(5 + i, 3) for i in range(20)]
    found = judge([(float(c), float(r)) for c, r in lengths], lengths)
    assert found["metrics"]["eval_length_correlation"] == pytest.approx(1)
    assert found["metrics"]["eval_longer_is_chosen"] == 1


def test_a_rank_is_the_share_of_training_answers_that_score_lower():
    assert rank(2.5, {"training": [1.0, 2.0, 3.0, 4.0]}) == 0.5
    assert rank(2.0, {"training": [1.0, 2.0, 3.0, 4.0]}) == 0.375
    assert rank(2.0, {}) is None
    assert judgement.FILE == "scores.json"
