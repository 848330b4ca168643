"""The editor of constitutions: principles as cards or as YAML, versions to save, compare and take away.

What is typed goes to the server with every pause and is kept in the browser until it is saved. The server's answers may
cross what is typed meanwhile: so the form says itself whose card it holds (`holds`), and what is asked for is done in
its order, one thing at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data import constitutions
from playground.data.constitution import Constitution, dump, parse
from playground.home import clean_name
from playground.tabs import drafts, keeping, principles
from playground.tabs.drafts import CARDS, FIELDS, NEW, YAML, Desk, Draft
from playground.tabs.principles import LOST, Act, step

INTRO = """A **constitution** says in plain sentences what you want from the model. Every principle has three requests:
one to **criticise** an answer, one to **revise** it, and one to **compare** two answers. Edit the cards or their YAML;
nothing is lost when you leave, and a version that was saved never changes."""
QUEUE: dict[str, Any] = {"concurrency_id": "constitution", "concurrency_limit": 1}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
SAVE_AS = """(text, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/yaml"}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""


@dataclass
class Editor:
    """What the page and the bench need: the form's fields by name, whose card they hold, a value that changes when a
    version is saved or deleted, and all parts by name."""

    fields: dict[str, gr.components.Component]
    holds: gr.Textbox
    stored: gr.State
    parts: dict[str, Any]


def build() -> Editor:
    """Lays out the editor and wires it."""
    gr.Markdown(INTRO)
    parts: dict[str, Any] = {}
    with gr.Row():
        parts["picker"] = _offered("Constitution", "Those of the app and your own.")
        parts["version"] = _offered("Version", "Runs name it; it never changes.")
    parts["status"] = gr.HTML(elem_id="principles-status", padding=False)
    with gr.Row():
        parts["save"] = gr.Button("Save as a new version", variant="primary")
        parts["download"] = gr.Button("Download as YAML")
    with gr.Row() as parts["naming"]:
        parts |= principles.name_parts()
    parts["mode"] = gr.Radio(
        [CARDS, YAML], value=CARDS, label="Edit as", info="Both are the same; what you change in one is in the other."
    )
    with gr.Row() as parts["card_view"]:
        with gr.Column(scale=2, min_width=280):
            parts |= principles.list_parts()
        with gr.Column(scale=3, min_width=320):
            parts |= principles.form_parts()
    with gr.Column(visible=False) as parts["yaml_view"]:
        parts |= _text()
    parts |= _comparison() | _sources()
    for name in ("holds", "file", "file_name"):
        parts[name] = gr.Textbox(visible=False, interactive=False, label=name)
    parts["desk"] = gr.State(None)
    parts["stored"] = gr.State("")
    parts["kept"] = gr.JSON(visible=False)
    _wire_typing(parts)
    _wire_cards(parts)
    _wire_versions(parts)
    fields = {name: parts[name] for name in FIELDS}
    return Editor(fields, parts["holds"], parts["stored"], parts)


def open_on(page: gr.Blocks, editor: Editor) -> None:
    """A fresh page shows what its browser kept."""
    parts = editor.parts

    def look(kept: Any) -> dict[Any, Any]:
        return _by_part(parts, principles.first_look(kept))

    _kept(parts, page.load(look, parts["kept"], [parts[name] for name in OUTPUTS], js=keeping.LOOK, **PRIVATE))


def _offered(label: str, info: str) -> gr.Dropdown:
    """A list that is filled later. A server that was started anew does not know what it offered: so it takes any."""
    return gr.Dropdown([], label=label, info=info, min_width=280, allow_custom_value=True)


def _text() -> dict[str, Any]:
    """The YAML of the whole constitution."""
    return {
        "yaml": gr.Textbox(
            label="YAML",
            info="The whole constitution; it is read when you go back to the cards or save. Comments are not kept.",
            lines=24,
            max_lines=40,
            elem_classes="pg-yaml",
        ),
        "read_yaml": gr.HTML(padding=False),
        "drop_yaml": gr.Button("Drop my changes to the YAML", size="sm", variant="stop"),
    }


def _comparison() -> dict[str, Any]:
    """What differs from another version."""
    with gr.Accordion("What has changed", open=False):
        against = _offered("Compare with", "What is on the page is compared with this version.")
        compare = gr.Button("Compare versions", size="sm")
        return {"against": against, "compare": compare, "differences": gr.HTML(padding=False)}


def _sources() -> dict[str, Any]:
    """Constitutions from elsewhere, an empty one, and getting rid of one."""
    with gr.Accordion("New, import, drop, delete", open=False):
        gr.Markdown(
            "YAML, JSON or plain text with one principle a line: ours, the lists of the Constitutional AI paper, "
            "LangChain's principles and others are recognised. What is missing in a principle is made from what it "
            "says. It opens as a draft: look at it, then save it."
        )
        upload = gr.File(label="File of principles", file_types=[".yaml", ".yml", ".json", ".txt", ".md"], height=110)
        pasted = gr.Textbox(label="Or paste principles", info="One a line, or YAML or JSON.", lines=4, max_lines=8)
        with gr.Row():
            parts = {"read": gr.Button("Read the pasted principles", size="sm")}
            parts["new"] = gr.Button("Begin a new constitution", size="sm")
        with gr.Row():
            parts["drop"] = gr.Button("Drop my unsaved edits", size="sm", variant="stop")
            parts["delete"] = gr.Button("Delete this constitution", size="sm", variant="stop")
        return {**parts, "upload": upload, "pasted": pasted}


# ---- from an event to the next desk

OUTPUTS = (
    *("desk", "kept", "holds", "picker", "version", "status", "naming", "name", "about", "mode", "card_view", "cards"),
    *(*FIELDS, "undo", "yaml_view", "yaml", "read_yaml", "against"),
)
TYPED = ("desk", "kept", "picker", "version", "status", "cards")
ASKED = ("desk", "kept", "holds", "name", "about", *FIELDS, "yaml")


def _wire(parts: dict[str, Any], event: Any, act: Act, *asked: str, **how: Any) -> Any:
    """An event that puts what is typed on its card and then does `act`; values travel by name."""
    names = [*ASKED, *asked]

    def handle(values: dict[Any, Any]) -> dict[Any, Any]:
        return _by_part(parts, step(act, {name: values[parts[name]] for name in names}))

    outputs = [parts[name] for name in OUTPUTS]
    return _kept(parts, event(handle, {parts[name] for name in names}, outputs, **how, **QUEUE, **PRIVATE))


def _kept(parts: dict[str, Any], event: Any) -> Any:
    """The same event; behind it the browser keeps what is not saved. A change of `kept` would not tell it: Gradio's
    parts tell of changes only while their tab is open."""
    event.success(None, parts["kept"], None, js=keeping.KEEP, **PRIVATE)
    return event


def _by_part(parts: dict[str, Any], shown: dict[str, Any]) -> dict[Any, Any]:
    return {parts[name]: value for name, value in shown.items()}


# ---- what can be asked for


def _wire_typing(parts: dict[str, Any]) -> None:
    """Every pause in typing reaches the draft and the browser's copy; the last words always do. A Textbox tells of
    input only where a key was pressed: what is pasted, cut or dictated it tells as a change alone."""
    names = ("name", "about", *FIELDS, "yaml")

    def typed(values: dict[Any, Any]) -> dict[Any, Any]:
        found = step(lambda desk, _: desk, {name: values[parts[name]] for name in ASKED})
        return _by_part(parts, {name: found[name] for name in found if name in TYPED})

    outputs = [parts[name] for name in TYPED]
    events = [parts[name].change for name in names]
    inputs = {parts[name] for name in ASKED}
    _kept(parts, gr.on(events, typed, inputs, outputs, trigger_mode="always_last", **QUEUE, **PRIVATE))


def _wire_cards(parts: dict[str, Any]) -> None:
    """The buttons of the list, and the way between cards and YAML."""
    on_card: dict[str, Callable[[Draft], Draft]] = {
        "add": drafts.added,
        "copy": drafts.duplicated,
        "up": lambda draft: drafts.moved(draft, -1),
        "down": lambda draft: drafts.moved(draft, 1),
        "remove": drafts.removed,
        "undo": drafts.brought_back,
        "drop_yaml": drafts.dropped_text,
    }
    for name, change in on_card.items():
        press = partial(_pressed, change)
        _wire(parts, parts[name].click, press, trigger_mode="multiple")

    def pick(values: dict[Any, Any], picked: gr.SelectData) -> dict[Any, Any]:
        def act(desk: Desk, _: dict[str, Any]) -> Desk:
            return desk.put(drafts.shown(desk.draft, str(picked.value)))

        return _by_part(parts, step(act, {name: values[parts[name]] for name in ASKED}))

    inputs, outputs = {parts[name] for name in ASKED}, [parts[name] for name in OUTPUTS]
    _kept(parts, parts["cards"].select(pick, inputs, outputs, trigger_mode="multiple", **QUEUE, **PRIVATE))

    def turn(desk: Desk, given: dict[str, Any]) -> Desk:
        return desk.put((drafts.in_text if given["mode"] == YAML else drafts.in_cards)(desk.draft))

    turned = _wire(parts, parts["mode"].input, turn, "mode")
    turned.failure(lambda: YAML, None, parts["mode"], **PRIVATE)  # it can't be read: it stays on the page
    parts["yaml"].blur(principles.read_html, parts["yaml"], parts["read_yaml"], **QUEUE, **PRIVATE)


def _pressed(change: Callable[[Draft], Draft], desk: Desk, _: dict[str, Any]) -> Desk:
    return desk.put(change(desk.draft))


def _wire_versions(parts: dict[str, Any]) -> None:
    """Opening, saving, dropping, comparing and taking away."""
    for event in (
        _wire(parts, parts["picker"].input, lambda desk, given: _chosen(desk, given["picker"] or ""), "picker"),
        _wire(parts, parts["version"].input, lambda desk, given: _brought(desk, given["version"] or ""), "version"),
    ):  # one that can't be opened must not stand there as if it were what is deleted next
        event.failure(_in_view, parts["desk"], [parts["picker"], parts["version"]], **PRIVATE)
    _wire(parts, parts["new"].click, lambda desk, _: _begun(desk, drafts.added(Draft("my-constitution"))))
    _wire(parts, parts["upload"].upload, lambda desk, given: _begun(desk, _uploaded(given["upload"])), "upload")
    _wire(parts, parts["read"].click, lambda desk, given: _begun(desk, _pasted(given["pasted"])), "pasted")
    _wire(parts, parts["drop"].click, lambda desk, _: _dropped(desk))
    for event in (
        _wire(parts, parts["save"].click, lambda desk, _: _saved(desk)),
        _wire(parts, parts["delete"].click, lambda desk, _: _deleted(desk)),
    ):
        event.success(drafts.new_id, None, parts["stored"], **PRIVATE)
    names = [*ASKED, "against"]

    def given(values: dict[Any, Any]) -> tuple[Draft, dict[str, Any]]:
        asked = {name: values[parts[name]] for name in names}
        if (desk := principles.desk_of(asked)) is None:
            raise gr.Error(". ".join(LOST), duration=None)
        return principles.committed(desk, asked).draft, asked

    def compare(values: dict[Any, Any]) -> str:
        draft, asked = given(values)
        return principles.differences_html(draft, asked["against"])

    def take(values: dict[Any, Any]) -> list[Any]:
        draft, _ = given(values)
        text = dump(draft.constitution) if draft.text is None else draft.text
        return [text, f"{clean_name(draft.name, 'constitution')}.yaml"]

    inputs, file = {parts[name] for name in names}, [parts["file"], parts["file_name"]]
    parts["compare"].click(compare, inputs, parts["differences"], **QUEUE, **PRIVATE)
    taken = parts["download"].click(take, inputs, file, **QUEUE, **PRIVATE)
    taken.success(None, file, None, js=SAVE_AS, **PRIVATE)


def _in_view(desk: Desk | None) -> list[Any]:
    return [desk.current.partition("@")[0], desk.current] if desk else [gr.skip(), gr.skip()]


def _chosen(desk: Desk, name: str) -> Desk:
    """Another constitution in view: its version with unsaved edits, else its newest."""
    edited = [key for key, draft in desk.drafts.items() if key.partition("@")[0] == name and draft.changed]
    return _brought(desk, edited[-1] if edited else name)


def _brought(desk: Desk, key: str) -> Desk:
    """A draft that lies on the desk, or a stored version of this reference, in view."""
    if key in desk.drafts:
        return desk.show(key, desk.drafts[key])
    version = constitutions.find(key)
    return desk.show(version.reference, drafts.opened(version.constitution, version.reference))


def _begun(desk: Desk, draft: Draft) -> Desk:
    """A draft that was never saved, in view."""
    return desk.show(NEW + drafts.new_id(), draft)


def _uploaded(path: str | None) -> Draft:
    if not path:
        raise ValueError("Choose a file first.")
    file = Path(path)
    try:
        return _told(constitutions.read_file(file))
    finally:
        file.unlink(missing_ok=True)  # uploads stay no longer than they are needed


def _pasted(text: str | None) -> Draft:
    return _told(parse(text or "", "pasted"))


def _told(constitution: Constitution) -> Draft:
    gr.Info(f"Read {drafts.counted(len(constitution.principles))}. Look through them, then save.")
    return drafts.opened(constitution)


def _saved(desk: Desk) -> Desk:
    """The draft kept as a version, which is then in view."""
    draft = drafts.in_cards(desk.draft)
    version = constitutions.save(draft.constitution)
    gr.Info(f"Kept as {version.label}. Runs can name it now: {version.reference}.")
    stored = version.constitution
    cards = tuple(
        drafts.Card(card.id, **{name: getattr(principle, name) for name in FIELDS})
        for card, principle in zip(draft.cards, stored.principles, strict=True)
    )
    kept = replace(draft, name=stored.name, about=stored.about, cards=cards, base=version.reference, origin=stored)
    if desk.draft.text is not None:
        kept = drafts.in_text(kept)
    left = desk if version.reference == desk.current else desk.without(desk.current)
    return left.put(kept, version.reference)


def _dropped(desk: Desk) -> Desk:
    """Without what was edited since the version was opened; a draft that was never saved goes altogether."""
    name = desk.draft.base.partition("@")[0]
    own = constitutions.versions(name) if name else []
    same = [version for version in own if version.reference == desk.draft.base]
    version = [*same, *own[-1:], *drafts.newest()][0]
    left = desk.without(desk.current)
    fresh = drafts.opened(version.constitution, version.reference)
    return left.put(left.drafts.get(version.reference, fresh), version.reference)


def _deleted(desk: Desk) -> Desk:
    """The saved versions of a name deleted; drafts of them stay on the desk as ones that were never saved."""
    name = desk.current.partition("@")[0]
    if name.startswith(NEW):
        raise ValueError("This was never saved, so there is nothing to delete; drop the edits instead.")
    constitutions.delete(name)
    left = {version.reference for version in constitutions.versions(name)}
    keys = {key: key if key in left or key.partition("@")[0] != name else NEW + drafts.new_id() for key in desk.drafts}
    kept = {
        keys[key]: draft if key == keys[key] else replace(draft, base="", origin=None)
        for key, draft in desk.drafts.items()
    }
    gr.Info(f"The saved versions of {name} are deleted. What is on the page stays as a draft until you drop it.")
    return Desk(keys[desk.current], kept)
