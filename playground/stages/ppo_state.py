"""Checkpoints of a PPO run: adapters, heads, optimizer and KL coefficient, as safetensors and JSON.

Random numbers need no saving: they depend on seed and iteration alone.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from playground.home import write_atomically
from playground.runs.run import Run
from playground.stages.ppo_trainer import PPO

KEPT = 2
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save(trainer: PPO, run: Run, iteration: int) -> None:
    """Writes a checkpoint after this iteration; its state.json comes last, and without it the folder does not count."""
    folder = run.folder / "checkpoints" / f"checkpoint-{iteration}"
    folder.mkdir(parents=True, exist_ok=True)
    trained = trainer.roles.trained()
    save_file({name: p.detach().contiguous() for name, p in trained.items()}, folder / "trained.safetensors")
    moments = {
        f"{name}/{key}": torch.as_tensor(trainer.optimizer.state[p][key]).contiguous()
        for name, p in trained.items()
        for key in MOMENTS
        if p in trainer.optimizer.state
    }
    save_file(moments, folder / "optimizer.safetensors")
    write_atomically(folder / "state.json", json.dumps({"iteration": iteration, "kl_coef": trainer.kl_coef}))
    for old in _complete(run)[:-KEPT]:
        shutil.rmtree(old)


def restore(trainer: PPO, run: Run) -> int:
    """Puts the last checkpoint back in place; returns its iteration, 0 where there is none."""
    found = _complete(run)
    if not found:
        return 0
    state: dict[str, Any] = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
    trained = trainer.roles.trained()
    weights, moments = (load_file(found[-1] / f"{name}.safetensors") for name in ("trained", "optimizer"))
    for name, parameter in trained.items():
        parameter.data.copy_(weights[name])
        if f"{name}/step" in moments:
            kept = {key: moments[f"{name}/{key}"] for key in MOMENTS}
            trainer.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in kept.items()
            }
    trainer.kl_coef, trainer.first_ratio = state["kl_coef"], 1.0
    return state["iteration"]


def drop(run: Run) -> None:
    """Frees the disk of a run that needs no resuming."""
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def _complete(run: Run) -> list[Path]:
    """Checkpoints whose state.json was written, oldest first."""
    found = [path.parent for path in (run.folder / "checkpoints").glob("checkpoint-*/state.json")]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))
