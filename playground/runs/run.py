"""A run is a folder: the API, the history and the bug report of one piece of work.

`run.json` (what was asked), `status.json` (where it is), `metrics.jsonl`, `samples.jsonl`, `log.txt`, `checkpoints/`,
`adapter/`, `receipt.json` (how it ended). Whoever writes and whoever reads share only these files, so a closed page,
a second browser or a restarted server change nothing. No database.
"""

import contextlib
import json
import math
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from playground.home import clean_name, free_name, home, write_atomically

ID = re.compile(r"run_[0-9a-f]{12}")
ACTIVE = ("queued", "running")


class RunError(ValueError):
    """A run that can't be found, named or acted on; the text says what to do."""


@dataclass(frozen=True)
class Status:
    """Where a run is. `eta` in seconds, `heartbeat` in seconds since the epoch."""

    state: str = "queued"
    phase: str = "waiting"
    step: int = 0
    total: int = 0
    eta: float | None = None
    heartbeat: float = 0.0
    message: str = ""
    pid: int | None = None
    pid_started: float | None = None

    @property
    def active(self) -> bool:
        """True while it waits or runs."""
        return self.state in ACTIVE


class Run:
    """One run folder. Cheap to make: nothing is kept in memory."""

    def __init__(self, run_id: str):
        if not ID.fullmatch(run_id):
            raise RunError(f"{run_id[:40]!r} is not a run id.")
        self.id = run_id
        self.folder = runs_root() / run_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def request(self) -> dict[str, Any]:
        """run.json: what was asked for."""
        try:
            return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"There is no run {self.id}; it may have been deleted.") from None
        except ValueError:
            raise RunError(f"The run.json of {self.id} is damaged.") from None

    @property
    def name(self) -> str:
        """What a person called it."""
        return self.request["name"]

    @property
    def adapter(self) -> Path:
        """The folder of the trained LoRA weights; it exists once something was saved."""
        return self.folder / "adapter"

    def status(self) -> Status:
        """The written status; `running` whose process is gone reads as `interrupted`."""
        if (status := self._written()) is None:
            return Status(state="interrupted", phase="ended", message="The run's status file is missing or damaged.")
        if status.state == "running" and not _alive(status.pid, status.pid_started):
            message = status.message or "The process ended without saying why."
            return replace(status, state="interrupted", phase="ended", eta=None, message=message)
        return status

    def _written(self) -> Status | None:
        """What status.json holds; None if it is missing or damaged, as after a power loss."""
        try:
            return Status(**json.loads((self.folder / "status.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def update(self, **changes: Any) -> None:
        """Replaces fields of status.json in one step and marks the heartbeat."""
        status = replace(self._written() or Status(), **changes, heartbeat=time.time())
        write_atomically(self.folder / "status.json", json.dumps(asdict(status)))

    def log(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Appends one event to metrics.jsonl; NaN and infinities are written as null."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._append("metrics.jsonl", {"kind": kind, "step": step, "t": round(time.time(), 3), "values": clean})

    def sample(self, step: int, prompt: str, answer: str) -> None:
        """Appends a probe prompt's answer, as the model gave it at this step."""
        self._append("samples.jsonl", {"step": step, "prompt": prompt, "answer": answer})

    def rollout(self, step: int, row: dict[str, Any]) -> None:
        """Appends one answer that the model wrote while training, with what it earned."""
        self._append("rollouts.jsonl", {"step": step, **row})

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every event in metrics.jsonl, oldest first."""
        return list(_lines(self.folder / "metrics.jsonl"))

    def samples(self) -> list[dict[str, Any]]:
        """Every probe answer in samples.jsonl, oldest first."""
        return list(_lines(self.folder / "samples.jsonl"))

    def rollouts(self, step: int | None = None) -> list[dict[str, Any]]:
        """The answers in rollouts.jsonl, oldest first, of one step or of all."""
        return [row for row in _lines(self.folder / "rollouts.jsonl") if step in (None, row["step"])]

    def forget_after(self, step: int) -> None:
        """Drops what was written of later steps: a run that was killed makes it anew from its checkpoint."""
        for name in ("metrics.jsonl", "samples.jsonl", "rollouts.jsonl"):
            rows = _lines(self.folder / name)
            kept = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["step"] <= step]
            write_atomically(self.folder / name, "".join(kept))

    def log_tail(self, characters: int = 4000) -> str:
        """The end of log.txt."""
        try:
            with (self.folder / "log.txt").open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - characters))
                return file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def receipt(self) -> dict[str, Any]:
        """How the run ended: metrics and what was measured; empty while it has not."""
        path = self.folder / "receipt.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write_request(self, request: dict[str, Any]) -> None:
        """Fills in what could not be known when the run was asked for."""
        write_atomically(self.folder / "run.json", json.dumps(request, indent=1, ensure_ascii=False))

    def write_receipt(self, receipt: dict[str, Any]) -> None:
        """Writes what came of the run, in one step."""
        write_atomically(self.folder / "receipt.json", json.dumps(receipt, indent=1, ensure_ascii=False))

    def proofs(self) -> list[dict[str, Any]]:
        """What was proven before the first update: name, passed, words."""
        path = self.folder / "proofs.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def write_proofs(self, proofs: list[dict[str, Any]]) -> None:
        """Writes what was proven before the first step, in one step."""
        write_atomically(self.folder / "proofs.json", json.dumps(proofs, indent=1, ensure_ascii=False))

    def revision(self) -> tuple[float, ...]:
        """Changes whenever something in the folder that a page shows has changed."""
        names = ("status.json", "metrics.jsonl", "samples.jsonl", "log.txt", "receipt.json", "proofs.json")
        return tuple((self.folder / n).stat().st_mtime if (self.folder / n).exists() else 0.0 for n in names)

    def request_stop(self) -> None:
        """Asks the run to finish its step, save and end as `stopped`; a queued one ends at once."""
        (self.folder / "stop").touch()
        if self.status().state == "queued":
            self.update(state="stopped", phase="ended", message="Stopped before it started.")

    def stop_requested(self) -> bool:
        """True once somebody asked it to stop."""
        return (self.folder / "stop").exists()

    def requeue(self) -> None:
        """Puts an ended run back in the queue, to go on from its last checkpoint."""
        if self.status().state not in ("interrupted", "stopped", "failed"):
            raise RunError(f"Run {self.name} is {self.status().state}: only a run that ended early can be resumed.")
        (self.folder / "stop").unlink(missing_ok=True)
        self.update(state="queued", phase="waiting", eta=None, message="", pid=None, pid_started=None)

    def delete(self) -> None:
        """Removes the folder of a run that has ended."""
        if self.status().active:
            raise RunError(f"Run {self.name} is still {self.status().state}; stop it first.")
        for other in list_runs():
            needed = {(other.request.get(key) or {}).get("id") for key in ("parent", "reward", "judge")}
            needed |= set((other.request.get("waits_for") or {}).values())
            if self.id in needed and other.status().active:
                raise RunError(f"{other.name} needs {self.name} and has not ended; stop it first.")
        shutil.rmtree(self.folder)


def runs_root() -> Path:
    """The folder of all runs."""
    root = home() / "runs"
    root.mkdir(exist_ok=True)
    return root


def create(name: str, request: dict[str, Any]) -> Run:
    """A new run in state `queued`, its folder appearing complete in one step."""
    run = Run(f"run_{secrets.token_hex(6)}")
    part = runs_root() / f".{run.id}.part"
    part.mkdir()
    request = {"id": run.id, "name": unused_name(name), "created": time.time(), **request}
    (part / "run.json").write_text(json.dumps(request, indent=1, ensure_ascii=False), encoding="utf-8")
    (part / "status.json").write_text(json.dumps(asdict(Status(heartbeat=time.time()))), encoding="utf-8")
    part.rename(run.folder)
    return run


def list_runs() -> list[Run]:
    """Every run, oldest first."""
    created: dict[Run, float] = {}
    for path in runs_root().iterdir():
        if ID.fullmatch(path.name):
            with contextlib.suppress(RunError):  # damaged, or being deleted just now
                created[Run(path.name)] = Run(path.name).request["created"]
    return sorted(created, key=lambda run: created[run])


def find(reference: str) -> Run:
    """The run with this id or this name."""
    if ID.fullmatch(reference) and (runs_root() / reference / "run.json").exists():
        return Run(reference)
    for run in list_runs():
        if run.name == reference:
            return run
    known = ", ".join(run.name for run in list_runs()[-5:]) or "none yet"
    raise RunError(f"There is no run called {reference[:60]!r}. Latest runs: {known}.")


def unused_name(wanted: str) -> str:
    """`wanted`, cleaned, with a number behind it where a run has that name already; no run is called `base`."""
    return free_name(clean_name(wanted, "run"), {run.name for run in list_runs()} | {"base"})


def _alive(pid: int | None, started: float | None) -> bool:
    """True if that very process lives: a pid alone may have been given to another since."""
    try:
        process = psutil.Process(pid) if pid is not None else None
        if process is None or process.status() == psutil.STATUS_ZOMBIE:  # killed, and nobody has collected it
            return False
        return abs(process.create_time() - (started or 0)) < 1
    except psutil.Error:
        return False


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines of a file that may be missing; a line still being written, or cut by a crash, is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                with contextlib.suppress(ValueError):
                    yield json.loads(line)
