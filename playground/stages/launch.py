"""Asking for a run: everything is checked here, before anything starts, by the page and the command line alike."""

import importlib
import importlib.metadata
import json
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from playground.data.library import ACCEPTED, Dataset
from playground.data.rendering import Renderer
from playground.data.tokens import measure
from playground.models.catalog import Base
from playground.runs import queue, run
from playground.settings import SettingError, Settings
from playground.stages.inputs import WEIGHTS, known_dataset, known_weights
from playground.stages.judgement import read_scores

STAGES = ("sft", "reward", "ppo", "dpo")
MAKERS = ("constitution", "feedback", "measure")  # these make data for the others or measure them: no weights
PRESETS = Path(__file__).resolve().parents[2] / "presets"
VERSIONS = ("torch", "transformers", "peft", "trl", "bitsandbytes", "gradio")


def stage(name: str) -> ModuleType:
    """The stage's module; importing it does not import torch."""
    if name not in (known := (*STAGES, *MAKERS)):
        raise SettingError(f"There is no stage called {name!r}. Known: {', '.join(known)}.")
    return importlib.import_module(f"playground.stages.{name}")


def presets(stage_name: str) -> dict[str, dict[str, Any]]:
    """The stage's presets by name: {"about", "data", "settings"}, and "parent" or "runs" where it builds on other runs;
    settings are differences from the defaults."""
    found = sorted((PRESETS / stage_name).glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in found}


def usable_runs(made_by: str) -> list[run.Run]:
    """A stage's finished runs, newest first; of a reward model only those whose scores were measured, without which
    they mean nothing."""
    found = [r for r in reversed(run.list_runs()) if r.request["stage"] == made_by and r.status().state == "finished"]
    return [r for r in found if stage(made_by).ANSWERS or "std" in read_scores(r)]


def preset_settings(stage_name: str, preset: str | None, given: Collection[str] = ()) -> dict[str, Any]:
    """The settings of one preset, none for None. Where it asks for a run of some stage and none is `given`, the newest
    one is meant."""
    if preset is None:
        return {}
    known = presets(stage_name)
    if preset not in known:
        raise SettingError(f"There is no {stage_name} preset called {preset!r}. Known: {', '.join(known) or 'none'}.")
    runs = {}
    for name, made_by in known[preset].get("runs", {}).items():
        if name in given:
            continue
        if not (usable := usable_runs(made_by)):
            raise SettingError(f"The preset {preset} needs a finished {made_by} run; train one first.")
        runs[name] = usable[0].id
    return {**known[preset]["settings"], **runs}


def preflight(settings: Any, base: Base, dataset: Dataset) -> dict[str, Any]:
    """SettingError before anything is queued: no rows, a template that refuses them, rows longer than the model."""
    if not dataset.train:
        raise SettingError(f"{dataset.name} has no rows to train on.")
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    most = config.get("max_position_embeddings") or settings.max_length
    if settings.max_length > most:
        raise SettingError(f"{base.title} reads at most {most} tokens; set the longest row to that or less.")
    sample = dataset.rows("train")[:100]
    found = measure(sample, Renderer(base.folder), settings.max_length)
    if len(found.refused) == len(sample):
        raise SettingError(f"{base.title} can't read these rows: {found.refused[0][1]}.")
    if len(found.too_long) + len(found.refused) == len(sample):
        raise SettingError(f"No pair has both sides within {settings.max_length} tokens; raise the longest pair.")
    if not any(found.learned):
        raise SettingError(f"No answer is left within {settings.max_length} tokens; raise the longest row.")
    return {}


def check_parent(parent: run.Run, base: Base) -> None:
    """SettingError unless the parent has weights that a run on this base can continue."""
    request = parent.request
    if request["stage"] in MAKERS:
        raise SettingError(f"{parent.name} has no weights: there is nothing to continue.")
    if not stage(request["stage"]).ANSWERS:
        raise SettingError(f"{parent.name} is a reward model: it gives scores, so there is nothing to continue.")
    if parent.status().active:
        raise SettingError(f"{parent.name} is still {parent.status().state}; wait for its end or stop it.")
    if not (parent.adapter / WEIGHTS).exists():
        raise SettingError(f"{parent.name} has no trained weights to continue.")
    if request["base_identity"] != base.identity:
        raise SettingError(f"{parent.name} was trained on {request['base_title']}, not on {base.title}.")


def launch(
    stage_name: str,
    base: Base,
    dataset: Dataset,
    values: Mapping[str, Any],
    name: str | None = None,
    preset: str | None = None,
    parent: run.Run | None = None,
) -> run.Run:
    """Checks the settings, the data's kind and the parent, writes the run folder and wakes the worker."""
    settings = stage(stage_name).Settings.parse({**preset_settings(stage_name, preset, values), **values})
    request = described(stage_name, base, settings, preset) | checked(stage_name, settings, base, dataset, parent)
    made = run.create(name or f"{stage_name}-{dataset.name}", request)
    queue.start_worker()
    return made


def described(stage_name: str, base: Base, settings: Settings, preset: str | None) -> dict[str, Any]:
    """The part of a request that is known before its data and its parent are."""
    return {
        "stage": stage_name,
        "base": base.ref,
        "base_title": base.title,
        "base_identity": base.identity,
        "base_note": base.note,
        "preset": preset,
        "settings": settings.values(),
        "seed": settings.values()["seed"],
        "owner": None,
        "versions": {package: importlib.metadata.version(package) for package in VERSIONS}
        | {"python": platform.python_version()},
    }


def checked(
    stage_name: str, settings: Settings, base: Base, dataset: Dataset, parent: run.Run | None
) -> dict[str, Any]:
    """The rest of it: data, parent and what the stage keeps besides; SettingError unless they go together."""
    module = stage(stage_name)
    if dataset.kind not in ACCEPTED[module.COLUMNS]:
        raise SettingError(f"{module.TITLE} needs {module.COLUMNS} rows; {dataset.name} holds {dataset.kind} rows.")
    if parent:
        check_parent(parent, base)
    prepare = getattr(module, "prepare", preflight)  # what a stage checks by itself, and what its request keeps
    kept = prepare(settings, base, dataset)
    return {
        "parent": known_weights(parent),
        **kept,
        "dataset": known_dataset(dataset),
    }
