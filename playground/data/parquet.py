"""Parquet to raw records, unpacked by a child process that has limits of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground.data.records import DataError, Limits, RawRow, cap, checked_row

_PARQUET_SECONDS = 15
_PARQUET_MEMORY = 512_000_000  # pyarrow alone maps 200 MB


def parquet_rows(path: Path, limits: Limits) -> Iterator[RawRow]:
    """Rows unpacked by a child process, which is this module run as a program.

    A file of 50 KB can unpack to 200 GB behind honest metadata, and a forged one may crash the C++ reader:
    only a process has a memory limit, a clock and a crash of its own.
    """
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT")  # no tokens
    env = {key: os.environ[key] for key in kept if key in os.environ}
    env |= {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONSAFEPATH": "1"}
    # The stacks of one thread per core would count towards the memory limit.
    env |= {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "playground.data.parquet", str(path.resolve()), json.dumps(asdict(limits))]
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryFile() as out:
        try:
            subprocess.run(
                command, check=True, timeout=_PARQUET_SECONDS, env=env, stdin=quiet, stdout=out, stderr=quiet
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            raise DataError("the Parquet data is damaged or too much to unpack; export it again") from None
        out.seek(0)
        for line in out:
            record = json.loads(line)
            if "error" in record:
                raise DataError(record["error"])
            yield RawRow(**record)


def _unpack(path: str, limits: Limits) -> None:
    """The child's whole life: one JSON line per row on stdout, or one that names the error."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (_PARQUET_MEMORY, _PARQUET_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_PARQUET_SECONDS, _PARQUET_SECONDS))
    try:
        for number, value in enumerate(_parquet_values(path, limits), 1):
            print(json.dumps(asdict(checked_row(number, value, limits))))
    except DataError as error:
        print(json.dumps({"error": str(error)}))


def _parquet_values(path: str, limits: Limits) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names, metadata = file.schema_arrow.names, file.metadata
        if len(set(names)) < len(names):
            raise DataError("two columns have the same name; rename one")
        cap(metadata.num_rows, limits.rows, "rows")
        cap(metadata.num_columns, limits.columns, "columns")
        groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
        cap(sum(group.total_byte_size for group in groups), limits.parquet_bytes, "unpacked bytes")
        unpacked = 0
        for batch in file.iter_batches(batch_size=64, use_threads=False):
            unpacked += batch.nbytes  # a repeated text is stored once, so the metadata can't tell
            cap(unpacked, limits.parquet_bytes, "unpacked bytes")
            yield from batch.to_pylist()


if __name__ == "__main__":
    _unpack(sys.argv[1], Limits(**json.loads(sys.argv[2])))
