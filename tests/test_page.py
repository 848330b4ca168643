"""The page: a real server process asked over HTTP and by gradio_client, and its handlers in process."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from serving import laid_out, serve, wait_for

from playground.data import library
from playground.data.readers import RawRow
from playground.data.report import examine
from playground.models.catalog import EMBEDDED
from playground.runs import run as runs
from playground.runs.run import Run
from playground.stages import launch
from playground.stages.inputs import WEIGHTS, weights_sha256
from playground.statistics import wilson
from playground.tabs import (
    chat,
    data,
    explorer,
    fetching,
    form,
    history,
    html,
    page,
    rollouts,
    rows,
    shelf,
    stage,
    view,
)
from playground.tabs.hosting import POLICY, ContentSecurityPolicy

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
INPUTS = {"textbox", "number", "slider", "dropdown", "checkbox", "radio", "checkboxgroup", "file", "code"}
WITHOUT_INFO = {
    "Upload a file": "gr.File has no info; the intro above it says what may be uploaded",
    "File of answers": "the same, for the Score tab",
    "File of principles": "the same, for the Constitution tab",
    "Your question": "its placeholder is an example, and a sentence under a chat's input would be in the way",
}

# Every one differs from its default and from every other, so that a value in the wrong field can't go unseen.
COMMON = {
    "num_train_epochs": 2.5,
    "max_steps": 997,
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 3,
    "lora_r": 5,
    "quantization": "none",
    "max_length": 64,
    "lora_alpha": 7,
    "lora_dropout": 0.05,
    "lora_targets": "attention",
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 11,
    "weight_decay": 0.02,
    "max_grad_norm": 0.7,
    "eval_steps": 13,
    "save_steps": 23,
    "seed": 29,
}
PROBES = {"probe_steps": 17, "probe_prompts": "What is 3 + 3?\nWhat is x = 4?", "probe_tokens": 19}
DPO = {"half": "second", "beta": 0.3, "loss_type": "ipo", "label_smoothing": 0.25, "sft_weight": 1.5}
PPO = {
    "reward_run": "judge",
    "rules": "max_words: 20\nkeyword: please",
    "max_steps": 997,
    "per_device_train_batch_size": 4,
    "response_length": 12,
    "learning_rate": 3e-3,
    "kl_coef": 0.015,
    "kl_target": 4.5,
    "kl_budget": 70.0,
    "quantization": "none",
    "lora_r": 5,
    "reward_weight": 1.5,
    "rules_weight": 1.75,
    "missing_eos_penalty": 0.625,
    "score_clip": 6.5,
    "temperature": 1.25,
    "num_ppo_epochs": 6,
    "num_mini_batches": 3,
    "micro_batch_size": 9,
    "cliprange": 0.3,
    "epoch_kl": 0.0,
    "critic": "adapter",
    "vf_coef": 0.4,
    "cliprange_value": 0.25,
    "gamma": 0.99,
    "lam": 0.9,
    "whiten_rewards": True,  # equal to 1, which no other value is
    "kl_horizon": 33,
    "max_length": 240,
    "eval_steps": 13,
    "eval_prompts": 2,
    "save_steps": 23,
    **PROBES,
    "lora_alpha": 7,
    "lora_targets": "attention",
    "weight_decay": 0.02,
    "max_grad_norm": 0.7,
    "seed": 29,
}
OTHER = {
    "sft": {**COMMON, **PROBES},
    "reward": {**COMMON, "half": "first", "center_rewards_coefficient": 0.125},
    "ppo": PPO,
    "dpo": {**COMMON, **PROBES, **DPO},
}
ROWS = {
    "sft": "sums",
    "reward": "opinions",
    "ppo": "pocket-tutor",
    "dpo": "opinions",
}  # what the server's home has for each stage
SMALL_PPO = {"per_device_train_batch_size": 4, "response_length": 8, "eval_prompts": 4}
FORM = ["data", "base", "parent", "preset", "name"]


@pytest.fixture(scope="module")
def server_home(tmp_path_factory):
    """The server's home, with a dataset of forty sums in it and one of forty opinions on them."""
    home = tmp_path_factory.mktemp("page-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(home))
        stored("sums", lambda i: {"completion": f"It is {2 * i}."})
        stored("opinions", lambda i: {"chosen": f"It is {2 * i}.", "rejected": "I would rather not say." * (1 + i % 2)})
    return home


def stored(name, answers):
    raw = [RawRow(i, {"prompt": f"What is {i} + {i}?", **answers(i)}, None) for i in range(40)]
    return library.store(examine(raw), name, "a test")


@pytest.fixture(scope="module")
def server(server_home, embedded_model):
    """app.py in a process of its own: (address, process id)."""
    with serve(server_home) as (url, process):
        yield url, process.pid


@pytest.fixture(scope="module")
def config(server):
    with urllib.request.urlopen(f"{server[0]}/config", timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def visitor(server):
    """Makes clients, each a visitor with a session of its own."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(server[0], verbose=False, analytics_enabled=False))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(visitor):
    return visitor()


@pytest.fixture
def server_runs(server, server_home, monkeypatch):
    """Looks into the server's home."""
    monkeypatch.setenv("PLAYGROUND_HOME", str(server_home))
    return runs


@pytest.fixture(scope="module")
def trained(server, server_home, tiny_model) -> dict[str, Run]:
    """A run of two steps in every stage, all asked for through the API; the others continue the first."""
    common = {"name": "", "max_steps": 2, "seed": 3}
    probes = {"probe_steps": 0, "probe_tokens": 8, "probe_prompts": "What is 3 + 3?"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(server_home))
        data = {name: library.find(rows).id for name, rows in ROWS.items()}
        client = Client(server[0], verbose=False, analytics_enabled=False)
        asked = {**common, **probes, "data": data["sft"], "base": str(tiny_model), "name": "imitator"}
        client.predict(**asked, api_name="/start_sft")
        wait_for(lambda: not runs.find("imitator").status().active)
        # Both were asked for on a page that opened before the run they continue; by id and by name, base left alone.
        asked = {**common, "data": data["reward"], "name": "judge", "parent": runs.find("imitator").id}
        client.predict(**asked, api_name="/start_reward")
        asked = {**common, **probes, "data": data["dpo"], "name": "preferrer", "parent": "imitator"}
        client.predict(**asked, api_name="/start_dpo")
        wait_for(lambda: not runs.find("judge").status().active)
        asked = {**common, **probes, "data": data["ppo"], "name": "striver", "parent": "imitator", **SMALL_PPO}
        client.predict(**asked, reward_run="judge", api_name="/start_ppo")
        client.close()
        names = ("imitator", "judge", "striver", "preferrer")
        made = {name: runs.find(run) for name, run in zip(OTHER, names, strict=True)}
        wait_for(lambda: not any(run.status().active for run in made.values()))
        assert {run.status().state for run in made.values()} == {"finished"}, [run.log_tail() for run in made.values()]
    return made


# ---- what the server sends


def test_the_page_opens(server):
    with urllib.request.urlopen(server[0], timeout=30) as answer:
        text = answer.read().decode()
    assert answer.status == 200
    assert "Alignment Playground" in text


def test_the_page_has_at_most_960_components(config):
    """Its opening time grows with them; the data room alone shows a file's every choice, the library and the editor."""
    assert 50 < len(config["components"]) <= 960


def test_every_input_has_a_label_and_says_what_it_is_for(config):
    outputs = {target for event in config["dependencies"] for target in event["outputs"]}
    inputs = {source for event in config["dependencies"] for source in event["inputs"]}
    without = set()
    for component in config["components"]:
        props = component["props"]
        guessed = component["id"] in inputs or component["id"] not in outputs  # as Gradio does where nothing is said
        if component["type"] not in INPUTS or not props.get("interactive", guessed):
            continue
        assert (props["label"] or "").strip(), component
        assert props["show_label"], props["label"]
        if not (props.get("info") or "").strip():
            without.add(props["label"])
    assert without == set(WITHOUT_INFO)


def test_every_button_and_plot_has_words(config):
    buttons = [c["props"]["value"] for c in config["components"] if c["type"] == "button"]
    assert len(buttons) > 8
    assert all(words.strip() for words in buttons)
    assert all(c["props"]["label"] for c in config["components"] if c["type"] in ("nativeplot", "chatbot", "dataframe"))


@pytest.mark.parametrize("name", launch.STAGES)
def test_every_setting_is_in_the_form_with_its_own_words_and_default(config, name):
    props = {component["id"]: component["props"] for component in config["components"]}
    (start,) = [event for event in config["dependencies"] if event["api_name"] == f"start_{name}"]
    specs = launch.stage(name).Settings.specs()
    for spec, place in zip(specs.values(), start["inputs"][len(FORM) :], strict=True):
        assert (props[place]["label"], props[place]["info"]) == (spec.label, spec.help)
        assert props[place]["value"] == spec.default


def test_every_stage_has_a_tab_in_the_order_of_the_lesson(config):
    tabs = [component["props"]["label"] for component in config["components"] if component["type"] == "tabitem"]
    within = [
        "Upload",
        "Paste",
        "Hub",
        "Library",
        "Principles",
        "Critique and revise",
        "AI feedback",
        "Measure",
        "Review",
        "Recipe",
    ]
    stages = ["Fine-tune (SFT)", "Reward model", "PPO", "DPO"]
    assert [name for name in tabs if name not in within] == [
        "Start",
        "Data",
        *stages,
        "Constitution",
        "Score",
        "Chat",
        "Runs",
    ]
    assert [name for name in tabs if name in within] == within


def test_the_content_security_policy_is_on_pages_and_on_streams(server):
    for path in ("/", "/config", "/gradio_api/info"):
        with urllib.request.urlopen(server[0] + path, timeout=30) as answer:
            assert answer.headers["content-security-policy"] == POLICY
    with urllib.request.urlopen(f"{server[0]}/gradio_api/heartbeat/test", timeout=30) as stream:  # it never ends
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["content-security-policy"] == POLICY
        assert stream.readline() == b"data: ALIVE\n"
    assert "script-src-attr 'none'" in POLICY


def test_the_policy_lets_every_piece_of_a_stream_through_at_once():
    sent: list[dict] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        for i in range(3):
            await send({"type": "http.response.body", "body": b"%d" % i, "more_body": i < 2})
            assert sent[-1]["body"] == b"%d" % i  # nothing is held back

    async def send(message):
        sent.append(message)

    asyncio.run(ContentSecurityPolicy(app)({"type": "http"}, None, send))
    assert sent[0]["headers"] == [(b"x", b"y"), (b"content-security-policy", POLICY.encode())]
    assert len(sent) == 4


def test_usage_is_not_public_and_files_of_the_home_are_not_served(server, server_home):
    from urllib.error import HTTPError

    for path in ("/monitoring/summary", f"/gradio_api/file={server_home}/server.log"):
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(server[0] + path, timeout=30)
        refused.value.close()
        assert refused.value.code in (403, 404)


def test_buttons_that_answer_with_a_toast_are_queued(config):
    """Gradio prints the toasts of unqueued events on the server's terminal and shows them to nobody."""
    buttons = {c["props"]["value"]: c["id"] for c in config["components"] if c["type"] == "button"}
    for words in ("Stop and save", "Keep this dataset"):
        (event,) = [d for d in config["dependencies"] if [buttons[words], "click"] in d["targets"]]
        assert event["queue"] is not False


# ---- the API


@pytest.mark.parametrize("name", launch.STAGES)
def test_the_other_values_differ_from_the_defaults_and_from_each_other(name):
    defaults, other = launch.stage(name).Settings().values(), OTHER[name]
    assert other.keys() == defaults.keys()
    assert not [key for key, value in other.items() if value == defaults[key]]
    assert len(set(other.values())) == len(other)


@pytest.mark.parametrize("name", launch.STAGES)
def test_every_value_of_the_form_lands_in_its_own_setting(visitor, trained, server_runs, tiny_model, name):
    before = set(server_runs.list_runs())
    asked = {"data": library.find(ROWS[name]).id, "base": str(tiny_model), "name": f"long-{name}", **OTHER[name]}
    picker = visitor().predict(**asked, api_name=f"/start_{name}")
    (made,) = set(server_runs.list_runs()) - before
    assert picker["value"] == made.id
    assert made.request["settings"] == OTHER[name]
    types = {key: type(value) for key, value in launch.stage(name).Settings().values().items()}
    assert {key: type(value) for key, value in made.request["settings"].items()} == types
    assert made.name == f"long-{name}"
    assert made.request["stage"] == name
    assert made.request["base"] == str(tiny_model)
    assert made.request["parent"] is None
    assert made.request["dataset"]["id"] == library.find(ROWS[name]).id
    assert made.request["seed"] == 29

    # Stopped by another visitor, who has never seen the page on which it was started.
    assert visitor().predict(run=f"long-{name}", api_name=f"/stop_{name}") in ("running", "stopped")
    wait_for(lambda: not made.status().active)
    assert made.status().state == "stopped"
    assert made.status().step < 997


@pytest.mark.parametrize("name", launch.STAGES)
def test_what_is_left_out_keeps_its_default(client, server_runs, tiny_model, name):
    before = set(server_runs.list_runs())
    asked = {"data": library.find(ROWS[name]).id, "base": str(tiny_model), "max_steps": 900}
    client.predict(**asked, api_name=f"/start_{name}")
    (made,) = set(server_runs.list_runs()) - before
    client.predict(run=made.id, api_name=f"/stop_{name}")
    assert made.request["settings"] == {**launch.stage(name).Settings().values(), "max_steps": 900}
    assert made.name == f"{name}-{ROWS[name]}"


@pytest.mark.parametrize("name", ["reward", "ppo", "dpo"])
def test_a_run_that_continues_another_holds_what_was_asked(trained, server_runs, tiny_model, name):
    made, first = trained[name].request, trained["sft"]
    assert made["stage"] == name
    assert made["parent"] == {"id": first.id, "name": "imitator", "weights_sha256": weights_sha256(first)}
    assert (made["base"], made["base_identity"]) == (str(tiny_model), first.request["base_identity"])
    assert made["settings"] == {
        **launch.stage(name).Settings().values(),
        **{key: value for key, value in made["settings"].items() if key in PROBES},
        **({**SMALL_PPO, "reward_run": "judge"} if name == "ppo" else {}),
        "max_steps": 2,
        "seed": 3,
    }
    assert made["preset"] is None
    assert made["dataset"]["name"] == ROWS[name]
    assert trained[name].proofs()[0]["words"] == "As in imitator."


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("dpo", {"data": "sums"}, "DPO needs preference rows; sums holds sft rows."),
        ("reward", {"data": "sums"}, "Reward model needs preference rows; sums holds sft rows."),
        ("sft", {"data": "opinions"}, "Fine-tune (SFT) needs sft rows; opinions holds preference rows."),
        ("dpo", {"data": "nothing"}, "There is no dataset called 'nothing'."),
        ("dpo", {"parent": "judge"}, "judge is a reward model: it gives scores, so there is nothing to continue."),
        ("reward", {"parent": "judge"}, "judge is a reward model: it gives scores, so there is nothing to continue."),
        ("dpo", {"parent": "nobody"}, "There is no run called 'nobody'."),
        ("dpo", {"parent": "run_000000000000"}, "There is no run called 'run_000000000000'."),
        ("dpo", {"parent": "elsewhere"}, "elsewhere was trained on another base, not on tiny."),
        ("dpo", {"parent": "emptied"}, "emptied has no trained weights to continue."),
        ("ppo", {"reward_run": "imitator"}, "Reward run: imitator is not a reward model."),
        ("ppo", {"reward_run": "nobody"}, "There is no run called 'nobody'."),
        ("ppo", {"rules": "politeness: 3"}, "Rules: there is none called 'politeness'."),
        ("ppo", {"data": "sums"}, "Nothing would be rewarded: sums has no checks."),
        ("dpo", {"beta": 0}, "β must be at least 0.001, got 0."),
        ("reward", {"center_rewards_coefficient": 2}, "Centring must be at most 1, got 2."),
        ("dpo", {"max_length": 16}, "No pair has both sides within 16 tokens; raise the longest pair."),
    ],
)
def test_what_cannot_be_trained_is_a_sentence_and_starts_nothing(client, trained, server_runs, name, values, sentence):
    for other, changes in (("elsewhere", {"base_identity": "x", "base_title": "another base"}), ("emptied", {})):
        if other not in {run.name for run in server_runs.list_runs()}:
            copied = server_runs.create(other, {**trained["sft"].request, **changes, "id": "", "name": other})
            copied.update(state="finished")
            shutil.copytree(trained["sft"].adapter, copied.adapter)
            if other == "emptied":
                (copied.adapter / WEIGHTS).unlink()
    before = server_runs.list_runs()
    with pytest.raises(AppError) as refused:
        client.predict(
            **{"data": ROWS[name], "parent": "imitator", "max_steps": 1, **values}, api_name=f"/start_{name}"
        )
    assert sentence in str(refused.value)
    assert server_runs.list_runs() == before


def test_a_run_is_continued_only_after_its_end(client, server_runs, tiny_model):
    asked = {"data": "sums", "base": str(tiny_model), "max_steps": 900, "name": "unfinished"}
    client.predict(**asked, api_name="/start_sft")
    with pytest.raises(AppError, match=r"unfinished is still (queued|running); wait for its end or stop it\."):
        client.predict(data="opinions", parent="unfinished", api_name="/start_dpo")
    client.predict(run="unfinished", api_name="/stop_sft")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"learning_rate": 2}, "Learning rate must be at most 0.01, got 2."),
        ({"learning_rate": None}, "Learning rate must be a number; got None."),
        ({"seed": -1}, "Seed must be at least 0, got -1."),
        ({"max_grad_norm": 0}, "Gradient clipping must be at least 0.01, got 0."),
        ({"lora_r": 1000}, "greater than maximum value 256"),  # sliders are checked by Gradio, in its words
        ({"quantization": "int8"}, "not in the list of choices: ['auto', 'nf4', 'none']"),
        ({"base": "no such model"}, "is neither 'embedded', a folder, a .gguf file nor a Hub id"),
        ({"data": None}, "Choose data first; the Data tab takes your own."),
    ],
)
def test_a_bad_value_is_answered_with_its_sentence_and_starts_nothing(
    client, server_runs, tiny_model, values, sentence
):
    before = server_runs.list_runs()
    asked = {"data": library.find("sums").id, "base": str(tiny_model), "max_steps": 1, **values}
    with pytest.raises(AppError) as refused:
        client.predict(**asked, api_name="/start_sft")
    assert sentence in str(refused.value)
    assert server_runs.list_runs() == before


def test_stopping_a_run_that_is_not_there_is_a_sentence(client):
    with pytest.raises(AppError, match="There is no run called 'run_000000000000'"):
        client.predict(run="run_000000000000", api_name="/stop_sft")


def test_only_these_endpoints_are_public(server):
    with urllib.request.urlopen(f"{server[0]}/gradio_api/info", timeout=30) as answer:
        named = json.load(answer)["named_endpoints"]
    stages = (*launch.STAGES, *launch.MAKERS)
    assert set(named) == {f"/{verb}_{name}" for verb in ("start", "stop") for name in stages} | {"/start_recipe"}
    for name in stages:
        parameters = [parameter["parameter_name"] for parameter in named[f"/start_{name}"]["parameters"]]
        assert parameters == [*FORM, *launch.stage(name).Settings.specs()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_server_has_not_loaded_torch_after_all_this(server, client, server_runs):
    libraries = Path(f"/proc/{server[1]}/maps").read_text()
    assert "libpython" in libraries or "/python" in libraries
    assert not [line for line in libraries.splitlines() if "libtorch" in line or "tokenizers_bnb" in line]


def test_the_page_its_uploads_and_its_timer_do_without_the_large_libraries(embedded_model, tmp_path):
    sums, opinions = tmp_path / "sums.csv", tmp_path / "opinions.csv"
    sums.write_text("prompt,completion\n" + "".join(f"Q {i}?,A {i}.\n" for i in range(20)))
    opinions.write_text("prompt,chosen,rejected\n" + "".join(f"Q {i}?,A {i}.,No.\n" for i in range(20)))
    program = f"""
import sys, app
from playground.data import library
from playground.runs import run
from playground.stages import launch
from playground.models import catalog
from playground.tabs import chat, data, explorer, fetching, history, page, stage
launch.queue.start_worker = lambda: None
form = {{"base": "embedded", "name": "", "preset": stage.OWN, "parent": stage.FRESH, "max_steps": 1}}
for path, stages in (({str(sums)!r}, ["sft"]), ({str(opinions)!r}, ["reward", "ppo", "dpo"])):
    views = data.open_file(path, None, 64)
    data.keep(views["desk"], views["name"], 64, "embedded")
    name = views["name"]
    data.open_stored(library.find(name).id, None, 64)
    for made in stages:
        rules = {{"rules": "max_words: 20"}} if made == "ppo" else {{}}
        stage._start(made, {{**form, **rules, "data": library.find(name).id}})
        stage.tick(made, None, None)
page.now_html(), history.listing_html(), [history.details_html(made.id) for made in run.list_runs()]
chat.refresh("base", "base", [[], []])
explorer.refresh(None), explorer.trust_html(None)
weights = next(made for made in run.list_runs() if made.request["stage"] == "reward").adapter / "{WEIGHTS}"
weights.parent.mkdir(), weights.touch(), explorer.refresh(None)
loaded = [name for name in {HEAVY} if name in sys.modules]
print(loaded, "pg-learned" in views["rows"], "pg-rejected" in views["rows"], len(run.list_runs()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["[] False True 4"], done.stderr


# ---- uploads


def parquet_bomb() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    many = pa.array(["Why? " * 100]).take(pa.array([0] * 600_000))
    pq.write_table(pa.table({"prompt": many, "completion": many}), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


ROW = b'{"prompt": "Hi", "completion": "Hello."}\n'
MALFORMED = {
    "empty.jsonl": b"",
    "blank.csv": b" \n\n \t\n",
    "binary.csv": bytes(range(256)) * 40,
    "picture.json": b"\x89PNG\r\n\x1a\n" + b"\0" * 200,
    "cut.json": b'[{"prompt": "Hi", "completion": "Hel',
    "cut.parquet": b"PAR1" + b"\x15\x04" * 100,
    "latin.csv": "prompt,completion\nGrüße,schön\n".encode("latin-1"),
    "utf32.txt": "prompt,completion\na,b\n".encode("utf-32"),
    "long-line.jsonl": b'{"prompt": "' + b"a" * 30_000_000 + b'", "completion": "b"}',
    "deep.json": b"[" * 1000 + b"]" * 1000,
    "deep.jsonl": b'{"prompt": ' + b'{"a": ' * 1000 + b"1" + b"}" * 1001,
    "bomb.parquet": None,  # made when it is needed
    "nothing-but-nan.jsonl": b"NaN\nNaN\n",
    "numbers.json": b"[1, 2, 3]",
    "one-text.json": b'"just a text"',
    "header-only.tsv": b"prompt\tcompletion\n",
    "twice.csv": b"prompt,prompt,completion\na,b,c\n",
    "open-quote.csv": b'"prompt,completion\na,b\n',
    "rows.zip.jsonl": b"PK\x03\x04" + ROW,
    "pickle.json": b"\x80\x04\x95" + ROW,
    "too-many.jsonl": ROW * 50_001,
    "uneven.json": b'{"prompt": ["a", "b"], "completion": ["c"]}',
}


def opened(folder: Path, name: str, content: bytes):
    path = folder / name
    path.write_bytes(content)
    try:
        return data.open_file(str(path), None, 512)
    finally:
        assert not path.exists()  # uploads are not kept


def test_there_are_at_least_twenty_malformed_files():
    assert len(MALFORMED) >= 20


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_upload_is_one_clear_sentence_and_the_next_file_is_read(name, tmp_path, embedded_model):
    content = MALFORMED[name] if MALFORMED[name] is not None else parquet_bomb()
    with pytest.raises(gr.Error) as refused:
        opened(tmp_path, name, content)
    sentence = refused.value.message
    assert sentence.startswith(f"{name}: ")
    assert len(sentence) < 400
    assert sentence.isprintable()  # no line breaks, nothing invisible
    assert "Error" not in sentence and "Traceback" not in sentence
    good = opened(tmp_path, "good.jsonl", ROW * 2)
    assert (len(good["desk"].looked.rows), good["name"]) == (1, "good")
    assert "1 of 2 rows kept" in good["report"]


def test_a_file_without_a_usable_row_is_shown_with_the_reasons_and_not_kept(tmp_path, embedded_model):
    shown = opened(tmp_path, "weather.csv", b"day,rain\nMonday,3\n,\n")
    assert "No row can be used: " in shown["report"]
    assert "no columns of a known shape (found: day, rain)" in shown["report"]
    assert "<td>1</td><td>no columns of a known shape" in shown["dropped_rows"]
    assert shown["columns_box"].open
    with pytest.raises(gr.Error, match="No row can be used"):
        data.keep(shown["desk"], "weather", 512, EMBEDDED)


def test_nan_cells_are_missing_values(tmp_path, embedded_model):
    looked = opened(tmp_path, "nan.csv", b"prompt,completion\nWhy?,NaN\nWhy not?,Because.\n")["desk"].looked
    assert [row.messages[-1]["content"] for row in looked.rows] == ["Because."]
    assert looked.report.dropped == [(1, "an empty assistant message ('NaN' counts as missing)")]


def test_pasted_text_is_refused_in_one_sentence_too(embedded_model):
    for text in ("", "   ", '{"prompt": ', "[" * 1000):
        with pytest.raises(gr.Error) as refused:
            data.open_text(text, None, 512)
        assert refused.value.message.startswith("pasted text: ")
        assert refused.value.message.isprintable()
    assert data.open_text(ROW.decode(), None, 512)["desk"].looked.title == "pasted text"


def test_a_dataset_deleted_on_another_page_is_a_sentence(embedded_model):
    with pytest.raises(gr.Error, match="There is no dataset called"):
        data.open_stored("data_000000000000", None, 512)
    with pytest.raises(gr.Error, match="There is no dataset called"):
        shelf.delete("data_000000000000", None)


# ---- hostile text


ATTACK = "<img src=x onerror=\"alert('1')\"><script>alert(2)</script>'\">&lt;b&gt;"
TAGS = {"div", "p", "span", "strong", "br", "h2", "h3", "h4", "table", "thead", "tbody", "tr", "th", "td", "pre"}
TAGS |= {"details", "summary", "ul", "li", "button", "select", "option", "label", "textarea", "code"}
ATTRIBUTES = {"class", "role", "style", "tabindex", "aria-live", "aria-label", "open", "title", "aria-hidden"}
ATTRIBUTES |= {"aria-valuemin", "aria-valuemax", "aria-valuenow", "aria-disabled", "type", "value", "selected", "rows"}
ATTRIBUTES |= {"data-key", "data-row", "data-act", "data-value"}


class Parts(HTMLParser):
    """What a browser would make of it: tags, attributes and text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def assert_harmless(shown: str, times: int = 1) -> None:
    parts = Parts(shown)
    assert parts.tags <= TAGS
    assert parts.attributes <= ATTRIBUTES
    assert parts.text.count(ATTACK) >= times  # escaped, not removed


@pytest.fixture(params=launch.STAGES)
def hostile_run(tiny_model, request):
    """A run in which every text that people or models write is an attack; its folder was written by hand."""
    asked = {"base_title": ATTACK, "base": "embedded", "dataset": {"name": ATTACK}, "settings": {}}
    run = runs.create("x", {"stage": request.param, "parent": {"id": "run_000000000000", "name": ATTACK}, **asked})
    path = run.folder / "run.json"
    path.write_text(json.dumps({**run.request, "name": ATTACK}))
    run.sample(0, ATTACK, ATTACK)
    run.rollout(1, {"prompt": ATTACK, "answer": ATTACK, "tokens": [ATTACK], "token_kl": [0.5], "kl": 0.5, "score": 1.0,
                    "parts": {ATTACK: 1.0}, "ended": True})  # fmt: skip
    run.write_proofs([{"name": ATTACK, "passed": passed, "words": ATTACK} for passed in (True, False)])
    run.log("eval", 0, {ATTACK: 1.0, "eval_loss": 1.0})
    run.update(state="queued", phase=ATTACK, step=1, total=2, message=ATTACK)
    run.write_receipt({"metrics": {}, "placement": ATTACK})
    return run


def test_run_names_are_cleaned_where_they_are_given(tiny_model):
    assert "<" not in runs.create(ATTACK, {}).name


def test_a_hostile_run_shows_as_text_everywhere(hostile_run):
    assert_harmless(view.status_html(hostile_run), 10)
    assert_harmless(view.probes_html(hostile_run), 2)
    assert_harmless(rollouts.shown(hostile_run)[1], 3)
    for metric in (ATTACK, "loss"):
        assert_harmless(view.reading_html(hostile_run.metrics(), metric), 0)
    assert_harmless(history.listing_html(), 5)
    assert_harmless(page.now_html())
    details = Parts(history.details_html(hostile_run.id))
    assert details.tags <= TAGS
    assert details.attributes <= ATTRIBUTES


def test_hostile_rows_show_as_text(tmp_path, embedded_model):
    row = json.dumps({"prompt": ATTACK, "completion": ATTACK}).encode()
    shown = opened(tmp_path, "rows.jsonl", row)
    assert_harmless(shown["rows"], 2)
    assert Parts(shown["rows"]).text.count("onerror") == 4  # as chat and as tokens
    assert_harmless(shown["columns"], 2)
    looked = shown["desk"].looked
    looked.editing.add(("train", 0))
    assert_harmless(rows.page_html(looked, 512, EMBEDDED), 2)


def test_hostile_pairs_show_as_text(tmp_path, embedded_model):
    pair = {"prompt": ATTACK, "chosen": ATTACK, "rejected": f"No. {ATTACK}"}
    shown = opened(tmp_path, "pairs.jsonl", json.dumps(pair).encode())
    assert_harmless(shown["rows"], 3)
    assert Parts(shown["rows"]).text.count("onerror") == 6  # as chat and as tokens, the prompt once in each
    assert_harmless(shown["columns"], 3)


def test_a_hostile_file_name_shows_as_text(tmp_path, embedded_model):
    name = ATTACK.replace("/", "") + ".jsonl"
    report = opened(tmp_path, name, ROW)["report"]
    assert Parts(report).tags <= TAGS
    assert name in Parts(report).text


def test_hostile_columns_in_the_report_show_as_text(tmp_path, embedded_model):
    shown = opened(tmp_path, "rows.jsonl", json.dumps({"<img src=x onerror=y>": "<script>"}).encode())
    for part in ("report", "dropped_rows", "columns"):
        assert Parts(shown[part]).tags <= TAGS
        assert Parts(shown[part]).attributes <= ATTRIBUTES
        assert re.search("<img[ _]src=x[ _]onerror=y>", Parts(shown[part]).text)  # the report tidies columns' names


def test_hostile_answers_reach_the_chatbot_escaped():
    (turn,) = chat.shown([{"role": "assistant", "content": ATTACK}])
    assert "<" not in turn["content"]
    assert Parts(turn["content"]).text == ATTACK


def test_what_a_fetch_says_is_escaped(monkeypatch):
    monkeypatch.setattr(fetching, "status", lambda: ATTACK)
    assert_harmless(page.now_html())


def test_the_html_helpers_escape_labels_and_classes():
    assert_harmless(html.table([ATTACK], [[ATTACK]]), 2)
    assert Parts(html.bar(0.5, ATTACK)).attributes <= ATTRIBUTES
    assert Parts(html.tag("p", "x", ATTACK)).attributes == {"class"}
    assert Parts(html.conversation([{"role": ATTACK, "content": ATTACK}])).tags <= TAGS
    assert_harmless(html.answer(ATTACK, ATTACK), 2)
    assert_harmless(html.details(ATTACK, [html.tag("p", ATTACK)], opened=True), 2)
    assert_harmless(html.tokens([ATTACK, ATTACK], [True, False], "pg-chosen"), 2)
    assert_harmless(html.heat([ATTACK], [0.3], [1.0]))
    assert_harmless(html.alert(ATTACK, ATTACK), 2)
    assert_harmless(html.button(ATTACK, ATTACK, ATTACK, ATTACK))
    assert_harmless(html.select(ATTACK, [(ATTACK, ATTACK)], ATTACK))
    assert_harmless(html.field(ATTACK, ATTACK), 2)
    assert_harmless(html.side(ATTACK, ATTACK, won=False), 2)
    assert_harmless(html.marked([html.tag("p", ATTACK)], ATTACK, row=ATTACK))
    assert_harmless(html.histogram(ATTACK, [(ATTACK, 1)], (ATTACK, ATTACK)))


# ---- the timer, the fetching


def changes(values: list) -> list[bool]:
    return [not (isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1) for value in values]


@pytest.fixture
def run(tiny_model):
    return runs.create("first", request_of_a_run())


def request_of_a_run() -> dict:
    return {"stage": "sft", "base_title": "tiny", "base": "embedded", "dataset": {"name": "sums"}, "settings": {}}


def test_a_tick_shows_the_newest_run_and_then_only_what_is_new(run):
    shown = stage.tick("sft", None, None)
    assert (shown[0].value, all(changes(shown))) == (run.id, True)
    assert not any(changes(stage.tick("sft", run.id, shown[-1])))
    run.log("train", 1, {"loss": 2.0})
    later = stage.tick("sft", run.id, shown[-1])
    assert changes(later)[:2] == [False, False]  # the pickers stay
    assert all(changes(later)[2:])
    assert list(later[3]["value"]["loss"]) == [2.0]


def test_a_plot_is_given_other_colours_only_where_another_run_has_other_series(run):
    """It takes its series from the first frame and looks again only when its colours change."""
    run.log("eval", 0, {"eval_loss": 2.0})
    assert stage.shown("sft", run.id)[1]["color_map"] == stage.COLOURS  # training has its place already
    run.log("train", 1, {"loss": 2.0})
    assert stage.shown("sft", run.id)[1]["color_map"] == stage.COLOURS
    assert stage.shown("sft", run.id)[2] is None  # no point yet, so no axes
    bare = runs.create("bare", request_of_a_run())
    bare.log("train", 1, {"loss": 2.0})
    assert stage.shown("sft", bare.id)[1]["color_map"] == {"training": stage.COLOURS["training"]}


def test_a_run_started_on_another_page_appears_in_the_picker(run):
    seen = stage.tick("sft", run.id, None)[-1]
    other = runs.create("second", request_of_a_run())
    later = stage.tick("sft", run.id, seen)
    assert [value for _, value in later[0].choices] == [other.id, run.id]
    assert later[0].value == run.id  # nobody is taken away from what they look at
    assert not any(changes(later)[2:-1])
    assert not any(changes(stage.tick("sft", run.id, later[-1])))


def test_a_chosen_run_is_shown_and_the_next_tick_repeats_nothing_but_the_pickers(run):
    shown = stage.shown("sft", run.id)
    later = stage.tick("sft", run.id, shown[-1])
    assert not any(changes(later)[2:-1])


@pytest.mark.parametrize("name", launch.STAGES)
def test_a_tick_has_a_value_for_every_output_of_every_stage(name):
    _, tab = laid_out(lambda: stage.build(name))
    metrics = list(launch.stage(name).METRICS)
    more = {"ppo": 4}.get(name, 0)  # the plot against √KL; the rollouts' picker, list and state
    assert len(stage.tick(name, None, None)) == 1 + len(tab.offers) + len(tab.outputs)
    assert len(stage.shown(name, None)) == len(tab.outputs) == 2 * len(metrics) + 4 + more
    assert len(tab.offers) == 1 + (name == "ppo")
    seen = stage.tick(name, None, None)[-1]
    assert not any(changes(stage.tick(name, None, seen)))
    assert len(stage.tick(name, None, seen)) == 1 + len(tab.offers) + len(tab.outputs)
    plots, readings = tab.outputs[1 : 1 + len(metrics)], tab.outputs[1 + len(metrics) : 1 + 2 * len(metrics)]
    assert [plot.elem_id for plot in plots] == [f"plot-{name}-{metric.replace('/', '-')}" for metric in metrics]
    assert {type(reading) for reading in readings} == {gr.HTML}
    assert tab.outputs[0].elem_id == f"{name}-status"


def test_a_deleted_run_gives_way_to_another(run):
    other = runs.create("second", request_of_a_run())
    seen = stage.tick("sft", other.id, None)[-1]
    other.update(state="stopped")
    other.delete()
    assert stage.tick("sft", other.id, seen)[0].value == run.id


def test_a_model_that_was_fetched_can_be_used_and_one_that_was_not_is_fetched_once(monkeypatch):
    ref, started = "someone/some-model", []

    class Process:
        returncode = None

        def __init__(self, command, **options):
            started.append(command[-1])

        def poll(self):
            return self.returncode

    monkeypatch.setattr(fetching, "_process", None)
    monkeypatch.setattr(fetching, "_ref", "")
    monkeypatch.setattr(fetching.subprocess, "Popen", Process)
    for _ in range(2):
        assert fetching.ready_or_fetch(ref).startswith(f"Fetching {ref} first.")
    assert fetching.ready_or_fetch("someone/other").startswith(f"{ref} is being fetched")
    assert started == [ref]
    fetching._process.returncode = 1
    assert fetching.status()
    assert fetching.ready_or_fetch(ref).startswith(f"Fetching {ref} failed.")
    assert fetching.status() == ""  # told once
    assert fetching.ready_or_fetch(ref).startswith(f"Fetching {ref} first.")
    assert started == [ref, ref]
    fetching._process.returncode = 0
    assert fetching.ready_or_fetch(ref) is None


def test_a_question_to_a_deleted_run_is_a_sentence():
    asking = chat.answer("base", "run_000000000000", "Why?", [[], []], threading.Event(), max_new_tokens=8)
    with pytest.raises(gr.Error, match="There is no run run_000000000000; it may have been deleted"):
        next(asking)


# ---- every stage's run, as the page shows it


def words_of(shown: str) -> str:
    return Parts(shown).text


@pytest.mark.parametrize("name", launch.STAGES)
def test_a_finished_run_says_what_was_proven_how_it_ended_and_what_comes_next(trained, server_runs, name):
    run, module = trained[name], launch.stage(name)
    shown = view.status_html(run)
    words = words_of(shown)
    proofs = run.proofs()
    assert len(proofs) >= 3
    assert f"Proven before the first step: {len(proofs)} of {len(proofs)}" in words
    assert [words.count("✓"), words.count("✗")] == [len(proofs), 0]
    assert all(f"✓ {proof['name']}: {proof['words']}" in words for proof in proofs)
    assert "open" not in Parts(shown).attributes  # what went well stays folded
    assert module.outcome(run) in words
    assert "not measured" not in module.outcome(run)
    assert f"Next: {module.NEXT[0].lower()}{module.NEXT[1:]}" in words
    assert "step 2 of 2" in words.casefold()


def test_a_failed_proof_stands_open_with_its_reason(run):
    reason = "No answer ends with <|im_end|>, so the model would never learn to stop."
    run.write_proofs(
        [
            {"name": "The base is the one that was asked for", "passed": True, "words": "Same weights."},
            {"name": "The end token is inside the labels", "passed": False, "words": reason},
        ]
    )
    run.update(state="failed", phase="ended", message=f"The end token is inside the labels: {reason}")
    shown = view.status_html(run)
    assert "open" in Parts(shown).attributes
    assert f"✗ The end token is inside the labels: {reason}" in words_of(shown)
    assert "Proven before the first step: 1 of 2" in words_of(shown)
    assert "Next:" not in words_of(shown)


def test_proofs_that_have_just_been_written_are_shown_by_the_next_tick(run):
    seen = stage.tick("sft", run.id, None)[-1]
    run.write_proofs([{"name": "Both sides differ", "passed": True, "words": "In all."}])
    assert "✓ Both sides differ: In all." in words_of(stage.tick("sft", run.id, seen)[2])


@pytest.mark.parametrize("name", launch.STAGES)
def test_every_curve_of_a_finished_run_is_drawn_with_a_sentence_under_it(trained, server_runs, name):
    shown = stage.shown(name, trained[name].id)
    metrics = list(launch.stage(name).METRICS)
    curves = [update["value"] for update in shown[1 : 1 + len(metrics)]]
    readings = shown[1 + len(metrics) : 1 + 2 * len(metrics)]
    for metric, curve, reading in zip(metrics, curves, readings, strict=True):
        assert list(curve.columns) == ["step", metric, "series"]
        assert len(curve)
        assert words_of(reading).endswith("."), metric
    held = dict(zip(metrics, curves, strict=True))["objective/scores" if name == "ppo" else "loss"]
    assert set(held["series"]) == {"training", "held-out"}
    assert list(held[held["series"] == "held-out"]["step"]) == [0, 2]


def test_the_training_line_has_its_place_before_its_first_point():
    held = {"kind": "eval", "step": 0, "values": {"eval_loss": 2.0}}
    first = view.curve([held], "loss")
    assert list(first["series"]) == ["training", "held-out"]
    assert first["loss"].isna().tolist() == [True, False]
    then = view.curve([held, {"kind": "train", "step": 1, "values": {"loss": 3.0}}], "loss")
    assert then.values.tolist() == [[1, 3.0, "training"], [0, 2.0, "held-out"]]


def test_a_reading_says_what_the_curve_says_and_nothing_before_there_is_one(run):
    assert words_of(view.reading_html([], "loss")) == ""
    for step, loss in enumerate((2.0, 1.9, 1.0)):
        run.log("eval", step, {"eval_loss": loss})
    said = words_of(view.reading_html(run.metrics(), "loss"))
    assert said == "The held-out loss falls: what is learned carries over to rows never trained on."
    shown = stage.shown("sft", run.id)
    assert words_of(shown[1 + len(launch.stage("sft").METRICS)]) == said


def continued(parent: Run | None, name: str, made_by: str = "sft") -> Run:
    asked = {"stage": made_by, "parent": parent and {"id": parent.id, "name": parent.name, "weights_sha256": ""}}
    return runs.create(name, {**request_of_a_run(), **asked})


def finished(run: Run) -> Run:
    run.adapter.mkdir()
    (run.adapter / WEIGHTS).touch()
    run.update(state="finished")
    return run


def test_lineage_names_every_layer_oldest_first_and_a_deleted_one_by_its_name(run):
    second = finished(continued(run, "second"))
    third = continued(second, "third", "dpo")
    assert view.lineage(run) == "tiny + SFT(first)"
    assert view.lineage(third) == "tiny + SFT(first) + SFT(second) + DPO(third)"
    run.update(state="stopped")
    run.delete()
    assert view.lineage(third) == "tiny + first (deleted) + SFT(second) + DPO(third)"
    third.update(state="stopped")
    second.delete()
    assert view.lineage(third) == "tiny + second (deleted) + DPO(third)"


def test_lineage_ends_where_runs_name_each_other(run):
    other = continued(run, "other")
    (run.folder / "run.json").write_text(json.dumps({**run.request, "parent": {"id": other.id, "name": "other"}}))
    assert view.lineage(run) == "tiny + SFT(other) + SFT(first)"


def test_runs_can_be_continued_once_they_have_ended_unless_they_only_score(run):
    seen = stage.tick("dpo", None, None)[-1]
    run.adapter.mkdir()
    (run.adapter / WEIGHTS).touch()  # saved, not ended
    run.update(state="running", pid=os.getpid(), pid_started=psutil.Process().create_time())
    assert not any(changes(stage.tick("dpo", None, seen)))
    run.update(state="finished")
    later = stage.tick("dpo", None, seen)
    assert changes(later)[:2] == [True, True]
    assert later[1].choices == [(stage.FRESH, stage.FRESH), ("tiny + SFT(first)", run.id)]
    assert not any(changes(stage.tick("dpo", None, later[-1])))
    finished(continued(run, "judge", "reward"))
    assert not changes(stage.tick("dpo", None, later[-1]))[1]
    newest = finished(continued(run, "preferrer", "dpo"))
    assert [value for _, value in stage.parent_choices()] == [stage.FRESH, newest.id, run.id]
    assert [value for _, value in stage.parent_choices("sft")] == [stage.FRESH, run.id]


def test_the_chat_offers_every_run_that_answers_and_no_reward_run(trained, server_runs):
    offered = dict(chat.choices())
    assert offered["the starting model"] == chat.START
    assert offered["tiny + SFT(imitator) + DPO(preferrer)"] == trained["dpo"].id
    assert offered["tiny + SFT(imitator)"] == trained["sft"].id
    assert trained["reward"].id not in offered.values()
    _, right = chat.refresh(chat.START, trained["reward"].id, [[], []])
    assert right.value != trained["reward"].id
    assert trained["reward"].id in [value for _, value in explorer.choices()]
    assert not {trained["sft"].id, trained["dpo"].id} & {value for _, value in explorer.choices()}


def test_the_runs_table_says_stage_and_layers_of_every_run(trained, server_runs):
    shown = history.listing_html()
    for head in ("Run", "Stage", "What it is made of", "Data", "State", "Step"):
        assert html.tag("th", head) in shown
    for name, lineage in (
        ("sft", "tiny + SFT(imitator)"),
        ("reward", "tiny + SFT(imitator) + REWARD(judge)"),
        ("ppo", "tiny + SFT(imitator) + PPO(striver)"),
        ("dpo", "tiny + SFT(imitator) + DPO(preferrer)"),
    ):
        run = trained[name]
        cells = [run.name, name, lineage, ROWS[name], "Finished", "2 of 2"]
        assert "".join(html.tag("td", cell) for cell in cells) in shown
        assert f'"weights_sha256": "{weights_sha256(trained["sft"])}"' in words_of(history.details_html(run.id)) or (
            name == "sft"
        )


# ---- presets


@pytest.fixture
def filled(home):
    """What choosing a preset fills in: a stage and a preset's name → setting or field → value."""

    def fill(name: str, preset: str) -> dict[str, object]:
        blocks, (fields, _) = laid_out(lambda: stage._form(launch.stage(name)))
        (event,) = [event for event in blocks.fns.values() if event.fn.__name__ == "fill"]
        found = event.fn(preset)
        assert set(found) <= set(event.outputs)
        names = {component: key for key, component in fields.items()}
        return {names.get(component, "about"): value for component, value in found.items()}

    return fill


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in launch.STAGES for preset in launch.presets(name)]
)
def test_a_preset_fills_the_form_and_suggests_the_newest_run_that_it_continues(filled, tiny_model, name, preset):
    entry, module = launch.presets(name)[preset], launch.stage(name)
    expected = {
        **module.Settings.parse(entry["settings"]).values(),
        "about": entry["about"],
        "data": library.find(entry["data"], module.COLUMNS).id,
    }
    assert filled(name, preset) == {**expected, "parent": stage.FRESH}  # no run is there yet
    for made_by in ("sft", "sft", "reward", "ppo", "dpo"):
        made = finished(continued(None, "one", made_by))
        (made.adapter / "scores.json").write_text('{"std": 1.0}')
    wanted = next((v for _, v in stage.parent_choices(entry.get("parent") or "none") if v != stage.FRESH), stage.FRESH)
    assert (wanted != stage.FRESH) == ("parent" in entry)
    judges = {setting: form.offered_runs(made_by)[1][1] for setting, made_by in entry.get("runs", {}).items()}
    assert filled(name, preset) == {**expected, "parent": wanted, **judges}


def test_a_preset_that_continues_sft_suggests_the_newest_such_run(filled, tmp_path, monkeypatch):
    (tmp_path / "dpo").mkdir()
    preset = {"about": "After SFT.", "data": "pocket-tutor", "parent": "sft", "settings": {"beta": 0.2}}
    (tmp_path / "dpo" / "mine.yaml").write_text(json.dumps(preset))
    monkeypatch.setattr(launch, "PRESETS", tmp_path)
    assert filled("dpo", "mine")["parent"] == stage.FRESH
    older, newer = (finished(continued(None, name)) for name in ("older", "newer"))
    finished(continued(newer, "layer", "dpo"))
    assert filled("dpo", "mine")["parent"] == newer.id
    newer.delete()
    assert filled("dpo", "mine")["parent"] == older.id
    assert (filled("dpo", "mine")["beta"], filled("dpo", "mine")["data"]) == (0.2, "pocket-tutor-preferences")
    assert filled("dpo", stage.OWN) == {"about": ""}


def test_a_preset_that_names_a_reward_run_takes_the_newest_whose_scores_were_measured(filled, tmp_path, monkeypatch):
    (tmp_path / "ppo").mkdir()
    preset = {
        "about": "On both.",
        "data": "pocket-tutor",
        "parent": "sft",
        "runs": {"reward_run": "reward"},
        "settings": {},
    }
    (tmp_path / "ppo" / "mine.yaml").write_text(json.dumps(preset))
    monkeypatch.setattr(launch, "PRESETS", tmp_path)
    assert filled("ppo", "mine")["reward_run"] == ""
    older, newer, unmeasured = (finished(continued(None, word, "reward")) for word in ("older", "newer", "unmeasured"))
    for judge in (older, newer):
        (judge.adapter / "scores.json").write_text('{"std": 1.5}')
    unmeasured.adapter.joinpath("scores.json").write_text("{}")
    assert filled("ppo", "mine")["reward_run"] == newer.id
    newer.update(state="stopped")
    assert filled("ppo", "mine")["reward_run"] == older.id
    assert form.offered_runs("reward") == [form.NO_RUN, ("older", older.id)]


def test_the_reward_runs_are_offered_as_soon_as_they_can_be_used_and_only_then(run):
    shown = stage.tick("ppo", None, None)
    assert shown[2].choices == [form.NO_RUN]
    judge = finished(continued(None, "judge", "reward"))
    assert not any(changes(stage.tick("ppo", None, shown[-1])))  # its scores are not measured yet
    (judge.adapter / "scores.json").write_text('{"std": 1.5}')
    later = stage.tick("ppo", None, shown[-1])
    assert changes(later)[:3] == [True, True, True]
    assert later[2].choices == [form.NO_RUN, ("judge", judge.id)]
    assert not any(changes(later)[3:-1])
    assert not any(changes(stage.tick("ppo", None, later[-1])))


def test_a_setting_that_names_a_run_is_a_list_that_takes_any_name():
    widget = laid_out(lambda: form.widget(launch.stage("ppo").Settings.specs()["reward_run"]))[1]
    assert isinstance(widget, gr.Dropdown)
    assert (widget.value, widget.allow_custom_value, widget.choices) == ("", True, [form.NO_RUN])


# ---- the Data tab with pairs


PAIRS = "prompt,chosen,rejected\n" + "".join(
    f"Is {i} even?,{'Yes' if i % 2 == 0 else 'No'}.,I would have to think about {i} for a while.\n" for i in range(30)
)


def test_pairs_are_reported_with_what_length_alone_would_tell(tmp_path, embedded_model):
    shown = opened(tmp_path, "even.csv", (PAIRS + "Is 3 even?,Same.,Same.\n").encode())
    words = words_of(shown["report"])
    assert (len(shown["desk"].looked.rows), shown["name"]) == (30, "even")
    assert "30 of 31 rows kept" in words
    assert "both answers are the same" in words
    assert "<td>31</td><td>both answers are the same</td>" in shown["dropped_rows"]
    assert "no question is on both sides" in words
    assert f"The longer answer is chosen in {wilson(0, 30)}" in words
    assert "a model may learn length instead of what you mean" in words


def test_pairs_of_equal_length_are_not_warned_of(tmp_path, embedded_model):
    even = "prompt,chosen,rejected\n" + "".join(f"Is {i} even?,Yes.,Not.\n" for i in range(30))
    words = words_of(opened(tmp_path, "even.csv", even.encode())["report"])
    assert f"The longer answer is chosen in {wilson(15, 30)}." in words
    assert "learn length" not in words


def test_both_sides_of_a_pair_are_shown_as_chat_and_as_tokens_and_the_prompt_once(tmp_path, embedded_model):
    pair = {"prompt": "Is 4 even?", "chosen": "Certainly.", "rejected": "Perhaps."}
    shown = opened(tmp_path, "pair.jsonl", json.dumps(pair).encode())
    spans = {
        css: "".join(re.findall(f'<span class="{css}">([^<]*)', shown["rows"])) for css in ("pg-chosen", "pg-rejected")
    }
    assert spans == {"pg-chosen": "Certainly.&lt;|im_end|&gt;", "pg-rejected": "Perhaps.&lt;|im_end|&gt;"}
    assert words_of(shown["rows"]).count("Is 4 even?") == 2  # as chat and as tokens
    assert 'pg-side"><strong>chosen' in shown["rows"]
    assert 'pg-side pg-lost"><strong>rejected' in shown["rows"]
    short = data.views(shown["desk"], 16, EMBEDDED)
    assert "This pair is too long and left out." in words_of(short["rows"])
    assert "1 pairs are longer than 16 tokens and left out: row 1." in words_of(short["report"])


def test_kept_pairs_are_offered_to_the_stages_that_learn_from_pairs(tmp_path, embedded_model, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Info", told.append)
    before = opened(tmp_path, "even.csv", PAIRS.encode())
    kept = data.keep(before["desk"], before["name"], 512, EMBEDDED)
    assert told == ["Kept as even. Next: the Reward model or the DPO tab."]
    stored = kept["stored"]
    assert ("even (27 + 3 pairs)", stored.value) in stored.choices
    offered = {name: [value for _, value in stage.data_choices(launch.stage(name).COLUMNS)] for name in launch.STAGES}
    assert {name for name in launch.STAGES if stored.value in offered[name]} == {"reward", "ppo", "dpo"}
    assert "pocket-tutor-preferences" in offered["dpo"]
    assert "pocket-tutor" in offered["sft"]
    assert "27 pairs to learn from, 3 held out to measure with." in kept["report"]
    assert "pg-rejected" in kept["rows"]
    assert kept["desk"].looked.draft.rows["train"] == library.find("even").rows("train")
