"""Seconds an iteration and peak memory of our PPO against the last one that TRL shipped (peers/trl112_ppo.py).

    pip install --no-deps --target OLD trl==1.12.0
    python tests/benchmarks/ppo.py --old OLD --json

Both train a LoRA policy on the same fp32 base for 8 rollouts of 48 tokens and 4 epochs, in processes of their own,
alternately. Ours has a reward run too (with random weights) and writes every answer to its full length. `seconds` and
`memory` are ours divided by TRL's.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def ours(model: str, steps: int, rows: int, tokens: int, epochs: int) -> dict[str, Any]:
    """Real iterations of the stage's trainer on the peer's prompts; seconds of each."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLAYGROUND_HOME"] = folder
        from playground.data import library
        from playground.data.records import RawRow
        from playground.data.report import examine
        from playground.models import catalog
        from playground.runs import queue
        from playground.stages import launch, ppo, ppo_setup

        queue.start_worker = lambda: None
        base = catalog.prepare(model)
        raw = [
            {"prompt": f"Question {i}: tell me something nice about the number {i}.", "completion": "It is nice."}
            for i in range(64)
        ]
        dataset = library.store(examine([RawRow(i, row, None) for i, row in enumerate(raw)]), "bench", "benchmark")
        values = {
            "reward_run": _judge(base),
            "per_device_train_batch_size": rows,
            "response_length": tokens,
            "num_ppo_epochs": epochs,
            "num_mini_batches": 1,
            "micro_batch_size": rows,
            "max_steps": steps,
            "epoch_kl": 0.0,
        }
        run = launch.launch("ppo", base, dataset, values)
        setup = ppo_setup.open_run(ppo.Settings.parse(run.request["settings"]), run)
        setup.trainer.ends = set()
        seconds = []
        for step in range(1, steps + 1):
            before = time.perf_counter()
            found = setup.trainer.iterate(setup.batch(step), step)
            seconds.append(time.perf_counter() - before)
            assert found.values["val/length"] == tokens
            assert found.values["val/updates"] == epochs
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return {"seconds_per_step": statistics.fmean(seconds), "seconds": seconds, "peak_rss_mb": peak}


def _judge(base: Any) -> str:
    """A reward run whose adapter and head are random, as the peer's reward model is; its id."""
    from playground.data.rendering import Renderer
    from playground.models import loading
    from playground.runs import run as runs
    from playground.stages.judgement import FILE

    made = runs.create("judge", {"stage": "reward", "base_identity": base.identity, "base_title": base.title})
    model = loading.attach_lora(
        loading.load_base(base, loading.placement("none"), scorer=True), 16, 32, 0.0, "all-linear"
    )
    loading.save_adapter(model, base, Renderer(base.folder).template, made.adapter)
    (made.adapter / FILE).write_text(json.dumps({"mean": 0.0, "std": 1.0, "training": [0.0]}), encoding="utf-8")
    made.update(state="finished")
    return made.id


def child(args: argparse.Namespace, what: str) -> dict[str, Any]:
    """One measurement in a process of its own, in the environment that training processes get."""
    from playground.models import catalog
    from playground.runs.queue import worker_environment

    sizes = ["--model", str(catalog.prepare(args.model).folder), "--steps", str(args.steps), "--rows", str(args.rows)]
    sizes += ["--new-tokens", str(args.new_tokens), "--epochs", str(args.epochs)]
    if what == "theirs":
        command = [sys.executable, str(Path(args.peers) / "trl112_ppo.py"), *sizes]
        environment = {**os.environ, "PYTHONPATH": str(Path(args.old).resolve())}
    else:
        command = [sys.executable, __file__, "--only-ours", *sizes]
        environment = worker_environment()
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peers", default=str(ROOT.parent / "shared" / "peers"))
    parser.add_argument("--old", help="a folder with trl 1.12.0 in it")
    parser.add_argument("--only-ours", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    if args.only_ours:
        print(json.dumps(ours(args.model, args.steps, args.rows, args.new_tokens, args.epochs)))
        return
    if not args.old:
        parser.error("--old is missing: a folder made with pip install --no-deps --target OLD trl==1.12.0")
    rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for number in range(args.rounds):
        for what in rounds:
            rounds[what].append(child(args, what))
            if not args.json:
                print(f"round {number + 1}: {what} {rounds[what][-1]}", file=sys.stderr)
    middle = {
        key: {what: statistics.median(found[key] for found in all_) for what, all_ in rounds.items()}
        for key in ("seconds_per_step", "peak_rss_mb")
    }
    seconds, memory = (found["ours"] / found["theirs"] for found in middle.values())
    print(json.dumps({"seconds": round(seconds, 3), "memory": round(memory, 3), **middle}))


if __name__ == "__main__":
    main()
