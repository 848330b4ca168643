"""Files and pasted text to raw records, within limits.

JSONL, JSON, CSV, TSV and Parquet are told apart by content; a file's suffix only breaks ties. Every file is
hostile until proven otherwise: size is checked before reading, nesting before parsing, and no content makes
anything but a DataError leave this module. A row that can't be used stays in the list with its problem.

Not here: shapes such as Alpaca (one exception: a bare list of chat turns is a row), archives, pickles, URLs.
"""

import ast
import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from playground.data.parquet import parquet_rows
from playground.data.records import (
    KINDS,
    LIMITS,
    REPEATED,
    UNSAFE,
    DataError,
    Limits,
    RawRow,
    cap,
    checked_row,
    has_objects,
    is_chat,
    shown,
)

__all__ = ["LIMITS", "DataError", "Limits", "RawRow", "read_file", "read_text"]


_BINARY = {
    "a picture": (b"\x89PNG", b"\xff\xd8\xff", b"GIF8"),
    "a zip archive or an Office file": (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"),
    "a compressed archive": (b"\x1f\x8b", b"BZh9", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd"),
    "a Python pickle": (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    "an SQLite database": (b"SQLite format 3\0",),
    "an Arrow file": (b"ARROW1",),
    "a PDF document": (b"%PDF",),
    "a web page": (b"<!DOCTYPE", b"<!doctype", b"<html"),
    "a Git LFS pointer without the data": (b"version https://git-lfs",),
}
_TABLE_KEYS = {"data", "rows", "records", "items", "examples", "samples", "instances", "entries", "dataset"}
_TABLE_KEYS |= {"train", "test", "validation", "results", "pairs", "comparisons"}
_MISSING = {"NaN", "nan", "None", "NA", "<NA>", "null", "NULL"}

_PARSED_DEPTH = 100  # a slightly deep record is parsed and reported by row; Python's own limit is near 1,000
_INTEGER_DIGITS = 300  # longer ones stay text: float() would overflow, and int() itself refuses 4,300
_END = "\0"  # in no text: see _text_rows

_NONBLANK = re.compile(r"\S.*")
_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*+"|-?\d[\d.eE+-]*|true|false|null|NaN')
# Up to the next mark outside strings. Possessive, so hostile quotes and backslashes cause no backtracking.
_MARK = re.compile(r'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.?)*+"?)*+([\[\]{},]|\Z)', re.DOTALL)


def read_file(path: Path, name: str | None = None, limits: Limits = LIMITS) -> list[RawRow]:
    """The records of an uploaded file; name is what the person called it."""
    name = name or path.name
    try:
        cap(path.stat().st_size, limits.file_bytes, "bytes")
        data = path.read_bytes()
        if data.startswith(b"PAR1"):
            return _gathered(parquet_rows(path, limits), limits)
        return _gathered(_text_rows(_decoded(data), name.rsplit(".", 1)[-1].lower(), limits), limits)
    except DataError as error:
        raise DataError(f"{shown(name)}: {error}") from None


def read_text(text: str, limits: Limits = LIMITS) -> list[RawRow]:
    """The records of pasted text, read the way a file is."""
    try:
        cap(len(text), limits.file_bytes, "characters")
        return _gathered(_text_rows(text.removeprefix("\ufeff"), "", limits), limits)
    except DataError as error:
        raise DataError(f"pasted text: {error}") from None


def _gathered(rows: Iterable[RawRow], limits: Limits) -> list[RawRow]:
    kept: list[RawRow] = []
    values = 0
    for row in rows:
        kept.append(row)
        cap(len(kept), limits.rows, "rows")
        values += _amount(row.value)
        cap(values, limits.values, "values")
    if not kept:
        raise DataError("there are no rows in it; add at least one")
    if all(row.problem for row in kept):
        raise DataError(f"no row can be used; row {kept[0].row}: {kept[0].problem}")
    return kept


def _amount(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_amount, items))


def _decoded(data: bytes) -> str:
    for kind, starts in _BINARY.items():
        if data.startswith(starts):
            raise DataError(f"this is {kind}, not a text table; use JSONL, JSON, CSV, TSV or Parquet")
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and data[2:4] != b"\0\0"  # UTF-32
    if b"\0" in data and not utf16:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"line {line} holds a NUL byte, so this is not a text table; save it as UTF-8 text")
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]
        line = (before.count(b"\n") or before.count(b"\r")) + 1
        kind = "UTF-16" if utf16 else "UTF-8"
        raise DataError(f"line {line} is not {kind} text (byte 0x{byte:02X}); save it as UTF-8") from None


def _text_rows(text: str, suffix: str, limits: Limits) -> Iterator[RawRow]:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    if not text or text.isspace():
        raise DataError("it holds only blank lines; add data" if text else "it is empty; add data")
    readers = {"jsonl": _jsonl_rows, "json": _json_rows, "csv": _csv_rows}
    return readers[_layout(text, suffix)](text, limits)


def _layout(text: str, suffix: str) -> str:
    lines = [match[0].rstrip() for match in islice(_NONBLANK.finditer(text), 100)]
    whole = [line[0] + line[-1] in ("{}", "[]") for line in lines]  # most lines of JSONL, few of a JSON list
    share = sum(whole) / len(lines)
    if len(lines) > 1 and (whole[0] or share > 0.5 or (share == 0.5 and suffix == "jsonl")):
        return "jsonl"
    if lines[0][0] in "{[":
        return "json"
    if suffix in ("json", "jsonl") and _SCALAR.fullmatch(lines[0]):
        return "json" if len(lines) == 1 else "jsonl"
    return "csv"


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


def _parsed(text: str, limits: Limits, line: int = 1) -> Any:
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


def _jsonl_rows(text: str, limits: Limits) -> Iterator[RawRow]:
    line, seen = 1, 0
    for match in _NONBLANK.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        try:
            value = _parsed(match[0], limits, line)
        except DataError as error:
            yield RawRow(line, None, str(error))
        else:
            yield checked_row(line, value, limits)


def _json_rows(text: str, limits: Limits) -> Iterator[RawRow]:
    for number, value in enumerate(_records(_parsed(text, limits)), 1):
        yield checked_row(number, value, limits)


def _records(document: Any) -> Iterable[Any]:
    """The records of a JSON document: a list, the one list inside an object, columns, or a single object."""
    if isinstance(document, list):
        return [document] if is_chat(document) else document
    if not isinstance(document, dict):
        kind = KINDS.get(type(document), "a number")
        raise DataError(f"the JSON holds only {kind}; it should be a list of objects")
    tables = [key for key, value in document.items() if has_objects(value) and not is_chat(value)]
    named = [key for key in tables if str(key).lower() in _TABLE_KEYS]
    found = named or (tables if len(document) == 1 else [])  # any other list belongs to a single record
    if len(found) == 1:
        return document[found[0]]
    columns = list(document.values())
    if not columns or not all(isinstance(value, list) and not is_chat(value) for value in columns):
        return [document]
    if len({len(column) for column in columns}) > 1:
        raise DataError("its lists differ in length, so they are no columns; give a list of objects instead")
    return (dict(zip(document, cells, strict=True)) for cells in zip(*columns, strict=True))


def _csv_rows(text: str, limits: Limits) -> Iterator[RawRow]:
    # Python's default would stop at a cell of 131,072 characters; such a cell is only its own row's problem.
    csv.field_size_limit(max(csv.field_size_limit(), limits.file_bytes))
    text, delimiter = _delimiter(text)
    cap(text.count(delimiter), 2 * limits.values, "separators")  # one row must not become millions of cells
    table = (cells for cells in csv.reader(_lines(text), delimiter=delimiter) if cells)
    header = _header(next(table), limits)
    number = 0
    for number, cells in enumerate(takewhile([_END].__ne__, table), 1):
        yield _csv_row(number, header, cells, limits)
    if not number:
        raise DataError("it has a header but no rows under it; add at least one")


def _delimiter(text: str) -> tuple[str, str]:
    if declared := re.match(r'\s*"?sep=([,;\t])"?\n(?=\s*\S)', text):  # Excel's own first line
        return text[declared.end() :], declared[1]
    first = text[:20_000].lstrip("\n").split("\n", 1)[0]
    return text, max(",\t;", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends, then _END: where a quote is still open, the last cell swallows it."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end
    yield _END


def _header(cells: list[str], limits: Limits) -> list[str]:
    if cells[-1].endswith(_END):
        raise DataError("the header has a quotation mark that is never closed; close it")
    cap(len(cells), limits.columns, "columns")
    names = [UNSAFE.sub("\ufffd", cell.strip()) or f"column {i}" for i, cell in enumerate(cells, 1)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"the header has two columns named '{shown(name)}'; rename one")
    return names


def _csv_row(number: int, header: list[str], cells: list[str], limits: Limits) -> RawRow:
    if cells[-1].endswith(_END):
        return RawRow(number, None, "a quotation mark is opened in this row and never closed")
    if any(cells[len(header) :]):
        found = f"{len(cells):,} cells, but the header has {len(header)}"
        return RawRow(number, None, f"{found}; put a cell that holds the separator in quotation marks")
    row = dict.fromkeys(header) | dict(zip(header, (_cell(cell, limits) for cell in cells), strict=False))
    return checked_row(number, row, limits)


def _cell(text: str, limits: Limits) -> Any:
    """A cell's text, None where it is missing, or the list or object it spells in JSON or Python."""
    if text in _MISSING:
        return None
    if not text.lstrip().startswith(("[", "{")) or len(text) > limits.field_bytes:
        return text
    try:
        return _parsed(text, limits)
    except DataError:
        pass
    try:  # by way of JSON, which refuses what no table holds: sets, bytes, complex numbers
        return _parsed(json.dumps(ast.literal_eval(text.strip())), limits)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
