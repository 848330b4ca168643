"""Parquet to raw records, unpacked by a child process that has limits of its own."""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground.data import child
from playground.data.records import DataError, Limits, RawRow, cap, checked_row

_SECONDS = 15
_MEMORY = 400_000_000  # pyarrow alone takes 80 MB


def parquet_rows(data: bytes, limits: Limits) -> Iterator[RawRow]:
    """Rows unpacked by a child process, which is this module run as a program.

    A file of 50 KB can unpack to 200 GB behind honest metadata, and a forged one may crash the C++ reader.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        path.write_bytes(data)
        try:
            for record in child.records(__name__, [str(path), json.dumps(asdict(limits))], _SECONDS):
                yield RawRow(**record)
        except child.Ended:
            raise DataError("the Parquet data is damaged or too much to unpack; export it again") from None


def _unpack(path: str, limits: Limits) -> None:
    """The child's whole life."""
    child.limit(_SECONDS, _MEMORY, written=2 * limits.unpacked_bytes)
    told = 0
    try:
        for number, value in enumerate(_values(path, limits), 1):
            told += child.tell(vars(checked_row(number, value, limits)))
            cap(told, limits.unpacked_bytes, "unpacked bytes")
    except DataError as error:
        child.tell({"error": str(error)})


def _values(path: str, limits: Limits) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names, metadata = file.schema_arrow.names, file.metadata
        if len(set(names)) < len(names):
            raise DataError("two columns have the same name; rename one")
        cap(metadata.num_rows, limits.rows, "rows")
        cap(metadata.num_columns, limits.columns, "columns")
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        cap(sum(group.total_byte_size for group in groups), limits.unpacked_bytes, "unpacked bytes")
        columns = (group.column(i) for group in groups for i in range(group.num_columns))
        cap(sum(column.num_values for column in columns), limits.values, "values")
        unpacked = 0
        for batch in file.iter_batches(batch_size=64, use_threads=False):
            unpacked += batch.nbytes  # a repeated text is stored once, so the metadata can't tell
            cap(unpacked, limits.unpacked_bytes, "unpacked bytes")
            yield from batch.to_pylist()


if __name__ == "__main__":
    _unpack(sys.argv[1], Limits(**json.loads(sys.argv[2])))
