"""Supervised fine-tuning for real, on a 2-layer model: the right loss, only the adapter changes, stop and resume."""

import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from trl import SFTConfig

from playground.data import library
from playground.data.readers import RawRow
from playground.data.rendering import Renderer
from playground.data.report import examine
from playground.data.shapes import Row
from playground.data.tokens import training_rows
from playground.models import catalog, loading
from playground.runs import run as runs
from playground.stages import launch, logprobs, sft, trl_bridge, trl_trainers
from playground.stages.inputs import StageError, Stopped
from playground.stages.sft import SFTSettings

QUICK = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "max_length": 64,
    "probe_tokens": 8,
    "learning_rate": 1e-2,
    "probe_prompts": "What is 2?",
    "lora_r": 4,
}


@pytest.fixture
def dataset():
    """Forty short exchanges; four of them are held out."""
    raw = [
        RawRow(i, {"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}, I think."}, None) for i in range(40)
    ]
    return library.store(examine(raw), "sums", "a test")


@pytest.fixture
def start(tiny_model, dataset, monkeypatch):
    """Makes a run of the tiny model without waking the worker."""
    monkeypatch.setattr(launch.queue, "start_worker", lambda: None)
    base = catalog.prepare(str(tiny_model))

    def started(**values):
        return launch.launch("sft", base, dataset, {**QUICK, **values})

    return started


def train(run):
    sft.main(SFTSettings.parse(run.request["settings"]), run)
    return run


def losses(run, name="loss"):
    return [event["values"][name] for event in run.metrics() if name in event["values"]]


def weights_hash(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def lora(tiny_model, quantization="none"):
    base = catalog.prepare(str(tiny_model))
    torch.manual_seed(0)
    model = loading.attach_lora(loading.load_base(base, loading.placement(quantization)), 4, 8, 0.0, "all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(1))
    return model


def loss_of(model, inputs):
    return trl_trainers.assistant_loss(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])


def batch(tiny_model):
    """Two rows of different length, padded on the right, as the trainer's collator makes them."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [
        Row(1, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there, you."}]),
        Row(2, [{"role": "user", "content": "Why is that so?"}, {"role": "assistant", "content": "No."}]),
    ]
    encoded = training_rows(rows, Renderer(tiny_model), 64)
    return DataCollatorForLanguageModeling(pad_token_id=0)(
        [{"input_ids": row.ids, "labels": row.labels} for row in encoded]
    )


@pytest.mark.parametrize("head_rows", [1024, 3])
def test_the_loss_equals_a_plain_sum_over_the_learned_tokens(tiny_model, monkeypatch, head_rows):
    monkeypatch.setattr(logprobs, "HEAD_ROWS", head_rows)  # also when the LM head runs in parts
    model, inputs = lora(tiny_model), batch(tiny_model)
    loss, correct, count = loss_of(model, inputs)

    expected, right, targets = 0.0, 0, 0
    for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
        ids = ids[mask.bool()]
        log_probs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if labels[t] != -100:
                expected -= log_probs[t - 1, ids[t]].item()
                right += int(log_probs[t - 1].argmax() == ids[t])
                targets += 1
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert (correct, count) == (right, targets)


@pytest.mark.parametrize("head_rows", [1024, 3])
def test_the_loss_has_the_same_gradient_as_the_models_own_loss(tiny_model, monkeypatch, head_rows):
    monkeypatch.setattr(logprobs, "HEAD_ROWS", head_rows)
    inputs, grads = batch(tiny_model), []
    for ours in (True, False):
        model = lora(tiny_model)
        if ours:
            loss, _, count = loss_of(model, inputs)
            loss = loss / count
        else:
            loss = model(**inputs).loss
        loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-6, rtol=1e-4)


def test_a_batch_without_any_target_gives_a_finite_zero_with_a_gradient(tiny_model):
    inputs = batch(tiny_model)
    inputs["labels"][:] = -100
    loss, _, count = loss_of(lora(tiny_model), inputs)
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_run_changes_the_adapter_and_not_one_bit_of_the_base(start, tiny_model, quantization, monkeypatch):
    seen = {}
    real = trl_trainers.AssistantLossTrainer.train

    def spy(trainer, *args, **kwargs):
        model = trainer.model
        seen["dtypes"] = {p.dtype for p in model.parameters() if p.requires_grad}
        frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        result = real(trainer, *args, **kwargs)
        seen["same"] = all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad)
        seen["trained"] = {n for n, p in model.named_parameters() if p.requires_grad}
        return result

    monkeypatch.setattr(trl_trainers.AssistantLossTrainer, "train", spy)
    before = weights_hash(tiny_model)
    run = train(start(quantization=quantization))
    assert seen["dtypes"] == {torch.float32}
    assert seen["same"]
    assert all("lora_" in name for name in seen["trained"])
    assert weights_hash(tiny_model) == before
    adapter = load_file(run.adapter / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


def test_a_run_leaves_metrics_probe_answers_and_a_receipt(start):
    run = train(start())
    assert len(losses(run)) == 2
    assert len(losses(run, "eval_loss")) == 2  # before the first step and after the last
    assert all(math.isfinite(value) for value in losses(run) + losses(run, "eval_loss"))
    assert [sample["step"] for sample in run.samples()] == [0, 2]
    assert [proof["passed"] for proof in run.proofs()] == [True] * 3
    metrics = run.receipt()["metrics"]
    assert metrics["eval_loss"] == losses(run, "eval_loss")[-1]
    assert metrics["step"] == 2
    assert not (run.folder / "checkpoints").exists()
    assert (run.adapter / "chat_template.jinja").exists()


def test_a_run_continues_another_where_it_ended(start, tiny_model, dataset):
    first = train(start(max_steps=6))
    first.update(state="finished")
    base = catalog.prepare(str(tiny_model))
    second = train(launch.launch("sft", base, dataset, {**QUICK, "lora_r": 16, "max_steps": 1}, parent=first))
    assert losses(second, "eval_loss")[0] == pytest.approx(losses(first, "eval_loss")[-1], abs=1e-5)
    assert (
        load_file(second.adapter / "adapter_model.safetensors").keys()
        == load_file(first.adapter / "adapter_model.safetensors").keys()
    )
    assert second.request["parent"]["weights_sha256"] == weights_hash(first.adapter)["adapter_model.safetensors"]
    assert second.proofs()[0]["words"] == f"As in {first.name}."


def test_held_out_accuracy_weighs_rows_and_not_batches(start, tiny_model):
    settings, model = SFTSettings(), lora(tiny_model).eval()
    known = trl_bridge.arguments(settings, loading.placement("none"), start(), True)
    raw = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "the hello in an, the an hello ou ou."}]
    asked, said = raw
    shorter = [Row(i, [asked, {**said, "content": said["content"][i:]}]) for i in range(11)]
    rows = training_rows(shorter, Renderer(tiny_model), 64)
    trainer = trl_trainers.sft_trainer(
        model, loading.load_tokenizer(catalog.prepare(str(tiny_model))), known, [rows] * 2
    )
    found = trainer.evaluate()
    shares, sums = [], []
    for part in (rows[:8], rows[8:]):  # eight a batch
        right = targets = total = 0
        for row in part:
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
            learned, goal = torch.tensor(row.learned[1:]), torch.tensor(row.ids[1:])
            right += int((logits.argmax(-1) == goal)[learned].sum())
            total -= float(logits.log_softmax(-1)[range(len(goal)), goal][learned].sum().detach())
            targets += int(learned.sum())
        shares.append(right / targets)
        sums.append(total / targets)
    assert shares[0] != shares[1]
    assert found["eval_mean_token_accuracy"] == pytest.approx((8 * shares[0] + 3 * shares[1]) / 11, abs=1e-6)
    assert found["eval_loss"] == pytest.approx((8 * sums[0] + 3 * sums[1]) / 11, abs=1e-5)


def test_the_same_seed_gives_the_same_losses_and_another_seed_does_not(start):
    first, second, third = (losses(train(start(max_steps=3, seed=seed))) for seed in (7, 7, 8))
    assert first == pytest.approx(second, abs=1e-6)
    assert first != pytest.approx(third, abs=1e-4)


def test_two_small_batches_make_the_same_step_as_one_large_one(start):
    one = train(start(per_device_train_batch_size=8, max_steps=2))
    two = train(start(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=2))
    assert losses(one) == pytest.approx(losses(two), abs=1e-5)


def test_a_run_learns(start):
    run = train(start(max_steps=30, learning_rate=1e-2))
    held = losses(run, "eval_loss")
    assert held[-1] < 0.8 * held[0]


def test_a_diverging_run_ends_with_a_sentence(start, monkeypatch):
    def poisoned(model, input_ids, attention_mask, labels):
        loss, correct, count = real(model, input_ids, attention_mask, labels)
        return loss * float("nan"), correct, count

    real = trl_trainers.assistant_loss
    monkeypatch.setattr(trl_trainers, "assistant_loss", poisoned)
    with pytest.raises(StageError, match=r"no longer a number.*Lower the learning rate"):
        train(start())


def stop_after(monkeypatch, step):
    """The Stop button, pressed while this step runs."""
    real = trl_bridge.RunCallback.on_step_begin

    def pressed(self, args, state, control, **kwargs):
        real(self, args, state, control, **kwargs)
        if state.global_step == step - 1:
            self.run.request_stop()

    monkeypatch.setattr(trl_bridge.RunCallback, "on_step_begin", pressed)


def test_a_stopped_run_keeps_its_weights_and_resumes_on_the_same_path(start, monkeypatch):
    whole = train(start(max_steps=6))
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        run = train(start(max_steps=6))
    assert run.status().step == 3
    assert (run.adapter / "adapter_model.safetensors").exists()
    run.update(state="stopped")
    run.requeue()
    train(run)
    assert run.status().step == 6
    assert losses(run) == pytest.approx(losses(whole), abs=1e-6)
    assert losses(run, "eval_loss")[-1] == pytest.approx(losses(whole, "eval_loss")[-1], abs=1e-6)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for name, content in (("checkpoint-2", '{"global_step": 2}'), ("checkpoint-10", '{"global')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(content)
    (tmp_path / "checkpoint-20").mkdir()
    assert trl_bridge.last_checkpoint(tmp_path).name == "checkpoint-2"


def test_a_changed_dataset_or_base_is_refused(start, dataset):
    run = start()
    path = run.folder / "run.json"
    request = json.loads(path.read_text())
    path.write_text(json.dumps({**request, "dataset": {**request["dataset"], "sha256": "0" * 64}}))
    with pytest.raises(StageError, match="dataset sums has changed"):
        train(run)
    path.write_text(json.dumps({**request, "base_identity": "fingerprint:0"}))
    with pytest.raises(StageError, match="has changed on disk"):
        train(run)


def test_rows_that_would_be_cut_to_nothing_are_refused_before_anything_is_queued(start):
    with pytest.raises(ValueError, match="No answer is left within 16 tokens; raise the longest row"):
        start(max_length=16)
    with pytest.raises(ValueError, match="reads at most 512 tokens"):
        start(max_length=1024)
    assert runs.list_runs() == []


def test_a_stop_before_the_first_step_ends_the_run_with_nothing_to_save(start):
    run = start()
    run.request_stop()
    run.update(state="running")
    with pytest.raises(Stopped):
        train(run)
    assert not run.adapter.exists()


@pytest.mark.parametrize("eval_steps", [0, 2])  # 2: the last measurement is part of training itself
def test_a_stop_in_the_last_measurement_keeps_the_trained_weights(start, monkeypatch, eval_steps):
    real, seen = runs.Run.update, []

    def update(run, **changes):
        real(run, **changes)
        seen.append(changes.get("phase"))
        if changes.get("phase") == "answering the probe prompts" and seen.count("answering the probe prompts") == 2:
            run.request_stop()

    monkeypatch.setattr(runs.Run, "update", update)
    run = train(start(eval_steps=eval_steps))
    assert "measuring the held-out rows" in seen
    assert run.receipt()["metrics"]["step"] == 2
    assert "eval_loss" not in run.receipt()["metrics"]
    assert (run.adapter / "adapter_model.safetensors").exists()


def test_a_stopped_run_does_not_claim_the_loss_it_had_before(start, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        run = train(start(max_steps=6))
    assert "eval_loss" not in run.receipt()["metrics"]
    assert run.receipt()["metrics"]["loss"] > 0


def test_a_killed_run_forgets_what_came_after_its_checkpoint(start, monkeypatch):
    whole = train(start(max_steps=6))
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        run = train(start(max_steps=6))
    for step in (4, 5):  # as if it had gone on without a checkpoint and been killed
        run.log("train", step, {"loss": 99.0})
        run.sample(step, "What is 2?", "lost")
    run.update(state="stopped")
    run.requeue()
    train(run)
    assert losses(run) == pytest.approx(losses(whole), abs=1e-6)
    assert "lost" not in [sample["answer"] for sample in run.samples()]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(start, monkeypatch):
    whole = train(start(max_steps=4))
    run = start(max_steps=4)
    with monkeypatch.context() as patch:
        real = trl_bridge.RunCallback.on_step_begin

        def killed(self, args, state, control, **kwargs):
            real(self, args, state, control, **kwargs)
            if state.global_step == 2:
                raise RuntimeError("power cut")

        patch.setattr(trl_bridge.RunCallback, "on_step_begin", killed)
        with pytest.raises(RuntimeError, match="power cut"):
            train(run)
    run.update(state="interrupted")
    run.requeue()
    train(run)
    assert losses(run) == pytest.approx(losses(whole), abs=1e-6)
    assert [sample["step"] for sample in run.samples()] == [0, 4]


def test_arguments_put_trls_cpu_defaults_right(start):
    settings = SFTSettings()
    arguments = SFTConfig(**trl_bridge.arguments(settings, loading.placement("auto"), start(), True))
    assert (arguments.use_cpu, arguments.bf16, arguments.fp16) == (True, False, False)
    assert arguments.logging_nan_inf_filter is False
    assert arguments.report_to in ("none", [])
    assert arguments.eval_on_start
    assert (arguments.gradient_checkpointing, arguments.max_length) == (False, settings.max_length)
    alone = SFTConfig(**trl_bridge.arguments(settings, loading.placement("auto"), start(), False))
    assert (alone.eval_strategy, alone.eval_on_start) == ("no", False)


def test_launch_writes_every_setting_and_refuses_what_is_wrong(start, tiny_model, dataset):
    run = start(lora_r=8)
    request = run.request
    assert set(request["settings"]) == set(SFTSettings.specs())
    assert request["settings"]["lora_r"] == 8
    told = {"id": dataset.id, "name": "sums", "version": 1, "sha256": dataset.sha256, "rows": [36, 4], "origin": None}
    assert request["dataset"] == told
    assert request["versions"]["trl"]
    assert runs.find(run.name) == run
    with pytest.raises(ValueError, match=r"Learning rate must be at most 0\.01, got 2"):
        start(learning_rate=2)
    with pytest.raises(ValueError, match="no setting called 'learningrate'"):
        start(learningrate=1)


def test_batches_hold_rows_of_like_length_in_an_order_that_seed_and_epoch_decide():
    lengths = [(7 * i) % 101 for i in range(203)]
    sampler = trl_trainers.LengthGroups(lengths, 8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(203))
    assert first == list(trl_trainers.LengthGroups(lengths, 8, seed=1))
    sampler.set_epoch(1)
    assert list(sampler) != first
    spread = [
        max(lengths[i] for i in batch) - min(lengths[i] for i in batch)
        for batch in (first[i : i + 8] for i in range(0, 200, 8))
    ]
    assert sum(spread) / len(spread) < 25  # 88 in a random order
    means = [sum(lengths[i] for i in first[j : j + 8]) for j in range(0, 200, 8)]
    assert means != sorted(means) and means != sorted(means, reverse=True)
