"""The command line: real processes where the process matters, main() elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from playground import __main__ as command
from playground.data import library
from playground.data.readers import RawRow
from playground.data.report import examine
from playground.models import catalog
from playground.runs import run as runs
from playground.stages import launch
from playground.stages.sft import SFTSettings

ROOT = Path(__file__).resolve().parent.parent
VERBS = ["models", "settings", "data", "train", "chat", "evaluate", "runs", "stop", "resume"]
ROWS = [{"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."} for i in range(40)]
QUICK = ["max_steps=2", "per_device_train_batch_size=4", "max_length=64", "lora_r=4", "probe_tokens=8"]


@pytest.fixture
def cli(capsys, monkeypatch):
    """main(argv) → (exit code, standard output, standard error)."""
    monkeypatch.setattr(command.show, "last", "")

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


def data_file(folder: Path) -> Path:
    path = folder / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
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


# ---- every verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([verb, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--json" in out
    assert command.__dict__[verb].__doc__.split(".")[0].split(",")[0] in " ".join(out.split())


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


def test_stored_datasets_are_listed(document, queued):
    assert {"pocket-tutor", "sums"} <= {entry["name"] for entry in document("data", "list")}


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


def test_a_value_may_hold_an_equals_sign(queued, tiny_model, monkeypatch, document):
    monkeypatch.setattr(command, "_wait", lambda started: started.request["settings"])
    arguments = ["--base", tiny_model, "--set", "probe_prompts=What is x if 2x = 4?", "--set", "seed = 5"]
    settings = document("train", "sft", "--data", "sums", *arguments)
    assert (settings["probe_prompts"], settings["seed"]) == ("What is x if 2x = 4?", 5)


def test_without_json_a_person_can_read_it(cli, queued):
    code, out, _ = cli("runs")
    assert code == 0
    assert out.startswith(f"run={queued.id}  name=waiting  stage=sft")
