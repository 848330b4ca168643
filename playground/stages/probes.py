"""Probe prompts: the same few questions answered while training, so that a person sees the model change."""

from collections.abc import Callable
from typing import Any

from playground.data.rendering import Renderer
from playground.models.decode import Sampling, answers
from playground.models.loading import eos_ids
from playground.runs.run import Run


def prober(renderer: Renderer, prompts: list[str], tokens: int, run: Run) -> Callable[[Any, int], None]:
    """A function that answers the prompts greedily with the model as it is now and writes them to samples.jsonl."""
    encoded = [renderer.prompt_ids([{"role": "user", "content": prompt}]) for prompt in prompts]

    def probe(model: Any, step: int) -> None:
        if not prompts:
            return
        run.update(phase="answering the probe prompts")
        was_training = model.training
        model.eval()
        ends = eos_ids(model.get_base_model(), renderer.eos_id)
        for prompt, ids in zip(
            prompts, answers(model, encoded, ends, Sampling(tokens), should_stop=run.stop_requested), strict=True
        ):
            run.sample(step, prompt, renderer.decode(ids))
        model.train(was_training)

    return probe


def prompts_of(text: str) -> list[str]:
    """The first five lines that say something."""
    return [line.strip() for line in text.splitlines() if line.strip()][:5]
