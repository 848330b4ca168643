"""Settings → widgets: one component a setting, made from what the setting says of itself."""

from typing import Any

import gradio as gr

from playground.data import constitutions
from playground.settings import Settings, Spec
from playground.stages import launch

NO_RUN = ("(none)", "")
OFFERS = {"constitutions": constitutions.names}  # settings that name something a person makes → what there is


def widgets(settings: type[Settings]) -> dict[str, gr.components.Component]:
    """The form's components by setting name; advanced ones in a closed accordion. Call it inside a gr.Blocks."""
    specs = settings.specs()
    made = {name: widget(spec) for name, spec in specs.items() if not spec.advanced}
    with gr.Accordion("More settings", open=False):
        made |= {name: widget(spec) for name, spec in specs.items() if spec.advanced}
    return {name: made[name] for name in specs}


def widget(spec: Spec) -> gr.components.Component:
    """choices and runs → Dropdown, bool → Checkbox, stepped range → Slider, number → Number, text → Textbox."""
    common: dict[str, Any] = {"value": spec.default, "label": spec.label, "info": spec.help, "interactive": True}
    if spec.choices is not None:
        return gr.Dropdown(choices=list(spec.choices), **common)
    if spec.runs is not None:  # the list grows after the page opened: a name is checked when the run is asked for
        return gr.Dropdown(choices=offered_runs(spec.runs), allow_custom_value=True, **common)
    if spec.offers is not None:
        return gr.Dropdown(choices=OFFERS[spec.offers](), allow_custom_value=True, **common)
    if spec.kind is bool:
        return gr.Checkbox(**common)
    if spec.kind is str:
        return gr.Textbox(lines=max(spec.lines, 3 if "\n" in spec.default else 1), max_length=4000, **common)
    if spec.step is not None and spec.low is not None and spec.high is not None:
        return gr.Slider(minimum=spec.low, maximum=spec.high, step=spec.step, **common)
    return gr.Number(precision=0 if spec.kind is int else None, **common)


def offered_runs(made_by: str) -> list[tuple[str, str]]:
    """(name, id) of a stage's usable runs, newest first, behind the choice of none."""
    return [NO_RUN, *[(run.name, run.id) for run in launch.usable_runs(made_by)]]
