"""An exported dataset is JSONL in TRL's forms: `datasets` reads it, and so does this app, to the same rows."""

import json
from dataclasses import replace

import datasets as hub
import pytest
from trl import data_utils

from playground.data import library
from playground.data.dataset import Dataset
from playground.data.export import export
from playground.data.pairs import Pair
from playground.data.prompts import Prompt
from playground.data.readers import DataError, read_file
from playground.data.report import examine
from playground.data.shapes import Row
from playground.data.thumbs import Thumb

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "日本\u2028 =1+1?"}]
SAID = [{"role": "assistant", "content": "é\n\n\tè"}, {"role": "user", "content": "And?"}]


def asked(n: int) -> list[dict[str, str]]:
    return [*ASKED, *SAID] if n == 0 else [{"role": "user", "content": f"Question {n}?"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ROWS = {
    "sft": [Row(n, asked(n) + answer(f"Answer {n}."), {"from": n} if n % 2 else {}) for n in range(40)],
    "preference": [
        Pair(n, asked(n), f"Yes {n}.", f"No {n}.", 0.8 if n > 37 else 1.0, {"margin": n, "p": [n]} if n > 35 else {})
        for n in range(40)
    ],
    "prompts": [Prompt(n, asked(n), {"topic": "sums", "kind": "plain"} if n % 2 else {}) for n in range(40)],
    "thumbs": [Thumb(n, asked(n), f"Answer {n}.", n % 3 == 0, {"by": "a vote"} if n == 39 else {}) for n in range(40)],
}
COLUMNS = {
    "sft": ["messages", "notes"],
    "preference": ["prompt", "chosen", "rejected", "margin", "soft_label", "notes"],
    "prompts": ["prompt", "topic", "kind"],
    "thumbs": ["prompt", "completion", "label", "notes"],
}


def stored(kind: str) -> Dataset:
    return library.make("mine", kind, ROWS[kind], "a test", {}, heldout=ROWS[kind][:3])


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.mark.parametrize("kind", ROWS)
def test_a_file_holds_trl_s_columns_in_every_row(kind, tmp_path):
    assert export(stored(kind), "train", tmp_path / "out.jsonl") == 40
    found = lines(tmp_path / "out.jsonl")
    assert {tuple(line) for line in found} == {tuple(COLUMNS[kind])}
    for line, row in zip(found, ROWS[kind], strict=True):
        as_stored = row.as_json()
        shared = set(COLUMNS[kind]) & set(as_stored) - {"notes"}
        assert {name: line[name] for name in shared} == {name: as_stored[name] for name in shared}


def test_the_parts_are_written_apart_or_together(tmp_path):
    made, path = stored("sft"), tmp_path / "out.jsonl"
    counts = [export(made, split, path) for split in ("train", "heldout", "all")]
    assert counts == [40, 3, 43] == [*counts[:2], len(lines(path))]
    assert [line["messages"] for line in lines(path)[40:]] == [row.messages for row in ROWS["sft"][:3]]
    with pytest.raises(DataError, match=r"^The rows are called train, heldout or all; got 'test'\.$"):
        export(made, "test", path)
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]


def test_what_no_row_has_is_no_column(tmp_path):
    rows = [Pair(1, asked(1), "Yes.", "No.")]
    export(library.make("plain", "preference", rows, "a test", {}), "all", tmp_path / "out.jsonl")
    assert list(lines(tmp_path / "out.jsonl")[0]) == ["prompt", "chosen", "rejected"]


def test_margin_doubt_and_notes_are_written_so_that_every_row_has_them(tmp_path):
    export(stored("preference"), "train", tmp_path / "out.jsonl")
    found = lines(tmp_path / "out.jsonl")
    assert [line["margin"] for line in found[34:]] == [0.0, 0.0, 36.0, 37.0, 38.0, 39.0]
    assert [line["soft_label"] for line in found[36:]] == [1.0, 1.0, 0.8, 0.8]
    assert [line["notes"] for line in found[35:37]] == ["", '{"p": [36]}']


@pytest.mark.parametrize("kind", ROWS)
def test_the_datasets_library_reads_it_and_trl_knows_its_form(kind, tmp_path):
    export(stored(kind), "all", tmp_path / "out.jsonl")
    read = hub.load_dataset(
        "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert (len(read), read.column_names) == (43, COLUMNS[kind])
    assert read.features.get("margin", hub.Value("float64")) == hub.Value("float64")
    assert data_utils.is_conversational(read[0])
    first = ROWS[kind][0].as_json()
    assert {name: read[0][name] for name in first if name != "notes"} == {
        n: v for n, v in first.items() if n != "notes"
    }


def test_a_column_that_begins_late_is_read_all_the_same(tmp_path):
    """`datasets` takes the columns from the first ten megabytes."""
    rows = [Row(n, asked(n) + answer("So it is. " * 2500)) for n in range(500)]
    rows[-1] = replace(rows[-1], notes={"from": "the end"})
    export(library.make("long", "sft", rows, "a test", {}, heldout=[]), "all", tmp_path / "out.jsonl")
    read = hub.load_dataset(
        "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert read[499]["notes"] == '{"from": "the end"}'


def read_back(kind: str, path) -> list:
    export(stored(kind), "train", path)
    report = examine(read_file(path))
    assert (report.kind, report.dropped) == (kind, [])
    return report.kept


@pytest.mark.parametrize("kind", ["sft", "preference", "prompts"])
def test_an_exported_file_that_is_brought_back_gives_the_same_rows(kind, tmp_path):
    assert [row.content for row in read_back(kind, tmp_path / "out.jsonl")] == [row.content for row in ROWS[kind]]


def test_prompts_come_back_with_what_they_are_about(tmp_path):
    found = read_back("prompts", tmp_path / "out.jsonl")
    assert [row.notes for row in found] == [row.notes for row in ROWS["prompts"]]


def test_exported_thumbs_that_are_brought_back_are_the_same(tmp_path):
    found = read_back("thumbs", tmp_path / "out.jsonl")
    assert [row.content for row in found] == [row.content for row in ROWS["thumbs"]]


def test_exported_margins_come_back(tmp_path):
    found = read_back("preference", tmp_path / "out.jsonl")
    assert [row.notes["margin"] for row in found] == [row.notes.get("margin", 0.0) for row in ROWS["preference"]]


def test_a_folder_is_no_file_and_nothing_is_left_in_it(tmp_path):
    dataset = library.make("mine", "prompts", [Prompt(1, [{"role": "user", "content": "Why?"}])], "a test", {})
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        export(dataset, "all", tmp_path)
    assert list(tmp_path.parent.glob(".*.part")) == list(tmp_path.iterdir()) == []
