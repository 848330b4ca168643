"""Where rows come from: a file, pasted text, a dataset of the Hub. Each gives raw records and what to call them."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data import hub
from playground.data.readers import LIMITS, RawRow, read_file, read_text
from playground.tabs import html
from playground.tabs.parts import Parts, Values

TYPES = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"]
LIMIT_WORDS = f"JSONL, JSON, CSV, TSV, Parquet or text, also as .gz; {LIMITS.words()}."
HUB_WORDS = "Public datasets are read as data: no code of theirs is run, and nothing but the rows is kept."
LOOK_SECONDS = 0.4
QUEUE: dict[str, Any] = {"concurrency_id": "hub", "concurrency_limit": 2, "show_progress": "hidden"}


def file_parts() -> Parts:
    """A file from the visitor's machine."""
    made = Parts()
    made["upload"] = gr.File(label="Upload a file", file_types=[*TYPES, ".gz"], height=140)
    gr.Markdown(LIMIT_WORDS, elem_classes="pg-note")
    return made


def paste_parts() -> Parts:
    """Rows from the clipboard."""
    made = Parts()
    made["pasted"] = gr.Textbox(
        label="Paste rows", info="JSONL, JSON, CSV or TSV; or text, a prompt a line.", lines=5, max_lines=10
    )
    made["check"] = gr.Button("Check the pasted rows")
    return made


def hub_parts() -> Parts:
    """A dataset of the Hub: first what it is made of, then some rows."""
    made = Parts(hub_splits=gr.State([]))
    gr.Markdown(HUB_WORDS, elem_classes="pg-note")
    info = "Owner and name, as in Anthropic/hh-rlhf."
    made["hub_id"] = gr.Textbox(label="Dataset of the Hub", info=info, max_length=200)
    made["look_up"] = gr.Button("Look up")
    with gr.Column(visible=False) as made["hub_found"]:
        with gr.Row():
            common: dict[str, Any] = {"choices": [], "min_width": 160, "allow_custom_value": True}
            made["subset"] = gr.Dropdown(label="Subset", info="A part of the dataset.", **common)
            made["split"] = gr.Dropdown(label="Split", info="Train, test or another.", **common)
            info = f"The first ones; {LIMITS.rows:,} at most."
            most: dict[str, Any] = {"minimum": 1, "maximum": LIMITS.rows, "precision": 0, "min_width": 120}
            made["most"] = gr.Number(1000, label="Rows", info=info, **most)
        with gr.Row():
            made["fetch"] = gr.Button("Read the rows", variant="primary", min_width=140)
            made["stop"] = gr.Button("Stop", variant="stop", min_width=100)
    made["hub_status"] = gr.HTML(padding=False, elem_id="hub-status")
    return made


def of_file(path: str) -> tuple[str, list[RawRow]]:
    """(name, rows) of an upload, which stays no longer than it is needed."""
    file = Path(path)
    try:
        return file.name, read_file(file, file.name)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    finally:
        file.unlink(missing_ok=True)


def of_text(text: str) -> tuple[str, list[RawRow]]:
    """(name, rows) of pasted text."""
    try:
        return "pasted text", read_text(text)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error


def look_up(dataset_id: str) -> Iterator[Values]:
    """The subsets and splits of a dataset, to choose from."""
    yield {"hub_found": gr.Column(visible=False), "hub_status": _status("Asking the Hub …")}
    try:
        found = hub.splits((dataset_id or "").strip())
    except ValueError as error:
        yield {"hub_status": _status(f"{error}.")}
        return
    subset = found[0][0]
    subsets = list(dict.fromkeys(name for name, _ in found))
    words = f"{len(subsets)} subsets" if len(subsets) > 1 else "One subset"
    yield {
        "hub_found": gr.Column(visible=True),
        "hub_splits": found,
        "subset": gr.Dropdown(choices=subsets, value=subset),
        **splits_of(found, subset),
        "hub_status": _status(f"{words}, {len(found)} splits in all. Choose, then read the rows."),
    }


def splits_of(found: list[tuple[str, str]], subset: str) -> Values:
    """The splits of one subset."""
    names = [split for name, split in found if name == subset]
    return {"split": gr.Dropdown(choices=names, value=names[0] if names else None)}


def of_hub(dataset_id: str, subset: str, split: str, most: float) -> Iterator[Values | list[RawRow]]:
    """What to show while the rows come, and at last the rows. Whoever stops asking for more ends it."""
    stop, said = threading.Event(), {"count": "Asking the Hub …", "note": ""}

    def progress(rows: int, note: str) -> None:
        said.update({"note": note} if note else {"count": f"{rows:,} rows read so far."})

    with ThreadPoolExecutor(1) as pool:
        asked = (dataset_id.strip(), subset, split, int(most or 1), LIMITS)
        coming: Future[list[RawRow]] = pool.submit(hub.read_dataset, *asked, progress=progress, stop=stop.is_set)
        try:
            while not coming.done():
                yield {"hub_status": _status(said["count"])}
                stop.wait(LOOK_SECONDS)
            yield coming.result()
            note = f" {said['note'][:1].upper()}{said['note'][1:]}." if said["note"] else ""
            yield {"hub_status": _status(f"{len(coming.result()):,} rows read, shown below.{note}")}
        except ValueError as error:
            yield {"hub_status": _status(f"{error}.")}
        finally:
            stop.set()


def stopped() -> Values:
    """After a person stopped the reading."""
    return {"hub_status": _status("Stopped. What was read so far is not used.")}


def _status(words: str) -> str:
    return html.live([html.tag("p", words, "pg-note")])
