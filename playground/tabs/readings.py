"""How a file is read where its content leaves a choice: only those choices are shown that matter for this file."""

from typing import Any

import gradio as gr

from playground.data.recognise import kinds_of, mapped
from playground.data.report import MOST_TRIED, Report
from playground.data.shapes import Reading
from playground.tabs.looking import Looked
from playground.tabs.parts import Parts, Values

NAMES = ("kind", "pairs_by", "min_margin", "better", "good_from")
KINDS = {
    "sft": "conversations, for fine-tuning",
    "preference": "preference pairs, for the reward model and DPO",
    "prompts": "prompts alone, for PPO and a constitution",
    "thumbs": "rated answers, thumbs up or down",
}
PAIRS_BY = [("best against worst", "best-worst"), ("neighbours in the ranking", "adjacent"), ("all of them", "all")]
BETTER = [("the more helpful answer", "helpful"), ("the safer answer", "safe")]


def parts() -> Parts:
    """The choices, none of them shown yet."""
    made = Parts()
    hidden: dict[str, Any] = {"visible": False, "min_width": 220}
    with gr.Row(visible=False) as made["readings"]:
        info = "A stored dataset holds one kind; the other rows of the file are left out of it."
        made["kind"] = gr.Dropdown([], label="Take as", info=info, **hidden)
        info = "Which answers to one prompt are compared."
        made["pairs_by"] = gr.Dropdown(PAIRS_BY, value="best-worst", label="Pairs by", info=info, **hidden)
        info = "Answers whose scores are nearer than this make no pair."
        made["min_margin"] = gr.Number(0, label="Minimum margin", info=info, minimum=0, **hidden)
        info = "This file knows two meanings."
        made["better"] = gr.Dropdown(BETTER, value="helpful", label="Better means", info=info, **hidden)
        info = "Ratings from here on are thumbs up; empty takes the middle of the scale."
        made["good_from"] = gr.Number(None, label="Good from", info=info, **hidden)
    return made


def values(looked: Looked | None) -> Values:
    """The choices that the file in view offers, as they are now."""
    report = looked.report if looked else None
    if looked is None or report is None:
        return {"readings": gr.Row(visible=False)}
    kinds, reading = _kinds(looked, report), looked.reading
    offers = {*report.offers, *(["kind"] if len(kinds) > 1 else [])}
    return {
        "readings": gr.Row(visible=bool(offers & set(NAMES))),
        "kind": gr.Dropdown(choices=kinds, value=report.kind, visible="kind" in offers),
        "pairs_by": gr.Dropdown(choices=PAIRS_BY, value=reading.pairs_by, visible="pairs_by" in offers),
        "min_margin": gr.Number(value=reading.min_margin, visible=bool(offers & {"min_margin", "pairs_by"})),
        "better": gr.Dropdown(choices=BETTER, value=reading.better, visible="better" in offers),
        "good_from": gr.Number(value=reading.good_from, visible="good_from" in offers),
    }


def _kinds(looked: Looked, report: Report) -> list[tuple[str, str]]:
    """(words, kind) of what the file can be taken as: the kinds of its rows, and what these may be read as besides."""
    counts = {report.kind: len(report.kept), **report.others}
    if "kind" in report.offers:
        records = [item.value for item in mapped(looked.raw[:MOST_TRIED], looked.reading.columns) if item.value]
        counts = dict.fromkeys((kind for record in records for kind in kinds_of(record)), 0) | counts
    return [(f"{count:,} {KINDS[kind]}" if count else KINDS[kind], kind) for kind, count in counts.items()]


def chosen(looked: Looked, said: dict[str, Any]) -> Reading:
    """The reading that a person asked for. Numbers that were emptied are as they were meant to be at first."""
    first = Reading()
    return Reading(
        kind=said["kind"] or "",
        columns=looked.reading.columns,
        pairs_by=said["pairs_by"] or first.pairs_by,
        min_margin=max(0.0, float(said["min_margin"] or 0)),
        better=said["better"] or first.better,
        good_from=None if said["good_from"] is None else float(said["good_from"]),
    )
