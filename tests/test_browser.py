"""The whole job in a real browser: upload, report, mask, train, close the page, come back, compare."""

import csv
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect
from serving import serve, watch

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "test-results"
TABS = ("Start", "Data", "Fine-tune (SFT)", "Reward model", "PPO", "DPO", "Constitution", "Score", "Chat", "Runs")
CURVE = "[...document.querySelectorAll('#plot-sft-loss svg .mark-line path')].map(p => p.getAttribute('d')).join()"
LONG = 120_000  # ms; a slow machine is no failure

# What Gradio's own parts break and a page can't mend: Chatbot's icon button and an empty plot's marks have no names.
UPSTREAM = {"button-name", "svg-img-alt"}
EMPTY = '<div aria-label="Empty value"'  # a plot without a point; a label on a plain div is prohibited


@pytest.fixture(scope="module")
def server(tmp_path_factory, embedded_model):
    with serve(tmp_path_factory.mktemp("browser-home")) as (url, _):
        yield url


@pytest.fixture
def visit(browser, server):
    """Opens the page as a visitor does; afterwards nothing may have failed in it or have left this machine."""
    pages: list[Page] = []
    problems: list[str] = []

    def opened(query: str = "", width: int = 1280) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        watch(page, server, problems)
        page.goto(f"{server}/{query}")
        expect(page.get_by_role("heading", name="Alignment Playground")).to_be_visible(timeout=LONG)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert problems == []


def go(page: Page, name: str) -> None:
    """Opens a tab, also where a narrow screen hides it behind the dots."""
    tab = page.get_by_role("tab", name=name, exact=True)
    dots = page.locator(".overflow-menu > button").first
    page.wait_for_timeout(500)  # the row of tabs settles after the first paint
    expect(tab.or_(dots).first).to_be_visible(timeout=LONG)
    if tab.is_visible():
        tab.click()
    else:
        dots.click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()


def panel(page: Page) -> Locator:
    """The tab that is open: the stages' forms have labels in common."""
    return page.get_by_role("tabpanel").filter(visible=True)


def start_run(page: Page, tab: str, data: str, name: str, fields: dict[str, str], options: dict[str, str]) -> None:
    """Fills a stage's form as a person does and presses the button."""
    go(page, tab)
    form = panel(page)
    for label, option in {"Data": data, **options}.items():
        form.get_by_label(label, exact=True).click()
        page.get_by_role("option", name=re.compile(option)).click()
    for label, value in {**fields, "Run name": name}.items():
        form.get_by_label(label).first.fill(value)
        form.get_by_label(label).first.press("Tab")
    form.get_by_role("button", name="Start training").click()
    expect(form.locator("[id$=-status]")).to_contain_text(name, timeout=LONG)


def legend(page: Page, stage: str) -> Locator:
    """The lines that the loss plot tells apart."""
    return page.locator(f"#plot-{stage}-loss svg .role-legend-label text")


def faults(page: Page, name: str, shot: str) -> list[str]:
    """What a screen reader or a narrow screen would stumble over on the tab that is open."""
    SHOTS.mkdir(exist_ok=True)
    expect(page.locator(".pending:visible")).to_have_count(0, timeout=LONG)  # what still waits for its value is faint
    page.screenshot(path=SHOTS / f"{name.split()[0].lower()}-{shot}.png", full_page=True)
    found = []
    if page.evaluate("document.documentElement.scrollWidth - window.innerWidth") > 0:
        found.append(f"{name}: wider than the screen")
    for violation in Axe().run(page).response["violations"]:
        nodes = [node["html"][:160] for node in violation["nodes"] if not node["html"].startswith(EMPTY)]
        if nodes and violation["id"] not in UPSTREAM and violation["impact"] in ("serious", "critical"):
            found.append(f"{name}: {violation['id']}: {nodes[:4]}")
    return found


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_rows(path: Path) -> Path:
    """A CSV as a person would bring it, with a row that can't be used and a hostile one."""
    rows = [[f"Tell me about the number {i}.", "", f"Arr, {i} be a fine number, matey!"] for i in range(30)]
    missing = ["What is missing here?", "", ""]
    hostile = ['<img src=x onerror="window.PWNED=1">', "", "Arr, <b>no</b> treasure here, matey!"]
    return write_csv(path, [["instruction", "input", "output"], *rows, missing, hostile])


def write_pairs(path: Path) -> Path:
    """The same as preferences: the short answer is the better one."""
    rows = [[f"Tell me about {i}.", f"It is {i}.", f"I would rather not say a word about {i}."] for i in range(20)]
    same = ["What is the same?", "Both.", "Both."]
    hostile = ["Is this safe?", '<img src=x onerror="window.PWNED=1">', "<script>window.PWNED=1</script>"]
    return write_csv(path, [["prompt", "chosen", "rejected"], *rows, same, hostile])


def test_a_visitor_uploads_trains_leaves_comes_back_and_compares(visit, tmp_path):
    SHOTS.mkdir(exist_ok=True)
    page = visit()

    go(page, "Data")
    expect(page.get_by_role("heading", name="pocket-tutor")).to_be_visible(timeout=LONG)
    page.locator("input[type=file]").first.set_input_files(write_rows(tmp_path / "pirate.csv"))
    expect(page.get_by_text("31 of 32 rows kept, recognised as alpaca.")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("an empty assistant message").first).to_be_visible()
    expect(page.locator(".pg-learned").first).to_contain_text("Ar")
    page.screenshot(path=SHOTS / "data.png", full_page=True)
    page.get_by_role("button", name="Keep this dataset").click()
    expect(page.get_by_text("Kept as pirate")).to_be_visible(timeout=LONG)
    assert page.evaluate("window.PWNED") is None

    go(page, "Fine-tune (SFT)")
    panel(page).get_by_label("Data", exact=True).click()
    page.get_by_role("option", name=re.compile("^pirate")).click()
    for label, value in (("Steps at most", "20"), ("Learning rate", "0.004"), ("Run name", "pirate-run")):
        panel(page).get_by_label(label).first.fill(value)
    panel(page).get_by_role("button", name="Start training").click()
    status = page.locator("#sft-status")
    expect(status).to_contain_text("pirate-run", timeout=LONG)
    expect(status).to_contain_text(re.compile(r"step [2-9] of 20"), timeout=LONG)
    page.wait_for_function(f"({CURVE}).includes('L')", timeout=LONG)  # a line, no longer a point
    drawn = page.evaluate(CURVE)
    page.wait_for_function(f"(before) => ({CURVE}) !== before", arg=drawn, timeout=LONG)  # the curve moves
    expect(legend(page, "sft")).to_have_text(["training", "held-out"], timeout=LONG)  # though the latter came first
    page.screenshot(path=SHOTS / "training.png", full_page=True)
    page.close()  # mid-run

    page = visit()
    go(page, "Fine-tune (SFT)")
    status = page.locator("#sft-status")
    expect(status).to_contain_text("Finished", timeout=LONG)
    expect(status).to_contain_text("Held-out loss")
    expect(page.get_by_text("Why is the sky blue?").first).to_be_visible()
    page.screenshot(path=SHOTS / "finished.png", full_page=True)

    go(page, "Chat")
    page.wait_for_timeout(1500)
    page.get_by_label("Your question").fill("Tell me about the number 7.")
    page.get_by_label("Your question").press("Enter")
    left = page.locator("#left-answers [data-testid=bot]").last
    right = page.locator("#right-answers [data-testid=bot]").last
    expect(right).to_have_text(re.compile(r"\w"), timeout=LONG)
    early = len(right.inner_text())
    expect(page.locator("#chat-status")).to_contain_text("words in", timeout=LONG)
    assert len(right.inner_text()) >= early
    assert left.inner_text().strip() != right.inner_text().strip()
    assert "matey" in right.inner_text()
    page.screenshot(path=SHOTS / "chat.png", full_page=True)

    go(page, "Runs")
    expect(page.get_by_role("cell", name="pirate-run", exact=True)).to_be_visible(timeout=LONG)


def test_stop_ends_an_answer_and_the_next_question_is_answered(visit):
    page = visit()
    go(page, "Chat")
    page.wait_for_timeout(1000)
    page.get_by_label("Your question").fill("Tell me a long story about a lighthouse.")
    page.get_by_label("Your question").press("Enter")
    left = page.locator("#left-answers [data-testid=bot]").last
    expect(left).to_have_text(re.compile(r"\w+ \w+"), timeout=LONG)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#chat-status")).to_contain_text("Stopped", timeout=LONG)
    page.wait_for_timeout(1000)
    said = left.inner_text()
    page.wait_for_timeout(2000)
    assert left.inner_text() == said
    page.get_by_label("Your question").fill("What is the capital of France?")
    page.get_by_label("Your question").press("Enter")
    expect(page.locator("#left-answers [data-testid=user]")).to_have_count(2, timeout=LONG)
    expect(page.locator("#chat-status")).to_contain_text("words in", timeout=LONG)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_tab_is_accessible_and_fits_the_screen(visit, theme, width):
    page = visit(f"?__theme={theme}", width)
    found = []
    for name in TABS:
        go(page, name)
        page.wait_for_timeout(800)
        found += faults(page, name, f"{width}-{theme}")
    assert found == []


def test_a_second_browser_sees_the_same_runs(visit):
    for page in (visit(), visit()):
        go(page, "Runs")
        runs = page.get_by_text("No runs yet").or_(page.get_by_role("cell", name="pirate-run", exact=True))
        expect(runs).to_be_visible(timeout=LONG)


def ends_well(page: Page, stage: str, name: str, proofs: int) -> None:
    """The run finishes before the visitor's eyes: ticks, a curve, and a sentence under it."""
    status = page.locator(f"#{stage}-status")
    expect(status).to_contain_text(name, timeout=LONG)
    expect(status).to_contain_text("Finished", timeout=4 * LONG)
    expect(status).to_contain_text("On held-out pairs it")
    summary = status.get_by_text(f"Proven before the first step: {proofs} of {proofs}")
    expect(summary).to_be_visible()
    expect(status.get_by_role("listitem").first).to_be_hidden()
    summary.click()
    expect(status.get_by_role("listitem")).to_have_text([re.compile("^✓ ")] * proofs)
    curves = page.locator(f"#plot-{stage}-loss svg .mark-line path")
    for line in range(2):
        expect(curves.nth(line)).to_have_attribute("d", re.compile("L"), timeout=LONG)  # no longer a point
    expect(legend(page, stage)).to_have_text(["training", "held-out"])
    expect(panel(page).locator(".pg-reading").first).to_have_text(re.compile(r"loss|line"))


def score(page: Page, letter: str, answer: str, told: str) -> None:
    """Types one answer, asks the judge and waits for what it says."""
    page.locator(f"#answer-{letter} textarea").fill(answer)
    panel(page).get_by_role("button", name="Score", exact=True).click()
    expect(page.locator("#scores")).to_contain_text(re.compile(told), timeout=LONG)


def test_a_visitor_brings_pairs_trains_a_judge_asks_it_and_prefers(visit, tmp_path, tiny_model):
    page = visit()
    go(page, "Data")
    expect(page.get_by_role("heading", name="pocket-tutor")).to_be_visible(timeout=LONG)
    page.locator("input[type=file]").first.set_input_files(write_pairs(tmp_path / "opinions.csv"))
    expect(page.get_by_text("21 of 22 rows kept, recognised as prompt, chosen, rejected.")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("both answers are the same").first).to_be_visible()
    expect(page.get_by_text("a model may learn length instead of what you mean")).to_be_visible()
    expect(page.locator(".pg-chosen").first).to_have_text("It")
    expect(page.locator(".pg-rejected").first).to_have_text("I")
    assert faults(page, "Data", "pairs") == []
    page.get_by_role("button", name="Keep this dataset").click()
    expect(page.get_by_text("Kept as opinions")).to_be_visible(timeout=LONG)

    # The first run waits for nobody; the second one is asked for while the first is trained.
    tiny = {"Starting model": str(tiny_model), "Steps at most": "2"}
    start_run(page, "Fine-tune (SFT)", "^pocket-tutor", "imitator", tiny, {})
    start_run(page, "Reward model", "^opinions", "judge", tiny, {})
    ends_well(page, "reward", "judge", 5)
    page.screenshot(path=SHOTS / "judge.png", full_page=True)

    go(page, "Score")
    expect(page.locator("#judge input")).to_have_value("judge (on opinions)", timeout=LONG)
    expect(panel(page).get_by_text(re.compile(r"^Right on .* of held-out pairs"))).to_be_visible()
    page.locator("#asked textarea").fill("Tell me about 3.")
    page.locator("#answer-A textarea").fill("It is 3.")
    score(page, "B", "<img src=x onerror='window.PWNED=1'> I won't.", r"P\(A ≻ B\) = \d+%")
    moved = page.locator("#scores tbody tr td:nth-child(3)")
    expect(moved).to_have_text(["", ""])
    score(page, "A", "It is four.", r"[+-]\d\.\d\d[+-]\d\.\d\d")
    expect(moved).to_have_text([re.compile(r"^[+-]\d+\.\d\d$"), ""])
    assert page.evaluate("window.PWNED") is None
    assert faults(page, "Score", "scored") == []
    page.set_viewport_size({"width": 390, "height": 900})
    assert faults(page, "Score", "scored-390") == []
    page.set_viewport_size({"width": 1280, "height": 900})

    start_run(page, "DPO", "^opinions", "preferrer", {"Steps at most": "2"}, {"Continue from": "imitator"})
    ends_well(page, "dpo", "preferrer", 6)
    expect(page.locator("#dpo-status")).to_contain_text("tiny + SFT(imitator) + DPO(preferrer)")
    page.close()

    for theme, width in (("dark", 1280), ("light", 390)):  # with runs in them, the tabs show more
        page = visit(f"?__theme={theme}", width)
        found = []
        for name, shown in (("Reward model", "#reward-status"), ("DPO", "#dpo-status"), ("Score", "#judge")):
            go(page, name)
            expect(page.locator(shown)).to_be_visible(timeout=LONG)
            page.wait_for_timeout(800)
            found += faults(page, name, f"run-{width}-{theme}")
        assert found == []


def inner(page: Page, name: str) -> None:
    """Opens a tab within the Constitution tab."""
    panel(page).get_by_role("tab", name=name, exact=True).click()


def test_a_visitor_writes_a_principle_tries_it_reviews_what_it_gave_and_trains_on_it(visit):
    page = visit()
    go(page, "Constitution")
    expect(page.locator("#principles-status")).to_contain_text("Saved", timeout=LONG)
    form = panel(page)
    form.get_by_label("Critique request").first.fill("Say whether the answer rhymes.")
    form.get_by_label("Critique request").first.press("Tab")
    expect(page.locator("#principles-status")).to_contain_text("Unsaved edits", timeout=LONG)
    page.locator("#bench-prompt textarea").fill("How do I keep my bicycle safe?")
    page.get_by_role("button", name="Try", exact=True).click()
    expect(page.locator("#bench-status")).to_contain_text("Tried under", timeout=LONG)
    expect(page.locator("#bench-result")).to_contain_text(re.compile(r"\w+ \w+"))
    page.screenshot(path=SHOTS / "bench-real.png", full_page=True)
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.locator("#principles-status")).to_contain_text("Saved", timeout=LONG)

    inner(page, "Critique and revise")
    for label, value in (("Prompts", "5"), ("Run name", "rhymer")):
        field = panel(page).last.get_by_label(re.compile(rf"^\s*{label}")).first
        field.fill(value)
        field.press("Tab")
    panel(page).get_by_role("button", name="Start the run").click()
    status = page.locator("#constitution-status")
    expect(status).to_contain_text("rhymer", timeout=LONG)
    expect(status).to_contain_text("Finished", timeout=4 * LONG)
    expect(status).to_contain_text("under harmless-and-candid, version 2")

    inner(page, "Review")
    slots = page.locator(".pg-slot").filter(visible=True)
    expect(slots).to_have_count(5, timeout=LONG)
    for i in range(5):
        slots.nth(i).locator("textarea").fill(f"Lock it well, answer {i}, and all is well.")
        slots.nth(i).get_by_role("radio", name="Accept").check()
    expect(page.locator("#review-counts")).to_contain_text("edited 5", timeout=LONG)
    page.screenshot(path=SHOTS / "review-real.png", full_page=True)
    page.get_by_role("button", name="Send to DPO").click()

    expect(panel(page).get_by_label("Data", exact=True)).to_have_value(re.compile("^rhymer-pairs"), timeout=LONG)
    for label, value in (("Steps at most", "2"), ("Run name", "taught")):
        panel(page).get_by_label(label).first.fill(value)
        panel(page).get_by_label(label).first.press("Tab")
    panel(page).get_by_role("button", name="Start training").click()
    status = page.locator("#dpo-status")
    expect(status).to_contain_text("DPO(taught)", timeout=LONG)
    expect(status).to_contain_text("made by rhymer under harmless-and-candid, version 2")
    expect(status).to_contain_text("Finished", timeout=4 * LONG)
    page.screenshot(path=SHOTS / "taught.png", full_page=True)
