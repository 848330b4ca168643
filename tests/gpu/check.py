"""What only a GPU can show, in a few minutes: memory against its estimate, step-0 truths in bf16, training on NF4.

    python tests/gpu/check.py [--tiny] [--only ppo-1.5B,chat]

Models of real sizes are made here with random weights; nothing is fetched. Every part is a process of its own, with a
time budget, and writes down what it finds as it finds it, so that one that fails or hangs hides nothing of the others.
Prints one JSON document, which is also written to $OUT/gpu.json. `--tiny` walks the same way on a CPU, in bf16 on NF4
weights with activations recomputed, as on a GPU, but with two layers.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = {"stages": 130, "ppo-1.5B": 110, "chat": 80, "ppo-7B": 190}  # seconds at most, in this order
TOTAL = 420
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


def child(name: str, work: Path, tiny: bool) -> None:
    """One part, in this process; what it says is kept in a file as it comes."""
    sys.path[:0] = [str(ROOT), str(HERE)]
    found: dict[str, Any] = {}
    file, began = work / f"{name}.json", time.monotonic()

    def say(key: str, value: Any) -> None:
        found[key] = value
        file.write_text(json.dumps(found, default=str), encoding="utf-8")

    try:
        import parts

        parts.run(name, work, tiny, say)
    except BaseException:
        say("error", traceback.format_exc()[-3000:])
    say("seconds in all", round(time.monotonic() - began, 1))


def started(name: str, work: Path, tiny: bool, seconds: float) -> dict[str, Any]:
    """Runs one part in a process of its own; what it said, and how it ended where that is not its end."""
    command = [sys.executable, __file__, "--part", name, "--work", str(work), *(["--tiny"] if tiny else [])]
    homes = {"PLAYGROUND_HOME": str(work / "home"), "PLAYGROUND_CACHE": str(work / "cache")}
    ended: dict[str, Any] = {}
    with (work / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **QUIET, **homes}, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended["cut off"] = f"after {seconds:.0f} s"
    if process.returncode:
        tail = (work / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-1500:]
        ended |= {"exit code": process.returncode, "log": tail}
    if out := os.environ.get("OUT"):
        shutil.copyfile(work / f"{name}.log", Path(out, f"{name}.log"))
    said = work / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):  # it may have been killed in the middle of a word
        ended = {**json.loads(said.read_text(encoding="utf-8")), **ended}
    return ended


def room() -> str | None:
    """Where models of 18 GB go: into memory, where there is plenty of it, since a disk may be slow."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > 30e9 else None


def machine() -> dict[str, Any]:
    """What it ran on."""
    import importlib.metadata as metadata

    import torch

    packages = ("transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "tokenizers", "triton")
    packages = (*packages, "huggingface_hub", "pyarrow", "numpy")
    versions = {"python": sys.version.split()[0], "torch": torch.__version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    card: dict[str, Any] = {}
    if torch.cuda.is_available():
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            card["nvidia-smi"] = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return {"versions": versions, **card}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="two layers on a CPU")
    parser.add_argument("--only", default="", help="parts with commas between: " + ", ".join(PARTS))
    parser.add_argument("--total", type=float, default=TOTAL, help="seconds for all parts together")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        child(args.part, Path(args.work), args.tiny)
        return
    import torch

    if not torch.cuda.is_available() and not args.tiny:
        print(json.dumps({"skipped": "no CUDA"}))
        return
    wanted = [name for name in PARTS if not args.only or name in args.only.split(",")]
    began, found = time.monotonic(), {"machine": machine(), "parts": {}}
    with tempfile.TemporaryDirectory(dir=room()) as folder:
        for name in wanted:
            left = args.total - (time.monotonic() - began)
            if left < 20:
                found["parts"][name] = {"skipped": "no time left"}
            else:
                found["parts"][name] = started(name, Path(folder), args.tiny, min(PARTS[name], left))
            found["seconds"] = round(time.monotonic() - began, 1)
            if out := os.environ.get("OUT"):
                Path(out, "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
