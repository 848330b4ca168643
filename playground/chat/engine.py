"""Several checkpoints of one base answer side by side, from one copy of its weights, streaming together.

The server loads this on the first chat. One answer is made at a time; others wait their turn. On CPU the base is
whole fp32 whatever the run was trained on: 4-bit weights decode nine times slower.
"""

from collections.abc import Callable, Iterator, Sequence

from playground.chat import resident
from playground.chat.resident import MAX_ADAPTERS
from playground.data.rendering import Message
from playground.models.catalog import ModelError, Progress, silent
from playground.models.decode import Sampling, decode
from playground.runs.run import Run

MAX_PROMPT_TOKENS = 4096


def busy() -> bool:
    """True while somebody's answer is being written."""
    return resident.turn.locked()


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
    if scorer := next((run for run in columns if run and run.request["stage"] == "reward"), None):
        raise ModelError(f"{scorer.name} is a reward model: it gives scores, not answers. Use it in the Score tab.")
    with resident.my_turn(should_stop) as mine:
        if not mine:
            return
        identity = next((run.request["base_identity"] for run in columns if run), None)
        loaded = resident.load(ref, identity, progress)
        roles = [resident.attach(loaded, run) for run in columns]
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
