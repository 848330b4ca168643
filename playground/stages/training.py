"""What all trained stages share: their common settings, and the model they train on."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from playground import settings as plain
from playground.data import splits
from playground.data.library import Dataset
from playground.data.rendering import Renderer
from playground.data.tokens import EncodedPair, training_pairs
from playground.models import loading
from playground.models.catalog import Base
from playground.runs.run import Run
from playground.settings import setting
from playground.stages.inputs import StageError, heed_stop, parent_of

if TYPE_CHECKING:
    from peft import PeftModel

DEFAULT_PROBES = "Why is the sky blue?\nHow do I boil an egg?\nWhat is the capital of Italy?"


@dataclass
class TrainingSettings(plain.Settings):
    """What a person can choose in every trained stage; names are TRL's and PEFT's."""

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


@dataclass
class ProbeSettings(TrainingSettings):
    """The same for stages whose model writes answers: probe prompts show it changing."""

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


@dataclass
class PairSettings(TrainingSettings):
    """The same for stages that learn from preference pairs."""

    max_length: int = setting(
        512, "Longest pair", "Tokens of its longer side; longer pairs are left out whole.", low=16, high=8192, step=16
    )
    half: str = setting(
        "all",
        "Pairs used",
        "A judge trained on one half has not seen what a model trained on the other half learned from.",
        choices=("all", "first", "second"),
    )


def same(name: str, default: Any = None, **changes: Any) -> Any:
    """A setting of these stages for one that has not all of them, with another default or other words."""
    field = ProbeSettings.__dataclass_fields__[name]
    rule = {**field.metadata, **changes}
    return setting(field.default if default is None else default, rule.pop("label"), rule.pop("help"), **rule)


def pair_rows(dataset: Dataset, settings: PairSettings, renderer: Renderer) -> tuple[list[list[EncodedPair]], int]:
    """((train, held-out) pairs as tokens, how many of the training pairs are too long or refused by the template).

    Training pairs that the run will not reach are dropped, held-out ones are sorted by length.
    """
    asked = splits.half(dataset.rows("train"), settings.half)
    train = training_pairs(asked, renderer, settings.max_length)
    if not train:
        raise StageError(f"No pair has both sides within {settings.max_length} tokens; raise the longest pair.")
    left_out = len(asked) - len(train)
    reached = settings.max_steps * settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    if 0 < reached < len(train):
        chosen = random.Random(settings.seed).sample(range(len(train)), reached)
        train = [train[i] for i in sorted(chosen)]
    heldout = training_pairs(dataset.rows("heldout"), renderer, settings.max_length)
    return [train, sorted(heldout, key=len)], left_out


def open_model(settings: Any, run: Run, base: Base, scorer: bool = False) -> "tuple[loading.Placement, PeftModel]":
    """(where it runs, the frozen base with the LoRA that is trained), a copy of the parent's where there is one.

    settings: of any stage; those of LoRA, quantization and seed are read.

    scorer: with a score head in the LM head's place.
    """
    from transformers import set_seed

    parent = parent_of(run)
    heed_stop(run)
    run.update(phase="loading the model")
    set_seed(settings.seed)
    where = loading.placement(settings.quantization)
    plain_model = loading.load_base(base, where, scorer)
    if parent:
        model = loading.continue_lora(plain_model, parent.adapter, settings.lora_dropout)
    else:
        lora = (settings.lora_r, settings.lora_alpha, settings.lora_dropout, settings.lora_targets)
        model = loading.attach_lora(plain_model, *lora)
    print(
        f"{base.title} on {where}, from {parent.name if parent else 'a new adapter'}: {trainable(model):,} parameters"
    )
    return where, model


def trainable(model: Any) -> int:
    """How many parameters are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
