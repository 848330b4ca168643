"""The library keeps datasets whole, hashed the same everywhere, split by question, and inside its own folder."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from playground.data import library, splits
from playground.data.pairs import Pair
from playground.data.readers import DataError, read_text
from playground.data.report import examine
from playground.data.shapes import Row

ROOT = Path(__file__).parents[1]
PRESETS = [
    "pocket-tutor",
    "pocket-tutor-preferences",
    "red-team",
    "reviewed-revisions",
    "reviewed-revisions-preferences",
]


def pair(question: str, answer: str = "So it is.") -> dict:
    return {"prompt": question, "completion": answer}


def jsonl(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def report_of(*records: dict):
    return examine(read_text(jsonl(list(records) or [pair(f"Question {n}?") for n in range(40)])))


def rows_of(questions: list[str]) -> list[Row]:
    """One row for each question, with answers that differ."""
    return [
        Row(n, [{"role": "user", "content": question}, {"role": "assistant", "content": f"Answer {n}."}])
        for n, question in enumerate(questions, 1)
    ]


def question(row: Row | Pair) -> str:
    return row.asked[0]["content"]


def preference(question: str, chosen: str = "So it is.", rejected: str = "No idea.") -> dict:
    return {"prompt": question, "chosen": chosen, "rejected": rejected}


def pairs_of(questions: list[str]) -> list[Pair]:
    """One pair for each question, with answers that differ."""
    return [
        Pair(n, [{"role": "user", "content": question}], f"Answer {n}.", f"No answer {n}.")
        for n, question in enumerate(questions, 1)
    ]


def openings(rows: list) -> set[str]:
    return {" ".join(question(row).casefold().split()) for row in rows}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_text(jsonl([pair(f"Question {n}?") for n in range(40)]), encoding="utf-8")
    return path


# ---- store, find, delete


def test_a_stored_dataset_comes_back_whole(home):
    report = report_of(
        {"messages": [{"role": "user", "content": "日本\u2028 ?"}, {"role": "assistant", "content": "é\n\r"}]}
    )
    made = library.store(report, "talk", "pasted text")
    assert (made.name, made.kind, made.source, made.preset) == ("talk", "sft", "pasted text", False)
    assert (made.train, made.heldout) == (1, 0)
    assert made.rows("train") == report.kept
    assert made.rows("heldout") == []
    assert (made.checks(), made.facts()) == ({}, [])
    assert made.folder == home / "datasets" / made.id
    assert sorted(path.name for path in made.folder.iterdir()) == ["heldout.jsonl", "meta.json", "train.jsonl"]


def test_both_sides_of_the_split_are_stored():
    report = report_of()
    made = library.store(report, "talk", "here")
    assert (made.train, made.heldout) == (36, 4)
    train, heldout = library.split_by_prompt(report.kept)
    assert [row.messages for row in made.rows("train")] == [row.messages for row in train]
    assert [row.messages for row in made.rows("heldout")] == [row.messages for row in heldout]
    assert made.sha256 == library.digest(train, heldout)


def test_why_rows_were_dropped_is_stored_too():
    made = library.store(report_of(pair("a"), {"day": "x"}), "talk", "here")
    meta = json.loads((made.folder / "meta.json").read_text(encoding="utf-8"))
    assert meta["dropped"] == [{"row": 2, "reason": "no columns of a known shape (found: day)"}]


def test_a_dataset_is_found_by_name_and_by_id():
    made = library.store(report_of(), "talk", "here")
    assert library.find("talk") == library.find(made.id) == made
    with pytest.raises(DataError, match=r"^There is no dataset called 'tal'\. Known: pocket-tutor, .*, talk\.$"):
        library.find("tal")


def test_presets_come_first_and_then_the_oldest():
    names = [library.store(report_of(pair(str(n))), name, "here").name for n, name in enumerate("cab")]
    assert [dataset.name for dataset in library.datasets()] == [*PRESETS, *names]


def test_a_name_that_is_taken_gets_a_number():
    names = [library.store(report_of(), "talk", "here").name for _ in range(3)]
    assert names == ["talk", "talk-2", "talk-3"]
    library.delete(library.find("talk-2"))
    assert library.store(report_of(), "talk", "here").name == "talk-2"
    assert library.store(report_of(), "pocket-tutor", "here").name == "pocket-tutor-2"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("../x", "x"),
        ("..", "data"),
        ("", "data"),
        ("<img>", "img"),
        ("<img src=x onerror=alert(1)>", "img-src-x-onerror-alert-1"),
        ("/etc/passwd", "etc-passwd"),
        ("a\\b\0c\nd", "a-b-c-d"),
        ("Grüße 2.0", "Grüße-2.0"),
        ("x" * 500, "x" * 60),
    ],
)
def test_a_name_is_cleaned(home, wanted, name):
    made = library.store(report_of(), wanted, "here")
    assert made.name == name
    assert made.folder.parent == home / "datasets"


def test_a_deleted_dataset_is_gone(home):
    made, kept = library.store(report_of(), "talk", "here"), library.store(report_of(), "other", "here")
    library.delete(made)
    assert not made.folder.exists()
    assert [dataset.id for dataset in library.datasets()] == [*PRESETS, kept.id]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_not_be_deleted(name):
    with pytest.raises(DataError, match=r"^A dataset that comes with the app can't be deleted\.$"):
        library.delete(library.find(name))
    assert library.find(name).rows("train")


def test_nothing_is_stored_where_no_row_can_be_used(home):
    with pytest.raises(DataError, match=r"^No row can be used: .* \(row 1\)\. Each row needs messages"):
        library.store(report_of({"text": "x"}), "talk", "here")
    assert list(library.root().iterdir()) == []


@pytest.mark.parametrize("at", ["write_text", "rename"])
def test_a_store_that_is_killed_leaves_nothing_listed(home, monkeypatch, at):
    original = getattr(Path, at)

    def killed(path, *args, **kwargs):
        if at == "rename" or path.name == "meta.json":
            raise KeyboardInterrupt
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, at, killed)
        with pytest.raises(KeyboardInterrupt):
            library.store(report_of(), "talk", "here")
    assert [dataset.name for dataset in library.datasets()] == PRESETS
    assert library.store(report_of(), "talk", "here").name == "talk"


# ---- nothing outside


def test_a_reference_never_becomes_a_path(home):
    outside = library.store(report_of(), "talk", "here").folder.rename(home / "data_0123456789ab")
    for reference in (
        "../data_0123456789ab",
        str(outside),
        "data_0123456789ab",
        "..",
        "",
        "pocket-tutor/../pocket-tutor",
    ):
        with pytest.raises(DataError, match="There is no dataset called"):
            library.find(reference)


def test_only_folders_named_by_the_library_are_listed(home):
    made = library.store(report_of(), "talk", "here")
    for name in ("data_XYZ", "data_0123456789abc", ".data_0123456789ab.part", "mine"):
        folder = library.root() / name
        folder.mkdir()
        (folder / "meta.json").write_text((made.folder / "meta.json").read_text(encoding="utf-8"), encoding="utf-8")
    (library.root() / "data_0123456789ab").mkdir()  # without meta.json
    (library.root() / "notes.txt").touch()
    assert [dataset.id for dataset in library.datasets()] == [*PRESETS, made.id]


def test_an_id_inside_a_tampered_file_leads_nowhere(home):
    made = library.store(report_of(), "talk", "here")
    meta = json.loads((made.folder / "meta.json").read_text(encoding="utf-8"))
    (made.folder / "meta.json").write_text(json.dumps({**meta, "id": "../.."}), encoding="utf-8")
    assert library.find("talk") == made


# ---- import


def test_a_file_that_is_imported_twice_is_one_dataset(file):
    first, report = library.import_file(file)
    again, _ = library.import_file(file)
    assert first == again
    assert (first.name, first.source) == ("talk", "file talk.jsonl")
    assert len(report.kept) == 40
    assert len(library.datasets()) == len(PRESETS) + 1


def test_the_same_rows_under_a_name_of_their_own(file):
    first, _ = library.import_file(file)
    named, _ = library.import_file(file, "my talk!")
    assert (named.name, named.sha256) == ("my-talk", first.sha256)
    assert library.import_file(file, "my talk!")[0] == named
    assert library.import_file(file)[0] == first


def test_a_changed_file_is_another_dataset(file):
    first, _ = library.import_file(file)
    file.write_text(file.read_text(encoding="utf-8") + jsonl([pair("One more?")]), encoding="utf-8")
    second, _ = library.import_file(file)
    assert (second.name, second.sha256 != first.sha256) == ("talk-2", True)


# ---- the hash


def test_the_hash_is_the_same_in_every_process(file):
    made, _ = library.import_file(file)
    program = (
        "from playground.data import library; print(library.import_file(__import__('pathlib').Path(%r))[0].sha256)"
    )
    for seed in ("1", "2"):
        home = file.parent / seed
        env = {**os.environ, "PYTHONHASHSEED": seed, "PLAYGROUND_HOME": str(home)}
        command = [sys.executable, "-c", program % str(file)]
        run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == made.sha256


def test_the_hash_sees_words_and_not_the_way_they_were_written_down():
    def digest(*records: dict) -> str:
        return library.digest(report_of(*records).kept, [])

    same = digest({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 1})
    assert (
        digest({"id": 2, "messages": [{"content": "a", "role": "user"}, {"content": "b", "role": "assistant"}]}) == same
    )
    assert digest({"completion": "b", "prompt": "a"}) == digest({"prompt": "a", "completion": "b"}) == same
    assert digest(pair("a", "c")) != same
    assert library.digest([], report_of(pair("a", "b")).kept) != same


# ---- the split


def test_a_tenth_is_held_out():
    for count in (10, 14, 40, 100, 999):
        train, heldout = library.split_by_prompt(rows_of([f"Question {n}?" for n in range(count)]))
        assert len(heldout) == round(count / 10)
        assert len(train) + len(heldout) == count


def test_never_more_than_200_rows_are_held_out():
    assert len(library.split_by_prompt(rows_of([f"Question {n}?" for n in range(5000)]))[1]) == 200
    several = [f"Question {n}?" for n in range(100) for _ in range(1 + n * 3)]
    assert 150 < len(library.split_by_prompt(rows_of(several))[1]) <= 200


def test_no_question_stands_on_both_sides():
    chance = random.Random(0)
    asked = [f"{chance.choice(['What is', 'what  IS', 'What is '])} {chance.randrange(60)}?" for _ in range(500)]
    train, heldout = library.split_by_prompt(rows_of(asked))
    sides = [{" ".join(question(row).casefold().split()) for row in side} for side in (train, heldout)]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[1]) > 1
    assert 40 <= len(heldout) <= 50


def test_the_split_depends_on_the_questions_alone():
    rows = rows_of([f"Question {n % 70}?" for n in range(200)])
    train, heldout = library.split_by_prompt(rows)
    assert library.split_by_prompt(rows) == (train, heldout)
    mixed = random.Random(1).sample(rows, len(rows))
    assert sorted(map(question, library.split_by_prompt(mixed)[1])) == sorted(map(question, heldout))
    assert [row.row for row in train] == sorted(row.row for row in train)
    other = [replace(row, messages=[*row.messages[:-1], {"role": "assistant", "content": "!"}]) for row in rows]
    assert [row.row for row in library.split_by_prompt(other)[1]] == [row.row for row in heldout]


def test_the_question_is_the_first_one_behind_the_system_message():
    rows = rows_of([f"Question {n}?" for n in range(30)])
    _, plain = library.split_by_prompt(rows)
    system = {"role": "system", "content": "Be brief."}
    _, with_system = library.split_by_prompt([replace(row, messages=[system, *row.messages]) for row in rows])
    assert [row.row for row in with_system] == [row.row for row in plain]


def test_a_much_repeated_question_stays_in_training():
    for name in "abcdefgh":  # whichever comes first in the order of the hashes
        asked = [f"Same {name}?"] * 60 + [f"Question {n}?" for n in range(60)]
        train, heldout = library.split_by_prompt(rows_of(asked))
        assert sum(question(row) == f"Same {name}?" for row in train) == 60
        assert len(heldout) == 12


def test_fewer_than_ten_questions_are_all_trained_on():
    few = rows_of([f"Question {n % 9}?" for n in range(90)])
    assert library.split_by_prompt(few) == (few, [])
    assert library.split_by_prompt([]) == ([], [])
    assert len(library.split_by_prompt(rows_of([f"Question {n % 10}?" for n in range(90)]))[1]) == 9


# ---- preference pairs


def test_stored_pairs_come_back_whole():
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "日本\u2028 ?"}]
    report = report_of({"prompt": talk, "chosen": "é\n\r\nè", "rejected": "\u2029 no \t\tno"})
    made = library.store(report, "taste", "pasted text")
    assert (made.name, made.kind, made.train, made.heldout, made.preset) == ("taste", "preference", 1, 0, False)
    assert made.rows("train") == report.kept
    assert made.rows("heldout") == []
    assert made.sha256 == library.digest(report.kept, [])


def test_stored_pairs_are_written_as_trl_reads_them():
    made = library.store(report_of(*(preference(f"Question {n}?") for n in range(20))), "taste", "here")
    lines = [
        json.loads(line)
        for split in ("train", "heldout")
        for line in (made.folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) == 20
    for line in lines:
        assert list(line) == ["prompt", "chosen", "rejected"]
        assert line["prompt"][0]["content"].startswith("Question ")
        assert line["chosen"] == [{"role": "assistant", "content": "So it is."}]
        assert line["rejected"] == [{"role": "assistant", "content": "No idea."}]
    again = examine(read_text(jsonl(lines)))
    assert sorted(map(question, again.kept)) == sorted(map(question, made.rows("train") + made.rows("heldout")))


def test_pairs_of_a_file_that_is_imported_twice_are_one_dataset(tmp_path):
    records = [preference(f"Question {n}?") for n in range(40)]
    transcripts = [
        {side: f"\n\nHuman: {r['prompt']}\n\nAssistant: {r[side]}" for side in ("chosen", "rejected")} for r in records
    ]
    made = []
    for name, rows in (
        ("first", records),
        ("second", transcripts),
        ("turned", [preference(r["prompt"], r["rejected"], r["chosen"]) for r in records]),
    ):
        (tmp_path / f"{name}.jsonl").write_text(jsonl(rows), encoding="utf-8")
        made.append(library.import_file(tmp_path / f"{name}.jsonl")[0])
    assert made[0] == made[1] != made[2]
    assert made[0].sha256 != made[2].sha256
    assert (made[0].train, made[0].heldout) == (36, 4)


def test_no_prompt_of_pairs_stands_on_both_sides():
    chance = random.Random(0)
    asked = [f"{chance.choice(['What is', 'what  IS', 'What is '])} {chance.randrange(60)}?" for _ in range(500)]
    rows = pairs_of(asked)
    train, heldout = library.split_by_prompt(rows)
    assert openings(train).isdisjoint(openings(heldout))
    assert 40 <= len(heldout) <= 50
    assert sorted(row.row for row in train + heldout) == [row.row for row in rows]


def test_pairs_are_split_like_conversations_with_the_same_questions():
    asked = [f"Question {n}?" for n in range(50)]
    split = [library.split_by_prompt(make(asked)) for make in (rows_of, pairs_of)]
    assert [row.row for row in split[0][1]] == [row.row for row in split[1][1]]


def test_a_file_of_another_kind_than_asked_for_is_not_stored(file):
    with pytest.raises(DataError, match=r"^talk\.jsonl holds sft rows; preference rows are needed here\.$"):
        library.import_file(file, kind="preference")
    assert [dataset.name for dataset in library.datasets()] == PRESETS
    assert library.import_file(file, kind="sft")[0].kind == "sft"


# ---- one name, two kinds


def test_a_folder_of_presets_holds_both_kinds():
    sft, pairs = map(library.find, PRESETS[:2])
    assert (sft.kind, pairs.kind) == ("sft", "preference")
    assert sft.folder == pairs.folder
    assert sft.sha256 != pairs.sha256
    assert all(isinstance(row, Pair) for split in ("train", "heldout") for row in pairs.rows(split))
    assert (sft.checks(), sft.facts()) == (pairs.checks(), pairs.facts())


def test_a_preset_s_folder_stands_for_the_kind_that_is_asked_for():
    sft, pairs = map(library.find, PRESETS[:2])
    assert library.find("pocket-tutor") == library.find("pocket-tutor", "sft") == sft
    assert library.find("pocket-tutor", "preference") == pairs
    assert library.find("pocket-tutor-preferences", "preference") == pairs


def test_a_dataset_of_the_other_kind_is_still_found_by_its_name():
    """Who asked for it says that the kind is wrong; "there is no such dataset" would be untrue."""
    made = library.store(report_of(), "talk", "here")
    assert library.find("talk", "preference") == made
    assert library.find("pocket-tutor-preferences", "sft").kind == "preference"
    with pytest.raises(DataError, match="There is no dataset called 'nothing'"):
        library.find("nothing", "preference")


def test_a_stored_dataset_is_never_hidden_by_a_folder_of_presets():
    made = library.store(report_of(preference("What?")), "pocket-tutor", "here")
    assert made.name == "pocket-tutor-2"
    assert library.find(made.id, "preference") == library.find("pocket-tutor-2", "preference") == made


# ---- halves


@pytest.mark.parametrize("make", [rows_of, pairs_of])
def test_the_halves_share_no_question_and_leave_nothing_out(make):
    for count in (0, 1, 2, 9, 100, 301):
        rows = make([f"Question {n % 70}?" for n in range(count)])
        first, second = splits.half(rows, "first"), splits.half(rows, "second")
        assert openings(first).isdisjoint(openings(second))
        assert sorted(row.row for row in first + second) == [row.row for row in rows]
        assert abs(len(openings(first)) - len(openings(second))) <= 1
        assert splits.half(rows, "all") == rows


def test_questions_in_other_spacing_fall_into_the_same_half():
    rows = pairs_of([text for n in range(40) for text in (f"What is {n}?", f"what  IS {n}? ")])
    first, second = splits.half(rows, "first"), splits.half(rows, "second")
    assert len(first) == len(second) == 40
    assert openings(first).isdisjoint(openings(second))


def test_a_half_depends_on_the_questions_alone():
    rows = pairs_of([f"Question {n}?" for n in range(100)])
    first = splits.half(rows, "first")
    assert first == splits.half(rows, "first") == sorted(first, key=lambda row: row.row)
    mixed = random.Random(1).sample(rows, len(rows))
    assert openings(splits.half(mixed, "first")) == openings(first)
    assert openings(splits.half(rows_of([f"Question {n}?" for n in range(100)]), "first")) == openings(first)
    assert [row.row for row in first] != list(range(1, 51))


def test_the_halves_are_drawn_apart_from_the_held_out_rows():
    """A held-out tenth that lay in one half alone would judge the two halves unequally."""
    rows = pairs_of([f"Question {n}?" for n in range(400)])
    heldout = openings(library.split_by_prompt(rows)[1])
    assert 10 <= len(heldout & openings(splits.half(rows, "first"))) <= 30


def test_the_halves_of_the_preset_are_about_equal():
    rows = library.find("pocket-tutor", "preference").rows("train")
    assert len(splits.half(rows, "first")) == len(splits.half(rows, "second")) == len(rows) // 2


def test_a_stage_takes_its_own_rows_from_a_file_of_several_kinds(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text(jsonl([*(pair(f"Question {n}?") for n in range(9)), preference("What?")]), encoding="utf-8")
    assert library.import_file(path, kind="preference")[0].kind == "preference"
    assert library.import_file(path, kind="prompts")[0].train == 9
