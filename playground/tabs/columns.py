"""The first rows of a file as a table whose header says, and lets a person say, what each column holds."""

import json
from collections.abc import Sequence
from typing import Any

from playground.data.records import LIMITS, RawRow, shown
from playground.tabs import html
from playground.tabs.looking import Looked

FIELDS = {
    "prompt": "prompt: what is asked",
    "completion": "completion: the answer",
    "chosen": "chosen: the better answer",
    "rejected": "rejected: the worse answer",
    "label": "label: good or bad",
    "margin": "margin: how much better",
    "system": "system: how to behave",
    "messages": "messages: a whole conversation",
}
OUT, AUTO = "-", ""  # a column that is left out; one that is read as its content says
# What people call a column whose neighbour a person has named.
NAMES = {
    "prompt": ("prompt", "question", "instruction", "query", "input"),
    "completion": ("completion", "answer", "response", "output", "reply"),
    "chosen": ("chosen", "better", "preferred", "winner", "best"),
    "rejected": ("rejected", "worse", "dispreferred", "loser", "worst"),
    "label": ("label", "thumbs"),
    "margin": ("margin",),
    "system": ("system", "systemprompt"),
    "messages": ("messages", "conversations", "conversation"),
}
ROWS = 4  # shown
LOOKED_AT = 50  # rows in which columns are looked for
MOST_LETTERS = 120  # of a cell


def names(raw: Sequence[RawRow]) -> list[str]:
    """The columns of a file, in the order in which they appear."""
    found: dict[str, None] = {}
    for item in raw[:LOOKED_AT]:
        found |= dict.fromkeys(item.value or {})
    return list(found)[: LIMITS.columns]


def overlooked(looked: Looked) -> bool:
    """True where a file seems to hold nothing but prompts, though it has columns that may well hold an answer."""
    return looked.kind == "prompts" and not looked.reading.columns and len(names(looked.raw)) > 1


def guessed(columns: list[str]) -> dict[str, str]:
    """Field → column, by what the columns are called."""
    plain = {"".join(filter(str.isalpha, name.casefold())): name for name in reversed(columns)}
    found = {field: next((plain[word] for word in words if word in plain), "") for field, words in NAMES.items()}
    return {field: name for field, name in found.items() if name}


def chosen(columns: list[str], before: dict[str, str], changed: int, values: list[str]) -> dict[str, str]:
    """Field → column after a person has changed one of the lists; empty where the content decides again.

    The first choice sets the other columns by their names. A field that was another column's goes to the new one.
    """
    if not 0 <= changed < len(columns) or len(values) != len(columns) or values[changed] == AUTO:
        return {}
    given = {value: name for name, value in zip(columns, values, strict=True) if value in FIELDS}
    mapping = given if before else guessed(columns)
    mapping = {field: name for field, name in mapping.items() if name != columns[changed]}
    if values[changed] in FIELDS:
        mapping[values[changed]] = columns[changed]
    return mapping


def table_html(raw: Sequence[RawRow], mapping: dict[str, str], recognised: bool) -> str:
    """The first rows under a header of lists; nothing for a file without a row."""
    columns = names(raw)
    if not columns:
        return ""
    holds = {name: OUT if mapping else AUTO for name in columns} | {name: field for field, name in mapping.items()}
    again = "read all by content again" if mapping else "as recognised" if recognised else "choose what it holds"
    options = [(again, AUTO), ("leave out", OUT), *((told, field) for field, told in FIELDS.items())]
    head = []
    for name in columns:
        choice = html.select(f"What the column {shown(name)[:60]} holds", options, holds[name])
        head.append(html.box([html.tag("span", shown(name)), choice], _css(holds[name]), "th"))
    body = [
        html.box([html.tag("td", _cell(row.get(name)), _css(holds[name])) for name in columns], name="tr")
        for row in [item.value for item in raw if item.value is not None][:ROWS]
    ]
    return html.scroll(html.grid(html.box(head, name="tr"), body, "pg-table pg-columns"), "The first rows by column")


def _css(value: str) -> str:
    return {OUT: "pg-out", AUTO: ""}.get(value, "pg-used")


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
