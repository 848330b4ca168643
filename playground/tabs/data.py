"""The Data tab: bring rows, see what becomes of each and which tokens are learned, mend them, keep them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data import library
from playground.models.catalog import EMBEDDED
from playground.tabs import columns, looking, readings, row_editor, row_report, shelf, sources, talking
from playground.tabs.looking import Desk, Looked
from playground.tabs.parts import Parts, Values
from playground.tabs.row_editor import HOW, LOOKS, in_view

INTRO = """Bring **conversations** that show the manner you want, for fine-tuning; **preference pairs**, for the reward
model and DPO; or **prompts** alone, for PPO and a constitution. Their shape is recognised by what is in them, and the
report says what becomes of every row before anything trains on it."""
COLUMNS_INTRO = "The first rows. Are columns named in another way? Say in the header what each one holds."
NEXT = {
    "sft": "Fine-tune",
    "preference": "Reward model or the DPO",
    "prompts": "Constitution",
    "thumbs": "PPO",
}
REPORT = ["report", "dropped_rows", "dropped", "charts"]
READINGS = ["readings", *readings.NAMES]
SHOWN = [*LOOKS, "query", "show", *REPORT, *READINGS, "columns_box", "columns", "name", "keeping", "stored", "version"]
SHOWN += [*shelf.ASKED, "doomed"]


@dataclass
class DataTab:
    """What the page refreshes: the list of stored datasets, and what a fresh page shows."""

    stored: gr.Dropdown
    opening: dict[str, Any]


def build() -> DataTab:
    """Lays out the tab and wires it."""
    made = Parts(desk=gr.State(None, time_to_live=3600))
    gr.Markdown(INTRO)
    with gr.Tabs():
        with gr.Tab("Upload"):
            made |= sources.file_parts()
        with gr.Tab("Paste"):
            made |= sources.paste_parts()
        with gr.Tab("Hub"):
            made |= sources.hub_parts()
        with gr.Tab("Library") as made["library_tab"]:
            made |= shelf.parts()
    made |= _report_parts()
    made |= row_editor.parts()
    row_editor.wire(made)
    shelf.wire(made)
    _wire(made)
    opening = {"fn": made.by_name(first_look), "inputs": [made["limit"], made["ref"]]}
    return DataTab(made["stored"], {**opening, "outputs": [made[name] for name in SHOWN]})


def _report_parts() -> Parts:
    """What the rows are, what became of them, and keeping them."""
    made = Parts()
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            made["report"] = talking.element(elem_id="data-report")
            made |= readings.parts()
        with gr.Column(scale=2, min_width=320):
            with gr.Column(visible=False) as made["keeping"]:
                info = "A name to find it by."
                made["name"] = gr.Textbox(label="Keep it as", info=info, max_length=60)
                made["keep"] = gr.Button("Keep this dataset", variant="primary")
                made["report_file"] = gr.Button("Download what became of every row (CSV)", size="sm")
            made |= row_report.parts()
    with gr.Accordion("Columns", open=False, visible=False) as made["columns_box"]:
        gr.Markdown(COLUMNS_INTRO)
        made["columns"] = talking.element(elem_id="data-columns")
    with gr.Accordion("Dropped rows", open=False, visible=False) as made["dropped"]:
        made["dropped_rows"] = gr.HTML(padding=False, elem_classes="pg-tall")
    return made


def _wire(made: Parts) -> None:
    """Every way in ends with the same views of what came."""
    busy = {"show_progress_on": made["report"]}
    made.on(made["upload"].upload, open_file, ["upload", *HOW], [*SHOWN, "upload"], **busy)
    made.on(made["check"].click, open_text, ["pasted", *HOW], SHOWN, **busy)
    hub_shown = ["hub_found", "subset", "split", "hub_splits", "hub_status"]
    made.on(made["look_up"].click, sources.look_up, ["hub_id"], hub_shown, **sources.QUEUE)
    made.on(made["subset"].input, sources.splits_of, ["hub_splits", "subset"], ["split"], show_progress="hidden")
    asked = ["hub_id", "subset", "split", "most"]
    reading = made.on(made["fetch"].click, open_hub, [*asked, *HOW], [*SHOWN, "hub_status"], **sources.QUEUE)
    made.on(made["stop"].click, sources.stopped, [], ["hub_status"], cancels=[reading])
    made.on(made["stored"].input, open_stored, ["stored", *HOW], SHOWN, **busy)
    made.on(made["version"].input, open_stored, ["version", *HOW], SHOWN, **busy)
    made.on(made["library"].click, open_named, HOW, SHOWN, **busy)
    made.on(
        made["library_tab"].select, lambda: {"library": shelf.library_html()}, [], ["library"], show_progress="hidden"
    )
    renamed = ["stored", "library", "rename", *REPORT]
    for event in (made["rename"].submit, made["renames"].click):
        made.on(event, rename, ["stored", "rename", *HOW], renamed, show_progress="hidden")
    for name in readings.NAMES:
        made.on(made[name].input, read_as, [*HOW, *readings.NAMES], SHOWN, trigger_mode="always_last", **busy)
    every: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple"}
    made.on(made["columns"].input, map_columns, HOW, SHOWN, **every)
    made.on(made["report"].click, follow, HOW, SHOWN, **every)
    made.on(made["limit"].input, views, HOW, SHOWN, trigger_mode="always_last", **busy)
    made.on(made["ref"].change, views, HOW, SHOWN, trigger_mode="always_last", **busy)
    made.on(made["keep"].click, keep, ["desk", "name", "limit", "ref"], [*SHOWN, "library"])
    made.on(made["revise"].click, revise, HOW, [*SHOWN, "library"])
    made.on(made["report_file"].click, row_report.download, HOW, ["file"], show_progress="hidden").then(
        None, None, None, js=shelf.SAVE, api_visibility="private"
    )


def shown(desk: Desk, limit: int, ref: str, fresh: bool = True) -> Values:
    """Everything that the page shows of what is in view."""
    looked = desk.looked
    rows = row_editor.fresh_values if fresh else row_editor.rows_values
    values = {**row_report.report_values(desk, limit, ref), **rows(desk, limit, ref), **readings.values(looked)}
    if looked is None:
        return values
    values |= shelf.open_values(looked.dataset) if fresh else {}
    report, mapping = looked.report, looked.reading.columns
    recognised = bool(report and report.kept)
    header = columns.table_html(looked.raw, mapping, recognised) if report else ""
    doubtful = not recognised or bool(mapping) or columns.overlooked(looked)
    values["columns_box"] = gr.Accordion(visible=bool(header), open=doubtful)
    values["columns"] = talking.keyed([header], looked.file)
    values["keeping"] = gr.Row(visible=bool(report))
    return values


def views(desk: Desk | None, limit: int, ref: str) -> Values:
    """The same rows under another limit or another model's tokens."""
    return shown(desk or Desk(), limit, ref, fresh=False)


def brought(desk: Desk | None, looked: Looked, limit: int, ref: str, name: str = "") -> Values:
    """Puts new rows on the desk; name: what to keep them as, unless a person says otherwise."""
    desk = desk or Desk()
    for title in desk.open(looked):
        gr.Warning(f"Changes of {title} were waiting longest and are gone: two things can wait at a time.")
    return {**shown(desk, limit, ref), "name": name}


def open_file(path: str | None, desk: Desk | None, limit: int, ref: str = EMBEDDED) -> Values:
    """An upload."""
    if not path:
        return {}
    title, raw = sources.of_file(path)
    name = Path(title.removesuffix(".gz")).stem
    return {**brought(desk, looking.of_file(title, raw), limit, ref, name), "upload": None}


def open_text(text: str, desk: Desk | None, limit: int, ref: str = EMBEDDED) -> Values:
    """Pasted rows."""
    return brought(desk, looking.of_file(*sources.of_text(text or "")), limit, ref, "pasted")


def open_hub(
    dataset_id: str, subset: str, split: str, most: float, desk: Desk | None, limit: int, ref: str
) -> Iterator[Values]:
    """Rows of the Hub, with how many there are so far while they come."""
    for found in sources.of_hub(dataset_id or "", subset or "", split or "", most):
        if isinstance(found, dict):
            yield found
        else:
            name = f"{dataset_id.strip().split('/')[-1]}-{split}"
            title = f"{dataset_id.strip()}, {subset}, {split}"
            yield brought(desk, looking.of_file(title, found), limit, ref, name)


def open_stored(data_id: str | None, desk: Desk | None, limit: int, ref: str = EMBEDDED) -> Values:
    """A version of a stored dataset, with the changes that a person left in it."""
    if not data_id:
        return {}
    desk, dataset = desk or Desk(), shelf.chosen(data_id)
    if waiting := desk.waiting(dataset):
        desk.back(waiting)
        return shown(desk, limit, ref)
    return brought(desk, looking.of_dataset(dataset), limit, ref)


def open_named(desk: Desk | None, limit: int, ref: str, event: gr.EventData) -> Values:
    """A dataset whose name was pressed in the table."""
    act, _, data_id = talking.heard(event, shelf.KEY).get("act", "").partition(" ")
    return open_stored(data_id, desk, limit, ref) if act == "open" else {}


def first_look(limit: int, ref: str) -> Values:
    """A fresh page shows the first dataset of the library, so that there is something to understand at once."""
    first = library.datasets()[0].id
    return open_stored(first, None, limit, ref)


def read_as(desk: Desk | None, limit: int, ref: str, *said: Any) -> Values:
    """The same file, read as a person asks."""
    looked = in_view(desk)
    return _read_anew(desk or Desk(), readings.chosen(looked, dict(zip(readings.NAMES, said, strict=True))), limit, ref)


def map_columns(desk: Desk | None, limit: int, ref: str, event: gr.EventData) -> Values:
    """The same file with other columns, as the header of its table says."""
    looked = in_view(desk)
    said = talking.heard(event, looked.file)
    if not said:
        return {}
    mapping = columns.chosen(columns.names(looked.raw), looked.reading.columns, said["changed"], said["values"])
    # What the columns hold decides what kind of rows they are.
    return _read_anew(desk or Desk(), replace(looked.reading, columns=mapping, kind=""), limit, ref)


def _read_anew(desk: Desk, reading: Any, limit: int, ref: str) -> Values:
    looked = in_view(desk)
    if looked.report is None:
        return {}
    desk.looked, gone = looking.read_anew(looked, reading)
    if gone:
        gr.Warning(f"{gone} changed rows are other rows now, so what you changed in them is gone.")
    return shown(desk, limit, ref)


def follow(desk: Desk | None, limit: int, ref: str, event: gr.EventData) -> Values:
    """A link in the report: to a row, or back to what waits."""
    looked = in_view(desk)
    said, desk = talking.heard(event, looked.key), desk or Desk()
    act, _, key = said.get("act", "").partition(" ")
    waiting = next((found for found in desk.aside if found.key == key), None)
    if act == "back" and waiting:
        desk.back(waiting)
        return shown(desk, limit, ref)
    if act == "balance":
        return row_editor.balance(desk, limit, ref)
    return row_editor.jump(desk, said.get("row", ""), limit, ref) if act == "look" else {}


def keep(desk: Desk | None, name: str, limit: int, ref: str) -> Values:
    """Stores a file's rows as they are now."""
    looked = in_view(desk)
    if looked.report is None:
        raise gr.Error("This is stored already; what you change in it becomes a new version.")
    try:
        dataset = library.store(looking.as_report(looked), (name or "").strip() or looked.title, looked.title)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    gr.Info(f"Kept as {dataset.name}. Next: the {NEXT[dataset.kind]} tab.")
    return _stored(desk or Desk(), dataset.id, limit, ref)


def revise(desk: Desk | None, limit: int, ref: str) -> Values:
    """Stores what was changed as the next version; the one before stays."""
    looked = in_view(desk)
    if looked.dataset is None:
        raise gr.Error("Keep this dataset first; its rows are stored as they are now.")
    try:
        dataset = library.revise(looked.dataset, looked.draft.applied(), looked.draft.words())
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    gr.Info(f"Stored as {dataset.label}.")
    if dataset.parent == looked.dataset.id and dataset.version > looked.dataset.version + 1:
        gr.Warning(
            f"It is made of version {looked.dataset.version}. What was changed in the versions between, perhaps on "
            "another page, is not in it; they are in the list of versions."
        )
    return _stored(desk or Desk(), dataset.id, limit, ref)


def rename(stored: str | None, name: str, desk: Desk | None, limit: int, ref: str) -> Values:
    """Gives a dataset another name, and what is in view of it, too."""
    dataset, looked = shelf.rename(stored, name), desk.looked if desk else None
    values = {**shelf.listed(dataset), "rename": ""}
    if desk is None or looked is None or looked.dataset is None or looked.dataset.series != dataset.series:
        return values
    looked.title = dataset.name
    return {**values, **row_report.report_values(desk, limit, ref)}


def _stored(desk: Desk, data_id: str, limit: int, ref: str) -> Values:
    """What was just stored in view, in place of what it was made of."""
    desk.looked = None
    return {**open_stored(data_id, desk, limit, ref), "library": shelf.library_html()}
