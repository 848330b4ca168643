"""**A reward model** reads a question and an answer and gives a number. It learns from pairs of answers of which people
preferred one:

`loss = −mean log σ(score(chosen) − score(rejected))`

SFT imitates; it never hears that an answer is bad. Preferences say that, and a model of them can score answers nobody
has judged yet: PPO needs it to learn from, and you need it to compare. It is the same base with a LoRA adapter and a
score head, read at the token that ends the answer. A score means nothing alone, only beside another answer's to the
same question.
"""

import random
from dataclasses import dataclass
from typing import Any

from playground.runs.run import Run
from playground.settings import setting
from playground.stages import training
from playground.stages.inputs import base_of, dataset_of

NAME = "reward"
TITLE = "Reward model"
COLUMNS = "preference"
ANSWERS = False
NEXT = "Type answers and see what it says of them, in the Score tab."
METRICS = {
    "loss": "How surprised the model is by the choices, in nats a pair; ln 2 = 0.693 is guessing, lower is better.",
    "accuracy": "Share of pairs whose chosen answer scores higher. The held-out line counts; 0.5 is guessing.",
    "margin": "How much higher the chosen answer scores, on average; it grows as the model grows surer of itself.",
    "mean_reward": "Mean score of all answers; only differences are learned, so it may drift: centring holds it.",
    "grad_norm": "Size of the update before clipping; a sudden jump means the learning rate is too high.",
    "learning_rate": "The step size that the schedule gives.",
}
SAMPLE = 100  # training pairs that are scored at the end, for percentiles and for PPO's normalisation


@dataclass
class RewardSettings(training.PairSettings):
    """Everything a person can choose for a reward model; names are TRL's and PEFT's."""

    center_rewards_coefficient: float = setting(
        0.01,
        "Centring",
        "Pull of the mean score towards 0 (Eisenstein et al. 2023); 0 leaves it free.",
        low=0.0,
        high=1.0,
        advanced=True,
    )


Settings = RewardSettings


def main(settings: RewardSettings, run: Run) -> None:
    """One reward run: data → model → proofs → trainer → train → save → look at what its scores are worth."""
    from playground.data.rendering import Renderer
    from playground.models import loading
    from playground.stages import proofs, trl_bridge, trl_trainers
    from playground.stages.judgement import judge, write_scores

    base, dataset = base_of(run), dataset_of(run)
    renderer = Renderer(base.folder)
    rows, left_out = training.pair_rows(dataset, settings, renderer)
    run.write_proofs([])
    proofs.prove(
        run, proofs.same_model(run, renderer), proofs.ends_learned(rows[0], renderer), proofs.sides_differ(rows[0])
    )
    where, model = training.open_model(settings, run, base, scorer=True)
    arguments = trl_bridge.arguments(settings, where, run, bool(rows[1]))
    arguments["center_rewards_coefficient"] = settings.center_rewards_coefficient or None
    trainer = trl_trainers.reward_trainer(model, loading.load_tokenizer(base), arguments, rows)
    proofs.prove(run, proofs.only_adapters(model), start_proof(trainer, settings, proofs.tolerance(where.device)))

    metrics = trl_bridge.train(trainer, run, trl_bridge.RunCallback(run, METRICS))
    run.update(phase="saving")
    loading.save_adapter(model, base, renderer.template, run.adapter)
    found: dict[str, Any] = {}
    if rows[1] and trl_bridge.just_evaluated(trainer):
        found = judge(trainer.eval_scores, [(len(row.chosen), len(row.rejected)) for row in rows[1]])
        metrics |= found["metrics"]
    sample = random.Random(settings.seed).sample(rows[0], min(SAMPLE, len(rows[0])))
    metrics |= write_scores(model, sample, found, run)
    receipt = {"metrics": metrics, "placement": str(where), "trainable_parameters": training.trainable(model)}
    run.write_receipt({**receipt, "rows_left_out": left_out, "judgement": found})
    if not run.stop_requested():
        trl_bridge.drop_checkpoints(run)


def start_proof(trainer: Any, settings: RewardSettings, tolerance: float) -> Any:
    """The loss of the first pairs is −log σ(margin) of the scores that the explorer would show for the same text."""
    import torch

    from playground.models.scoring import score_rows
    from playground.stages import proofs
    from playground.statistics import bradley_terry

    rows = [trainer.train_dataset[i] for i in range(min(4, len(trainer.train_dataset)))]
    model, head = trainer.model.eval(), trainer.model.get_base_model().score
    with torch.no_grad():
        loss = float(trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator(rows))))
    for seen in (trainer._metrics["eval"], trainer._batch_rows["eval"], trainer.eval_scores):
        seen.clear()
    chosen, rejected = (
        [s[-1] for s in score_rows(model, head, [r[side] for r in rows])] for side in ("chosen_ids", "rejected_ids")
    )
    model.train()
    centre = sum((c + r) ** 2 for c, r in zip(chosen, rejected, strict=True)) / len(rows)
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    expected = bradley_terry(margins)
    expected += sum((1 - row["label"]) * margin for row, margin in zip(rows, margins, strict=True)) / len(rows)
    expected += settings.center_rewards_coefficient * centre
    meaning = "the trainer reads its scores at the end token, as the explorer does."
    return proofs.close("The loss is −log σ(margin)", loss, expected, tolerance * max(1.0, abs(expected)), meaning)


def outcome(run: Run) -> str:
    """How the run ended, in one sentence for the page."""
    from playground.statistics import wilson

    metrics = run.receipt().get("metrics", {})
    if "eval_accuracy" not in metrics or "eval_n" not in metrics:
        return f"Trained {metrics.get('step', 0)} steps; its accuracy was not measured on held-out pairs."
    n = int(metrics["eval_n"])
    rate = wilson(metrics["eval_accuracy"] * n, n)
    return (
        f"On held-out pairs it prefers the chosen answer in {rate}. Calibration error {metrics['eval_ece']:.2f}, "
        f"correlation of score and length {metrics['eval_length_correlation']:+.2f}."
    )
