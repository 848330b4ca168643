"""The constitution stage on a tiny model: rows from answers, critiques and revisions; stopped, killed, gone on with."""

import json
import os
import signal
import time

import pytest

from playground.data import constitutions, library
from playground.models import catalog
from playground.runs import queue
from playground.runs import run as runs
from playground.settings import SettingError
from playground.stages import constitution, critique, harvest, launch, writing
from playground.stages.constitution import ConstitutionSettings
from playground.stages.inputs import StageError

START = queue.start_worker


@pytest.fixture
def prompts():
    lines = [json.dumps({"prompt": f"hello number {i}", "completion": "the end"}) for i in range(12)]
    path = runs.runs_root().parent / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return library.import_file(path, "prompts")[0]


@pytest.fixture
def ask(tiny_model, prompts, monkeypatch):
    """Queues a run without waking the worker."""
    monkeypatch.setattr(queue, "start_worker", lambda: None)

    def make(**values):
        base = catalog.prepare(str(tiny_model))
        small = {"num_prompts": 6, "max_new_tokens": 8, "critique_tokens": 8, "shots": 0, "batch_size": 2}
        return launch.launch("constitution", base, prompts, {**small, "max_length": 512, **values}, "revise")

    return make


def work(run) -> None:
    constitution.main(ConstitutionSettings.parse(run.request["settings"]), run)


def test_a_run_records_its_constitution_whole(ask):
    kept = ask().request["constitution"]
    version = constitutions.find("harmless-and-candid")
    assert (kept["name"], kept["version"], kept["sha256"]) == (version.name, version.number, version.sha256)
    assert len(kept["principles"]) == len(version.constitution.principles)


@pytest.mark.parametrize("rounds", [1, 2])
def test_every_prompt_gets_an_answer_and_all_rounds(ask, rounds):
    run = ask(rounds=rounds)
    work(run)
    rows = harvest.rows(run)
    assert [row["index"] for row in rows] == list(range(6))
    titles = {p["title"] for p in run.request["constitution"]["principles"]}
    for row in rows:
        assert len(row["steps"]) == rounds
        assert {step["principle"] for step in row["steps"]} <= titles
        assert {"critique", "revision", "reason", "critique_request", "revision_request"} <= set(row["steps"][0])
        passed = [step["revision"] for step in row["steps"] if step["reason"] is None]
        assert row["reason"] is None if passed else row["reason"]
        assert not passed or row["revision"] == passed[-1]
    receipt = run.receipt()
    assert receipt["rows"] == 6 and receipt["kept"] + sum(receipt["dropped"].values()) == 6
    assert "%" in constitution.outcome(run)


SAID = {
    "answer": "Here is how it goes: {} and then some.",
    "critique": "It tells what number {} should not hear.",
    "revision": "Better not. Number {} could read a book, and turn the pages slowly.",
}


@pytest.fixture
def spoken(monkeypatch):
    """The model's words are ours: what was asked last says which turn it is."""

    def write(self, requests, tokens, temperature, seeds, tell=lambda share: None):
        turns = []
        for request in requests:
            last, number = request[-1]["content"], request[0]["content"].split()[-1]
            kind = "critique" if last.startswith(critique.CRITICISE) else "answer"
            kind = "revision" if last.startswith(critique.REVISE) else kind
            turns.append((SAID[kind].format(number), True))
        return turns

    monkeypatch.setattr(writing.Writer, "write", write)


def test_what_passes_the_filters_becomes_two_datasets_with_all_that_was_said(ask, spoken):
    run = ask()
    work(run)
    receipt = run.receipt()
    assert (receipt["rows"], receipt["kept"], receipt["dropped"], receipt["rows_left_out"]) == (6, 6, {}, 0)
    rows = library.find(receipt["datasets"]["sft"]["id"])
    pairs = library.find(receipt["datasets"]["preference"]["id"])
    assert (rows.kind, pairs.kind, rows.origin) == ("sft", "preference", pairs.origin)
    assert rows.origin["constitution"]["sha256"] == run.request["constitution"]["sha256"]
    row, pair = rows.rows("train")[0], pairs.rows("train")[0]
    number = row.messages[0]["content"].split()[-1]
    assert row.messages[-1]["content"] == pair.chosen == SAID["revision"].format(number)
    assert pair.rejected == row.notes["answer"] == SAID["answer"].format(number)
    (step,) = row.notes["steps"]
    assert step["critique"] == SAID["critique"].format(number)
    assert step["principle"] in {p["title"] for p in run.request["constitution"]["principles"]}


def test_a_second_round_that_only_repeats_keeps_the_first_one_s_revision(ask, spoken):
    run = ask(rounds=2)
    work(run)
    for row in harvest.rows(run):
        assert [step["reason"] for step in row["steps"]] == [None, "unchanged"]
        assert row["reason"] is None and row["revision"] == row["steps"][0]["revision"]
        assert row["steps"][0]["principle"] != row["steps"][1]["principle"]


def test_rows_that_a_filter_drops_are_counted_by_reason_and_nothing_is_kept_of_them(ask, spoken, monkeypatch):
    monkeypatch.setitem(SAID, "revision", SAID["critique"])
    run = ask()
    work(run)
    assert run.receipt()["dropped"] == {"echo": 6} and run.receipt()["datasets"] == {}
    assert "dropped: 6 echo" in constitution.outcome(run) and "Nothing was kept" in constitution.outcome(run)


def test_a_run_whose_only_accepted_row_is_its_answer_ends_well(ask, spoken, monkeypatch):
    monkeypatch.setitem(SAID, "revision", SAID["answer"])
    run = ask()
    work(run)
    harvest.decide(run, 0, "accept")
    work(run)
    assert set(run.receipt()["datasets"]) == {"sft"} and run.receipt()["kept"] == 1


def test_stopped_and_gone_on_with_gives_the_same_rows(ask, monkeypatch):
    whole = ask()
    work(whole)
    cut = ask()
    plain, written = harvest.append, []

    def append(run, rows, name=harvest.ROWS):
        plain(run, rows, name)
        written.append(run)
        run.request_stop()

    monkeypatch.setattr(harvest, "append", append)
    work(cut)
    assert len(harvest.rows(cut)) == 2
    monkeypatch.setattr(harvest, "append", plain)
    before = (cut.folder / "rows.jsonl").read_text(encoding="utf-8")
    (cut.folder / "stop").unlink()
    work(cut)
    after = (cut.folder / "rows.jsonl").read_text(encoding="utf-8")
    assert after.startswith(before)
    assert harvest.rows(cut) == harvest.rows(whole)


def test_rows_do_not_depend_on_the_batch_they_are_in(ask):
    one, many = ask(batch_size=1), ask(batch_size=6)
    work(one)
    work(many)
    assert [r["answer"] for r in harvest.rows(one)] == [r["answer"] for r in harvest.rows(many)]


def test_a_killed_run_repeats_no_finished_row(ask, monkeypatch):
    run = ask(num_prompts=12, batch_size=1, max_new_tokens=24, critique_tokens=24, rounds=2)
    monkeypatch.setattr(queue, "start_worker", START)
    queue.start_worker()
    _wait(lambda: len(harvest.rows(run)) >= 2)
    os.kill(run.status().pid, signal.SIGKILL)
    _wait(lambda: not run.status().active)
    assert run.status().state == "interrupted"
    before = harvest.rows(run)
    assert 2 <= len(before) < 11
    run.requeue()
    queue.start_worker()
    _wait(lambda: not run.status().active)
    assert run.status().state == "finished", run.status().message
    rows = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines() if line.strip()]
    assert len(rows) == len({row["index"] for row in rows}) == 11
    assert rows[: len(before)] == before


def _wait(holds, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.05)


def test_a_run_can_be_written_by_a_trained_checkpoint(ask, tiny_model, monkeypatch):
    from playground.stages import sft

    base = catalog.prepare(str(tiny_model))
    monkeypatch.setattr(queue, "start_worker", lambda: None)
    data = library.datasets()[0]
    parent = launch.launch("sft", base, data, {"max_steps": 2, "max_length": 512, "learning_rate": 0.01}, "first")
    sft.main(sft.Settings.parse(parent.request["settings"]), parent)
    parent.update(state="finished")
    prompts = next(d for d in library.datasets() if d.name == "prompts")
    values = {"num_prompts": 2, "max_new_tokens": 8, "critique_tokens": 8, "shots": 0, "max_length": 512}
    plain = ask(num_prompts=2)
    tuned = launch.launch("constitution", base, prompts, values, "tuned", None, parent)
    work(plain)
    work(tuned)
    assert tuned.request["parent"]["id"] == parent.id
    assert [r["answer"] for r in harvest.rows(plain)] != [r["answer"] for r in harvest.rows(tuned)]


def test_what_can_not_start_is_one_sentence(ask):
    with pytest.raises(ValueError, match="no-such"):
        ask(constitution="no-such")
    with pytest.raises(SettingError, match="longest request"):
        ask(max_length=64)
    with pytest.raises(SettingError, match="at most 4"):
        ask(rounds=5)


def test_data_are_not_continued(ask, tiny_model, prompts):
    run = ask()
    with pytest.raises(SettingError, match="has no weights"):
        launch.launch("constitution", catalog.prepare(str(tiny_model)), prompts, {}, "x", None, run)


def test_a_changed_dataset_is_noticed(ask, prompts):
    run = ask()
    library.delete(prompts)
    with pytest.raises((StageError, ValueError), match=r"prompts|dataset"):
        work(run)
