"""**Critique and revision** is the supervised part of Constitutional AI (Bai et al. 2022). The model answers,
criticises its answer under a principle of the constitution, and writes it anew; the revisions become training rows:

`prompt → answer → critique → revision → … → SFT on (prompt, revision), pairs of revision ≻ answer`

SFT and reward models need people's answers or choices, row by row. Here people write down what they value once, and the
model applies it. What comes out is data, not a trained model: look through it in the review, then send it to
Fine-tune, the reward model or DPO. A small model criticises badly; the review shows it, and you can mend it there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from playground import settings as plain
from playground.data import constitutions
from playground.data.constitution import Principle
from playground.data.library import Dataset
from playground.data.rendering import Message, Renderer, RenderError
from playground.models.catalog import Base
from playground.runs.run import Run
from playground.settings import SettingError, setting
from playground.stages import critique, harvest
from playground.stages.inputs import StageError, dataset_of

if TYPE_CHECKING:
    from playground.stages.writing import Writer

NAME = "constitution"
TITLE = "Critique and revise"
COLUMNS = "prompts"
ANSWERS = False
MAKES = ("sft", "preference")
NEXT = "Look through the rows in the review, then send them to Fine-tune, the reward model or DPO."
METRICS = {
    "kept": "Share of the prompts so far whose revision passed the filters.",
    "change": "Share of the words that the revisions changed, on average; near 0 the model only repeats itself.",
    "words/answer": "Words of the first answers.",
    "words/revision": "Words of the revisions that passed.",
}


@dataclass
class PrincipledSettings(plain.Settings):
    """What a person can choose wherever principles are applied to prompts."""

    constitution: str = setting(
        "harmless-and-candid",
        "Constitution",
        "Its name, or name@number for an older version of it.",
        offers="constitutions",
    )
    num_prompts: int = setting(
        40, "Prompts", "How many of the training prompts are asked, drawn by the seed; 0 asks all.", low=0, high=10_000
    )


@dataclass
class ConstitutionSettings(PrincipledSettings):
    """Everything a person can choose for critique and revision."""

    rounds: int = setting(
        1, "Rounds", "Critiques and revisions of each answer, every one under another principle.", low=1, high=4, step=1
    )
    max_new_tokens: int = setting(
        80, "Longest answer", "Tokens of an answer and of a revision.", low=8, high=512, step=8
    )
    critique_tokens: int = setting(48, "Longest critique", "Tokens of a critique.", low=8, high=256, step=8)
    temperature: float = setting(
        0.5, "Temperature", "0 always takes the likeliest token; higher is more varied.", low=0.0, high=2.0, step=0.05
    )
    shots: int = setting(
        2,
        "Examples shown",
        "Finished critiques put in front, which show a model how it is done; each makes every request longer.",
        low=0,
        high=6,
        step=1,
    )
    batch_size: int = setting(
        16, "Batch size", "Prompts worked on together; more is faster and needs more memory.", low=1, high=64, step=1
    )
    quantization: str = setting(
        "auto",
        "Base weights",
        "nf4 holds the base in 4 bits; none keeps it whole. auto: nf4 on a GPU, whole on a CPU.",
        choices=("auto", "nf4", "none"),
        advanced=True,
    )
    max_length: int = setting(
        1024,
        "Longest request",
        "Tokens of a request with its examples; prompts that need more are left out.",
        low=64,
        high=8192,
        step=64,
        advanced=True,
    )
    seed: int = setting(
        0, "Seed", "The same seed and settings give the same rows.", low=0, high=2**31 - 1, advanced=True
    )


Settings = ConstitutionSettings


def prepare(settings: ConstitutionSettings, base: Base, dataset: Dataset) -> dict[str, Any]:
    """SettingError unless such a run can start; what its request keeps: the constitution, whole."""
    version = constitutions.find(settings.constitution)
    if not version.constitution.active:
        raise SettingError(f"{version.label} has no principle that is switched on.")
    if not dataset.train:
        raise SettingError(f"{dataset.name} has no prompts.")
    chosen = prompts_of(dataset.rows("train"), settings.num_prompts or 100, settings.seed)
    if not readable(chosen, Renderer(base.folder), settings):
        raise SettingError(
            f"No prompt fits into {settings.max_length} tokens with its examples; raise the longest request, "
            "or show fewer examples."
        )
    return {"constitution": constitutions.known(version)}


def prompts_of(rows: list[Any], count: int, seed: int) -> list[Any]:
    """`count` rows with different prompts, drawn by the seed; all of them, in their order, for 0."""
    import random

    different = list({repr(row.asked): row for row in rows}.values())
    if not 0 < count < len(different):
        return different
    return [different[i] for i in sorted(random.Random(seed).sample(range(len(different)), count))]


def readable(rows: list[Any], renderer: Renderer, settings: ConstitutionSettings) -> list[tuple[int, Any]]:
    """(index, row) of the rows whose longest request leaves room for the answer to it."""
    found = []
    longest = settings.max_new_tokens + settings.critique_tokens + 120  # an answer, a critique, two requests
    for index, row in enumerate(rows):
        try:
            tokens = len(renderer.prompt_ids([*critique.opening(settings.shots), *row.asked]))
        except RenderError:
            continue
        if tokens + longest <= settings.max_length:
            found.append((index, row))
    return found


def main(settings: ConstitutionSettings, run: Run) -> None:
    """One run: prompts → model → answers, critiques and revisions, batch by batch → a dataset of each kind."""
    from playground.stages.writing import open_writer

    dataset = dataset_of(run)
    principles = [Principle(**p) for p in run.request["constitution"]["principles"]]
    principles = [p for p in principles if p.enabled and p.weight > 0]
    chosen = prompts_of(dataset.rows("train"), settings.num_prompts, settings.seed)
    writer = open_writer(run, settings.quantization)
    asked = readable(chosen, writer.renderer, settings)
    if not asked:
        raise StageError(f"No prompt fits into {settings.max_length} tokens; raise the longest request.")
    harvest.mend(run)
    done = {row["index"] for row in harvest.rows(run)}
    left = [(index, row) for index, row in asked if index not in done]
    print(f"{len(asked)} prompts, {len(done)} of them done before; {len(chosen) - len(asked)} too long for a request")
    began = time.monotonic()
    run.update(phase="writing", step=len(done), total=len(asked))
    for start in range(0, len(left), settings.batch_size):
        batch = left[start : start + settings.batch_size]
        tell = _teller(run, settings, len(done) + start, len(batch), (began, start, len(left)))
        made = revise(writer, settings, principles, batch, tell)
        if run.stop_requested():
            break
        harvest.append(run, made)
        run.update(step=len(done) + start + len(batch), total=len(asked))
        log(run)
    finish(run, len(chosen) - len(asked), time.monotonic() - began)


def _teller(
    run: Run, settings: ConstitutionSettings, before: int, size: int, clock: tuple[float, int, int]
) -> Callable[[str, float], None]:
    """A function that writes the phase and the time left, from how far the batch is (0 to 1)."""
    began, start, all_left = clock

    def tell(phase: str, share: float) -> None:
        worked = start + share * size
        eta = (time.monotonic() - began) / worked * (all_left - worked) if worked else None
        run.update(phase=phase, step=before + int(share * size * 0.999), eta=eta)

    return tell


def revise(
    writer: "Writer",
    settings: ConstitutionSettings,
    principles: list[Principle],
    batch: list[tuple[int, Any]],
    tell: Callable[[str, float], None],
) -> list[dict[str, Any]]:
    """Answers and all rounds of one batch of (index, row): a line for rows.jsonl each."""
    parts, turn = 1 + 2 * settings.rounds, 0

    def write(requests: list[list[Message]], what: str, tokens: int) -> list[tuple[str, bool]]:
        nonlocal turn
        seeds = [_seed(settings.seed, index, turn) for index, _ in batch]
        base, turn = turn / parts, turn + 1
        return writer.write(
            requests, tokens, settings.temperature, seeds, lambda share: tell(what, base + share / parts)
        )

    answers = [
        critique.whole(*said)[0]
        for said in write([row.asked for _, row in batch], "answering", settings.max_new_tokens)
    ]
    drawn = [critique.draw(principles, settings.seed, index, settings.rounds) for index, _ in batch]
    steps: list[list[dict[str, Any]]] = [[] for _ in batch]
    latest = list(answers)
    for turn_no in range(settings.rounds):
        chosen = [principles_of[turn_no] for principles_of in drawn]
        requests = [
            critique.critique_request(row.asked, answer, principle, settings.shots)
            for (_, row), answer, principle in zip(batch, latest, chosen, strict=True)
        ]
        name = f" {turn_no + 1} of {settings.rounds}" if settings.rounds > 1 else ""
        critiques = write(requests, f"criticising{name}", settings.critique_tokens)
        requests = [
            critique.revision_request(request, text, principle)
            for request, (text, _), principle in zip(requests, critiques, chosen, strict=True)
        ]
        revisions = write(requests, f"revising{name}", settings.max_new_tokens)
        for i, (written, over) in enumerate(revisions):
            text, ended = critique.whole(written, over)
            step: dict[str, Any] = {
                "principle": chosen[i].title,
                "critique_request": chosen[i].critique,
                "critique": critiques[i][0],
                "revision_request": chosen[i].revision,
                "revision": text,
            }
            step["reason"] = critique.problem(batch[i][1].asked[-1]["content"], (answers[i], latest[i]), step, ended)
            steps[i].append(step)
            latest[i] = text if step["reason"] is None else latest[i]
    return [
        {
            "index": index,
            "prompt": row.asked,
            "answer": answers[i],
            "steps": steps[i],
            "revision": latest[i] if latest[i] != answers[i] else steps[i][-1]["revision"],
            "reason": None if any(s["reason"] is None for s in steps[i]) else steps[i][-1]["reason"],
            "notes": row.notes if hasattr(row, "notes") else {},
        }
        for i, (index, row) in enumerate(batch)
    ]


def _seed(seed: int, index: int, turn: int) -> int:
    """A prompt's own random numbers in each turn, whatever batch it is in."""
    return (seed * 1_000_003 + index) * 1_009 + turn


def log(run: Run) -> None:
    """The curves, from every row so far."""
    found = harvest.items(run)
    good = [item for item in found if item.reason is None]
    values = {
        "kept": len(good) / len(found),
        "change": fmean(critique.changed(item.answer, item.better) for item in found),
        "words/answer": fmean(len(item.answer.split()) for item in found),
    }
    if good:
        values["words/revision"] = fmean(len(item.better.split()) for item in good)
    run.log("train", len(found), values)


def finish(run: Run, left_out: int, seconds: float) -> None:
    """Keeps what passed the filters as two datasets, and writes the receipt."""
    found = harvest.items(run)
    run.update(phase="saving the datasets")
    kept = [item for item in found if item.kept]
    made = {kind: harvest.hand_over(run, kind) for kind in MAKES if harvest.accepted(run, kind)}
    before = run.receipt().get("metrics", {}).get("train_seconds", 0.0)
    run.write_receipt(
        {
            "metrics": {
                "step": len(found),
                "kept": len(kept) / max(len(found), 1),
                "train_seconds": round(before + seconds, 1),
            },
            "rows": len(found),
            "rows_left_out": left_out,
            "kept": len(kept),
            "dropped": harvest.dropped(found),
            "datasets": {kind: {"id": d.id, "name": d.name} for kind, d in made.items()},
        }
    )


def outcome(run: Run) -> str:
    """How the run ended, in one sentence for the page."""
    from playground.statistics import wilson

    receipt = run.receipt()
    rate = wilson(receipt.get("kept", 0), receipt.get("rows", 0))
    why = ", ".join(f"{count} {reason}" for reason, count in receipt.get("dropped", {}).items())
    names = " and ".join(d["name"] for d in receipt.get("datasets", {}).values())
    return (
        f"Revisions that pass the filters: {rate}"
        + (f"; dropped: {why}" if why else "")
        + (f"; {receipt['rows_left_out']} prompts were too long to ask" if receipt.get("rows_left_out") else "")
        + (f". Kept as {names}." if names else ". Nothing was kept: edit rows in the review, or try a larger model.")
    )
