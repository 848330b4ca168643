"""The parts of the check: each runs the project's own code on random weights and says what it measured."""

import contextlib
import dataclasses
import gc
import importlib
import importlib.metadata
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import decoding
import made
import torch
from meter import GIB, Meter, checksum, frozen
from safetensors.torch import load_file

from playground.models import loading, memory
from playground.models.loading import Placement
from playground.runs.run import Run
from playground.stages import launch, ppo_setup, ppo_state, ppo_trainer, proofs, trl_bridge

Say = Callable[[str, Any], None]
WEIGHTS = "adapter_model.safetensors"
PROMPT, ANSWER, ROLLOUTS, ITERATIONS = 64, 128, 16, 2


def run(name: str, work: Path, tiny: bool, say: Say) -> None:
    """The part called `name`."""
    meter = Meter()
    say("context GiB", round(meter.context, 3))
    size = "tiny" if tiny else name.removeprefix("ppo-") if name.startswith("ppo") else "1.5B"
    with _for_a_check(tiny):
        began = time.monotonic()
        base = made.model(work, size)
        say("making the model, seconds", round(time.monotonic() - began, 1))
        meter.empty()
        if name == "stages":
            stages(base, meter, tiny, say)
        elif name == "chat":
            decoding.chat(base, tiny, say)
        else:
            ppo(base, meter, tiny, say)


@contextlib.contextmanager
def _for_a_check(tiny: bool) -> Iterator[None]:
    """No worker is started; a proof that fails is said and not raised, so that one can see what comes after it. tiny:
    a CPU is treated as the rule treats a GPU."""
    there = []
    for package in launch.VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            there.append(importlib.metadata.version(package) and package)

    def prove(run: Run, *found: proofs.Proof) -> None:
        run.write_proofs([*run.proofs(), *map(dataclasses.asdict, found)])

    arguments = trl_bridge.arguments
    with contextlib.ExitStack() as changed:
        changed.enter_context(patch.object(launch.queue, "start_worker", lambda: None))
        changed.enter_context(patch.object(launch, "VERSIONS", tuple(there)))
        changed.enter_context(patch.object(proofs, "prove", prove))
        if tiny:
            where = Placement("cpu", torch.bfloat16, True)
            changed.enter_context(patch.object(loading, "placement", lambda quantization="auto": where))
            changed.enter_context(patch.object(ppo_trainer, "free_bytes", lambda: 0))
            recomputed = {"gradient_checkpointing": True}
            changed.enter_context(patch.object(trl_bridge, "arguments", lambda *a: {**arguments(*a), **recomputed}))
        yield


def _proofs(run: Run) -> dict[str, str]:
    return {p["name"]: ("" if p["passed"] else "FAILED: ") + p["words"] for p in run.proofs()}


def _rounded(values: dict[str, float | None], digits: int = 6) -> dict[str, float | None]:
    return {name: None if value is None else round(value, digits) for name, value in values.items()}


# --- PPO: all roles on one NF4 base


def ppo(base: Any, meter: Meter, tiny: bool, say: Say) -> None:
    """A whole run with the defaults of a GPU: policy, critic, reference and reward adapter; memory by phase."""
    from playground.stages import ppo as stage

    values: dict[str, Any] = {
        "reward_run": made.finished(base, "judge", "reward", seed=1).id,
        "rules": "max_words: 40",
        "per_device_train_batch_size": ROLLOUTS,
        "response_length": 8 if tiny else ANSWER,
        "max_length": PROMPT,
        "max_steps": ITERATIONS,
        "eval_prompts": 4,
        "save_steps": 1,
        "probe_tokens": 8,
        "critic": "adapter" if tiny else "auto",
    }
    parent = made.finished(base, "parent", "sft", seed=2)
    made_run = launch.launch("ppo", base, made.prompts(base, PROMPT), values, parent=parent)
    settings = stage.Settings.parse(made_run.request["settings"])
    opened: dict[str, Any] = {}
    original = ppo_setup.open_run

    def open_run(*given: Any) -> Any:
        began = time.monotonic()
        setup = original(*given)
        opened.update(setup=setup)
        say("seconds to open", round(time.monotonic() - began, 1))
        _by_phase(setup, meter, tiny, say)
        opened["before"] = checksum(frozen(setup.trainer.roles.adapters.model))
        meter.empty()
        return setup

    began = time.monotonic()
    with patch.object(ppo_setup, "open_run", open_run):
        stage.main(settings, made_run)
    meter.mark("held out and saved")
    setup = opened["setup"]
    say("seconds to run", round(time.monotonic() - began, 1))
    say("placement", made_run.receipt()["placement"])
    say("phases GiB", meter.phases)
    say("memory", _compared(setup, meter))
    say("proofs", _proofs(made_run))
    say("first ratio", setup.trainer.first_ratio)
    model = setup.trainer.roles.adapters.model
    say("the base stayed the same, to the bit", opened["before"] == checksum(frozen(model)))
    say("trained in", sorted({str(p.dtype) for p in setup.trainer.roles.trained().values()}))
    saved = load_file(made_run.adapter / WEIGHTS)
    say("adapter changed", _changed(saved, load_file(parent.adapter / WEIGHTS)))
    say("recomputes activations", setup.trainer.roles.causal_lm.is_activation_checkpointing)
    say("a checkpoint comes back as it was, and training goes on from it", _restored(setup.trainer, made_run))


def _restored(trainer: Any, made_run: Run) -> bool:
    """Weights and Adam's moments through a file, then one step without a gradient, which would fail on a moment that
    lies on another device."""
    trained, state = trainer.roles.trained(), trainer.optimizer.state
    kept = {name: (p.detach().cpu().clone(), state[p]["exp_avg"].cpu().clone()) for name, p in trained.items()}
    ppo_state.save(trainer, made_run, ITERATIONS)
    for parameter in trained.values():
        parameter.data.zero_()
        state[parameter]["exp_avg"].zero_()
    done = ppo_state.restore(trainer, made_run)
    same = all(
        torch.equal(p.detach().cpu(), kept[n][0]) and torch.equal(state[p]["exp_avg"].cpu(), kept[n][1])
        for n, p in trained.items()
    )
    for parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    ppo_state.drop(made_run)
    return same and done == ITERATIONS


def _by_phase(setup: Any, meter: Meter, tiny: bool, say: Say) -> None:
    """The trainer says what it begins; the meter marks what has ended. Each iteration is said at once."""
    trainer, now = setup.trainer, ["between"]
    tell, iterate = trainer.tell, trainer.iterate
    meter.mark("loading")
    if tiny:
        trainer.roles.causal_lm.activation_checkpointing_enable()

    def told(phase: str) -> None:
        meter.mark(now[0])
        now[0] = phase
        tell(phase)

    def iterated(prompts: Any, iteration: int) -> Any:
        found = iterate(prompts, iteration)
        meter.mark(now[0])
        now[0] = "between"
        say(f"iteration {iteration}", _rounded(found.values))
        say("phases GiB", meter.phases)
        say("memory", _compared(setup, meter))
        return found

    trainer.tell, trainer.iterate = told, iterated


def _compared(setup: Any, meter: Meter) -> dict[str, Any]:
    """The estimate beside what was measured, whole and by parts; ratios are estimated / measured."""
    s, model = setup.settings, setup.trainer.roles.adapters.model
    config = json.loads((setup.base.folder / "config.json").read_text(encoding="utf-8"))
    tokens, r = s.max_length + s.response_length, made.RANK
    guess = memory.ppo_bytes(config, s.per_device_train_batch_size, tokens, s.micro_batch_size, r, (2, 2))
    lora = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    measured = {
        "weights": sum(t.numel() * t.element_size() for t in frozen(model)) / GIB,
        "adapters with Adam": lora / 4 * (2 * 16 + 2 * 4) / GIB,
        "allocated": meter.peak("allocated", "loading"),
        "reserved": meter.peak("reserved", "loading"),
        "card": meter.peak("card", "loading"),
        "loading": meter.phases.get("loading"),
        "context": meter.context,
    }
    found: dict[str, Any] = {
        "estimated GiB": {name: round(size / GIB, 3) for name, size in guess.items()},
        "measured GiB": {k: round(v, 3) if isinstance(v, float) else v for k, v in measured.items()},
    }
    if meter.cuda:
        net = guess["total"] / 1.05 - memory.OVERHEAD
        found["ratios"] = {
            "total / card (the promise: within 15%)": round(guess["total"] / GIB / measured["card"], 3),
            "total / allocated (what a receipt compares)": round(guess["total"] / GIB / measured["allocated"], 3),
            "without overheads / allocated": round(net / GIB / measured["allocated"], 3),
        }
    return found


# --- SFT, reward and DPO through TRL


def stages(base: Any, meter: Meter, tiny: bool, say: Say) -> None:
    """Three steps of each trained stage, DPO continuing SFT."""
    parent = None
    for name in ("sft", "reward", "dpo"):
        before = parent if name == "dpo" else None
        try:
            done = _stage(name, base, meter, (before, tiny), say)
            parent = done if name == "sft" else parent
        except Exception:
            say(f"{name} error", traceback.format_exc()[-2500:])
        gc.collect()
        meter.empty()


def _stage(name: str, base: Any, meter: Meter, how: tuple[Run | None, bool], say: Say) -> Run:
    parent, tiny = how
    stage = importlib.import_module(f"playground.stages.{name}")
    dataset = made.conversations() if name == "sft" else made.pairs()
    values: dict[str, Any] = {"max_steps": 3, "save_steps": 2}
    if name != "reward":
        values |= {"probe_tokens": 8, "probe_steps": 0}
    if tiny:
        values |= {"per_device_train_batch_size": 2, "learning_rate": 1e-3}
    made_run = launch.launch(name, base, dataset, values, parent=parent)
    seen: dict[str, Any] = {}
    load, save = loading.load_base, loading.save_adapter

    def loaded(*given: Any, **more: Any) -> Any:
        model = load(*given, **more)
        meter.mark(f"{name}: loading")
        seen["base"] = frozen(model)
        seen["before"] = checksum(seen["base"])
        meter.empty()
        return model

    def saved(model: Any, *rest: Any) -> None:
        meter.mark(f"{name}: training")
        seen["after"] = checksum(seen.pop("base"))
        seen["dtypes"] = sorted({str(p.dtype) for p in model.parameters() if p.requires_grad})
        save(model, *rest)

    began = time.monotonic()
    with patch.object(loading, "load_base", loaded), patch.object(loading, "save_adapter", saved):
        stage.main(stage.Settings.parse(made_run.request["settings"]), made_run)
    made_run.update(state="finished", phase="ended")
    receipt, events = made_run.receipt(), made_run.metrics()
    losses = [event["values"].get("loss") for event in events if event["kind"] == "train" and "loss" in event["values"]]
    weights = load_file(made_run.adapter / WEIGHTS)
    first = load_file(parent.adapter / WEIGHTS) if parent else {}
    say(
        name,
        {
            "seconds": round(time.monotonic() - began, 1),
            "train seconds": receipt["metrics"].get("train_seconds"),
            "placement": receipt["placement"],
            "losses": losses,
            "losses are finite": bool(losses) and all(x is not None and math.isfinite(x) for x in losses),
            "events": [_rounded(event["values"], 4) for event in events],
            "proofs": _proofs(made_run),
            "the base stayed the same, to the bit": seen["before"] == seen["after"],
            "trained in": seen["dtypes"],
            "saved in": sorted({str(tensor.dtype) for tensor in weights.values()}),
            "adapter changed": _changed(weights, first),
            "phases GiB": {k: v for k, v in meter.phases.items() if k.startswith(name)},
            "peak RSS MB": receipt["metrics"].get("peak_rss_mb"),
        },
    )
    return made_run


def _changed(weights: dict[str, Any], first: dict[str, Any]) -> str:
    """How many of the second LoRA matrices are no longer what they were: zero, or the parent's."""
    second = [name for name in weights if "lora_B" in name]
    moved = sum(not torch.equal(weights[name], first.get(name, torch.zeros_like(weights[name]))) for name in second)
    return f"{moved} of {len(second)} matrices B"
