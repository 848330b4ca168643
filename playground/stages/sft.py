"""**Supervised fine-tuning (SFT)** shows the model conversations and makes the assistant's words more likely:

`loss = −mean log p(token | everything before it)`, over the assistant's tokens only.

A base model continues text; it does not answer. SFT is the first layer of alignment: it teaches the *form* of an
answer and a manner of speaking by imitation. It cannot tell a good answer from a better one: that is what preferences
(reward model, PPO, DPO) are for. Only a small LoRA adapter is trained; the model's own weights stay as they are.
"""

from dataclasses import dataclass

from playground import settings as plain
from playground.runs.run import Run
from playground.settings import setting
from playground.stages.inputs import StageError, base_of, dataset_of, heed_stop

NAME = "sft"
TITLE = "Fine-tune (SFT)"
COLUMNS = "sft"
METRICS = {
    "loss": "How surprised the model is by the assistant's tokens, in nats a token; lower is better. The held-out line "
    "is what counts: if it rises while the training line falls, the model is memorising.",
    "mean_token_accuracy": "How often the model's first guess is the right next token.",
    "grad_norm": "Size of the update before clipping; a sudden jump means the learning rate is too high.",
    "learning_rate": "The step size that the schedule gives.",
}

DEFAULT_PROBES = "Why is the sky blue?\nHow do I boil an egg?\nWhat is the capital of Italy?"


@dataclass
class SFTSettings(plain.Settings):
    """Everything a person can choose for an SFT run; names are TRL's and PEFT's."""

    num_train_epochs: float = setting(
        1.0, "Epochs", "How many times training goes through the data.", low=0.1, high=20, step=0.1
    )
    max_steps: int = setting(
        0,
        "Steps at most",
        "Ends after this many steps whatever the epochs say; 0 leaves it to the epochs.",
        low=0,
        high=100_000,
    )
    learning_rate: float = setting(
        2e-4, "Learning rate", "Step size; for LoRA about ten times what full fine-tuning takes.", low=1e-7, high=1e-2
    )
    per_device_train_batch_size: int = setting(
        8, "Batch size", "Rows a step; more is smoother and slower.", low=1, high=64, step=1
    )
    lora_r: int = setting(
        16, "LoRA rank r", "Size of the trained adapter; more can hold more.", low=1, high=256, step=1
    )
    quantization: str = setting(
        "auto",
        "Base weights",
        "nf4 holds the frozen base in 4 bits (QLoRA); none keeps it whole. auto: nf4 on a GPU, whole on a CPU, "
        "where 4 bits save memory but cost time.",
        choices=("auto", "nf4", "none"),
    )
    max_length: int = setting(
        512, "Longest row", "Tokens a row; longer rows lose their end.", low=16, high=8192, step=16
    )
    lora_alpha: int = setting(
        32,
        "LoRA alpha",
        "Strength of the adapter: its output is scaled by alpha / r.",
        low=1,
        high=512,
        step=1,
        advanced=True,
    )
    lora_dropout: float = setting(
        0.0,
        "LoRA dropout",
        "Share of the adapter's inputs dropped while training.",
        low=0.0,
        high=0.5,
        step=0.01,
        advanced=True,
    )
    lora_targets: str = setting(
        "all-linear", "LoRA targets", "all-linear, attention, or layer names with commas between.", advanced=True
    )
    gradient_accumulation_steps: int = setting(
        1, "Accumulation", "Batches summed before each update.", low=1, high=64, step=1, advanced=True
    )
    lr_scheduler_type: str = setting(
        "linear",
        "Schedule",
        "How the learning rate falls towards the end.",
        choices=("linear", "cosine", "constant"),
        advanced=True,
    )
    warmup_steps: int = setting(
        0, "Warm-up steps", "Steps in which the learning rate rises from zero.", low=0, high=10_000, advanced=True
    )
    weight_decay: float = setting(
        0.0, "Weight decay", "Pull of the adapter towards zero.", low=0.0, high=1.0, step=0.01, advanced=True
    )
    max_grad_norm: float = setting(
        1.0, "Gradient clipping", "Larger updates are scaled down to this norm.", low=0.01, high=100, advanced=True
    )
    eval_steps: int = setting(
        0,
        "Held-out every",
        "Steps between held-out measurements; 0: at the start and the end only.",
        low=0,
        high=10_000,
        advanced=True,
    )
    probe_steps: int = setting(
        10,
        "Probes every",
        "Steps between answers to the probe prompts; 0: at the start and the end only.",
        low=0,
        high=10_000,
        advanced=True,
    )
    probe_prompts: str = setting(
        DEFAULT_PROBES,
        "Probe prompts",
        "Questions asked while training, one a line, five at most; watch the answers change.",
        advanced=True,
    )
    probe_tokens: int = setting(
        48, "Probe length", "Tokens a probe answer may have.", low=8, high=256, step=1, advanced=True
    )
    save_steps: int = setting(
        25,
        "Checkpoint every",
        "Steps between checkpoints that an interrupted run can resume from.",
        low=1,
        high=10_000,
        advanced=True,
    )
    seed: int = setting(
        0, "Seed", "The same seed and settings give the same run.", low=0, high=2**31 - 1, advanced=True
    )


Settings = SFTSettings


def main(settings: SFTSettings, run: Run) -> None:
    """One SFT run: data → model → trainer → train → save."""
    from transformers import set_seed

    from playground.data.rendering import Renderer
    from playground.data.report import training_rows
    from playground.models import loading
    from playground.stages import trl_bridge
    from playground.stages.probes import prober

    base, dataset = base_of(run), dataset_of(run)
    renderer = Renderer(base.folder)
    rows = [training_rows(dataset.rows(split), renderer, settings.max_length) for split in ("train", "heldout")]
    left_out = dataset.train - len(rows[0])
    if not rows[0]:
        raise StageError(f"No row has an answer left within {settings.max_length} tokens; raise the longest row.")

    heed_stop(run)
    run.update(phase="loading the model")
    set_seed(settings.seed)
    where = loading.placement(settings.quantization)
    lora = (settings.lora_r, settings.lora_alpha, settings.lora_dropout, settings.lora_targets)
    model = loading.attach_lora(loading.load_base(base, where), *lora)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{base.title} on {where}: {trainable:,} trainable parameters, {len(rows[0])} rows, {len(rows[1])} held out")
    print(f"{left_out} rows left out: nothing to learn within {settings.max_length} tokens, or refused by the template")

    prompts = [line.strip() for line in settings.probe_prompts.splitlines() if line.strip()][:5]
    heed_stop(run)
    probe = prober(renderer, prompts, settings.probe_tokens, run)
    metrics = trl_bridge.train_sft(model, loading.load_tokenizer(base), settings, where, run, rows, probe)

    run.update(phase="saving")
    loading.save_adapter(model, base, renderer.template, run.adapter)
    run.write_receipt(
        {"metrics": metrics, "placement": str(where), "trainable_parameters": trainable, "rows_left_out": left_out}
    )
    if not run.stop_requested():
        trl_bridge.drop_checkpoints(run)
