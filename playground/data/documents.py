"""JSON and JSONL to raw records. Depth and size are checked before a parser sees the text."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from playground.data.records import (
    KINDS,
    REPEATED,
    UNSAFE,
    DataError,
    Limits,
    RawRow,
    cap,
    checked_row,
    has_objects,
    is_chat,
)

NONBLANK = re.compile(r"\S.*")

_TABLE_KEYS = {"data", "rows", "records", "items", "examples", "samples", "instances", "entries", "dataset"}
_TABLE_KEYS |= {"train", "test", "validation", "valid", "val", "dev", "eval", "results", "pairs", "comparisons"}
_PARSED_DEPTH = 100  # a slightly deep record is parsed and reported by row; Python's own limit is near 1,000
_INTEGER_DIGITS = 300  # longer ones stay text: float() would overflow, and int() itself refuses 4,300

# Up to the next mark outside strings. Possessive, so hostile quotes and backslashes cause no backtracking.
_MARK = re.compile(r'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.?)*+"?)*+([\[\]{},]|\Z)', re.DOTALL)


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, content) of each line that is not blank, from its first character on."""
    line, seen = 1, 0
    for match in NONBLANK.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        yield line, match[0]


def jsonl_rows(text: str, limits: Limits) -> Iterator[RawRow]:
    """One record a line; a line that is no JSON is only its own row's problem."""
    for line, content in numbered_lines(text):
        try:
            value = parsed(content, limits, line)
        except DataError as error:
            yield RawRow(line, None, str(error))
        else:
            yield checked_row(line, value, limits)


def json_rows(text: str, limits: Limits) -> Iterator[RawRow]:
    """The records of one JSON document."""
    for number, value in enumerate(_records(parsed(text, limits)), 1):
        yield checked_row(number, value, limits)


def _records(document: Any) -> Iterable[Any]:
    """The records of a JSON document: a list, lists inside an object, columns, named records, or one object."""
    if isinstance(document, list):
        return [document] if is_chat(document) else document
    if not isinstance(document, dict):
        kind = KINDS.get(type(document), "a number")
        raise DataError(f"the JSON holds only {kind}; it should be a list of objects")
    tables = [key for key, value in document.items() if has_objects(value) and not is_chat(value)]
    named = [key for key in tables if str(key).lower() in _TABLE_KEYS]
    found = named or (tables if len(document) == 1 else [])  # any other list belongs to a single record
    if found:
        return (record for key in found for record in document[key])
    if _are_alike(document):
        return _named_records(document)
    columns = list(document.values())
    if not columns or not all(isinstance(value, list) and not is_chat(value) for value in columns):
        return [document]
    if len({len(column) for column in columns}) > 1:
        raise DataError("its lists differ in length, so they are no columns; give a list of objects instead")
    return (dict(zip(document, cells, strict=True)) for cells in zip(*columns, strict=True))


def _are_alike(document: dict[Any, Any]) -> bool:
    """True for an object of objects with the same keys, which are no messages."""
    inner = list(document.values())
    if not inner or not all(isinstance(value, dict) and value.keys() == inner[0].keys() for value in inner):
        return False
    return bool(inner[0]) and not is_chat(inner)


def _named_records(document: dict[Any, Any]) -> Iterable[Any]:
    """The records of pandas' tables, which are columns of numbered cells, or of an object that has a name for each."""
    inner = list(document.values())
    if all(str(key).isdecimal() for key in inner[0]) and not all(str(key).isdecimal() for key in document):
        return ({name: column[number] for name, column in document.items()} for number in inner[0])
    return inner if len(inner) > 1 and len(inner[0]) > 1 else [document]


def parsed(text: str, limits: Limits, line: int = 1) -> Any:
    """The value of JSON text, its depth and size checked before parsing by counting marks outside strings."""
    depth = values = 0
    for match in _MARK.finditer(text):
        if match[1] in ("]", "}"):
            depth -= 1
            continue
        depth += match[1] in ("[", "{")
        values += 1
        if depth > _PARSED_DEPTH:
            raise DataError(f"nested deeper than {limits.depth} levels")
        cap(values, limits.values, "values")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated") or not text[error.pos :].strip()
        reason = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
        where = f"line {error.lineno + line - 1}, column {error.colno}"
        advice = "it seems to be cut off" if cut else "correct it or export it again"
        raise DataError(f"not valid JSON ({reason} at {where}); {advice}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    """A JSON object; one that repeats a key says so, where dict() would lose a value in silence."""
    value: dict[Any, Any] = {}
    for key, item in pairs:
        key = UNSAFE.sub("\ufffd", key)
        if key in value:
            value[REPEATED] = key
        value[key] = item
    return value


_DECODER = json.JSONDecoder(
    strict=False,  # raw tabs and line breaks inside strings are common and harmless
    object_pairs_hook=_object,
    parse_int=lambda digits: int(digits) if len(digits) <= _INTEGER_DIGITS else digits,
    parse_constant=lambda _: None,  # NaN, Infinity
)
