"""One tab for every trained stage: form on the left, run on the right. What differs comes from the stage's module."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gradio as gr
import pandas as pd

from playground.data import library
from playground.models import catalog
from playground.runs import queue
from playground.runs import run as runs
from playground.runs.run import Run
from playground.stages import launch
from playground.stages.inputs import WEIGHTS
from playground.tabs import fetching, form, hosting, rollouts, view

OWN = "(your own settings)"
FRESH = "(the starting model)"
COLOURS = {"training": "#6366f1", "held-out": "#d97706"}
FRONTIER_COLOURS = dict(zip(view.FRONTIER.values(), COLOURS.values(), strict=True))
FRONTIER_WORDS = """**Reward against √KL** — every point is an iteration. As the policy leaves its reference, the reward
that it is trained on (the proxy) goes on rising, while what was meant (gold) at some distance turns down:
over-optimisation (Gao et al. 2023). Take no more distance than gold repays."""
IN_VIEW = 4  # curves shown open, two beside each other; the others wait in an accordion


@dataclass
class StageTab:
    """The components of one stage's tab that others need: those of the tick, and the form's pickers.

    named: the form's fields. tick() is given the values of `inputs` and fills picker, offers (of runs, in the form) and
    outputs."""

    stage: str
    picker: gr.Dropdown
    data: gr.Dropdown
    offers: list[gr.components.Component]
    named: dict[str, gr.components.Component]
    inputs: list[gr.components.Component]
    outputs: list[gr.components.Component]


def build(stage: str) -> StageTab:
    """Lays out the tab and wires it."""
    module = launch.stage(stage)
    gr.Markdown(module.__doc__ or "")
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            fields, start = _form(module)
        with gr.Column(scale=3, min_width=320):
            picker, inputs, outputs = _run_view(stage)

    def press(**named: Any) -> Any:
        started = _start(stage, named)
        return gr.Dropdown(choices=run_choices(stage), value=started.id)

    start.click(press, inputs_kwargs=fields, outputs=picker, api_name=f"start_{stage}", concurrency_limit=2)
    offers = [fields[name] for name in ("parent", *run_settings(stage))]
    return StageTab(stage, picker, fields["data"], offers, fields, inputs, outputs)


def _form(module: ModuleType) -> tuple[dict[str, gr.components.Component], gr.Button]:
    """Model, data, preset, name and every setting; fields by name."""
    presets = launch.presets(module.NAME)
    fields: dict[str, gr.components.Component] = {}
    fields["data"] = gr.Dropdown(  # both lists grow after the page opened: a name is checked when the run is asked for
        data_choices(module.COLUMNS),
        allow_custom_value=True,
        label="Data",
        info="Rows to learn from; add your own in the Data tab.",
    )
    fields["base"] = gr.Dropdown(
        catalog.choices(),
        value=catalog.EMBEDDED,
        allow_custom_value=True,
        label="Starting model",
        info="Pick one." if hosting.on_space() else "Pick one, or type any Hub id, folder or .gguf file.",
    )
    words = "A run whose weights are trained further, on its own base; then the starting model above is not asked."
    if _has(module, "MAKES"):
        words = "The trained checkpoint that writes, on its own base; left as it is, the starting model does."
    fields["parent"] = gr.Dropdown(
        parent_choices(),
        value=FRESH,
        allow_custom_value=True,
        label="Written by" if _has(module, "MAKES") else "Continue from",
        info=words,
    )
    fields["preset"] = gr.Dropdown(
        [OWN, *presets], value=OWN, label="Preset", info="Settings that are known to work; choosing one fills the form."
    )
    about = gr.Markdown()
    fields["name"] = gr.Textbox("", label="Run name", info="Left empty, stage and data give it one.", max_length=60)
    start = gr.Button("Start the run" if _has(module, "MAKES") else "Start training", variant="primary")
    settings = form.widgets(module.Settings)

    def fill(chosen: str) -> dict[Any, Any]:
        if chosen not in presets:
            return {about: ""}  # the form stays as it is
        entry = presets[chosen]
        values = module.Settings.parse(entry["settings"]).values()
        filled: dict[Any, Any] = {settings[name]: value for name, value in values.items()}
        data = library.find(entry["data"], module.COLUMNS).id
        parent = next((value for _, value in parent_choices(entry.get("parent", FRESH)) if value != FRESH), FRESH)
        for name, made_by in entry.get("runs", {}).items():
            filled[settings[name]] = next((value for _, value in form.offered_runs(made_by) if value), "")
        return {**filled, about: entry["about"], fields["data"]: data, fields["parent"]: parent}

    filled = [*settings.values(), about, fields["data"], fields["parent"]]
    fields["preset"].change(fill, fields["preset"], filled, api_visibility="private")
    return {**fields, **settings}, start


def _start(stage: str, named: dict[str, Any]) -> Run:
    """Checks and queues a run; what is wrong becomes a message on the page."""
    ref, data, name, preset, chosen = (named.pop(key) for key in ("base", "data", "name", "preset", "parent"))
    try:
        if not data:
            raise ValueError("Choose data first; the Data tab takes your own.")
        parent = runs.find(chosen) if chosen and chosen != FRESH else None
        identity = parent.request["base_identity"] if parent else None
        ref = parent.request["base"] if parent else ref
        hosting.check_ref(ref)
        settings = launch.stage(stage).Settings
        values = settings.parse(named).values()
        for model in [values[key] for key, spec in settings.specs().items() if spec.model and values[key]]:
            hosting.check_ref(model)
        if wait := fetching.ready_or_fetch(ref):
            raise ValueError(wait)
        name = (name or "").strip() or None
        used = None if preset == OWN else preset
        dataset = library.find(data, launch.stage(stage).COLUMNS)
        return launch.launch(stage, catalog.prepare(ref, identity=identity), dataset, values, name, used, parent)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error


def _run_view(stage: str) -> tuple[gr.Dropdown, list[gr.components.Component], list[gr.components.Component]]:
    """The run that is looked at: (its picker, what tick() is given, what it and a change of run fill)."""
    module = launch.stage(stage)
    picker = gr.Dropdown(
        [],
        allow_custom_value=True,  # a page that outlives its server holds a run that the new one has not listed yet
        label="Run",
        info="The newest one; older ones stay here.",
        elem_id=f"{stage}-run",
    )
    status = gr.HTML(view.status_html(None), elem_id=f"{stage}-status", padding=False)
    with gr.Row():
        stop = gr.Button("Stop and save", variant="stop", size="sm")
        resume = gr.Button("Resume", size="sm")
    plots, readings = _plots(stage, list(view.metrics_of(stage))[:IN_VIEW])
    special = [_frontier(stage)] if _has(module, "FRONTIER") else []
    probes = gr.HTML(view.probes_html(None), padding=False, visible=module.ANSWERS)
    reads, browser = rollouts.build(picker) if _has(module, "ROLLOUTS") else ([], [])
    with gr.Accordion("More curves", open=False):
        more, words = _plots(stage, list(view.metrics_of(stage))[IN_VIEW:])
    with gr.Accordion("Log", open=False):
        log = gr.Textbox(label="End of the log", lines=10, max_lines=10, interactive=False, autoscroll=True)
    stop.click(_stop, picker, None, api_visibility="private", concurrency_limit=None)  # unqueued, its toast is lost
    gr.api(stop_run, api_name=f"stop_{stage}", queue=False)  # the picker knows only the runs that its own page has seen
    resume.click(_resume, picker, None, api_visibility="private", queue=False)
    seen = gr.State(None)
    outputs = [status, *plots, *more, *readings, *words, probes, log, *special, *browser, seen]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    picker.change(lambda run_id, *asked: shown(stage, run_id, *asked), [picker, *reads], outputs, **private)
    return picker, [picker, seen, *reads], outputs


def _plots(stage: str, metrics: list[str]) -> tuple[list[gr.LinePlot], list[gr.HTML]]:
    """Curves two beside each other, each under what it means and over what it says now."""
    plots, readings = [], []
    for start in range(0, len(metrics), 2):
        with gr.Row():
            for metric in metrics[start : start + 2]:
                with gr.Column(min_width=280):
                    gr.Markdown(f"**{metric}** — {view.metrics_of(stage)[metric]}")
                    plots.append(_plot(stage, metric))
                    readings.append(gr.HTML(padding=False))
    return plots, readings


def _plot(stage: str, metric: str) -> gr.LinePlot:
    return gr.LinePlot(
        x="step",
        y=metric,
        color="series",
        height=220,
        x_title="Step",
        y_title=metric,
        color_map=colours(stage),
        elem_id=f"plot-{stage}-{metric.replace('/', '-')}",
        show_label=False,
        label=metric,
    )


def colours(stage: str) -> dict[str, str]:
    """The colour of each of a stage's two series."""
    return dict(zip(view.series_of(stage), COLOURS.values(), strict=True))


def _frontier(stage: str) -> gr.ScatterPlot:
    gr.Markdown(FRONTIER_WORDS)
    return gr.ScatterPlot(
        x="√KL",
        y="value",
        color="series",
        height=260,
        color_map=FRONTIER_COLOURS,
        elem_id=f"frontier-{stage}",
        show_label=False,
        label="Reward against √KL",
    )


def _has(module: ModuleType, part: str) -> bool:
    """Whether a stage asks for a part of the tab that not every stage has: FRONTIER, ROLLOUTS, MAKES."""
    return bool(getattr(module, part, False))


def shown(stage: str, run_id: str | None, *asked: Any) -> list[Any]:
    """Values for StageTab.outputs: everything the page shows of one run. `asked`: of the rollout browser, if any."""
    run = Run(run_id) if run_id else None
    seen = (look(run), None)  # looked at first: what changes while the files are read is shown by the next tick
    events = run.metrics() if run else []
    module, metrics = launch.stage(stage), view.metrics_of(stage)
    curves = [_drawn(view.curve(events, metric, view.series_of(stage)), colours(stage)) for metric in metrics]
    readings = [view.reading_html(events, metric) for metric in metrics]
    log = run.log_tail() if run else ""
    special = [_drawn(view.frontier(events), FRONTIER_COLOURS)] if _has(module, "FRONTIER") else []
    browser = rollouts.shown(run, *asked) if _has(module, "ROLLOUTS") else []
    return [view.status_html(run), *curves, *readings, view.probes_html(run), log, *special, *browser, seen]


def _drawn(frame: pd.DataFrame | None, colours: dict[str, str]) -> Any:
    """An update for a plot. It looks for new series only when its colours change, as when another run is picked."""
    if frame is None:
        return None
    series = set(frame["series"])
    return gr.update(value=frame, color_map={name: colour for name, colour in colours.items() if name in series})


def look(run: Run | None) -> tuple[Any, ...]:
    """Changes whenever the page would show something else of this run; a process that died without a word counts."""
    return (run.id, run.status().state, run.revision()) if run else ()


def tick(stage: str, run_id: str | None, seen: Any, *asked: Any) -> list[Any]:
    """Values for [picker, *offers, *outputs] every second or two; what has not changed is skipped.

    `seen` is (what was shown of the run, the runs that the pickers offer; None: not known)."""
    choices = run_choices(stage)
    offers = [parent_choices(), *map(form.offered_runs, run_settings(stage).values())]
    known = [value for _, value in choices]
    chosen = run_id if run_id in known else (known[0] if known else None)
    looked, offered = seen or (None, None)
    now = (look(Run(chosen) if chosen else None), (choices, offers))
    same = offered == now[1]
    picker = gr.skip() if same and run_id == chosen else gr.Dropdown(choices=choices, value=chosen)
    lists = [gr.skip() if same else gr.Dropdown(choices=found) for found in offers]
    module = launch.stage(stage)
    count = 2 * len(module.METRICS) + 3 + _has(module, "FRONTIER") + 3 * _has(module, "ROLLOUTS")
    values = [gr.skip()] * count if looked == now[0] else shown(stage, chosen, *asked)[:-1]
    return [picker, *lists, *values, gr.skip() if seen == now else now]


def run_settings(stage: str) -> dict[str, str]:
    """The stage's settings that name a run, each with the stage of that run."""
    return {name: spec.runs for name, spec in launch.stage(stage).Settings.specs().items() if spec.runs}


def run_choices(stage: str) -> list[tuple[str, str]]:
    """(label, id) of the stage's runs, newest first."""
    found = [run for run in reversed(runs.list_runs()) if run.request["stage"] == stage]
    return [(run.name, run.id) for run in found]


def parent_choices(stage: str | None = None) -> list[tuple[str, str]]:
    """(label, id) of the runs that can be continued, newest first, behind the choice to continue none."""
    found = []
    for run in reversed(runs.list_runs()):
        made_by, status = run.request["stage"], run.status()
        weights = launch.stage(made_by).ANSWERS and (run.adapter / WEIGHTS).exists()
        if weights and not status.active and stage in (None, made_by):
            found.append((view.lineage(run), run.id))
    return [(FRESH, FRESH), *found]


def data_choices(kind: str) -> list[tuple[str, str]]:
    """(label, id) of the datasets that hold this kind of row."""
    fitting = [d for d in library.datasets() if d.kind in library.ACCEPTED[kind]]
    return [(f"{d.name} ({d.train} rows, {d.heldout} held out)", d.id) for d in fitting]


def _stop(run_id: str | None) -> None:
    if run_id and stop_run(run_id) == "running":
        gr.Info("It finishes its step, saves and stops.")


def stop_run(run: str) -> str:
    """Stops a run, given by its id or name, after its step, with its weights saved; returns its state."""
    try:
        found = runs.find(run)
        found.request_stop()
        return found.status().state
    except ValueError as error:
        raise gr.Error(str(error)) from error


def _resume(run_id: str | None) -> None:
    if not run_id:
        return
    try:
        Run(run_id).requeue()
    except ValueError as error:
        raise gr.Error(str(error)) from error
    queue.start_worker()
