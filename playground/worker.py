"""The detached process that takes queued runs one by one: `python -m playground.worker`.

Each run gets a process of its own (`python -m playground.worker RUN_ID`): trainers leave patched models and global
state behind, and a run that the system kills for memory must not take the queue with it. This module supervises; the
stage works.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import filelock
import psutil

from playground.runs.queue import leaving_mark, queued, worker_environment, worker_lock
from playground.runs.run import Run, list_runs
from playground.stages.inputs import Stopped

_leaving = threading.Event()  # set by SIGTERM: what is queued stays queued for the next worker


def main() -> None:
    """Takes queued runs until none is left. A second worker finds the lock taken and leaves."""
    while True:
        try:
            with worker_lock():
                leaving_mark().unlink(missing_ok=True)
                _wait_for_orphan()
                _close_abandoned()
                while (waiting := queued()) and not _leaving.is_set():
                    with contextlib.suppress(FileNotFoundError):  # deleted between the look and the start
                        supervise(waiting[0])
        except filelock.Timeout:
            if not leaving_mark().exists():
                return
            time.sleep(0.2)  # the other one has been told to end: what is queued is for us
            continue
        if _leaving.is_set() or not queued():  # one may have been queued between the last look and the lock's release
            return


def supervise(run: Run) -> None:
    """Runs one stage in a child process and writes how it ended where the child could not."""
    if run.stop_requested():
        run.update(state="stopped", phase="ended", message="Stopped before it started.")
        return
    with (run.folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "playground.worker", run.id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=worker_environment(),
        )
    started = psutil.Process(child.pid).create_time()
    run.update(state="running", phase="starting", pid=child.pid, pid_started=started, message="")

    def leave(*_: object) -> None:
        _leaving.set()
        leaving_mark().touch()
        run.request_stop()

    signal.signal(signal.SIGTERM, leave)
    code = child.wait()
    if run.status().state == "interrupted":
        reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        hint = " This is what running out of memory looks like." if code == -signal.SIGKILL else ""
        run.update(state="interrupted", phase="ended", eta=None, message=f"The training process was {reason}.{hint}")


def work(run: Run) -> None:
    """The child: calls the stage's main and writes the final state."""
    _give_way()
    signal.signal(signal.SIGTERM, lambda *_: run.request_stop())
    _wait_for_supervisor(run)
    try:
        from playground.stages.recipes import resolve

        request = resolve(run)
        stage = importlib.import_module(f"playground.stages.{request['stage']}")
        stage.main(stage.Settings.parse(request["settings"]), run)
    except Stopped:
        run.update(
            state="stopped", phase="ended", eta=None, message="Stopped before the first step; nothing was saved."
        )
        return
    except Exception as error:
        traceback.print_exc()
        run.update(state="failed", phase="ended", eta=None, message=_words(error)[:1000])
        sys.exit(1)
    status = run.status()
    complete = 0 < status.total <= status.step
    stopped = run.stop_requested() and not complete
    run.update(state="stopped" if stopped else "finished", phase="ended", eta=None)


def _give_way() -> None:
    """Chat and the page stay quick while a run has both cores. Linux may weigh whole sessions against each other, and a
    process's own niceness only within its session: then the session's counts."""
    os.nice(5)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("5")


def _words(error: Exception) -> str:
    """An error for a person: our own sentences as they are, memory in words, anything else with its type."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "Too little memory for this run: lower the batch size or the longest row, or choose nf4 base weights."
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _wait_for_supervisor(run: Run) -> None:
    """The supervisor writes our pid; a first update of ours before that would be lost under it."""
    for _ in range(200):
        if run.status().pid == os.getpid():
            return
        time.sleep(0.01)


def _wait_for_orphan() -> None:
    """A run that outlived its worker goes on alone; two at a time would be too much for a small machine."""
    while any(run.status().state == "running" for run in list_runs()):
        time.sleep(0.5)


def _close_abandoned() -> None:
    """Runs whose process died together with its worker are written down as interrupted."""
    for run in list_runs():
        status = run.status()
        if status.state == "interrupted":
            run.update(state="interrupted", phase="ended", eta=None, message=status.message)


if __name__ == "__main__":
    work(Run(sys.argv[1])) if len(sys.argv) > 1 else main()
