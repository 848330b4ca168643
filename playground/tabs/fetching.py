"""Fetching a model in a process of its own, so that the page opens at once and a closed page doesn't matter.

One fetch at a time: two would each count on the whole disk, and a small machine has only one line.
"""

import subprocess
import sys
import threading
from pathlib import Path

from playground.home import home
from playground.models import catalog
from playground.runs.queue import worker_environment

_lock = threading.Lock()
_ref = ""
_process: subprocess.Popen[bytes] | None = None


def status() -> str:
    """What the fetch under way says last, or why the last one failed; empty if there is nothing to tell."""
    with _lock:
        if _process is None or _process.poll() == 0:
            return ""
        return _last_line() or f"Preparing {_ref}"


def ready_or_fetch(ref: str) -> str | None:
    """None if the model can be used now; else a sentence to show, and fetching has begun."""
    global _process, _ref
    with _lock:
        if catalog.is_ready(ref) or (ref == _ref and _process is not None and _process.poll() == 0):
            return None
        if _process is not None and _process.poll() is None:
            if ref != _ref:
                return f"{_name(_ref)} is being fetched; ask for {_name(ref)} again when that is done."
        elif ref == _ref and _process is not None:  # it failed: say so once, and try again when asked again
            _process = None
            return f"Fetching {_name(ref)} failed. {_last_line()}"
        else:
            _ref, _process = ref, _start(ref)
    return (
        f"Fetching {_name(ref)} first. The line at the top of the page shows how far it is; try again once it is gone."
    )


def _start(ref: str) -> subprocess.Popen[bytes]:
    with _log().open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "playground", "models", "--fetch", ref],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            env=worker_environment(),
        )


def _name(ref: str) -> str:
    return "the embedded model" if ref == catalog.EMBEDDED else ref


def _log() -> Path:
    return home() / "fetch.log"


def _last_line() -> str:
    if not _log().exists():
        return ""
    said = _log().read_bytes()[-4000:].decode("utf-8", errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(said) if line.strip()), "")
