"""Labels below 1: doubt in the losses of DPO and the reward model, against plain formulas and in real runs."""

import dataclasses
import json
import math

import pytest
import torch
from test_dpo import QUICK, started
from test_losses import base as base
from test_losses import (
    base_sums,
    dpo_trainer,
    loss_of,
    plain_dpo,
    plain_scores,
    plain_sums,
    reward_trainer,
)
from test_losses import pairs as pairs

from playground.data import library
from playground.data.pairs import Pair
from playground.data.rendering import Renderer
from playground.data.tokens import EncodedPair, training_pairs
from playground.stages import dpo, reward, trl_trainers
from playground.stages.inputs import StageError

LABELS = [0.6, 1.0, 0.75, 0.5, 0.9, 0.55, 0.0, 0.3, 0.8, 0.65, 1.0, 0.7, 0.52, 0.99, 0.85]


def softened(rows, labels=LABELS):
    return [dataclasses.replace(row, label=label) for row, label in zip(rows, labels, strict=False)]


def stored(count=40):
    """A stored dataset of pairs with labels, as AI feedback makes it."""
    rows = [
        Pair(i, [{"role": "user", "content": f"What is {i} + {i}?"}], f"It is {2 * i}, I think.", f"No idea about {i}",
             0.5 + 0.5 * ((i * 7) % 11) / 10)
        for i in range(1, count + 1)
    ]  # fmt: skip
    return library.make("judged", "preference", rows, "a test", {"run": "run_000000000000"})


def soft_dpo(settings, model, rows, reference):
    """−p·log σ(d) − (1−p)·log σ(−d), a pair at a time, and the SFT term as it is."""
    hard, _ = plain_dpo(dataclasses.replace(settings, loss_type="sigmoid"), model, rows, reference)
    imitation = plain_dpo(settings, model, rows, reference)[0] - hard
    losses = []
    for row, (policy_c, policy_r), (ref_c, ref_r) in zip(rows, plain_sums(model, rows), reference, strict=True):
        d = settings.beta * ((policy_c - ref_c) - (policy_r - ref_r))
        losses.append(-row.label * torch.sigmoid(d).log() - (1 - row.label) * torch.sigmoid(-d).log())
    return torch.stack(losses).mean() + imitation


@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid+sft"])
def test_the_dpo_loss_with_labels_is_the_plain_cross_entropy_with_its_gradient(base, pairs, loss_type):
    rows, losses, grads = softened(pairs[:6]), [], []
    for ours in (True, False):
        trainer, settings = dpo_trainer(base, [rows, []], loss_type=loss_type, beta=0.3, sft_weight=0.7)
        reference = base_sums(trainer.model, rows)
        trl_trainers.set_reference(trainer, [rows, []], [reference])
        loss = loss_of(trainer, trainer.train_dataset) if ours else soft_dpo(settings, trainer.model, rows, reference)
        loss.backward()
        losses.append(float(loss.detach()))
        grads.append({name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-5)
    certain = plain_dpo(settings, trainer.model, rows, reference)[0]
    assert abs(losses[0] - float(certain.detach())) > 1e-3  # labels do count
    assert any(grad.abs().max() > 0 for grad in grads[1].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=2e-5, rtol=1e-4)


def test_with_labels_the_dpo_metrics_stay_about_the_chosen_side(base, pairs):
    rows, metrics = softened(pairs[:6]), []
    for labelled in (rows, pairs[:6]):
        trainer, _ = dpo_trainer(base, [labelled, []], beta=0.3)
        trl_trainers.set_reference(trainer, [labelled, []], [base_sums(trainer.model, labelled)])
        with torch.no_grad():
            loss_of(trainer, trainer.train_dataset)
        metrics.append({name: list(values) for name, values in trainer._metrics["eval"].items()})
        assert not trainer.model._forward_hooks  # nothing is left behind
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_reward_loss_with_labels_is_the_plain_cross_entropy_with_its_gradient(base, pairs, centring):
    rows, losses, grads = softened(pairs[:6]), [], []
    for ours in (True, False):
        trainer = reward_trainer(base, [rows, []], center_rewards_coefficient=centring)
        if ours:
            loss = loss_of(trainer, trainer.train_dataset)
        else:
            loss = 0.0
            for row, (c, r) in zip(rows, plain_scores(trainer.model, rows), strict=True):
                d = c - r
                loss = loss - row.label * torch.sigmoid(d).log() - (1 - row.label) * torch.sigmoid(-d).log()
                loss = loss + centring * (c + r) ** 2
            loss = loss / len(rows)
        loss.backward()
        losses.append(float(loss.detach()))
        grads.append({name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-5)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_labels_of_1_leave_the_loss_as_it_was_bit_for_bit(base, pairs, kind, monkeypatch):
    losses, grads = [], []
    for known in (True, False):
        if kind == "dpo":
            trainer, _ = dpo_trainer(base, [pairs[:6], []])
            trl_trainers.set_reference(trainer, [pairs[:6], []], [base_sums(trainer.model, pairs[:6])])
        else:
            trainer = reward_trainer(base, [pairs[:6], []])
        if not known:
            monkeypatch.setattr(trl_trainers, "doubt", None)  # not even called
        loss = loss_of(trainer, trainer.train_dataset)
        loss.backward()
        losses.append(float(loss.detach()))
        grads.append([p.grad for p in trainer.model.parameters() if p.requires_grad])
    assert losses[0] == losses[1]
    for one, other in zip(*grads, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_the_added_term_turns_a_sure_loss_into_the_cross_entropy_at_any_margin():
    d = torch.tensor([-90.0, -3.0, 0.0, 1e-4, 2.0, 80.0], dtype=torch.float64)
    for p in (0.0, 0.3, 0.5, 0.9, 1.0):
        label = torch.full_like(d, p)
        found = -torch.nn.functional.logsigmoid(d).mean() + trl_trainers.doubt(label, d)
        expected = sum(p * math.log1p(math.exp(-x)) + (1 - p) * math.log1p(math.exp(x)) for x in d.tolist()) / len(d)
        assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(trl_trainers.doubt(torch.tensor([0.3, 1.0]), torch.zeros(2))) == 0  # ln 2 at margin 0, whatever p


def test_the_tokens_of_a_pair_keep_its_label(tiny_model):
    rows = stored(12).rows("train")
    found = training_pairs(rows, Renderer(tiny_model), 128)
    assert [row.label for row in found] == [row.label for row in rows]
    assert EncodedPair([1], [2], [3]).label == 1


@pytest.mark.parametrize("stage", [dpo, reward])
def test_a_real_run_on_stored_labels_starts_where_it_must_and_measures_held_out_labels(tiny_model, monkeypatch, stage):
    dataset = stored()
    assert {row.label for split in ("train", "heldout") for row in dataset.rows(split)} > {0.5, 1.0}
    known = stage.Settings.specs()
    monkeypatch.setattr("test_dpo.QUICK", {name: value for name, value in QUICK.items() if name in known})
    options = {"max_steps": 2, "per_device_train_batch_size": 4}
    run = started(tiny_model, monkeypatch, dataset, stage.NAME, **options)
    stage.main(stage.Settings.parse(run.request["settings"]), run)
    assert all(proof["passed"] for proof in run.proofs())
    losses = [event["values"]["loss"] for event in run.metrics() if "loss" in event["values"]]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    if stage is dpo:
        assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
        held = [e["values"]["eval_loss"] for e in run.metrics() if "eval_loss" in e["values"]]
        assert held[0] == math.log(2)
    else:
        proof = next(p for p in run.proofs() if p["name"] == "The loss is −log σ(margin)")
        assert proof["passed"]


@pytest.mark.parametrize("loss_type", ["ipo", "hinge", "robust"])
def test_a_loss_that_is_no_probability_refuses_labels_before_anything_is_loaded(tiny_model, monkeypatch, loss_type):
    run = started(tiny_model, monkeypatch, stored(), loss_type=loss_type)
    with pytest.raises(StageError, match=f"soft labels, which need the sigmoid loss .*{loss_type} takes every label"):
        dpo.main(dpo.Settings.parse(run.request["settings"]), run)
    assert not run.adapter.exists()


def test_certain_labels_are_taken_by_every_loss(pairs):
    for loss_type in ("sigmoid", "ipo", "hinge", "robust", "sigmoid+sft"):
        dpo.check_labels(dpo.Settings(loss_type=loss_type), [pairs, pairs[:2]])


def test_stored_labels_are_on_the_disk_as_trl_users_would_read_them():
    dataset = stored(12)
    lines = (dataset.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line).get("label", 1.0) for line in lines} == {row.label for row in dataset.rows("train")}
