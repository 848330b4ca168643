"""Several checkpoints of one base answer side by side, from one copy of its weights, streaming together.

The server loads this on the first chat. One answer is made at a time; others wait their turn. On CPU the base is
whole fp32 whatever the run was trained on: 4-bit weights decode nine times slower.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from playground.data.rendering import Message, Renderer
from playground.models import catalog, loading
from playground.models.adapters import Adapters, check_adapter, open_adapters
from playground.models.catalog import Base, ModelError, Progress, silent
from playground.models.decode import Sampling, decode, favour_small_batches
from playground.runs.run import Run

MAX_ADAPTERS = 4
MAX_PROMPT_TOKENS = 4096


@dataclass
class Loaded:
    """The base in memory with the adapters attached so far, least recently used first."""

    base: Base
    model: Any
    renderer: Renderer
    ends: set[int]
    adapters: Adapters | None = None
    names: "OrderedDict[str, float]" = field(default_factory=OrderedDict)


_turn = threading.Lock()
_loaded: Loaded | None = None


def busy() -> bool:
    """True while somebody's answer is being written."""
    return _turn.locked()


def reply(
    ref: str,
    columns: Sequence[Run | None],
    histories: Sequence[list[Message]],
    sampling: Sampling,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[list[str]]:
    """Yields the answers so far, one text a column. columns[i] is a run, or None for the base itself; histories[i] ends
    with the user's message."""
    if len({run.id for run in columns if run}) > MAX_ADAPTERS:
        raise ModelError(f"{MAX_ADAPTERS} runs at most can answer at once; ask the others afterwards.")
    with _turn:
        identity = next((run.request["base_identity"] for run in columns if run), None)
        loaded = _load(ref, identity, progress)
        roles = [_attach(loaded, run) for run in columns]
        prompts = [loaded.renderer.prompt_ids(history) for history in histories]
        most = loaded.model.config.max_position_embeddings
        if sampling.max_new_tokens >= most:
            raise ModelError(f"The longest answer must be under {most} tokens, which is all this model can hold.")
        room = min(MAX_PROMPT_TOKENS, most - sampling.max_new_tokens)
        if (longest := max(map(len, prompts))) > room:
            raise ModelError(f"This conversation is {longest} tokens long, {room} at most; start a new one.")
        tokens: list[list[int]] = [[] for _ in columns]
        model = loaded.adapters.model if loaded.adapters else loaded.model
        who = (loaded.adapters, roles) if loaded.adapters else None
        for step in decode(model, prompts, loaded.ends, sampling, who, should_stop):
            for column, token in step.items():
                if token not in loaded.ends:
                    tokens[column].append(token)
            yield [loaded.renderer.decode(ids) for ids in tokens]


def _load(ref: str, identity: str | None, progress: Progress) -> Loaded:
    """The base in memory, loaded now if it is another one than last time."""
    global _loaded
    base = catalog.prepare(ref, progress, identity)
    if _loaded is None or _loaded.base.identity != base.identity:
        _loaded = None  # frees the other base first
        progress(f"Loading {base.title}", None)
        model = loading.load_base(base, loading.placement("auto"))
        favour_small_batches(model)
        renderer = Renderer(base.folder)
        _loaded = Loaded(base, model, renderer, loading.eos_ids(model, renderer.eos_id))
    return _loaded


def _attach(loaded: Loaded, run: Run | None) -> str | None:
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
        _forget()
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


def _forget() -> None:
    """Frees the base and its adapters; the next question loads them again."""
    global _loaded
    _loaded = None
