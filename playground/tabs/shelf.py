"""The library on the page: what is stored, where it came from and who used it; open, rename, delete, download."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data import export, library
from playground.data.dataset import Dataset
from playground.stages import inputs
from playground.tabs import html, talking
from playground.tabs.parts import Parts, Values

KINDS = {"sft": "conversations", "preference": "pairs", "prompts": "prompts", "thumbs": "thumbs"}
KEY = "library"
ASKED = ["delete", "sure", "not_sure"]
MOST_USERS = 3  # runs named in a cell
SAVE = "() => { setTimeout(() => document.querySelector('#data-file')?.click(), 100); }"
QUIET: dict[str, Any] = {"show_progress": "hidden"}


def parts() -> Parts:
    """The table, and what can be done with the dataset that is open."""
    made = Parts()
    made["library"] = talking.element(elem_id="library")
    with gr.Row():
        info = "What is kept is listed here; the newest version is opened."
        made["stored"] = gr.Dropdown(choices(), value=None, label="Open a stored dataset", info=info, min_width=260)
        info = "Older ones stay as they were when a run used them."
        made["version"] = gr.Dropdown([], label="Version", info=info, visible=False, min_width=160)
        info = "Runs that used it find it all the same."
        made["rename"] = gr.Textbox(label="Another name", info=info, max_length=60, min_width=220)
    with gr.Row():
        made["renames"] = gr.Button("Rename it", size="sm", min_width=120)
        made["download"] = gr.Button("Download it as JSONL", size="sm", min_width=160)
        made["delete"] = gr.Button("Delete it", size="sm", variant="stop", min_width=120)
        made["sure"] = gr.Button("Yes, delete it for good", size="sm", variant="stop", visible=False, min_width=160)
        made["not_sure"] = gr.Button("Keep it", size="sm", visible=False, min_width=120)
    made["doomed"] = gr.State("")  # the dataset that a person was asked about
    made["file"] = gr.DownloadButton("Save the file", visible="hidden", elem_id="data-file")
    return made


def wire(made: Parts) -> None:
    """Everything but opening, which shows rows as well."""
    asked = [*ASKED, "doomed"]
    listed = ["stored", "library", "version", *asked]
    made.on(made["delete"].click, ask, ["stored"], asked, **QUIET)
    made.on(made["not_sure"].click, lambda: asking(""), [], asked, **QUIET)
    made.on(made["sure"].click, delete, ["stored", "doomed"], listed, **QUIET)
    made.on(made["download"].click, download, ["stored", "version"], ["file"], **QUIET).then(
        None, None, None, js=SAVE, api_visibility="private"
    )


def choices() -> list[tuple[str, str]]:
    """(label, id) of the newest version of every dataset."""
    return [(f"{d.name} ({d.train} + {d.heldout} {KINDS[d.kind]})", d.id) for d in library.datasets()]


def open_values(dataset: Dataset | None) -> Values:
    """The lists while a version of a dataset is in view, or none: what can be done is done to what is in view."""
    newest = library.versions(dataset)[-1] if dataset and library.versions(dataset) else None
    lists = gr.Dropdown(choices=choices(), value=newest.id if newest else None)
    return {"stored": lists, "version": version_choices(dataset), **asking("")}


def version_choices(dataset: Dataset | None) -> gr.Dropdown:
    """The versions of a dataset, newest first; hidden where there is only one."""
    found = library.versions(dataset)[::-1] if dataset else []
    named = [(_version_words(version), version.id) for version in found]
    return gr.Dropdown(choices=named, value=dataset.id if dataset and named else None, visible=len(found) > 1)


def _version_words(version: Dataset) -> str:
    words = f"{version.version}: {version.train} + {version.heldout} rows"
    return words + (f", {version.note}" if version.note else "")


def library_html() -> str:
    """Every dataset, newest version: its name opens it."""
    uses = inputs.uses()
    names = ("Name", "Kind", "Rows", "Version", "SHA-256", "Came from", "Used by")
    head = html.box([html.tag("th", name) for name in names], name="tr")
    body = []
    for dataset in library.datasets():
        count = len(library.versions(dataset))
        users = [
            run.name for version in library.versions(dataset) for run in uses.get((version.id, version.sha256), [])
        ]
        cells = [
            html.box([html.button(dataset.name, f"open {dataset.id}", css="pg-link", about="")], name="td"),
            html.tag("td", KINDS[dataset.kind]),
            html.tag("td", f"{dataset.train} + {dataset.heldout}"),
            html.tag("td", f"{dataset.version}" + (f" of {count}" if count > 1 else "")),
            html.box([html.tag("code", dataset.sha256[:10])], name="td"),
            html.tag("td", _origin(dataset)),
            html.tag("td", _some(users)),
        ]
        body.append(html.box(cells, name="tr"))
    return talking.keyed([html.scroll(html.grid(head, body, "pg-table pg-wide"), "Stored datasets")], KEY)


def _origin(dataset: Dataset) -> str:
    when = time.strftime(" on %Y-%m-%d", time.localtime(dataset.created)) if dataset.created else ""
    return dataset.source + when


def _some(users: list[str]) -> str:
    names = list(dict.fromkeys(users))
    more = len(names) - MOST_USERS
    return ", ".join(names[-MOST_USERS:]) + (f" and {more} more" if more > 0 else "") if names else "no run yet"


def chosen(stored: str | None, version: str | None = None) -> Dataset:
    """The dataset that is open; gr.Error where there is none."""
    if not (version or stored):
        raise gr.Error("Open a stored dataset first.")
    try:
        return library.find(version or stored or "")
    except ValueError as error:  # deleted on another page
        raise gr.Error(str(error)) from error


def asking(doomed: str, words: str = "") -> Values:
    """The buttons before and after a person has said that a dataset shall go; doomed: its id."""
    sure = bool(doomed)
    return {
        "delete": gr.Button(visible=not sure),
        "sure": gr.Button(words, visible=True) if sure else gr.Button(visible=False),
        "not_sure": gr.Button(visible=sure),
        "doomed": doomed,
    }


def ask(stored: str | None) -> Values:
    """Asks once more, saying what would go."""
    dataset = chosen(stored)
    count = len(library.versions(dataset))
    words = f"Yes, delete {dataset.name}" + (f" with its {count} versions" if count > 1 else "")
    return asking(dataset.id, words)


def delete(stored: str | None, doomed: str) -> Values:
    """Removes a dataset with all its versions, if it is the one that was asked about; refused while a run needs one."""
    dataset = chosen(stored)
    if dataset.id != doomed:  # another one, or a newer version, was opened since
        gr.Warning("Nothing is deleted: another dataset is open now. Press Delete again if this one shall go.")
        return asking("")
    try:
        inputs.delete_datasets(library.versions(dataset))
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    gr.Info(f"{dataset.name} is deleted.")
    return {**listed(None), **asking(""), "version": version_choices(None)}


def rename(stored: str | None, name: str) -> Dataset:
    """Gives every version of a dataset another name."""
    try:
        dataset = library.rename(chosen(stored), name)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    gr.Info(f"It is called {dataset.name} now.")
    return dataset


def listed(dataset: Dataset | None) -> Values:
    """The lists anew, with a dataset chosen."""
    return {"stored": gr.Dropdown(choices=choices(), value=dataset.id if dataset else None), "library": library_html()}


def download(stored: str | None, version: str | None) -> Iterator[Values]:
    """The rows as JSONL in TRL's standard form; the file goes as soon as Gradio has its copy, which goes in an hour."""
    dataset = chosen(stored, version)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{dataset.name}-{dataset.version}.jsonl"
        export.export(dataset, "all", path)
        yield {"file": str(path)}
