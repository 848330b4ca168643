"""The whole page: header, tabs, and the one timer that keeps every view up to date."""

import os
from itertools import islice
from typing import Any

os.environ.setdefault(
    "GRADIO_ANALYTICS_ENABLED", "False"
)  # before gradio is imported: it would ask its server for updates

import gradio as gr

from playground.models import catalog
from playground.runs import queue
from playground.runs.run import list_runs
from playground.stages import launch
from playground.tabs import chat, data, explorer, fetching, history, html, stage, start, values, view

TICK_SECONDS = 1.5


def build() -> gr.Blocks:
    """The page, wired; nothing in it imports torch."""
    with gr.Blocks(title="Alignment Playground", fill_width=True, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Alignment Playground\nChange a language model with your own hands, one layer at a time.")
        now = gr.HTML(now_html(), elem_id="now", padding=False)
        with gr.Tabs() as tabs:
            with gr.Tab("Start", id="start"):
                steps = start.build()
            with gr.Tab("Data", id="data"):
                data_tab = data.build()
            stage_tabs = []
            for name in launch.STAGES:
                with gr.Tab(launch.stage(name).TITLE, id=name):
                    stage_tabs.append(stage.build(name))
            with gr.Tab("Constitution", id="constitution") as values_tab:
                made = values.build()
            with gr.Tab("Score", id="score") as score_tab:
                scores = explorer.build()
            with gr.Tab("Chat", id="chat") as chat_tab:
                pickers = chat.build()
            with gr.Tab("Runs", id="runs") as runs_tab:
                listing, run_picker = history.build()

        for button, target in zip(steps, ("data", "sft", "chat"), strict=True):
            button.click(lambda target=target: gr.Tabs(selected=target), None, tabs, api_visibility="private")
        chat_tab.select(chat.refresh, pickers, pickers[:2], api_visibility="private", show_progress="hidden")
        score_tab.select(explorer.refresh, scores[0], scores, api_visibility="private", show_progress="hidden")
        runs_tab.select(
            lambda: [history.listing_html(), gr.Dropdown(choices=history.choices())],
            None,
            [listing, run_picker],
            api_visibility="private",
            show_progress="hidden",
        )
        values.wire(page, values_tab, made, tabs, stage_tabs)
        _keep_data_choices(page, data_tab, stage_tabs + made.stages)
        _keep_fresh(page, now, stage_tabs + made.stages)
    return page


def prepare() -> None:
    """What the server does once, before it opens: wakes the worker for queued runs, fetches the embedded model."""
    if queue.queued():
        queue.start_worker()
    fetching.ready_or_fetch(catalog.EMBEDDED)


def _keep_data_choices(page: gr.Blocks, data_tab: data.DataTab, stage_tabs: list[stage.StageTab]) -> None:
    """Datasets that are kept or deleted appear in every stage's list, on this page and on ones opened later."""
    stages = [tab.stage for tab in stage_tabs]

    def choices() -> list[Any]:
        kinds = [launch.stage(name).COLUMNS for name in stages]
        found = [gr.Dropdown(choices=stage.data_choices(kind)) for kind in kinds]
        return found[0] if len(found) == 1 else found

    lists = [tab.data for tab in stage_tabs]
    data_tab.stored.change(choices, None, lists, api_visibility="private", show_progress="hidden")
    page.load(choices, None, lists, api_visibility="private", show_progress="hidden")
    page.load(**data_tab.opening, api_visibility="private", show_progress="hidden")


def _keep_fresh(page: gr.Blocks, now: gr.HTML, stage_tabs: list[stage.StageTab]) -> None:
    """One timer at the top level (one inside an unselected tab would stand still) polls the run folders."""
    said = gr.State("")
    inputs: list[Any] = [said]
    outputs: list[Any] = [now, said]
    for tab in stage_tabs:
        inputs += tab.inputs
        outputs += [tab.picker, *tab.offers, *tab.outputs]

    def tick(before: str, *rest: Any) -> list[Any]:
        words = now_html()
        values: list[Any] = [words, words] if words != before else [gr.skip(), gr.skip()]
        given = iter(rest)
        for tab in stage_tabs:
            values += stage.tick(tab.stage, *islice(given, len(tab.inputs)))
        return values

    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    gr.Timer(TICK_SECONDS).tick(tick, inputs, outputs, **options)
    page.load(tick, inputs, outputs, **options)


def now_html() -> str:
    """The line under the title: what is running, queued or being fetched right now."""
    fetch = fetching.status()
    active = [(run, status) for run in list_runs() if (status := run.status()).active]
    lines = [html.tag("p", fetch)] if fetch else []
    for run, status in active[:3]:
        words = view.progress_words(status) if status.state == "running" else "Queued"
        lines.append(html.tag("p", f"{run.name}: {words}"))
    return html.live(lines or [html.tag("p", "Nothing is running.", "pg-note")])
