"""What became of the rows, in words, tables and bars: kept, dropped and why, what may be wrong, how long they are."""

import functools
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data import library, quality
from playground.data.dataset import Dataset
from playground.data.languages import languages
from playground.data.quality import Finding
from playground.data.report import Report, some
from playground.data.report_file import report_csv
from playground.data.splits import split_by_prompt
from playground.data.tokens import Lengths, measure
from playground.models import catalog
from playground.models.catalog import EMBEDDED
from playground.statistics import quantile
from playground.tabs import columns, html, talking
from playground.tabs.looking import Desk, Looked
from playground.tabs.parts import Parts, Values
from playground.tabs.rows import place_name, renderer

MOST_MEASURED = 5000  # rows tokenized for the report: a few seconds
MOST_DROPPED = 200  # listed on the page; the file to download has all
BARS = 30
MOST_LANGUAGES = 5
TITLES = {
    "contradictions": "Contradictions",
    "template-marks": "Template marks",
    "length-gap": "Length tells the sides apart",
    "hostile": "Hostile text",
    "leaked-questions": "Questions on both sides",
    "leaked-answers": "Answers on both sides",
}
BALANCE = "drops pairs until length no longer tells; nothing is stored before you say so."
OVERLOOKED = "The other columns are not learned from. Does one hold an answer? Say so in Columns, below."
EXTREMES = 3  # longest and shortest rows named
EMPTY = "Nothing to show yet: upload a file, paste rows, name a dataset of the Hub or open one of the library."


@dataclass(frozen=True)
class Checked:
    """What is known of rows without any model: what may be wrong with them, their languages, and the split."""

    findings: list[Finding]
    languages: list[tuple[str, int]]
    train: int
    heldout: int


def parts() -> Parts:
    """How long the rows are, and with what they are measured."""
    made = Parts()
    made["charts"] = gr.HTML(padding=False, elem_id="data-charts")
    info = "The model you will train; each has its own template and tokens."
    offered = catalog.choices()
    made["ref"] = gr.Dropdown(offered, value=EMBEDDED, allow_custom_value=True, label="Tokens of", info=info)
    info = "Tokens; what is longer is cut or left out, here as in training."
    made["limit"] = gr.Slider(16, 4096, value=512, step=16, label="Longest row", info=info)
    return made


def report_values(desk: Desk, limit: int, ref: str) -> Values:
    """The report of the rows in view."""
    looked = desk.looked
    if looked is None:
        return {"report": html.live([html.tag("p", EMPTY, "pg-note")])}
    found, words = _measured(looked, limit, ref)
    checked = _checked(looked)
    lines = [html.tag("h2", looked.title), *_aside(desk)]
    lines += _counts(looked.report, checked) if looked.report else []
    lines += [html.tag("p", OVERLOOKED)] if columns.overlooked(looked) else []
    lines += [html.tag("p", _stored_words(looked.dataset), "pg-state")] if looked.dataset else []
    lines += _findings_html(looked, checked.findings)
    lines += _token_words(found, limit, looked.kind == "prompts") + ([html.tag("p", words, "pg-note")] if words else [])
    dropped = looked.report.dropped if looked.report else []
    head, first = ["Row", "Why it was dropped"], [[str(row), why] for row, why in dropped[:MOST_DROPPED]]
    return {
        "report": talking.keyed([html.live(lines), _extremes(looked)], looked.key),
        "dropped_rows": html.table(head, first),
        "dropped": gr.Accordion(_dropped_label(dropped), visible=bool(dropped)),
        "charts": html.box([*_lengths_html(found.tokens), *_languages_html(checked.languages)]),
    }


def download(desk: Desk | None, limit: int, ref: str) -> Iterator[Values]:
    """What became of every row, as CSV; the file goes as soon as Gradio has its copy, which goes in an hour."""
    if desk is None or desk.looked is None or desk.looked.report is None:
        raise gr.Error("There is no report of a file in view; bring the file again.")
    opened, _ = renderer(ref)
    lengths = measure(desk.looked.rows, opened, limit) if opened else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row-report.csv"
        path.write_text(report_csv(desk.looked.report, lengths), encoding="utf-8", newline="")
        yield {"file": str(path)}


def _aside(desk: Desk) -> list[str]:
    """What waits with changes while something else is in view, and the way back."""
    return [
        html.marked(
            [
                html.tag("span", f"{found.title} waits with changes that are not stored yet: {found.draft.words()}. "),
                html.button("Go back to it", f"back {found.key}", found.title, "pg-link"),
            ],
            "pg-alert",
        )
        for found in desk.aside
    ]


def _stored_words(dataset: Dataset) -> str:
    what = {
        "preference": "pairs to learn from",
        "prompts": "prompts to answer",
        "thumbs": "rated answers to learn from",
    }
    words = f"{dataset.train:,} {what.get(dataset.kind, 'rows to learn from')}"
    return f"{words}, {dataset.heldout:,} held out to measure with." if dataset.heldout else f"{words}."


def _counts(report: Report, checked: Checked) -> list[str]:
    """Kept and dropped in words."""
    if not report.kept:
        advice = "Or say in Columns, below, what each column holds."
        return [html.tag("p", report.refusal(), "pg-state"), html.tag("p", advice)]
    first, *rest = report.words()
    lines = [html.tag("p", report.guess, "pg-state"), html.tag("p", first), *[html.tag("p", line) for line in rest]]
    share = (
        f"{checked.heldout:,} {'is' if checked.heldout == 1 else 'are'} held out to measure with, {checked.train:,} "
        "are trained on; no question is on both sides."
        if checked.heldout
        else "Fewer than ten different questions: nothing is held out, so there will be no independent measure."
    )
    return [*lines, html.tag("p", share)]


def _checked(looked: Looked) -> Checked:
    """Rows are looked through once: a stored dataset never changes, and a file's report is about what it brought."""
    if looked.checked is None and looked.dataset:
        looked.checked = _checked_stored(looked.dataset.id, looked.dataset.sha256)
    elif looked.checked is None:
        looked.checked = _check(*split_by_prompt(looked.rows))
    return looked.checked


@functools.lru_cache(maxsize=32)
def _checked_stored(data_id: str, _sha256: str) -> Checked:
    dataset = library.find(data_id)
    return _check(dataset.rows("train"), dataset.rows("heldout"))


def _check(train: list[Any], heldout: list[Any]) -> Checked:
    rows = [*train, *heldout]
    return Checked(quality.findings(rows, heldout), languages(rows), len(train), len(heldout))


def _findings_html(looked: Looked, found: list[Finding]) -> list[str]:
    """What may be wrong with the rows that are kept, warnings first, and what can be done at once."""
    lines = []
    for finding in found:
        if finding.severity != "warning":
            lines.append(html.tag("p", finding.sentence))
            continue
        lines.append(html.alert(TITLES.get(finding.code, "Look at this"), finding.sentence))
        if finding.code == "length-gap" and quality.balanced(looked.rows):
            told = html.tag("span", BALANCE, "pg-note")
            lines.append(html.box([html.button("Balance lengths", "balance"), " ", told], "pg-act"))
    return lines


def _measured(looked: Looked, limit: int, ref: str) -> tuple[Lengths, str]:
    """(token counts, why there are none or of how many rows)."""
    opened, words = renderer(ref)
    rows = looked.rows
    if opened is None or not rows:
        return Lengths(), words
    more = len(rows) > MOST_MEASURED
    return measure(rows[:MOST_MEASURED], opened, limit), (
        f"Tokens are counted for the first {MOST_MEASURED:,} rows." if more else ""
    )


def _token_words(found: Lengths, limit: int, prompts: bool) -> list[str]:
    """Lengths, cuts and template trouble in words."""
    lines = []
    if found.tokens and prompts:
        middle, longest = quantile(found.tokens, 0.5), max(found.tokens)
        lines.append(f"Tokens a prompt: {middle} in the middle, {longest} at most; none of them is learned.")
    elif found.tokens:
        middle, longest = quantile(found.tokens, 0.5), max(found.tokens)
        learned = sum(found.learned) / max(1, sum(found.tokens))
        lines.append(
            f"Tokens a conversation: {middle} in the middle, {longest} at most; {learned:.0%} of them are learned."
        )
    lines += found.cut_words(limit)
    if found.too_long:
        what = "prompts" if prompts else "pairs"
        lines.append(
            f"{len(found.too_long)} {what} are longer than {limit} tokens and left out: row {some(found.too_long)}."
        )
    if found.unlearnable:
        lines.append(
            f"{len(found.unlearnable)} of these have nothing left to learn and are left out: "
            f"row {some(found.unlearnable)}."
        )
    if found.refused:
        lines.append(f"{len(found.refused)} rows are left out, first row {found.refused[0][0]}: {found.refused[0][1]}.")
    if found.control:
        lines.append(
            f"{len(found.control)} rows hold control tokens of the model as text, as if a template had been applied "
            f"already: row {some(found.control)}."
        )
    return [html.tag("p", line) for line in lines]


def _extremes(looked: Looked) -> str:
    """A few of the longest and the shortest rows, each with a way to it."""
    sizes = sorted((quality.length(looked.was(key)), key) for key in looked.places)
    picked = list(dict.fromkeys([*sizes[::-1][:EXTREMES], *sizes[:EXTREMES]]))
    if len(sizes) <= EXTREMES:
        return ""
    head = html.box([html.tag("th", name) for name in ("Row", "Letters", "It begins")], name="tr")
    body = []
    for size, key in picked:
        row = looked.was(key)
        said = row.asked[-1]["content"]
        link = html.marked([html.button(f"Row {row.row}", "look", css="pg-link")], "", row=place_name(key))
        cells = [html.box([link], name="td"), html.tag("td", f"{size:,}"), html.tag("td", said[:90])]
        body.append(html.box(cells, name="tr"))
    return html.details("The longest and the shortest rows", [html.scroll(html.grid(head, body), "Extreme rows")])


def _dropped_label(dropped: list[tuple[int, str]]) -> str:
    words = "1 dropped row" if len(dropped) == 1 else f"{len(dropped):,} dropped rows"
    return words + (f", the first {MOST_DROPPED} of them" if len(dropped) > MOST_DROPPED else "")


def _lengths_html(tokens: list[int]) -> list[str]:
    """Rows by token count, in at most 30 bars of equal width."""
    if not tokens:
        return []
    width = max(1, -(-(max(tokens) - min(tokens) + 1) // BARS))
    counts = Counter((count - min(tokens)) // width for count in tokens)
    bars = []
    for place in range(max(counts) + 1):
        start = min(tokens) + width * place
        bars.append((f"{start} tokens" if width == 1 else f"{start} to {start + width - 1} tokens", counts[place]))
    often = max(bars, key=lambda one: one[1])[0]
    about = f"Tokens a row: {min(tokens)} at least, {max(tokens)} at most, most have {often}."
    return [html.tag("h3", "Lengths"), html.histogram(about, bars, (f"{min(tokens)}", f"{max(tokens)} tokens"))]


def _languages_html(found: list[tuple[str, int]]) -> list[str]:
    """How many rows are in which language."""
    if not found:
        return []
    seen = sum(rows for _, rows in found)
    shares = [(name, rows / seen) for name, rows in found[:MOST_LANGUAGES]]
    bars = [
        html.box([html.tag("span", f"{name}, {share:.0%}"), html.bar(share, f"{name}, {share:.0%} of the rows")])
        for name, share in shares
    ]
    note = f"Guessed from {seen:,} rows."
    return [html.tag("h3", "Languages"), *bars, html.tag("p", note, "pg-note")]
