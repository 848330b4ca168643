"""The page: a real server process asked over HTTP and by gradio_client, and its handlers in process."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from serving import serve

from playground.data import library
from playground.data.readers import RawRow
from playground.data.report import examine
from playground.runs import run as runs
from playground.stages.sft import SFTSettings
from playground.tabs import chat, data, fetching, history, html, page, stage, view
from playground.tabs.hosting import POLICY, ContentSecurityPolicy

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
INPUTS = {"textbox", "number", "slider", "dropdown", "checkbox", "radio", "checkboxgroup", "file", "code"}
WITHOUT_INFO = {
    "Upload a file": "gr.File has no info; the intro above it says what may be uploaded",
    "Your question": "its placeholder is an example, and a sentence under a chat's input would be in the way",
}

# Every one differs from its default and from every other, so that a value in the wrong field can't go unseen.
OTHER = {
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
    "probe_steps": 17,
    "probe_prompts": "What is 3 + 3?\nWhat is x = 4?",
    "probe_tokens": 19,
    "save_steps": 23,
    "seed": 29,
}


@pytest.fixture(scope="module")
def server_home(tmp_path_factory):
    """The server's home, with a dataset of forty sums in it."""
    home = tmp_path_factory.mktemp("page-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_HOME", str(home))
        stored_sums()
    return home


def stored_sums():
    raw = [RawRow(i, {"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."}, None) for i in range(40)]
    return library.store(examine(raw), "sums", "a test")


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


# ---- what the server sends


def test_the_page_opens(server):
    with urllib.request.urlopen(server[0], timeout=30) as answer:
        text = answer.read().decode()
    assert answer.status == 200
    assert "Alignment Playground" in text


def test_the_page_has_at_most_250_components(config):
    assert 50 < len(config["components"]) <= 250


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


def test_every_setting_is_in_the_form_with_its_own_words_and_default(config):
    shown = {c["props"].get("label"): c["props"] for c in config["components"] if c["type"] in INPUTS | {"number"}}
    for spec in SFTSettings.specs().values():
        if spec.label not in ("Seed", "Longest row"):  # other tabs have inputs of these names too
            assert shown[spec.label]["info"] == spec.help
            assert shown[spec.label]["value"] == spec.default


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


def test_every_value_of_the_form_lands_in_its_own_setting(visitor, server_runs, tiny_model):
    defaults = SFTSettings().values()
    assert OTHER.keys() == defaults.keys()
    assert not [name for name, value in OTHER.items() if value == defaults[name]]
    assert len(set(OTHER.values())) == len(OTHER)

    before = set(server_runs.list_runs())
    asked = {"data": library.find("sums").id, "base": str(tiny_model), "name": "kohya", **OTHER}
    picker = visitor().predict(**asked, api_name="/start_sft")
    (made,) = set(server_runs.list_runs()) - before
    assert picker["value"] == made.id
    assert made.request["settings"] == OTHER
    assert {type(value) for value in made.request["settings"].values()} == {int, float, str}
    assert made.name == "kohya"
    assert made.request["base"] == str(tiny_model)
    assert made.request["dataset"]["name"] == "sums"
    assert made.request["seed"] == 29

    # Stopped by another visitor, who has never seen the page on which it was started.
    assert visitor().predict(run="kohya", api_name="/stop_sft") in ("running", "stopped")
    until = time.monotonic() + 120
    while made.status().active and time.monotonic() < until:
        time.sleep(0.2)
    assert made.status().state == "stopped"
    assert made.status().step < 997


def test_what_is_left_out_keeps_its_default(client, server_runs, tiny_model):
    before = set(server_runs.list_runs())
    client.predict(data=library.find("sums").id, base=str(tiny_model), max_steps=900, api_name="/start_sft")
    (made,) = set(server_runs.list_runs()) - before
    client.predict(run=made.id, api_name="/stop_sft")
    assert made.request["settings"] == {**SFTSettings().values(), "max_steps": 900}
    assert made.name == "sft-sums"


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
    assert set(named) == {"/start_sft", "/stop_sft"}
    parameters = [parameter["parameter_name"] for parameter in named["/start_sft"]["parameters"]]
    assert parameters == ["data", "base", "preset", "name", *SFTSettings.specs()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_server_has_not_loaded_torch_after_all_this(server, client, server_runs):
    libraries = Path(f"/proc/{server[1]}/maps").read_text()
    assert "libpython" in libraries or "/python" in libraries
    assert not [line for line in libraries.splitlines() if "libtorch" in line or "tokenizers_bnb" in line]


def test_the_page_its_uploads_and_its_timer_do_without_the_large_libraries(embedded_model, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,completion\n" + "".join(f"Q {i}?,A {i}.\n" for i in range(20)))
    program = f"""
import sys, app
from playground.data import library
from playground.runs import run
from playground.stages import launch
from playground.models import catalog
from playground.tabs import chat, data, fetching, history, page, stage
looked, name, *views = data._open_file({str(rows)!r}, 64)
data._save(looked, name)
data._open_stored(library.find("rows").id, 64)
launch.queue.start_worker = lambda: None
form = {{"base": "embedded", "data": library.find("rows").id, "name": "", "preset": stage.OWN, "max_steps": 1}}
stage._start("sft", form)
stage.tick("sft", None, None)
page.now_html(), history.listing_html(), history.details_html(run.list_runs()[0].id)
chat.refresh("base", "base", [[], []])
print([name for name in {HEAVY} if name in sys.modules], "pg-learned" in views[-1], len(run.list_runs()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["[] True 1"], done.stderr


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
        return data._open_file(str(path), 512)
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
    looked, stem, report, *_ = opened(tmp_path, "good.jsonl", ROW * 2)
    assert (len(looked.rows), stem) == (1, "good")
    assert "1 of 2 rows kept, recognised as prompt-completion." in report


def test_a_file_without_a_usable_row_is_shown_with_the_reasons_and_not_kept(tmp_path, embedded_model):
    looked, _, report, dropped, *_ = opened(tmp_path, "weather.csv", b"day,rain\nMonday,3\n,\n")
    assert "No row can be used: " in report
    assert "no columns of a known shape (found: day, rain)" in report
    assert dropped.value["data"][0][0] == 1
    with pytest.raises(gr.Error, match="No row can be used"):
        data._save(looked, "weather")


def test_nan_cells_are_missing_values(tmp_path, embedded_model):
    looked, *_ = opened(tmp_path, "nan.csv", b"prompt,completion\nWhy?,NaN\nWhy not?,Because.\n")
    assert [row.messages[-1]["content"] for row in looked.rows] == ["Because."]
    assert looked.report.dropped == [(1, "an empty assistant message")]


def test_pasted_text_is_refused_in_one_sentence_too(embedded_model):
    for text in ("", "   ", '{"prompt": ', "[" * 1000):
        with pytest.raises(gr.Error) as refused:
            data._open_text(text, 512)
        assert refused.value.message.startswith("pasted text: ")
        assert refused.value.message.isprintable()
    assert data._open_text(ROW.decode(), 512)[0].title == "pasted text"


def test_a_dataset_deleted_on_another_page_is_a_sentence(embedded_model):
    with pytest.raises(gr.Error, match="There is no dataset called"):
        data._open_stored("data_000000000000", 512)
    with pytest.raises(gr.Error, match="There is no dataset called"):
        data._delete("data_000000000000")


# ---- hostile text


ATTACK = "<img src=x onerror=\"alert('1')\"><script>alert(2)</script>'\">&lt;b&gt;"
TAGS = {"div", "p", "span", "strong", "br", "h2", "h3", "h4", "table", "thead", "tbody", "tr", "th", "td", "pre"}
ATTRIBUTES = {"class", "role", "style", "tabindex", "aria-live", "aria-label"}
ATTRIBUTES |= {"aria-valuemin", "aria-valuemax", "aria-valuenow"}


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


@pytest.fixture
def hostile_run(tiny_model):
    """A run in which every text that people or models write is an attack; its folder was written by hand."""
    request = {"stage": "sft", "base_title": ATTACK, "base": "embedded", "dataset": {"name": ATTACK}, "settings": {}}
    run = runs.create("x", request)
    path = run.folder / "run.json"
    path.write_text(json.dumps({**run.request, "name": ATTACK}))
    run.sample(0, ATTACK, ATTACK)
    run.update(state="queued", phase=ATTACK, step=1, total=2, message=ATTACK)
    run.write_receipt({"metrics": {}, "placement": ATTACK})
    return run


def test_run_names_are_cleaned_where_they_are_given(tiny_model):
    assert "<" not in runs.create(ATTACK, {}).name


def test_a_hostile_run_shows_as_text_everywhere(hostile_run):
    assert_harmless(view.status_html(hostile_run), 4)
    assert_harmless(view.probes_html(hostile_run), 2)
    assert_harmless(history.listing_html(), 3)
    assert_harmless(page.now_html())
    details = Parts(history.details_html(hostile_run.id))
    assert details.tags <= TAGS
    assert details.attributes <= ATTRIBUTES


def test_hostile_rows_show_as_text(tmp_path, embedded_model):
    row = json.dumps({"prompt": ATTACK, "completion": ATTACK}).encode()
    preview = opened(tmp_path, "rows.jsonl", row)[-1]
    assert_harmless(preview, 2)
    assert Parts(preview).text.count("onerror") == 4  # as chat and as tokens


def test_a_hostile_file_name_shows_as_text(tmp_path, embedded_model):
    name = ATTACK.replace("/", "") + ".jsonl"
    report = opened(tmp_path, name, ROW)[2]
    assert Parts(report).tags <= TAGS
    assert name in Parts(report).text


def test_hostile_columns_in_the_report_show_as_text(tmp_path, embedded_model):
    _, _, report, *_ = opened(tmp_path, "rows.jsonl", json.dumps({"<img src=x onerror=y>": "<script>"}).encode())
    assert Parts(report).tags <= TAGS
    assert "<img src=x onerror=y>" in Parts(report).text


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
    assert not changes(later)[0]  # the picker stays
    assert all(changes(later)[1:])
    assert list(later[2]["loss"]) == [2.0]


def test_a_run_started_on_another_page_appears_in_the_picker(run):
    seen = stage.tick("sft", run.id, None)[-1]
    other = runs.create("second", request_of_a_run())
    later = stage.tick("sft", run.id, seen)
    assert [value for _, value in later[0].choices] == [other.id, run.id]
    assert later[0].value == run.id  # nobody is taken away from what they look at
    assert not any(changes(later)[1:-1])
    assert not any(changes(stage.tick("sft", run.id, later[-1])))


def test_a_chosen_run_is_shown_and_the_next_tick_repeats_nothing_but_the_picker(run):
    shown = stage.shown("sft", run.id)
    later = stage.tick("sft", run.id, shown[-1])
    assert not any(changes(later)[1:-1])


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
    asking = chat.answer("base", "run_000000000000", "Why?", [[], []], max_new_tokens=8)
    with pytest.raises(gr.Error, match="There is no run run_000000000000; it may have been deleted"):
        next(asking)
