"""The cards of a constitution: their parts on the page, and what those show of a desk, by their names.

Only what differs from what the browser has is sent, so that nothing typed meanwhile is overrun.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from playground.data import constitutions
from playground.data.constitution import dump
from playground.tabs import drafts, html, keeping
from playground.tabs.drafts import CARDS, FIELDS, YAML, Desk, Draft

LOST = ("This page lost its place", "The server has forgotten it. Copy what you typed here, then reload the page.")
Act = Callable[[Desk, dict[str, Any]], Desk]


def name_parts() -> dict[str, Any]:
    """What the whole constitution is called and what it is for."""
    about: dict[str, Any] = {"max_length": 2000, "scale": 3, "max_lines": 4, "min_width": 280}
    name: dict[str, Any] = {"max_length": 60, "scale": 2, "min_width": 280}
    return {
        "name": gr.Textbox(label="Name", info="Another name saves it as another constitution.", **name),
        "about": gr.Textbox(label="About", info="What it is for, in a sentence or two.", **about),
    }


def list_parts() -> dict[str, Any]:
    """The cards by title and what can be done with the open one."""
    info = "Pick the one to edit. A run draws them by weight; those that are off wait."
    parts: dict[str, Any] = {
        "cards": gr.Radio([], label="Principles", info=info, elem_classes="pg-cards", interactive=True)
    }
    for row in (("add", "Add"), ("copy", "Duplicate")), (("up", "Move up"), ("down", "Move down")):
        with gr.Row():
            parts |= {name: gr.Button(words, size="sm", min_width=100) for name, words in row}
    with gr.Row():
        parts["remove"] = gr.Button("Remove", size="sm", min_width=100, variant="stop")
        parts["undo"] = gr.Button("Undo remove", size="sm", min_width=100, interactive=False)
    return parts


def form_parts() -> dict[str, Any]:
    """The open card's fields."""
    text: dict[str, Any] = {"lines": 3, "max_lines": 10, "max_length": 4000}
    parts: dict[str, Any] = {
        "title": gr.Textbox(label="Title", info="A few words that name the principle.", max_length=200),
        "critique": gr.Textbox(
            label="Critique request", info="Asks the model what is wrong with its answer, under this principle.", **text
        ),
        "revision": gr.Textbox(
            label="Revision request", info="Asks it to write the answer anew after its critique.", **text
        ),
        "comparison": gr.Textbox(
            label="Comparison", info="Asks which of two answers is better by this principle; for AI feedback.", **text
        ),
    }
    with gr.Row():
        parts["weight"] = gr.Number(
            1.0, label="Weight", info="How often it is drawn against the others, 0 to 10.", min_width=140
        )
        parts["enabled"] = gr.Checkbox(
            True, label="Switched on", info="Off, it stays here and no run draws it.", min_width=140
        )
    return parts


def step(act: Act, given: dict[str, Any]) -> dict[str, Any]:
    """What the page shows after what was typed is on its card and `act` is done; what is wrong becomes a message."""
    desk = desk_of(given)
    if desk is None:
        return {"status": html.live([html.alert(*LOST)])}
    before = committed(desk, given)
    try:
        after = act(before, given)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    return shown(after, before, desk, given["holds"] or "")


def desk_of(given: dict[str, Any]) -> Desk | None:
    """The desk of the page; as the page has it where the server was started anew, or forgot it after an hour."""
    return given["desk"] or keeping.recovered(given["kept"], given["holds"] or "")


def committed(desk: Desk, given: dict[str, Any]) -> Desk:
    """The desk with what is typed, on the card and in the draft that the browser says it is about."""
    key, _, card = (given["holds"] or "").partition(" ")
    draft = desk.drafts.get(key)
    if draft is None:
        return desk
    if card == YAML:
        there = draft.text is not None and given["yaml"] is not None  # None: the box is not on the page yet
        typed = replace(draft, text=given["yaml"]) if there else draft
    else:
        typed = drafts.named(drafts.filled(draft, card, given), given["name"], given["about"])
        if draft.text is not None and draft.text == dump(draft.constitution):
            typed = drafts.dropped_text(typed)  # these words were on their way while the YAML opened
    return replace(desk, drafts={**desk.drafts, key: typed})


def shown(desk: Desk, before: Desk, was: Desk, holds: str) -> dict[str, Any]:
    """Values by component: only what differs from what the browser has, so that nothing typed meanwhile is overrun.
    `was`: the desk before the event, `before`: the same with what was typed."""
    draft, old, shown = desk.draft, before.draft, was.draft
    key, _, card = holds.partition(" ")
    text, other = draft.text is not None, key != desk.current
    found: dict[str, Any] = {"desk": desk, "kept": keeping.packed(desk)}
    found["holds"] = f"{desk.current} {YAML if text else draft.open}"
    if other or (status := status_html(draft)) != status_html(shown):
        found["status"] = status_html(draft) if other else status
    choices = drafts.card_choices(draft)
    if other or draft.open != card or choices != drafts.card_choices(shown):
        found["cards"] = gr.Radio(choices=choices, value=draft.open or None)
    if other or bool(draft.removed) != bool(shown.removed):
        found["undo"] = gr.Button(interactive=bool(draft.removed))
    if other or draft.changed != shown.changed or (draft.name != shown.name and not draft.origin):
        name = desk.current.partition("@")[0]
        found["picker"] = gr.Dropdown(choices=drafts.name_choices(desk), value=name)
        found["version"] = gr.Dropdown(choices=drafts.version_choices(desk), value=desk.current)
    if other:
        choices = drafts.against_choices(desk)
        found["against"] = gr.Dropdown(choices=choices, value=choices[0][1])
    if other or (draft.name, draft.about) != (old.name, old.about):
        found |= {"name": draft.name, "about": draft.about}
    if text and (other or card != YAML or draft.text != old.text):
        found |= {"yaml": draft.text, "read_yaml": ""}
    if not key or text != (card == YAML):
        found["mode"] = YAML if text else CARDS
        found |= {"card_view": gr.Row(visible=not text), "yaml_view": gr.Column(visible=text)}
        found["naming"] = gr.Row(visible=not text)  # the YAML says the name itself, and what it is about
    if not text and card != draft.open:
        found |= _form_values(draft)
    return found


def _form_values(draft: Draft) -> dict[str, Any]:
    """The open card's fields by name; empty and closed where there is no card."""
    card = draft.cards[draft.place] if draft.place >= 0 else drafts.Card("")
    made: dict[str, Any] = {"weight": gr.Number, "enabled": gr.Checkbox}
    return {
        name: made.get(name, gr.Textbox)(value=getattr(card, name), interactive=draft.place >= 0) for name in FIELDS
    }


def status_html(draft: Draft) -> str:
    """Whether something waits to be saved, and what keeps it from being saved."""
    on = sum(card.enabled and card.weight > 0 for card in draft.cards)
    counts = (
        f"{drafts.counted(len(draft.cards))}, {on} of them drawn." if draft.cards else "No principles yet: press Add."
    )
    if not draft.changed:
        return html.live([html.tag("p", f"Saved. {counts}", "pg-note")])
    title = "Unsaved edits" if draft.origin else "Not saved yet"
    return html.live([html.alert(title, draft.problem or f"{counts} This browser keeps them until you save.")])


def first_look(kept: Any) -> dict[str, Any]:
    """A fresh page shows what the browser kept, else the first constitution."""
    first = drafts.newest()[0]
    fresh = Desk(first.reference, {first.reference: drafts.opened(first.constitution, first.reference)})
    desk = keeping.unpacked(kept) or fresh
    return shown(desk, desk, desk, "")


def differences_html(draft: Draft, against: str | None) -> str:
    """What was done to a stored version to make what is on the page; texts word by word."""
    if not against:
        raise gr.Error("Pick a version to compare with first.", duration=None)
    try:
        version, draft = constitutions.find(against), drafts.in_cards(draft)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    parts = [html.tag("p", f"From {version.label} to what is on the page:", "pg-state")]
    changes = constitutions.diff(version, draft.constitution)
    for change in changes:
        if change.kind in ("changed", "about") and isinstance(change.before, str):
            whose = f"The {change.field} of “{change.title}”:" if change.title else "The line about it:"
            parts.append(html.box([html.tag("p", whose), html.diff(change.before, change.after)], "pg-row"))
        else:
            parts += [html.tag("p", words) for words in constitutions.diff_words([change])]
    return html.live(parts if changes else [html.tag("p", f"Nothing differs from {version.label}.", "pg-note")])


def read_html(text: str) -> str:
    """What would become of YAML as it is."""
    try:
        found = drafts.in_cards(Draft("constitution", text=text or ""))
    except ValueError as error:
        return html.live([html.alert("This can't be read yet", str(error))])
    return html.live([html.tag("p", f"{drafts.counted(len(found.cards))}.", "pg-note")])
