"""A checkpoint that writes: the run's base, with its parent's adapter where it has one, answering in batches."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from playground.data.rendering import Message, Renderer
from playground.models import loading
from playground.models.adapters import Adapters, open_adapters
from playground.models.decode import Sampling, decode
from playground.runs.run import Run
from playground.stages.inputs import base_of, heed_stop, parent_of


@dataclass
class Writer:
    """One checkpoint in memory; role: the name of its adapter, None for the base itself."""

    model: Any
    renderer: Renderer
    ends: set[int]
    adapters: Adapters | None
    role: str | None
    should_stop: Callable[[], bool]

    def write(
        self,
        requests: Sequence[list[Message]],
        tokens: int,
        temperature: float,
        seeds: Sequence[int],
        tell: Callable[[float], None] = lambda share: None,
    ) -> list[tuple[str, bool]]:
        """(text, whether it came to its end) for each request, all in one batch; row i draws from seeds[i] alone."""
        prompts = [self.renderer.prompt_ids(request) for request in requests]
        answers: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        steps = 0
        with self.adapters.use(self.role) if self.adapters else nullcontext():
            sampling = Sampling(tokens, temperature)
            for step in decode(
                self.model, prompts, self.ends, sampling, should_stop=self.should_stop, seeds=list(seeds)
            ):
                for row, token in step.items():
                    if token in self.ends:
                        ended[row] = True
                    else:
                        answers[row].append(token)
                steps += 1
                if steps % 8 == 0:
                    tell(steps / tokens)
        return [(self.renderer.decode(ids).strip(), end) for ids, end in zip(answers, ended, strict=True)]


def open_writer(run: Run, quantization: str) -> Writer:
    """The checkpoint that a run was asked to write with: its parent, or the starting model."""
    base, parent = base_of(run), parent_of(run)
    heed_stop(run)
    run.update(phase="loading the model")
    model: Any = loading.load_base(base, loading.placement(quantization))
    renderer = Renderer(base.folder)
    ends = loading.eos_ids(model, renderer.eos_id)
    adapters = open_adapters(model, parent.id, parent.adapter) if parent else None
    role = parent.id if parent else None
    return Writer(adapters.model if adapters else model, renderer, ends, adapters, role, run.stop_requested)
