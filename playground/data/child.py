"""A child process with limits of its own, for data that only large libraries can read.

Such a library may crash, or unpack a few kilobytes to gigabytes: only a process has a memory limit, a clock and an end
of its own. The child is a module of ours run as a program; it prints one JSON object a line, a row or an error.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playground.data.records import DataError

_KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT")  # no tokens
_LOOK = 0.1  # seconds between two looks at a working child


class Ended(Exception):
    """The child broke down, or reached one of its limits."""


class Stopped(Exception):
    """The person who waited stopped it."""


def records(
    module: str,
    arguments: list[str],
    seconds: int,
    env: dict[str, str] | None = None,
    progress: Callable[[int], None] = lambda lines: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """What `python -m module arguments` prints; DataError where it says why it can't go on."""
    lines_so_far = 0
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed.jsonl"
        with printed.open("wb") as out, printed.open("rb") as written:
            quiet = subprocess.DEVNULL
            env = _environment(folder) | (env or {})
            with subprocess.Popen(command, cwd=folder, env=env, stdin=quiet, stdout=out, stderr=quiet) as process:
                try:
                    for _ in _waiting(process, time.monotonic() + seconds, stop):
                        lines_so_far += written.read().count(b"\n")
                        progress(lines_so_far)
                finally:
                    process.kill()
        if process.returncode:
            raise Ended
        with printed.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    raise Ended from None
                if "error" in record:
                    raise DataError(record["error"])
                yield record


def _waiting(process: subprocess.Popen[bytes], end: float, stop: Callable[[], bool]) -> Iterator[None]:
    """A moment to look at the child, again and again until it ends by itself."""
    while True:
        try:
            process.wait(_LOOK)
            return
        except subprocess.TimeoutExpired:
            yield
        if stop():
            raise Stopped
        if time.monotonic() > end:
            raise Ended


def _environment(folder: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    kept |= {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "TMPDIR": folder,
    }
    # The stacks of one thread per core would count towards the memory limit.
    return kept | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def limit(seconds: int, memory: int, written: int) -> None:
    """The child's first act: limits that the system holds it to. Windows knows none of them."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))


def tell(record: dict[str, Any]) -> int:
    """Prints one line for the parent; returns the memory that it takes there: one emoji makes a text four times as
    large as its bytes are."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    sys.stdout.write(line)
    return sys.getsizeof(line)
