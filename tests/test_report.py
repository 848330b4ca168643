"""The row report counts every row of a file once, as kept or as dropped with a reason."""

import json

import pytest

from playground.data.pairs import Pair
from playground.data.readers import RawRow, read_text
from playground.data.report import examine
from playground.data.shapes import Reading

CHAT = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "Yes."}]


def jsonl(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def pair(number: int) -> dict:
    return {"prompt": f"Question {number}?", "completion": f"Answer {number}."}


def preference(number: int) -> dict:
    return {"prompt": f"Question {number}?", "chosen": f"Answer {number}.", "rejected": f"No answer {number}."}


def preferred(row: int, number: int) -> Pair:
    ask = {"role": "user", "content": f"Question {number}?"}
    return Pair(row, [ask], f"Answer {number}.", f"No answer {number}.")


# ---- examine: every row is kept or dropped


def test_every_row_is_counted_once_under_its_own_number():
    text = "\n" + jsonl(pair(1), {"day": "x"}) + "{broken\n\n" + jsonl(pair(2), {"prompt": "a", "completion": " "}, [1])
    report = examine(read_text(text))
    assert (report.kind, report.shape, report.rows) == ("sft", "prompt-completion", 6)
    assert [row.row for row in report.kept] == [2, 6]
    assert report.kept[1].messages == [
        {"role": "user", "content": "Question 2?"},
        {"role": "assistant", "content": "Answer 2."},
    ]
    numbers, reasons = zip(*report.dropped, strict=True)
    assert numbers == (3, 4, 7, 8)
    assert reasons[0] == "no columns of a known shape (found: day)"
    assert reasons[1].startswith("not valid JSON (")
    assert reasons[2:] == ("an empty assistant message", "not an object: found a list")


def test_a_repeated_row_is_dropped_whatever_its_shape():
    again = {"messages": [{"role": "human", "content": "Question 1?"}, {"role": "gpt", "content": "Answer 1."}]}
    report = examine(read_text(jsonl(pair(1), again, pair(2), pair(1))))
    assert [row.row for row in report.kept] == [1, 3]
    assert report.dropped == [(2, "the same as an earlier row"), (4, "the same as an earlier row")]


def test_mixed_shapes_are_named_most_frequent_first():
    alpaca = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(3)]
    assert examine(read_text(jsonl({"messages": CHAT}, *alpaca))).shape == "alpaca and messages"
    assert examine(read_text(jsonl({"day": "x"}))).shape == "unknown"


def test_a_row_without_value_or_problem_still_has_a_reason():
    assert examine([RawRow(3, None, None)]).dropped == [(3, "not readable")]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("question,answer\nWhat element is Na?,NA\n", "an empty assistant message ('NA' counts as missing)"),
        ("prompt,chosen,rejected\nWhich one?,None,B\n", "'chosen' is empty ('None' counts as missing)"),
        (
            "prompt,completion,label\nWhich one?,A,null\nWhich?,B,1\n",
            "'label' is empty, so nobody said whether the answer is good ('null' counts as missing)",
        ),
        ("question,answer\nWhat element is Na?,\n", "an empty assistant message"),
        ("id,messages\nNA,oops\n", "'messages' is a text, not a list of messages"),
    ],
)
def test_a_word_that_was_read_as_nothing_is_told(table, reason):
    assert examine(read_text(table)).dropped == [(1, reason)]


def test_reasons_are_grouped_most_frequent_first():
    bad = [{"messages": [CHAT[0], {"role": "oracle", "content": str(n)}, CHAT[1]]} for n in range(2)]
    late = {"messages": [*CHAT, CHAT[0], {"role": "oracle", "content": "x"}]}
    report = examine(read_text(jsonl({"day": "x"}, *bad, pair(1), late)))
    assert report.reasons() == [
        ("a message has the unknown role 'oracle'", [2, 3, 5]),
        ("no columns of a known shape (found: day)", [1]),
    ]


def test_the_report_as_json():
    report = examine(read_text(jsonl(pair(1), {"day": "x"})))
    found = report.as_json()
    assert set(found) >= {"kind", "shape", "rows", "kept", "dropped"}
    assert {key: found[key] for key in ("kind", "shape", "rows", "kept", "dropped")} == {
        "kind": "sft",
        "shape": "prompt-completion",
        "rows": 2,
        "kept": 1,
        "dropped": [{"row": 2, "reason": "no columns of a known shape (found: day)"}],
    }
    assert json.loads(json.dumps(found)) == found


def test_reasons_that_are_left_out_are_counted():
    alone = [{f"day {n}": "x"} for n in range(8)]
    words = examine(read_text(jsonl(*alone))).words()
    assert words[5:] == [
        "1 dropped: no columns of a known shape (found: day 4) (row 5).",
        "3 more dropped, for 3 other reasons.",
    ]
    assert examine(read_text(jsonl(*alone[:6]))).words()[-1] == "1 more dropped, for 1 other reason."
    assert examine(read_text(jsonl(*alone[:5]))).words()[-1].startswith("1 dropped: ")


def test_a_guess_counts_rows_where_a_row_may_make_several():
    row = {"prompt": "Hi?", "answers": [{"answer": text, "rank": n} for n, text in enumerate("abc", 1)]}
    report = examine(read_text(jsonl(row)), Reading(pairs_by="adjacent"))
    assert (len(report.kept), report.guess) == (2, "1 row of preference pairs in Nectar shape")
    report = examine(read_text(jsonl(row, {**row, "prompt": "Ho?"}, pair(1))))
    assert report.guess == "2 rows of preference pairs in Nectar shape and 1 conversation in prompt-completion shape"


def test_few_rows_get_a_note():
    assert examine(read_text(jsonl(*map(pair, range(8))))).notes == []
    assert examine(read_text(jsonl(pair(1)))).notes[0].startswith("Only 1 row:")
    assert examine(read_text(jsonl(*map(pair, range(7))))).notes[0].startswith("Only 7 rows:")
    assert examine(read_text(jsonl({"day": "x"}))).notes == []


# ---- the kind of a file is that of most of its rows


def test_rows_of_another_kind_are_neither_kept_nor_dropped():
    report = examine(read_text(jsonl(pair(1), preference(1), preference(2))))
    assert (report.kind, report.kept, report.dropped) == ("preference", [preferred(2, 1), preferred(3, 2)], [])
    assert report.others == {"sft": 1}
    assert report.words()[:2] == [
        "2 of 3 rows kept, recognised as prompt, chosen, rejected.",
        "Not of this kind, and left for another dataset: 1 conversation.",
    ]


@pytest.mark.parametrize("conversations", [1, 2])
def test_where_there_are_as_many_pairs_as_conversations_the_conversations_are_taken(conversations):
    report = examine(read_text(jsonl(preference(1), *map(pair, range(conversations)))))
    assert (report.kind, [row.row for row in report.kept]) == ("sft", list(range(2, conversations + 2)))
    assert (report.dropped, report.others) == ([], {"preference": 1})


def test_rows_that_can_not_be_read_have_no_say_in_the_kind():
    report = examine(read_text(jsonl(preference(1), [1], [2], [3])))
    assert (report.kind, report.kept) == ("preference", [preferred(1, 1)])


def test_pairs_that_are_damaged_still_tell_the_kind():
    empty = {"prompt": "a", "chosen": "", "rejected": "b"}
    report = examine(read_text(jsonl(empty, {**empty, "rejected": ""}, pair(1))))
    assert (report.kind, report.kept) == ("preference", [])
    assert report.refusal() == (
        "No row can be used: 'chosen' is empty (row 1, 2). "
        "Each row needs a prompt, a chosen and a rejected answer, or two whole conversations."
    )


def test_the_report_of_pairs_in_words_and_as_json():
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    report = examine(read_text(jsonl(*map(preference, range(9)), same, preference(3))))
    assert report.words() == [
        "9 of 11 rows kept, recognised as prompt, chosen, rejected.",
        "1 dropped: both answers are the same (row 10).",
        "1 dropped: the same as an earlier row (row 11).",
    ]
    found = report.as_json()
    assert (found["kind"], found["rows"], found["kept"]) == ("preference", 11, 9)
    assert json.loads(json.dumps(found)) == found


def test_a_pair_the_other_way_round_is_another_pair():
    turned = {"prompt": "Question 1?", "chosen": "No answer 1.", "rejected": "Answer 1."}
    assert len(examine(read_text(jsonl(preference(1), turned))).kept) == 2
