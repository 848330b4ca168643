"""The Data tab's handlers in process: mapping by header, what a person changes in rows, versions, the library."""

import json
import re
from html import unescape
from pathlib import Path

import gradio as gr
import pytest

from playground.data import hub, library
from playground.data.readers import RawRow
from playground.data.records import DataError
from playground.data.shapes import Row
from playground.models.catalog import EMBEDDED
from playground.runs import run as runs
from playground.stages.inputs import known_dataset
from playground.tabs import columns, data, looking, readings, row_editor, row_report, shelf, sources, talking
from playground.tabs.looking import CHANGED, Desk
from playground.tabs.rows import PAGE

pytestmark = pytest.mark.usefixtures("embedded_model")
ANSWER = {"role": "assistant", "content": "So it is."}
HOW = (512, EMBEDDED)
ODD = "Question;Besser;Schlechter;id\n" + "".join(f"What is {i}?;It is {i}.;No idea, {i};{i}\n" for i in range(1, 25))


def words(shown: str) -> str:
    return unescape(re.sub("<[^>]*>", "", shown))


def event(**said) -> gr.EventData:
    """What a talking element sends."""
    return gr.EventData(None, said)


def brought(text: str, desk: Desk | None = None) -> dict:
    return data.open_text(text, desk, *HOW)


def mapped(shown: dict, values: list[str], changed: int) -> dict:
    """A person has changed one of the lists in the header."""
    said = event(key=shown["desk"].looked.file, changed=changed, values=values)
    return data.map_columns(shown["desk"], *HOW, said)


@pytest.fixture
def pairs() -> dict:
    """What the page shows of 24 pairs in a file with columns of odd names, which a person has mapped."""
    shown = mapped(brought(ODD), ["prompt", "", "", ""], 0)
    shown = mapped(shown, ["prompt", "chosen", "-", "-"], 1)
    return mapped(shown, ["prompt", "chosen", "rejected", "-"], 2)


@pytest.fixture
def stored(pairs) -> dict:
    """The same, kept as a dataset."""
    return data.keep(pairs["desk"], "odd", *HOW)


def press(shown: dict, act: str, place: str = "", texts: list[str] | None = None) -> dict:
    """A button among the rows."""
    desk = shown["desk"]
    said = event(key=desk.looked.key, act=act, row=place, texts=texts or [])
    return {**shown, **row_editor.act(desk, *HOW, said)}


def row_words(shown: dict) -> str:
    return words(shown["rows"])


# ---- what columns hold


def test_the_first_choice_sets_the_other_columns_by_their_names():
    names = ["question", "answer", "notes"]
    assert columns.chosen(names, {}, 2, ["", "", "system"]) == {
        "prompt": "question",
        "completion": "answer",
        "system": "notes",
    }


def test_a_field_goes_from_one_column_to_the_other_and_none_is_named_twice():
    before = {"prompt": "a", "chosen": "b"}
    assert columns.chosen(["a", "b", "c"], before, 2, ["prompt", "chosen", "chosen"]) == {"prompt": "a", "chosen": "c"}
    assert columns.chosen(["a", "b", "c"], before, 1, ["prompt", "-", "-"]) == {"prompt": "a"}


@pytest.mark.parametrize(
    ("changed", "values"), [(7, ["prompt"]), (-1, ["prompt"]), (0, ["prompt", "chosen"]), (0, [""]), (0, [])]
)
def test_what_no_header_of_this_file_can_say_leaves_the_content_to_decide(changed, values):
    assert columns.chosen(["a"], {"prompt": "a"}, changed, values) == {}


def test_a_word_that_is_no_field_is_none():
    assert columns.chosen(["a", "b"], {"prompt": "a"}, 1, ["prompt", "__class__"]) == {"prompt": "a"}


def test_odd_column_names_are_mapped_by_header_and_the_rows_become_pairs(pairs):
    looked = pairs["desk"].looked
    assert looked.reading.columns == {"prompt": "Question", "chosen": "Besser", "rejected": "Schlechter"}
    assert "24 preference pairs" in words(pairs["report"])
    first = looked.rows[0]
    assert (first.prompt[-1]["content"], first.chosen, first.rejected) == ("What is 1?", "It is 1.", "No idea, 1")
    assert pairs["columns"].count(" selected") == 4


def test_prompts_with_other_columns_beside_them_ask_whether_one_holds_an_answer():
    shown = brought(ODD.replace("Question", "question"))
    assert shown["columns_box"].open
    assert row_report.OVERLOOKED in words(shown["report"])
    alone = brought("question\n" + "".join(f"What is {i}?\n" for i in range(12)))
    assert not alone["columns_box"].open
    assert row_report.OVERLOOKED not in words(alone["report"])


def test_the_table_shows_few_rows_short_cells_and_at_most_200_columns():
    record = {f"column {i}": "long " * 100 for i in range(250)}
    table = columns.table_html([RawRow(i, record, None) for i in range(50)], {}, recognised=False)
    assert table.count("<th") - table.count("<thead") == 200
    assert table.count("<tr>") == 1 + columns.ROWS
    assert max(map(len, re.findall("<td>([^<]*)</td>", table))) == columns.MOST_LETTERS + 1


def test_a_choice_that_was_made_before_the_answer_to_another_came_counts(pairs):
    shown = mapped(pairs, ["prompt", "rejected", "rejected", "-"], 1)
    late = mapped({"desk": shown["desk"]}, ["prompt", "rejected", "chosen", "-"], 2)
    assert late["desk"].looked.reading.columns == {"prompt": "Question", "rejected": "Besser", "chosen": "Schlechter"}


def test_choosing_to_read_by_content_again_takes_the_mapping_back(pairs):
    shown = mapped(pairs, ["prompt", "", "rejected", "-"], 1)
    assert shown["desk"].looked.reading.columns == {}
    assert "preference pairs" not in words(shown["report"])


# ---- choices that matter


def visible(values: dict) -> set[str]:
    return {name for name in readings.NAMES if values[name].visible}


def test_only_the_choices_that_matter_for_a_file_are_shown():
    plain = "\n".join(json.dumps({"prompt": f"Why {i}?", "chosen": "So.", "rejected": "No."}) for i in range(9))
    assert visible(brought(plain)) == set()
    talk = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]})
    mixed = brought(f"{plain}\n{talk}")
    assert visible(mixed) == {"kind"}
    assert mixed["kind"].choices == [
        (f"9 {readings.KINDS['preference']}", "preference"),
        (f"1 {readings.KINDS['sft']}", "sft"),
    ]
    other = data.read_as(mixed["desk"], *HOW, "sft", "best-worst", 0, "helpful", None)
    assert [row.messages[-1]["content"] for row in other["desk"].looked.rows] == ["Hello."]


def test_numbers_that_were_emptied_are_as_at_first():
    looked = brought(ODD)["desk"].looked
    said = {"kind": None, "pairs_by": None, "min_margin": None, "better": None, "good_from": None}
    assert readings.chosen(looked, said) == looking.Reading()


# ---- what a person changes


def test_rows_are_flipped_edited_and_dropped_and_counted_until_they_are_stored(stored):
    shown = press(press(press(stored, "flip", "train 0"), "flip", "train 1"), "drop", "train 2")
    assert words(shown["pending"]) == "2 rows flipped, 1 row dropped, not stored yet."
    assert shown["pending_row"].visible
    shown = press(press(shown, "edit", "train 3"), "done", "train 3", ["What is it?", "A new answer.", "None."])
    assert words(shown["pending"]) == "2 rows flipped, 1 row dropped, 1 row edited, not stored yet."
    assert "A new answer." in row_words(shown)
    before = library.find("odd")
    after = data.revise(shown["desk"], *HOW)
    newest = library.find("odd")
    assert (before.version, newest.version) == (1, 2)
    assert newest.rows("train")[0].chosen == before.rows("train")[0].rejected
    assert len(newest.rows("train")) == len(before.rows("train")) - 1
    assert before.rows("train") == library.find("odd@1").rows("train")
    assert words(after["pending"]) == ""
    assert after["version"].visible
    assert after["desk"].looked.dataset.id == newest.id == after["stored"].value


def test_a_flip_flipped_again_and_an_undo_leave_nothing_to_store(stored):
    twice = press(press(stored, "flip", "train 0"), "flip", "train 0")
    assert (words(twice["pending"]), twice["pending_row"].visible) == ("", False)
    undone = press(press(stored, "drop", "heldout 0"), "undo", "heldout 0")
    assert words(undone["pending"]) == ""
    desk = press(press(stored, "drop", "train 0"), "flip", "train 1")["desk"]
    assert words(row_editor.discard(desk, *HOW)["pending"]) == ""


def test_a_dropped_row_stays_in_view_with_a_way_back_and_nothing_else(stored):
    shown = press(stored, "drop", "train 0")
    head = shown["rows"].split('data-row="train 0"')[1].split('data-row="train 1"')[0]
    assert "dropped" in words(head)
    assert re.findall('data-act="([^"]*)"', head) == ["undo"]
    assert words(press(shown, "flip", "train 0")["pending"]) == "1 row dropped, not stored yet."


def test_a_text_counts_as_soon_as_its_box_is_left(stored):
    shown = press(stored, "edit", "train 0")
    assert shown["rows"].count("<textarea") == 3
    desk = shown["desk"]
    said = event(key=desk.looked.key, row="train 0", texts=["What is it?", "Something.", "None."])
    typed = row_editor.typed(desk, said)
    assert "rows" not in typed  # nothing that is being typed is overrun
    assert words(typed["pending"]) == "1 row edited, not stored yet."
    assert desk.looked.draft.applied()["train"][0].chosen == "Something."


def test_a_row_that_was_only_looked_at_is_not_changed_whatever_the_browser_makes_of_line_ends():
    talk = {"messages": [{"role": "user", "content": "One\ntwo"}, {"role": "assistant", "content": " Three. "}]}
    shown = press(brought(json.dumps(talk)), "edit", "train 0")
    done = press(shown, "done", "train 0", ["One\r\ntwo", shown["desk"].looked.rows[0].messages[-1]["content"]])
    assert words(done["pending"]) == ""
    assert done["rows"].count("<textarea") == 0


def test_a_text_that_cannot_be_used_is_refused_in_a_sentence_and_stays_in_its_box(stored):
    shown = press(stored, "edit", "train 0")
    with pytest.raises(gr.Error, match=r"Row 1 can't be used like this: .*empty"):
        press(shown, "done", "train 0", ["What is it?", "", "None."])
    with pytest.raises(gr.Error, match="32 KB"):
        press(shown, "done", "train 0", ["What is it?", "a" * 40_000, "None."])
    assert stored["desk"].looked.editing == {("train", 0)}
    assert stored["desk"].looked.draft.changed == {}


@pytest.mark.parametrize("place", ["train 99", "train -1", "nowhere 0", "", "train", "train 0 0", "train 9999999999"])
@pytest.mark.parametrize("act", ["flip", "drop", "edit", "done", "undo", "__del__"])
def test_words_about_rows_that_are_not_there_change_nothing(stored, act, place):
    assert words(press(stored, act, place)["pending"]) == ""


@pytest.mark.parametrize(
    "said", [None, "flip", [], {"act": "drop", "row": "train 0"}, {"key": 1, "row": {}, "texts": 5}]
)
def test_an_event_about_rows_that_the_page_no_longer_shows_changes_nothing(stored, said):
    row_editor.act(stored["desk"], *HOW, gr.EventData(None, said))
    row_editor.typed(stored["desk"], gr.EventData(None, said))
    assert stored["desk"].looked.draft.changed == {}


def test_what_is_heard_has_the_types_that_it_should_have():
    said = talking.heard(event(key="k", act=5, row=None, texts=["a", 3], changed="x", values=[None, "b"]), "k")
    assert said == {"act": "5", "row": "None", "texts": ["a", ""], "changed": -1, "values": ["", "b"]}


def test_a_page_that_the_server_has_forgotten_says_so():
    for forgotten in (None, Desk()):
        with pytest.raises(gr.Error, match="forgotten"):
            row_editor.act(forgotten, *HOW, event(act="drop"))
        with pytest.raises(gr.Error, match="forgotten"):
            data.keep(forgotten, "x", *HOW)


def test_changes_of_a_file_are_kept_with_it(pairs):
    shown = press(press(pairs, "flip", "train 0"), "drop", "train 1")
    assert not shown["revise"].visible
    assert "stores the rows as they are now" in words(shown["pending"])
    data.keep(shown["desk"], "odd", *HOW)
    rows = [row for split in ("train", "heldout") for row in library.find("odd").rows(split)]
    assert len(rows) == 23
    assert ("No idea, 1", "It is 1.") in [(row.chosen, row.rejected) for row in rows]
    assert "What is 2?" not in [row.prompt[-1]["content"] for row in rows]


def test_reading_a_file_anew_keeps_the_changes_of_rows_that_come_out_the_same(pairs, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    desk = press(press(pairs, "flip", "train 0"), "drop", "train 1")["desk"]
    same = data.read_as(desk, *HOW, "preference", "all", 0, "helpful", None)
    assert words(same["pending"]).startswith("1 row flipped, 1 row dropped")
    assert told == []
    mapped(same, ["prompt", "rejected", "chosen", "-"], 1)
    assert told == ["2 changed rows are other rows now, so what you changed in them is gone."]


def test_balancing_marks_pairs_as_dropped_and_stores_nothing():
    lines = [json.dumps({"prompt": f"Why {i}?", "chosen": "Long answer." * 2, "rejected": "No."}) for i in range(20)]
    lines += [json.dumps({"prompt": f"How {i}?", "chosen": "So.", "rejected": "A long answer."}) for i in range(5)]
    shown = brought("\n".join(lines))
    assert 'data-act="balance"' in shown["report"]
    desk = shown["desk"]
    after = data.follow(desk, *HOW, event(key=desk.looked.key, act="balance", row="", texts=[]))
    assert words(after["pending"]).startswith("15 rows dropped, not stored yet.")
    assert len(desk.looked.rows) == 25


# ---- nothing is lost when something else is opened


def test_changes_wait_while_another_dataset_is_looked_at_and_come_back(stored):
    flipped = press(stored, "flip", "train 0")
    key, odd = flipped["desk"].looked.key, library.find("odd").id
    other = data.open_stored("pocket-tutor", flipped["desk"], *HOW)
    assert "odd waits with changes that are not stored yet: 1 row flipped." in words(other["report"])
    assert words(other["pending"]) == ""
    desk = other["desk"]
    back = data.follow(desk, *HOW, event(key=desk.looked.key, act=f"back {key}", row=""))
    assert words(back["pending"]) == "1 row flipped, not stored yet."
    again = data.open_stored("pocket-tutor", desk, *HOW)
    once_more = data.open_stored(odd, again["desk"], *HOW)
    assert words(once_more["pending"]) == "1 row flipped, not stored yet."
    assert "waits" not in words(once_more["report"])


def test_what_has_waited_longest_goes_with_a_word(monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    desk = Desk()
    for name in "abcd":
        shown = brought(
            f'{{"prompt": "{name}", "completion": "Yes."}}\n{{"prompt": "{name}?", "completion": "No."}}', desk
        )
        desk.looked.title = name
        press(shown, "drop", "train 0")
    assert [found.title for found in desk.aside] == ["b", "c"]
    assert told == ["Changes of a were waiting longest and are gone: two things can wait at a time."]


# ---- search and pages


def test_pages_never_hold_more_than_a_few_rows_and_end_where_the_rows_end(stored):
    assert stored["rows"].count("data-row") == PAGE
    assert "1 to 4 of 24 rows" in row_words(stored)
    last = stored
    for _ in range(20):
        last = press(last, "next")
    assert "21 to 24 of 24 rows" in row_words(last)
    assert "17 to 20 of 24 rows" in row_words(press(last, "previous"))
    for _ in range(20):
        last = press(last, "previous")
    assert "1 to 4 of 24 rows" in row_words(last)
    assert 'aria-disabled="true"' in last["rows"]


@pytest.mark.parametrize(
    ("query", "only", "count"),
    [
        ("no idea, 7", "all", 1),
        ("", "all", 24),
        ("#1", "all", 1),
        ("#24", "all", 1),
        ("#25", "all", 0),
        ("zebra", "all", 0),
    ],
)
def test_search_lists_the_rows_that_hold_the_words_or_have_the_number(stored, query, only, count):
    row_editor.search(stored["desk"], *HOW, "something else", "all")
    shown = row_editor.search(stored["desk"], *HOW, query, only)
    assert len(stored["desk"].looked.listed) == count
    assert ("No row fits" in row_words(shown)) == (count == 0)
    assert row_editor.search(stored["desk"], *HOW, query, only) == {}  # the page has only been told of its own change


def test_the_rows_that_were_changed_can_be_listed_alone(stored):
    desk = press(press(stored, "flip", "train 5"), "drop", "train 9")["desk"]
    row_editor.search(desk, *HOW, "", CHANGED)
    assert desk.looked.listed == [("train", 5), ("train", 9)]


def test_a_filter_that_does_not_fit_the_rows_is_a_sentence(stored):
    with pytest.raises(gr.Error, match="can't be filtered"):
        row_editor.search(stored["desk"], *HOW, "", "up")


def test_an_extreme_row_is_one_press_away(stored):
    desk = stored["desk"]
    place = re.search('data-row="([^"]*)"><button[^>]*data-act="look"', stored["report"])[1]
    shown = data.follow(desk, *HOW, event(key=desk.looked.key, act="look", row=place))
    assert shown["rows"].count("data-row") == 1
    assert shown["query"].startswith("#")


# ---- the report


def test_what_became_of_all_rows_can_be_downloaded_and_the_file_does_not_stay():
    rows = "".join(f"What is {i}?,Same.,Same.\n" for i in range(500))
    shown = brought(f"prompt,chosen,rejected\nWhy?,So.,No.\n{rows}")
    assert shown["dropped_rows"].count("<tr>") == 1 + row_report.MOST_DROPPED
    assert shown["dropped"].label == "500 dropped rows, the first 200 of them"
    offered = row_report.download(shown["desk"], 512, EMBEDDED)
    path = Path(next(offered)["file"])
    head = ["row,what happened,reason", "1,kept,", "2,dropped,both answers are the same"]
    assert path.read_text().splitlines()[:3] == head
    assert len(path.read_text().splitlines()) == 502
    assert list(offered) == []
    assert not path.exists()


def test_the_rows_are_looked_through_once(stored, monkeypatch):
    monkeypatch.setattr(row_report.quality, "findings", lambda *_: pytest.fail("again"))
    data.views(stored["desk"], 64, EMBEDDED)


# ---- the library


def test_the_library_says_what_is_stored_where_it_came_from_and_who_used_it(stored):
    odd = library.find("odd")
    runs.create("judge", {"stage": "reward", "parent": None, "dataset": known_dataset(odd)})
    table = shelf.library_html()
    (row,) = [row for row in table.split("<tr>") if f'data-act="open {odd.id}"' in row]
    cells = [words(cell) for cell in re.findall("<td>(.*?)</td>", row)]
    assert cells[:5] == ["odd", "pairs", f"{odd.train} + {odd.heldout}", "1", odd.sha256[:10]]
    assert cells[5].startswith("pasted text on 2")
    assert cells[6] == "judge"


def test_a_name_in_the_table_opens_its_dataset(stored):
    said = event(key=shelf.KEY, act=f"open {library.find('odd').id}")
    assert data.open_named(Desk(), *HOW, said)["desk"].looked.title == "odd"
    assert data.open_named(Desk(), *HOW, event(key=shelf.KEY, act="burn odd")) == {}


def test_an_older_version_can_be_looked_at(stored):
    first = library.find("odd").id
    data.revise(press(stored, "flip", "train 0")["desk"], *HOW)
    shown = data.open_stored(first, None, *HOW)
    assert [label.split(":")[0] for label, _ in shown["version"].choices] == ["2", "1"]
    assert (shown["version"].value, shown["stored"].value) == (first, library.find("odd").id)
    assert shown["desk"].looked.rows[0].chosen == "It is 1."


def test_a_dataset_is_deleted_only_when_asked_twice_and_not_while_a_run_needs_it(stored):
    odd = library.find("odd")
    asked = shelf.ask(odd.id)
    assert asked["sure"].value == "Yes, delete odd"
    assert (asked["delete"].visible, asked["sure"].visible) == (False, True)
    assert library.find("odd")
    run = runs.create("judge", {"stage": "reward", "parent": None, "dataset": known_dataset(odd)})
    with pytest.raises(gr.Error, match="judge is queued and needs odd"):
        shelf.delete(odd.id, odd.id)
    run.update(state="finished")
    shelf.delete(odd.id, odd.id)
    with pytest.raises(DataError):
        library.find("odd")


def test_only_what_a_person_was_asked_about_is_deleted(stored, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    odd = library.find("odd")
    other = library.make("other", "sft", [Row(1, [*odd.rows("train")[0].prompt, ANSWER])], "a test", {})
    doomed = shelf.ask(odd.id)["doomed"]
    shown = shelf.delete(other.id, doomed)  # opened between the two buttons
    assert (shown["sure"].visible, shown["doomed"]) == (False, "")
    assert (len(told), library.find("odd"), library.find("other")) == (1, odd, other)
    opened = data.open_stored(other.id, stored["desk"], *HOW)
    assert (opened["sure"].visible, opened["delete"].visible, opened["doomed"]) == (False, True, "")


def test_other_pages_are_cleared_where_all_hold_too_much_those_with_changes_last(monkeypatch):
    def desk(title):
        made = Desk()
        made.open(looking.of_file(title, [RawRow(1, {"prompt": "Why?", "completion": "x" * 1000}, None)]))
        return made

    monkeypatch.setattr(looking, "_desks", [])
    monkeypatch.setattr(looking, "MOST_HELD", 3500)
    changed, plain, third = desk("changed"), desk("plain"), desk("third")
    changed.looked.draft.drop(("train", 0))
    fourth = desk("fourth")
    assert [found.looked is None for found in (changed, plain, third, fourth)] == [False, True, False, False]
    with pytest.raises(gr.Error, match="open it again"):
        data.views(plain, *HOW) if plain.looked else row_editor.act(plain, *HOW, None)
    desk("fifth"), desk("sixth"), desk("seventh")
    assert changed.looked is not None


def test_presets_are_neither_renamed_nor_deleted():
    for act in (lambda: shelf.delete("pocket-tutor", "pocket-tutor"), lambda: shelf.rename("pocket-tutor", "mine")):
        with pytest.raises(gr.Error, match="comes with the app"):
            act()


def test_a_dataset_gets_another_name_in_the_library_and_in_view(stored):
    odd = library.find("odd")
    shown = data.rename(odd.id, "better", stored["desk"], *HOW)
    assert library.find("better").id == odd.id == shown["stored"].value
    assert "<h2>better</h2>" in shown["report"]
    with pytest.raises(gr.Error, match="already"):
        data.rename(odd.id, "pocket-tutor", stored["desk"], *HOW)


def test_a_dataset_is_downloaded_as_trl_reads_it_and_the_file_does_not_stay(stored):
    offered = shelf.download(library.find("odd").id, None)
    path = Path(next(offered)["file"])
    assert path.name == "odd-1.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 24
    assert set(lines[0]) == {"prompt", "chosen", "rejected"}
    list(offered)
    assert not path.exists()


def test_what_can_be_done_is_done_to_what_is_in_view(stored):
    assert stored["stored"].value == library.find("odd").id
    file = brought(ODD, stored["desk"])
    assert (file["stored"].value, file["version"].visible) == (None, False)
    assert data.open_stored("pocket-tutor", file["desk"], *HOW)["stored"].value == "pocket-tutor"


def test_nothing_chosen_is_a_sentence():
    for act in (lambda: shelf.ask(None), lambda: list(shelf.download(None, None)), lambda: shelf.rename(None, "x")):
        with pytest.raises(gr.Error, match="Open a stored dataset first"):
            act()


# ---- the Hub


def test_subsets_and_splits_are_offered_after_a_look(monkeypatch):
    found = [("default", "train"), ("default", "test"), ("harmless", "train")]
    monkeypatch.setattr(hub, "splits", lambda name: found)
    *_, shown = sources.look_up(" Anthropic/hh-rlhf ")
    assert (shown["subset"].choices, shown["split"].choices) == (
        [("default", "default"), ("harmless", "harmless")],
        [("train", "train"), ("test", "test")],
    )
    assert sources.splits_of(shown["hub_splits"], "harmless")["split"].choices == [("train", "train")]


def test_without_a_network_the_hub_is_a_sentence(monkeypatch):
    def unreachable(*_, **__):
        raise DataError("a/b: the Hub can't be reached; bring a file of the dataset instead")

    monkeypatch.setattr(hub, "splits", unreachable)
    monkeypatch.setattr(hub, "read_dataset", unreachable)
    *_, looked_up = sources.look_up("a/b")
    *_, fetched = data.open_hub("a/b", "", "train", 10, Desk(), *HOW)
    for shown in (looked_up, fetched):
        assert "bring a file of the dataset instead." in words(shown["hub_status"])


def test_rows_of_the_hub_are_counted_while_they_come_and_looked_at_when_they_are_there(monkeypatch):
    def read(name, subset, split, most, limits, progress, stop):
        progress(most, "")
        return [RawRow(i, {"prompt": f"Why {i}?", "completion": "So."}, None) for i in range(1, most + 1)]

    monkeypatch.setattr(hub, "read_dataset", read)
    shown = [found for found in data.open_hub("a/b", "main", "train", 7, Desk(), *HOW)]
    (views,) = [found for found in shown if "rows" in found]
    assert (views["desk"].looked.title, views["name"], len(views["desk"].looked.rows)) == (
        "a/b, main, train",
        "b-train",
        7,
    )
    assert "7 rows read" in words(shown[-1]["hub_status"])


def test_whoever_stops_the_reading_ends_it(monkeypatch):
    ended = []

    def read(*_, progress, stop):
        while not stop():
            progress(1, "")
        ended.append(True)
        raise DataError("stopped")

    monkeypatch.setattr(hub, "read_dataset", read)
    coming = data.open_hub("a/b", "", "train", 7, Desk(), *HOW)
    next(coming)
    coming.close()
    assert ended == [True]
