"""The constitution's editor, its bench and the review in a real browser, on a page of their own."""

import gc
import json
import re
import socket
import time
import warnings
from pathlib import Path

import gradio as gr
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from serving import laid_out

from playground.data import constitutions
from playground.runs import run as runs
from playground.tabs import bench, constitution, html, review
from playground.tabs.hosting import launch_options, theme

SHOTS = Path(__file__).resolve().parents[1] / "test-results"
LONG = 30_000  # ms; a slow machine is no failure
pytestmark = [  # of Gradio's own statistics, which a server of its own process would keep to itself
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
ATTACK = "<img src=x onerror='window.PWNED=1'></textarea><script>window.PWNED=1</script>"


def page_of_parts() -> None:
    """The editor, its bench and the review, with the timer that the whole page has."""
    gr.Markdown("# Alignment Playground")
    with gr.Tabs():
        with gr.Tab("Start"):  # what is behind a tab that was never opened is not yet in the page
            gr.Markdown("Here a visitor arrives.")
        with gr.Tab("Constitution"):
            editor = constitution.build()
            bench.build(editor.fields, editor.holds)
        with gr.Tab("Review") as review_tab:
            reviewed = review.build()
    page = gr.context.Context.root_block
    constitution.open_on(page, editor)
    review_tab.select(**reviewed.opening, api_visibility="private", show_progress="hidden")
    ticks = gr.State(0)
    options = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    gr.Timer(1.5).tick(lambda n: n + 1, ticks, ticks, **options)


@pytest.fixture(scope="module")
def server():
    """The page on a free port, served by this process: what the tests patch, it sees."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page, _ = laid_out(page_of_parts)
    options = {**launch_options(), "inbrowser": False, "prevent_thread_lock": True, "quiet": True}
    page.queue(max_size=64).launch(server_port=port, theme=theme(), css=html.STYLE, **options)
    yield f"http://127.0.0.1:{port}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Gradio leaves event loops open, which its process would take
        page.close(verbose=False)
        del page
        gc.collect()


@pytest.fixture
def visit(browser, server):
    """Opens the page, in one browser profile a test; afterwards nothing may have failed in it."""
    problems: list[str] = []
    contexts = []

    def opened(query: str = "", width: int = 1280, context=None) -> Page:
        if context is None:
            context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.goto(f"{server}/{query}")
        page.get_by_role("tab", name="Constitution").click()
        expect(page.locator("#principles-status")).to_contain_text(re.compile("Saved|saved yet|edits"), timeout=LONG)
        expect(box(page, "Title")).not_to_have_value("", timeout=LONG)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def box(page: Page, label: str):
    return page.get_by_label(re.compile(rf"^\s*{label}")).first


def press(page: Page, words: str) -> None:
    page.get_by_role("button", name=words, exact=True).click()


def titles(page: Page) -> list[str]:
    """The cards as they are listed, without their numbers."""
    return [re.sub(r"^\d+\. ", "", text.strip()) for text in page.locator(".pg-cards label").all_inner_texts()]


def status(page: Page):
    return page.locator("#principles-status")


def write_card(page: Page, title: str, critique: str = "Say what is wrong.") -> None:
    press(page, "Add")
    expect(box(page, "Title")).to_have_value("", timeout=LONG)
    box(page, "Title").fill(title)
    box(page, "Critique request").fill(critique)
    box(page, "Revision request").fill("Write it anew.")
    box(page, "Comparison").fill("Which one is better?")


def faults(page: Page, shot: str) -> list[str]:
    """What a screen reader or a narrow screen would stumble over."""
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{shot}.png", full_page=True)
    found = []
    if page.evaluate("document.documentElement.scrollWidth - window.innerWidth") > 0:
        found.append(f"{shot}: wider than the screen")
    for violation in Axe().run(page).response["violations"]:
        if violation["impact"] in ("serious", "critical"):
            found.append(f"{shot}: {violation['id']}: {[node['html'][:160] for node in violation['nodes']][:4]}")
    return found


def test_a_principle_is_written_moved_copied_switched_off_seen_as_yaml_saved_and_compared(visit, home):
    page = visit()
    before = titles(page)
    expect(status(page)).to_contain_text("Saved.")

    write_card(page, "Speak plainly")
    expect(status(page)).to_contain_text("Unsaved edits", timeout=LONG)
    expect(page.locator(".pg-cards label").nth(1)).to_contain_text("2. Speak plainly · edited", timeout=LONG)
    press(page, "Move down")
    press(page, "Move down")
    expect(page.locator(".pg-cards label").nth(3)).to_contain_text("Speak plainly", timeout=LONG)
    press(page, "Move up")
    expect(page.locator(".pg-cards label").nth(2)).to_contain_text("Speak plainly", timeout=LONG)
    press(page, "Duplicate")
    expect(box(page, "Title")).to_have_value("Speak plainly (copy)", timeout=LONG)
    page.get_by_label("Switched on").uncheck()
    expect(page.locator(".pg-cards label").nth(3)).to_contain_text("off", timeout=LONG)
    box(page, "Weight").fill("2.5")
    press(page, "Remove")
    expect(page.locator(".pg-cards label")).to_have_count(len(before) + 1, timeout=LONG)
    press(page, "Undo remove")
    expect(box(page, "Title")).to_have_value("Speak plainly (copy)", timeout=LONG)
    expect(box(page, "Weight")).to_have_value("2.5")

    page.get_by_label("YAML", exact=True).first.check()
    text = page.locator(".pg-yaml textarea")
    expect(text).to_have_value(re.compile("title: Speak plainly \\(copy\\)"), timeout=LONG)
    assert "weight: 2.5\n  enabled: false" in text.input_value()
    expect(page.get_by_label("Name", exact=True)).to_be_hidden()  # the YAML says it
    text.fill(text.input_value().replace("title: Speak plainly\n", "title: Speak shortly\n") + "  broken\n")
    page.get_by_label("Cards", exact=True).check()
    expect(page.get_by_test_id("toast-body")).to_contain_text(re.compile(r"line \d+.*broken", re.S), timeout=LONG)
    expect(page.get_by_label("YAML", exact=True).first).to_be_checked(timeout=LONG)
    assert "broken" in text.input_value()  # what was typed is still there
    page.get_by_test_id("toast-close").click()
    text.fill(text.input_value().replace("  broken\n", ""))
    page.get_by_label("Cards", exact=True).check()
    expect(page.locator(".pg-cards label").nth(2)).to_contain_text("Speak shortly", timeout=LONG)

    page.get_by_text("What has changed").click()
    press(page, "Compare versions")
    expect(page.get_by_text('Added "Speak shortly".')).to_be_visible(timeout=LONG)
    page.screenshot(path=SHOTS / "constitution-edited.png", full_page=True)
    press(page, "Save as a new version")
    expect(status(page)).to_contain_text("Saved.", timeout=LONG)
    saved = constitutions.find("harmless-and-candid")
    assert saved.number == 2
    assert [p.title for p in saved.constitution.principles][1:5] == [
        before[1],
        "Speak shortly",
        "Speak plainly (copy)",
        before[2],
    ]
    assert [(p.weight, p.enabled) for p in saved.constitution.principles][3] == (2.5, False)
    with page.expect_download() as download:
        press(page, "Download as YAML")
    assert download.value.suggested_filename == "harmless-and-candid.yaml"
    assert "Speak shortly" in Path(download.value.path()).read_text(encoding="utf-8")


def test_nothing_typed_is_lost_while_the_page_is_polled_left_and_closed(visit):
    page = visit()
    said = "Every word of this sentence is typed by hand while the page asks for news of runs again and again."
    box(page, "Critique request").fill("")
    box(page, "Critique request").press_sequentially(said, delay=40)  # about four seconds, two to three ticks
    expect(box(page, "Critique request")).to_have_value(said)
    expect(box(page, "Critique request")).to_be_focused()
    expect(status(page)).to_contain_text("Unsaved edits", timeout=LONG)

    # Another card, another constitution and back: at once, without leaving the field first.
    box(page, "Revision request").press_sequentially(" And be brief.")
    page.locator(".pg-cards label").nth(3).click()
    expect(box(page, "Title")).not_to_have_value("Do no harm", timeout=LONG)
    box(page, "Comparison").fill("Which one, then?")
    box(page, "Constitution").click()
    page.get_by_role("option", name="pocket-tutor").click()
    expect(box(page, "Name")).to_have_value("pocket-tutor", timeout=LONG)
    box(page, "Constitution").click()
    page.get_by_role("option", name=re.compile("harmless.*unsaved")).click()
    expect(box(page, "Comparison")).to_have_value("Which one, then?", timeout=LONG)
    page.locator(".pg-cards label").first.click()
    expect(box(page, "Critique request")).to_have_value(said, timeout=LONG)
    expect(box(page, "Revision request")).to_have_value(re.compile("And be brief.$"))

    # The page is closed in the middle of a word.
    box(page, "About").fill("Closed in the midd")
    page.wait_for_timeout(1500)
    context = page.context
    page.close()
    page = visit(context=context)
    expect(status(page)).to_contain_text("Unsaved edits", timeout=LONG)
    expect(box(page, "About")).to_have_value("Closed in the midd")
    expect(box(page, "Critique request")).to_have_value(said)


def test_two_pages_of_one_browser_lose_none_of_each_others_drafts(visit):
    one = visit()
    other = visit(context=one.context)
    box(one, "About").fill("Written on one page.")
    expect(status(one)).to_contain_text("Unsaved edits", timeout=LONG)
    box(other, "About").fill("Written on the other.")  # of the same version
    expect(status(other)).to_contain_text("Unsaved edits", timeout=LONG)
    other.get_by_text("New, import, drop, delete").click()
    press(other, "Begin a new constitution")
    expect(box(other, "Name")).to_have_value("my-constitution", timeout=LONG)
    box(other, "Title").fill("Of the other page")
    box(one, "About").fill("Written on one page, and on.")
    one.wait_for_timeout(1500)
    third = visit(context=one.context)
    found = {"(unsaved edits)": "Written on one page, and on.", "candid (not saved yet)": "Written on the other.",
             "my-constitution": ""}  # fmt: skip
    for name, about in found.items():
        box(third, "Constitution").click()
        third.get_by_role("option", name=re.compile(re.escape(name))).click()
        expect(box(third, "About")).to_have_value(about, timeout=LONG)
    third.get_by_text("New, import, drop, delete").click()
    press(third, "Drop my unsaved edits")  # of the new one: it goes, and the others stay
    expect(box(third, "Name")).to_have_value("harmless-and-candid", timeout=LONG)
    third.wait_for_timeout(500)
    again = visit(context=one.context)
    box(again, "Constitution").click()
    expect(again.get_by_role("option", name=re.compile("unsaved|not saved"))).to_have_count(2, timeout=LONG)


def test_quick_hands_lose_nothing(visit):
    """Words and buttons in one breath: the server answers late, and every word stands on its own card."""
    page = visit()
    press(page, "Add")
    expect(box(page, "Title")).to_have_value("", timeout=LONG)
    box(page, "Title").fill("First")
    press(page, "Duplicate")
    expect(box(page, "Title")).to_have_value("First (copy)", timeout=LONG)
    box(page, "Title").fill("Second")
    page.locator(".pg-cards label").first.click()
    press(page, "Move down")
    expect(box(page, "Title")).to_have_value("Do no harm", timeout=LONG)
    expect(page.locator(".pg-cards label").first).to_contain_text("First", timeout=LONG)
    assert titles(page)[:3] == ["First · edited", "Do no harm", "Second · edited"]


def test_looking_through_the_cards_changes_nothing(visit):
    page = visit()
    said = {}
    for turn in range(3):
        for place in range(len(titles(page))):
            page.locator(".pg-cards label").nth(place).click()
            if turn == 1:
                continue  # faster than the server answers
            expect(box(page, "Title")).to_have_value(titles(page)[place], timeout=LONG)
            now = [box(page, label).input_value() for label in ("Critique request", "Revision request", "Comparison")]
            assert said.setdefault(place, now) == now
    page.wait_for_timeout(1000)
    expect(status(page)).to_contain_text("Saved.")


def test_hostile_texts_stay_texts(visit):
    page = visit()
    write_card(page, ATTACK[:80], ATTACK)
    box(page, "About").fill(ATTACK)
    page.get_by_text("What has changed").click()
    press(page, "Compare versions")
    expect(page.get_by_text('Added "<img')).to_be_visible(timeout=LONG)
    page.get_by_label("YAML", exact=True).first.check()
    expect(page.locator(".pg-yaml textarea")).to_have_value(re.compile("onerror"), timeout=LONG)
    press(page, "Save as a new version")
    expect(status(page)).to_contain_text("Saved.", timeout=LONG)
    page.wait_for_timeout(500)
    assert page.evaluate("window.PWNED") is None


class Trial:
    """As the bench's module makes them."""

    def __init__(self, answer="", critique="", revision="", reason=None):
        self.answer, self.critique, self.revision, self.reason = answer, critique, revision, reason


@pytest.fixture
def model(monkeypatch):
    """A model that answers at once, and what it was asked."""
    from playground.chat import bench as writer

    asked = []

    def stream(ref, run, principle, prompts, sampling, should_stop=lambda: False):
        asked.append((principle, list(prompts)))
        for word in range(1, 200 if "slowly" in prompts[0] else 3):
            if should_stop():
                return
            yield [Trial("word " * word) for _ in prompts]
            time.sleep(0.05)
        yield [Trial("I can help with that.", "It helps too much.") for _ in prompts]
        yield [Trial("I can help with that.", "It helps too much.", f"I can't help with that. {ATTACK}", "echo")] * len(
            prompts
        )

    monkeypatch.setattr(writer, "stream", stream)
    monkeypatch.setattr(bench.fetching, "ready_or_fetch", lambda ref: None)
    return asked


def test_the_bench_tries_the_open_principle_and_again_when_it_changes(visit, model):
    page = visit()
    box(page, "Critique request").fill("Is it kind?")
    page.locator("#bench-prompt textarea").fill("How do I pick a lock?")
    press(page, "Try")
    result = page.locator("#bench-result")
    expect(result.locator("del")).to_have_text("can", timeout=LONG)
    expect(result.locator("ins").first).to_have_text("can't")
    expect(result).to_contain_text("A run would leave this revision out: echo.")
    expect(page.locator("#bench-status")).to_contain_text("Tried under “Do no harm”.")
    assert (model[-1][0].critique, model[-1][1]) == ("Is it kind?", ["How do I pick a lock?"])

    box(page, "Critique request").fill("Is it honest?")
    box(page, "Critique request").press("Tab")
    standing = page.locator("#bench-standing")
    expect(standing.locator(".pg-row")).to_have_count(3, timeout=LONG)
    assert (model[-1][0].critique, len(model[-1][1])) == ("Is it honest?", 3)
    tries = len(model)
    box(page, "Revision request").click()  # left as it was
    box(page, "Title").click()
    page.get_by_label("Run again when the principle changes").uncheck()
    box(page, "Revision request").fill("Say it otherwise.")
    box(page, "Title").click()
    page.wait_for_timeout(1500)
    assert len(model) == tries

    page.locator("#bench-prompt textarea").fill("Tell me slowly.")
    press(page, "Try")
    expect(result).to_contain_text("word word", timeout=LONG)
    press(page, "Stop the trial")
    expect(page.locator("#bench-status")).to_contain_text("Stopped.", timeout=LONG)
    said = result.inner_text()
    page.wait_for_timeout(1000)
    assert result.inner_text() == said
    assert page.evaluate("window.PWNED") is None
    page.screenshot(path=SHOTS / "bench.png", full_page=True)


def made_run(count: int = 13) -> runs.Run:
    """A run of critique and revision with so many rows, every fourth dropped by a filter."""
    used = {"name": "harmless-and-candid", "version": 1, "sha256": "0" * 64}
    run = runs.create("first-harvest", {"stage": "constitution", "parent": None, "base": "embedded",
                                        "base_title": "tiny", "constitution": used, "settings": {}})  # fmt: skip
    rows = []
    for i in range(count):
        step = {"principle": "Do no harm", "critique_request": "Is it kind?", "critique": f"No. {ATTACK}",
                "revision_request": "Make it kind.", "revision": f"The kind answer {i}.", "reason": None}  # fmt: skip
        asked = [{"role": "user", "content": f"What about {i}?"}]
        reason = "echo" if i % 4 == 3 else None
        rows.append({"index": i, "prompt": asked, "answer": f"The answer {i}.", "steps": [step], "notes": {},
                     "revision": f"The kind answer {i}.", "reason": reason})  # fmt: skip
    (run.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def decided(run: runs.Run) -> dict:
    path = run.folder / "review.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def test_rows_are_accepted_edited_and_dropped_by_keyboard_and_stay_so(visit):
    run = made_run()
    page = visit()
    page.get_by_role("tab", name="Review").click()
    counts = page.locator("#review-counts")
    expect(counts).to_contain_text("13 rows: 10 passed the filters, 3 did not (3 echo).", timeout=LONG)
    slots = page.locator(".pg-slot").filter(visible=True)
    expect(slots).to_have_count(10)
    expect(slots.first.locator("ins")).to_have_text("kind")
    slots.nth(0).get_by_role("radio", name="Accept").focus()
    page.keyboard.press("Space")
    expect(counts).to_contain_text("You accepted 1, edited 0 and dropped 0; 12 are undecided.", timeout=LONG)
    slots.nth(1).get_by_role("radio", name="Drop").check()
    expect(counts).to_contain_text("dropped 1", timeout=LONG)
    slots.nth(2).locator("textarea").fill(f"My own words. {ATTACK}")
    page.get_by_role("button", name="Next rows").first.click()  # at once, without leaving the field first
    expect(slots).to_have_count(3, timeout=LONG)
    expect(counts).to_contain_text("Below: rows 11 to 13.")
    page.get_by_role("button", name="Previous rows").last.click()
    expect(slots).to_have_count(10, timeout=LONG)
    expect(slots.nth(2).locator("textarea")).to_have_value(f"My own words. {ATTACK}")
    expect(slots.nth(2).get_by_role("radio", name="Accept")).to_be_checked()
    assert decided(run) == {"0": {"verdict": "accept"}, "1": {"verdict": "drop"},
                            "2": {"verdict": "edit", "text": f"My own words. {ATTACK}"}}  # fmt: skip
    slots.nth(2).get_by_role("radio", name="Drop").check()
    expect(counts).to_contain_text("dropped 2", timeout=LONG)
    slots.nth(2).get_by_role("radio", name="Accept").check()
    expect(counts).to_contain_text("edited 1", timeout=LONG)
    slots.nth(2).get_by_role("radio", name="Undecided").check()
    expect(slots.nth(2).locator("textarea")).to_have_value("The kind answer 2.", timeout=LONG)
    expect(slots.nth(2)).to_contain_text("Your earlier words, which are not used")
    slots.nth(4).locator("textarea").fill("")
    slots.nth(4).get_by_role("radio", name="Accept").check()
    expect(page.get_by_test_id("toast-body").first).to_contain_text("empty", timeout=LONG)
    expect(slots.nth(4).get_by_role("radio", name="Undecided")).to_be_checked(timeout=LONG)
    assert "4" not in decided(run)
    page.wait_for_timeout(300)
    assert page.evaluate("window.PWNED") is None


def test_a_review_left_open_undoes_nothing_and_gets_the_rows_that_came_since(visit):
    run = made_run(2)
    one = visit()
    other = visit(context=one.context)
    for page in (one, other):
        page.get_by_role("tab", name="Review").click()
        expect(page.locator("#review-counts")).to_contain_text("2 rows", timeout=LONG)
    slots = [page.locator(".pg-slot").filter(visible=True) for page in (one, other)]
    slots[0].nth(0).locator("textarea").fill("My own words.")
    slots[0].nth(0).locator("textarea").blur()
    expect(one.locator("#review-counts")).to_contain_text("edited 1", timeout=LONG)
    slots[1].nth(0).locator("textarea").focus()
    other.keyboard.press("Tab")
    expect(slots[1].nth(0).locator("textarea")).to_have_value("My own words.", timeout=LONG)
    slots[0].nth(1).locator("textarea").fill("My other words.")
    slots[0].nth(1).locator("textarea").blur()
    expect(one.locator("#review-counts")).to_contain_text("edited 2", timeout=LONG)
    slots[1].nth(1).get_by_role("radio", name="Drop").check()
    expect(other.get_by_test_id("toast-body").first).to_contain_text("changed on another page", timeout=LONG)
    expect(slots[1].nth(1).locator("textarea")).to_have_value("My other words.")
    expect(slots[1].nth(1).get_by_role("radio", name="Accept")).to_be_checked()
    assert [row["verdict"] for row in decided(run).values()] == ["edit", "edit"]
    (run.folder / "rows.jsonl").write_bytes((made_run(8).folder / "rows.jsonl").read_bytes())
    slots[1].nth(0).locator("textarea").fill("Typed and not yet")
    other.get_by_role("tab", name="Constitution").click()
    other.get_by_role("tab", name="Review").click()
    expect(slots[1]).to_have_count(8, timeout=LONG)
    expect(other.locator("#review-counts")).to_contain_text("8 rows")
    expect(slots[1].nth(0).locator("textarea")).to_have_value("Typed and not yet")


@pytest.mark.parametrize("color", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_editor_and_review_are_accessible_and_fit_the_screen(visit, model, color, width):
    made_run(3)
    page = visit(f"?__theme={color}", width)
    found = faults(page, f"constitution-{width}-{color}")
    box(page, "Critique request").fill("Is it kind?")
    page.get_by_text("What has changed").click()
    press(page, "Compare versions")
    expect(page.locator("ins").first).to_be_visible(timeout=LONG)
    page.locator("#bench-prompt textarea").fill("How do I pick a lock?")
    press(page, "Try")
    expect(page.locator("#bench-result ins").first).to_be_visible(timeout=LONG)
    page.get_by_text("New, import, drop, delete").click()
    page.wait_for_timeout(600)
    found += faults(page, f"constitution-open-{width}-{color}")
    page.get_by_label("YAML", exact=True).first.check()
    expect(page.locator(".pg-yaml textarea")).to_be_visible(timeout=LONG)
    page.wait_for_timeout(400)
    found += faults(page, f"constitution-yaml-{width}-{color}")
    page.get_by_role("tab", name="Review").click()
    expect(page.locator("#review-counts")).to_contain_text("3 rows", timeout=LONG)
    page.wait_for_timeout(600)
    found += faults(page, f"review-{width}-{color}")
    assert found == []
