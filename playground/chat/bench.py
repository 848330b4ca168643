"""The bench: one principle tried on a few prompts at once, answer → critique → revision, streaming as they are written.

It asks in the very words of the constitution stage and cuts and filters as it does, so that what is seen here is what a
run would make.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from playground.chat import resident
from playground.data.constitution import Principle
from playground.data.rendering import Message
from playground.models.catalog import ModelError, Progress, silent
from playground.models.decode import Sampling, decode
from playground.runs.run import Run
from playground.stages import critique
from playground.stages.constitution import ConstitutionSettings

DEFAULT = ConstitutionSettings()


@dataclass(frozen=True)
class Trial:
    """One prompt's three texts so far, and why the revision would be filtered out; None while it is written, or fit."""

    answer: str = ""
    critique: str = ""
    revision: str = ""
    reason: str | None = None


def stream(
    ref: str,
    run: Run | None,
    principle: Principle,
    prompts: Sequence[str],
    sampling: Sampling,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[list[Trial]]:
    """Yields a Trial for every prompt, growing; `run` answers, or the base itself for None."""
    if run and run.request["stage"] == "reward":
        raise ModelError(f"{run.name} is a reward model: it gives scores, not answers.")
    with resident.my_turn(should_stop) as mine:
        if not mine:
            return
        loaded = resident.load(ref, run.request["base_identity"] if run else None, progress)
        role = resident.attach(loaded, run)
        most = loaded.model.config.max_position_embeddings

        def write(requests: list[list[Message]], tokens: int) -> Iterator[list[tuple[str, bool]]]:
            """(text so far, whether it has ended) of every request, a token a step."""
            ids = [loaded.renderer.prompt_ids(request) for request in requests]
            if (longest := max(map(len, ids))) + tokens > most:
                raise ModelError(f"This prompt makes a request of {longest} tokens, more than {most - tokens}.")
            said: list[list[int]] = [[] for _ in ids]
            ended = [False] * len(ids)
            model = loaded.adapters.model if loaded.adapters else loaded.model
            roles = (loaded.adapters, [role] * len(ids)) if loaded.adapters else None
            chosen = Sampling(tokens, sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed)
            for step in decode(model, ids, loaded.ends, chosen, roles, should_stop):
                for row, token in step.items():
                    ended[row] = token in loaded.ends
                    said[row] += [] if ended[row] else [token]
                yield [(loaded.renderer.decode(row).strip(), end) for row, end in zip(said, ended, strict=True)]

        yield from _trials(write, principle, prompts, sampling.max_new_tokens, should_stop)


Write = Callable[[list[list[Message]], int], Iterator[list[tuple[str, bool]]]]


def _trials(
    write: Write, principle: Principle, prompts: Sequence[str], tokens: int, should_stop: Callable[[], bool]
) -> Iterator[list[Trial]]:
    """The three turns of every prompt, in step."""
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    said: list[tuple[str, bool]] = [("", False)] * len(prompts)
    for said in write(asked, tokens):
        yield [Trial(text) for text, _ in said]
    if should_stop():
        return
    answers = [critique.whole(*one)[0] for one in said]
    shots, longest = DEFAULT.shots, DEFAULT.critique_tokens
    requests = [critique.critique_request(a, text, principle, shots) for a, text in zip(asked, answers, strict=True)]
    for said in write(requests, longest):
        yield [Trial(answer, text) for answer, (text, _) in zip(answers, said, strict=True)]
    critiques = [text for text, _ in said]
    if should_stop():
        return
    requests = [critique.revision_request(r, text, principle) for r, text in zip(requests, critiques, strict=True)]
    for said in write(requests, tokens):
        yield [Trial(a, c, text) for a, c, (text, _) in zip(answers, critiques, said, strict=True)]
    if should_stop():
        return
    revisions = [critique.whole(*one) for one in said]
    yield [
        Trial(answer, critic, text, _reason(prompt, answer, critic, (text, ended), principle))
        for prompt, answer, critic, (text, ended) in zip(prompts, answers, critiques, revisions, strict=True)
    ]


def _reason(prompt: str, answer: str, said: str, revision: tuple[str, bool], principle: Principle) -> str | None:
    """Why a run would leave this revision out; None if it would keep it."""
    text, ended = revision
    requests = {"critique_request": principle.critique, "revision_request": principle.revision}
    return critique.problem(prompt, (answer,), {**requests, "critique": said, "revision": text}, ended)
