"""Files made to cost more than they weigh, and what reading one costs: for the tests and the benchmark of limits."""

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MOST = 20_000_000  # bytes: the largest file that is accepted
ROOT = Path(__file__).resolve().parents[1]


def filled(head: bytes, unit: bytes, tail: bytes = b"") -> bytes:
    """As many units as fit into the largest file."""
    return head + unit * ((MOST - len(head) - len(tail)) // len(unit)) + tail


def parquet(texts: list[str], repeats: int = 0, **options) -> bytes:
    """A column of texts; with repeats, of the first one stored once and used that often."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array(texts)
    if repeats:
        column = pa.DictionaryArray.from_arrays(pa.array([0] * repeats, pa.int32()), column)
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": column}), sink, store_schema=False, **options)
    return sink.getvalue()


def objects_of_many_keys() -> bytes:
    rows = ({f"{row:x}_{i}": i for i in range(19)} for row in range(49_000))
    return json.dumps(list(rows), separators=(",", ":")).encode()


def header(columns: int) -> bytes:
    return ",".join(f"c{i}" for i in range(columns)).encode() + b"\n"


EMOJI = "\U0001f600"  # one makes a text in memory four times as large as its bytes
LINE = b'{"prompt":"' + b"x" * 370 + b'"}\n'
SQUARE = {"compression": "zstd", "use_dictionary": False}  # texts that pack well and unpack to their full length

FILES: dict[str, Callable[[], bytes]] = {
    "50,000 rows of 400 bytes": lambda: LINE * 50_000,
    "50,000 rows, one emoji each": lambda: f'{{"text":"{EMOJI}'.encode().join([b"", b"x" * 370 + b'"}\n']) * 49_000,
    "brackets": lambda: b"[" * MOST,
    "objects in objects": lambda: filled(b"", b'{"a":'),
    "a million small values": lambda: filled(b'{"data":[', b"1,", b"1]}"),
    "a million small objects": lambda: filled(b"[", b'{"a":{"ab":1}},', b"{}]"),
    "half a million objects and an emoji": lambda: (
        f'["{EMOJI}",'.encode() + b'{"a":1},' * 495_000 + b'"' + b"x" * 15_000_000 + b'"]'
    ),
    "one text": lambda: filled(f'[{{"a":"{EMOJI}'.encode(), b"x", b'"}]'),
    "backslashes": lambda: filled(b'["', b'\\"'),
    "objects of many keys": objects_of_many_keys,
    "separators": lambda: filled(b"prompt\n", b","),
    "quotation marks": lambda: filled(b"a,b\n", b'"'),
    "quotation marks in pairs": lambda: filled(b"a,b\n", b'"";""\n'),
    "empty lines": lambda: filled(b"a,b\n", b"\n"),
    "200 columns": lambda: header(200) + b"1,2\n" * 50_000,
    "cells of lists": lambda: b"a,b\n" + b'"[' + b"{}," * 15 + b'{}]",1\n' * 49_000,
    "cells of deep lists": lambda: b"a,b\n" + (b'"' + b"[" * 90 + b"'a'" + b"]" * 90 + b'",1\n') * 49_000,
    "cells that Python computes": lambda: b"a,b\n" + (b'"[' + b"1if 1else " * 3000 + b'1]",1\n') * 600,
    "lines": lambda: filled(b"", b"Why?\n"),
    "role marks": lambda: filled(b"", b"<|a|>"),
    "spaces": lambda: b" " * MOST,
    "gzip of spaces": lambda: gzip.compress(b" " * 500_000_000, 1),
    "gzip of rows": lambda: gzip.compress(LINE * 2_000_000, 1),
    "gzip in a million parts": lambda: gzip.compress(b"") * 1_000_000,
    "Parquet, one text 50,000 times": lambda: parquet(["x" * 3000], repeats=50_000),
    "Parquet, one text 40,000,000 times": lambda: parquet(["x" * 1000], repeats=40_000_000),
    "Parquet, packed": lambda: parquet([f"{i}" + "x" * 3000 for i in range(50_000)], **SQUARE),
    "Parquet, packed, one emoji each": lambda: parquet([f"{i}{EMOJI}" + "x" * 3000 for i in range(50_000)], **SQUARE),
    "Parquet, one page": lambda: parquet(
        [f"{i}" + "x" * 3000 for i in range(50_000)], **SQUARE, data_page_size=1_000_000_000
    ),
}  # what it is → its bytes

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from playground.data.readers import DataError, read_file

def peak():  # getrusage would count the parent's
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

before, begun = peak(), time.perf_counter()
try:
    result = f"{len(read_file(Path(sys.argv[1]), 'hostile.txt')):,} rows"
except DataError as error:
    result = str(error)
seconds = time.perf_counter() - begun
unpacking = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # a child that ends before rows are kept
print(json.dumps({"seconds": seconds, "bytes": max(peak() - before, unpacking), "result": result}))
"""


def cost(path: Path) -> dict:
    """Seconds and peak memory of reading this file in a process of its own, and what came of it."""
    done = subprocess.run([sys.executable, "-c", _CHILD, str(path)], cwd=ROOT, capture_output=True, check=True)
    return json.loads(done.stdout)
