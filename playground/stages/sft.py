"""**Supervised fine-tuning (SFT)** shows the model conversations and makes the assistant's words more likely:

`loss = −mean log p(token | everything before it)`, over the assistant's tokens only.

A base model continues text; it does not answer. SFT is the first layer of alignment: it teaches the *form* of an
answer and a manner of speaking by imitation. It cannot tell a good answer from a better one: that is what preferences
(reward model, PPO, DPO) are for. Only a small LoRA adapter is trained; the model's own weights stay as they are.
"""

from dataclasses import dataclass

from playground.runs.run import Run
from playground.stages import training
from playground.stages.inputs import StageError, base_of, dataset_of, heed_stop

NAME = "sft"
TITLE = "Fine-tune (SFT)"
COLUMNS = "sft"
ANSWERS = True
NEXT = "Ask it something beside its base, in the Chat tab."
METRICS = {
    "loss": "How surprised the model is by the assistant's tokens, in nats a token; lower is better. The held-out line "
    "is what counts: if it rises while the training line falls, the model is memorising.",
    "mean_token_accuracy": "How often the model's first guess is the right next token.",
    "grad_norm": "Size of the update before clipping; a sudden jump means the learning rate is too high.",
    "learning_rate": "The step size that the schedule gives.",
}


@dataclass
class SFTSettings(training.ProbeSettings):
    """Everything a person can choose for an SFT run; names are TRL's and PEFT's."""


Settings = SFTSettings


def main(settings: SFTSettings, run: Run) -> None:
    """One SFT run: data → model → proofs → trainer → train → save."""
    from playground.data.rendering import Renderer
    from playground.data.tokens import training_rows
    from playground.models import loading
    from playground.stages import proofs, trl_bridge, trl_trainers
    from playground.stages.probes import prober, prompts_of

    base, dataset = base_of(run), dataset_of(run)
    renderer = Renderer(base.folder)
    rows = [training_rows(dataset.rows(split), renderer, settings.max_length) for split in ("train", "heldout")]
    left_out = dataset.train - len(rows[0])
    if not rows[0]:
        raise StageError(f"No row has an answer left within {settings.max_length} tokens; raise the longest row.")
    rows[1].sort(key=lambda row: len(row.ids))
    print(
        f"{len(rows[0])} rows, {len(rows[1])} held out; {left_out} left out: nothing to learn, or the template refuses"
    )
    run.write_proofs([])
    proofs.prove(run, proofs.same_model(run, renderer), proofs.ends_learned(rows[0], renderer))
    where, model = training.open_model(settings, run, base)
    proofs.prove(run, proofs.only_adapters(model))
    arguments = trl_bridge.arguments(settings, where, run, bool(rows[1]))
    trainer = trl_trainers.sft_trainer(model, loading.load_tokenizer(base), arguments, rows)
    heed_stop(run)

    probe = prober(renderer, prompts_of(settings.probe_prompts), settings.probe_tokens, run)
    metrics = trl_bridge.train(trainer, run, trl_bridge.RunCallback(run, METRICS, probe, settings.probe_steps))
    run.update(phase="saving")
    loading.save_adapter(model, base, renderer.template, run.adapter)
    receipt = {"metrics": metrics, "placement": str(where), "trainable_parameters": training.trainable(model)}
    run.write_receipt({**receipt, "rows_left_out": left_out})
    if not run.stop_requested():
        trl_bridge.drop_checkpoints(run)


def outcome(run: Run) -> str:
    """How the run ended, in one sentence for the page."""
    held = [event["values"]["eval_loss"] for event in run.metrics() if event["values"].get("eval_loss") is not None]
    steps = run.receipt().get("metrics", {}).get("step", 0)
    if len(held) == 1:
        return f"Trained {steps} steps; the held-out loss was not measured at the end."
    if not held:
        return f"Trained {steps} steps; nothing was held out, so there is no independent loss."
    return f"Held-out loss {held[0]:.2f} → {held[-1]:.2f} ({held[-1] / held[0] - 1:+.0%}) after {steps} steps."
