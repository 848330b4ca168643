"""The promise of the limits: reading a hostile file costs at most 300 MB, also in the child that unpacks Parquet.

Its seconds are a benchmark's matter (tests/benchmarks/data.py): a busy machine would break a test of them.
"""

from pathlib import Path

import hostile
import pytest

# Those that come nearest to the bound, and one of each format.
COSTLY = [
    "50,000 rows, one emoji each",
    "a million small objects",
    "half a million objects and an emoji",
    "one text",
    "separators",
    "quotation marks",
    "gzip of rows",
    "Parquet, one text 50,000 times",
    "Parquet, one text 40,000,000 times",
    "Parquet, packed, one emoji each",
    "Parquet, one page",
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a program's peak of memory is read from /proc")
@pytest.mark.parametrize("what", COSTLY)
def test_a_hostile_file_costs_at_most_300_mb(what, tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(hostile.FILES[what]())
    cost = hostile.cost(path)
    assert cost["bytes"] < 300_000_000, cost["result"]
