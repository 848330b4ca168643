"""Which shape a record has: one ordered table of all shapes, the most specific first.

Rows are known by what they hold, never by a file's name. Tables whose rows only make sense together (trees, ratings)
are first turned into records that stand alone.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from playground.data.conversations import SFT_SHAPES
from playground.data.pair_shapes import PAIR_SHAPES
from playground.data.prompts import ASKS, PROMPT_SHAPES, answer_beside
from playground.data.ranks import RANK_SHAPES
from playground.data.ranks import gathered as gathered_ranks
from playground.data.records import DataError, RawRow, shown
from playground.data.shapes import Record, Shape, column, filled, fitting
from playground.data.thumbs import LIKED_SHAPES, THUMB_SHAPES
from playground.data.trees import gathered as gathered_trees

_ANSWERED = PAIR_SHAPES + RANK_SHAPES + THUMB_SHAPES + LIKED_SHAPES + SFT_SHAPES
KINDS = ("sft", "preference", "thumbs", "prompts")
GATHERINGS: tuple[Callable[[list[RawRow]], list[RawRow]], ...] = (gathered_trees, gathered_ranks)
FIELDS = {
    "sft": ("prompt", "completion", "system", "messages"),
    "preference": ("prompt", "chosen", "rejected", "system", "margin"),
    "prompts": ("prompt", "system", "messages"),
    "thumbs": ("prompt", "completion", "label", "system", "messages"),
}  # kind → fields of the normal form to which a column can be mapped


def recognise(record: Record, kind: str = "") -> Shape | None:
    """The first shape that fits what is filled in a record, else one whose columns are there at all.

    A record may be readable as rows of several kinds; those asked for come first. A place for an answer, be it empty,
    makes a record something else than a prompt, so prompts are looked for among all the columns.
    """
    full = filled(record)
    meant = any("reject" in name.casefold() for name in record) and ("chosen" in full or "chosen" not in record)
    if meant and kind in ("", "preference") and (found := fitting(PAIR_SHAPES, full) or fitting(PAIR_SHAPES, record)):
        return found  # a pair whose rejected side is empty is no conversation
    for answered, prompts in _tables(kind):
        if found := fitting(answered, full) or fitting(prompts, record) or fitting(answered, record):
            return found
    return None


@cache
def _tables(kind: str) -> list[tuple[tuple[Shape, ...], tuple[Shape, ...]]]:
    """(shapes that hold an answer, shapes that hold none): first those of this kind alone, if one is asked for."""
    own = [tuple(shape for shape in shapes if shape.kind == kind) for shapes in (_ANSWERED, PROMPT_SHAPES)]
    return [(own[0], own[1]), (_ANSWERED, PROMPT_SHAPES)]


def kinds_of(record: Record) -> list[str]:
    """The kinds of rows that a record can be read as."""
    full = filled(record)
    found = {shape.kind for shape in _ANSWERED if shape.fits(full)}
    found |= {"preference"} if "thumbs" in found else set()  # two thumbs under one prompt make a pair
    return [kind for kind in KINDS if kind in found]


def unknown(record: Record, names: list[str]) -> str:
    """Why no shape fits a record, whose columns are called so in the file, and what could be done."""
    columns = ", ".join(shown(name)[:30] for name in names[:6]) or "none"
    if column(record, ASKS) and (answer := answer_beside(record)):
        return f"an answer of unknown meaning stands beside the prompt, in '{shown(answer)[:30]}'; map the columns"
    if isinstance(text := record.get("text"), str) and text.strip():
        return "a text alone has no answer to learn from; if it is a prompt, map it to 'prompt'"
    return f"no columns of a known shape (found: {columns})"


def mapped(raw: list[RawRow], columns: dict[str, str]) -> list[RawRow]:
    """The rows with only these columns, under the names of the normal form; as they are if none is named."""
    if not columns:
        return raw
    known = {name for item in raw if item.value for name in item.value}
    for field, name in columns.items():
        if name not in known:
            names = ", ".join(shown(name)[:30] for name in sorted(known)[:12])
            raise DataError(f"There is no column '{shown(name)}' to take as {shown(field)}; there are: {names}.")
    return [replace(item, value=_mapped(item.value, columns)) for item in raw]


def tidied(raw: list[RawRow]) -> list[RawRow]:
    """The rows with their columns' names as the shapes know them: "KTO tag" is kto_tag; human_ref_A stays."""
    return [item if item.value is None else replace(item, value=_tidied(item.value)) for item in raw]


def _tidied(record: Record) -> Record:
    names = _tidy(tuple(record))
    return dict(zip(names, record.values(), strict=True)) if names else record


@lru_cache(maxsize=64)  # the rows of a file have the same columns
def _tidy(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names made tidy; none if they are, or if two of them would become one."""
    spaced = [re.sub(r"[\s-]+", "_", name.strip()) for name in names]
    found = tuple(name.lower() if name[:1].isupper() else name for name in spaced)
    return () if found == names or len(set(found)) < len(found) else found


def _mapped(record: Record | None, columns: dict[str, str]) -> dict[str, Any] | None:
    return None if record is None else {field: record[name] for field, name in columns.items() if name in record}
