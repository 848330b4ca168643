"""The one place that knows how TRL's trainers are run: arguments, progress, probes, stop, checkpoints and what their
defaults get wrong here.

TRL 1.16's defaults mean bf16 on CPU and loss filters that hide NaN. Each is put right below, next to its reason.
"""

import contextlib
import json
import math
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, set_seed

from playground.models.loading import Placement, quiet_libraries
from playground.runs.run import Run
from playground.stages.inputs import StageError, Stopped, heed_stop

if TYPE_CHECKING:
    from playground.stages.training import TrainingSettings

Probe = Callable[[Any, int], None]


class RunCallback(TrainerCallback):
    """Writes progress, metrics and probe answers into the run folder, and carries the Stop button in."""

    def __init__(self, run: Run, metrics: Collection[str], probe: Probe | None = None, probe_steps: int = 0):
        self.run, self.probe, self.probe_steps = run, probe, probe_steps
        self.shown = {*metrics, "num_tokens", "entropy"}
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
        values = {
            name: float(value) for name, value in (logs or {}).items() if name.removeprefix("eval_") in self.shown
        }
        kind = "eval" if any(name.startswith("eval_") for name in values) else "train"
        prefix = "eval_" if kind == "eval" else ""
        if abs(values.get(f"{prefix}rewards/margins", 1.0)) < 1e-4:
            values.pop(f"{prefix}rewards/accuracies", None)  # neither side is ahead yet: there is nothing to count
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
        self.run.update(phase="measuring the held-out rows")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds["held-out"].append(time.monotonic() - self.since)

    def _probe(self, model: Any, step: int) -> None:
        if self.probe is None:
            return
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


def arguments(settings: "TrainingSettings", where: Placement, run: Run, has_heldout: bool) -> dict[str, Any]:
    """Arguments of any TRL trainer here: what the settings say, and what the defaults get wrong on a CPU."""
    cuda = where.device == "cuda"
    return dict(
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


def train(trainer: Any, run: Run, callback: RunCallback, start: dict[str, float] | None = None) -> dict[str, Any]:
    """Trains in place, from the run's last checkpoint if it has one; returns the last metrics and what it cost.

    start: the held-out values at step 0, where they are known without measuring.
    """
    quiet_libraries()
    resumed = last_checkpoint(run.folder / "checkpoints")
    run.forget_after(int(resumed.name.rsplit("-", 1)[1]) if resumed else -1)  # what an interrupted try left behind
    if resumed:
        trainer.args.eval_on_start = False
    elif start:
        run.log("eval", 0, start)
    trainer.add_callback(callback)
    for noisy in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"]:
        trainer.remove_callback(noisy)
    set_seed(trainer.args.seed)
    before = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    except Stopped:
        if trainer.state.global_step == 0:  # else it was in the measurement after the last step: the weights are good
            raise
    if trainer.eval_dataset is not None and not run.stop_requested() and not just_evaluated(trainer):
        with contextlib.suppress(Stopped):
            trainer.evaluate()
    if not just_evaluated(trainer):  # stopped: what was measured before is not of these weights
        callback.last = {name: value for name, value in callback.last.items() if not name.startswith("eval_")}
    return {
        **callback.last,
        "step": trainer.state.global_step,
        "train_seconds": round(time.monotonic() - before, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def just_evaluated(trainer: Any) -> bool:
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
