"""The rows on the page: search, pages, and what a person changes in them before it is stored as a new version."""

from typing import Any

import gradio as gr

from playground.data import edits, quality
from playground.data.edits import ORDERS, Key
from playground.data.shapes import RowError
from playground.tabs import html, talking
from playground.tabs.looking import ALL, CHANGED, Desk, Looked
from playground.tabs.parts import Parts, Values
from playground.tabs.rows import PAGE, boxes, page_html, place_of

INTRO = """## The rows, and what is learned from them
Unfold the line under a row to see it as tokens: coloured and underlined ones are learned, grey ones are only read. What
you change here is not stored until you say so."""
FORGOTTEN = "This page has forgotten what it showed; open it again."
HOW = ["desk", "limit", "ref"]
PENDING = ["desk", "pending", "pending_row", "revise"]
LOOKS = [*PENDING, "rows"]
# One after the other, in the order in which they were pressed, and none left out because another is under way.
QUICK: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_id": "rows",
    "concurrency_limit": 1,
    "trigger_mode": "multiple",
}


def parts() -> Parts:
    """How rows are looked at, the rows, and what becomes of changes."""
    made = Parts()
    gr.Markdown(INTRO)
    with gr.Row():
        info = "Words in any part of a row, or #12 for the row of that number."
        made["query"] = gr.Textbox(label="Search", info=info, max_length=200, min_width=220)
        info = "Which rows are listed."
        made["show"] = gr.Dropdown([*ORDERS, CHANGED], value=ALL, label="Show", info=info, min_width=220)
    made["rows"] = talking.element(elem_id="data-rows")
    with gr.Row(visible=False, elem_classes="pg-pending") as made["pending_row"]:
        made["pending"] = gr.HTML(padding=False, elem_id="data-pending", min_width=220)
        made["revise"] = gr.Button("Store as a new version", variant="primary", size="sm", min_width=200, scale=0)
        made["discard"] = gr.Button("Undo all changes", size="sm", min_width=160, scale=0)
    return made


def wire(made: Parts) -> None:
    """Every change shows the rows anew, and how much is not stored yet."""
    latest = {**QUICK, "trigger_mode": "always_last"}  # a box tells of every change, but of input only key by key
    made.on(made["rows"].click, act, HOW, LOOKS, **QUICK)
    made.on(made["rows"].input, typed, ["desk"], PENDING, **QUICK)
    made.on(made["query"].change, search, [*HOW, "query", "show"], LOOKS, **latest)
    made.on(made["show"].input, search, [*HOW, "query", "show"], LOOKS, **latest)
    made.on(made["discard"].click, discard, HOW, LOOKS, **QUICK)


def rows_values(desk: Desk, limit: int, ref: str) -> Values:
    """The rows in view, and what is not stored of them."""
    return {"desk": desk, "rows": page_html(desk.looked, limit, ref), **pending_values(desk.looked)}


def fresh_values(desk: Desk, limit: int, ref: str) -> Values:
    """The same for rows that have just come into view, with what was last searched for among them."""
    kind = desk.looked.kind if desk.looked else ""
    query, only = desk.looked.asked if desk.looked else ("", ALL)
    filters = [*ORDERS, *edits.FILTERS.get(kind, {}), CHANGED]
    return {**rows_values(desk, limit, ref), "query": query, "show": gr.Dropdown(choices=filters, value=only)}


def pending_values(looked: Looked | None) -> Values:
    """What is not stored yet, in words. A file's rows are kept with their changes, so there is no version to store."""
    words = looked.draft.words() if looked else ""
    told = [html.tag("p", f"{words}, not stored yet.", "pg-state")] if words else []
    stored = bool(looked and looked.dataset)
    if words and not stored:
        told.append(html.tag("p", "Keep this dataset, above, stores the rows as they are now.", "pg-note"))
    return {
        "pending": html.live(told),
        "pending_row": gr.Row(visible=bool(words)),
        "revise": gr.Button(visible=stored),
    }


def in_view(desk: Desk | None) -> Looked:
    """What the page shows; gr.Error where the server has forgotten it."""
    if desk is None or desk.looked is None:
        raise gr.Error(FORGOTTEN)
    return desk.looked


def act(desk: Desk | None, limit: int, ref: str, event: gr.EventData) -> Values:
    """A button of a row, or one that turns the page."""
    looked = in_view(desk)
    said = talking.heard(event, looked.key)
    key = place_of(looked, said.get("row", ""))
    if said.get("act") in ("previous", "next"):
        looked.turn(1 if said["act"] == "next" else -1, PAGE)
    elif key is not None:
        _change(looked, key, said)
    return rows_values(desk or Desk(), limit, ref)


def _change(looked: Looked, key: Key, said: dict[str, Any]) -> None:
    """What a row's button does. Texts that are being edited come with every press, so none is lost."""
    dropped = looked.draft.now(key) is None
    if said["act"] == "done":
        _take(looked, key, said["texts"])
        looked.editing.discard(key)
    elif said["act"] == "edit" and not dropped:
        looked.editing.add(key)
    elif said["act"] == "flip" and not dropped:
        looked.draft.flip(key)
    elif said["act"] == "drop":
        looked.draft.drop(key)
        looked.editing.discard(key)
    elif said["act"] == "undo":
        looked.draft.restore(key)
        looked.editing.discard(key)


def typed(desk: Desk | None, event: gr.EventData) -> Values:
    """A box that was left: its text counts from now on. The rows stay as they are, with what is being typed in them."""
    looked = in_view(desk)
    said = talking.heard(event, looked.key)
    key = place_of(looked, said.get("row", ""))
    if key in looked.editing:
        _take(looked, key, said["texts"])
    return {"desk": desk, **pending_values(looked)}


def _take(looked: Looked, key: Key, texts: list[str]) -> None:
    """Puts a row's edited texts in its place; gr.Error says why they can't be."""
    row = looked.now(key)
    said = boxes(row)
    if key not in looked.editing or len(texts) != len(said):
        return
    sent = [(name, text, was) for (name, was), text in zip(said.items(), texts, strict=True)]
    changes = {name: text for name, text, was in sent if text.splitlines() != was.splitlines()}
    try:
        if changes:  # a row that was only looked at stays as it is, whatever a check would tidy
            looked.draft.edit(key, changes)
    except RowError as error:
        raise gr.Error(f"Row {row.row} can't be used like this: {error}.", duration=None) from error


def search(desk: Desk | None, limit: int, ref: str, query: str, only: str) -> Values:
    """Lists the rows that fit; nothing happens where the page itself has changed the boxes."""
    looked = in_view(desk)
    if looked.asked == (query or "", only):
        return {}
    try:
        looked.search(query or "", only)
    except RowError as error:
        raise gr.Error(str(error)) from error
    return rows_values(desk or Desk(), limit, ref)


def jump(desk: Desk, name: str, limit: int, ref: str) -> Values:
    """Brings one row into view, alone, as a search for it would."""
    looked = in_view(desk)
    key = place_of(looked, name)
    if key is None:
        return {}
    looked.show(key)
    return fresh_values(desk, limit, ref)


def balance(desk: Desk | None, limit: int, ref: str) -> Values:
    """Drops pairs until length alone no longer tells which answer is chosen; they are only marked until stored."""
    looked = in_view(desk)
    there = {key: row for key in looked.places if (row := looked.draft.now(key)) is not None}
    kept = {id(row) for row in quality.balanced(list(there.values()))}
    extra = [key for key, row in there.items() if id(row) not in kept]
    if extra:
        looked.draft.drop(*extra)
    else:
        gr.Info("The longer answer is chosen about as often as the shorter one already.")
    return rows_values(desk or Desk(), limit, ref)


def discard(desk: Desk | None, limit: int, ref: str) -> Values:
    """All rows as they were."""
    looked = in_view(desk)
    looked.draft.restore(*looked.draft.changed)
    looked.editing = set()
    return rows_values(desk or Desk(), limit, ref)
