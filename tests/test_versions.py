"""A changed dataset is a new version: the old one stays, rows keep their side, runs find what they used."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from playground.data import library
from playground.data.dataset import Dataset
from playground.data.library import datasets, delete, find, rename, revise, versions
from playground.data.pairs import Pair
from playground.data.prompts import Prompt
from playground.data.readers import DataError
from playground.data.shapes import Row
from playground.data.splits import opening
from playground.data.thumbs import Thumb
from playground.runs import run as runs
from playground.stages import inputs
from playground.stages.inputs import StageError

ROOT = Path(__file__).parents[1]


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def row(question: str, answer: str = "So it is.") -> Row:
    return Row(1, [*asked(question), {"role": "assistant", "content": answer}])


def stored(name: str = "talk", count: int = 40) -> Dataset:
    return library.make(name, "sft", [row(f"Question {n}?") for n in range(count)], "a test", {"test": name})


def parts(dataset: Dataset) -> dict[str, list]:
    return {split: dataset.rows(split) for split in ("train", "heldout")}


def answered(dataset: Dataset, answer: str) -> dict[str, list]:
    """The dataset's rows, the first of each part with another answer."""
    rows = parts(dataset)
    for split in rows:
        rows[split][0] = row(opening(rows[split][0]), answer)
    return rows


def contents(rows: list) -> list:
    return [found.content for found in rows]


# ---- a new version


def test_a_revision_is_the_next_version_and_the_old_one_stays():
    first = stored()
    old = parts(first)
    second = revise(first, answered(first, "No."), "2 rows edited")
    assert (second.name, second.version, second.note, second.parent) == ("talk", 2, "2 rows edited", first.id)
    assert (second.train, second.heldout, second.sha256 != first.sha256) == (36, 4, True)
    assert (second.kind, second.source, second.origin) == (first.kind, first.source, first.origin)
    assert second.created > first.created
    assert (first.version, first.parent, first.note) == (1, None, "")
    assert parts(find(first.id)) == old
    assert versions(first) == versions(second) == [first, second]


def test_the_newest_version_is_listed_and_the_others_are_found_by_number_and_id():
    first, other = stored(), stored("other")
    second = revise(first, answered(first, "No."))
    assert [d for d in datasets() if not d.preset] == [second, other]
    assert find("talk") == find("talk@2") == find(second.id) == second
    assert find("talk@1") == find(first.id) == first
    assert (first.reference, second.label) == ("talk@1", "talk, version 2")
    assert find("pocket-tutor@1") == find("pocket-tutor")


def test_a_version_that_is_not_there_is_told_with_those_that_are():
    revise(first := stored(), answered(first, "No."))
    with pytest.raises(DataError, match=r"^talk has no version '7'; it has 1, 2\.$"):
        find("talk@7")
    with pytest.raises(DataError, match=r"^There is no dataset called 'nothing@1'\. Known: "):
        find("nothing@1")


def test_the_same_content_is_no_new_version():
    first = stored()
    assert revise(first, parts(first), "nothing") == first
    second = revise(first, answered(first, "No."))
    assert revise(first, answered(first, "No.")) == revise(second, parts(second)) == second
    third = revise(second, parts(first))  # back to what it was: a version of its own
    assert (third.version, third.sha256) == (3, first.sha256)
    preset = find("pocket-tutor")
    assert revise(preset, parts(preset)) == preset


def test_two_pages_that_save_one_after_the_other_both_keep_their_work():
    first = stored()
    saved = [revise(first, answered(first, answer)) for answer in ("No.", "Yes.")]
    assert [(d.version, d.parent) for d in saved] == [(2, first.id), (3, first.id)]
    assert [d.rows("train")[0].messages[-1]["content"] for d in saved] == ["No.", "Yes."]


@pytest.mark.parametrize("name", ["pocket-tutor", "pocket-tutor-preferences", "red-team"])
def test_a_preset_s_revision_is_a_dataset_of_its_own(name):
    preset = find(name)
    rows = parts(preset)
    made = revise(preset, {**rows, "train": rows["train"][1:]}, "1 row dropped")
    assert (made.name, made.version, made.parent, made.preset) == (f"{name}-2", 1, name, False)
    assert (made.kind, made.source, made.train) == (preset.kind, f"a revision of {name}", preset.train - 1)
    assert contents(made.rows("train")) == contents(rows["train"][1:])
    assert (made.checks(), made.facts()) == (preset.checks(), preset.facts())
    assert find(name) == preset
    again = revise(made, {**rows, "train": rows["train"][2:]})
    assert (again.reference, again.checks()) == (f"{name}-2@2", preset.checks())


def test_a_revision_of_what_was_deleted_meanwhile_is_not_lost():
    first = stored()
    rows = answered(first, "No.")
    delete(first)
    other = stored()
    made = revise(first, rows)
    assert (made.name, made.version, made.parent) == ("talk-2", 1, first.id)
    assert versions(made) == [made]
    assert find("talk") == other


def test_what_would_leave_nothing_to_train_on_is_refused():
    first = stored()
    with pytest.raises(DataError, match=r"^No row would be left to train on; keep at least one\.$"):
        revise(first, {**parts(first), "train": []})
    assert versions(first) == [first]


# ---- the split


def test_untouched_rows_stay_where_they_were_whatever_their_hash_would_say():
    first = stored(count=300)
    rows = parts(first)
    second = revise(first, {**rows, "train": rows["train"][::2]})
    assert contents(second.rows("heldout")) == contents(rows["heldout"])
    assert contents(second.rows("train")) == contents(rows["train"][::2])


def test_an_edited_question_does_not_move_a_held_out_row_into_training():
    first = stored(count=300)
    rows = parts(first)
    rows["heldout"] = [row(f"Something else {n}?") for n, _ in enumerate(rows["heldout"])]
    assert contents(revise(first, rows).rows("heldout")) == contents(rows["heldout"])


def test_a_training_row_that_now_asks_a_held_out_question_is_held_out():
    first = stored()
    rows = parts(first)
    question = rows["heldout"][0].asked[0]["content"]
    rows["train"][0] = row(f"  {question.upper()} ", "Another answer.")
    second = revise(first, rows)
    assert (second.train, second.heldout) == (35, 5)
    sides = [{opening(r) for r in second.rows(split)} for split in ("train", "heldout")]
    assert sides[0].isdisjoint(sides[1])


def test_new_rows_are_split_by_their_questions_and_known_questions_keep_their_side():
    first = stored()
    rows = parts(first)
    trained, held = rows["train"][0].asked[0]["content"], rows["heldout"][0].asked[0]["content"]
    new = [row(trained, "More."), row(held, "More."), *(row(f"New {n}?") for n in range(100))]
    train, heldout = library.split_by_prompt(new[2:])
    second = revise(first, {**rows, "new": new})
    assert contents(second.rows("train")) == contents([*rows["train"], new[0], *train])
    assert contents(second.rows("heldout")) == contents([*rows["heldout"], new[1], *heldout])
    assert len(heldout) == 10


# ---- every kind


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sft", lambda n: replace(row(f"Question {n}?"), row=n, notes={"from": "a vote"})),
        ("preference", lambda n: Pair(n, asked(f"Question {n}?"), "Yes.", "No.", 0.5 + n / 100, {"margin": n / 2})),
        ("prompts", lambda n: Prompt(n, asked(f"Question {n}?"), {"topic": "sums"})),
        ("thumbs", lambda n: Thumb(n, asked(f"Question {n}?"), "Yes.", n % 2 == 0, {"from": "a vote"})),
    ],
)
def test_rows_of_every_kind_come_back_whole_from_every_version(kind, make):
    rows = [make(n) for n in range(1, 41)]
    first = library.make("mine", kind, rows[:30], "a test", {}, heldout=rows[30:])
    second = revise(first, {**parts(first), "new": rows[:1], "train": first.rows("train")[1:]})
    assert first.rows("train") == rows[:30]
    assert first.rows("heldout") == rows[30:]  # counted on from the others
    assert second.rows("train") == [replace(r, row=n) for n, r in enumerate([*rows[1:30], rows[0]], 1)]
    assert find("mine", "prompts") == second


# ---- rename


def test_all_versions_follow_a_new_name_and_are_found_by_their_ids():
    first = stored()
    second = revise(first, answered(first, "No."))
    renamed = rename(first, "My talk!")
    assert (renamed.id, renamed.name, renamed.version) == (first.id, "My-talk", 1)
    assert [(d.id, d.reference) for d in versions(first)] == [(first.id, "My-talk@1"), (second.id, "My-talk@2")]
    assert find("My-talk").sha256 == second.sha256
    with pytest.raises(DataError, match="There is no dataset called 'talk'"):
        find("talk")
    assert rename(second, "My talk!").name == "My-talk"
    assert library.make("talk", "sft", [row("Why?")], "a test", {}).name == "talk"


@pytest.mark.parametrize("name", ["other", "pocket-tutor", "red-team", " other! "])
def test_a_name_that_is_taken_is_refused(name):
    first, _ = stored(), stored("other")
    with pytest.raises(DataError, match=r"^Another dataset is called [\w-]+ already; choose another name\.$"):
        rename(first, name)
    assert find("talk") == first


def test_a_name_needs_a_letter_and_presets_keep_theirs():
    first = stored()
    with pytest.raises(DataError, match=r"^A name needs at least one letter or digit\.$"):
        rename(first, " .. ")
    with pytest.raises(DataError, match=r"^A dataset that comes with the app can't be renamed\.$"):
        rename(find("pocket-tutor"), "mine")


def test_a_renaming_that_is_cut_short_leaves_the_old_name(monkeypatch):
    first = stored()
    second = revise(first, answered(first, "No."))
    amend = library._amend

    def cut(dataset, **facts):
        if dataset.id == second.id:
            raise KeyboardInterrupt
        amend(dataset, **facts)

    monkeypatch.setattr(library, "_amend", cut)
    with pytest.raises(KeyboardInterrupt):
        rename(first, "other")
    assert [d.reference for d in datasets() if not d.preset] == ["talk@2"]
    assert find("talk") == second


def test_an_id_is_never_hidden_by_a_name():
    first, other = stored(), stored("other")
    rename(first, other.id)
    assert find(other.id) == other


# ---- delete


def test_one_version_is_deleted_and_its_number_is_not_given_again():
    first = stored()
    second = revise(first, answered(first, "No."))
    delete(second)
    assert find("talk") == versions(first)[-1]
    assert find("talk").id == first.id
    third = revise(first, answered(first, "Yes."))
    assert (third.version, third.parent) == (3, first.id)
    delete(first)
    assert [d.reference for d in datasets() if not d.preset] == ["talk@3"]
    assert revise(third, answered(third, "Perhaps.")).version == 4


def test_all_versions_are_deleted_together(home):
    first, other = stored(), stored("other")
    revise(first, answered(first, "No."))
    delete(*versions(first))
    delete(first)  # another page was quicker
    assert [d for d in datasets() if not d.preset] == [other]
    assert sorted(path.name for path in (home / "datasets").iterdir()) == [".lock", other.id]
    assert stored().version == 1


def test_a_deletion_that_is_cut_short_leaves_no_half_dataset(home, monkeypatch):
    first = stored()
    with monkeypatch.context() as patch:
        patch.setattr(library.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            delete(first)
    assert [d for d in datasets() if not d.preset] == []
    stored("other")
    assert not list((home / "datasets").glob("*.part"))


# ---- runs


def asks_for(dataset: Dataset, name: str, state: str) -> runs.Run:
    made = runs.create(name, {"stage": "sft", "dataset": inputs.known_dataset(dataset)})
    made.update(state=state)
    return made


def test_runs_are_known_by_the_very_version_that_they_used():
    first = stored()
    second = revise(first, answered(first, "No."))
    old, new = asks_for(first, "old", "finished"), asks_for(second, "new", "finished")
    rename(first, "renamed")
    assert inputs.used_by(find("renamed@1")) == [old]
    assert inputs.used_by(find("renamed")) == [new]
    assert inputs.used_by(find("pocket-tutor")) == []
    assert (inputs.dataset_of(old).id, inputs.dataset_of(new).id) == (first.id, second.id)
    assert inputs.dataset_of(old).rows("train") == first.rows("train")


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("queued", "tutor is queued and needs talk, version 1; stop and delete that run first."),
        ("stopped", "tutor (stopped) may go on with talk, version 1; delete that run first."),
        ("failed", "tutor (failed) may go on with talk, version 1; delete that run first."),
        (
            "running",
            "tutor (interrupted) may go on with talk, version 1; delete that run first.",
        ),  # its process is gone
    ],
)
def test_what_a_run_needs_is_not_deleted(state, sentence):
    first = stored()
    second = revise(first, answered(first, "No."))
    needing = asks_for(first, "tutor", state)
    with pytest.raises(DataError) as refused:
        inputs.delete_datasets(versions(first))
    assert str(refused.value) == sentence
    assert versions(first) == [first, second]
    inputs.delete_datasets([second])
    needing.update(state="finished")
    inputs.delete_datasets([first])
    assert [d for d in datasets() if not d.preset] == []


def test_a_run_whose_dataset_is_gone_says_so():
    first = stored()
    run = asks_for(first, "tutor", "finished")
    inputs.delete_datasets([first])
    with pytest.raises(StageError, match=r"^talk, which this run needs, has been deleted; start a new run\.$"):
        inputs.dataset_of(run)
    assert run.request["dataset"]["sha256"] == first.sha256


# ---- damage, company, size


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "meta.json").write_text("{cut"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "train.jsonl").unlink(),
        *(
            lambda folder, facts=facts: (folder / "meta.json").write_text(
                json.dumps(json.loads((folder / "meta.json").read_text()) | facts)
            )
            for facts in (
                {"kind": "songs"},
                {"kind": []},
                {"name": 5},
                {"version": "2"},
                {"created": None},
                {"train": {}},
            )
        ),
    ],
)
def test_a_damaged_version_is_left_out_and_the_others_are_found(damage):
    first, other = stored(), stored("other")
    second = revise(first, answered(first, "No."))
    damage(second.folder)
    assert [d for d in datasets() if not d.preset] == [first, other]
    assert versions(first) == [first]


def test_rows_that_can_not_be_read_are_told_in_words():
    first = stored()
    for text in ("{cut\n", "[]\n", '{"prompt": "a"}\n', "\xff"):
        (first.folder / "train.jsonl").write_text(text, encoding="latin-1")
        with pytest.raises(
            DataError, match=r"^talk, version 1 can't be read: its train\.jsonl is missing or damaged\.$"
        ):
            first.rows("train")


def test_pages_that_store_at_once_get_names_and_numbers_of_their_own():
    first = stored()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: revise(first, answered(first, f"{n}.")), range(8)))
        others = list(pool.map(lambda n: library.make("other", "sft", [row(f"{n}?")], "a test", {"n": n}), range(8)))
    assert sorted(d.version for d in made) == list(range(2, 10))
    assert sorted(d.name for d in others) == ["other", *(f"other-{n}" for n in range(2, 9))]


def test_two_processes_store_at_once(home):
    program = (
        "from playground.data import library; from playground.data.shapes import Row\n"
        "rows = [Row(1, [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}])]\n"
        "for n in range(5): library.make('same', 'sft', rows, 'a test', {'by': %d, 'n': n})"
    )
    command = [sys.executable, "-c"]
    started = [subprocess.Popen([*command, program % which], cwd=ROOT) for which in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    names = [d.name for d in datasets() if not d.preset]
    assert sorted(names) == sorted(["same", *(f"same-{n}" for n in range(2, 11))])


def test_many_large_datasets_are_listed_at_once():
    rows = [row(f"Question {n}?", "So it is. " * 20) for n in range(5000)]
    for n in range(20):
        library.make("large", "sft", rows, "a test", {"n": n})
    datasets()
    started = time.process_time()
    assert len(datasets()) == 25
    assert time.process_time() - started < 0.1  # no file of rows is read


def test_a_version_made_of_an_older_one_says_so():
    first = stored()
    second = revise(first, answered(first, "No."))
    third = revise(first, answered(first, "Perhaps."), "1 row edited")
    assert (second.note, third.note, third.version) == ("", "from version 1: 1 row edited", 3)
