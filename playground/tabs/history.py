"""The Runs tab: every run, what was asked of it, how it ended, and what came out."""

import json
from typing import Any

import gradio as gr

from playground.runs.run import Run, list_runs
from playground.tabs import html, view

EMPTY = "No runs yet. The Start tab shows the way to the first one."


def build() -> tuple[gr.HTML, gr.Dropdown]:
    """Lays out the tab; returns the list and the picker, which the page refreshes."""
    listing = gr.HTML(listing_html(), padding=False)
    picker = gr.Dropdown(
        choices(), value=None, label="Look at a run", info="Its request and receipt, as they lie in its folder."
    )
    details = gr.HTML(padding=False)
    with gr.Row():
        delete = gr.Button("Delete this run", size="sm", variant="stop")
    picker.change(details_html, picker, details, api_visibility="private")
    delete.click(_delete, picker, [listing, picker, details], api_visibility="private")
    return listing, picker


def choices() -> list[tuple[str, str]]:
    """(label, id) of every run, newest first."""
    return [(run.name, run.id) for run in reversed(list_runs())]


def listing_html() -> str:
    """Every run in a table, newest first."""
    rows = []
    for run in reversed(list_runs()):
        request, status = run.request, run.status()
        where = f"{status.step} of {status.total}" if status.total else ""
        rows.append(
            [
                request["name"],
                request["stage"],
                view.lineage(run),
                view.data_words(request),
                view.WORDS[status.state],
                where,
            ]
        )
    if not rows:
        return html.tag("p", EMPTY, "pg-note")
    return html.table(["Run", "Stage", "What it is made of", "Data", "State", "Step"], rows)


def details_html(run_id: str | None) -> str:
    """run.json and receipt.json of one run."""
    if not run_id:
        return ""
    run = Run(run_id)
    parts = [view.status_html(run)]
    for title, content in (("Asked", run.request), ("Receipt", run.receipt())):
        if content:
            text = json.dumps(content, indent=1, ensure_ascii=False)
            parts += [html.tag("h3", title), html.scroll(html.tag("pre", text), title)]
    return html.box(parts)


def _delete(run_id: str | None) -> list[Any]:
    if not run_id:
        raise gr.Error("Pick a run first.")
    try:
        Run(run_id).delete()
    except ValueError as error:
        raise gr.Error(str(error)) from error
    return [listing_html(), gr.Dropdown(choices=choices(), value=None), ""]
