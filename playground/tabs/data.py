"""The Data tab: bring rows, see what becomes of each and which tokens are learned, keep them under a name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data import library
from playground.data.readers import LIMITS, read_file, read_text
from playground.data.report import examine
from playground.models import catalog
from playground.models.catalog import EMBEDDED
from playground.runs.run import list_runs
from playground.tabs import html
from playground.tabs.rows import PAGE, Looked, preview_html, views

INTRO = f"""Bring **conversations** that show the manner you want, for fine-tuning: `messages`, `prompt` and
`completion`, Alpaca (`instruction`, `output`) or ShareGPT (`conversations`). Or bring **preference pairs**, for the
reward model and DPO: `prompt`, `chosen` and `rejected`, two whole conversations, or transcripts as HH-RLHF has them.
Or bring **prompts** alone, for PPO and a constitution: `prompt` or `question`, or `messages` that end with the user.
JSONL, JSON, CSV, TSV or Parquet, at most {LIMITS.file_bytes // 1_000_000} MB and {LIMITS.rows:,} rows."""


@dataclass
class DataTab:
    """What the page refreshes: the list of stored datasets, and what a fresh page shows."""

    stored: gr.Dropdown
    opening: dict[str, Any]


def build() -> DataTab:
    """Lays out the tab and wires it."""
    gr.Markdown(INTRO)
    looked = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            upload, pasted, check, stored, delete = _sources()
        with gr.Column(scale=3, min_width=320):
            report, name, save, dropped = _report()
    first, limit, ref, lengths, preview = _rows()

    shown = [report, dropped, first, lengths, preview]
    fresh = [looked, name, *shown]
    how = [limit, ref]
    private: dict[str, Any] = {"api_visibility": "private"}
    latest: dict[str, Any] = {**private, "trigger_mode": "always_last"}
    upload.upload(_open_file, [upload, *how], fresh, **private)
    check.click(_open_text, [pasted, *how], fresh, **private)
    stored.input(_open_stored, [stored, *how], fresh, **private)
    first.input(preview_html, [looked, first, *how], preview, **latest)
    limit.input(views, [looked, *how], shown, **latest)
    ref.change(views, [looked, *how], shown, **latest)
    save.click(_save, [looked, name], stored, **private)
    delete.click(_delete, stored, stored, **private)
    opening = {"fn": _first_look, "inputs": how, "outputs": [stored, *fresh]}
    return DataTab(stored, opening)


def _sources() -> tuple[gr.File, gr.Textbox, gr.Button, gr.Dropdown, gr.Button]:
    """Where rows come from: a file, pasted text, the library."""
    types = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"]
    upload = gr.File(label="Upload a file", file_types=types, height=140)
    pasted = gr.Textbox(label="Or paste rows", info="JSONL, JSON, CSV or TSV.", lines=4, max_lines=8)
    check = gr.Button("Check the pasted rows", size="sm")
    stored = gr.Dropdown(
        choices(), value=None, label="Or look at a stored dataset", info="What is kept is listed here."
    )
    delete = gr.Button("Delete this dataset", size="sm", variant="stop")
    return upload, pasted, check, stored, delete


def _report() -> tuple[gr.HTML, gr.Textbox, gr.Button, gr.Dataframe]:
    """What became of the rows, and keeping them."""
    empty = html.tag("p", "Nothing to show yet: upload a file, paste rows or pick a stored dataset.", "pg-note")
    report = gr.HTML(empty, padding=False)
    with gr.Row():
        name = gr.Textbox(label="Keep it as", info="A name to find it by.", max_length=60, scale=3)
        save = gr.Button("Keep this dataset", variant="primary", scale=1)
    head, types = ["Row", "Why it was dropped"], ["number", "str"]
    dropped = gr.Dataframe(headers=head, datatype=types, label="Dropped rows", visible=False, max_height=240)
    return report, name, save, dropped


def _rows() -> tuple[gr.Slider, gr.Slider, gr.Dropdown, gr.BarPlot, gr.HTML]:
    """The rows as chat and as tokens, and how to look at them."""
    gr.Markdown(
        "## What the model will see and what it learns\n"
        "Coloured and underlined tokens are learned; grey ones are only read. Of a pair, the chosen answer is green "
        "and the rejected one red: it is learned from, too."
    )
    with gr.Row():
        first = gr.Slider(1, 2, value=1, step=1, label="First row shown", info=f"{PAGE} rows at a time.")
        info = "Tokens; longer conversations are cut and longer pairs left out, here as in training."
        limit = gr.Slider(16, 4096, value=512, step=16, label="Longest row", info=info)
        info = "The model you will train; each has its own template and tokens."
        ref = gr.Dropdown(catalog.choices(), value=EMBEDDED, allow_custom_value=True, label="Tokens of", info=info)
    axes = {"x": "tokens", "y": "rows", "x_title": "Tokens a row", "y_title": "Rows"}
    lengths = gr.BarPlot(**axes, x_bin=10, y_aggregate="sum", height=180, label="Lengths")
    return first, limit, ref, lengths, gr.HTML(padding=False)


def choices() -> list[tuple[str, str]]:
    """(label, id) of every dataset."""
    what = {"sft": "rows", "preference": "pairs", "prompts": "prompts"}
    return [(f"{d.name} ({d.train} + {d.heldout} {what[d.kind]})", d.id) for d in library.datasets()]


def _open_file(path: str | None, limit: int, ref: str = EMBEDDED) -> list[Any]:
    if not path:
        return [gr.skip()] * 7
    file = Path(path)
    try:
        report = examine(read_file(file, file.name))
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    finally:
        file.unlink(missing_ok=True)  # uploads stay no longer than they are needed
    return _opened(Looked(file.name, report.kept, report), file.stem, limit, ref)


def _open_text(text: str, limit: int, ref: str = EMBEDDED) -> list[Any]:
    try:
        report = examine(read_text(text))
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    return _opened(Looked("pasted text", report.kept, report), "pasted", limit, ref)


def _open_stored(data_id: str | None, limit: int, ref: str = EMBEDDED) -> list[Any]:
    if not data_id:
        return [gr.skip()] * 7
    try:
        dataset = library.find(data_id)
    except ValueError as error:  # deleted on another page
        raise gr.Error(str(error)) from error
    return _opened(Looked(dataset.name, dataset.rows("train")), "", limit, ref)


def _first_look(limit: int, ref: str) -> list[Any]:
    """A fresh page shows the first dataset of the library, so that there is something to understand at once."""
    first = library.datasets()[0].id
    return [gr.Dropdown(choices=choices(), value=first), *_open_stored(first, limit, ref)]


def _opened(looked: Looked, name: str, limit: int, ref: str) -> list[Any]:
    """Values for [looked, name, *views]."""
    return [looked, name, *views(looked, limit, ref)]


def _save(looked: Looked | None, name: str) -> Any:
    if looked is None or looked.report is None:
        raise gr.Error("There is nothing new to keep: upload a file or paste rows first.")
    try:
        made = library.store(looked.report, name.strip() or Path(looked.title).stem, looked.title)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    next_tab = {"sft": "Fine-tune", "preference": "Reward model or the DPO", "prompts": "Constitution"}[made.kind]
    gr.Info(f"Kept as {made.name}. Next: the {next_tab} tab.")
    return gr.Dropdown(choices=choices(), value=made.id)


def _delete(data_id: str | None) -> Any:
    if not data_id:
        raise gr.Error("Pick a stored dataset first.")
    try:
        users = [run.name for run in list_runs() if run.status().active and run.request["dataset"]["id"] == data_id]
        if users:
            raise ValueError(f"{users[0]} still needs this dataset; stop that run first.")
        library.delete(library.find(data_id))
    except ValueError as error:
        raise gr.Error(str(error)) from error
    return gr.Dropdown(choices=choices(), value=None)
