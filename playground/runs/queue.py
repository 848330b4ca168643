"""The queue: queued run folders in order of creation, and one detached worker process that takes them.

The worker holds a file lock while it lives, so there is never more than one; it ends when nothing is queued. Starting
one too many is harmless: it finds the lock taken and leaves.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock

from playground.home import home
from playground.runs.run import Run, list_runs

# Beginnings of the names of variables that a training process may see.
PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_",
    "TZ",
    "TMP",
    "TEMP",
    "PYTHON",
    "VIRTUAL_ENV",
    "LD_",
    "XDG_",
    "PLAYGROUND_",
    "PIP_",
    "UV_",
    "SSL_",
    "REQUESTS_CA",
    "CURL_CA",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "CUDA_",
    "NVIDIA_",
    "TORCH",
    "PYTORCH_",
    "BNB_",
    "TRITON_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "SYSTEMROOT",
)


def queued() -> list[Run]:
    """Runs that the worker can take, oldest first: those that build on a run that has not finished wait for it."""
    return [run for run in list_runs() if run.status().state == "queued" and not waits_for(run)]


def waits_for(run: Run) -> list[Run]:
    """The runs that this one builds on and that have not finished. One that was deleted is not waited for."""
    needed = [Run(other) for other in (run.request.get("waits_for") or {}).values()]
    there = [other for other in dict.fromkeys(needed) if (other.folder / "run.json").exists()]
    return [other for other in there if other.status().state != "finished"]


def worker_lock() -> filelock.BaseFileLock:
    """The lock that the living worker holds."""
    return filelock.FileLock(home() / "worker.lock", timeout=0)


def leaving_mark() -> Path:
    """The file that a worker writes when it is told to end, so that the next one waits for the lock."""
    return home() / "worker.leaving"


def start_worker() -> None:
    """Starts the worker in a session of its own, so that it outlives the page, the server and the terminal."""
    with (home() / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "playground.worker"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=worker_environment(),
        )
    threading.Thread(target=worker.wait, daemon=True).start()  # collects it when it ends: no zombie stays behind


def worker_environment() -> dict[str, str]:
    """The environment of training processes: only names that they need, so no secret of the host is among them.

    The server's OMP_WAIT_POLICY stays behind: waiting passively keeps a chat quick beside a run, but slows training.
    glibc is told to keep freed memory: giving each step's activations back and faulting them in anew costs a sixth.
    Of several GPUs a run sees the first: a quantized base can't be spread by the trainers, which would try.
    """
    kept = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)}
    keeping = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
    kept.pop("OMP_WAIT_POLICY", None)
    kept["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {**kept, **quiet, **keeping, "PYTHONPATH": path}
