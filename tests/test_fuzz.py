"""Thousands of broken, odd and hostile files: nothing but DataError leaves the readers, and no limit is exceeded.

Three sources: bytes of the samples changed at random, tables written from arbitrary values in every format, and text
that is made of the marks that formats are made of. Each goes all the way that a person's file goes, from the upload to
the report.
"""

import csv
import functools
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playground.data.readers import DataError, Limits, RawRow, read_file
from playground.data.report import examine

CASES = 800  # of each of the three sources
SMALL = Limits(file_bytes=60_000, rows=40, field_bytes=2000, depth=6, columns=12, values=1500)
NAMES = ["d.json", "d.jsonl", "d.csv", "d.tsv", "d.txt", "d.jsonl.gz", "pasted"]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
INLINE = [
    json.dumps({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}) + "\n" + json.dumps({"messages": CHAT}),
    json.dumps([{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "é😀"}]}] * 2, indent=1),
    "prompt,answer,turns\n\"a \"\"b\"\"\nc\",NaN,\"[{'role': 'user', 'content': 'it\\'s'}]\"\n",
    "sep=;\ninstruction;input;output\nAdd;1 2;3\n",
    "Tell me a story, please.\nWhy?\n",
    "### Human: Hi### Assistant: Hello!\n### Human: Bye### Assistant: Bye.\n",
    "\n\nHuman: Hi\n\nAssistant: Hello!",
]
MARKS = [
    *"[]{},;:\"'\\\t\n\r ",
    "\0",
    "\ufeff",
    "\ud800",
    "😀",
    "é",
    "\x85",
    "NaN",
    "null",
    "True",
    "-1e999",
    "7" * 400,
]
MARKS += ['{"a":', '"prompt"', '"messages":', "[{", "sep=;\n", "\n\nHuman:", "### Assistant:", "<|im_start|>"]

fuzzed = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,  # the same cases on every machine: a red build is never luck
    database=None,
    suppress_health_check=list(HealthCheck),
)


@functools.cache
def samples() -> list[bytes]:
    """The samples of the shapes' tests that are small enough to change often, and some that are always there."""
    folder = Path(__file__).parent / "samples"
    found = [path.read_bytes() for path in sorted(folder.rglob("*.*")) if not path.name.endswith(".expected.json")]
    return [text.encode() for text in INLINE] + [data for data in found if 0 < len(data) < 20_000]


@pytest.fixture(scope="module")
def upload(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "upload"


def survives(path: Path, content: bytes, name: str) -> bool:
    """Takes a file all the way; True if there are rows in it."""
    path.write_bytes(content)
    try:
        rows = read_file(path, name, SMALL)
        report = examine(rows)
    except DataError as error:
        assert str(error).isprintable()
        return False
    assert len(rows) <= SMALL.rows
    for row in rows:
        assert_sound(row)
    assert {row.row for row in report.kept} <= {row.row for row in rows if row.problem is None}
    for row in report.kept:
        json.dumps(row.as_json(), ensure_ascii=False, allow_nan=False).encode()
    for number, reason in report.dropped:
        assert number > 0 and reason
    return True


def assert_sound(row: RawRow) -> None:
    """Either a problem in words or a record within every limit, of nothing but JSON's types."""
    assert row.row > 0 and (row.value is None) != (row.problem is None)
    assert row.problem is None or row.problem.isprintable()
    if row.value is not None:
        assert isinstance(row.value, dict) and len(row.value) <= SMALL.columns
        for name, field in row.value.items():
            text = field if isinstance(field, str) else json.dumps(field, ensure_ascii=False, allow_nan=False)
            assert max(len(name.encode()), len(text.encode())) <= SMALL.field_bytes
        assert depth(row.value) <= SMALL.depth


def depth(value: Any) -> int:
    assert type(value) in (dict, list, str, int, float, bool, type(None))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


# ---- bytes of samples, changed


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few pieces replaced, dropped, doubled, moved or bent, with a liking for the characters that have meaning."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at, end = sorted(chance.choices(range(len(out) + 1), k=2))
        piece = "".join(chance.choices(MARKS, k=chance.choice([1, 1, 2, 10]))).encode("utf-8", "surrogatepass")
        match chance.randrange(6):
            case 0:
                out[at : at + 1] = piece
            case 1:
                out[at:at] = piece
            case 2:
                del out[at : min(end, at + 40)]
            case 3:
                out[at:at] = out[at : min(end, at + 5000)]
            case 4:
                out[at : at + 1] = bytes([chance.randrange(256)])
            case 5:
                out[at:at] = bytes([out[at % len(out)] if out else 91]) * chance.choice([10, 200, 5000])
    return bytes(out)


@fuzzed
@given(seed=st.integers(0, 2**32))
def test_changed_samples(upload, seed):
    chance = random.Random(seed)
    data = mutated(chance.choice(samples()), chance)
    packed = chance.random() < 0.2
    if packed:
        data = gzip.compress(data)
    if packed and chance.random() < 0.5:
        data = mutated(data, chance)
    survives(upload, data, chance.choice(NAMES))


# ---- tables of arbitrary values

texts = st.text(st.characters(codec=None), max_size=40) | st.sampled_from(MARKS)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
COLUMNS = (
    "prompt completion chosen rejected messages conversations instruction output text label question answer system"
)
COLUMNS += " score rank history response_0 winner id parent_id role"
fields = st.sampled_from(COLUMNS.split())
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "bot"]) | texts, "content": values})
    | st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]) | texts, "value": values}),
    max_size=4,
)
records = st.dictionaries(fields | texts, values | turns | st.text(max_size=3000), max_size=14) | turns | scalars
tables = st.lists(records, max_size=8) | st.lists(
    st.just({"prompt": "Hi", "answer": "Hello!"}), min_size=30, max_size=50
)


def as_csv(rows: list[Any], delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    for row in rows:
        cells = row.values() if isinstance(row, dict) else row if isinstance(row, list) else [row]
        writer.writerow([str(cell) for cell in cells])
    return out.getvalue()


@fuzzed
@given(rows=tables, form=st.integers(0, 6), name=st.sampled_from(NAMES))
def test_tables_of_anything(upload, rows, form, name):
    text = [
        lambda: "\n".join(map(json.dumps, rows)),
        lambda: json.dumps(rows, indent=form),
        lambda: json.dumps({"data": rows}),
        lambda: json.dumps({str(i): row for i, row in enumerate(rows)}),
        lambda: as_csv([list(rows[0]) if rows and isinstance(rows[0], dict) else ["a", "b"], *rows], ","),
        lambda: as_csv(rows, "\t"),
        lambda: repr(rows),
    ][form]()
    survives(upload, text.encode("utf-8", "surrogatepass"), name)


# ---- nothing but marks


@fuzzed
@given(
    marks=st.lists(st.sampled_from(MARKS), max_size=60),
    times=st.sampled_from([1, 1, 3, 100]),
    name=st.sampled_from(NAMES),
)
def test_text_made_of_marks(upload, marks, times, name):
    survives(upload, ("".join(marks) * times).encode("utf-8", "replace"), name)


def test_the_samples_themselves_survive(upload):
    """Else the changes above would only ever try what is broken from the start."""
    usable = [survives(upload, data, "d.txt") for data in samples()]
    assert sum(usable) > 0.8 * len(usable)
