"""What a page shows of a run folder: status, curves, probe answers. Reads files, changes nothing."""

import math
from typing import Any

import pandas as pd

from playground.runs import queue
from playground.runs.run import Run, Status
from playground.stages import launch
from playground.stages.reading import alerts, curves_of, reading
from playground.statistics import thin
from playground.tabs import html

MOST_POINTS = 500
MOST_ANSWERS = 12  # of a probe prompt, besides the first
FRONTIER = {"objective/scores": "reward (proxy)", "checks": "checks passed (gold)"}
WORDS = {
    "queued": "Queued",
    "running": "Running",
    "finished": "Finished",
    "stopped": "Stopped",
    "failed": "Failed",
    "interrupted": "Interrupted",
}


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status_html(run: Run | None) -> str:
    """State, phase, step, ETA and progress, in words and as a bar; what goes wrong, how it ended, what was proven."""
    if run is None:
        return html.live([html.tag("p", "No run yet. Choose data above and press Start.", "pg-note")])
    status, request = run.status(), run.request
    lines = [
        html.tag("span", WORDS[status.state], "pg-state"),
        html.tag("span", f" · {lineage(run)} · {data_words(request)}"),
    ]
    parts = [html.box(lines, name="p")]
    if status.active or status.step:
        parts.append(html.tag("p", progress_words(status)))
        parts.append(html.bar(status.step / status.total if status.total else 0.0, f"Progress of {run.name}"))
    if status.message:
        parts.append(html.tag("p", status.message))
    parts += [html.alert(alert.title, alert.sentence) for alert in alerts(curves_of(run.metrics()))]
    module = launch.stage(request["stage"])
    if words := getattr(module, "told", lambda run: "")(run):
        parts.append(html.tag("p", words))
    if status.state == "finished" or (status.state == "stopped" and run.receipt()):
        parts.append(html.tag("p", module.outcome(run) + _took(run)))
    if status.state == "finished":
        parts.append(html.tag("p", f"Next: {module.NEXT[0].lower()}{module.NEXT[1:]}", "pg-note"))
    if status.state == "queued" and (others := queue.waits_for(run)):
        named = ", ".join(f"{other.name} ({WORDS[other.status().state].lower()})" for other in others)
        parts.append(html.tag("p", f"It builds on {named} and starts when that has finished; resume it if it ended."))
    if status.state == "interrupted":
        parts.append(html.tag("p", "Resume goes on from the last checkpoint.", "pg-note"))
    parts.append(proofs_html(run))
    return html.live(parts)


def progress_words(status: Status) -> str:
    """One line: phase, step, time left."""
    words = [status.phase] if status.active else []
    if status.total:
        words.append(f"step {status.step} of {status.total}")
    if status.eta and status.active:
        words.append(f"about {duration(status.eta)} left")
    return ", ".join(words).capitalize()


def _took(run: Run) -> str:
    seconds = run.receipt().get("metrics", {}).get("train_seconds")
    return f" Training took {duration(seconds)}." if seconds else ""


def proofs_html(run: Run) -> str:
    """What was proven before the first update, as ticks; open where one failed."""
    proofs = run.proofs()
    if not proofs:
        return ""
    held = sum(proof["passed"] for proof in proofs)
    marks = [f"{'✓' if proof['passed'] else '✗'} {proof['name']}: {proof['words']}" for proof in proofs]
    listed = html.box([html.tag("li", mark) for mark in marks], "pg-list", "ul")
    return html.details(f"Proven before the first step: {held} of {len(proofs)}", [listed], held < len(proofs))


def reading_html(events: list[dict[str, Any]], metric: str) -> str:
    """What this curve says, in one sentence."""
    return html.tag("p", reading(metric, curves_of(events)), "pg-reading")


def lineage(run: Run) -> str:
    """The checkpoint in words: its base and every layer on it, oldest first."""
    layers, request, seen = [], run.request, {run.id}
    base = request["base_title"]
    while True:
        layers.append(f"{request['stage'].upper()}({request['name']})")
        parent = request.get("parent")
        if parent is None:
            break
        try:
            if parent["id"] in seen:
                break
            seen.add(parent["id"])
            request = Run(parent["id"]).request
        except ValueError:
            layers.append(f"{parent['name']} (deleted)")
            break
    return " + ".join([base, *reversed(layers)])


def data_words(request: dict[str, Any]) -> str:
    """The run's data in words: its name, and the constitution and run that made it, where one did."""
    name, origin = request["dataset"]["name"], request["dataset"].get("origin")
    if used := request.get("constitution"):
        return f"{name} under {used['name']}, version {used['version']}"
    if not origin:
        return name
    used = origin["constitution"]
    return f"{name} (made by {origin['run_name']} under {used['name']}, version {used['version']})"


def curve(
    events: list[dict[str, Any]], metric: str, names: tuple[str, str] = ("training", "held-out")
) -> pd.DataFrame | None:
    """(step, value, series) of one metric and of its eval_ twin, at most 500 points a series; None without a point.
    names: of the two series.

    The plot takes its axes' types and its series from the first frame it gets. An empty one has no types, and the
    held-out point of step 0 comes before the first of training, whose place an undrawn point (NaN) keeps.
    """
    rows: list[tuple[int, float, str]] = []
    for key, series in zip((metric, f"eval_{metric}"), names, strict=True):
        points = [(e["step"], e["values"][key]) for e in events if e["values"].get(key) is not None]
        rows += [(*points[i], series) for i in thin(len(points), MOST_POINTS)]
    if rows and rows[0][2] == names[1]:
        rows.insert(0, (rows[0][0], float("nan"), names[0]))
    return pd.DataFrame(rows, columns=["step", metric, "series"]) if rows else None


def frontier(events: list[dict[str, Any]]) -> pd.DataFrame | None:
    """(√KL, value, series) of proxy and gold at every iteration, at most 500 points a series; None without a point."""
    rows: list[tuple[float, float, str]] = []
    for key, series in FRONTIER.items():
        found = [e["values"] for e in events if None not in (e["values"].get(key), e["values"].get("objective/kl"))]
        found = [found[i] for i in thin(len(found), MOST_POINTS)]
        rows += [(math.sqrt(max(v["objective/kl"], 0.0)), v[key], series) for v in found]
    return pd.DataFrame(rows, columns=["√KL", "value", "series"]) if rows else None


def probes_html(run: Run | None) -> str:
    """Each probe prompt with its answers, oldest first."""
    samples = run.samples() if run else []
    if not samples:
        return html.tag(
            "p", "The probe prompts' answers appear here, before the first step and as training goes on.", "pg-note"
        )
    prompts = list(dict.fromkeys(sample["prompt"] for sample in samples))
    parts = []
    for prompt in prompts:
        said = [s for s in samples if s["prompt"] == prompt]
        said = said[:1] + said[1:][-MOST_ANSWERS:]
        rows = [[str(s["step"]), s["answer"] or "(nothing)"] for s in said]
        parts += [html.tag("h3", prompt), html.table(["Step", "Answer"], rows)]
    return html.box(parts)


def series_of(stage: str) -> tuple[str, str]:
    """What the two lines of the stage's curves are: training and held-out, unless it has others."""
    return getattr(launch.stage(stage), "SERIES", ("training", "held-out"))


def metrics_of(stage: str) -> dict[str, str]:
    """The stage's curves and what each one says."""
    return launch.stage(stage).METRICS
