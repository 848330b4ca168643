"""The Score tab: ask a reward model what it thinks of answers, word by word, against each other, or a whole file."""

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from playground.data.readers import read_file
from playground.data.report import examine
from playground.runs.run import Run, find, list_runs
from playground.stages.inputs import WEIGHTS
from playground.stages.judgement import read_scores
from playground.statistics import wilson
from playground.tabs import fetching, html

INTRO = """A reward model gives a number to an answer. Only differences count: with scores *a* and *b* for two answers
to one question, it thinks the first is preferred with probability P(A ≻ B) = σ(*a* − *b*). Change a word and score
again: what moves the number, and should it?"""
EMPTY = "No reward model yet. Train one in the Reward model tab: the preset takes about six minutes on two cores."
LETTERS = "ABCD"
MOST_ROWS = 500  # of a file; a few minutes on two cores


def build() -> list[Any]:
    """Lays out the tab and wires it; returns the picker of reward runs and what is shown of the chosen one."""
    gr.Markdown(INTRO)
    judge = gr.Dropdown(choices(), label="Reward model", info="A reward run with saved weights.", elem_id="judge")
    trust = gr.HTML(trust_html(None), padding=False)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt, answers, press = _question()
        with gr.Column(scale=3, min_width=320):
            result = gr.HTML(html.tag("p", "Scores appear here.", "pg-note"), elem_id="scores", padding=False)
    with gr.Accordion("How far to trust it", open=False), gr.Row():
        curve = gr.LinePlot(
            x="confidence",
            y="accuracy",
            color="series",
            height=240,
            x_title="How sure it is",
            y_title="How often it is right",
            color_map={"this model": "#6366f1", "perfect": "#9ca3af"},
            label="Reliability on held-out pairs",
        )
        margins = gr.BarPlot(
            x="margin",
            y="pairs",
            height=240,
            x_title="Score of chosen minus rejected",
            y_title="Held-out pairs",
            label="Margins",
            x_bin=0.5,
            y_aggregate="sum",
        )
    upload, table, download = _files()

    before = gr.State({}, time_to_live=3600)
    private: dict[str, Any] = {"api_visibility": "private"}
    fields = {"judge": judge, "prompt": prompt, **dict(zip(LETTERS, answers, strict=True)), "before": before}

    def ask(values: dict[Any, Any]) -> list[Any]:
        return scored(**{name: values[component] for name, component in fields.items()})

    press.click(ask, set(fields.values()), [result, before], concurrency_id="chat", concurrency_limit=2, **private)
    judge.change(_look, judge, [trust, curve, margins], show_progress="hidden", **private)
    upload.upload(score_file, [judge, upload], [table, download], concurrency_id="chat", concurrency_limit=2, **private)
    return [judge, trust, curve, margins]


def _question() -> tuple[gr.Textbox, list[gr.Textbox], gr.Button]:
    """One question and up to four answers."""
    prompt = gr.Textbox(label="Question", info="What the answers reply to.", max_length=4000, lines=2, elem_id="asked")
    info = "What may be preferred; scored as the whole answer."
    answers = [
        gr.Textbox(label=f"Answer {x}", info=info, max_length=4000, lines=2, elem_id=f"answer-{x}") for x in "AB"
    ]
    with gr.Accordion("More answers", open=False):
        answers += [gr.Textbox(label=f"Answer {x}", info=info, max_length=4000, lines=2) for x in "CD"]
    return prompt, answers, gr.Button("Score", variant="primary")


def _files() -> tuple[gr.File, gr.Dataframe, gr.DownloadButton]:
    """A whole file in, the same answers with scores out."""
    with gr.Accordion("Score a file", open=False):
        gr.Markdown(
            f"A CSV, TSV, JSON, JSONL or Parquet file of at most {MOST_ROWS} rows: `prompt` and `answer`, "
            "conversations, or preference pairs (both sides are scored, and you see how often the chosen one wins)."
        )
        upload = gr.File(
            label="File of answers", file_types=[".csv", ".tsv", ".jsonl", ".json", ".parquet"], height=120
        )
        table = gr.Dataframe(label="Scores", interactive=False, max_height=320, wrap=True)
        return upload, table, gr.DownloadButton("Download the scores as CSV", interactive=False, size="sm")


def choices() -> list[tuple[str, str]]:
    """(label, id) of the reward runs that have weights, newest first."""
    found = [
        run for run in reversed(list_runs()) if run.request["stage"] == "reward" and (run.adapter / WEIGHTS).exists()
    ]
    return [(f"{run.name} (on {run.request['dataset']['name']})", run.id) for run in found]


def refresh(chosen: str | None) -> list[Any]:
    """[today's reward runs, the newest where none is chosen; what is known of it]."""
    found = choices()
    known = [value for _, value in found]
    chosen = chosen if chosen in known else next(iter(known), None)
    return [gr.Dropdown(choices=found, value=chosen), *_look(chosen)]


def scored(judge: str | None, prompt: str | None, before: dict[str, Any], **answers: str | None) -> list[Any]:
    """[what the model says of the answers, what it said, to compare with next time]."""
    given = {letter: text.strip() for letter, text in answers.items() if text and text.strip()}
    if not judge:
        raise gr.Error(EMPTY)
    prompt = (prompt or "").strip()
    if not prompt or not given:
        raise gr.Error("Type a question and at least one answer.")
    run = _ready(judge)
    from playground.chat import scoring  # torch comes into the server here

    asked = [{"role": "user", "content": prompt}]
    try:
        scores = scoring.score(run, [(asked, text) for text in given.values()])
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    named = dict(zip(given, scores, strict=True))
    now = {letter: (run.id, prompt, given[letter], score.score) for letter, score in named.items()}
    return [_result_html(named, before, now, read_scores(run)), now]


def _ready(judge: str) -> Run:
    """The run, its base at hand; gr.Error where it is still being fetched."""
    try:
        run = Run(judge)
        wait = fetching.ready_or_fetch(run.request["base"])
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    if wait:
        raise gr.Error(wait)
    return run


def _result_html(named: dict[str, Any], before: dict[str, Any], now: dict[str, Any], known: dict[str, Any]) -> str:
    """Scores, preferences and tokens."""
    from playground.chat.scoring import preferred

    rows = []
    for letter, score in named.items():
        old = before.get(letter)
        moved = ""
        if old and old[:2] == now[letter][:2] and old[2] != now[letter][2]:
            moved = f"{score.score - old[3]:+.2f}"
        place = "unknown" if score.percentile is None else f"above {score.percentile:.0%} of the training answers"
        rows.append([letter, f"{score.score:+.2f}", moved, place])
    parts = [html.table(["Answer", "Score", "Since your last wording", "Where that stands"], rows)]
    letters = list(named)
    duels = [
        f"P({a} ≻ {b}) = {preferred(named[a].score, named[b].score):.0%}"
        for i, a in enumerate(letters)
        for b in letters[i + 1 :]
    ]
    parts += [html.tag("p", text, "pg-state") for text in duels]
    middle, spread = known.get("mean", 0.0), known.get("std") or 1.0
    parts.append(html.tag("h3", "The score after each word"))
    note = (
        "Blue: the score so far is above the usual; orange: below. Point at a word for its number. Only the last one, "
    )
    parts.append(
        html.tag("p", note + "at the end token, is the answer's score: the others judge unfinished answers.", "pg-note")
    )
    for letter, score in named.items():
        shares = [(after - middle) / (2 * spread) for after in score.after]
        parts.append(html.box([html.tag("strong", letter), html.heat(score.texts, shares, score.after)], "pg-row"))
    return html.live(parts)


def trust_html(run: Run | None) -> str:
    """What the model's judgement is worth, in words."""
    if run is None:
        return html.tag("p", EMPTY if not choices() else "Choose a reward model.", "pg-note")
    metrics = read_scores(run).get("metrics")
    if not metrics:
        return html.tag("p", "It was not measured on held-out pairs, so nothing is known of its worth.", "pg-note")
    rate = wilson(metrics["eval_accuracy"] * metrics["eval_n"], metrics["eval_n"])
    length = metrics["eval_length_correlation"]
    words = f"Right on {rate} of held-out pairs; correlation of score and length {length:+.2f}"
    words += ", so it counts words in part." if abs(length) > 0.4 else "."
    sure = metrics["eval_temperature"]
    words += f" Its probabilities are off by {metrics['eval_ece']:.0%} on average"
    words += (
        f" and {'too sure' if sure > 1 else 'too timid'} (best temperature {sure:.2f})." if abs(sure - 1) > 0.1 else "."
    )
    return html.tag("p", words)


def _look(judge: str | None) -> list[Any]:
    """[trust in words, reliability curve, margins] of the chosen run."""
    if not judge:
        return [trust_html(None), None, None]
    try:
        run = find(judge)
        known = read_scores(run)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    points = [(b["confidence"], b["accuracy"], "this model") for b in known.get("reliability", [])]
    points += [(x, x, "perfect") for x in (0.5, 1.0)]
    curve = pd.DataFrame(points, columns=["confidence", "accuracy", "series"])
    bins = pd.Series([round(2 * m) / 2 for m in known.get("margins", [])], dtype=float).value_counts().sort_index()
    margins = pd.DataFrame({"margin": bins.index, "pairs": bins.to_list()}) if len(bins) else None
    return [trust_html(run), curve if known.get("reliability") else None, margins]


def score_file(judge: str | None, path: str | None, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
    """[table, download] for an uploaded file; the scores of pairs come with how often the chosen side wins."""
    if not path:
        return [gr.skip(), gr.skip()]
    file = Path(path)
    try:
        report = examine(read_file(file, file.name))
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    finally:
        file.unlink(missing_ok=True)
    if not judge:
        raise gr.Error(EMPTY)
    if not report.kept:
        raise gr.Error(report.refusal(), duration=None)
    if len(report.kept) > MOST_ROWS:
        raise gr.Error(f"{len(report.kept)} rows; {MOST_ROWS} at most here. The command line's score verb takes more.")
    run = _ready(judge)
    from playground.chat import scoring

    def tell(text: str, share: float | None = None) -> None:
        progress(share or 0, text)

    try:
        found = scoring.score_table(run, report.kept, tell)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    rate = scoring.accuracy(found)
    out = Path(tempfile.mkdtemp()) / "scores.csv"
    out.write_text(scoring.as_csv(found), encoding="utf-8")
    words = f"Scores: the chosen side wins in {rate}" if rate else f"Scores of {len(found)} answers"
    if report.dropped:
        words += f"; {len(report.dropped)} rows left out: {report.reasons()[0][0]}"
    table = gr.Dataframe(value=pd.DataFrame(found).round(4), label=words)
    return [table, gr.DownloadButton(value=str(out), interactive=True)]
