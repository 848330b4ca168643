"""The Constitution tab: write principles and try them, make data with them, look through it, hand it on."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.data import constitutions
from playground.data.library import Dataset
from playground.models import catalog
from playground.stages import launch, recipes
from playground.tabs import bench, chat, constitution, fetching, form, hosting, html, review, stage
from playground.tabs.stage import StageTab

INTRO = """**Constitutional AI** replaces thousands of human judgements by a page of principles. Write what you value;
the model criticises and revises its answers by it (*Critique and revise*), or compares pairs of answers (*AI
feedback*). What comes out is data: review it, then train on it in the other tabs, and measure what it changed."""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass
class ValuesTab:
    """What the page wires: the tabs and the stages in it, and what is looked up anew when they are opened."""

    tabs: gr.Tabs
    stages: list[StageTab]
    editor: constitution.Editor
    review: review.Review
    checkpoint: gr.Dropdown
    recipe: gr.Dropdown


def build() -> ValuesTab:
    """Lays out the tab and wires what stays within it."""
    gr.Markdown(INTRO)
    stages = []
    with gr.Tabs() as tabs:
        with gr.Tab("Principles"):
            editor = constitution.build()
            checkpoint = bench.build(editor.fields, editor.holds)
        for name in launch.MAKERS:
            with gr.Tab(launch.stage(name).TITLE):
                stages.append(stage.build(name))
        with gr.Tab("Review") as review_tab:
            reviewed = review.build()
        with gr.Tab("Recipe"):
            recipe = _recipe()
    review_tab.select(**reviewed.opening, **PRIVATE)
    return ValuesTab(tabs, stages, editor, reviewed, checkpoint, recipe)


def wire(page: gr.Blocks, tab: gr.Tab, values: ValuesTab, tabs: gr.Tabs, trained: list[StageTab]) -> None:
    """What reaches out of the tab: a fresh page's editor, rows that are sent to a stage, and what the forms offer."""
    constitution.open_on(page, values.editor)
    page.load(**values.review.opening, **PRIVATE)
    tab.select(**values.review.opening, **PRIVATE)
    tab.select(lambda: gr.Dropdown(choices=chat.choices()), None, values.checkpoint, **PRIVATE)
    lists = list(offered(values, trained))
    for event in (page.load, tabs.change, values.tabs.change, values.editor.stored.change):
        event(lambda: offered(values, trained), None, lists, **PRIVATE)
    for name, button in values.review.send.items():

        def send(run_id: str | None, name: str = name) -> dict[Any, Any]:
            made = hand_over(run_id, name)
            return {tabs: gr.Tabs(selected=name), **offered(values, trained, {name: made.id})}

        button.click(send, values.review.picker, [tabs, *lists], api_visibility="private")


def offered(values: ValuesTab, trained: list[StageTab], picked: dict[str, str] | None = None) -> dict[Any, Any]:
    """What the forms of all stages offer today, by component: runs make datasets, and both these and constitutions may
    come from another page. picked: by stage, the dataset to choose there. Updates and no components: one that is made
    while the page is laid out would stand on it."""
    found: dict[Any, Any] = {values.recipe: gr.update(choices=constitutions.names())}
    for tab in (*trained, *values.stages):
        module = launch.stage(tab.stage)
        value = {"value": picked[tab.stage]} if picked and tab.stage in picked else {}
        found[tab.data] = gr.update(choices=stage.data_choices(module.COLUMNS), **value)
        for name, spec in module.Settings.specs().items():
            if spec.offers is not None:
                found[tab.named[name]] = gr.update(choices=form.OFFERS[spec.offers]())
    return found


def hand_over(run_id: str | None, name: str) -> Dataset:
    """The reviewed rows as data for a stage, said on the page."""
    made = review.hand_over(run_id, name)
    gr.Info(f"Kept as {made.name}: {made.train} rows to train on, {made.heldout} held out.")
    return made


def _recipe() -> gr.Dropdown:
    """All stages at once, one after the other; returns the list of constitutions."""
    known = recipes.recipes()
    gr.Markdown(
        "A recipe queues every stage of the pipeline; each waits for the one before. Watch them in their own tabs, or "
        "all of them under **Runs**. The page may be closed meanwhile."
    )
    names = list(known)
    picker = gr.Dropdown(names, value=names[0], label="Recipe", info="What is run, step after step.")
    about = gr.HTML(_about(names[0]), padding=False)
    base = gr.Dropdown(
        catalog.choices(),
        value=catalog.EMBEDDED,
        allow_custom_value=not hosting.on_space(),
        label="Starting model",
        info="Every step begins with it or with an earlier step's run.",
    )
    values = gr.Dropdown(
        constitutions.names(),
        value="harmless-and-candid",
        allow_custom_value=True,
        label="Constitution",
        info="What its steps apply, where they apply one; name@number is an older version.",
    )
    start = gr.Button("Queue the whole recipe", variant="primary")
    queued = gr.HTML(padding=False)
    picker.change(_about, picker, about, **PRIVATE)
    start.click(_start, [picker, base, values], queued, api_name="start_recipe", concurrency_limit=2)
    return values


def _about(name: str) -> str:
    """A recipe in words, with its steps."""
    entry = recipes.recipes()[name]
    rows = [
        [title, launch.stage(step["stage"]).TITLE, step["data"], step.get("parent", "")]
        for title, step in entry["steps"].items()
    ]
    return html.box([html.tag("p", entry["about"]), html.table(["Step", "Stage", "Data", "Continues"], rows)])


def _start(name: str, ref: str, constitution: str) -> str:
    try:
        asked = constitution if recipes.applies(name) else None
        hosting.check_ref(ref)
        if wait := fetching.ready_or_fetch(ref):
            raise ValueError(wait)
        made = recipes.start(name, catalog.prepare(ref), asked)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    return html.live([html.tag("p", f"Queued: {', '.join(step.name for step in made)}.")])
