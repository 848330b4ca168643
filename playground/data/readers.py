"""Files and pasted text to raw records, within limits.

JSONL, JSON, CSV, TSV, Parquet and plain text, each also in gzip, are told apart by content; a file's suffix only breaks
ties. Every file is hostile until proven otherwise: size is checked before reading and while unpacking, nesting before
parsing, and no content makes anything but a DataError leave this module. A row that can't be used stays in the list
with its problem.

Not here: shapes such as Alpaca (two exceptions: a bare list of chat turns is a row, and a line of plain text a prompt),
archives, pickles, URLs.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from playground.data.compressed import GZIP, unpacked
from playground.data.documents import NONBLANK, json_rows, jsonl_rows
from playground.data.parquet import parquet_rows
from playground.data.plain import is_plain, plain_rows
from playground.data.records import LIMITS, DataError, Limits, RawRow, amount, cap, shown
from playground.data.tables import csv_rows

__all__ = ["LIMITS", "DataError", "Limits", "RawRow", "read_file", "read_text"]

_USE = "use JSONL, JSON, CSV, TSV or Parquet"
_BINARY = {
    "a picture": ((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), _USE),
    "a zip archive or an Office file": ((b"PK\x03\x04", b"\xd0\xcf\x11\xe0"), "unpack it, or export it as CSV"),
    "a compressed archive": (
        (b"BZh9", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd"),
        "unpack it, or compress the table alone with gzip",
    ),
    "a Python pickle": ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), _USE),
    "an SQLite database": ((b"SQLite format 3\0",), "export its table as CSV"),
    "an Arrow file": ((b"ARROW1",), "save it as Parquet"),
    "a PDF document": ((b"%PDF",), _USE),
    "a web page": ((b"<!DOCTYPE", b"<!doctype", b"<html"), _USE),
    "a Git LFS pointer without the data": ((b"version https://git-lfs",), "fetch it with `git lfs pull`"),
}
_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*+"|-?\d[\d.eE+-]*|true|false|null|NaN')


def read_file(path: Path, name: str | None = None, limits: Limits = LIMITS) -> list[RawRow]:
    """The records of an uploaded file; name is what the person called it."""
    name = name or path.name
    suffix = name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    try:
        cap(path.stat().st_size, limits.file_bytes, "bytes")
        return _gathered(_rows(_content(path, limits), suffix, limits), limits)
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
        values += amount(row.value)
        cap(values, limits.values, "values")
    if not kept:
        raise DataError("there are no rows in it; add at least one")
    if all(row.problem for row in kept):
        raise DataError(f"no row can be used; row {kept[0].row}: {kept[0].problem}")
    return kept


def _content(path: Path, limits: Limits) -> bytes:
    data = path.read_bytes()
    return unpacked(data, limits) if data.startswith(GZIP) else data


def _rows(data: bytes, suffix: str, limits: Limits) -> Iterator[RawRow]:
    return parquet_rows(data, limits) if data.startswith(b"PAR1") else _text_rows(_decoded(data), suffix, limits)


def _decoded(data: bytes) -> str:
    for kind, (starts, advice) in _BINARY.items():
        if data.startswith(starts):
            raise DataError(f"this is {kind}, not a text table; {advice}")
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
        alone = not utf16 and before.isascii() and error.reason != "unexpected end of data"
        guess = "; it looks like Windows-1252" if alone and _is_windows(data) else ""
        raise DataError(f"line {line} is not {kind} text (byte 0x{byte:02X}){guess}; save it as UTF-8") from None


def _is_windows(data: bytes) -> bool:
    """True for bytes that read as Windows-1252 and are mostly ASCII, as its languages are."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return len(text.encode("ascii", "ignore")) > 0.8 * len(text)


def _text_rows(text: str, suffix: str, limits: Limits) -> Iterator[RawRow]:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    if not text or text.isspace():
        raise DataError("it holds only blank lines; add data" if text else "it is empty; add data")
    readers = {"jsonl": jsonl_rows, "json": json_rows, "csv": csv_rows, "plain": plain_rows}
    return readers[_layout(text, suffix)](text, limits)


def _layout(text: str, suffix: str) -> str:
    lines = [match[0].rstrip() for match in islice(NONBLANK.finditer(text), 100)]
    whole = [line[0] + line[-1] in ("{}", "[]") for line in lines]  # most lines of JSONL, few of a JSON list
    share = sum(whole) / len(lines)
    if len(lines) > 1 and (whole[0] or share > 0.5 or (share == 0.5 and suffix == "jsonl")):
        return "jsonl"
    if lines[0][0] in "{[":
        return "json"
    if suffix in ("json", "jsonl") and _SCALAR.fullmatch(lines[0]):
        return "json" if len(lines) == 1 else "jsonl"
    return "plain" if suffix not in ("csv", "tsv", "json", "jsonl") and is_plain(text) else "csv"
