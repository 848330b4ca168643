"""What the browser keeps of the constitution's editor, and how a page that the server has forgotten goes on."""

import json
from dataclasses import replace

import gradio as gr
import pytest

from playground.data import constitutions
from playground.tabs import constitution, drafts, keeping, principles
from playground.tabs.drafts import YAML, Card, Desk, Draft

TEXTS = {"critique": "Is it kind?", "revision": "Make it kind.", "comparison": "Which is kinder?"}


def nothing(desk: Desk, _: dict) -> Desk:
    return desk


def sent(shown: dict, desk: Desk, **typed) -> dict:
    """What a page sends that shows this desk: its form, but for what is typed, and what it was told to keep."""
    draft = desk.draft
    card = draft.cards[draft.place]
    form = {name: getattr(card, name) for name in drafts.FIELDS}
    about = {"name": draft.name, "about": draft.about, "yaml": draft.text or ""}
    kept = json.loads(json.dumps(shown["kept"]))
    return {"desk": desk, "kept": kept, "holds": shown["holds"], **about, **form, **typed}


def new_draft() -> Draft:
    return Draft("rules", "About kindness.", (Card("a", "A", **TEXTS), Card("b", "B", **TEXTS)), open="a")


@pytest.mark.parametrize("kept", [None, {}, [], "x", {"drafts": {}}, {"current": "a", "drafts": {"a": {}}},
                                  {"drafts": []}, {"current": 1, "drafts": {"a": {"name": "x", "cards": 3}}},
                                  {"current": [], "drafts": {"a": 1}}])  # fmt: skip
def test_what_the_browser_kept_may_be_anything(kept):
    assert keeping.unpacked(kept) is None
    assert keeping.recovered(kept, "a b") is None
    assert principles.first_look(kept)["desk"].draft.origin == constitutions.find(constitutions.names()[0]).constitution


def test_the_browser_keeps_what_is_not_saved_and_only_that():
    shown = principles.first_look(None)
    desk = shown["desk"]
    assert shown["kept"]["drafts"] == {} and "Saved." in shown["status"]
    desk = principles.step(nothing, sent(shown, desk, about="Other words."))["desk"]
    desk = constitution._begun(desk, drafts.added(Draft("mine")))
    kept = json.loads(json.dumps(keeping.packed(desk)))
    assert keeping.unpacked(kept) == desk
    assert principles.first_look(kept)["desk"] == desk


def test_one_draft_that_can_not_be_read_costs_none_of_the_others():
    kept = keeping.packed(Desk("*1", {"*1": new_draft()}))
    kept["drafts"] = {"*0": {"name": "half"}, **kept["drafts"], "*2": None}
    assert list(keeping.unpacked(kept).drafts) == ["*1"]


def test_a_version_that_two_pages_edited_is_a_draft_of_its_own_the_second_time():
    shown = principles.first_look(None)
    first = principles.step(nothing, sent(shown, shown["desk"], about="One page."))["kept"]
    second = principles.step(nothing, sent(shown, shown["desk"], about="The other."))["kept"]
    key = first["current"]
    both = {"current": key, "drafts": {key: first["drafts"][key], "*1": second["drafts"][key]}}  # as LOOK reads them
    desk = principles.first_look(both)["desk"]
    assert [desk.drafts[key].about, desk.drafts["*1"].about] == ["One page.", "The other."]
    assert (desk.drafts["*1"].origin, desk.drafts["*1"].base) == (None, "")
    assert ("harmless-and-candid (not saved yet)", "*1") in drafts.name_choices(desk)


@pytest.mark.parametrize("edited", [False, True])
def test_a_page_that_the_server_forgot_goes_on(edited):
    shown = principles.first_look(None)
    if edited:
        shown = principles.step(nothing, sent(shown, shown["desk"], about="Other words."))
    desk = shown["desk"]
    card = desk.draft.cards[2].id
    at_third = principles.step(lambda desk, _: desk.put(drafts.shown(desk.draft, card)), sent(shown, desk))
    lost = {**sent(at_third, at_third["desk"], critique="Typed after the restart."), "desk": None}
    found = principles.step(nothing, lost)
    assert found["desk"].draft.cards[2].critique == "Typed after the restart."
    assert found["desk"].draft.about == at_third["desk"].draft.about and found["desk"].draft.open == card
    assert "Unsaved edits" in found["status"] if not edited else True
    assert not {"title", "critique", "name", "yaml"} & found.keys()  # what is typed goes on


def test_yaml_that_the_server_forgot_goes_on():
    shown = principles.first_look(None)
    turned = principles.step(lambda desk, _: desk.put(drafts.in_text(desk.draft)), sent(shown, shown["desk"]))
    lost = sent(turned, turned["desk"], yaml=turned["yaml"] + "# typed\n")
    found = principles.step(nothing, {**lost, "desk": None})
    assert found["desk"].draft.text.endswith("# typed\n") and lost["holds"].endswith(YAML)


def test_a_saved_version_that_the_server_forgot_goes_on(monkeypatch):
    monkeypatch.setattr(constitution.gr, "Info", lambda words: None)
    shown = principles.first_look(None)
    saved = principles.step(lambda desk, _: constitution._saved(desk), sent(shown, shown["desk"], name="mine"))
    lost = {**sent(saved, saved["desk"], critique="Typed after the restart."), "desk": None}
    assert principles.step(nothing, lost)["desk"].draft.cards[0].critique == "Typed after the restart."
    constitutions.delete("mine")
    assert "This page lost its place" in principles.step(nothing, lost)["status"]


def test_a_page_whose_place_can_not_be_known_says_so():
    shown = principles.first_look(None)
    lost = {**sent(shown, shown["desk"]), "desk": None}
    for other in ({"kept": None}, {"holds": ""}, {"holds": "*gone a"}, {"kept": {**lost["kept"], "cards": ["a"]}}):
        found = principles.step(nothing, {**lost, **other})
        assert list(found) == ["status"] and "Copy what you typed" in found["status"]


def test_comparing_and_downloading_a_lost_page_says_so():
    from serving import laid_out

    page, _ = laid_out(constitution.build)
    names = {fn.fn.__name__: fn for fn in page.fns.values() if fn.fn is not None}
    for name in ("compare", "take"):
        with pytest.raises(gr.Error, match="lost its place"):
            asked = {part: None for part in names[name].inputs}
            names[name].fn(asked)


def test_a_draft_of_a_new_constitution_is_found_again_by_its_key():
    desk = Desk("*1", {"*1": new_draft()})
    shown = {"kept": keeping.packed(desk), "holds": "*1 b"}
    lost = {**sent(shown, Desk("*1", {"*1": replace(new_draft(), open="b")}), title="Better"), "desk": None}
    assert [card.title for card in principles.step(nothing, lost)["desk"].draft.cards] == ["A", "Better"]
