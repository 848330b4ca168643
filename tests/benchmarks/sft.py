"""Seconds a step of our SFT stage against a bare PyTorch loop: same NF4 base, same LoRA, same rows and tokens.

    python tests/benchmarks/sft.py --json

Both run in processes of their own, alternately; the printed `ratio` is ours divided by the floor (medians of all steps
but the first two of each round). A `raw_loop.py` found under `--peers` is the floor; without one, the same loop in this
file is. The floor learns every token of a row; ours, as always, the assistant's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def ours(model: str, steps: int, rows: int, length: int) -> list[float]:
    """A real run of the stage on rows that are all `length` tokens long; seconds of each step."""
    from playground.data import library
    from playground.data.readers import RawRow
    from playground.data.report import examine
    from playground.models import catalog
    from playground.runs import queue
    from playground.stages import launch, sft, trl_bridge

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLAYGROUND_HOME"] = folder
        base = catalog.prepare(model)
        dataset = library.store(
            examine([RawRow(i + 1, row, None) for i, row in enumerate(exact_rows(base, rows * steps, length))]),
            "bench",
            "benchmark",
        )
        queue.start_worker = lambda: None
        values = {
            "max_steps": steps,
            "num_train_epochs": 20,
            "per_device_train_batch_size": rows,
            "quantization": "nf4",
            "probe_prompts": "",
            "probe_steps": 0,
            "save_steps": 10_000,
            "max_length": 4096,
        }
        run = launch.launch("sft", base, dataset, values)
        clock = []
        begin, end = trl_bridge.RunCallback.on_step_begin, trl_bridge.RunCallback.on_step_end
        trl_bridge.RunCallback.on_step_begin = lambda *a, **k: (begin(*a, **k), clock.append(time.perf_counter()))[0]
        trl_bridge.RunCallback.on_step_end = lambda *a, **k: (clock.append(time.perf_counter()), end(*a, **k))[1]
        trl_bridge.arguments = without_heldout(trl_bridge.arguments)
        sft.main(sft.SFTSettings.parse(run.request["settings"]), run)
    return [after - before for before, after in zip(clock[::2], clock[1::2], strict=True)]


def without_heldout(real):
    """The held-out measurement is no part of a step."""

    def arguments(settings, where, run, has_heldout):
        return {**real(settings, where, run, has_heldout), "eval_on_start": False, "eval_strategy": "no"}

    return arguments


def exact_rows(base, count: int, length: int) -> list[dict[str, str]]:
    """Different rows of exactly `length` tokens, about two thirds of them learned."""
    from playground.data.rendering import Renderer

    renderer, rows = Renderer(base.folder), []
    for number in range(count):
        words = f"Row {number}:"
        row = {"prompt": "Say so.", "completion": words}
        while len(renderer.encode(_messages(row)).ids) < length:
            words += " a"
            row = {"prompt": "Say so.", "completion": words}
        assert len(renderer.encode(_messages(row)).ids) == length, "one more word must be one more token"
        rows.append(row)
    return rows


def _messages(row: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def floor(model: str, steps: int, rows: int, length: int) -> float:
    """The bare loop: forward with the model's own loss, backward, AdamW; median seconds a step."""
    import torch

    from playground.models import catalog, loading

    base = catalog.prepare(model)
    lora = loading.attach_lora(loading.load_base(base, loading.placement("nf4")), 16, 32, 0.0, "all-linear").train()
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=2e-4)
    input_ids = torch.randint(100, 40_000, (rows, length))  # (B, T)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        lora(input_ids=input_ids, labels=input_ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:] or seconds)


def child(args: argparse.Namespace, what: str) -> float:
    """One round of ours or the floor, in a process of its own."""
    peer = Path(args.peers) / "raw_loop.py"
    from playground.models import catalog

    size = ["--steps", str(args.steps), "--rows", str(args.rows), "--length", str(args.length)]
    if what == "floor" and peer.exists():
        command = [sys.executable, str(peer), "--model", str(catalog.prepare(args.model).folder), "--nf4", *size]
    else:
        command = [sys.executable, __file__, "--only", what, "--model", args.model, *size]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["seconds_per_step"]


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="tokens a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=str(ROOT.parent / "shared" / "peers"), help="folder with raw_loop.py")
    parser.add_argument("--only", choices=["ours", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON document only")
    args = parser.parse_args()
    if args.only:
        size = (args.model, args.steps, args.rows, args.length)
        seconds = statistics.median(ours(*size)[2:]) if args.only == "ours" else floor(*size)
        print(json.dumps({"seconds_per_step": seconds}))
        return
    found: dict[str, list[float]] = {"ours": [], "floor": []}
    for number in range(args.rounds):
        for what in ("floor", "ours") if number % 2 else ("ours", "floor"):
            found[what].append(child(args, what))
            print(f"round {number + 1}: {what} {found[what][-1]:.2f} s a step", file=sys.stderr)
    medians = {what: statistics.median(values) for what, values in found.items()}
    print(
        json.dumps(
            {
                "ratio": round(medians["ours"] / medians["floor"], 3),
                "seconds_per_step": medians,
                "rounds": found,
                "tokens_per_step": args.rows * args.length,
            },
            indent=None if args.json else 1,
        )
    )


if __name__ == "__main__":
    main()
