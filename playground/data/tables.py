"""CSV and TSV to raw records: separators and quotes as spreadsheets write them, cells that hold lists or objects."""

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any

from playground.data.documents import parsed
from playground.data.literals import as_json
from playground.data.records import UNSAFE, DataError, Limits, RawRow, cap, checked_row, shown

_MISSING = {"NaN", "nan", "None", "NA", "<NA>", "null", "NULL"}
_END = "\0"  # in no text: the readers replace it


def csv_rows(text: str, limits: Limits) -> Iterator[RawRow]:
    """One record a line under a header; a cell may run over several lines."""
    # Python's default would stop at a cell of 131,072 characters; such a cell is only its own row's problem.
    csv.field_size_limit(max(csv.field_size_limit(), limits.file_bytes))
    text, delimiter = delimiter_of(text)
    cap(text.count(delimiter), 2 * limits.values, "separators")  # one row must not become millions of cells
    cap(text.count("\n"), 2 * limits.values, "lines")
    table = (cells for cells in csv.reader(_lines(text), delimiter=delimiter) if cells)
    header = _header(next(table), limits)
    number = 0
    for number, cells in enumerate(takewhile([_END].__ne__, table), 1):
        yield _row(number, header, cells, limits)
    if not number:
        raise DataError("it has a header but no rows under it; add at least one")


def delimiter_of(text: str) -> tuple[str, str]:
    """(the text without Excel's own first line, the separator): the one that gives the header most columns."""
    if declared := re.match(r'\s*"?sep=([,;\t])"?\n(?=\s*\S)', text):
        return text[declared.end() :], declared[1]
    return text, max(",\t;", key=lambda mark: len(first_cells(text, mark)))


def first_cells(text: str, delimiter: str) -> list[str]:
    """The cells of the first line."""
    first = text[:20_000].lstrip("\n").split("\n", 1)[0]
    return next(csv.reader([first], delimiter=delimiter), [])


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


def _row(number: int, header: list[str], cells: list[str], limits: Limits) -> RawRow:
    if cells[-1].endswith(_END):
        return RawRow(number, None, "a quotation mark is opened in this row and never closed")
    if any(cells[len(header) :]):
        found = f"{len(cells):,} cells, but the header has {len(header)}"
        return RawRow(number, None, f"{found}; put a cell that holds the separator in quotation marks")
    row = dict.fromkeys(header) | dict(zip(header, (_cell(cell, limits) for cell in cells), strict=False))
    return replace(checked_row(number, row, limits), missing=next(filter(_MISSING.__contains__, cells), ""))


def _cell(text: str, limits: Limits) -> Any:
    """A cell's text, None where it is missing, or the list or object it spells in JSON or Python."""
    if text in _MISSING:
        return None
    if not text.lstrip().startswith(("[", "{")) or len(text) > limits.field_bytes:
        return text
    for spelled in (str, as_json):
        try:
            return parsed(spelled(text), limits)
        except DataError:
            continue
    return text
