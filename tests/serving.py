"""app.py in a process of its own, as a newcomer starts it, on a free port and in a home of the test's."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def serve(home: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """(address, process) of a server whose page answers; it is ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "PLAYGROUND_HOME": str(home), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    log = home / "server.log"
    with log.open("ab") as file:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_answered(url, process, log)
        yield url, process
    finally:
        process.terminate()
        process.wait(30)


def watch(page: Page, server: str, problems: list[str]) -> None:
    """Adds what fails in a page, and every request that leaves this machine, to the problems."""
    local = (server, "data:", "blob:")
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith(local) else problems.append(f"left: {asked.url}"))


def laid_out(build: Callable[[], Any]) -> tuple[gr.Blocks, Any]:
    """(blocks, what a function returned that laid out a part of the page in them), in a loop that is closed again.

    Gradio makes a loop for the blocks where none is running, and leaves it open. In a thread of its own, because the
    browser tests leave a running one in this thread.
    """

    async def lay_out() -> tuple[gr.Blocks, Any]:
        with gr.Blocks(title="Alignment Playground", fill_width=True) as blocks:
            return blocks, build()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(lay_out())).result()


def wait_for(condition: Callable[[], object], seconds: float = 600) -> None:
    """Waits until something holds that another process brings about; a slow machine is no failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def _wait_until_answered(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(480):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
    pytest.fail("the page did not open")
