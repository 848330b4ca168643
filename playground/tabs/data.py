"""The Data tab: bring rows, see what becomes of each and which tokens are learned, keep them under a name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from playground.data import library
from playground.data.readers import LIMITS, read_file, read_text
from playground.data.rendering import Renderer, RenderError
from playground.data.report import Report, Row, examine, measure
from playground.models import catalog
from playground.statistics import quantile
from playground.tabs import fetching, html

PAGE = 4
INTRO = f"""Bring conversations that show the manner you want. Each row needs a question and an answer, written in any
of these ways: `messages`, `prompt` and `completion`, Alpaca (`instruction`, `output`), ShareGPT (`conversations`), in a
JSONL, JSON, CSV, TSV or Parquet file of at most {LIMITS.file_bytes // 1_000_000} MB and {LIMITS.rows:,} rows."""


@dataclass
class DataTab:
    """What the page refreshes: the list of stored datasets, and the views when the tab is opened for the first time."""

    stored: gr.Dropdown
    opening: dict[str, Any]


@dataclass
class Looked:
    """What the visitor is looking at: a file's report, or a stored dataset's rows."""

    title: str
    rows: list[Row]
    report: Report | None = None


def build() -> DataTab:
    """Lays out the tab and wires it."""
    gr.Markdown(INTRO)
    looked = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            upload = gr.File(
                label="Upload a file", file_types=[".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"], height=140
            )
            pasted = gr.Textbox(
                label="Or paste rows", info="JSONL, JSON, CSV or TSV.", lines=4, max_lines=8, elem_id="paste-rows"
            )
            check = gr.Button("Check the pasted rows", size="sm")
            stored = gr.Dropdown(
                choices(), value=None, label="Or look at a stored dataset", info="What is kept is listed here."
            )
            delete = gr.Button("Delete this dataset", size="sm", variant="stop")
        with gr.Column(scale=3, min_width=320):
            report = gr.HTML(
                html.tag("p", "Nothing to show yet: upload a file, paste rows or pick a stored dataset.", "pg-note"),
                padding=False,
            )
            with gr.Row():
                name = gr.Textbox(label="Keep it as", info="A name to find it by.", max_length=60, scale=3)
                save = gr.Button("Keep this dataset", variant="primary", scale=1)
            dropped = gr.Dataframe(
                headers=["Row", "Why it was dropped"],
                datatype=["number", "str"],
                label="Dropped rows",
                visible=False,
                max_height=240,
            )
    gr.Markdown(
        "### What the model will see and what it learns\n"
        "Coloured and underlined tokens are learned; grey ones are only read."
    )
    with gr.Row():
        first = gr.Slider(1, 2, value=1, step=1, label="First row shown", info=f"{PAGE} rows at a time.")
        limit = gr.Slider(
            16,
            4096,
            value=512,
            step=16,
            label="Longest row",
            info="Tokens; what is longer is cut, here as in training.",
        )
    lengths = gr.BarPlot(
        x="tokens", y="rows", height=180, x_title="Tokens a row", y_title="Rows", label="Lengths", elem_id="lengths"
    )
    preview = gr.HTML(padding=False)

    views = [report, dropped, first, lengths, preview]
    fresh = [looked, name, *views]
    upload.upload(_open_file, [upload, limit], fresh, api_visibility="private")
    check.click(_open_text, [pasted, limit], fresh, api_visibility="private")
    stored.input(_open_stored, [stored, limit], fresh, api_visibility="private")
    first.release(preview_html, [looked, first, limit], preview, api_visibility="private")
    limit.release(_views, [looked, limit], views, api_visibility="private")
    save.click(_save, [looked, name], stored, api_visibility="private")
    delete.click(_delete, stored, stored, api_visibility="private")
    opening = {"fn": _first_look, "inputs": [looked, stored, limit], "outputs": [stored, *fresh]}
    return DataTab(stored, opening)


def choices() -> list[tuple[str, str]]:
    """(label, id) of every dataset."""
    return [(f"{d.name} ({d.train} + {d.heldout} rows)", d.id) for d in library.datasets()]


def _open_file(path: str | None, limit: int) -> list[Any]:
    if not path:
        return [gr.skip()] * 7
    file = Path(path)
    try:
        report = examine(read_file(file, file.name))
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    finally:
        file.unlink(missing_ok=True)  # uploads stay no longer than they are needed
    return _opened(Looked(file.name, report.kept, report), file.stem, limit)


def _open_text(text: str, limit: int) -> list[Any]:
    try:
        report = examine(read_text(text))
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    return _opened(Looked("pasted text", report.kept, report), "pasted", limit)


def _open_stored(data_id: str | None, limit: int) -> list[Any]:
    if not data_id:
        return [gr.skip()] * 7
    dataset = library.find(data_id)
    return _opened(Looked(dataset.name, dataset.rows("train")), "", limit)


def _first_look(looked: Looked | None, data_id: str | None, limit: int) -> list[Any]:
    """An empty tab shows the first dataset of the library, so that there is something to understand at once."""
    if looked is not None or data_id:
        return [gr.skip()] * 8
    first = library.datasets()[0].id
    return [gr.Dropdown(choices=choices(), value=first), *_open_stored(first, limit)]


def _opened(looked: Looked, name: str, limit: int) -> list[Any]:
    """Values for [looked, name, *views]."""
    return [looked, name, *_views(looked, limit)]


def _views(looked: Looked | None, limit: int) -> list[Any]:
    """Values for [report, dropped, first, lengths, preview]."""
    if looked is None:
        return [gr.skip()] * 5
    renderer, words = _renderer()
    lines = [html.tag("h3", looked.title)]
    if looked.report:
        lines += _counts(looked.report)
    else:
        lines.append(html.tag("p", f"{len(looked.rows)} rows to learn from; the held-out rows are kept apart."))
    bars = pd.DataFrame({"tokens": [], "rows": []})
    if renderer and looked.rows:
        found = measure(looked.rows, renderer, limit)
        lines += _token_words(found, limit)
        bars = _histogram(found.tokens)
    elif words:
        lines.append(html.tag("p", words, "pg-note"))
    dropped = looked.report.dropped if looked.report else []
    frame = gr.Dataframe(value=[[row, why] for row, why in dropped[:500]], visible=bool(dropped))
    slider = gr.Slider(1, max(2, len(looked.rows)), value=1)
    return [html.live(lines), frame, slider, bars, preview_html(looked, 1, limit)]


def _counts(report: Report) -> list[str]:
    """Kept and dropped in words."""
    shape = f"{len(report.kept)} of {report.rows} rows kept, recognised as {report.shape}."
    lines = [html.tag("p", shape, "pg-state")]
    for reason, rows in report.reasons()[:5]:
        numbers = ", ".join(str(row) for row in rows[:8]) + (" …" if len(rows) > 8 else "")
        lines.append(html.tag("p", f"{len(rows)} dropped: {reason} (row {numbers})."))
    train, heldout = library.split_by_prompt(report.kept)
    share = (
        f"{len(heldout)} are held out to measure with, {len(train)} are trained on; no question is on both sides."
        if heldout
        else "Fewer than ten different questions: nothing is held out, so there will be no independent measure."
    )
    return [*lines, html.tag("p", share), *[html.tag("p", note, "pg-note") for note in report.notes]]


def _token_words(found: Any, limit: int) -> list[str]:
    """Lengths, cuts and template trouble in words."""
    lines = []
    if found.tokens:
        middle, longest = quantile(found.tokens, 0.5), max(found.tokens)
        learned = sum(found.learned) / max(1, sum(found.tokens))
        lines.append(f"Tokens a row: {middle} in the middle, {longest} at most; {learned:.0%} of them are learned.")
    if found.cut:
        lines.append(
            f"{len(found.cut)} rows are longer than {limit} tokens and lose their end: row {_some(found.cut)}."
        )
    if found.unlearnable:
        lines.append(
            f"{len(found.unlearnable)} of these have nothing left to learn and are left out: "
            f"row {_some(found.unlearnable)}."
        )
    if found.refused:
        lines.append(f"{len(found.refused)} rows are left out, first row {found.refused[0][0]}: {found.refused[0][1]}.")
    if found.control:
        lines.append(
            f"{len(found.control)} rows hold control tokens of the model as text, as if a template had been applied "
            f"already: row {_some(found.control)}."
        )
    return [html.tag("p", line) for line in lines]


def _some(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (" …" if len(rows) > 8 else "")


def _histogram(tokens: list[int]) -> pd.DataFrame:
    """Rows by token count, in at most 30 bars of equal width."""
    width = max(1, -(-max(tokens, default=1) // 30))
    counts = pd.Series([count // width * width for count in tokens]).value_counts().sort_index()
    return pd.DataFrame({"tokens": [f"{start}" for start in counts.index], "rows": counts.to_list()})


def preview_html(looked: Looked | None, first: int, limit: int) -> str:
    """A few rows as chat, and as the very tokens that training will use."""
    if looked is None or not looked.rows:
        return ""
    renderer, _ = _renderer()
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


def _renderer() -> tuple[Renderer | None, str]:
    """The embedded model's renderer, or a sentence while the model is being fetched."""
    if words := fetching.ready_or_fetch(catalog.EMBEDDED):
        return None, f"Token counts and the mask need the model's tokenizer. {words}"
    return Renderer(catalog.prepare(catalog.EMBEDDED).folder), ""


def _save(looked: Looked | None, name: str) -> Any:
    if looked is None or looked.report is None:
        raise gr.Error("There is nothing new to keep: upload a file or paste rows first.")
    try:
        made = library.store(looked.report, name.strip() or Path(looked.title).stem, looked.title)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    gr.Info(f"Kept as {made.name}. Next: the Fine-tune tab.")
    return gr.Dropdown(choices=choices(), value=made.id)


def _delete(data_id: str | None) -> Any:
    if not data_id:
        raise gr.Error("Pick a stored dataset first.")
    try:
        library.delete(library.find(data_id))
    except ValueError as error:
        raise gr.Error(str(error)) from error
    return gr.Dropdown(choices=choices(), value=None)
