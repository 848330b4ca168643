"""Rows as chat and as the very tokens of training, with the buttons that edit, flip, drop and restore them."""

import functools
from pathlib import Path
from typing import Any

from playground.data import edits
from playground.data.edits import Key
from playground.data.pairs import SIDES, Pair
from playground.data.prompts import MOST_NOTED, Prompt
from playground.data.rendering import Encoded, Renderer, RenderError
from playground.data.thumbs import Thumb
from playground.data.tokens import cut_note, encoded_sides
from playground.models import catalog
from playground.tabs import fetching, hosting, html, talking
from playground.tabs.looking import Looked

PAGE = 4  # rows shown at a time
MOST_DIGITS = 8  # of a row's number
EMPTY = "No row fits. Empty the search box, or show all rows."


def page_html(looked: Looked | None, limit: int, ref: str) -> str:
    """The rows in view, one page of them, each with what can be done with it."""
    if looked is None or not looked.places:
        return ""
    if not looked.listed:
        return talking.keyed([html.live([html.tag("p", EMPTY, "pg-note")])], looked.key)
    shown = looked.listed[looked.first : looked.first + PAGE]
    opened, _ = renderer(ref)
    cards = [_card(looked, key, opened, limit) for key in shown]
    return talking.keyed([_turner(looked, "top"), *cards, _turner(looked, "bottom")], looked.key)


def _turner(looked: Looked, where: str) -> str:
    """Which rows these are, and the buttons to the others."""
    count, last = len(looked.listed), min(looked.first + PAGE, len(looked.listed))
    fit = "" if count == len(looked.places) else f" that fit, out of {len(looked.places):,}"
    words = html.tag("p", f"{looked.first + 1:,} to {last:,} of {count:,} rows{fit}", "pg-note")
    if count <= PAGE and where == "bottom":
        return ""
    before = html.button("Previous", "previous", f"rows, {where}", off=looked.first == 0)
    after = html.button("Next", "next", f"rows, {where}", off=last == count)
    return html.box([words, before, after], "pg-head")


def place_name(key: Key) -> str:
    """What the page calls a row."""
    return f"{key[0]} {key[1]}"


def place_of(looked: Looked, name: str) -> Key | None:
    """The row that the page calls so, if there is one."""
    split, _, index = name.partition(" ")
    if not index.isdecimal() or len(index) > MOST_DIGITS:
        return None
    return (split, int(index)) if int(index) < len(looked.draft.rows.get(split, [])) else None


def _card(looked: Looked, key: Key, opened: Renderer | None, limit: int) -> str:
    row, fate = looked.now(key), looked.draft.how(key)
    editing = key in looked.editing and fate != "dropped"
    parts = [_head(looked, key, fate)]
    parts += _fields(row) if editing else _chat(row)
    if opened and not editing:
        parts.append(_token_details(row, opened, limit))
    css = "pg-row" + (" pg-changed" if fate else "") + (" pg-gone" if fate == "dropped" else "")
    return html.marked(parts, css, row=place_name(key))


def _head(looked: Looked, key: Key, fate: str) -> str:
    """The row's number and notes, what was done to it, and what can be."""
    row = looked.now(key)
    about = f"row {row.row}"
    parts = [html.tag("p", _title(row, key[0] == "heldout"), "pg-note")]
    parts += [html.tag("span", fate, "pg-fact")] if fate else []
    if fate != "dropped":
        editing = key in looked.editing
        parts.append(html.button("Done", "done", about) if editing else html.button("Edit", "edit", about))
        parts += [html.button("Flip", "flip", about)] if isinstance(row, Pair | Thumb) and not editing else []
        parts += [html.button("Drop", "drop", about)]
    parts += [html.button("Undo", "undo", about)] if fate else []
    return html.box(parts, "pg-head")


def boxes(row: Any) -> dict[str, str]:
    """The texts that can be edited, by name; a system message that is not there is no empty box."""
    return {name: text for name, text in edits.texts(row).items() if text or name != "system"}


def _fields(row: Any) -> list[str]:
    """The row's texts as boxes; the sides of a pair beside each other."""
    made = {name: html.field(name, text) for name, text in boxes(row).items()}
    sides = [made.pop(side) for side in SIDES if side in made]
    return [*made.values(), *([html.box(sides, "pg-sides")] if sides else [])]


def _chat(row: Any) -> list[str]:
    """A conversation; a prompt with what was answered, the sides of a pair beside each other."""
    if isinstance(row, Pair):
        sides = [html.side(side, getattr(row, side), won=side == "chosen") for side in SIDES]
        return [html.conversation(row.prompt), html.box(sides, "pg-sides")]
    if isinstance(row, Thumb):
        words = "thumbs up: a good answer" if row.good else "thumbs down: a bad answer"
        return [html.conversation(row.prompt), html.side(words, row.answer, won=row.good)]
    return [html.conversation(row.messages)]


def _title(row: Any, heldout: bool) -> str:
    """The row's number, how sure its label is, and the short ones of its notes."""
    parts = [f"Row {row.row}" + (", held out" if heldout else "")]
    parts += [f"{row.label:.0%} sure of the chosen answer"] if isinstance(row, Pair) and row.label != 1 else []
    for name, value in row.notes.items():
        text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
        parts += [f"{name} {text}"] if isinstance(text, str) and len(text) <= MOST_NOTED else []
    return " · ".join(parts)


def _token_details(row: Any, opened: Renderer, limit: int) -> str:
    """The row's tokens under a line that counts them."""
    try:
        sides = encoded_sides(row, opened)
    except RenderError as error:
        return html.tag("p", f"This row is left out: {error}.", "pg-note")
    longest, learned = max(len(encoded.ids) for encoded in sides), sum(sum(encoded.learned) for encoded in sides)
    words = f"{longest:,} tokens, " + (f"{learned:,} learned" if learned else "none learned")
    note = _limit_words(row, sides, limit) if longest > limit else ""
    return html.details(words, [*_tokens(row, sides, limit), *([html.tag("p", note, "pg-note")] if note else [])])


def _tokens(row: Any, sides: list[Encoded], limit: int) -> list[str]:
    """The tokens of a conversation, or of both sides of a pair."""
    if not isinstance(row, Pair):
        kept = sides[0] if isinstance(row, Prompt) else sides[0].cut(limit)
        return [html.tokens(kept.texts, kept.learned)]
    chosen, rejected = sides
    start = rejected.start  # the prompt is the same: it is shown once
    return [
        html.tokens(chosen.texts, chosen.learned, "pg-chosen"),
        html.tokens(rejected.texts[start:], rejected.learned[start:], "pg-rejected"),
    ]


def _limit_words(row: Any, sides: list[Encoded], limit: int) -> str:
    """What becomes of a row that is longer than the limit."""
    if isinstance(row, Pair | Prompt):
        return f"This {'pair' if isinstance(row, Pair) else 'prompt'} is too long and left out."
    return cut_note(sides[0], limit)


def renderer(ref: str) -> tuple[Renderer | None, str]:
    """The model's renderer, or a sentence why there is none (yet)."""
    try:
        hosting.check_ref(ref)
        if words := fetching.ready_or_fetch(ref):
            return None, f"Token counts and the mask need the model's tokenizer. {words}"
        return _opened(catalog.prepare(ref).folder), ""
    except ValueError as error:
        return None, str(error)


@functools.lru_cache(maxsize=4)
def _opened(folder: Path) -> Renderer:
    """A tokenizer takes half a second to open and never changes once it lies there."""
    return Renderer(folder)
