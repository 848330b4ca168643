"""Datasets of the Hub: rows through the real `datasets` library from a Hub of our own on this machine."""

import gzip
import io
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from playground.data import child, hub
from playground.data.records import DataError, Limits

SHA = "0123456789abcdef0123456789abcdef01234567"
PAIRS = [{"prompt": f"Question {i}?", "chosen": f"Answer {i}.", "rejected": "Go away."} for i in range(30)]


def jsonl(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(columns: dict) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def card(configs: str) -> bytes:
    return f"---\nconfigs:\n{configs}---\n".encode()


MEDIA = {"text": ["a", "b"], "image": [{"bytes": b"\x89PNG", "path": "a.png"}] * 2}
REPOSITORIES = {
    "owner/pairs": {"train.jsonl": jsonl(PAIRS), "test.jsonl": jsonl(PAIRS[:2])},
    "owner/squad": {"train.csv": b"question,answer\nWhy?,So.\n"},
    "owner/packed": {"data/train-00000-of-00001.jsonl.gz": gzip.compress(jsonl(PAIRS))},
    "owner/subsets": {
        "README.md": card("- config_name: en\n  data_files: en.csv\n- config_name: de\n  data_files: de/*.csv\n"),
        "en.csv": b"prompt,completion\nHi,Hello\n",
        "de/a.csv": b"prompt,completion\nHallo,Guten Tag\n",
    },
    "owner/pictures": {"data/train.parquet": parquet(MEDIA)},
    "owner/folder": {"train/a.png": b"\x89PNG\r\n\x1a\n", "train/b.png": b"\x89PNG\r\n\x1a\n"},
    "owner/script": {"script.py": b"raise SystemExit", "data.csv": b"a,b\n1,2\n"},
    "owner/empty": {"README.md": b"# Nothing here\n"},
    "owner/thief": {"README.md": card("- config_name: default\n  data_files: /etc/passwd\n"), "a.txt": b"a\n"},
    "owner/caller": {"README.md": card("- config_name: default\n  data_files: http://127.0.0.1:9/a.csv\n")},
    "owner/broken": {"train.json": b'[{"a": 1}, {"a": '},
    "owner/deep": {"train.jsonl": jsonl([{"text": "x" * 40_000}, {"text": "fine"}])},
    "owner/gated": {"train.csv": b"a,b\n1,2\n"},
    "owner/slow": {"train.csv": b"a,b\n1,2\n"},
}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as reading a dataset takes."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str | None]]] = []  # path and token

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path).strip("/")
        self.seen.append((path, self.headers.get("Authorization")))
        path = path.removeprefix("api/").removeprefix("datasets/")
        if path == "squad":  # a dataset of the first years, moved to its owner
            path = "owner/squad"
        name = next((name for name in REPOSITORIES if f"{path}/".startswith(f"{name}/")), None)
        if name is None:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if name == "owner/gated":
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        if name == "owner/slow":
            time.sleep(20)
        files = REPOSITORIES[name]
        what, _, rest = path.removeprefix(name).strip("/").partition("/")
        file = rest.partition("/")[2]
        if what == "resolve":
            return self._file(files.get(file))
        if what == "tree":
            return self._tree(files, file)
        if what == "paths-info":
            asked = urllib.parse.parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get("paths", [])
            return self._json([self._entry(files, path) for path in asked if path in files])
        siblings = [{"rfilename": file} for file in files]
        return self._json({"id": name, "sha": SHA, "siblings": siblings, "private": False, "tags": []})

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        inside = [file for file in files if f"/{file}".startswith(f"/{folder}/".replace("//", "/"))]
        folders = {str(parent) for file in inside for parent in Path(file).parents if str(parent) not in (".", folder)}
        entries = [self._entry(files, file) for file in inside]
        self._json([{"type": "directory", "path": path, "oid": SHA, "size": 0} for path in sorted(folders)] + entries)

    def _entry(self, files: dict[str, bytes], path: str) -> dict:
        return {"type": "file", "path": path, "size": len(files[path]), "oid": SHA}

    def _file(self, content: bytes | None) -> None:
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA})
        headers = {"ETag": f'"{len(content)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            part = content[int(first) : int(last or len(content)) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            return self._send(206, part, headers)
        return self._send(200, content, headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def online(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    Hub.seen.clear()


def test_the_first_rows_of_a_split_without_a_token(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_host")
    monkeypatch.setenv("SPACE_ID", "owner/space")
    told: list[tuple[int, str]] = []
    rows = hub.read_dataset(" owner/pairs ", split="train", most_rows=20, progress=lambda *said: told.append(said))
    assert [(row.row, row.value, row.problem) for row in rows] == [(i + 1, PAIRS[i], None) for i in range(20)]
    assert told and not any(note for _, note in told)
    assert {token for _, token in Hub.seen} == {None}


def test_a_person_s_own_token_opens_their_datasets(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert hub.splits("owner/pairs") == [("default", "train"), ("default", "test")]
    assert {token for _, token in Hub.seen} == {"Bearer hf_mine"}


def test_a_dataset_that_is_called_by_one_word(online):
    assert [row.value for row in hub.read_dataset("squad")] == [{"question": "Why?", "answer": "So."}]


def test_packed_files_and_row_limits(online):
    rows = hub.read_dataset("owner/packed", limits=Limits(rows=7))
    assert [row.value for row in rows] == PAIRS[:7]


def test_subsets(online):
    assert hub.splits("owner/subsets") == [("en", "train"), ("de", "train")]
    assert [row.value for row in hub.read_dataset("owner/subsets", "de")] == [
        {"prompt": "Hallo", "completion": "Guten Tag"}
    ]


def test_pictures_are_left_out_and_said_so(online):
    told: list[tuple[int, str]] = []
    rows = hub.read_dataset("owner/pictures", progress=lambda *said: told.append(said))
    assert [row.value for row in rows] == [{"text": "a"}, {"text": "b"}]
    assert [note for _, note in told if note] == ["the column 'image' holds pictures or sounds and is left out"]


def test_rows_are_checked_as_those_of_a_file(online):
    rows = hub.read_dataset("owner/deep")
    assert [row.problem for row in rows] == ["a field is larger than 32 KB: 'text'", None]


def test_what_needs_too_much_memory_is_cut_and_said_so(online):
    told: list[tuple[int, str]] = []
    rows = hub.read_dataset("owner/pairs", limits=Limits(values=21), progress=lambda *said: told.append(said))
    assert len(rows) == 5  # four values a row
    note = "only the first 5 rows are taken; more would need too much memory"
    assert [said for _, said in told if said] == [note]


@pytest.mark.parametrize(
    ("name", "subset", "split", "sentence"),
    [
        ("owner/missing", "", "train", "there is no public dataset of this name on the Hub"),
        (
            "owner/gated",
            "",
            "train",
            "its terms must be accepted by each user; download it yourself and bring the file",
        ),
        ("owner/script", "", "train", "this dataset needs code of its own to load; that is refused"),
        (
            "owner/empty",
            "",
            "train",
            "it holds no table that can be read; JSON, CSV, Parquet, Arrow and text files are",
        ),
        ("owner/folder", "", "train", "it is stored as imagefolder, which is no table; only arrow, csv, json, "),
        ("owner/pairs", "", "dev", "there is no split 'dev'; choose one of train, test"),
        ("owner/subsets", "fr", "train", "there is no subset 'fr'; choose one of en, de"),
        ("owner/subsets", "", "train", "it has several subsets; choose one of en, de"),
        ("owner/broken", "", "train", "it can't be read (ValueError); bring a file of the dataset instead"),
        ("owner/thief", "", "train", "its card names a file outside of the dataset: '/etc/passwd'; that is refused"),
        ("owner/caller", "", "train", "its card names a file outside of the dataset: 'http://127.0.0.1:9/a.csv'; that"),
    ],
)
def test_what_can_t_be_read_gets_one_sentence(online, name, subset, split, sentence):
    with pytest.raises(DataError) as caught:
        hub.read_dataset(name, subset, split)
    assert str(caught.value).startswith(f"{name}: {sentence}")
    assert "\n" not in str(caught.value)


def test_a_hub_that_can_t_be_reached(monkeypatch):
    with pytest.raises(DataError, match=r"^owner/name: the Hub can't be reached; bring a file of the dataset instead$"):
        hub.splits("owner/name")  # the tests are offline
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match=r"^owner/name: the Hub can't be reached"):
        hub.read_dataset("owner/name")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "/",
        "owner/",
        "a/b/c",
        "../secrets",
        "owner/..",
        "https://huggingface.co/datasets/a/b",
        "a--b",
        "-x/y",
        "é/b",
    ],
)
def test_what_is_no_id_never_reaches_the_network(name, monkeypatch):
    monkeypatch.setattr(child, "records", lambda *args: pytest.fail("asked"))
    with pytest.raises(DataError, match="this is no dataset id; it looks like owner/name"):
        hub.read_dataset(name)


def test_a_person_can_stop_it(online):
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"^owner/slow: stopped; no row was kept$"):
        hub.read_dataset("owner/slow", stop=lambda: any("slow" in path for path, _ in Hub.seen))
    assert time.monotonic() - begun < 15  # the Hub answers after 20 seconds


def test_a_child_is_watched_while_it_works(tmp_path):
    program = "import time\nfor i in range(4):\n    print(f'[{i}]', flush=True)\n    time.sleep(0.4)\n"
    (tmp_path / "slowly.py").write_text(program)
    seen: list[int] = []
    rows = list(child.records("slowly", [], 60, {"PYTHONPATH": str(tmp_path)}, seen.append))
    assert rows == [[i] for i in range(4)]
    assert {1, 2, 3} <= set(seen) and seen == sorted(seen)


@pytest.mark.parametrize("program", ["print('no JSON')", "raise SystemExit(3)", "while True: pass"])
def test_a_child_that_goes_wrong(tmp_path, program):
    (tmp_path / "wrong.py").write_text(program)
    with pytest.raises(child.Ended):
        list(child.records("wrong", [], 1, {"PYTHONPATH": str(tmp_path)}))


def test_a_reader_that_breaks_down_is_one_sentence(online, monkeypatch):
    monkeypatch.setattr(hub, "_SECONDS", 0)
    with pytest.raises(DataError, match=r"^owner/slow: it takes too much time or memory; take fewer rows$"):
        hub.read_dataset("owner/slow")


def test_the_child_gets_no_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_host")
    monkeypatch.setenv("SPACE_ID", "owner/space")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    env = child._environment(str(tmp_path)) | hub._environment()
    assert "https_proxy" in env and not {"OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} & set(env)


def test_importing_needs_no_heavy_library():
    code = (
        "import sys, playground.data.hub; print(sorted({'datasets', 'pyarrow', 'huggingface_hub'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "[]"
