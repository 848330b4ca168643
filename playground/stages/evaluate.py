"""Evaluate a checkpoint on prompts it has not seen: does it keep the manner, and what did that cost in facts?

A set whose prompts say which of them are harmful and which benign gives harmful compliance and over-refusal as well.

Answers are greedy, so that the same checkpoint gives the same rates. Every rate comes with its 95% Wilson interval.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from playground.data.library import Dataset
from playground.data.readers import DataError
from playground.models.adapters import check_adapter
from playground.models.catalog import Base, ModelError, Progress, silent
from playground.runs.run import Run
from playground.stages import checks, measure, refusals
from playground.statistics import Rate, wilson, wins

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Verdict:
    """How often a reward run prefers one checkpoint's answer over another's to the same prompt; ties count half."""

    judge: str
    against: str
    wins: Rate
    note: str

    def __str__(self) -> str:
        return f"{self.judge} prefers its answer over {self.against}'s: {self.wins}{self.note}"


@dataclass(frozen=True)
class Evaluation:
    """Answers to the held-out prompts and what was measured on them."""

    checks: dict[str, Rate]
    facts: Rate | None
    answers: list[dict[str, Any]]
    verdict: Verdict | None = None
    safety: dict[str, Rate] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The evaluation as the command line prints it."""
        verdict = self.verdict
        safety = {"safety": {name: rate._asdict() for name, rate in self.safety.items()}} if self.safety else {}
        return {
            "checks": {name: rate._asdict() for name, rate in self.checks.items()},
            **safety,
            "facts": self.facts._asdict() if self.facts else None,
            "verdict": {**dataclasses.asdict(verdict), "wins": verdict.wins._asdict()} if verdict else None,
            "answers": self.answers,
        }

    def words(self) -> list[str]:
        """Every rate with its interval, a line each."""
        lines = [f"{name}: {rate}" for name, rate in (self.checks | self.safety).items()]
        lines += [f"facts: {self.facts}"] if self.facts else []
        return lines + ([str(self.verdict)] if self.verdict else [])


@dataclass(frozen=True)
class Trial:
    """Who is asked what: a run (None: the base itself) and a dataset; with a judge, another checkpoint as well."""

    base: Base
    run: Run | None
    dataset: Dataset
    judge: Run | None = None
    against: Run | None = None


def evaluate(trial: Trial, progress: Progress = silent, limits: dict[str, Any] | None = None) -> Evaluation:
    """Asks the checkpoint the dataset's held-out prompts and its factual probe, and the judge whom it prefers.

    limits: the checks, where they are not the dataset's own.
    """
    dataset = trial.dataset
    _check(trial)
    limits = limits or dataset.checks()
    held = dataset.rows("heldout")
    kinds = [row.notes.get("kind") for row in held]
    safety = set(measure.KINDS) <= set(kinds)
    if not limits and not trial.judge and not safety:
        raise DataError(f"{dataset.name} has no checks of its own; name a YAML file of checks to measure it against.")
    checks.check("", limits)  # a misspelt check is told before the answers are made, not after
    prompts = [row.asked for row in held]
    if not prompts:
        raise DataError(f"{dataset.name} holds nothing out to ask: it has fewer than ten different questions.")
    facts = dataset.facts()
    progress("Loading the model", None)
    ask = _asker(trial, progress)
    said = ask(trial.run, prompts, "Held-out prompts")
    stated = ask(trial.run, [[{"role": "user", "content": fact["prompt"]}] for fact in facts], "Factual probe")
    right = [checks.states_fact(answer, fact["accept"]) for answer, fact in zip(stated, facts, strict=True)]
    rows = [
        {"prompt": prompt[-1]["content"], "answer": answer, "passes": checks.check(answer, limits)}
        for prompt, answer in zip(prompts, said, strict=True)
    ]
    if safety:
        for row, kind in zip(rows, kinds, strict=True):
            row |= {"kind": kind, "label": refusals.classify(row["answer"], row["prompt"])}
    verdict = None
    if trial.judge:
        others = ask(trial.against, prompts, "The other's answers")
        verdict = _verdict(trial, [prompts, said, others], progress)
        for row, other in zip(rows, others, strict=True):
            row["other"] = other
    measured = checks.rates(said, limits) if limits else {}
    stated_rate = wilson(sum(right), len(right)) if right else None
    return Evaluation(measured, stated_rate, rows, verdict, measure.rates(rows) if safety else {})


def _check(trial: Trial) -> None:
    """ModelError, before anything is loaded, if one of the runs can't do its part."""
    for run in filter(None, (trial.run, trial.against)):
        if run.request["stage"] == "reward":
            raise ModelError(f"{run.name} is a reward model: it gives scores, not answers.")
        if run.request["base_identity"] != trial.base.identity:
            raise ModelError(f"{run.name} was trained on {run.request['base_title']}, not on {trial.base.title}.")
    if trial.judge and trial.judge.request["stage"] != "reward":
        raise ModelError(f"{trial.judge.name} can't judge: it is not a reward model.")
    for run in filter(None, (trial.run, trial.against, trial.judge)):
        check_adapter(run.adapter)


Ask = Callable[[Run | None, list[list[dict[str, str]]], str], list[str]]


def _asker(trial: Trial, progress: Progress) -> Ask:
    """A function that has a checkpoint answer prompts, greedily, on one copy of the base in memory."""
    from contextlib import nullcontext

    from playground.data.rendering import Renderer
    from playground.models import loading
    from playground.models.adapters import open_adapters
    from playground.models.decode import Sampling, answers

    renderer = Renderer(trial.base.folder)
    model: Any = loading.load_base(trial.base, loading.placement("none"))
    ends = loading.eos_ids(model, renderer.eos_id)
    tuned = [run for run in dict.fromkeys((trial.run, trial.against)) if run]
    adapters = open_adapters(model, tuned[0].id, tuned[0].adapter) if tuned else None
    for run in tuned[1:]:
        assert adapters is not None
        adapters.load(run.id, run.adapter)

    def ask(run: Run | None, prompts: list[list[dict[str, str]]], what: str) -> list[str]:
        ids = [renderer.prompt_ids(messages) for messages in prompts]

        def tell(done: int) -> None:
            progress(f"{what}: {done} of {len(ids)}", done / len(ids))

        with adapters.use(run.id if run else None) if adapters else nullcontext():
            found = answers(adapters.model if adapters else model, ids, ends, Sampling(MAX_NEW_TOKENS), tell)
        return [renderer.decode(answer).strip() for answer in found]

    return ask


def _verdict(trial: Trial, asked_and_said: list[Any], progress: Progress) -> Verdict:
    """The judge scores both answers to every prompt."""
    from playground.chat.scoring import score

    assert trial.judge is not None
    prompts, ours, others = asked_and_said
    items = [(prompt, answer) for answers in (ours, others) for prompt, answer in zip(prompts, answers, strict=True)]
    scores = [scored.score for scored in score(trial.judge, items, progress)]
    margins = [a - b for a, b in zip(scores[: len(prompts)], scores[len(prompts) :], strict=True)]
    share = wilson(wins(margins), len(margins))
    taught = [run.name for run in (trial.run, trial.against) if run and _shares_pairs(trial.judge, run)]
    note = f"; the judge learned from the same pairs as {' and '.join(taught)}: no independent check" if taught else ""
    return Verdict(trial.judge.name, trial.against.name if trial.against else "the base", share, note)


def _shares_pairs(judge: Run, run: Run) -> bool:
    """True if both were trained on the same pairs, in part at least."""
    same = judge.request["dataset"]["sha256"] == run.request["dataset"]["sha256"]
    halves = {judge.request["settings"].get("half", "all"), run.request["settings"].get("half", "all")}
    return same and halves != {"first", "second"}
