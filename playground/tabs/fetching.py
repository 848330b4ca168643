"""Fetching a model in a process of its own, so that the page opens at once and a closed page doesn't matter."""

import subprocess
import sys

from playground.home import home
from playground.models import catalog
from playground.runs.queue import worker_environment

_processes: dict[str, subprocess.Popen[bytes]] = {}


def start(ref: str) -> None:
    """Starts fetching unless it is under way; two servers at once are kept apart by the conversion's own lock."""
    process = _processes.get(ref)
    if process is None or process.poll() is not None:
        with (home() / "fetch.log").open("wb") as log:
            _processes[ref] = subprocess.Popen(
                [sys.executable, "-m", "playground", "models", "--fetch", ref],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                env=worker_environment(),
            )


def status() -> str:
    """What the fetch under way says last, or why the last one failed; empty if there is nothing to tell."""
    for ref, process in _processes.items():
        if process.poll() is None:
            return _last_line() or f"Preparing {ref}"
        if process.returncode:
            return _last_line()
    return ""


def ready_or_fetch(ref: str) -> str | None:
    """None if the model can be used now; else a sentence to show, and fetching has begun."""
    if catalog.is_ready(ref) or _fetched(ref):
        return None
    start(ref)
    name = "the embedded model" if ref == catalog.EMBEDDED else ref
    return f"Fetching {name} first. The line at the top of the page shows how far it is; try again once it is gone."


def _fetched(ref: str) -> bool:
    """True if a fetch of this server has ended well; for a Hub id or a .gguf file nothing else tells."""
    process = _processes.get(ref)
    return process is not None and process.poll() == 0


def _last_line() -> str:
    path = home() / "fetch.log"
    if not path.exists():
        return ""
    said = path.read_bytes()[-4000:].decode("utf-8", errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(said) if line.strip()), "")
