"""The command line: real processes where the process matters, main() elsewhere."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from playground import __main__ as command
from playground import data_verbs, verbs
from playground.chat import resident
from playground.data import library
from playground.data.readers import RawRow
from playground.data.report import examine
from playground.data.shapes import Reading
from playground.models import catalog
from playground.runs import run as runs
from playground.stages import inputs, launch
from playground.stages.sft import SFTSettings

ROOT = Path(__file__).resolve().parent.parent
VERBS = [
    "models",
    "settings",
    "data",
    "constitution",
    "train",
    "recipe",
    "chat",
    "evaluate",
    "score",
    "runs",
    "stop",
    "resume",
]
ROWS = [{"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."} for i in range(40)]
PAIRS = [
    {"prompt": f"What is {i} + {i}?", "chosen": f"It is {2 * i}.", "rejected": f"No idea, {i}."} for i in range(40)
]
QUICK = ["max_steps=2", "per_device_train_batch_size=4", "max_length=64", "lora_r=4", "probe_tokens=8"]


@pytest.fixture
def cli(capsys, monkeypatch):
    """main(argv) → (exit code, standard output, standard error)."""
    monkeypatch.setattr(verbs.show, "last", "")

    def run(*argv):
        capsys.readouterr()
        code = command.main([str(part) for part in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def document(cli):
    """main(argv + --json) → the one JSON document that it prints."""

    def run(*argv):
        code, out, err = cli(*argv, "--json")
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refused(cli):
    """main(argv) → the one line that it ends with."""

    def run(*argv):
        code, out, err = cli(*argv)
        assert (code, out) == (1, "")
        lines = err.splitlines()
        assert lines[-1].startswith("error: ")
        assert "Traceback" not in err
        return lines[-1].removeprefix("error: ")

    return run


def process(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "playground", *map(str, argv)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def data_file(folder: Path, rows=ROWS, name: str = "sums") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def queued(tiny_model, monkeypatch):
    """A queued run that no worker takes."""
    monkeypatch.setattr(launch.queue, "start_worker", lambda: None)
    raw = [RawRow(i, row, None) for i, row in enumerate(ROWS)]
    dataset = library.store(examine(raw), "sums", "a test")
    return launch.launch("sft", catalog.prepare(str(tiny_model)), dataset, {}, "waiting")


@pytest.fixture(scope="module")
def trained_home(tiny_model, tmp_path_factory):
    """A home in which `train` ran once, for real: the detached worker, two steps, a dataset with checks."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(home))
        arguments = [part for pair in QUICK for part in ("--set", pair)]
        started = process(
            *("train", "sft", "--data", data_file(home), "--base", tiny_model, "--name", "tutor", *arguments, "--json")
        )
        out, err = started.communicate(timeout=240)
        (home / "out.json").write_text(out)
        (home / "err.txt").write_text(err)
        (library.find("sums").folder / "checks.yaml").write_text("max_words: 60\nlacks: zebra\n")
    return home


@pytest.fixture
def trained(trained_home, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_HOME", str(trained_home))
    return runs.find("tutor")


@pytest.fixture(scope="module")
def preferring_home(trained_home, tmp_path_factory):
    """A copy of that home in which a reward and a DPO run went on from the SFT run, for real, on pairs."""
    home = tmp_path_factory.mktemp("preferring") / "home"
    shutil.copytree(trained_home, home)
    pairs = data_file(home, PAIRS, "pairs")
    quick = [part for pair in QUICK[:3] for part in ("--set", pair)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(home))
        for stage, name, source, more in (
            ("reward", "judge", pairs, ["--set", "half=first"]),
            ("dpo", "polite", "pairs", ["--set", "probe_tokens=8", "--set", "half=second"]),
        ):
            arguments = ("--data", source, "--from", "tutor", "--name", name, *quick, *more, "--json")
            out, err = process("train", stage, *arguments).communicate(timeout=240)
            (home / f"{name}.json").write_text(out)
            (home / f"{name}.txt").write_text(err)
    return home


@pytest.fixture
def preferring(preferring_home, monkeypatch):
    """That home, with nothing loaded; answers are short."""
    monkeypatch.setenv("PLAYGROUND_HOME", str(preferring_home))
    monkeypatch.setattr(resident, "_loaded", None)
    monkeypatch.setattr("playground.stages.evaluate.MAX_NEW_TOKENS", 8)
    return preferring_home


# ---- every verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([verb, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--json" in out
    module = data_verbs if verb == "data" else verbs
    assert module.__dict__[verb].__doc__.split(".")[0].split(",")[0] in " ".join(out.split())


def test_the_list_of_verbs_is_complete():
    actions = command.parser()._subparsers._group_actions[0]
    assert list(actions.choices) == VERBS


def test_models_are_listed_with_the_embedded_one_first(document):
    listed = document("models")
    assert (listed[0]["ref"], set(listed[0])) == ("embedded", {"ref", "title", "ready"})
    assert len(listed) > 3


def test_a_models_own_sentence_comes_out_where_it_can_not_be_fetched(refused, document, tiny_model):
    assert "is neither 'embedded', a folder" in refused("models", "--fetch", "no such model")
    assert document("models", "--fetch", tiny_model)["folder"] == str(tiny_model)


def test_settings_tell_what_set_accepts(document):
    listed = document("settings", "sft")
    assert [entry["name"] for entry in listed] == list(SFTSettings.specs())
    assert all(entry["label"] and entry["help"] for entry in listed)


# ---- data


def test_a_check_prints_one_json_document_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n{broken\n" + json.dumps(ROWS[1]) + "\n")
    checked = process("data", "check", path, "--json")
    out, err = checked.communicate(timeout=60)
    assert (checked.returncode, err) == (0, "")
    found = json.loads(out)
    assert {key: found[key] for key in ("kind", "shape", "rows", "kept")} == {
        "kind": "sft",
        "shape": "prompt-completion",
        "rows": 3,
        "kept": 2,
    }
    assert [drop["row"] for drop in found["dropped"]] == [2]
    assert found["dropped"][0]["reason"].startswith("not valid JSON")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b'[{"prompt": "Hi", "compl',
        "prompt,completion\nWie geht’s,gut\n".encode("cp1252"),
        b"[" * 1000,
        b"PAR1" + bytes(range(256)),
        b"prompt,prompt\n1,2\n",
        b"PK\x03\x04" + b"\0" * 100,
    ],
)
def test_a_malformed_file_is_one_line_and_exit_code_1(cli, tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    for options in ([], ["--json"]):
        code, out, err = cli("data", "check", path, *options)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert err.startswith("error: mine.csv: ")


def test_a_malformed_file_leaves_no_traceback_in_a_real_process_either(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text('[{"prompt": "Hi", "compl')
    checked = process("data", "check", path, "--json")
    out, err = checked.communicate(timeout=60)
    assert (checked.returncode, out, len(err.splitlines())) == (1, "", 1)


def test_a_file_without_a_usable_column_says_what_is_needed(refused, tmp_path):
    path = tmp_path / "weather.csv"
    path.write_text("day,rain\nMonday,3\n")
    assert refused("data", "check", path) == (
        "weather.csv: No row can be used: no columns of a known shape (found: day, rain) (row 1). Each row needs "
        "messages, or prompt and completion, or instruction and output, or conversations."
    )


def test_a_missing_file_is_named(refused):
    assert refused("data", "check", "nowhere.jsonl") == "There is no file nowhere.jsonl."
    assert refused("data", "check") == "data check needs a file."


def test_stored_datasets_are_listed_with_the_runs_that_used_them(document, queued):
    listed = {entry["name"]: entry for entry in document("data", "list")}
    assert {"pocket-tutor", "sums"} <= set(listed)
    found = library.find("sums")
    assert listed["sums"] == {
        "name": "sums", "kind": "sft", "version": 1, "train": 36, "heldout": 4, "sha256": found.sha256,
        "source": "a test", "used_by": ["waiting"],
    }  # fmt: skip
    library.revise(found, {"train": found.rows("train")[1:], "heldout": found.rows("heldout")})
    listed = {entry["name"]: entry for entry in document("data", "list")}
    assert [listed["sums"][name] for name in ("version", "train", "used_by")] == [2, 35, ["waiting"]]


def test_a_dataset_is_exported_whole_or_in_part(document, refused, queued, tmp_path):
    path = tmp_path / "out.jsonl"
    assert document("data", "export", "sums", path) == {"dataset": "sums@1", "file": str(path), "rows": 40}
    assert len(path.read_text(encoding="utf-8").splitlines()) == 40
    assert document("data", "export", "sums@1", path, "--split", "heldout")["rows"] == 4
    checked = document("data", "check", path)
    assert (checked["kind"], checked["kept"], checked["dropped"]) == ("sft", 4, [])
    assert refused("data", "export", "nothing", path).startswith("There is no dataset called 'nothing'. Known: ")
    assert refused("data", "export", "sums", tmp_path / "no" / "out.jsonl") == f"There is no folder {tmp_path / 'no'}."


def test_a_dataset_is_renamed_and_the_run_still_finds_it(document, refused, queued):
    assert document("data", "rename", "sums", "my sums!") == {"id": library.find("my-sums").id, "name": "my-sums"}
    assert inputs.dataset_of(queued).name == "my-sums"
    assert refused("data", "rename", "my-sums", "pocket-tutor") == (
        "Another dataset is called pocket-tutor already; choose another name."
    )
    assert refused("data", "rename", "red-team", "mine") == "A dataset that comes with the app can't be renamed."


def test_a_dataset_is_deleted_once_no_run_needs_it(document, refused, queued):
    first = library.find("sums")
    library.revise(first, {"train": first.rows("train")[1:], "heldout": first.rows("heldout")})
    sentence = "waiting is queued and needs sums, version 1; stop and delete that run first."
    assert refused("data", "delete", "sums") == sentence
    assert document("data", "delete", "sums@2") == {"deleted": ["sums@2"]}
    assert library.find("sums") == library.find(first.id)
    queued.request_stop()
    queued.delete()
    library.revise(first, {"train": first.rows("train")[1:], "heldout": first.rows("heldout")})
    assert document("data", "delete", "sums") == {"deleted": ["sums@1", "sums@3"]}
    assert refused("data", "delete", "sums").startswith("There is no dataset called 'sums'.")
    assert refused("data", "delete", "red-team") == "A dataset that comes with the app can't be deleted."


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["check", "a", "b"], "data check needs a file; got 2."),
        (["list", "a"], "data list needs nothing more; got 1."),
        (["export", "sums"], "data export needs a name and a file; got 1."),
        (["rename"], "data rename needs a name and a new name."),
        (["delete"], "data delete needs a name."),
        (["list", "--pairs-by", "all"], "--pairs-by goes with data check and data keep."),
        (["list", "--map", "a=b"], "--map goes with data check and data keep."),
        (["check", "a", "--split", "all"], "--split goes with data export."),
    ],
)
def test_what_a_data_verb_needs_is_one_line(refused, argv, sentence):
    assert refused("data", *argv) == sentence


def test_the_options_of_a_check_say_how_the_file_is_read(document, refused, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(data_verbs, "examine", lambda raw, reading: read.append(reading) or examine(raw))
    path = data_file(tmp_path)
    document("data", "check", path)
    document(
        *("data", "check", path, "--kind", "preference", "--map", "prompt=question", "--map", "chosen=a=b"),
        *("--pairs-by", "adjacent", "--min-margin", "0.5", "--better", "safe", "--good-from", "4"),
    )
    columns = {"prompt": "question", "chosen": "a=b"}
    assert read == [Reading(), Reading("preference", columns, "adjacent", 0.5, "safe", 4.0)]
    assert refused("data", "check", path, "--map", "prompt") == (
        "--map takes FIELD=COLUMN, such as prompt=question; got 'prompt'."
    )


MIXED = [*PAIRS[:3], *ROWS[:2], {"prompt": "What?", "chosen": "Same.", "rejected": "Same."}]


def test_a_check_tells_the_guess_the_other_kinds_and_what_to_know(document, cli, tmp_path):
    path = data_file(tmp_path, MIXED, "mixed")
    found = document("data", "check", path)
    assert (found["kind"], found["kept"], found["others"]) == ("preference", 3, {"sft": 2})
    assert found["dropped"] == [{"row": 6, "reason": "both answers are the same"}]
    assert found["guess"].startswith("4 preference pairs in prompt, chosen, rejected shape and 2 conversations in ")
    assert all(set(finding) == {"code", "sentence", "rows", "severity"} for finding in found["findings"])
    code, out, _ = cli("data", "check", path)
    assert (code, out.splitlines()[0]) == (0, f"{found['guess']}.")
    assert "1 dropped: both answers are the same (row 6)." in out
    assert "Not of this kind, and left for another dataset: 2 conversations." in out


def test_a_file_is_kept_as_its_options_say_in_any_order(document, cli, refused, tmp_path):
    odd = data_file(tmp_path, [{"Frage": f"Why {i}?", "gut": "Because.", "schlecht": "No."} for i in range(20)], "odd")
    mapping = ("--map", "prompt=Frage", "--map", "chosen=gut", "--map", "rejected=schlecht")
    kept = document("data", "keep", *mapping, odd, "--name", "whys")
    assert (kept["name"], kept["kind"], kept["train"] + kept["heldout"]) == ("whys", "preference", 20)
    assert library.find("whys").rows("train")[0].rejected == "No."
    assert refused("data", "check", odd, "--name", "x") == "--name goes with data keep."
    with pytest.raises(SystemExit) as ended:
        cli("data", "check", odd, "--whatever")
    assert ended.value.code == 2


def test_a_check_without_a_usable_row_is_a_document_too(cli, tmp_path):
    path = data_file(tmp_path, [{"x": 1}, {"x": 2}], "useless")
    code, out, _ = cli("data", "check", path, "--json")
    assert (code, [drop["row"] for drop in json.loads(out)["dropped"]]) == (1, [1, 2])
    assert cli("data", "check", path)[:2] == (1, "")


def test_a_reader_that_has_enough_ends_a_check_without_a_word(tmp_path):
    path = data_file(tmp_path, MIXED, "mixed")
    command = f"{sys.executable} -m playground data check {path} | true"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--map", "foo=prompt"], "--map knows no field 'foo'; the fields are chosen, completion, label, margin, "
         "messages, prompt, rejected, system."),
        (["--map", "prompt=a", "--map", "prompt=b"], "--map names a column for 'prompt' twice."),
        (["--min-margin", "nan"], "--min-margin must be a number, got nan."),
        (["--min-margin", "-3"], "--min-margin must be 0 or more, got -3."),
        (["--good-from", "inf"], "--good-from must be a number, got inf."),
    ],
)  # fmt: skip
def test_options_that_can_not_be_meant_are_told(refused, tmp_path, options, sentence):
    assert refused("data", "check", data_file(tmp_path, MIXED, "mixed"), *options) == sentence


def test_a_check_takes_the_kind_and_the_columns_that_are_asked_for(document, tmp_path):
    path = data_file(tmp_path, MIXED, "mixed")
    assert document("data", "check", path, "--kind", "sft")["kept"] == 2
    odd = data_file(tmp_path, [{"Frage": "Why?", "gut": "Because.", "schlecht": "No."}], "odd")
    mapping = ("--map", "prompt=Frage", "--map", "chosen=gut", "--map", "rejected=schlecht")
    found = document("data", "check", odd, *mapping)
    assert (found["kind"], found["kept"]) == ("preference", 1)


# ---- training, for real


def test_train_goes_through_the_worker_and_prints_what_came_of_it(trained_home, trained):
    found = json.loads((trained_home / "out.json").read_text())
    assert set(found) >= {"run", "state", "metrics"}
    assert (found["run"], found["state"], found["metrics"]["step"]) == (trained.id, "finished", 2)
    assert found["metrics"] == trained.receipt()["metrics"]
    assert (trained.adapter / "adapter_model.safetensors").exists()
    assert trained.status().pid not in (None, os.getpid())
    err = (trained_home / "err.txt").read_text()
    assert "sums: 40 of 40 rows kept" in err
    assert f"tutor ({trained.id})" in err


def test_set_reaches_the_run_as_typed_values(trained):
    settings = trained.request["settings"]
    assert (settings["max_steps"], settings["per_device_train_batch_size"], settings["lora_r"]) == (2, 4, 4)
    assert settings["learning_rate"] == SFTSettings().learning_rate


def test_runs_are_listed(document, trained):
    (listed,) = document("runs")
    assert {key: listed[key] for key in ("run", "name", "stage", "data", "state", "step", "total")} == {
        "run": trained.id,
        "name": "tutor",
        "stage": "sft",
        "data": "sums",
        "state": "finished",
        "step": 2,
        "total": 2,
    }


def test_chat_answers_with_base_and_run_side_by_side(document, trained):
    said = document("chat", "--run", "base", "--run", "tutor", "--prompt", "hi", "--max-new-tokens", 8)
    assert [entry["run"] for entry in said] == ["base", "tutor"]
    assert all(isinstance(entry["answer"], str) for entry in said)
    by_id = document("chat", "--run", trained.id, "--prompt", "hi", "--max-new-tokens", 8)
    assert by_id[0]["answer"] == said[1]["answer"]


def test_evaluate_prints_rates_for_a_run_and_for_the_base(document, trained, tiny_model, monkeypatch):
    monkeypatch.setattr("playground.stages.evaluate.MAX_NEW_TOKENS", 8)
    for arguments in (["tutor"], ["base", "--base", tiny_model]):
        found = document("evaluate", *arguments, "--data", "sums")
        assert set(found["checks"]) == {"max_words", "lacks", "all"}
        assert set(found["checks"]["all"]) == {"rate", "low", "high", "n"}
        assert len(found["answers"]) == found["checks"]["all"]["n"] == 4


def test_a_run_whose_base_has_changed_is_not_measured(refused, trained, monkeypatch):
    monkeypatch.setattr(catalog, "fingerprint", lambda folder: "another")
    assert refused("evaluate", "tutor", "--data", "sums") == "tiny has changed since tutor was trained on it."


@pytest.mark.parametrize(("stage", "name", "measured"), [
    ("reward", "judge", {"loss", "eval_accuracy", "eval_n", "score_mean", "score_std"}),
    ("dpo", "polite", {"loss", "eval_rewards/accuracies", "eval_n"}),
])  # fmt: skip
def test_reward_and_dpo_go_on_from_a_run(preferring, stage, name, measured):
    err = (preferring / f"{name}.txt").read_text()
    assert "Traceback" not in err
    found, run, parent = json.loads((preferring / f"{name}.json").read_text()), runs.find(name), runs.find("tutor")
    assert (found["run"], found["state"], found["metrics"]["step"]) == (run.id, "finished", 2)
    assert set(found["metrics"]) >= measured
    assert (run.request["stage"], run.request["dataset"]["name"]) == (stage, "pairs")
    assert (run.request["parent"]["id"], run.request["parent"]["name"]) == (parent.id, "tutor")
    assert run.request["base_identity"] == parent.request["base_identity"]
    assert json.loads((run.adapter / "adapter_config.json").read_text())["r"] == 4  # the parent's, not the default
    assert [library.find("pairs").kind, len([d for d in library.datasets() if not d.preset])] == ["preference", 2]
    assert "UserWarning" not in run.log_tail()


def test_runs_and_settings_know_the_new_stages(preferring, document):
    assert [(entry["name"], entry["stage"]) for entry in document("runs")] == [
        ("tutor", "sft"), ("judge", "reward"), ("polite", "dpo"),
    ]  # fmt: skip
    for stage, own in (("reward", "center_rewards_coefficient"), ("dpo", "beta")):
        assert own in {entry["name"] for entry in document("settings", stage)}


def test_a_dpo_run_chats_and_a_reward_run_does_not(preferring, document, refused):
    said = document("chat", "--run", "tutor", "--run", "polite", "--prompt", "hi", "--max-new-tokens", 4)
    assert [entry["run"] for entry in said] == ["tutor", "polite"]
    sentence = refused("chat", "--run", "judge", "--prompt", "hi")
    assert sentence == "judge is a reward model: it gives scores, not answers. Use it in the Score tab."


# ---- scores


@pytest.fixture
def scored(preferring, document):
    """Scores of these answers to "What is 3 + 3?", by answer."""

    def run(*answers):
        options = [part for answer in answers for part in ("--answer", answer)]
        return {entry["answer"]: entry for entry in document("score", "judge", "--prompt", "What is 3 + 3?", *options)}

    return run


def test_typed_answers_are_scored_and_compared(scored):
    found = scored("It is 6.", "No idea.", "")
    assert list(found) == ["It is 6.", "No idea.", ""]
    for answer, entry in found.items():
        assert set(entry) == {"answer", "score", "percentile", "preferred_over"}
        assert 0 <= entry["percentile"] <= 1
        assert set(entry["preferred_over"]) == set(found) - {answer}
    first, second = found["It is 6."], found["No idea."]
    assert first["preferred_over"]["No idea."] + second["preferred_over"]["It is 6."] == pytest.approx(1)
    assert (first["score"] > second["score"]) == (first["preferred_over"]["No idea."] > 0.5)
    assert scored("It is 6.")["It is 6."]["score"] == pytest.approx(first["score"], abs=1e-4)


def test_without_json_scores_can_be_read_by_a_person(preferring, cli):
    code, out, _ = cli("score", "judge", "--prompt", "What is 3 + 3?", "--answer", "Six.", "--answer", "Seven.")
    assert (code, len(out.splitlines())) == (0, 2)
    assert out.startswith("answer=Six.  score=")
    _, out, _ = cli("score", "judge", "--data", "pairs")
    assert out.splitlines()[0] == "8 answers scored"
    assert out.splitlines()[1].startswith("chosen scores higher: ")


def test_a_dataset_s_held_out_pairs_are_scored_with_an_accuracy(preferring, document, tmp_path):
    found = document("score", "judge", "--data", "pairs", "--out", tmp_path / "scores.csv")
    assert set(found) == {"run", "accuracy", "rows"}
    assert found["run"] == "judge"
    held = library.find("pairs").rows("heldout")
    assert [(line["side"], line["answer"]) for line in found["rows"]] == [
        (side, getattr(pair, side)) for pair in held for side in ("chosen", "rejected")
    ]
    assert set(found["rows"][0]) == {"row", "side", "prompt", "answer", "score", "percentile"}
    assert (set(found["accuracy"]), found["accuracy"]["n"]) == ({"rate", "low", "high", "n"}, 4)
    measured = runs.find("judge").receipt()["metrics"]
    assert found["accuracy"]["rate"] == pytest.approx(measured["eval_accuracy"])
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [{name: str(value) for name, value in line.items()} for line in found["rows"]]


def test_a_file_of_conversations_is_scored_row_by_row_without_an_accuracy(preferring, document, cli, tmp_path):
    path = data_file(tmp_path, [*ROWS[:3], {"prompt": "=1+1", "completion": "=2\n日本"}])
    found = document("score", "judge", "--data", path)
    assert found["accuracy"] is None
    assert [(line["row"], line["answer"]) for line in found["rows"]] == [
        (1, "It is 0."), (2, "It is 2."), (3, "It is 4."), (4, "=2\n日本"),
    ]  # fmt: skip
    code, out, err = cli("score", "judge", "--data", path, "--out", tmp_path / "out.csv")
    assert (code, out) == (0, f"4 answers scored, in {tmp_path / 'out.csv'}\n")
    assert "4 of 4 rows kept" in err
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert [line["answer"] for line in csv.DictReader(file)][-1] == "'=2\n日本"
    _, out, _ = cli("score", "judge", "--data", path)
    assert len(out.splitlines()) == 5  # one answer has two lines


def test_a_file_of_pairs_is_scored_whole_and_unusable_rows_are_told(preferring, cli, document, tmp_path):
    path = data_file(tmp_path, [*PAIRS[:5], {"prompt": "What?", "chosen": "Same.", "rejected": "Same."}], "mine")
    found = document("score", "judge", "--data", path)
    assert (len(found["rows"]), found["accuracy"]["n"]) == (10, 5)
    _, _, err = cli("score", "judge", "--data", path)
    assert "1 dropped: both answers are the same (row 6)." in err


def test_the_held_out_pairs_of_a_preset_are_found_by_its_name():
    assert verbs._scored_rows("pocket-tutor") == library.find("pocket-tutor", "preference").rows("heldout")


def test_a_dataset_that_holds_nothing_out_is_scored_whole(preferring, document, tmp_path):
    few, _ = library.import_file(data_file(tmp_path, PAIRS[:3], "few"))
    found = document("score", "judge", "--data", "few")
    library.delete(few)
    assert (len(found["rows"]), found["accuracy"]["n"]) == (6, 3)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["judge"], "score needs --prompt and --answer, or --data."),
        (["judge", "--prompt", "Hi"], "score needs --prompt and --answer, or --data."),
        (["judge", "--answer", "Hi"], "score needs --prompt and --answer, or --data."),
        (["judge", "--prompt", "", "--answer", "Hi"], "score needs --prompt and --answer, or --data."),
        (["nobody", "--prompt", "Hi", "--answer", "Hi"], "There is no run called 'nobody'. Latest runs: tutor, judge"),
        (["tutor", "--prompt", "Hi", "--answer", "Hi"], "tutor is not a reward model; train one in the Reward model"),
        (["tutor", "--data", "pairs"], "tutor is not a reward model; train one in the Reward model tab."),
        (["judge", "--data", "nothing"], "There is no dataset called 'nothing'. Known: "),
        (["judge", "--prompt", "Hi", "--answer", "a" * 600], "Answer 1 is 6"),
        (["judge", "--prompt", "Hi", "--answer", "a", "--out", "x.csv"], "--out goes with --data, and needs a folder"),
        (["judge", "--data", "pairs", "--out", "/no/such/x.csv"], "--out goes with --data, and needs a folder"),
    ],
)
def test_what_can_not_be_scored_is_one_line(preferring, refused, argv, sentence):
    assert refused("score", *argv).startswith(sentence)


@pytest.mark.parametrize("content", ["", "\n", "{", '{"day": "Monday", "rain": 3}\n', "\0\0"])
def test_a_file_without_answers_is_refused_with_its_name(preferring, refused, tmp_path, content):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    assert "mine.jsonl: " in refused("score", "judge", "--data", path)


# ---- a judge


def test_evaluate_asks_a_judge_against_the_parent_the_base_or_another(preferring, document):
    for options, against in (([], "tutor"), (["--against", "base"], "the base"), (["--against", "polite"], "polite")):
        found = document("evaluate", "polite", "--data", "sums", "--judge", "judge", *options)
        assert (found["verdict"]["judge"], found["verdict"]["against"]) == ("judge", against)
        assert (set(found["verdict"]["wins"]), found["verdict"]["wins"]["n"]) == ({"rate", "low", "high", "n"}, 4)
        assert found["verdict"]["note"] == ""  # judge and run learned from different halves
        assert set(found["checks"]) == {"max_words", "lacks", "all"}
        assert all(isinstance(answer["other"], str) for answer in found["answers"])
    assert found["verdict"]["wins"]["rate"] == 0.5  # against itself
    base = document("evaluate", "base", "--base", runs.find("tutor").request["base"], "--data", "sums",
                    "--judge", "judge", "--against", "polite")  # fmt: skip
    assert base["verdict"]["against"] == "polite"


def test_a_run_without_a_parent_is_judged_against_the_base_in_words(preferring, cli):
    code, out, _ = cli("evaluate", "tutor", "--data", "sums", "--judge", "judge")
    assert code == 0
    assert out.splitlines()[-1].startswith("judge prefers its answer over the base's: ")
    assert "prefers" not in cli("evaluate", "tutor", "--data", "sums")[1]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["polite", "--against", "tutor"], "--against needs --judge: a reward run that compares the two."),
        (["polite", "--judge", "tutor"], "tutor can't judge: it is not a reward model."),
        (["polite", "--judge", "nobody"], "There is no run called 'nobody'. Latest runs: tutor, judge, polite."),
        (["polite", "--judge", "judge", "--against", "nobody"], "There is no run called 'nobody'. Latest runs: "),
        (["polite", "--judge", "judge", "--against", "judge"], "judge is a reward model: it gives scores, not "),
        (["judge", "--judge", "judge"], "judge is a reward model: it gives scores, not answers."),
        (["base", "--base", "no model", "--judge", "judge"], "'no model' is neither 'embedded', a folder"),
    ],
)
def test_a_judgement_that_can_not_be_had_is_one_line(preferring, refused, argv, sentence):
    assert refused("evaluate", *argv, "--data", "sums").startswith(sentence)


def test_ctrl_c_stops_the_run_and_keeps_its_weights(tiny_model, tmp_path):
    arguments = ["--set", "max_steps=50000", "--set", "max_length=64", "--set", "probe_prompts=", "--set", "lora_r=4"]
    path = data_file(tmp_path)
    training = process("train", "sft", "--data", path, "--base", tiny_model, *arguments, "--json")
    try:
        wait_for(lambda: runs.list_runs() and runs.list_runs()[0].status().step >= 2, training)
        training.send_signal(signal.SIGINT)
        out, err = training.communicate(timeout=120)
    finally:
        for run in runs.list_runs():
            run.request_stop()
        training.kill()
    (run,) = runs.list_runs()
    assert training.returncode == 0, err
    found = json.loads(out)
    assert (found["run"], found["state"]) == (run.id, "stopped")
    assert 2 <= found["metrics"]["step"] < 50000
    assert (run.adapter / "adapter_model.safetensors").exists()
    assert "Traceback" not in err


def wait_for(condition, child, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)


# ---- what is refused


def test_a_queued_run_is_stopped_at_once(document, queued):
    assert document("stop", "waiting") == {"run": queued.id, "name": "waiting", "state": "stopped"}
    assert document("runs")[0]["state"] == "stopped"


@pytest.mark.parametrize(
    "argv",
    [
        ["stop", "nobody"],
        ["resume", "nobody"],
        ["evaluate", "nobody", "--data", "pocket-tutor"],
        ["chat", "--run", "nobody", "--prompt", "hi"],
    ],
)
def test_an_unknown_run_is_named_with_the_ones_there_are(refused, queued, argv):
    assert refused(*argv) == "There is no run called 'nobody'. Latest runs: waiting."


def test_a_run_that_has_not_ended_early_is_not_resumed(refused, queued):
    assert refused("resume", "waiting") == "Run waiting is queued: only a run that ended early can be resumed."


def test_a_run_without_weights_does_not_chat(refused, queued):
    assert refused("chat", "--run", "waiting", "--prompt", "hi").startswith("This run has no trained weights yet")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "learning_rate=2"], "Learning rate must be at most 0.01, got 2."),
        (["--set", "max_steps=many"], "Steps at most must be a number; got 'many'."),
        (["--set", "max_steps=2.5"], "Steps at most must be a whole number, got 2.5."),
        (["--set", "quantization=int8"], "Base weights must be one of auto, nf4, none; got 'int8'."),
        (["--set", "max_steps"], "--set takes KEY=VALUE, such as max_steps=20; got 'max_steps'."),
        (["--set", "probe_prompts"], "--set takes KEY=VALUE, such as max_steps=20; got 'probe_prompts'."),
        (["--set", "learningrate=1"], "There is no setting called 'learningrate'. Known: num_train_epochs, "),
        (["--preset", "none-such"], "There is no sft preset called 'none-such'. Known: pocket-tutor"),
    ],
)
def test_what_is_typed_wrong_is_told_before_anything_is_stored(refused, tmp_path, tiny_model, options, sentence):
    path = data_file(tmp_path)
    assert refused("train", "sft", "--data", path, "--base", tiny_model, *options).startswith(sentence)
    assert refused("train", "sft", "--base", tiny_model, *options).startswith(sentence)
    assert [dataset.name for dataset in library.datasets() if not dataset.preset] == []
    assert runs.list_runs() == []


def test_unknown_data_bases_and_stages_are_refused(refused, tmp_path, capsys):
    assert refused("train", "sft") == "--data is missing: a stored dataset's name or a file."
    assert refused("train", "sft", "--data", "nothing").startswith("There is no dataset called 'nothing'. Known: ")
    assert "is neither 'embedded', a folder" in refused("train", "sft", "--data", "pocket-tutor", "--base", "no model")
    assert refused("evaluate", "base", "--data", "nothing").startswith("There is no dataset called 'nothing'.")
    with pytest.raises(SystemExit) as ended:
        command.main(["train", "magic", "--data", "pocket-tutor"])
    assert ended.value.code == 2
    assert "invalid choice: 'magic'" in capsys.readouterr().err


@pytest.fixture
def asked(monkeypatch, document):
    """`train` with these options → the request that it would have queued."""
    monkeypatch.setattr(launch.queue, "start_worker", lambda: None)
    monkeypatch.setattr(verbs, "_wait", lambda started: started.request)
    return lambda *argv: document("train", *argv)


@pytest.mark.parametrize(("stage", "kind", "name"), [
    ("sft", "sft", "pocket-tutor"), ("reward", "preference", "pocket-tutor-preferences"),
    ("dpo", "preference", "pocket-tutor-preferences"),
])  # fmt: skip
def test_a_preset_s_name_stands_for_the_rows_that_a_stage_needs(asked, tiny_model, stage, kind, name):
    request = asked(stage, "--data", "pocket-tutor", "--base", tiny_model)
    found = library.find(name)
    assert (found.kind, request["stage"], request["parent"]) == (kind, stage, None)
    assert (request["dataset"]["id"], request["dataset"]["sha256"]) == (found.id, found.sha256)


@pytest.mark.parametrize(("stage", "rows", "sentence"), [
    ("sft", PAIRS, "Fine-tune (SFT) needs sft rows; mine holds preference rows."),
    ("reward", ROWS, "Reward model needs preference rows; mine holds sft rows."),
    ("dpo", ROWS, "DPO needs preference rows; mine holds sft rows."),
])  # fmt: skip
def test_the_wrong_kind_of_rows_is_refused(refused, tiny_model, tmp_path, stage, rows, sentence):
    path = data_file(tmp_path, rows, "mine")
    assert "rows are needed here" in refused("train", stage, "--data", path, "--base", tiny_model)
    assert [d for d in library.datasets() if not d.preset] == []
    library.import_file(path)
    assert refused("train", stage, "--data", "mine", "--base", tiny_model) == sentence
    assert runs.list_runs() == []


def test_a_run_goes_on_from_its_parent_on_the_parent_s_base(preferring, asked):
    for options in ([], ["--base", runs.find("tutor").request["base"]]):
        request = asked("sft", "--data", "sums", "--from", "tutor", "--name", "more", *options)
        made = runs.find(request["id"])
        made.request_stop()
        made.delete()
        assert request["parent"]["name"] == "tutor"
        assert request["base"] == runs.find("tutor").request["base"]


def test_a_parent_that_can_not_be_continued_is_one_line(preferring, refused, tiny_model_no_template, tiny_model):
    def train(parent, *options):
        return refused("train", "dpo", "--data", "pairs", "--from", parent, *options)

    other = shutil.copytree(tiny_model, preferring / "another", dirs_exist_ok=True)
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (other / "model.safetensors").write_bytes(data)
    assert train("tutor", "--base", other) == "tutor was trained on tiny, not on another."
    assert train("nobody").startswith("There is no run called 'nobody'. Latest runs: tutor, judge, polite.")
    assert train("judge") == "judge is a reward model: it gives scores, so there is nothing to continue."
    assert len(runs.list_runs()) == 3


def test_a_parent_that_waits_is_not_continued(refused, queued, tiny_model):
    sentence = refused("train", "sft", "--data", "sums", "--from", "waiting", "--base", tiny_model)
    assert sentence == "waiting is still queued; wait for its end or stop it."
    queued.request_stop()
    assert refused("train", "sft", "--data", "sums", "--from", "waiting") == (
        "waiting has no trained weights to continue."
    )


def test_a_value_may_hold_an_equals_sign(queued, tiny_model, monkeypatch, document):
    monkeypatch.setattr(verbs, "_wait", lambda started: started.request["settings"])
    arguments = ["--base", tiny_model, "--set", "probe_prompts=What is x if 2x = 4?", "--set", "seed = 5"]
    settings = document("train", "sft", "--data", "sums", *arguments)
    assert (settings["probe_prompts"], settings["seed"]) == ("What is x if 2x = 4?", 5)


def test_without_json_a_person_can_read_it(cli, queued):
    code, out, _ = cli("runs")
    assert code == 0
    assert out.startswith(f"run={queued.id}  name=waiting  stage=sft")
