"""Evaluate a checkpoint on prompts it has not seen: does it keep the manner, and what did that cost in facts?

Answers are greedy, so that the same checkpoint gives the same rates. Every rate comes with its 95% Wilson interval.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from playground.data.library import Dataset
from playground.data.readers import DataError
from playground.models.catalog import Base, Progress, silent
from playground.runs.run import Run
from playground.stages import checks
from playground.statistics import Rate, wilson

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Evaluation:
    """Answers to the held-out prompts and what was measured on them."""

    checks: dict[str, Rate]
    facts: Rate | None
    answers: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The evaluation as the command line prints it."""
        return {
            "checks": {name: rate._asdict() for name, rate in self.checks.items()},
            "facts": self.facts._asdict() if self.facts else None,
            "answers": self.answers,
        }

    def words(self) -> list[str]:
        """Every rate with its interval, a line each."""
        lines = [f"{name}: {rate}" for name, rate in self.checks.items()]
        return lines + ([f"facts: {self.facts}"] if self.facts else [])


def evaluate(
    base: Base, run: Run | None, dataset: Dataset, progress: Progress = silent, limits: dict[str, Any] | None = None
) -> Evaluation:
    """Asks `run`'s checkpoint (None: the base itself) the dataset's held-out prompts and its factual probe.

    limits: the checks, where they are not the dataset's own.
    """
    from playground.data.rendering import Renderer
    from playground.models import loading
    from playground.models.adapters import open_adapters
    from playground.models.decode import Sampling, answers

    limits = limits or dataset.checks()
    if not limits:
        raise DataError(f"{dataset.name} has no checks of its own; name a YAML file of checks to measure it against.")
    checks.check("", limits)  # a misspelt check is told before the answers are made, not after
    prompts = [_question(row.messages) for row in dataset.rows("heldout")]
    if not prompts:
        raise DataError(f"{dataset.name} holds nothing out to ask: it has fewer than ten different questions.")
    facts = dataset.facts()
    progress("Loading the model", None)
    renderer = Renderer(base.folder)
    model: Any = loading.load_base(base, loading.placement("none"))
    ends = loading.eos_ids(model, renderer.eos_id)
    if run is not None:
        model = open_adapters(model, run.id, run.adapter).model

    def ask(questions: list[list[dict[str, str]]], what: str, tell: Callable[[str, float | None], None]) -> list[str]:
        ids = [renderer.prompt_ids(messages) for messages in questions]
        found = answers(
            model,
            ids,
            ends,
            Sampling(MAX_NEW_TOKENS),
            lambda done: tell(f"{what}: {done} of {len(ids)}", done / len(ids)),
        )
        return [renderer.decode(answer).strip() for answer in found]

    said = ask(prompts, "Held-out prompts", progress)
    stated = ask([[{"role": "user", "content": fact["prompt"]}] for fact in facts], "Factual probe", progress)
    right = [checks.states_fact(answer, fact["accept"]) for answer, fact in zip(stated, facts, strict=True)]
    rows = [
        {"prompt": prompt[-1]["content"], "answer": answer, "passes": checks.check(answer, limits)}
        for prompt, answer in zip(prompts, said, strict=True)
    ]
    return Evaluation(checks.rates(said, limits), wilson(sum(right), len(right)) if right else None, rows)


def _question(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation up to its last answer."""
    return messages[:-1]
