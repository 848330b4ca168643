"""Readers: every container, every kind of mess, and nothing but DataError for any content."""

import datetime as dt
import gzip
import io
import json
import random
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from playground.data.readers import LIMITS, DataError, Limits, RawRow, read_file, read_text

PAIR = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
SMALL = Limits(file_bytes=5000, rows=3, field_bytes=1024, depth=4, columns=3, values=30)


@pytest.fixture
def read(tmp_path):
    """Write content to a file under the given name and read it back."""

    def run(content: bytes | str, name: str = "data.txt", limits: Limits = LIMITS) -> list[RawRow]:
        path = tmp_path / "upload"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_file(path, name, limits)

    return run


def parquet(columns: dict | list, **options) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def values(rows: list[RawRow]) -> list:
    return [row.value for row in rows]


def jsonl(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


# ---- containers


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.txt", "d.csv", "d.parquet", "no suffix"])
@pytest.mark.parametrize(
    "content",
    [
        jsonl(PAIR, PAIR),
        json.dumps([PAIR, PAIR]),
        json.dumps([PAIR, PAIR], indent=2),
        json.dumps({"data": [PAIR, PAIR], "version": "1.0"}),
        json.dumps({"anything": [PAIR, PAIR]}, indent=1),
        json.dumps({key: [value, value] for key, value in PAIR.items()}),
        "[\n" + json.dumps(PAIR) + ",\n" + json.dumps(PAIR) + "\n]",
        "prompt,chosen,rejected\n" + 'Hi,"Hello!",Go away.\n' * 2,
        "prompt\tchosen\trejected\r\n" + "Hi\tHello!\tGo away.\r\n" * 2,
        "sep=;\nprompt;chosen;rejected\n" + "Hi;Hello!;Go away.\n" * 2,
        "\ufeffprompt;chosen;rejected\r" + "Hi;Hello!;Go away.\r" * 2,
    ],
)
def test_the_content_decides_the_format(read, content, name):
    assert values(read(content, name)) == [PAIR, PAIR]
    assert values(read_text(content)) == [PAIR, PAIR]
    assert values(read(content.removeprefix("\ufeff").encode("utf-16"), name)) == [PAIR, PAIR]
    assert values(read(gzip.compress(content.encode()), f"{name}.gz")) == [PAIR, PAIR]


def test_rows_are_lines_in_jsonl_and_records_elsewhere(read):
    assert [row.row for row in read("\n" + jsonl(PAIR) + "\n \n" + jsonl(PAIR))] == [2, 5]
    assert [row.row for row in read('prompt\n"two\nlines"\n\nthree\n')] == [1, 2]
    assert [row.row for row in read(json.dumps([PAIR, PAIR]))] == [1, 2]


@pytest.mark.parametrize(
    "record",
    [
        PAIR,
        {"messages": CHAT},
        {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]},
        {"prompt": "Hi", "answers": [{"answer": "Hello!", "rank": 1}, {"answer": "No.", "rank": 2}]},
        {"instruction": "Hi", "completions": [{"response": "Hello!"}], "models": ["a"]},
    ],
)
def test_a_single_object_is_one_row(read, record):
    assert values(read(json.dumps(record), "d.json")) == [record]
    assert values(read_text(json.dumps(record, indent=2))) == [record]
    assert values(read(jsonl(record), "d.jsonl")) == [record]


RECORDS = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(4)]


@pytest.mark.parametrize(
    "document",
    [
        {"train": RECORDS[:3], "test": RECORDS[3:]},
        {"version": 1, "train": RECORDS[:1], "validation": RECORDS[1:2], "test": RECORDS[2:], "notes": [{"by": "me"}]},
        {name: {str(n): record[name] for n, record in enumerate(RECORDS)} for name in PAIR},  # pandas' to_json()
        {name: {str(7 * n): record[name] for n, record in enumerate(RECORDS)} for name in PAIR},
        {str(n): record for n, record in enumerate(RECORDS)},  # orient="index"
        {f"a{n}": record for n, record in enumerate(RECORDS)},
    ],
)
def test_objects_that_hold_tables(read, document):
    assert values(read(json.dumps(document))) == RECORDS


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": CHAT[0], "chosen": CHAT[1], "rejected": {"role": "assistant", "content": "Go away."}},
        {"a1": PAIR},
        {"prompt": {"text": "Hi"}, "completion": {"text": "Hello!"}},
        {"a": {}, "b": {}},
        {"a": {"b": {"c": 1}}, "d": 2},
    ],
)
def test_objects_of_objects_that_are_one_record(read, document):
    assert values(read(json.dumps(document))) == [document]


def test_a_bare_list_of_turns_is_a_conversation(read):
    assert values(read(jsonl(CHAT, CHAT))) == [{"messages": CHAT}, {"messages": CHAT}]
    assert values(read(json.dumps(CHAT, indent=2), "d.json")) == [{"messages": CHAT}]
    assert values(read(json.dumps([CHAT, CHAT]), "d.json")) == [{"messages": CHAT}, {"messages": CHAT}]
    assert values(read(json.dumps({"messages": [CHAT, CHAT]}))) == [{"messages": CHAT}, {"messages": CHAT}]


def test_json_keeps_types_and_loses_what_is_not_json(read):
    text = '{"n": 1, "f": 1.5, "b": true, "no": null, "nan": NaN, "inf": -Infinity, "big": 1e999, "t": "NaN"}'
    expected = {"n": 1, "f": 1.5, "b": True, "no": None, "nan": None, "inf": None, "big": None, "t": "NaN"}
    assert values(read(text)) == [expected]


def test_five_thousand_digits_stay_text(read):
    assert values(read('{"n": ' + "7" * 5000 + "}")) == [{"n": "7" * 5000}]
    assert values(read("n\n[" + "7" * 4200 + "]\n", "d.csv")) == [{"n": ["7" * 4200]}]


def test_lone_surrogates_and_escaped_nul_are_replaced(read):
    text = r'{"a": "x\ud800y", "b": ["\udfff\u0000"], "\ud800": "\ud83d\ude00"}'
    assert values(read(text)) == [{"a": "x\ufffdy", "b": ["\ufffd\ufffd"], "\ufffd": "😀"}]
    assert values(read_text("a\ud800,b\nx\ud800,\0\n")) == [{"a\ufffd": "x\ufffd", "b": "\ufffd"}]


def test_raw_line_breaks_and_tabs_inside_json_strings(read):
    assert values(read('[{"a": "one\ntwo\tthree"}]')) == [{"a": "one\ntwo\tthree"}]


# ---- CSV


def test_excel_quoting_and_embedded_newlines(read):
    text = 'prompt,chosen\r\n"Say ""hi"", please","one\r\ntwo"\r\n"5"" pipe; a\tb",x\r\n'
    assert values(read(text)) == [
        {"prompt": 'Say "hi", please', "chosen": "one\ntwo"},
        {"prompt": '5" pipe; a\tb', "chosen": "x"},
    ]


def test_csv_cells_are_text_missing_or_lists(read):
    python, as_json = str(CHAT).replace('"', '""'), json.dumps(CHAT).replace('"', '""')
    text = f'n,empty,none,python,json\n12,,NaN,"{python}","{as_json}"\n1.5,,None,[INST] hi,{{not json\n'
    first, second = values(read(text, "d.csv"))
    assert first == {"n": "12", "empty": "", "none": None, "python": CHAT, "json": CHAT}
    assert second == {"n": "1.5", "empty": "", "none": None, "python": "[INST] hi", "json": "{not json"}


@pytest.mark.parametrize(
    "cell",
    [
        "[" * 150 + "]" * 150,
        "[" * 16_000,
        "[" + "-" * 16_000 + "1]",
        "[" + "1+" * 9_000 + "1]",
        "[__import__('os').getcwd()]",
        "[x for x in (1, 2)]",
        "{1, 2}",
        "[b'bytes']",
        "[1j]",
        "{(1, 2): 3}",
        "{[]: 3}",
        "['unclosed",
    ],
)
def test_cells_that_are_no_plain_literal_stay_text(read, cell):
    quoted = '"' + cell.replace('"', '""') + '"'
    assert values(read(f"id,cell\n1,{quoted}\n")) == [{"id": "1", "cell": cell}]


def test_python_literals_become_json_values(read):
    assert values(read("""cell\n"[(1, 2), {3: None}, 1e999, True]"\n""", "d.csv")) == [
        {"cell": [[1, 2], {"3": None}, None, True]}
    ]


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": 'it\'s "fine"'}, {"role": "assistant", "content": 'say "yes"'}],
        ["back\\slash", "line\nbreak\ttab", "\x00\x1f\x7f", "é😀\u2028", "'", '"', ""],
        [True, False, None, -1, 2.5, 1e-9, [[], {}, [[]]], {"a": {"b": []}}],
        ["True", "None", "nan, (1,)", "[x, ]", "{1: 2}", "# no comment"],
        {"nested": {"deep": ["a", "b"], "1": 1}, "": ""},
    ],
)
def test_lists_and_objects_as_python_prints_them(read, value):
    cell = '"' + repr(value).replace('"', '""') + '"'
    (row,) = values(read(f"cell,id\n{cell},1\n", "d.csv"))
    assert row["cell"] == json.loads(json.dumps(value).replace("\\u0000", "\\ufffd"))


TALKS = [
    [{"content": f"q {n}", "role": "user"}, {"content": 'it\'s "good"\n} {', "role": "assistant"}] for n in range(2)
]


@pytest.mark.parametrize(
    "value", [TALKS[0], TALKS, ["a", "it's b", "c" * 100], {"talk": TALKS[1], "tags": ["x", "y"]}, [["a"], ["b", "c"]]]
)
def test_tables_that_pandas_wrote_from_parquet(read, value):
    import pandas

    table = pandas.read_parquet(io.BytesIO(parquet({"cell": [value], "id": [1]})))
    (row,) = values(read(table.to_csv(index=False), "d.csv"))
    assert row == {"cell": value, "id": "1"}


@pytest.mark.parametrize(
    "cell", ["['a' " * 6_000, "[" + "] " * 15_000, "[]" + " " * 30_000 + "x", "[" + ", " * 15_000, "[array(" * 4_000]
)
def test_cells_of_gaps_take_no_time(read, cell):
    start = time.perf_counter()
    assert values(read(f'id;cell\n1;"{cell}"\n')) == [{"id": "1", "cell": cell}]
    assert time.perf_counter() - start < 2


def test_short_long_and_unnamed_columns(read):
    rows = read(",prompt ,chosen,,\n0,a,b,,\n1,a\n2,a,b,,,,\n3,a,b,c,d,e\n")
    assert rows[0].value == {"column 1": "0", "prompt": "a", "chosen": "b", "column 4": "", "column 5": ""}
    assert rows[1].value == {
        "column 1": "1",
        "prompt": "a",
        "chosen": None,
        "column 4": None,
        "column 5": None,
    }
    assert rows[2].value["chosen"] == "b"
    problem = "6 cells, but the header has 5; put a cell that holds the separator in quotation marks"
    assert rows[3] == RawRow(4, None, problem)


def test_an_unclosed_quote_is_that_rows_problem(read):
    rows = read('prompt,chosen\na,b\nc,"d\ne,f\n')
    assert rows[0].value == {"prompt": "a", "chosen": "b"}
    assert rows[1:] == [RawRow(2, None, "a quotation mark is opened in this row and never closed")]


# ---- Parquet


def test_parquet_nested_messages_and_numbers(read):
    rows = read(parquet({"messages": [CHAT, CHAT], "n": [1, None], "f": [0.5, float("nan")]}), "d.csv")
    assert values(rows) == [{"messages": CHAT, "n": 1, "f": 0.5}, {"messages": CHAT, "n": None, "f": None}]


def test_parquet_values_become_plain_python(read):
    import pyarrow as pa

    columns = {
        "when": pa.array([dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)], pa.timestamp("ns", "UTC")),
        "day": [dt.date(2024, 5, 1)],
        "clock": [dt.time(12, 30)],
        "span": [dt.timedelta(seconds=90)],
        "price": [Decimal("1.50")],
        "text": [b"bytes that are text"],
        "image": [{"bytes": b"\x89PNG\xff", "path": "a.png"}],
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "half": pa.array([0.5], pa.float16()),
    }
    assert values(read(parquet(columns))) == [
        {
            "when": "2024-05-01T12:00:00+00:00",
            "day": "2024-05-01",
            "clock": "12:30:00",
            "span": 90.0,
            "price": 1.5,
            "text": "bytes that are text",
            "image": {"bytes": None, "path": "a.png"},
            "map": [["k", 1]],
            "half": 0.5,
        }
    ]


def repeated(count: int, as_list: bool) -> bytes:
    """A million characters stored once and used count times: a few KB that would unpack to gigabytes."""
    import pyarrow as pa

    texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * 1_000_000]))
    if as_list:
        texts = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), texts)
    return parquet({"text": texts}, store_schema=False)


def test_parquet_bombs(read):
    with pytest.raises(DataError, match="more than 70,000,000 unpacked bytes, which is the limit"):
        read(repeated(40_000, as_list=False), limits=Limits(unpacked_bytes=70_000_000))
    with pytest.raises(DataError, match="the Parquet data is damaged or too much to unpack"):
        read(repeated(200_000, as_list=True))
    with pytest.raises(DataError, match="more than 1,000 unpacked bytes"):
        read(parquet({"a": ["x" * 5000]}), limits=Limits(unpacked_bytes=1000))


def test_parquet_limits_and_names(read):
    import pyarrow as pa

    with pytest.raises(DataError, match="more than 3 rows, which is the limit; use a part of it"):
        read(parquet({"a": [1, 2, 3, 4]}), limits=SMALL)
    with pytest.raises(DataError, match="more than 3 columns, which is the limit"):
        read(parquet({str(i): [1] for i in range(4)}), limits=SMALL)
    with pytest.raises(DataError, match="two columns have the same name; rename one"):
        read(parquet(pa.table([[1], [2]], names=["a", "a"])))
    with pytest.raises(DataError, match="there are no rows in it"):
        read(parquet({"a": []}))


@pytest.mark.parametrize("broken", ["magic only", "no footer", "no body", "footer length"])
def test_damaged_parquet(read, broken):
    data = parquet({"messages": [CHAT] * 50})
    content = {
        "magic only": b"PAR1",
        "no footer": data[: len(data) // 2],
        "no body": b"PAR1" + bytes(len(data) - 600) + data[-596:],
        "footer length": data[:-8] + b"\xff\xff\xff\x7fPAR1",
    }[broken]
    with pytest.raises(DataError, match=r"^d\.parquet: the Parquet data is damaged or too much to unpack"):
        read(content, "d.parquet")


# ---- gzip


def test_gzip_of_anything_is_unpacked_whatever_it_is_called(read):
    for content in (jsonl(PAIR), parquet({key: [text] for key, text in PAIR.items()})):
        assert values(read(gzip.compress(content if isinstance(content, bytes) else content.encode()), "a")) == [PAIR]
    two_parts = gzip.compress(jsonl(PAIR).encode()) + gzip.compress(jsonl(PAIR).encode())
    assert values(read(two_parts, "d.jsonl.gz")) == [PAIR, PAIR]
    assert values(read(jsonl(PAIR), "not really.gz")) == [PAIR]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (gzip.compress(gzip.compress(b"a,b\n1,2\n")), "it is a gzip file inside a gzip file; unpack it once"),
        (gzip.compress(b"a,b\n1,2\n")[:-9], "the gzip data is cut off; compress or download the file again"),
        (b"\x1f\x8b\x08\0", "the gzip data is cut off; compress or download the file again"),
        (b"\x1f\x8b\x08\0" + b"garbage" * 9, "the gzip data is damaged; compress or download the file again"),
        (gzip.compress(b"a,b\n1,2\n") + b"more", "the gzip data is damaged; compress or download the file again"),
        (b"\x1f\x8b\x09" + bytes(20), "the gzip data is damaged; compress or download the file again"),
        (
            gzip.compress(b"PK\x03\x04"),
            "this is a zip archive or an Office file, not a text table; unpack it",
        ),
        (gzip.compress(b" " * 20_000_001), "more than 20,000,000 unpacked bytes, which is the limit; use a part of it"),
        (gzip.compress(b""), "it is empty; add data"),
    ],
)
def test_gzip_that_can_t_be_used(read, content, sentence):
    with pytest.raises(DataError) as caught:
        read(content, "d.jsonl.gz")
    assert str(caught.value).startswith(f"d.jsonl.gz: {sentence}")


# ---- plain text


@pytest.mark.parametrize("name", ["prompts.txt", "notes.md", "no suffix", "prompts.txt.gz"])
@pytest.mark.parametrize(
    "lines",
    [
        ["How do I bake bread?", "Tell me a story, please."],
        ["Hello, friend", "What now, then?"],
        ["Name three colours: red, green and one more.", "Why?"],
        ["Summarise", "Translate"],
        ["1. Count to ten", "2. Say why 0.5 < 1; then stop"],
        ['Give me JSON like {"a": 1}', "[INST] is a tag, isn't it?"],
        ["你好,请介绍一下你自己。", "Was ist der Sinn, der Zweck?"],
    ],
)
def test_a_text_that_is_no_table_holds_a_prompt_a_line(read, lines, name):
    text = "\n" + lines[0] + "\r\n\n  " + lines[1] + " \n"
    expected = [RawRow(2, {"prompt": lines[0]}, None), RawRow(4, {"prompt": lines[1]}, None)]
    assert read(gzip.compress(text.encode()) if name.endswith("gz") else text, name) == expected
    assert read_text(text) == expected


@pytest.mark.parametrize("name", ["table.txt", "table.csv"])
@pytest.mark.parametrize("head", ["prompt", "Question", "id,prompt", "Text A,Text B", "user_input\tbest (1-5)", "a;b"])
def test_a_text_with_a_header_is_a_table(read, head, name):
    mark = next((mark for mark in ",\t;" if mark in head), ",")
    cells = head.split(mark)
    assert values(read(f"{head}\n{mark.join('x' * len(cells))}\n", name)) == [dict.fromkeys(cells, "x")]


GUANACO = "### Human: Why is the sky blue?### Assistant: Because of scattering, mostly."
CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>"
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Bye\n\nAssistant: Bye, friend."
ALPACA = "Below is an instruction, and a response.\n\n### Instruction:\nAdd 1, 2\n\n### Response:\n3"


@pytest.mark.parametrize("text", [GUANACO, CHATML, TRANSCRIPT, ALPACA])
def test_a_text_with_role_marks_is_a_conversation(read, text):
    assert values(read(text, "chat.txt")) == [{"text": text}]
    assert values(read_text(text)) == [{"text": text}]


def test_a_conversation_a_line(read):
    rows = read(f"{GUANACO}\n\n{GUANACO}\n", "chat.txt")
    assert rows == [RawRow(1, {"text": GUANACO}, None), RawRow(3, {"text": GUANACO}, None)]


def test_a_prompt_may_mention_a_mark(read):
    assert values(read("What does <|im_end|> mean?\nWhy?\n", "p.txt")) == [
        {"prompt": "What does <|im_end|> mean?"},
        {"prompt": "Why?"},
    ]


# ---- row problems


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"a": ', "not valid JSON (expecting value at line 2, column 7); it seems to be cut off"),
        (
            '{"a": "b',
            "not valid JSON (unterminated string starting at line 2, column 7); it seems to be cut off",
        ),
        (
            "{'a': 1}",
            "not valid JSON (expecting property name enclosed in double quotes at line 2, column 2)",
        ),
        ("12", "not an object: found a number"),
        ("null", "not an object: found null"),
        ("true", "not an object: found true or false"),
        ('"hi"', "not an object: found a text"),
        ("[]", "not an object: found a list"),
        ("[1, 2]", "not an object: found a list"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice in one object"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' appears twice in one object"),
        ('{"text": "' + "é" * 16_385 + '"}', "a field is larger than 32 KB: 'text'"),
        ('{"m": [' + '{"c": "' + "x" * 9000 + '"},' * 4 + "{}]}", "not valid JSON"),
        (json.dumps({"m": [{"c": "x" * 9000}] * 4}), "a field is larger than 32 KB: 'm'"),
        (json.dumps({"k" * 40_000: 1}), "a field is larger than 32 KB: '" + "k" * 79 + "…'"),
        ('{"a": ' + "[" * 20 + "]" * 20 + "}", "nested deeper than 20 levels"),
        ("[" * 5000 + "]" * 5000, "nested deeper than 20 levels"),
        ('{"a":' * 5000, "nested deeper than 20 levels"),
        (json.dumps(dict.fromkeys(map(str, range(201)), 1)), "more than 200 fields, which is the limit"),
    ],
)
def test_one_bad_line_costs_only_itself(read, line, problem):
    rows = read(jsonl(PAIR) + line + "\n" + jsonl(PAIR, PAIR))
    assert [row.problem is None for row in rows] == [True, False, True, True]
    assert rows[1].row == 2 and rows[1].value is None
    assert rows[1].problem.startswith(problem)


def test_brackets_inside_strings_are_not_nesting(read):
    record = {"a": "[" * 1000 + '\\"' + "{" * 1000}
    assert values(read(jsonl(record, record))) == [record, record]


def test_depth_twenty_is_fine_and_json_rows_are_judged_one_by_one(read):
    fine, deep = ('{"a": ' + "[" * depth + "]" * depth + "}" for depth in (19, 20))
    assert [row.problem for row in read(f"[{fine}, {deep}]")] == [None, "nested deeper than 20 levels"]


def test_a_cut_last_line_keeps_the_others(read):
    rows = read((jsonl(PAIR) * 2)[:-10], "d.jsonl")
    assert rows[0].value == PAIR
    assert rows[1].problem.startswith("not valid JSON (unterminated string")


def test_csv_fields_over_the_limit_and_repeated_keys(read):
    long, longest = "x" * 200_000, "y" * 32_768
    rows = read(f'id,text\n1,{long}\n2,ok\n3,"{{""a"":1,""a"":2}}"\n4,{longest}\n')
    assert [row.problem for row in rows] == [
        "a field is larger than 32 KB: 'text'",
        None,
        "the key 'a' appears twice in one object",
        None,
    ]


# ---- files that can't be used at all

TABLE = "not a text table"
USE = f"{TABLE}; use JSONL, JSON, CSV, TSV or Parquet"
MALFORMED = {
    "empty": (b"", "it is empty; add data"),
    "BOM only": (b"\xef\xbb\xbf", "it is empty; add data"),
    "whitespace": (b" \r\n\t\n", "it holds only blank lines; add data"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0", f"this is a picture, {USE}"),
    "jpeg": (b"\xff\xd8\xff\xe0", f"this is a picture, {USE}"),
    "zip": (b"PK\x03\x04\x14\0", f"this is a zip archive or an Office file, {TABLE}; unpack it, or export it as CSV"),
    "7z": (b"7z\xbc\xaf", f"this is a compressed archive, {TABLE}; unpack it, or compress the table alone with gzip"),
    "pickle": (b"\x80\x04\x95\x0c\0", f"this is a Python pickle, {USE}"),
    "sqlite": (b"SQLite format 3\0\x10", f"this is an SQLite database, {TABLE}; export its table as CSV"),
    "arrow": (b"ARROW1\0\0", f"this is an Arrow file, {TABLE}; save it as Parquet"),
    "pdf": (b"%PDF-1.7", f"this is a PDF document, {USE}"),
    "html": (b"<!DOCTYPE html><p>Log in", f"this is a web page, {USE}"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        f"this is a Git LFS pointer without the data, {TABLE}; fetch it with `git lfs pull`",
    ),
    "nul": (
        b'{"a": 1}\n{"a": "\0"}\n',
        "line 2 holds a NUL byte, so this is not a text table; save it as UTF-8 text",
    ),
    "utf-16 without BOM": ("a,b\n1,2\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
    "utf-32": ("a,b\n1,2\n".encode("utf-32"), "line 1 holds a NUL byte"),
    "latin-1": (
        "a,b\n1,2\ncafé,3\n".encode("latin-1"),
        "line 3 is not UTF-8 text (byte 0xE9); it looks like Windows-1252; save it as UTF-8",
    ),
    "latin-1, cut UTF-8": ("a,b\n1,é".encode()[:-1], "line 2 is not UTF-8 text (byte 0xC3); save it as UTF-8"),
    "latin-1 in UTF-8": (
        "a,b\né,1\n".encode() + b"\xe9,1\n",
        "line 3 is not UTF-8 text (byte 0xE9); save it as UTF-8",
    ),
    "cyrillic": (
        "вопрос,ответ\nда,нет\n".encode("cp1251"),
        "line 1 is not UTF-8 text (byte 0xE2); save it as UTF-8",
    ),
    "latin-1, CR, BOM": (b"\xef\xbb\xbfa,b\r1,\xff\r", "line 2 is not UTF-8 text (byte 0xFF)"),
    "half utf-16": ("a,b\n1,2".encode("utf-16")[:-1], "line 2 is not UTF-16 text"),
    "header only": (b"prompt,chosen\n", "it has a header but no rows under it; add at least one"),
    "sep only": (b"sep=;\n\n", "it has a header but no rows under it"),
    "same header": (b"a,prompt,prompt\n1,2,3\n", "the header has two columns named 'prompt'; rename one"),
    "open header": (b'a,"b\n1,2\n', "the header has a quotation mark that is never closed; close it"),
    "columns": (
        (",".join(map(str, range(201))) + "\n1").encode(),
        "more than 200 columns, which is the limit",
    ),
    "number": (b"42", "the JSON holds only a number; it should be a list of objects"),
    "string": (b'"hello"', "the JSON holds only a text; it should be a list of objects"),
    "null": (b"null", "the JSON holds only null; it should be a list of objects"),
    "scalars": (b'"a"\n"b"\n', "no row can be used; row 1: not an object: found a text"),
    "empty list": (b"[]", "there are no rows in it; add at least one"),
    "empty table": (b'{"data": []}', "there are no rows in it; add at least one"),
    "list of numbers": (b"[1, 2]", "no row can be used; row 1: not an object: found a number"),
    "cut json": (
        b'[{"a": 1},\n {"a": ',
        "not valid JSON (expecting value at line 2, column 8); it seems to be cut off",
    ),
    "cut string": (
        b'[\n{"a": "x',
        "not valid JSON (unterminated string starting at line 2, column 7); it seems",
    ),
    "comma": (b'[{"a": 1},\n\n]', "not valid JSON ("),
    "two documents": (
        b'{\n"a": 1\n}\n{\n"a": 2\n}',
        "not valid JSON (extra data at line 4, column 1); correct it",
    ),
    "only closing": (
        b"[[]]]]\n1",
        "no row can be used; row 1: not valid JSON (extra data at line 1, column 5); correct it",
    ),
    "deep json": (b"[" * 1_000_000, "nested deeper than 20 levels"),
    "backslashes": (b'["' + b'\\"' * 100_000, "not valid JSON (unterminated string"),
    "uneven columns": (b'{"a": [1, 2], "b": [1]}', "its lists differ in length"),
    "values": (
        b"[" + b"[]," * 1_000_000 + b"1]",
        "more than 1,000,000 values, which is the limit; use a part of it",
    ),
    "commas": (
        b"a\n" + b"," * 2_000_001,
        "more than 2,000,000 separators, which is the limit; use a part of it",
    ),
    "rows": (b"a\n" + b"1\n" * 50_001, "more than 50,000 rows, which is the limit; use a part of it"),
    "blank rows": (b'{"a": 1}\n' * 50_001, "more than 50,000 rows, which is the limit"),
    "bytes": (b" " * 20_000_001, "more than 20,000,000 bytes, which is the limit; use a part of it"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files_get_one_sentence(read, kind):
    content, sentence = MALFORMED[kind]
    with pytest.raises(DataError) as caught:
        read(content, "my data.json")
    assert str(caught.value).startswith(f"my data.json: {sentence}")
    assert "\n" not in str(caught.value)


def test_pasted_text_has_its_own_name_and_limits():
    with pytest.raises(DataError, match="pasted text: it is empty; add data"):
        read_text("")
    with pytest.raises(DataError, match="pasted text: more than 5,000 characters, which is the limit"):
        read_text("x" * 5001, SMALL)
    with pytest.raises(DataError, match="pasted text: more than 3 rows, which is the limit"):
        read_text(jsonl(*[PAIR] * 4), SMALL)
    with pytest.raises(DataError, match="pasted text: more than 30 values, which is the limit"):
        read_text(jsonl({"a": [1] * 12}, {"a": [1] * 12}, {"a": [1] * 12}), SMALL)
    with pytest.raises(DataError, match="pasted text: more than 30 values, which is the limit"):
        read_text("text\n" + '"[[], [], [], [], [], [], [], [], []]"\n' * 3, SMALL)


def test_the_limits_are_said_in_words():
    words = "at most 20 MB, 50,000 rows, 200 columns, 32 KB a field and 20 levels of nesting"
    assert LIMITS.words() == words


def test_the_file_name_is_shown_safely(read):
    name = "a\n\x1b[31m\u202ecod.\0" + "x" * 200 + ".csv"
    with pytest.raises(DataError) as caught:
        read(b"", name)
    shown = str(caught.value).split(": ")[0]
    assert len(shown) == 80 and shown.isprintable() and shown.startswith("a[31mcod.xxx")


# ---- hostile content


def samples() -> list[bytes]:
    rows = [PAIR, {"messages": CHAT}, {"n": [1, 2.5, None, "é😀\n"]}]
    table = 'id,prompt,messages\n1,"a ""b""\nc","{}"\n2,NaN,"{}"\n'
    cells = (json.dumps(CHAT).replace('"', '""'), str(CHAT))
    return [
        jsonl(*rows).encode(),
        json.dumps(rows, indent=1, ensure_ascii=False).encode(),
        json.dumps({"data": rows}).encode("utf-16"),
        json.dumps({"a": [1, 2], "b": ["x", "y"]}).encode(),
        table.format(*cells).encode(),
        table.format(*cells).replace(",", ";").encode("utf-8-sig"),
    ]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes replaced, dropped, doubled or moved, with a liking for the characters that have meaning."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at, end = sorted(chance.choices(range(len(out) + 1), k=2))
        piece = bytes(chance.choices(b"[]{},;:\"\\\t\r\n\0 -e9NI'\xff\xd8", k=chance.choice([1, 1, 2, 30])))
        match chance.randrange(5):
            case 0:
                out[at : at + 1] = piece
            case 1:
                out[at:at] = piece
            case 2:
                del out[at : min(end, at + 40)]
            case 3:
                out[at:at] = out[at:end]
            case 4:
                out[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(out)


def test_mutated_files_raise_nothing_but_data_errors(read):
    chance = random.Random(20_240)
    usable = 0
    for case in range(420):
        data = mutated(samples()[case % 6], chance)
        try:
            rows = read(data, chance.choice(["d.json", "d.jsonl", "d.csv", "d.txt"]))
        except DataError as error:
            assert str(error).isprintable()
            continue
        usable += 1
        assert all((row.value is None) != (row.problem is None) for row in rows)
        json.dumps(values(rows), ensure_ascii=False, allow_nan=False).encode()
    assert 100 < usable < 400  # neither all broken nor all untouched


def test_mutated_parquet_raises_nothing_but_data_errors(read):
    chance = random.Random(7)
    data = parquet({"messages": [CHAT] * 20, "n": list(range(20))}, compression="gzip")
    for _ in range(6):
        broken = bytearray(data)
        for at in chance.choices(range(4, len(data)), k=3):
            broken[at] = chance.randrange(256)
        try:
            read(bytes(broken))
        except DataError as error:
            assert str(error).isprintable()


def test_importing_needs_no_heavy_library():
    heavy = "{'pyarrow', 'pandas', 'numpy', 'torch', 'transformers', 'gradio'}"
    code = f"import sys, playground.data.readers; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "[]"
