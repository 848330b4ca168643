"""Elements that talk: HTML of the page whose buttons, lists and text boxes tell the server what a person did.

A gr.HTML sends an event with what the script below reads from the element, so a table may hold a list in every header
cell and a page of rows its buttons without a component for each. What arrives is a stranger's word and is checked.
"""

from typing import Any

import gradio as gr

from playground.tabs import html

# Gradio changes only those nodes whose HTML changed, so the focus stays; what a person chose or typed is a property of
# a node, not its HTML, and must follow where the HTML says something else.
SCRIPT = """
const within = (event, what) => {
  const found = event.target.closest(what);
  return found && element.contains(found) ? found : null;
};
const key = () => element.querySelector("[data-key]")?.dataset.key ?? "";
const card = (node) => {
  const found = node.closest("[data-row]");
  const texts = found ? [...found.querySelectorAll("textarea")].map((box) => box.value) : [];
  return {key: key(), row: found ? found.dataset.row : "", texts};
};
element.addEventListener("click", (event) => {
  const pressed = within(event, "[data-act]");
  if (pressed) trigger("click", {act: pressed.dataset.act, ...card(pressed)});
});
element.addEventListener("change", (event) => {
  const list = within(event, "select"), box = within(event, "textarea");
  const lists = [...element.querySelectorAll("select")];
  if (list) trigger("input", {key: key(), changed: lists.indexOf(list), values: lists.map((one) => one.value)});
  if (box) trigger("input", card(box));
});
const follow = () => {
  for (const list of element.querySelectorAll("select")) list.value = list.dataset.value;
  for (const box of element.querySelectorAll("textarea")) {
    if (box.sent !== undefined && box.sent !== box.defaultValue) box.value = box.defaultValue;
    box.sent = box.defaultValue;
  }
};
follow();
watch("value", follow);
"""


def element(value: str = "", **options: Any) -> gr.HTML:
    """A place for HTML that talks: `click` for its buttons, `input` for its lists and boxes."""
    return gr.HTML(value, js_on_load=SCRIPT, padding=False, **options)


def heard(event: gr.EventData, key: str) -> dict[str, Any]:
    """What an element said, if it was about what the page shows now; else nothing."""
    said = event._data if isinstance(event._data, dict) else {}
    if said.get("key") != key:
        return {}
    changed = said.get("changed")
    return {
        "act": str(said.get("act", "")),
        "row": str(said.get("row", "")),
        "texts": _texts(said.get("texts")),
        "changed": changed if isinstance(changed, int) else -1,
        "values": _texts(said.get("values")),
    }


def _texts(said: Any) -> list[str]:
    return [text if isinstance(text, str) else "" for text in said] if isinstance(said, list) else []


def keyed(inner: list[str], key: str) -> str:
    """The content of a talking element, with the key of what it shows."""
    return html.marked(inner, "", key=key)
