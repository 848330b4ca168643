"""What the Data tab shows of rows: counts and reasons in words, lengths as bars, and the very tokens of training."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from playground.data import library
from playground.data.rendering import Renderer, RenderError
from playground.data.report import Lengths, Report, Row, measure, some
from playground.models import catalog
from playground.models.catalog import EMBEDDED
from playground.statistics import quantile
from playground.tabs import fetching, hosting, html

PAGE = 4  # rows shown at a time
MOST_MEASURED = 5000  # rows tokenized for the report: a few seconds


@dataclass
class Looked:
    """What the visitor is looking at: a file's report, or a stored dataset's rows."""

    title: str
    rows: list[Row]
    report: Report | None = None


def views(looked: Looked | None, limit: int, ref: str = EMBEDDED) -> list[Any]:
    """Values for [report, dropped, first, lengths, preview]."""
    if looked is None:
        return [gr.skip()] * 5
    renderer, words = _renderer(ref)
    lines = [html.tag("h2", looked.title)]
    if looked.report:
        lines += _counts(looked.report)
    else:
        lines.append(html.tag("p", f"{len(looked.rows)} rows to learn from; the held-out rows are kept apart."))
    tokens: list[int] = []
    if renderer and looked.rows:
        found = measure(looked.rows[:MOST_MEASURED], renderer, limit)
        if len(looked.rows) > MOST_MEASURED:
            lines.append(html.tag("p", f"Tokens are counted for the first {MOST_MEASURED:,} rows.", "pg-note"))
        lines += _token_words(found, limit)
        tokens = found.tokens
    elif words:
        lines.append(html.tag("p", words, "pg-note"))
    dropped = looked.report.dropped if looked.report else []
    frame = gr.Dataframe(value=[[row, why] for row, why in dropped[:500]], visible=bool(dropped))
    slider = gr.Slider(1, max(2, len(looked.rows)), value=1)
    return [html.live(lines), frame, slider, _bars(tokens), preview_html(looked, 1, limit, ref)]


def _counts(report: Report) -> list[str]:
    """Kept and dropped in words."""
    if not report.kept:
        return [html.tag("p", report.refusal(), "pg-state")]
    first, *rest = report.words()
    lines = [html.tag("p", first, "pg-state"), *[html.tag("p", line) for line in rest]]
    train, heldout = library.split_by_prompt(report.kept)
    share = (
        f"{len(heldout)} are held out to measure with, {len(train)} are trained on; no question is on both sides."
        if heldout
        else "Fewer than ten different questions: nothing is held out, so there will be no independent measure."
    )
    return [*lines, html.tag("p", share)]


def _token_words(found: Lengths, limit: int) -> list[str]:
    """Lengths, cuts and template trouble in words."""
    lines = []
    if found.tokens:
        middle, longest = quantile(found.tokens, 0.5), max(found.tokens)
        learned = sum(found.learned) / max(1, sum(found.tokens))
        lines.append(f"Tokens a row: {middle} in the middle, {longest} at most; {learned:.0%} of them are learned.")
    if found.cut:
        lines.append(f"{len(found.cut)} rows are longer than {limit} tokens and lose their end: row {some(found.cut)}.")
    if found.unlearnable:
        lines.append(
            f"{len(found.unlearnable)} of these have nothing left to learn and are left out: "
            f"row {some(found.unlearnable)}."
        )
    if found.refused:
        lines.append(f"{len(found.refused)} rows are left out, first row {found.refused[0][0]}: {found.refused[0][1]}.")
    if found.control:
        lines.append(
            f"{len(found.control)} rows hold control tokens of the model as text, as if a template had been applied "
            f"already: row {some(found.control)}."
        )
    return [html.tag("p", line) for line in lines]


def _bars(tokens: list[int]) -> gr.BarPlot:
    """Rows by token count, in at most 30 bars of equal width."""
    width = max(1, -(-max(tokens, default=1) // 30))
    counts = pd.Series([count // width * width for count in tokens], dtype=int).value_counts().sort_index()
    return gr.BarPlot(pd.DataFrame({"tokens": counts.index, "rows": counts.to_list()}), x_bin=width)


def preview_html(looked: Looked | None, first: int, limit: int, ref: str = EMBEDDED) -> str:
    """A few rows as chat, and as the very tokens that training will use."""
    if looked is None or not looked.rows:
        return ""
    renderer, _ = _renderer(ref)
    parts = []
    for row in looked.rows[int(first) - 1 : int(first) - 1 + PAGE]:
        inner = [html.tag("p", f"Row {row.row}", "pg-note"), html.conversation(row.messages)]
        if renderer:
            try:
                encoded = renderer.encode(row.messages)
                kept = encoded.cut(limit)
                inner.append(html.tokens(kept.texts, kept.learned))
                if len(encoded.ids) > limit:
                    inner.append(html.tag("p", f"{len(encoded.ids) - limit} tokens are cut off here.", "pg-note"))
            except RenderError as error:
                inner.append(html.tag("p", f"This row is left out: {error}.", "pg-note"))
        parts.append(html.box(inner, "pg-row"))
    return html.box(parts)


def _renderer(ref: str) -> tuple[Renderer | None, str]:
    """The model's renderer, or a sentence why there is none (yet)."""
    try:
        hosting.check_ref(ref)
        if words := fetching.ready_or_fetch(ref):
            return None, f"Token counts and the mask need the model's tokenizer. {words}"
        return _opened(catalog.prepare(ref).folder), ""
    except ValueError as error:
        return None, str(error)


@functools.lru_cache(maxsize=4)
def _opened(folder: Path) -> Renderer:
    """A tokenizer takes half a second to open and never changes once it lies there."""
    return Renderer(folder)
