"""Seconds a step of our DPO and reward stages against what one would run otherwise: same pairs, NF4 base and LoRA.

    python tests/benchmarks/pairs.py dpo --json       # TRL's DPOTrainer as documented (peers/trl_baseline.py)
    python tests/benchmarks/pairs.py reward --json    # a bare PyTorch loop: base, LoRA, score head, Bradley–Terry loss

Both sides run in processes of their own, alternately; `speedup` is the other's median step divided by ours. DPO's
reference pass is timed apart and given as `reference_seconds_per_pair`: it is paid once, not every step.
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
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
GOOD = "Because air scatters blue light more than red light. Short and simple!"
BAD = "Well, it is complicated and I would rather not say anything at all, since the sky is a very large thing indeed."


def pairs(count: int) -> list[dict[str, Any]]:
    """The rows of peers/trl_baseline.py: about 63 tokens a side."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Question {i}: why is the sky blue on day {i}?"}],
            "chosen": [{"role": "assistant", "content": GOOD}],
            "rejected": [{"role": "assistant", "content": BAD}],
        }
        for i in range(count)
    ]


def ours(stage: str, model: str, steps: int, rows: int) -> dict[str, Any]:
    """A real run of the stage; seconds of each step."""
    from playground.data import library
    from playground.data.records import RawRow
    from playground.data.report import examine
    from playground.models import catalog
    from playground.runs import queue
    from playground.stages import launch, trl_bridge

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLAYGROUND_HOME"] = folder
        base = catalog.prepare(model)
        report = examine([RawRow(i + 1, row, None) for i, row in enumerate(pairs(rows * steps))])
        library.split_by_prompt = lambda found: (found, [])  # nothing held out: steps only
        dataset = library.store(report, "bench", "benchmark")
        queue.start_worker = lambda: None
        values = {"max_steps": steps, "per_device_train_batch_size": rows, "quantization": "nf4", "save_steps": 10_000}
        values |= {"probe_prompts": "", "probe_steps": 0} if stage == "dpo" else {}
        run = launch.launch(stage, base, dataset, values)
        clock: list[float] = []
        begin, end = trl_bridge.RunCallback.on_step_begin, trl_bridge.RunCallback.on_step_end
        trl_bridge.RunCallback.on_step_begin = lambda *a, **k: (begin(*a, **k), clock.append(time.perf_counter()))[0]
        trl_bridge.RunCallback.on_step_end = lambda *a, **k: (clock.append(time.perf_counter()), end(*a, **k))[1]
        module = launch.stage(stage)
        passed = [0.0]
        if stage == "dpo":
            whole = module.reference_pass

            def timed(*args: Any) -> Any:
                before = time.perf_counter()
                found = whole(*args)
                passed[0] = time.perf_counter() - before
                return found

            module.reference_pass = timed
        else:
            module.SAMPLE = 1
        module.main(module.Settings.parse(run.request["settings"]), run)
        seconds = [after - before for before, after in zip(clock[::2], clock[1::2], strict=True)]
        return {"seconds": seconds, "tokens": _tokens(run) / steps, "reference": passed[0] / (rows * steps)}


def _tokens(run: Any) -> float:
    return run.receipt()["metrics"]["num_tokens"]


def raw_reward(model: str, steps: int, rows: int) -> dict[str, Any]:
    """The floor: no trainer, no proofs, the same tokens."""
    import torch
    from peft import LoraConfig, get_peft_model

    from playground.data.rendering import Renderer
    from playground.models import catalog, loading

    base = catalog.prepare(model)
    renderer = Renderer(base.folder)
    where = loading.placement("nf4")
    config = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
    )
    peft = get_peft_model(loading.load_base(base, where, scorer=True), config)
    parameters = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)
    data = [
        [renderer.answer(pair["prompt"], pair[side][0]["content"]).ids for pair in pairs(rows * steps)]
        for side in ("chosen", "rejected")
    ]
    peft.train()
    seconds, tokens = [], 0
    for step in range(steps):
        start = time.perf_counter()
        batch = [row for side in data for row in side[step * rows : (step + 1) * rows]]
        width = max(map(len, batch))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
        lm = peft.get_base_model()
        hidden = lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(batch)), mask.sum(1) - 1]
        chosen, rejected = lm.score(last).squeeze(-1).chunk(2)
        (-torch.nn.functional.logsigmoid(chosen - rejected).mean()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        tokens += int(mask.sum())
    return {"seconds": seconds, "tokens": tokens / steps, "reference": 0.0}


def child(args: argparse.Namespace, what: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    from playground.models import catalog

    if what == "other" and args.stage == "dpo":
        folder = str(catalog.prepare(args.model).folder)
        command = [sys.executable, str(Path(args.peers) / "trl_baseline.py"), "dpo", "--model", folder]
        command += ["--steps", str(args.steps), "--rows", str(args.rows)]
        with tempfile.TemporaryDirectory() as scratch:
            done = subprocess.run(command, check=True, cwd=scratch, capture_output=True, text=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return {"median": found["seconds_per_step"], "tokens": found["tokens_per_step"], "reference": 0.0}
    command = [sys.executable, __file__, args.stage, "--only", what, "--model", args.model]
    command += ["--steps", str(args.steps), "--rows", str(args.rows)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "median": statistics.median(found["seconds"][1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["dpo", "reward"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peers", default=str(ROOT.parent / "shared" / "peers"))
    parser.add_argument("--only", choices=["ours", "other"], help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    if args.only:
        found = raw_reward(args.model, args.steps, args.rows) if args.only == "other" else None
        print(json.dumps(found or ours(args.stage, args.model, args.steps, args.rows)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "other": []}
    for number in range(args.rounds):
        for what in rounds:
            rounds[what].append(child(args, what))
            if not args.json:
                print(f"round {number + 1}: {what} {rounds[what][-1]['median']:.2f} s a step", file=sys.stderr)
    median = {what: statistics.median(found["median"] for found in all_) for what, all_ in rounds.items()}
    result = {
        "stage": args.stage,
        "speedup": round(median["other"] / median["ours"], 3),
        "ratio": round(median["ours"] / median["other"], 3),
        "seconds_per_step": median,
        "tokens_per_step": {what: all_[0]["tokens"] for what, all_ in rounds.items()},
    }
    if args.stage == "dpo":
        result["reference_seconds_per_pair"] = statistics.median(found["reference"] for found in rounds["ours"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
