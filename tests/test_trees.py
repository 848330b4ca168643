"""Trees of rows: the way along the best answers, and what becomes of rows that are no part of one."""

from playground.data.readers import RawRow
from playground.data.report import examine
from playground.data.trees import gathered

LOST = "no way leads from this row back to the beginning of a conversation"


def node(name, parent, text, rank=None, **more) -> dict:
    role = "prompter" if text.endswith("?") else "assistant"
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank, **more}


def table(*records) -> list[RawRow]:
    return [RawRow(number, record, None) for number, record in enumerate(records, 1)]


def said(*records) -> list[list[str]]:
    return [[message["content"] for message in row.messages] for row in examine(table(*records)).kept]


def test_the_best_ranked_answers_make_the_conversation():
    assert said(
        node("a", None, "Why?"),
        node("b", "a", "No rank."),
        node("c", "a", "Second.", 1),
        node("d", "a", "Best.", 0),
        node("e", "d", "And?"),
        node("f", "e", "That is all.", "0"),
    ) == [["Why?", "Best.", "And?", "That is all."]]


def test_rows_may_stand_in_any_order_and_names_may_be_numbers():
    assert said(node(3, 2, "Then?"), node(4, 3, "Then so."), node(2, 1, "So."), node(1, None, "Why?")) == [
        ["Why?", "So.", "Then?", "Then so."]
    ]
    assert said(node(1, "", "Why?"), node(2, "1", "So.")) == [["Why?", "So."]]


def test_deleted_answers_are_passed_over():
    assert said(node("a", None, "Why?"), node("b", "a", "Spam.", 0, deleted=True), node("c", "a", "So.", 1)) == [
        ["Why?", "So."]
    ]


def test_a_conversation_has_the_row_number_of_its_beginning_and_the_others_say_what_is_wrong():
    report = examine(
        table(
            node("x", "gone", "Lost."),
            node("y", "x", "Lost too?"),
            node("p", "q", "In a circle."),
            node("q", "p", "In a circle?"),
            node("a", None, "Why?"),
            node("b", "a", "So."),
            node("c", None, "Nobody answers?"),
        )
    )
    assert [row.row for row in report.kept] == [5]
    assert report.dropped == [
        (1, LOST), (2, LOST), (3, LOST), (4, LOST), (7, "no assistant answer to learn from"),
    ]  # fmt: skip
    assert report.words()[-2:] == [
        "7 rows of the file belong together and make 2.",
        "Only 1 row: enough to see a run work, too few to learn a manner.",
    ]


def test_rows_that_can_not_be_read_keep_their_place():
    rows = [*table(node("a", None, "Why?"), node("b", "a", "So.")), RawRow(3, None, "not valid JSON")]
    assert examine(rows).dropped == [(3, "not valid JSON")]
    assert [row.row for row in examine(rows).kept] == [1]


def test_answers_that_are_passed_over_are_told_row_by_row():
    report = examine(
        table(
            node("a", None, "Why?"),
            node("b", "a", "Second.", 1),
            node("c", "b", "More of that?"),
            node("d", "a", "Best.", 0),
            {"parent_id": "a", "id": "e", "text": "x", "instruction": "And?", "output": "So."},
        )
    )
    assert [row.row for row in report.kept] == [1]
    passed = "another answer to the same message is followed"
    assert report.dropped == [(2, passed), (3, passed), (5, passed)]


def test_a_table_without_trees_is_left_alone():
    for record in (
        node("a", None, "Why?"),
        {"instruction": "Add.", "output": "5", "id": 1, "parent_id": ""},
        {"instruction": "Add.", "output": "5", "rejected": "6", "id": 2, "parent_id": 1},
        {"id": 1, "parent_id": 0, "name": "Ann"},
    ):
        rows = table(record)
        assert gathered(rows) is rows


def test_a_deep_tree_and_a_wide_one_are_walked_in_a_straight_line():
    deep = [node(0, None, "Why?"), *(node(n, n - 1, "So." if n % 2 else "And?") for n in range(1, 20_000))]
    assert examine(table(*deep)).dropped == [(1, "more than 100 messages in one conversation")]
    wide = [node(0, None, "Why?"), *(node(n, 0, f"So {n}.", n) for n in range(1, 20_000))]
    assert said(*wide) == [["Why?", "So 1."]]
