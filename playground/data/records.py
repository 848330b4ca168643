"""Records and their limits: what every reader yields, whatever the container.

A value becomes plain JSON here (text, numbers, lists, objects), checked for size and depth; the readers only find the
values.
"""

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


class DataError(ValueError):
    """One sentence for a person: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Limits:
    """How much of a stranger's file is accepted: together, at most 300 MB of memory and 20 seconds."""

    file_bytes: int = 20_000_000
    rows: int = 50_000
    field_bytes: int = 32 * 1024
    depth: int = 20
    columns: int = 200
    unpacked_bytes: int = 160_000_000  # of Parquet and of a Hub dataset, whose rows are stored in less
    values: int = 1_000_000  # cells, list items and object fields; each costs up to 200 bytes of memory

    def words(self) -> str:
        """What a person should know before bringing a file."""
        return (
            f"at most {self.file_bytes // 1_000_000} MB, {self.rows:,} rows, {self.columns} columns, "
            f"{self.field_bytes // 1024} KB a field and {self.depth} levels of nesting"
        )


LIMITS = Limits()


@dataclass(frozen=True)
class RawRow:
    """One record, or why it can't be used; row is the line in JSONL, else the record's number.

    missing: a word in one of its cells that tables write for nothing, so that it was read as nothing.
    """

    row: int
    value: dict[str, Any] | None
    problem: str | None
    missing: str = ""


KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
REPEATED = object()  # marks an object in which a key appears twice
UNSAFE = re.compile("[\0\ud800-\udfff]")


def cap(found: int, most: int, what: str) -> None:
    """DataError if there are more than `most` of something."""
    if found > most:
        raise DataError(f"more than {most:,} {what}, which is the limit; use a part of it")


def amount(value: Any) -> int:
    """How many values there are in this one: itself, and what it holds."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(amount, items))


def has_objects(value: Any) -> bool:
    """True for a list of objects that is not empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def is_chat(value: Any) -> bool:
    """True for a list of chat turns."""
    return has_objects(value) and all("role" in turn or "from" in turn for turn in value)


def checked_row(number: int, value: Any, limits: Limits) -> RawRow:
    """The value as a row of plain JSON, or with the reason why it can't be one."""
    try:
        return RawRow(number, _checked(value, limits), None)
    except DataError as error:
        return RawRow(number, None, str(error))


def _checked(value: Any, limits: Limits) -> dict[str, Any]:
    if is_chat(value):
        value = {"messages": value}
    if not isinstance(value, dict):
        raise DataError(f"not an object: found {KINDS.get(type(value), 'a number')}")
    cap(len(value), limits.columns, "fields")
    _plain(value, limits)
    for name, field in value.items():
        text = field if isinstance(field, str) else json.dumps(field, ensure_ascii=False)
        if max(len(name.encode()), len(text.encode())) > limits.field_bytes:
            raise DataError(f"a field is larger than {limits.field_bytes // 1024} KB: '{shown(name)}'")
    return value


def _plain(value: Any, limits: Limits, depth: int = 0) -> Any:
    """The value in JSON's types; objects are changed in place, because a copy would double the cost."""
    if isinstance(value, str):
        return UNSAFE.sub("\ufffd", value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, dict | list | tuple):
        return _plain(_converted(value), limits, depth)
    if depth == limits.depth:
        raise DataError(f"nested deeper than {limits.depth} levels")
    if not isinstance(value, dict):
        return [_plain(item, limits, depth + 1) for item in value]
    if REPEATED in value:
        raise DataError(f"the key '{shown(value[REPEATED])}' appears twice in one object")
    for key, item in value.items():
        value[key] = _plain(item, limits, depth + 1)
    return value


def _converted(value: Any) -> Any:
    """What Parquet holds beyond JSON; bytes are text where they can be (many writers don't mark texts)."""
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return None if "\ufffd" in text else text
    for method in ("isoformat", "total_seconds", "tolist"):  # dates and times, durations, NumPy
        if hasattr(value, method):
            return getattr(value, method)()
    return float(value) if isinstance(value, Decimal) else str(value)


def shown(name: str) -> str:
    """A stranger's name, safe to print: no control or direction characters, at most 80 long."""
    text = "".join(char for char in name[:1000] if char.isprintable())
    return text if len(text) <= 80 else text[:79] + "…"
