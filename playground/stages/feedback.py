"""**AI feedback** is the reinforcement half of Constitutional AI (RLAIF; Bai et al. 2022). The model writes two answers
to each prompt; a judge, a model too, says which one keeps better to the constitution. Its doubt becomes a soft label:

`p(first is better) = σ(mean over the principles of ½ · [log p(A)/p(B) in one order − log p(A)/p(B) in the other])`

People can't compare thousands of answers; they can write down once what they value. The pairs go to the reward model
(then PPO) or to DPO, as pairs that people chose would. All rests on the judge: so it is tried first, on pairs with a
known answer, and what it gets right stands beside every label. A small model judges little better than a coin.
"""

import time
from dataclasses import dataclass
from typing import Any

from playground.data import constitutions
from playground.data.library import Dataset
from playground.data.rendering import Renderer, RenderError
from playground.models.catalog import Base
from playground.runs.run import Run
from playground.settings import SettingError, setting
from playground.stages import critique, harvest, judge_probe, judge_setup, judging, labels
from playground.stages.constitution import PrincipledSettings, prompts_of
from playground.stages.inputs import StageError, base_of, dataset_of, known_weights
from playground.stages.training import same
from playground.statistics import Rate, wilson

NAME = "feedback"
TITLE = "AI feedback"
COLUMNS = "prompts"
ANSWERS = False
MAKES = ("preference",)
NEXT = "Look through the pairs in the review, then train the reward model or DPO on them."
METRICS = {
    "kept": "Share of the pairs so far that are of use; the others are the same twice, or too close to call.",
    "consistency": "Share of pairs whose winner stays the same when the answers change places; 1 if asked yes or no.",
    "first_slot": "How often the answer that stands first wins; 0.5 is no habit. A habit cancels, but a strong one is "
    "the mark of a judge that does not read.",
    "sureness": "Mean distance of the judge's probability from 0.5; near 0 it can't tell the answers apart.",
    "longer": "How often the longer answer wins; far above 0.5 the judge may be paying for length.",
}
ANSWERED = "answers.jsonl"
BATCH = 8  # prompts that are finished together, and written down together
OPTIONS = tuple(dict.fromkeys(name for method in judging.FORMATS.values() for name in method))


@dataclass
class FeedbackSettings(PrincipledSettings):
    """Everything a person can choose for AI feedback."""

    max_new_tokens: int = setting(64, "Longest answer", "Tokens of an answer.", low=4, high=512, step=4)
    temperature: float = setting(
        1.0, "Temperature", "Lower makes the two answers more alike.", low=0.1, high=2.0, step=0.05
    )
    judge: str = setting(
        "", "Judge", "A trained run that judges; none: the checkpoint that answers. Any run's name can be typed.",
        runs="sft",
    )  # fmt: skip
    judge_model: str = setting(
        "",
        "Judge model",
        "A larger model that judges instead: a folder, a .gguf file or a Hub id. Loaded when the answers are written.",
        model=True,
    )
    method: str = setting(
        "pairwise",
        "Method",
        "pairwise asks each principle's comparison, in both orders of the answers; pointwise asks yes or no of each "
        "answer alone, by the principle's title, which suits small models better.",
        choices=judging.METHODS,
    )
    tau: float = setting(
        0.05, "Near tie", "A pair whose probability is closer to 0.5 than this is too close to call.", low=0.0, high=0.5
    )
    ties: str = setting(
        "drop",
        "Near ties",
        "drop leaves them out; soften keeps them, their label moved halfway to 0.5.",
        choices=("drop", "soften"),
    )
    inconsistent: str = setting(
        "soften",
        "Inconsistent pairs",
        "Pairs whose winner changes with the order. soften moves their label halfway to 0.5; keep leaves it: a habit "
        "cancels all the same.",
        choices=("soften", "drop", "keep"),
        advanced=True,
    )
    clamp: float = setting(
        0.5, "Label clamp", "Labels stay within 0.5 ± this; the paper's 40–60% is 0.1, 0.5 changes none.",
        low=0.01, high=0.5,
    )  # fmt: skip
    options: str = setting(
        "auto",
        "Words of the choice",
        "What the judge says for either; _ is a space. auto: what it gets most of the known pairs right with.",
        choices=("auto", *OPTIONS),
        advanced=True,
    )
    quantization: str = same("quantization", advanced=True)
    max_length: int = same(
        "max_length", 256, label="Longest prompt", help="Tokens; longer prompts are left out.", advanced=True
    )
    seed: int = same("seed")


Settings = FeedbackSettings


def prepare(settings: FeedbackSettings, base: Base, dataset: Dataset) -> dict[str, Any]:
    """SettingError unless such a run can start; what its request keeps: the constitution, whole, and the judge."""
    version = constitutions.find(settings.constitution)
    if not version.constitution.active:
        raise SettingError(f"{version.label} has no principle that is switched on.")
    judge_setup.check_options(settings)
    if not dataset.train:
        raise SettingError(f"{dataset.name} has no prompts.")
    chosen = prompts_of(dataset.rows("train"), settings.num_prompts or 100, settings.seed)
    if not readable(chosen, Renderer(base.folder), settings.max_length):
        raise SettingError(f"No prompt has at most {settings.max_length} tokens; raise the longest prompt.")
    return {"constitution": constitutions.known(version), "judge": known_weights(judge_setup.asked_judge(settings))}


def readable(rows: list[Any], renderer: Renderer, most: int) -> list[tuple[int, Any]]:
    """(index, row) of the rows whose prompt has at most so many tokens."""
    found = []
    for index, row in enumerate(rows):
        try:
            if len(renderer.prompt_ids(row.asked)) <= most:
                found.append((index, row))
        except RenderError:
            continue
    return found


def main(settings: FeedbackSettings, run: Run) -> None:
    """One run: prompts → two answers each → the judge, tried and put to work → a dataset of labelled pairs."""
    base, dataset = base_of(run), dataset_of(run)
    chosen = prompts_of(dataset.rows("train"), settings.num_prompts, settings.seed)
    asked = readable(chosen, Renderer(base.folder), settings.max_length)
    principles = judging.questions(run.request["constitution"]["principles"], settings.method)
    if not principles:
        raise StageError("The constitution has no principle that is switched on.")
    if not asked:
        raise StageError(f"No prompt has at most {settings.max_length} tokens; raise the longest prompt.")
    for name in (ANSWERED, harvest.ROWS):
        harvest.mend(run, name)
    began = time.monotonic()
    write_answers(settings, run, asked)
    written = harvest.rows(run, ANSWERED)
    judged = {row["index"] for row in harvest.rows(run)}
    left = [row for row in written if row["index"] not in judged]
    if left and not run.stop_requested():
        judge = judge_setup.open_judge(settings, run)
        known = judge_setup.tried(settings, run, judge, principles)
        if known:
            judge.options = known["options"]
            judge_all(settings, run, judge, principles, left)
    finish(run, len(chosen) - len(asked), time.monotonic() - began)


def write_answers(settings: FeedbackSettings, run: Run, asked: list[tuple[int, Any]]) -> None:
    """Two answers to each prompt, in answers.jsonl; those that an earlier try wrote are not written again."""
    from playground.stages.writing import open_writer

    done = {row["index"] for row in harvest.rows(run, ANSWERED)}
    left = [(index, row) for index, row in asked if index not in done]
    if not left:
        return
    writer = open_writer(run, settings.quantization)
    print(f"{len(asked)} prompts, {len(done)} of them answered before")
    began = time.monotonic()
    run.update(phase="writing answers", step=0, total=2 * len(asked), eta=None)
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        requests = [row.asked for _, row in batch for _ in range(2)]
        seeds = [(settings.seed * 1_000_003 + index) * 2 + side for index, _ in batch for side in range(2)]
        said = writer.write(requests, settings.max_new_tokens, settings.temperature, seeds)
        if run.stop_requested():
            return
        rows = []
        for i, (index, row) in enumerate(batch):
            both = [critique.whole(*one) for one in said[2 * i : 2 * i + 2]]  # cut ones teach to stop anywhere
            texts, ended = map(list, zip(*both, strict=True))
            rows.append({"index": index, "prompt": row.asked, "answers": texts, "ended": ended})
        harvest.append(run, rows, ANSWERED)
        made = start + len(batch)
        eta = (time.monotonic() - began) / made * (len(left) - made)
        run.update(phase="writing answers", step=len(done) + made, eta=eta)


def judge_all(
    settings: FeedbackSettings,
    run: Run,
    judge: judging.Judge,
    principles: list[judging.Question],
    left: list[dict[str, Any]],
) -> None:
    """Judges what is left, a few prompts at a time; a stop gives up the few that are not finished."""
    accuracy = str(Rate(**harvest.judge_known(run)["honest"]))
    done = len(harvest.rows(run))
    began = time.monotonic()
    run.update(phase="judging", step=done, total=done + len(left), eta=None)
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        worth = [i for i, row in enumerate(batch) if labels.unusable(row) is None]
        pairs = [judging.Pair(batch[i]["prompt"], *batch[i]["answers"]) for i in worth]
        verdicts = {worth[i]: verdict for i, verdict in judging.compare(judge, pairs, principles).items()}
        if run.stop_requested():
            return
        titles = [question.title for question in principles]
        rows = [labels.row_of(row, verdicts.get(i), settings, titles, accuracy) for i, row in enumerate(batch)]
        harvest.append(run, rows)
        made = start + len(batch)
        eta = (time.monotonic() - began) / made * (len(left) - made)
        run.update(phase="judging", step=done + made, eta=eta)
        run.log("train", done + made, labels.curves(harvest.rows(run)))


def finish(run: Run, left_out: int, seconds: float) -> None:
    """Keeps what is of use as a dataset of preferences, and writes the receipt."""
    rows = harvest.rows(run)
    if not rows:
        if run.stop_requested():  # what was written so far stays, and is not written again
            return
        raise StageError("None of the prompts was answered and judged, so there is nothing to keep.")
    run.update(phase="saving the dataset")
    made = {kind: harvest.hand_over(run, kind) for kind in MAKES if harvest.accepted(run, kind)}
    before = run.receipt().get("metrics", {}).get("train_seconds", 0.0)
    run.write_receipt(
        {
            "metrics": {"step": len(rows), **labels.curves(rows), "train_seconds": round(before + seconds, 1)},
            "rows": len(rows),
            "rows_left_out": left_out,
            "kept": len(harvest.accepted(run, "preference")),
            "consistent": sum(row.get("consistent", False) for row in rows),
            "judged": sum("p" in row for row in rows),
            "dropped": harvest.dropped(harvest.items(run)),
            "judge": harvest.judge_known(run),
            "datasets": {kind: {"id": d.id, "name": d.name} for kind, d in made.items()},
        }
    )


def told(run: Run) -> str:
    """What the page says from the moment the judge was tried: how far it is to be trusted."""
    return judge_probe.words(known) if (known := harvest.judge_known(run)) else ""


def outcome(run: Run) -> str:
    """How the run ended, in a few sentences for the page: what was kept, and why the rest was not."""
    receipt = run.receipt()
    if not receipt:
        return "Nothing was judged."
    words = f"Pairs of use: {wilson(receipt['kept'], receipt['rows'])}"
    if why := ", ".join(f"{count} {reason}" for reason, count in receipt["dropped"].items()):
        words += f"; left out: {why}"
    if receipt["rows_left_out"]:
        words += f"; {receipt['rows_left_out']} prompts were too long to ask"
    judge = receipt["judge"]
    if judge and judge["method"] == "pairwise":
        words += (
            f". The winner stayed when the answers changed places in {wilson(receipt['consistent'], receipt['judged'])}"
        )
    names = " and ".join(d["name"] for d in receipt["datasets"].values())
    words += f". Kept as {names}." if names else ". Nothing was kept: try another judge or a smaller tie range."
    return words
