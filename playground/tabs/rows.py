"""What the Data tab shows of rows: counts and reasons in words, lengths as bars, and the very tokens of training."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from playground.data import library
from playground.data.pairs import SIDES, Pair
from playground.data.prompts import MOST_NOTED, Prompt
from playground.data.rendering import Renderer, RenderError
from playground.data.report import Report, some
from playground.data.tokens import Lengths, encoded_sides, measure
from playground.models import catalog
from playground.models.catalog import EMBEDDED
from playground.statistics import quantile, wilson, wins
from playground.tabs import fetching, hosting, html

PAGE = 4  # rows shown at a time
MOST_MEASURED = 5000  # rows tokenized for the report: a few seconds


@dataclass
class Looked:
    """What the visitor is looking at: a file's report, or a stored dataset's rows."""

    title: str
    rows: list[Any]
    report: Report | None = None


def views(looked: Looked | None, limit: int, ref: str = EMBEDDED) -> list[Any]:
    """Values for [report, dropped, first, lengths, preview]."""
    if looked is None:
        return [gr.skip()] * 5
    renderer, words = _renderer(ref)
    lines, prompts = [html.tag("h2", looked.title)], any(isinstance(row, Prompt) for row in looked.rows[:1])
    if looked.report:
        lines += _counts(looked.report)
    else:
        what = "prompts to answer" if prompts else "rows to learn from"
        lines.append(html.tag("p", f"{len(looked.rows)} {what}; the held-out ones are kept apart."))
    tokens: list[int] = []
    if renderer and looked.rows:
        found = measure(looked.rows[:MOST_MEASURED], renderer, limit)
        if len(looked.rows) > MOST_MEASURED:
            lines.append(html.tag("p", f"Tokens are counted for the first {MOST_MEASURED:,} rows.", "pg-note"))
        lines += _token_words(found, limit, prompts)
        lines += _length_words(found.sides) if isinstance(looked.rows[0], Pair) else []
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


def _token_words(found: Lengths, limit: int, prompts: bool) -> list[str]:
    """Lengths, cuts and template trouble in words."""
    lines = []
    if found.tokens and prompts:
        middle, longest = quantile(found.tokens, 0.5), max(found.tokens)
        lines.append(f"Tokens a prompt: {middle} in the middle, {longest} at most; none of them is learned.")
    elif found.tokens:
        middle, longest = quantile(found.tokens, 0.5), max(found.tokens)
        learned = sum(found.learned) / max(1, sum(found.tokens))
        lines.append(
            f"Tokens a conversation: {middle} in the middle, {longest} at most; {learned:.0%} of them are learned."
        )
    if found.cut:
        lines.append(f"{len(found.cut)} rows are longer than {limit} tokens and lose their end: row {some(found.cut)}.")
    if found.too_long:
        what = "prompts" if prompts else "pairs"
        lines.append(
            f"{len(found.too_long)} {what} are longer than {limit} tokens and left out: row {some(found.too_long)}."
        )
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


def _length_words(sides: list[tuple[int, int]]) -> list[str]:
    """What length alone would tell: a model learns that first, if it is the easiest thing to learn."""
    if not sides:
        return []
    chosen, rejected = (sum(column) / len(sides) for column in zip(*sides, strict=True))
    longer = wilson(wins(c - r for c, r in sides), len(sides))
    words = f"Chosen answers have {chosen:.0f} tokens on average, rejected ones {rejected:.0f}; "
    words += f"the longer one is chosen in {longer}."
    if abs(longer.rate - 0.5) > 0.1:
        words += " Length alone tells many pairs apart, so a model may learn length instead of what you mean."
    return [html.tag("p", words)]


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
        inner = [html.tag("p", _title(row), "pg-note")]
        if isinstance(row, Pair):
            inner += [html.conversation(row.prompt), *(html.answer(side, getattr(row, side)) for side in SIDES)]
        else:
            inner.append(html.conversation(row.messages))
        parts.append(html.box(inner + (_tokens(row, renderer, limit) if renderer else []), "pg-row"))
    return html.box(parts)


def _title(row: Any) -> str:
    """The row's number, how sure its label is, and the short ones of its notes."""
    sure = [f"{row.label:.0%} sure of the chosen answer"] if isinstance(row, Pair) and row.label != 1 else []
    noted = [f"{name} {text}" for name, text in row.notes.items() if isinstance(text, str) and len(text) <= MOST_NOTED]
    return ", ".join([f"Row {row.row}", *sure, *noted])


def _tokens(row: Any, renderer: Renderer, limit: int) -> list[str]:
    """The tokens of a conversation, or of both sides of a pair, and what the limit does to them."""
    try:
        sides = encoded_sides(row, renderer)
    except RenderError as error:
        return [html.tag("p", f"This row is left out: {error}.", "pg-note")]
    longest = max(len(encoded.ids) for encoded in sides)
    if isinstance(row, Prompt):
        parts = [html.tokens(sides[0].texts, sides[0].learned)]
        return parts + ([html.tag("p", "This prompt is too long and left out.", "pg-note")] if longest > limit else [])
    if len(sides) == 1:
        kept = sides[0].cut(limit)
        parts = [html.tokens(kept.texts, kept.learned)]
        return parts + (
            [html.tag("p", f"{longest - limit} tokens are cut off here.", "pg-note")] if longest > limit else []
        )
    chosen, rejected = sides
    start = rejected.start  # the prompt is the same: it is shown once
    parts = [html.tokens(chosen.texts, chosen.learned, "pg-chosen")]
    parts.append(html.tokens(rejected.texts[start:], rejected.learned[start:], "pg-rejected"))
    return parts + ([html.tag("p", "This pair is too long and left out.", "pg-note")] if longest > limit else [])


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
