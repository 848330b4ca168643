"""**Direct preference optimisation (DPO)** learns from the same pairs without a reward model: it makes chosen answers
more likely and rejected ones less, compared with the model it started from (the reference):

`loss = −mean log σ(β · [log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)])`

It follows SFT: continue an SFT run, so that the reference already speaks in the right form. β says how dear it is to
move away from the reference. Nothing is sampled and nothing is scored, which makes DPO cheap and steady; the price is
that it only learns from answers somebody wrote down, never from its own. Where whoever compared the answers was in
doubt, a pair has a label p below 1, and counts with −p·log σ(d) − (1−p)·log σ(−d).
"""

import json
import math
import time
from dataclasses import dataclass
from typing import Any

from playground.home import write_atomically
from playground.runs.run import Run
from playground.settings import setting
from playground.stages import training
from playground.stages.inputs import StageError, base_of, dataset_of, heed_stop

NAME = "dpo"
TITLE = "DPO"
COLUMNS = "preference"
ANSWERS = True
NEXT = "Ask it something beside its parent, in the Chat tab."
METRICS = {
    "loss": "ln 2 = 0.693 at the start with the sigmoid loss, where policy and reference are one; lower is better.",
    "rewards/margins": "β times how much more the policy has moved towards chosen than towards rejected answers.",
    "rewards/accuracies": "Share of pairs in which it moved more towards the chosen answer; undefined at the start.",
    "logps/chosen": "Log-probability of the chosen answers, whole, in nats. It should not fall far.",
    "logps/rejected": "Log-probability of the rejected answers, whole, in nats. It should fall.",
    "grad_norm": "Size of the update before clipping; a sudden jump means the learning rate is too high.",
    "learning_rate": "The step size that the schedule gives.",
}
REFERENCE = "reference.json"


@dataclass
class DPOSettings(training.PairSettings, training.ProbeSettings):
    """Everything a person can choose for a DPO run; names are TRL's and PEFT's."""

    learning_rate: float = setting(
        5e-5, "Learning rate", "Step size; for LoRA about ten times what full fine-tuning takes.", low=1e-7, high=1e-2
    )
    beta: float = setting(
        0.1,
        "β",
        "How strongly the policy is held to the reference: lower lets it move further.",
        low=0.001,
        high=1.0,
    )
    loss_type: str = setting(
        "sigmoid",
        "Loss",
        "sigmoid is DPO; ipo aims at a fixed margin and resists over-fitting; hinge stops at margin 1; robust allows "
        "for wrong labels; sigmoid+sft also imitates the chosen answer.",
        choices=("sigmoid", "ipo", "hinge", "robust", "sigmoid+sft"),
    )
    label_smoothing: float = setting(
        0.1,
        "Wrong labels",
        "Share of pairs whose label is taken to be wrong; used by the robust loss only.",
        low=0.0,
        high=0.49,
        step=0.01,
        advanced=True,
    )
    sft_weight: float = setting(
        1.0, "SFT weight", "Weight of the imitation term in sigmoid+sft.", low=0.0, high=10.0, advanced=True
    )


Settings = DPOSettings


def main(settings: DPOSettings, run: Run) -> None:
    """One DPO run: data → model → reference log-probs → proofs → train → save."""
    from playground.data.rendering import Renderer
    from playground.models import loading
    from playground.stages import proofs, trl_bridge, trl_trainers
    from playground.stages.probes import prober, prompts_of

    base, dataset = base_of(run), dataset_of(run)
    renderer = Renderer(base.folder)
    rows, left_out = training.pair_rows(dataset, settings, renderer)
    check_labels(settings, rows)
    run.write_proofs([])
    proofs.prove(
        run, proofs.same_model(run, renderer), proofs.ends_learned(rows[0], renderer), proofs.sides_differ(rows[0])
    )
    where, model = training.open_model(settings, run, base)
    arguments = {**trl_bridge.arguments(settings, where, run, bool(rows[1])), **loss_arguments(settings)}
    arguments["eval_on_start"] = False  # known without measuring, from the reference pass
    trainer = trl_trainers.dpo_trainer(model, loading.load_tokenizer(base), arguments, rows)
    reference = reference_pass(trainer, run)
    trl_trainers.set_reference(trainer, rows, reference)
    tolerance = proofs.tolerance(where.device) * max(1.0, settings.beta / 0.1)  # the margin is β times a sum
    proofs.prove(run, proofs.only_adapters(model), *start_proofs(trainer, settings, tolerance))
    heed_stop(run)

    probe = prober(renderer, prompts_of(settings.probe_prompts), settings.probe_tokens, run)
    start = start_values(settings, rows[1], reference[1]) if rows[1] else None
    metrics = trl_bridge.train(trainer, run, trl_bridge.RunCallback(run, METRICS, probe, settings.probe_steps), start)
    run.update(phase="saving")
    loading.save_adapter(model, base, renderer.template, run.adapter)
    if "eval_rewards/accuracies" in metrics:
        metrics["eval_n"] = len(rows[1])
    receipt = {"metrics": metrics, "placement": str(where), "trainable_parameters": training.trainable(model)}
    run.write_receipt({**receipt, "rows_left_out": left_out})
    if not run.stop_requested():
        trl_bridge.drop_checkpoints(run)


def check_labels(settings: DPOSettings, rows: list[list[Any]]) -> None:
    """StageError where pairs have labels below 1 and the loss has no meaning for them: only the sigmoid is a
    probability that can be compared with one."""
    soft = sum(row.label < 1 for part in rows for row in part)
    if soft and not settings.loss_type.startswith("sigmoid"):
        raise StageError(
            f"{soft} pairs have soft labels, which need the sigmoid loss (or sigmoid+sft); {settings.loss_type} takes "
            "every label as certain."
        )


def loss_arguments(settings: DPOSettings) -> dict[str, Any]:
    """The loss in DPOConfig's words."""
    types = settings.loss_type.split("+")
    weights = [1.0, settings.sft_weight][: len(types)]
    smoothing = settings.label_smoothing if settings.loss_type == "robust" else 0.0
    return {"beta": settings.beta, "loss_type": types, "loss_weights": weights, "label_smoothing": smoothing}


def reference_pass(trainer: Any, run: Run) -> list[list[tuple[float, float]]]:
    """(chosen, rejected) log-probs of every (train, held-out) pair under the policy as it is before its first update:
    that is the reference. Kept in the run folder, so that a resumed run has the same one."""
    tables = [trainer.train_dataset, trainer.eval_dataset or []]
    saved = run.folder / REFERENCE
    if saved.exists():
        kept = json.loads(saved.read_text(encoding="utf-8"))
        if [len(part) for part in kept] == [len(table) for table in tables]:
            return kept
    trainer.model.eval()
    began, done, total = time.monotonic(), 0, sum(map(len, tables))
    found: list[list[tuple[float, float]]] = []
    for table in tables:
        rows = list(table)
        logps: dict[int, tuple[float, float]] = {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["chosen_ids"]) + len(rows[i]["rejected_ids"]))
        for start in range(0, len(order), 8):
            heed_stop(run)
            eta = (time.monotonic() - began) / done * (total - done) if done else None
            run.update(phase="computing the reference's log-probs", step=done, total=total, eta=eta)
            chunk = order[start : start + 8]
            logps.update(zip(chunk, trainer.sequence_logps([rows[i] for i in chunk]), strict=True))
            done += len(chunk)
        found.append([logps[i] for i in range(len(rows))])
    trainer.model.train()
    write_atomically(saved, json.dumps(found))
    return found


def start_proofs(trainer: Any, settings: DPOSettings, tolerance: float) -> list[Any]:
    """Before the first update policy and reference are one: the margin is 0 and the loss what it is at margin 0."""
    import torch

    from playground.stages import proofs

    rows = [trainer.train_dataset[i] for i in range(min(4, len(trainer.train_dataset)))]
    model = trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator(rows))))
    seen = trainer._metrics["eval"]
    margin = seen["rewards/margins"][-1]
    seen.clear()
    trainer._batch_rows["eval"].clear()
    model.train()
    nll = -sum(row["ref_chosen_logps"] for row in rows) / sum(len(row["chosen_ids"]) for row in rows)
    expected, meaning = start_loss(settings, nll)
    scale = max(1.0, abs(expected))
    return [
        proofs.close("The margin starts at 0", margin, 0.0, tolerance, "the policy is its own reference."),
        proofs.close("The loss starts where it must", loss, expected, tolerance * scale, meaning),
    ]


def start_loss(settings: DPOSettings, nll: float = 0.0) -> tuple[float, str]:
    """(loss at margin 0, what it is called); nll: mean −log p of the chosen answers' tokens under the reference."""
    if settings.loss_type == "hinge":
        return 1.0, "1 for the hinge loss."
    if settings.loss_type == "ipo":
        return 1 / (2 * settings.beta) ** 2, "(1/2β)² for IPO."
    if settings.loss_type == "sigmoid+sft":
        return math.log(2) + settings.sft_weight * nll, "ln 2 plus the SFT term."
    return math.log(2), "ln 2."


def start_values(settings: DPOSettings, rows: list[Any], reference: list[tuple[float, float]]) -> dict[str, float]:
    """What a held-out measurement at step 0 would give, from the reference's log-probs alone."""
    chosen, rejected = (sum(column) for column in zip(*reference, strict=True))
    loss, _ = start_loss(settings, -chosen / sum(len(row.chosen) for row in rows))
    logps = {"eval_logps/chosen": chosen / len(rows), "eval_logps/rejected": rejected / len(rows)}
    return {"eval_loss": loss, "eval_rewards/margins": 0.0, **logps}


def outcome(run: Run) -> str:
    """How the run ended, in one sentence for the page."""
    from playground.statistics import wilson

    metrics = run.receipt().get("metrics", {})
    if "eval_rewards/accuracies" not in metrics or "eval_n" not in metrics:
        return f"Trained {metrics.get('step', 0)} steps; nothing was measured on held-out pairs."
    n = int(metrics["eval_n"])
    rate = wilson(metrics["eval_rewards/accuracies"] * n, n)
    return (
        f"On held-out pairs it moved more towards the chosen answer in {rate}, "
        f"with a margin of {metrics['eval_rewards/margins']:.2f}."
    )
