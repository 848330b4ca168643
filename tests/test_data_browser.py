"""The data room in a real browser: odd columns mapped by header, rows mended and stored, then trained on."""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect
from serving import serve, watch

SHOTS = Path(__file__).resolve().parents[1] / "test-results"
LONG = 120_000  # ms; a slow machine is no failure
ATTACK = "<img src=x onerror='window.PWNED=1'></textarea></select><script>window.PWNED=1</script>${alert(1)}{{value}}"


@pytest.fixture(scope="module")
def server(tmp_path_factory, embedded_model):
    with serve(tmp_path_factory.mktemp("data-home")) as (url, _):
        yield url


@pytest.fixture
def visit(browser, server):
    """Opens the Data tab; afterwards nothing may have failed on the page or have left this machine."""
    problems: list[str] = []
    pages: list[Page] = []

    def opened(theme: str = "light", width: int = 1280) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
        watch(page, server, problems)
        page.goto(f"{server}/?__theme={theme}")
        page.get_by_role("tab", name="Data", exact=True).click(timeout=LONG)
        expect(page.get_by_role("heading", name="pocket-tutor", exact=True)).to_be_visible(timeout=LONG)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert problems == []


def write_odd(path: Path) -> Path:
    """Preferences as a person exports them: semicolons, columns in another language, one more column, a bad row."""
    lines = [f"Tell me about {i}.;It is {i}, a number.;I would rather not say a word on {i}.;{i}" for i in range(24)]
    path.write_text("\n".join(["Question;Besser;Schlechter;Nr", *lines, "What is the same?;Both.;Both.;99"]) + "\n")
    return path


def bring(page: Page, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)
    expect(page.get_by_role("heading", name=path.name, exact=True)).to_be_visible(timeout=LONG)


def column(page: Page, name: str) -> Locator:
    return page.get_by_label(f"What the column {name} holds")


def map_columns(page: Page, **fields: str) -> None:
    """Chooses in the header, waiting for the table each time: the first choice sets the other columns."""
    for name, field in fields.items():
        column(page, name).select_option(field)
        expect(column(page, "Nr")).to_have_value("-", timeout=LONG)
        expect(column(page, name)).to_have_value(field)


def press(page: Page, words: str) -> None:
    page.get_by_role("button", name=words, exact=True).click()


def row(page: Page, place: str) -> Locator:
    return page.locator(f"#data-rows [data-row='{place}']")


def pending(page: Page, words: str) -> None:
    expect(page.locator("#data-pending")).to_contain_text(words, timeout=LONG)


def faults(page: Page, shot: str) -> list[str]:
    """What a screen reader or a narrow screen would stumble over."""
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{shot}.png", full_page=True)
    found = []
    if page.evaluate("document.documentElement.scrollWidth - window.innerWidth") > 0:
        found.append("wider than the screen")
    for violation in Axe().run(page).response["violations"]:
        if violation["impact"] in ("serious", "critical"):
            found.append(f"{violation['id']}: {[node['html'][:160] for node in violation['nodes']][:4]}")
    return found


def test_odd_columns_are_mapped_two_rows_flipped_stored_and_trained_on(visit, tmp_path, tiny_model):
    page = visit()
    bring(page, write_odd(tmp_path / "meinung.csv"))
    report = page.locator("#data-report")
    expect(report).to_contain_text("in Columns, below")  # the way out, whatever the content alone was taken for
    map_columns(page, Question="prompt", Besser="chosen", Schlechter="rejected")
    expect(report).to_contain_text("24 of 25 rows kept", timeout=LONG)
    expect(report).to_contain_text("both answers are the same (row 25)")
    expect(report).to_contain_text("2 are held out to measure with")

    for number in (1, 2):
        press(page, f"Flip row {number}")
        pending(page, f"{number} row")
    first = row(page, "train 0")
    expect(first.locator(".pg-side").first).to_have_text(re.compile("chosen.*I would rather not say a word on 0"))
    press(page, "Keep this dataset")
    expect(page.get_by_role("heading", name="meinung", exact=True)).to_be_visible(timeout=LONG)
    expect(page.locator("#data-pending")).to_be_hidden()

    # A stored dataset is never written again: the next change is its second version.
    place = "train 4"
    number = re.search(r"Row (\d+)", page_of(page, place).inner_text())[1]
    press(page, f"Edit row {number}")
    expect(page.get_by_role("button", name=f"Done row {number}", exact=True)).to_be_focused()
    row(page, place).get_by_label("chosen").fill(ATTACK)
    press(page, f"Done row {number}")
    pending(page, "1 row edited, not stored yet.")
    expect(row(page, place).locator(".pg-side").first).to_contain_text(ATTACK)
    press(page, "Store as a new version")
    expect(page.get_by_text("Stored as meinung, version 2.")).to_be_visible(timeout=LONG)
    assert page.evaluate("window.PWNED") is None

    page.get_by_role("tab", name="Reward model", exact=True).click()
    form = page.get_by_role("tabpanel").filter(visible=True)
    form.get_by_label("Data", exact=True).click()
    page.get_by_role("option", name=re.compile("^meinung")).click()
    for label, value in (("Starting model", str(tiny_model)), ("Steps at most", "2"), ("Run name", "richter")):
        form.get_by_label(label).first.fill(value)
        form.get_by_label(label).first.press("Tab")
    form.get_by_role("button", name="Start training").click()
    expect(page.locator("#reward-status")).to_contain_text("richter", timeout=LONG)
    expect(page.locator("#reward-status")).to_contain_text("Finished", timeout=4 * LONG)

    page.get_by_role("tab", name="Data", exact=True).click()
    page.get_by_role("tab", name="Library", exact=True).click()
    line = page.locator("#library tr").filter(has_text="meinung")
    expect(line).to_contain_text("2 of 2", timeout=LONG)
    expect(line).to_contain_text("richter")


def page_of(page: Page, place: str) -> Locator:
    """The row, on whichever page it stands."""
    while not row(page, place).count():
        shown = page.locator("#data-rows").inner_html()
        page.get_by_role("button", name="Next rows, top").click()
        page.wait_for_function("(before) => document.querySelector('#data-rows').innerHTML !== before", arg=shown)
    return row(page, place)


def test_changes_wait_while_something_else_is_looked_at(visit):
    page = visit()
    page.get_by_role("tab", name="Library", exact=True).click()
    press(page, "pocket-tutor-preferences")
    expect(page.get_by_role("heading", name="pocket-tutor-preferences", exact=True)).to_be_visible(timeout=LONG)
    press(page, "Flip row 1")
    pending(page, "1 row flipped")
    press(page, "Edit row 2")
    row(page, "train 1").get_by_label("rejected").fill("Words that were never confirmed.")
    press(page, "red-team")  # the box is left, and the dataset with it
    expect(page.get_by_role("heading", name="red-team", exact=True)).to_be_visible(timeout=LONG)
    expect(page.locator("#data-report")).to_contain_text("waits with changes that are not stored yet")
    press(page, "Go back to it pocket-tutor-preferences")
    pending(page, "1 row flipped, 1 row edited, not stored yet.")
    expect(row(page, "train 1").get_by_label("rejected")).to_have_value("Words that were never confirmed.")
    press(page, "Undo all changes")
    expect(page.locator("#data-pending")).to_be_hidden(timeout=LONG)


def test_search_pages_and_extremes_lead_to_rows(visit):
    page = visit()
    rows = page.locator("#data-rows")
    expect(rows).to_contain_text(re.compile(r"1 to 4 of \d+ rows"))
    page.get_by_role("button", name="Next rows, bottom").click()
    expect(rows).to_contain_text("5 to 8 of", timeout=LONG)
    page.get_by_label("Search").fill("carrots")
    expect(rows).to_contain_text("that fit, out of", timeout=LONG)
    expect(rows.locator("[data-row]").first).to_contain_text(re.compile("carrots", re.IGNORECASE))
    page.get_by_label("Search").fill("no such words at all")
    expect(rows).to_contain_text("No row fits", timeout=LONG)
    page.get_by_text("The longest and the shortest rows").click()
    page.locator("#data-report table").get_by_role("button").first.click()
    expect(rows.locator("[data-row]")).to_have_count(1, timeout=LONG)
    summary = rows.locator("summary")
    expect(summary).to_have_text(re.compile(r"\d+ tokens, \d+ learned"))
    summary.click()
    expect(rows.locator(".pg-learned").first).to_be_visible()
    expect(rows.locator(".pg-tokens")).to_contain_text("<|im_end|>")


def test_a_dataset_is_renamed_downloaded_and_deleted_only_after_a_second_word(visit, tmp_path):
    page = visit()
    bring(page, write_odd(tmp_path / "kurz.csv"))
    press(page, "Keep this dataset")
    expect(page.get_by_role("heading", name="kurz", exact=True)).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Library", exact=True).click()
    page.get_by_label("Another name").fill("lang")
    press(page, "Rename it")
    expect(page.get_by_role("heading", name="lang", exact=True)).to_be_visible(timeout=LONG)
    expect(page.locator("#library").get_by_role("button", name="lang", exact=True)).to_be_visible()
    with page.expect_download(timeout=LONG) as coming:
        press(page, "Download it as JSONL")
    assert coming.value.suggested_filename == "lang-1.jsonl"
    lines = Path(coming.value.path()).read_text().splitlines()
    assert len(lines) == 25
    assert json.loads(lines[0])["prompt"][-1]["role"] == "user"
    press(page, "Delete it")
    press(page, "Keep it")
    press(page, "Delete it")
    press(page, "Yes, delete lang")
    expect(page.get_by_text("lang is deleted.")).to_be_visible(timeout=LONG)
    expect(page.locator("#library").get_by_text("lang", exact=True)).to_have_count(0, timeout=LONG)


def test_the_hub_without_a_network_is_a_sentence(visit):
    page = visit()
    page.get_by_role("tab", name="Hub", exact=True).click()
    page.get_by_label("Dataset of the Hub").fill("Anthropic/hh-rlhf")
    press(page, "Look up")
    expect(page.locator("#hub-status")).to_contain_text("the Hub can't be reached", timeout=LONG)


def test_a_hostile_file_is_text_wherever_it_is_shown(visit, tmp_path):
    path = tmp_path / "hostile.jsonl"
    record = {ATTACK: ATTACK, "prompt": ATTACK, "chosen": f"Yes. {ATTACK}", "rejected": f"No. {ATTACK}"}
    path.write_text("\n".join(json.dumps({**record, "prompt": f"{i} {ATTACK}"}) for i in range(12)) + "\n{}\n")
    page = visit()
    bring(page, path)
    page.get_by_role("button", name="Columns").click()
    expect(column(page, "prompt")).to_be_visible()
    press(page, "Edit row 1")
    expect(row(page, "train 0").get_by_label("chosen")).to_have_value(f"Yes. {ATTACK}", timeout=LONG)
    press(page, "Drop row 2")
    pending(page, "1 row dropped")
    assert page.locator("#data-rows img, #data-columns img, #data-report img").count() == 0
    assert page.evaluate("window.PWNED") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_data_room_is_accessible_and_fits_the_screen(visit, tmp_path, theme, width):
    page = visit(theme, width)
    bring(page, write_odd(tmp_path / "meinung.csv"))
    map_columns(page, Question="prompt", Besser="chosen", Schlechter="rejected")
    expect(page.locator("#data-report")).to_contain_text("24 of 25 rows kept", timeout=LONG)
    press(page, "Flip row 1")
    press(page, "Drop row 2")
    press(page, "Edit row 3")
    pending(page, "1 row flipped, 1 row dropped")
    row(page, "train 3").locator("summary").click()
    found = {"rows": faults(page, f"room-{width}-{theme}")}
    for name in ("Paste", "Hub", "Library"):
        page.get_by_role("tab", name=name, exact=True).click()
        page.wait_for_timeout(800)
        found[name] = faults(page, f"room-{name.lower()}-{width}-{theme}")
    assert found == {"rows": [], "Paste": [], "Hub": [], "Library": []}
