"""The one place that knows TRL's trainers: arguments, progress, probes, stop, checkpoints and what their defaults get
wrong here.

TRL 1.16's defaults mean bf16 on CPU, bf16 adapters on a 4-bit base, loss filters that hide NaN, and an LM head over
every position where no Triton is. Each is put right below, next to its reason.
"""

import contextlib
import json
import math
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from playground.data.rendering import Encoded
from playground.models.loading import Placement, fp32_adapters, quiet_libraries
from playground.runs.run import Run
from playground.stages.inputs import StageError, Stopped, heed_stop

if TYPE_CHECKING:
    from datasets import Dataset as Table

    from playground.stages.sft import SFTSettings

HEAD_ROWS = 1024  # positions per LM-head product: 1024 × 49k logits in fp32 are 200 MB
SHOWN = {
    "loss",
    "mean_token_accuracy",
    "grad_norm",
    "learning_rate",
    "num_tokens",
    "entropy",
    "eval_loss",
    "eval_mean_token_accuracy",
}


class LengthGroups(torch.utils.data.Sampler[int]):
    """Rows of like length share a batch (on short chats a third less padding), batches in random order.

    The order depends on seed and epoch alone, so that a resumed run sees the rows it would have seen; transformers'
    own sampler draws from the global generator and goes from long to short.
    """

    def __init__(self, lengths: list[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """The trainer says so at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        order = torch.randperm(len(self), generator=random).tolist()
        pool = 8 * self.batch  # sorted eight batches at a time: alike enough, and no two epochs alike
        pools = [sorted(order[i : i + pool], key=self.lengths.__getitem__) for i in range(0, len(order), pool)]
        rows = [row for rows in pools for row in rows]
        batches = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        full = [batch for batch in batches if len(batch) == self.batch]
        shuffled = [full[i] for i in torch.randperm(len(full), generator=random).tolist()]
        return iter([row for batch in shuffled + batches[len(full) :] for row in batch])


class AssistantLossTrainer(SFTTrainer):
    """TRL's SFTTrainer whose CPU loss runs the LM head on learned positions only (TRL does so where Triton is)."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroups:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        update = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroups(lengths, update, self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs or inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mode = "train" if self.model.training else "eval"
        loss, correct, count = assistant_loss(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        self._metrics[mode]["mean_token_accuracy"].append(correct / max(count, 1))
        if mode == "train":
            self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return loss / (max(count, 1) if num_items_in_batch is None else num_items_in_batch)


def assistant_loss(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, int, int]:
    """(summed loss, right guesses, targets): -Σ log p(labels[t+1] | ids[≤t]) over targets that are not -100.

    All inputs (B, T), padded on the right; loss in nats, a scalar with gradient.
    """
    causal_lm = model.get_base_model()
    hidden = causal_lm.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    target = labels[:, 1:]
    wanted = target != -100  # (B, T-1)
    hidden, target = hidden[:, :-1][wanted], target[wanted]  # (N, H), (N,)
    head = causal_lm.get_output_embeddings()

    def part(rows: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(rows).float()
        right = (logits.detach().argmax(-1) == goal).sum()
        return torch.nn.functional.cross_entropy(logits, goal, reduction="sum"), right

    loss, correct = hidden.sum() * 0, 0  # keeps a gradient path where a batch has no target at all
    for rows, goal in zip(hidden.split(HEAD_ROWS), target.split(HEAD_ROWS), strict=True):
        many = len(target) > HEAD_ROWS  # then recompute each part's logits in backward instead of keeping all
        value, right = checkpoint(part, rows, goal, use_reentrant=False) if many else part(rows, goal)
        loss, correct = loss + value, correct + int(right)
    return loss, correct, len(target)


class RunCallback(TrainerCallback):
    """Writes progress, metrics and probe answers into the run folder, and carries the Stop button in."""

    def __init__(self, run: Run, probe: Callable[[Any, int], None], probe_steps: int):
        self.run, self.probe, self.probe_steps = run, probe, probe_steps
        self.last: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {"step": [], "probe": [], "held-out": []}
        self.since = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.update(phase="training", step=state.global_step, total=state.max_steps)
        if state.global_step == 0:
            self._probe(kwargs["model"], 0)
            heed_stop(self.run)
        self.since = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.since = time.monotonic()
        self._progress(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds["step"].append(time.monotonic() - self.since)
        self._progress(args, state)
        step, last = state.global_step, state.global_step >= state.max_steps
        if self.run.stop_requested() and not last:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        elif last or (self.probe_steps and step % self.probe_steps == 0):
            self._probe(kwargs["model"], step)
        self.since = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        values = {name: float(value) for name, value in (logs or {}).items() if name in SHOWN}
        kind = "eval" if any(name.startswith("eval_") for name in values) else "train"
        if not values:
            return
        self.run.log(kind, state.global_step, values)
        self.last.update(values)
        # fp16's gradient scaler finds its scale by overflowing a few times; those steps are skipped and do no harm.
        for name in ("loss", "eval_loss") if args.fp16 else ("loss", "grad_norm", "eval_loss"):
            if not math.isfinite(values.get(name, 0.0)):
                raise StageError(
                    f"{name} is no longer a number at step {state.global_step}: the run diverged. "
                    "Lower the learning rate, or look for damaged rows in the data."
                )

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (0, state.max_steps):  # before the first step and after the last nothing would be lost
            heed_stop(self.run)
        self.run.update(phase="measuring the held-out loss")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds["held-out"].append(time.monotonic() - self.since)

    def _probe(self, model: Any, step: int) -> None:
        before = time.monotonic()
        self.probe(model, step)
        self.seconds["probe"].append(time.monotonic() - before)

    def _progress(self, args: Any, state: Any) -> None:
        """Writes step and ETA: what steps, probes and held-out measurements have cost so far, times what is left."""
        left = state.max_steps - state.global_step
        every = {"step": 1, "probe": self.probe_steps, "held-out": args.eval_steps or 0}
        counts = {what: left // steps if steps else 0 for what, steps in every.items()}
        counts |= {what: max(counts[what], 1) for what in ("probe", "held-out")}  # both come once more at the end
        spent = {what: statistics.fmean(seconds) for what, seconds in self.seconds.items() if seconds}
        eta = sum(spent[what] * counts[what] for what in spent) if "step" in spent else None
        self.run.update(phase="training", step=state.global_step, total=state.max_steps, eta=eta)


def sft_arguments(settings: "SFTSettings", where: Placement, run: Run, has_heldout: bool) -> SFTConfig:
    """SFTConfig for this machine: what the settings say, and what TRL's defaults get wrong on a CPU."""
    cuda = where.device == "cuda"
    return SFTConfig(
        output_dir=str(run.folder / "checkpoints"),
        # what the person chose
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps or -1,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        data_seed=settings.seed,
        max_length=settings.max_length,
        # precision: the default is bf16, 8 times slower than fp32 on AVX2
        use_cpu=not cuda,
        bf16=where.dtype == torch.bfloat16,
        fp16=where.dtype == torch.float16,
        gradient_checkpointing=cuda,
        dataloader_pin_memory=cuda,
        per_device_eval_batch_size=8,
        # a NaN must show, not be replaced by the running mean
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if has_heldout else "no",
        eval_steps=settings.eval_steps or 10**9,
        eval_on_start=has_heldout,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        optim="adamw_torch",
    )


def table(rows: list[Encoded]) -> "Table":
    """Our tokens and labels as the dataset TRL takes; it finds them tokenized and changes nothing."""
    from datasets import Dataset as Table
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    return Table.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})


def train_sft(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    settings: "SFTSettings",
    where: Placement,
    run: Run,
    rows: list[list[Encoded]],
    probe: Callable[[Any, int], None],
) -> dict[str, Any]:
    """Trains `model`'s LoRA on rows (train, held-out) in place; returns the last metrics and what it cost."""
    quiet_libraries()
    train_rows, heldout_rows = rows
    resumed = last_checkpoint(run.folder / "checkpoints")
    if resumed:
        run.forget_after(int(resumed.name.rsplit("-", 1)[1]))
    arguments = sft_arguments(settings, where, run, bool(heldout_rows))
    arguments.eval_on_start = arguments.eval_on_start and resumed is None
    callback = RunCallback(run, probe, settings.probe_steps)
    trainer = AssistantLossTrainer(
        model,
        args=arguments,
        processing_class=tokenizer,
        callbacks=[callback],
        train_dataset=table(train_rows),
        eval_dataset=table(sorted(heldout_rows, key=lambda row: len(row.ids))) if heldout_rows else None,
    )
    for noisy in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"]:
        trainer.remove_callback(noisy)
    fp32_adapters(trainer.model)  # TRL has cast the adapters of a 4-bit base to bf16; the optimizer is made in train()
    set_seed(settings.seed)
    before = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if heldout_rows and not run.stop_requested() and not _just_evaluated(trainer):
        with contextlib.suppress(Stopped):
            trainer.evaluate()
    if not _just_evaluated(trainer):  # stopped: what was measured before is not of these weights
        callback.last = {name: value for name, value in callback.last.items() if not name.startswith("eval_")}
    return {
        **callback.last,
        "step": trainer.state.global_step,
        "train_seconds": round(time.monotonic() - before, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _just_evaluated(trainer: SFTTrainer) -> bool:
    """True if the last held-out measurement was made at the last step."""
    evaluated = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
    return bool(evaluated) and evaluated[-1] == trainer.state.global_step


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint: its trainer_state.json is written last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    return next((path for path in found if _readable(path / "trainer_state.json")), None)


def drop_checkpoints(run: Run) -> None:
    """Frees the disk of a run that needs no resuming."""
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def _readable(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
        return True
    except (OSError, ValueError):
        return False
