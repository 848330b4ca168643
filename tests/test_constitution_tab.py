"""The constitution's editor, its bench and the review, their handlers in process."""

import json
import threading
from dataclasses import dataclass, replace

import gradio as gr
import pytest
from serving import laid_out

from playground.data import constitutions, library
from playground.data.constitution import Constitution, Principle, dump
from playground.runs import run as runs
from playground.runs.run import Run
from playground.statistics import wilson
from playground.tabs import bench, chat, constitution, drafts, html, principles, review
from playground.tabs.drafts import YAML, Card, Desk, Draft

ATTACK = "<img src=x onerror='window.PWNED=1'></textarea><script>alert(1)</script>"
INPUTS = {"textbox", "number", "slider", "dropdown", "checkbox", "radio"}


@pytest.fixture(scope="module")
def config():
    """What the browser is sent of the three parts."""

    def build():
        editor = constitution.build()
        bench.build(editor.fields, editor.holds)
        reviewed = review.build()
        page = gr.context.Context.root_block
        constitution.open_on(page, editor)
        page.load(**reviewed.opening)

    page, _ = laid_out(build)
    return page.get_config_file()


def draft_of(*titles: str) -> Draft:
    texts = {"critique": "Is it kind?", "revision": "Make it kind.", "comparison": "Which is kinder?"}
    cards = tuple(Card(title.lower(), title, **texts) for title in titles)
    return Draft("rules", "About kindness.", cards, open=titles[0].lower() if titles else "")


def titles(draft: Draft) -> list[str]:
    return [card.title for card in draft.cards]


def given(desk: Desk | None, **typed) -> dict:
    """What the browser sends with an event: the form of the open card as the desk has it, but for what is typed."""
    draft = desk.draft if desk else draft_of("A")
    card = draft.cards[draft.place] if draft.place >= 0 else Card("")
    form = {name: getattr(card, name) for name in drafts.FIELDS}
    holds = f"{desk.current if desk else 'x'} {YAML if draft.text is not None else draft.open}"
    sent = {
        "desk": desk,
        "kept": None,
        "holds": holds,
        "name": draft.name,
        "about": draft.about,
        "yaml": draft.text or "",
    }
    return {**sent, **form, **typed}


def nothing(desk: Desk, _: dict) -> Desk:
    return desk


def desk_of(draft: Draft) -> Desk:
    return Desk("*1", {"*1": draft})


# ---- the page


def test_every_input_has_a_label_and_help(config):
    asked = {place for event in config["dependencies"] for place in event["inputs"]}
    seen = [c["props"] for c in config["components"] if c["type"] in INPUTS and c["id"] in asked]
    shown = [props for props in seen if props.get("visible") is not False]
    assert len(shown) > 40
    assert [props["label"] for props in shown if not props.get("info")] == []


def test_every_button_has_words_and_every_event_is_private(config):
    assert all(c["props"]["value"].strip() for c in config["components"] if c["type"] == "button")
    private = [event["api_visibility"] for event in config["dependencies"] if event["targets"][0][1] != "load"]
    assert set(private) == {"private"}


# ---- cards


def test_cards_are_added_copied_moved_removed_and_brought_back():
    draft = draft_of("A", "B", "C")
    assert titles(drafts.added(draft)) == ["A", "", "B", "C"]
    copied = drafts.duplicated(drafts.shown(draft, "b"))
    assert titles(copied) == ["A", "B", "B (copy)", "C"]
    assert titles(drafts.duplicated(drafts.shown(copied, "b"))) == ["A", "B", "B (copy)-2", "B (copy)", "C"]
    assert len({card.id for card in copied.cards}) == 4
    assert titles(drafts.moved(draft, 1)) == ["B", "A", "C"]
    assert titles(drafts.moved(draft, -1)) == ["A", "B", "C"]
    assert titles(drafts.moved(drafts.shown(draft, "c"), 1)) == ["A", "B", "C"]
    gone = drafts.removed(drafts.removed(drafts.shown(draft, "b")))
    assert titles(gone) == ["A"] and gone.open == "a"
    assert titles(drafts.brought_back(drafts.brought_back(gone))) == ["A", "B", "C"]
    assert drafts.brought_back(draft) == draft


def test_the_last_card_can_be_removed_and_one_added_to_nothing():
    empty = drafts.removed(draft_of("A"))
    assert (empty.cards, empty.open) == ((), "")
    for change in (drafts.duplicated, drafts.removed, lambda draft: drafts.moved(draft, 1)):
        assert change(empty) == empty
    assert titles(drafts.added(empty)) == [""]
    assert "press Add" in principles.status_html(empty) or "no principles" in principles.status_html(empty)


def test_what_is_typed_goes_to_the_card_that_the_form_holds():
    desk = desk_of(drafts.shown(draft_of("A", "B"), "b"))
    late = given(desk, holds="*1 a", title="Changed", critique=" Is it? \x00")  # the server has opened B meanwhile
    found = principles.step(nothing, late)
    assert titles(found["desk"].draft) == ["Changed", "B"]
    assert found["desk"].draft.cards[0].critique == "Is it?"
    assert "title" in found  # B's form is what the browser needs now
    assert principles.step(nothing, given(desk, holds="*gone a"))["desk"] == desk
    assert principles.step(nothing, given(desk, holds=""))["desk"] == desk


def test_an_answer_of_the_server_leaves_the_form_that_is_typed_in_alone():
    desk = desk_of(draft_of("A", "B"))
    found = principles.step(nothing, given(desk, critique="Is it half typ", weight=None))
    assert not {"title", "critique", "yaml", "name", "about", "mode"} & found.keys()
    assert found["desk"].draft.cards[0].weight == 1.0
    assert set(principles.step(nothing, given(found["desk"]))) == {"desk", "kept", "holds"}


def test_boxes_that_are_not_on_the_page_yet_empty_nothing():
    """A tab that opens puts its boxes on the page one by one, and each tells at once of a change."""
    desk = desk_of(draft_of("A"))
    unseen = dict.fromkeys(("name", "about", *drafts.FIELDS, "yaml"))
    assert principles.step(nothing, given(desk, **unseen))["desk"] == desk
    in_yaml = desk_of(drafts.in_text(draft_of("A")))
    assert principles.step(nothing, given(in_yaml, **unseen))["desk"] == in_yaml
    emptied = principles.step(nothing, given(desk, critique="", about=""))["desk"].draft
    assert (emptied.cards[0].critique, emptied.about) == ("", "")


def test_what_is_wrong_is_said_and_what_is_typed_stays():
    desk = desk_of(drafts.in_text(draft_of("A")))
    with pytest.raises(gr.Error, match=r"line 5.*stands at: .- title: \["):
        principles.step(
            lambda desk, _: desk.put(drafts.in_cards(desk.draft)),
            given(desk, yaml="name: x\nabout: y\nprinciples:\n  - title: [\n"),
        )
    found = principles.step(nothing, given(desk, yaml="no: ["))["desk"]
    assert found.draft.text == "no: [" and found.draft.changed and titles(found.draft) == ["A"]
    assert "be read yet" in principles.read_html("no: [")
    assert ">1 principle.<" in principles.read_html(desk.draft.text)
    assert drafts.dropped_text(found.draft).text == desk.draft.text


def test_yaml_and_cards_are_the_same_and_looking_changes_nothing():
    draft = draft_of("A", "B")
    assert drafts.in_cards(drafts.in_text(draft)) == draft
    text = dump(draft.constitution).replace("title: B", "title: Better")
    changed = drafts.in_cards(replace(drafts.in_text(draft), text=text))
    assert titles(changed) == ["A", "Better"]
    half = drafts.added(draft)  # an empty card is no reason to lose the way
    assert drafts.in_cards(drafts.in_text(half)) == half


def test_a_huge_or_hostile_text_is_refused_in_a_sentence_or_kept_as_text():
    long = "word " * 20_000
    desk = desk_of(draft_of("A"))
    found = principles.step(nothing, given(desk, critique=long, title=ATTACK))
    assert "1,000 are allowed" in found["status"] or "80 are allowed" in found["status"]
    assert "<img" not in found["status"]
    assert found["cards"].choices[0][0].startswith("1. <img")  # Gradio writes labels as text
    huge = "x" * 300_000
    with pytest.raises(ValueError, match="200 kB"):
        drafts.in_cards(Draft("x", text=huge))
    assert "<img" not in principles.read_html(f"- {{{ATTACK}")


def test_the_yaml_takes_the_place_of_name_and_about(home):
    """It holds both itself: what were typed into their boxes meanwhile would be lost."""
    desk = desk_of(draft_of("A"))
    opened = principles.step(lambda desk, _: desk.put(drafts.in_text(desk.draft)), given(desk))
    assert opened["naming"].visible is False and opened["yaml_view"].visible is True
    late = given(desk, name="kindness", critique="Is it warm?")  # typed while the YAML opened
    found = principles.step(nothing, {**late, "desk": opened["desk"]})
    assert "name: kindness" in found["yaml"] and "Is it warm?" in found["yaml"]
    renamed = given(found["desk"], yaml=found["yaml"].replace("kindness", "warmth"), name="stale")
    closed = principles.step(lambda desk, _: desk.put(drafts.in_cards(desk.draft)), renamed)
    assert closed["naming"].visible is True and closed["name"] == "warmth"


# ---- versions


def opened_desk(name: str | None = None) -> Desk:
    version = constitutions.find(name or constitutions.names()[0])
    return Desk(version.reference, {version.reference: drafts.opened(version.constitution, version.reference)})


@pytest.fixture
def told(monkeypatch):
    """What toasts said."""
    said: list[str] = []
    monkeypatch.setattr(constitution.gr, "Info", said.append)
    return said


def test_saving_makes_a_version_and_another_name_another_constitution(told):
    desk = opened_desk()
    edited = principles.step(nothing, given(desk, title="Do no harm at all"))["desk"]
    saved = constitution._saved(edited)
    assert saved.current == f"{constitutions.names()[0]}@2" and not saved.draft.changed
    assert list(saved.drafts) == [saved.current]
    assert saved.draft.cards[0].id == edited.draft.cards[0].id  # the form goes on with the same card
    other = constitution._saved(principles.step(nothing, given(saved, name="My rules"))["desk"])
    assert other.current == "My-rules@1" and other.draft.name == "My-rules"
    assert constitution._saved(other).current == "My-rules@1"  # nothing new
    assert len(told) == 3
    in_yaml = other.put(drafts.in_text(other.draft))
    in_yaml = in_yaml.put(replace(in_yaml.draft, text=in_yaml.draft.text.replace("at all", "to anyone")))
    again = constitution._saved(in_yaml)
    assert again.current == "My-rules@2" and "to anyone" in again.draft.text and not again.draft.changed


def test_a_draft_that_is_left_waits_and_one_without_edits_does_not():
    first, second = constitutions.names()[:2]
    desk = constitution._chosen(opened_desk(first), second)
    assert list(desk.drafts) == [f"{second}@1"]
    edited = principles.step(nothing, given(desk, title="Other"))["desk"]
    left = constitution._chosen(edited, first)
    assert left.drafts[f"{second}@1"] == edited.draft
    assert (f"{second} (unsaved edits)", second) in drafts.name_choices(left)
    assert constitution._chosen(left, second).draft == edited.draft
    dropped = constitution._dropped(edited)
    assert dropped.draft.constitution == constitutions.find(second).constitution
    new = constitution._begun(edited, drafts.added(Draft("mine")))
    assert ("mine (not saved yet)", new.current) in drafts.name_choices(new)
    assert drafts.version_choices(new) == [("not saved yet", new.current)]
    gone = constitution._dropped(new)
    assert new.current not in gone.drafts and gone.drafts[f"{second}@1"] == edited.draft


def test_what_is_deleted_stays_on_the_page_until_it_is_dropped(told):
    saved = constitution._saved(principles.step(nothing, given(opened_desk(), name="mine"))["desk"])
    deleted = constitution._deleted(saved)
    assert "mine" not in constitutions.names()
    assert deleted.current.startswith("*") and deleted.draft.changed
    assert deleted.draft.cards == saved.draft.cards
    with pytest.raises(ValueError, match="never saved"):
        constitution._deleted(deleted)
    with pytest.raises(ValueError, match="comes with the app"):
        constitution._deleted(opened_desk())


def test_a_file_or_pasted_text_of_any_shape_opens_as_a_draft(tmp_path, told):
    file = tmp_path / "rules.txt"
    file.write_text("Be kind.\nBe brief.\n", encoding="utf-8")
    draft = constitution._uploaded(str(file))
    assert len(draft.cards) == 2 and draft.name == "rules" and draft.changed and not file.exists()
    assert len(constitution._pasted('[{"critic": "Is it kind?", "revision": "Make it kind."}]').cards) == 1
    assert "2 principles" in told[0]
    for wrong in (None, "", "<html></html>"):
        with pytest.raises(ValueError):
            constitution._pasted(wrong)


def test_differences_are_told_in_words_and_texts_word_by_word():
    desk = opened_desk()
    same = principles.differences_html(desk.draft, desk.current)
    assert "Nothing differs" in same
    card = desk.draft.cards[0]
    changed = drafts.filled(desk.draft, card.id, {**given(desk), "critique": f"{card.critique} {ATTACK}", "weight": 3})
    shown = principles.differences_html(drafts.removed(drafts.shown(changed, changed.cards[2].id)), desk.current)
    assert "Removed" in shown and "The weight of" in shown and "<ins>&lt;img" in shown and "<img" not in shown
    with pytest.raises(gr.Error, match="Pick a version"):
        principles.differences_html(desk.draft, None)
    with pytest.raises(gr.Error, match="no constitution called"):
        principles.differences_html(desk.draft, "gone")


def test_cards_say_what_is_special_about_them():
    origin = Constitution("rules", "", (Principle("A", "c", "r", "k"), Principle("B", "c", "r", "k", 2.0)))
    draft = drafts.opened(origin, "rules@1")
    draft = drafts.filled(draft, draft.open, {**given(desk_of(draft)), "enabled": False})
    assert [words for words, _ in drafts.card_choices(draft)] == ["1. A · off · edited", "2. B · weight 2"]
    assert "2 principles, 1 of them drawn" in principles.status_html(draft)


@pytest.mark.parametrize("name", ["broken", "harmless-and-candid"])
def test_a_saved_file_that_can_not_be_read_keeps_nobody_from_the_others(home, name):
    folder = home / "constitutions" / name
    folder.mkdir(parents=True)
    (folder / "7.yaml").write_text("")
    desk = principles.first_look(None)["desk"]
    assert desk.current == "harmless-and-candid@1"
    compared = [reference for _, reference in drafts.against_choices(desk)]
    assert "harmless-and-candid@1" in compared and "pocket-tutor@1" in compared
    edited = principles.step(nothing, given(desk, about="Other words."))["desk"]
    assert not constitution._dropped(edited).draft.changed
    with pytest.raises(gr.Error, match="can't be read"):
        principles.step(lambda desk, _: constitution._brought(desk, f"{name}@7"), given(edited))
    assert constitution._in_view(edited) == ["harmless-and-candid", "harmless-and-candid@1"]


# ---- words that changed


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("I can help.", "I can not help.", "I can <ins>not</ins> help."),
        ("I can help you.", "I can help.", "I can <del>help you.</del> <ins>help.</ins>"),
        ("", "New", "<ins>New</ins>"),
        ("Old", "", "<del>Old</del>"),
        ("a\nb", "a b", "a b"),
        ("<b>", "<i>", "<del>&lt;b&gt;</del> <ins>&lt;i&gt;</ins>"),
        ("", "", ""),
    ],
)
def test_a_word_diff_marks_what_goes_and_what_comes(before, after, shown):
    assert html.diff(before, after) == f'<div class="pg-diff">{shown}</div>'


def test_texts_too_long_to_compare_are_shown_at_once():
    long = "word " * 50_000
    assert html.diff(long, f"{long} more").count("<ins>") == 1


# ---- the bench


@dataclass
class Trial:
    answer: str = ""
    critique: str = ""
    revision: str = ""
    reason: str | None = None


@pytest.fixture
def asked(monkeypatch):
    """What the bench asks of a model that answers at once."""
    from playground.chat import bench as writer

    calls: list = []

    def stream(ref, run, principle, prompts, sampling, should_stop=lambda: False):
        calls.append((principle, list(prompts), sampling))
        yield [Trial("Yes.")] * len(prompts)
        if should_stop():
            return
        yield [Trial("Yes.", "Too short.")] * len(prompts)
        yield [Trial("Yes.", "Too short.", f"Yes, {ATTACK}", "echo")] * len(prompts)

    monkeypatch.setattr(writer, "stream", stream)
    monkeypatch.setattr(bench.fetching, "ready_or_fetch", lambda ref: None)
    return calls


def form(**other) -> dict:
    texts = {"title": "Kind", "critique": "Is it kind?", "revision": "Make it kind.", "comparison": ""}
    rest = {"holds": "x@1 a", "checkpoint": chat.START, "max_new_tokens": 16, "temperature": 0, "seed": None}
    return {**texts, **rest, **other}


def test_the_three_turns_come_one_after_the_other(asked):
    frames = list(bench.trials(form(), ["How?", "", " Why? "], threading.Event()))
    assert asked[0][1] == ["How?", "Why?"]
    assert (asked[0][0].critique, asked[0][2].max_new_tokens) == ("Is it kind?", 16)
    words = [status for _, status in frames]
    for found, wanted in zip(words[1:], ("Answer", "Critique", "Revision", "Tried under"), strict=True):
        assert wanted in found
    last = frames[-1][0]
    assert last.count("<ins>") == 2 and "<img" not in last and "leave this revision out: echo" in last
    assert "<ins>" not in frames[-2][0]  # while it grows, most of it would look as if it were taken out


def test_a_trial_that_is_stopped_says_so_and_a_newer_one_ends_the_older(asked):
    older = bench.until_stopped("page", form(), ["How?"])
    next(older)
    newer = bench.until_stopped("page", form(), ["Why?"])
    began = threading.Thread(target=lambda: list(newer))
    began.start()
    assert "Stopped." in list(older)[-1][1]
    began.join(30)
    assert not began.is_alive() and bench._asked == {}


@pytest.mark.parametrize(
    ("other", "prompts", "said"),
    [
        ({"critique": " "}, ["How?"], "write its critique"),
        ({"holds": f"x@1 {YAML}"}, ["How?"], "back to the cards"),
        ({}, [" "], "Type a prompt"),
        ({"checkpoint": "run_000000000000"}, ["How?"], "no run"),
        ({"checkpoint": "nonsense"}, ["How?"], "not a run id"),
        ({"seed": -1}, ["How?"], "seed"),
    ],
)
def test_what_can_not_be_tried_is_said(asked, other, prompts, said):
    with pytest.raises(gr.Error, match=said):
        list(bench.trials(form(**other), prompts, threading.Event()))


def test_a_model_that_is_not_there_yet_is_fetched_first(monkeypatch):
    monkeypatch.setattr(bench.fetching, "ready_or_fetch", lambda ref: "Fetching it first.")
    with pytest.raises(gr.Error, match="Fetching it first"):
        list(bench.trials(form(), ["How?"], threading.Event()))


# ---- the review


def made_run(stage: str, rows: list[dict]) -> Run:
    used = {"name": "rules", "version": 1, "sha256": "0" * 64}
    asked = {"stage": stage, "parent": None, "base": "embedded", "base_title": "tiny", "constitution": used}
    run = runs.create(f"made-by-{stage}", {**asked, "settings": {}})
    (run.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def prompt_of(i: int) -> list[dict]:
    return [{"role": "user", "content": f"What about {i}? {ATTACK}"}]


def revised(count: int) -> Run:
    step = {"principle": ATTACK, "critique": "It is rude.", "revision": "The kind answer.", "reason": None}
    rows = [{"index": i, "prompt": prompt_of(i), "answer": f"The answer {i}.", "steps": [step], "notes": {},
             "revision": f"The kind answer {i}.", "reason": "echo" if i % 4 == 3 else None}
            for i in range(count)]  # fmt: skip
    return made_run("constitution", rows)


def rows_of(shown: list) -> list[int]:
    return json.loads(shown[-1])["rows"]


class Open:
    """A review as one browser page has it: what its places were sent, and what stands in their boxes."""

    def __init__(self, run: Run):
        self.run = run
        self.look(review.page_of(run.id, "all", "", 0))

    def look(self, shown: list) -> None:
        self.rows = shown[-1]
        places = [shown[1 + at * review.SLOT : 1 + (at + 1) * review.SLOT] for at in range(review.PAGE)]
        self.text = [part[2].value if isinstance(part[2], gr.Textbox) else "" for part in places]
        self.sent = [part[4] for part in places]

    def say(self, place: int, said: str | None, text: str | None = None) -> list:
        """A verdict, or None for a box that was left; `text`: what was typed there."""
        self.text[place] = self.text[place] if text is None else text
        found = review.decided(self.rows, place, self.sent[place], self.text[place], said)
        if isinstance(found[2], gr.Textbox):
            self.text[place] = found[2].value if found[2].value is not None else self.text[place]
            self.sent[place] = found[4]
        return found


@pytest.fixture
def warned(monkeypatch):
    """What toasts warned of."""
    said: list[str] = []
    monkeypatch.setattr(review.gr, "Warning", said.append)
    return said


def decisions(run: Run) -> dict:
    return json.loads((run.folder / "review.json").read_text(encoding="utf-8"))


def test_without_a_run_the_review_says_what_to_do():
    shown = review.page_of(None, "all", "", 0)
    assert "start a run in Critique and revise" in shown[0]
    assert review.choices() == []
    with pytest.raises(gr.Error, match="Nothing to review"):
        review.hand_over(None, "sft")


def test_rows_come_ten_at_a_time_and_the_page_turns_from_what_is_shown():
    run = revised(25)
    first = review.page_of(run.id, "all", "", 0)
    assert rows_of(first) == list(range(10))
    second = review.page_of(run.id, "all", first[-1], 1)
    third = review.page_of(run.id, "all", second[-1], 1)
    assert (rows_of(second), rows_of(third)) == (list(range(10, 20)), list(range(20, 25)))
    assert rows_of(review.page_of(run.id, "all", third[-1], 1))[-1] == 24  # there is no page behind the last
    assert rows_of(review.page_of(run.id, "all", third[-1], -1)) == list(range(10, 20))
    assert rows_of(review.page_of(run.id, "all", first[-1], -1)) == list(range(10))
    assert rows_of(review.page_of(run.id, "dropped by a filter", "", 0)) == [3, 7, 11, 15, 19, 23]
    assert 3 not in rows_of(review.page_of(run.id, "kept", "", 0))
    for place in range(10):  # what is decided leaves the list, and the next page begins behind it all the same
        said = f"The kind answer {place}."
        review.decided(first[-1], place, review.digest(said), said, "accept")
    assert rows_of(review.page_of(run.id, "undecided", first[-1], 1)) == list(range(10, 20))


def test_verdicts_are_kept_and_words_that_were_changed_are_an_edit():
    run = revised(5)
    page = Open(run)
    page.say(0, "accept")
    counts, _, box, said, _ = page.say(1, None, "My words.")
    assert said == "accept" and "edited by you" in box.label and "edited 1" in counts
    page.say(1, "accept")  # still an edit
    page.say(2, "drop", "Other words.")
    page.say(3, "accept")  # against the filter
    assert decisions(run) == {"0": {"verdict": "accept"}, "1": {"verdict": "edit", "text": "My words."},
                              "2": {"verdict": "drop", "text": "Other words."}, "3": {"verdict": "accept"}}  # fmt: skip
    assert "4 rows go into the data" in page.say(4, "")[0]
    page.say(0, "")
    assert "0" not in decisions(run)
    nothing_said = [gr.skip()] * 5
    assert page.say(4, None, "The kind answer 4. \r\n") == nothing_said  # only left, not changed
    assert page.say(9, "accept") == nothing_said
    assert review.decided("", 0, "", "x", "accept") == nothing_said
    with pytest.raises(gr.Error, match="empty"):
        page.say(4, "accept", " ")
    with pytest.raises(gr.Error, match="at most"):
        page.say(4, None, "x" * 100_000)


def test_a_page_that_was_left_open_does_not_undo_what_another_one_wrote(warned):
    run = revised(3)
    one, other = Open(run), Open(run)
    one.say(0, None, "My words.")
    found = other.say(0, None)  # the box was only passed through
    assert (found[2].value, found[3], warned) == ("My words.", "accept", [])
    one.say(1, None, "My words.")
    for said in ("accept", "drop", ""):
        stale = Open(run)
        stale.text[1], stale.sent[1] = "The kind answer 1.", review.digest("The kind answer 1.")
        found = stale.say(1, said)
        assert (found[2].value, found[3]) == ("My words.", "accept")
    assert len(warned) == 3 and "Row 2 was changed on another page" in warned[0]
    one.say(2, None, "My words.")
    found = other.say(2, None, f"Mine, too. {ATTACK}")
    assert "Mine, too. &lt;img" in found[1] and found[2].value == "My words."  # not kept, and still to be read
    assert decisions(run) == {str(i): {"verdict": "edit", "text": "My words."} for i in range(3)}
    other.say(2, None, "Ours.")  # now it has seen the newest
    assert decisions(run)["2"]["text"] == "Ours."


def test_quick_hands_are_no_other_page(warned):
    """An edit and the verdict behind it leave the browser together, both with what was sent before them."""
    run = revised(1)
    page = Open(run)
    before = page.sent[0]
    page.say(0, None, "My words.")
    page.sent[0] = before
    page.say(0, "drop")
    assert decisions(run) == {"0": {"verdict": "drop", "text": "My words."}} and warned == []
    page.sent[0] = before
    page.say(0, None)  # the edit arrives last
    assert decisions(run)["0"]["verdict"] == "drop" and warned == []


def test_a_verdict_that_arrives_after_the_page_was_turned_leaves_the_new_rows_alone(warned):
    run = revised(13)
    page = Open(run)
    turned = review.page_of(run.id, "all", page.rows, 1)[-1]
    found = review.decided(page.rows, 2, page.sent[2], "My words.", None, turned)
    assert found[1:] == [gr.skip()] * (review.SLOT - 1) and decisions(run)["2"]["text"] == "My words."
    assert "edited 1" in found[0] and "rows 11 to 13" in found[0]
    other = review.page_of(revised(5).id, "all", "", 0)[-1]
    newer = [page.rows, 2, review.digest("My words."), "Newer words.", None, other]
    found = review.decided(*newer)
    assert found[1:] == [gr.skip()] * (review.SLOT - 1) and "5 rows" in found[0]  # another run stands there
    more = json.dumps({**json.loads(page.rows), "rows": [*range(10), 10]})  # only filled up: the place is the same
    found = review.decided(page.rows, 3, page.sent[3], "My words.", None, more)
    assert "edited by you" in found[2].label and "rows 1 to 11" in found[0]
    found = review.decided(page.rows, 3, page.sent[3], "Other words.", "accept", turned)
    assert found[1:] == [gr.skip()] * (review.SLOT - 1) and len(warned) == 1


def test_words_of_a_person_outlive_a_drop_and_undecided():
    run = revised(1)
    page = Open(run)
    page.say(0, None, "My words.")
    page.say(0, "drop")
    assert Open(run).text[0] == "My words."
    page.say(0, "accept")
    assert decisions(run) == {"0": {"verdict": "edit", "text": "My words."}}
    _, told, box, said, _ = page.say(0, "")  # the data will hold what was made, so that is what stands there
    assert (box.value, said) == ("The kind answer 0.", "") and "My words." in told
    page.say(0, "accept")
    assert decisions(run)["0"]["verdict"] == "accept" and Open(run).text[0] == "The kind answer 0."


def test_a_review_that_is_looked_at_again_shows_what_came_since():
    run = revised(2)
    shown = review.page_of(run.id, "all", "", 0)
    more = revised(12)
    (run.folder / "rows.jsonl").write_bytes((more.folder / "rows.jsonl").read_bytes())
    again = review.filled_up(run.id, "kept", shown[-1])
    assert rows_of(again) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert again[0].startswith("<div") and "12 rows" in again[0] and "rows 1 to 11" in again[0]
    assert again[1 : 1 + 2 * review.SLOT] == [gr.skip()] * 2 * review.SLOT  # what is typed there stays
    assert again[1 + 2 * review.SLOT].visible is True and again[1 + 9 * review.SLOT].visible is False
    full = review.page_of(run.id, "all", "", 0)
    again = review.filled_up(run.id, "all", full[-1])
    assert rows_of(again) == list(range(10)) and again[1 : 1 + 10 * review.SLOT] == [gr.skip()] * 10 * review.SLOT
    assert "12 rows" in again[0]


def test_a_row_shows_its_turns_and_nothing_hostile():
    run = revised(1)
    shown = review.page_of(run.id, "all", "", 0)[2]
    assert "First answer" in shown and "Critique under" in shown and "<del>" in shown
    assert "<img" not in shown and "<script" not in shown


def test_feedback_shows_the_judge_and_how_far_to_trust_it():
    row = {"index": 0, "prompt": prompt_of(0), "chosen": ATTACK, "rejected": "No.", "label": 0.9, "p": 0.87,
           "consistent": False, "reason": None, "notes": {"judge_accuracy": "58% (44% to 71%, n = 48)"}}  # fmt: skip
    run = made_run("feedback", [row])
    found = {"judge": ATTACK, "method": "pairwise", "honest": wilson(26, 48)._asdict(), "formats": {"A/B": {}}}
    (run.folder / "judge.json").write_text(json.dumps(found), encoding="utf-8")
    judge = review.page_of(run.id, "all", "", 0)[-3]
    assert "54% (40% to 67%, n = 48)" in judge and "hardly better than chance" in judge and "<img" not in judge
    assert review.filled_up(run.id, "all", "")[-3] == judge
    shown = review.page_of(run.id, "all", "", 0)[2]
    for words in ("probability 87%", "changed places", "58% (44% to 71%, n = 48)", "chosen", "rejected"):
        assert words in shown
    assert "<img" not in shown


@pytest.mark.parametrize(("stage", "kind"), [("sft", "sft"), ("reward", "preference"), ("dpo", "preference")])
def test_accepted_rows_are_handed_over_to_the_stage(stage, kind):
    run = revised(12)
    Open(run).say(0, None, "My words.")
    made = review.hand_over(run.id, stage)
    assert (made.kind, made.train + made.heldout) == (kind, 9)
    assert library.find(made.id) == made
    said = [row.messages[-1]["content"] if kind == "sft" else row.chosen for row in made.rows("train")]
    said += [row.messages[-1]["content"] if kind == "sft" else row.chosen for row in made.rows("heldout")]
    assert "My words." in said
    with pytest.raises(gr.Error, match="no run"):
        review.hand_over("run_000000000000", stage)
