"""Seconds and peak memory of 50,000 ordinary rows on their way in, and of hostile files with --hostile.

    python tests/benchmarks/data.py
    python tests/benchmarks/data.py --hostile

`read` is from the file to records, `examine` to the row report, `tokens` the first 5,000 kept rows under the embedded
model's template; each format in a process of its own. The memory of `read` and `examine` includes what they return.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
WORDS = ["why", "is", "the", "sky", "blue", "and", "what", "would", "you", "say", "to", "a", "friend", "who", "asks"]


def rows(count: int) -> list[dict[str, Any]]:
    """Preference pairs of ordinary length, about 300 bytes each."""
    chance = random.Random(0)
    lengths = {"prompt": 15, "chosen": 24, "rejected": 24}
    return [
        {name: f"{i} " + " ".join(chance.choices(WORDS, k=length)) for name, length in lengths.items()}
        for i in range(count)
    ]


def write(path: Path, content: list[dict[str, Any]]) -> None:
    """The rows in the format that the file's name says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, content[0])
            writer.writeheader()
            writer.writerows(content)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(content), path)


def peak() -> int:
    """This process's peak memory so far in bytes."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def measured(path: Path) -> dict[str, Any]:
    """What one file costs in this process."""
    from playground.data.readers import read_file
    from playground.data.rendering import Renderer
    from playground.data.report import examine
    from playground.data.tokens import measure
    from playground.models import catalog

    before, begun = peak(), time.perf_counter()
    raw = read_file(path)
    read, read_peak = time.perf_counter(), peak()
    report = examine(raw)
    examined, examined_peak = time.perf_counter(), peak()
    renderer = Renderer(catalog.prepare("embedded").folder)
    ready = time.perf_counter()
    measure(report.kept[:5000], renderer, 512)
    return {
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "rows": len(raw),
        "read_seconds": round(read - begun, 2),
        "read_mb": round((read_peak - before) / 1e6),
        "examine_seconds": round(examined - read, 2),
        "examine_mb": round((examined_peak - before) / 1e6),
        "tokens_seconds": round(time.perf_counter() - ready, 2),
    }


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--hostile", action="store_true", help="hostile files instead")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.hostile:
            import hostile

            for what, content in hostile.FILES.items():
                (path := Path(folder) / "upload").write_bytes(content())
                found[what] = hostile.cost(path)
        else:
            content = rows(args.rows)
            for suffix in ("jsonl", "csv", "parquet"):
                write(path := Path(folder) / f"rows.{suffix}", content)
                command = [sys.executable, __file__, "--one", str(path)]
                found[suffix] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
