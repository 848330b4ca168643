"""The review: what a constitution or an AI feedback run made, ten rows at a time, for a person to accept, edit or drop.

The page says itself which rows it shows (`shown`), so that a verdict which crosses a turn of the page still goes to the
row that it was given for. It also says which text each place was sent (`sent`), so that a page that was left open can't
put its old text over what was written on another one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.data.library import Dataset
from playground.runs.run import Run
from playground.stages import harvest, judge_probe, launch
from playground.stages.harvest import Item
from playground.tabs import html

PAGE = 10
SLOT = 5  # parts of a row's place
INTRO = """A person has the last word. **Accept** a row as it is, **edit** its better answer in the box, or **drop** it;
rows left undecided go into the data where the filters let them pass. Every verdict is kept at once, beside the run."""
EMPTY = (
    "Nothing to review yet: start a run in Critique and revise or in AI feedback; its rows appear here as they come."
)
SHOWS: dict[str, Callable[[Item], bool]] = {
    "all": lambda item: True,
    "kept": lambda item: item.kept,
    "dropped by a filter": lambda item: item.reason is not None,
    "undecided": lambda item: not item.verdict,
}
VERDICTS = [("Undecided", ""), ("Accept", "accept"), ("Drop", "drop")]
SENDS = {"sft": "Send to Fine-tune", "reward": "Send to Reward model", "dpo": "Send to DPO"}
CHANGED = "Row {} was changed on another page. Its newest text is in the box now: look at it, then decide again."
QUEUE: dict[str, Any] = {"concurrency_id": "review", "concurrency_limit": 1}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass
class Review:
    """What the page wires: the picked run, the buttons by stage name, and what shows today's runs in `outputs`."""

    picker: gr.Dropdown
    send: dict[str, gr.Button]
    opening: dict[str, Any]


def build() -> Review:
    """Lays out the review and wires it."""
    gr.Markdown(INTRO)
    with gr.Row():
        picker = gr.Dropdown(  # a server that was started anew does not know what it offered here: so it takes any
            [],
            label="Run to review",
            info="The newest one first.",
            elem_id="review-run",
            min_width=280,
            allow_custom_value=True,
        )
        show = gr.Dropdown(list(SHOWS), value="all", label="Show", info="Which rows are listed.", min_width=280)
    counts = gr.HTML(html.tag("p", EMPTY, "pg-note"), elem_id="review-counts", padding=False)
    turns = [_turns()]
    slots = [_slot() for _ in range(PAGE)]
    turns.append(_turns())
    judge = gr.HTML(elem_id="review-judge", padding=False)
    with gr.Row():
        send = {name: gr.Button(words, min_width=160) for name, words in SENDS.items()}
    shown = gr.Textbox(visible=False, interactive=False, label="Rows shown")
    latest = gr.State("")  # the same as the server has it: what left the page before a turn may arrive after it
    outputs = [counts, *(part for slot in slots for part in slot), judge, latest, shown]

    def turn(by: int) -> Callable[..., list[Any]]:
        return lambda run_id, what, rows: page_of(run_id, what, rows, by)

    inputs = [picker, show, shown]
    gr.on([picker.input, show.input], turn(0), inputs, outputs, **QUEUE, **PRIVATE)
    for before, after in turns:
        before.click(turn(-1), inputs, outputs, **QUEUE, **PRIVATE)
        after.click(turn(1), inputs, outputs, **QUEUE, **PRIVATE)
    for place, slot in enumerate(slots):
        _wire_slot(place, slot, shown, latest, counts)

    def refresh(run_id: str | None, what: str, rows: str) -> list[Any]:
        found = choices()
        known = [value for _, value in found]
        chosen = run_id if run_id in known else next(iter(known), None)
        same = chosen == run_id == _asked(rows)["run"]
        page = filled_up(chosen, what, rows) if same else page_of(chosen, what, "", 0)
        return [gr.Dropdown(choices=found, value=chosen), *page]

    return Review(picker, send, {"fn": refresh, "inputs": inputs, "outputs": [picker, *outputs]})


def _turns() -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button("Previous rows", size="sm", min_width=120), gr.Button("Next rows", size="sm", min_width=120)


Slot = tuple[gr.Row, gr.HTML, gr.Textbox, gr.Radio, gr.Textbox]


def _slot() -> Slot:
    """The place of one row; empty ones are not shown."""
    with gr.Row(visible=False, elem_classes="pg-slot") as whole:
        told = gr.HTML(padding=False, min_width=300)
        with gr.Column(min_width=300):
            better = gr.Textbox(
                label="Better answer",
                info="What goes into the data; edit it here, and the row is accepted with your words.",
                lines=2,
                max_lines=12,
                max_length=harvest.MOST_LETTERS + 1000,
            )
            verdict = gr.Radio(VERDICTS, value="", label="Verdict", info="Yours counts more than a filter's.")
    return whole, told, better, verdict, gr.Textbox(visible=False, interactive=False, label="Text sent")


def _wire_slot(place: int, slot: Slot, shown: gr.Textbox, latest: gr.State, counts: gr.HTML) -> None:
    """A verdict, and words that were edited: both are kept at once."""
    _, told, better, verdict, sent = slot
    inputs, outputs = [shown, latest, sent, better], [counts, told, better, verdict, sent]

    def edit(rows: str, now: str, was: str, text: str) -> list[Any]:
        return decided(rows, place, was, text, None, now)

    def judge(rows: str, now: str, was: str, text: str, said: str | None) -> list[Any]:
        return decided(rows, place, was, text, said or "", now)

    edited = better.blur(edit, inputs, outputs, **QUEUE, **PRIVATE)
    judged = verdict.input(judge, [*inputs, verdict], outputs, **QUEUE, **PRIVATE)
    for event in (edited, judged):  # a verdict that was refused must not look as if it were kept
        event.failure(lambda rows: _said(_item(rows, place)[1]), shown, verdict, **PRIVATE)


def choices() -> list[tuple[str, str]]:
    """(label, id) of the runs that made rows, newest first."""
    return [(f"{run.name} ({launch.stage(run.request['stage']).TITLE})", run.id) for run in harvest.makers()]


def page_of(run_id: str | None, what: str, rows: str, by: int) -> list[Any]:
    """Values for [counts, every slot's parts, the judge, what is shown]: the rows behind (by=1) or before (-1) those
    shown, or the first ones. Counted from the rows shown, not by page: what was decided may no longer be listed."""
    found = _items(run_id)
    listed = [item for item in found if SHOWS[what](item)]
    before = _asked(rows)["rows"] if by else []
    if by > 0 and before:
        listed = [item for item in listed if item.index > before[-1]] or listed[-PAGE:]
    elif by < 0 and before:
        listed = [item for item in listed if item.index < before[0]][-PAGE:] or listed
    return _page(run_id, found, [], listed[:PAGE])


def filled_up(run_id: str | None, what: str, rows: str) -> list[Any]:
    """The same when the page is looked at again: the rows that stand there stay, with what is being typed in them, and
    free places get what has come since."""
    found, stay = _items(run_id), _asked(rows)["rows"]
    come = [item for item in found if SHOWS[what](item) and (not stay or item.index > stay[-1])]
    return _page(run_id, found, stay, come[: PAGE - len(stay)])


def _page(run_id: str | None, found: list[Item], stay: list[int], come: list[Item]) -> list[Any]:
    """Values for all outputs: rows that come behind the first slots, which stay as they are."""
    slots = [gr.skip()] * SLOT * len(stay) + [part for item in come for part in _filled(item)]
    empty = [gr.Row(visible=False), *[gr.skip()] * (SLOT - 1)] * (PAGE - len(stay) - len(come))
    listed = [*stay, *(item.index for item in come)]
    now = json.dumps({"run": run_id, "rows": listed})
    return [counts_html(run_id, found, listed), *slots, *empty, judge_html(run_id), now, now]


def _filled(item: Item) -> list[Any]:
    """A slot's parts with a row in them."""
    box = gr.Textbox(item.better, label=_label(item))
    return [gr.Row(visible=True), row_html(item), box, _said(item), digest(item.better)]


def digest(text: str) -> str:
    """A short name for a text that the browser may have sent back with other line ends."""
    return hashlib.sha256("\n".join(text.strip().splitlines()).encode("utf-8", "replace")).hexdigest()[:12]


def _label(item: Item) -> str:
    return f"Better answer of row {item.index + 1}" + (", edited by you" if item.edited else "")


def _said(item: Item | None) -> str:
    """The verdict as the page tells it: an edited row is an accepted one."""
    return "accept" if item and item.verdict == "edit" else item.verdict if item else ""


def decided(rows: str, place: int, sent: str, text: str, said: str | None, latest: str = "") -> list[Any]:
    """Keeps a verdict (None: the words were left, changed or not): [counts, what is told, the box, the verdict, sent].
    What differs from what the page was sent is an edit; what was changed on another page since is only shown.
    `latest`: the rows that the page has by now, where it was turned meanwhile."""
    run, item = _item(rows, place)
    if run is None or item is None:
        return [gr.skip()] * SLOT
    text = (text or "").strip()
    edited, same = digest(text) != sent, digest(text) == digest(item.better)
    now = _asked(latest or rows)
    there = (now["run"], now["rows"][place : place + 1]) == (run.id, [item.index])
    if not same and digest(item.better) != sent:
        return _answer(item, now, there, text, _refused(item, text if edited else "", said))
    if said is None and same:  # nothing was changed, or a verdict that left the page later has brought these words
        return _answer(item, now, there, text) if edited else [gr.skip()] * SLOT
    verdict = ("edit" if edited or item.edited else "accept") if said in (None, "accept") else said or ""
    own = text if verdict == "edit" or (edited and len(text) <= harvest.MOST_LETTERS) else None
    try:
        harvest.decide(run, item.index, verdict, own)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    return _answer(_item(rows, place)[1] or item, now, there, text)


def _answer(item: Item, now: dict[str, Any], there: bool, text: str, told: str = "") -> list[Any]:
    """A row as it is kept, for its place if it is still there; the box only where it says something else."""
    counts = counts_html(now["run"], _items(now["run"]), now["rows"])
    if not there:
        return [counts, *[gr.skip()] * (SLOT - 1)]
    new = {} if digest(item.better) == digest(text) else {"value": item.better}  # what is typed is not overrun
    return [counts, row_html(item) + told, gr.Textbox(label=_label(item), **new), _said(item), digest(item.better)]


def _refused(item: Item, text: str, said: str | None) -> str:
    """Says that another page has changed a row, and the words that it would have been given here."""
    words = CHANGED.format(item.index + 1)
    if text or said is not None:
        gr.Warning(words)
    if not text:
        return ""
    head = html.alert("This row was changed on another page", "What you wrote stands below and was not kept.")
    return html.live([head, _turn("Your words", text)])


def hand_over(run_id: str | None, stage: str) -> Dataset:
    """The accepted rows of a run as a dataset that the stage can learn from."""
    if not run_id:
        raise gr.Error(EMPTY, duration=None)
    try:
        return harvest.hand_over(Run(run_id), launch.stage(stage).COLUMNS)
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error


def _asked(rows: str) -> dict[str, Any]:
    return json.loads(rows) if rows else {"run": None, "rows": []}


def _items(run_id: str | None) -> list[Item]:
    try:
        return harvest.items(Run(run_id)) if run_id else []
    except ValueError as error:  # deleted on another page
        raise gr.Error(str(error), duration=None) from error


def _item(rows: str, place: int) -> tuple[Run | None, Item | None]:
    """The run and the row that stands in a place of the page."""
    asked = _asked(rows)
    if place >= len(asked["rows"]):
        return None, None
    found = _items(asked["run"])
    return Run(asked["run"]), next((item for item in found if item.index == asked["rows"][place]), None)


def judge_html(run_id: str | None) -> str:
    """What the judge of an AI feedback run gets right of the pairs with a known answer; nothing where there is none."""
    found = harvest.judge_known(Run(run_id)) if run_id else {}
    return html.tag("p", judge_probe.words(found), "pg-note") if found else ""


def counts_html(run_id: str | None, found: list[Item], listed: list[int]) -> str:
    """What became of the rows, and which of them stand below."""
    if not found:
        return html.live([html.tag("p", EMPTY, "pg-note")])
    dropped, said = harvest.dropped(found), Counter(item.verdict for item in found)
    passed = sum(item.reason is None for item in found)
    words = f"{len(found)} rows: {passed} passed the filters, {len(found) - passed} did not"
    words += f" ({', '.join(f'{count} {reason}' for reason, count in dropped.items())})." if dropped else "."
    yours = (
        f"You accepted {said['accept']}, edited {said['edit']} and dropped {said['drop']}; {said['']} are undecided."
    )
    kept = f"{sum(item.kept for item in found)} rows go into the data."
    place = "No row fits what is shown; choose another."
    if listed:
        place = f"Below: rows {listed[0] + 1} to {listed[-1] + 1}."
    return html.live([html.tag("p", f"{yours} {kept}", "pg-state"), html.tag("p", f"{words} {place}", "pg-note")])


# ---- one row


def row_html(item: Item) -> str:
    """A row as it was made: prompt, answers, what was criticised or how they compared, and what a filter said."""
    fate = "passed the filters" if item.reason is None else f"dropped by a filter: {item.reason}"
    parts = [html.tag("h3", f"Row {item.index + 1}"), html.tag("p", fate.capitalize(), "pg-note")]
    parts.append(html.conversation(item.prompt))
    parts += _steps(item) if "steps" in item.notes else _labelled(item)
    parts += [_turn("Your earlier words, which are not used", item.aside)] if item.aside else []
    return html.box(parts, "pg-row")


def _steps(item: Item) -> list[str]:
    """Critique and revision, round by round, each revision against the answer that it was made from."""
    parts, answer = [_turn("First answer", item.answer)], item.answer
    for step in item.notes["steps"]:
        parts.append(_turn(f"Critique under “{step['principle']}”", step["critique"]))
        parts.append(html.box([html.tag("strong", "Revision"), html.diff(answer, step["revision"])], "pg-turn"))
        answer = step["revision"] if step.get("reason") is None else answer
    return parts


def _labelled(item: Item) -> list[str]:
    """Two answers, which was preferred, how surely, and how far the judge is to be trusted."""
    notes, words = item.notes, []
    if "p" in notes:
        words.append(f"The judge prefers the chosen answer with probability {notes['p']:.0%}.")
    if "consistent" in notes:
        same = "the same either way round" if notes["consistent"] else "another one when the answers changed places"
        words.append(f"Its choice was {same}.")
    if "judge_accuracy" in notes:
        words.append(f"On answers whose order is known it was right in {notes['judge_accuracy']}.")
    titles = notes.get("principles") or ([notes["principle"]] if "principle" in notes else [])
    words += [f"Principle: {', '.join(map(str, titles))}."] if titles else []
    return [html.answer("chosen", item.better), html.answer("rejected", item.answer), html.tag("p", " ".join(words))]


def _turn(name: str, text: str) -> str:
    return html.box([html.tag("strong", name), html.tag("div", text or "(nothing)", "pg-diff")], "pg-turn")
