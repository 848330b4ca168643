"""What a constitution run made: read back after crashes, judged by a person, handed over with its origin."""

import json
import threading

import pytest

from playground.data import library
from playground.runs import run as runs
from playground.stages import harvest

CONSTITUTION = {"name": "kind", "version": 3, "sha256": "ab" * 32, "principles": []}


def line(index: int, reason: str | None = None, **changes) -> dict:
    steps = [{"principle": "Be kind", "critique": "Rude.", "revision": f"better {index}", "reason": reason}]
    return {
        "index": index,
        "prompt": [{"role": "user", "content": f"question {index}"}],
        "answer": f"first {index}",
        "steps": steps,
        "revision": f"better {index}",
        "reason": reason,
        "notes": {"kind": "harmful"},
        **changes,
    }


@pytest.fixture
def run():
    made = runs.create("revise", {"stage": "constitution", "constitution": CONSTITUTION, "parent": None})
    harvest.append(made, [line(0), line(1, "unchanged"), line(2)])
    return made


def test_rows_come_back_in_order_and_once(run):
    harvest.append(run, [line(4), line(3), line(2, "echo")])
    assert [item.index for item in harvest.items(run)] == [0, 1, 2, 3, 4]
    assert harvest.items(run)[2].reason is None  # the first one written counts


def test_a_line_cut_by_a_crash_costs_that_line_alone(run):
    with (run.folder / "rows.jsonl").open("a") as file:
        file.write('{"index": 3, "prompt": [')
    harvest.mend(run)
    harvest.append(run, [line(3)])
    assert [item.index for item in harvest.items(run)] == [0, 1, 2, 3]


def test_every_letter_that_ends_a_line_elsewhere_is_part_of_the_text(run):
    odd = [line(i, answer=f"one{mark}two") for i, mark in enumerate("\u2028\u2029\x85\x0b\x0c\x1c\r", 3)]
    harvest.append(run, odd)
    assert [item.index for item in harvest.items(run)] == list(range(10))
    assert [item.answer for item in harvest.items(run)][3:] == [row["answer"] for row in odd]


def test_a_kept_row_that_makes_no_pair_is_still_a_row(run):
    harvest.append(run, [line(3, "unchanged", revision="first 3")])
    for index in (0, 2):
        harvest.decide(run, index, "drop")
    harvest.decide(run, 3, "accept")
    assert harvest.hand_over(run, "sft").train == 1
    assert harvest.accepted(run, "preference") == []
    with pytest.raises(harvest.HarvestError, match="no accepted rows"):
        harvest.hand_over(run, "preference")


def test_a_person_has_the_last_word(run):
    assert [item.kept for item in harvest.items(run)] == [True, False, True]
    harvest.decide(run, 1, "edit", "my own words")
    harvest.decide(run, 2, "drop")
    found = harvest.items(run)
    assert [item.kept for item in found] == [True, True, False]
    assert found[1].better == "my own words"
    harvest.decide(run, 2, "")
    assert harvest.items(run)[2].kept


@pytest.mark.parametrize(
    ("index", "verdict", "text", "said"),
    [(9, "accept", None, "no row 9"), (0, "maybe", None, "verdict"), (0, "edit", "  ", "empty"),
     (0, "edit", "x" * 9000, "8,000 at most")],
)  # fmt: skip
def test_what_can_not_be_decided_is_one_sentence(run, index, verdict, text, said):
    with pytest.raises(harvest.HarvestError, match=said):
        harvest.decide(run, index, verdict, text)
    assert not (run.folder / "review.json").exists()


def test_two_pages_deciding_at_once_lose_nothing(run):
    harvest.append(run, [line(i) for i in range(3, 40)])
    threads = [threading.Thread(target=harvest.decide, args=(run, i, "drop")) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(item.verdict == "drop" for item in harvest.items(run))


def test_hand_over_carries_every_text_and_where_it_comes_from(run):
    rows, pairs = harvest.hand_over(run, "sft"), harvest.hand_over(run, "preference")
    assert (rows.kind, rows.train, pairs.kind, pairs.train) == ("sft", 2, "preference", 2)
    (first, _), (pair, _) = rows.rows("train"), pairs.rows("train")
    assert first.messages[-1]["content"] == "better 0" and first.notes["answer"] == "first 0"
    assert first.notes["steps"][0]["critique"] == "Rude." and first.notes["principles"] == ["Be kind"]
    assert (pair.chosen, pair.rejected, pair.label) == ("better 0", "first 0", 1.0)
    assert rows.origin["run"] == run.id
    assert rows.origin["constitution"] == {"name": "kind", "version": 3, "sha256": "ab" * 32}
    assert "kind, version 3" in rows.source


def test_a_run_on_such_data_says_in_words_where_they_come_from(run):
    from playground.tabs.view import data_words

    made = harvest.hand_over(run, "sft")
    words = data_words({"dataset": {"name": made.name, "origin": made.origin}})
    assert words == f"{made.name} (made by revise under kind, version 3)"
    assert data_words({"dataset": {"name": "mine"}}) == "mine"
    asked = {"dataset": {"name": "red-team", "origin": None}, "constitution": CONSTITUTION}
    assert data_words(asked) == "red-team under kind, version 3"


def test_the_same_rows_are_kept_once_and_a_review_makes_others(run):
    first = harvest.hand_over(run, "sft")
    assert harvest.hand_over(run, "sft").id == first.id
    harvest.decide(run, 0, "edit", "kinder")
    second = harvest.hand_over(run, "sft")
    assert second.id != first.id and second.rows("train")[0].notes["review"] == "edit"
    assert library.find(first.id).rows("train")[0].messages[-1]["content"] == "better 0"


def test_nothing_accepted_is_said(run):
    for index in (0, 2):
        harvest.decide(run, index, "drop")
    with pytest.raises(harvest.HarvestError, match="no accepted rows"):
        harvest.hand_over(run, "sft")


def test_a_judged_pair_keeps_its_soft_label_until_a_person_decides():
    made = runs.create("judge", {"stage": "feedback", "constitution": CONSTITUTION, "parent": None})
    row = {"index": 0, "prompt": [{"role": "user", "content": "q"}], "answers": ["a", "b"], "p": 0.3,
           "per_principle": [-0.8], "consistent": True, "chosen": "b", "rejected": "a", "label": 0.7,
           "reason": None, "notes": {}}  # fmt: skip
    harvest.append(made, [row])
    assert harvest.hand_over(made, "preference").rows("train")[0].label == 0.7
    harvest.decide(made, 0, "accept")
    assert harvest.hand_over(made, "preference").rows("train")[0].label == 1.0
    assert harvest.items(made)[0].notes["p"] == 0.3


def test_words_of_a_person_are_never_erased(run):
    harvest.decide(run, 0, "edit", "my own words")
    harvest.decide(run, 0, "drop")
    dropped = harvest.items(run)[0]
    assert (dropped.verdict, dropped.better, dropped.edited, dropped.kept) == ("drop", "my own words", True, False)
    harvest.decide(run, 0, "accept")
    back = harvest.items(run)[0]
    assert (back.verdict, back.better, back.kept) == ("edit", "my own words", True)
    harvest.decide(run, 0, "")
    undecided = harvest.items(run)[0]
    assert (undecided.verdict, undecided.better, undecided.edited) == ("", "better 0", False)
    assert undecided.aside == "my own words"
    harvest.decide(run, 0, "accept")
    assert harvest.items(run)[0].better == "better 0"
    harvest.decide(run, 1, "drop", "half a thought")
    assert harvest.items(run)[1].better == "half a thought" and not harvest.items(run)[1].kept


def test_only_runs_with_rows_are_offered(run):
    runs.create("empty", {"stage": "constitution", "constitution": CONSTITUTION, "parent": None})
    assert harvest.makers() == [run]


def test_hostile_texts_stay_texts(run):
    text = "</textarea><img src=x onerror=alert(1)>\u2028\x00"
    harvest.decide(run, 0, "edit", text)
    assert harvest.items(run)[0].better == text.strip()
    json.loads((run.folder / "review.json").read_text(encoding="utf-8"))
