"""The one base that the server keeps in memory, with the adapters attached to it so far: chat and scores share it.

It is loaded with the first question. One thing at a time uses it; others wait their turn.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from playground.data.rendering import Renderer
from playground.models import catalog, loading
from playground.models.adapters import Adapters, check_adapter, open_adapters
from playground.models.catalog import Base, ModelError, Progress
from playground.models.decode import favour_small_batches
from playground.runs.run import Run

MAX_ADAPTERS = 4


@dataclass
class Loaded:
    """The base in memory with the adapters attached so far, least recently used first."""

    base: Base
    where: loading.Placement
    model: Any
    renderer: Renderer
    ends: set[int]
    adapters: Adapters | None = None
    names: "OrderedDict[str, float]" = field(default_factory=OrderedDict)


turn = threading.Lock()
_loaded: Loaded | None = None


@contextmanager
def my_turn(should_stop: Callable[[], bool]) -> Iterator[bool]:
    """Holds `turn`; yields False, without holding it, to someone who gave up while waiting."""
    while not (mine := turn.acquire(timeout=0.2)) and not should_stop():
        pass
    try:
        yield mine
    finally:
        if mine:
            turn.release()


def load(ref: str, identity: str | None, progress: Progress, quantization: str = "auto") -> Loaded:
    """The base in memory, loaded now if it is another one than last time. Call it while holding `turn`."""
    global _loaded
    base, where = catalog.prepare(ref, progress, identity), loading.placement(quantization)
    if _loaded is None or (_loaded.base.identity, _loaded.where) != (base.identity, where):
        forget()
        progress(f"Loading {base.title}", None)
        model = loading.load_base(base, where)
        favour_small_batches(model)
        renderer = Renderer(base.folder)
        _loaded = Loaded(base, where, model, renderer, loading.eos_ids(model, renderer.eos_id))
    return _loaded


def attach(loaded: Loaded, run: Run | None) -> str | None:
    """The role's name of a run's adapter, which is loaded if it is not there or was trained further since."""
    if run is None:
        return None
    request = run.request
    if request["base_identity"] != loaded.base.identity:
        raise ModelError(f"{run.name} was trained on {request['base_title']}, not on {loaded.base.title}.")
    check_adapter(run.adapter)
    saved = (run.adapter / "adapter_model.safetensors").stat().st_mtime
    if loaded.names.get(run.id) == saved:
        loaded.names.move_to_end(run.id)
        return run.id
    try:
        _bring_in(loaded, run)
    except Exception as error:  # PEFT fails in many ways and leaves half an adapter behind: start afresh next time
        forget()
        raise ModelError(f"The weights of {run.name} can't be loaded: {str(error)[:200]}") from error
    loaded.names[run.id] = saved
    return run.id


def _bring_in(loaded: Loaded, run: Run) -> None:
    """Attaches the run's adapter in place of an older state of it, or of the least recently used one."""
    if loaded.adapters is None:
        loaded.adapters = open_adapters(loaded.model, run.id, run.adapter)
        return
    if run.id in loaded.names:
        loaded.adapters.drop(run.id)
    elif len(loaded.names) >= MAX_ADAPTERS:
        oldest, _ = loaded.names.popitem(last=False)
        loaded.adapters.drop(oldest)
    loaded.adapters.load(run.id, run.adapter)


def forget() -> None:
    """Frees the base and its adapters; the next question loads them again."""
    global _loaded
    _loaded = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # a training process may need it
