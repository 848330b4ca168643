"""The answers that a model wrote while it trained: one iteration's, ordered, each with what it earned and why."""

from typing import Any

import gradio as gr

from playground.runs.run import Run
from playground.tabs import html

MOST = 16
NEWEST = "newest"
ORDERS = {
    "Highest reward": lambda row: -row["score"],
    "Lowest reward": lambda row: row["score"],
    "Highest KL": lambda row: -row["kl"],
}
FIRST_ORDER = next(iter(ORDERS))
FULL_COLOUR = 2.0  # nats: seven times likelier, or less likely, than under the reference
LONGEST_SUMMARY = 100
EMPTY = (
    "The answers that the model writes while it trains appear here, iteration by iteration, with what each one earned "
    "and how far every word has moved from the reference."
)
INTRO = f"""### Rollouts
At most {MOST} of the answers that an iteration wrote and learned from. Blue tokens have become likelier than under the
reference, orange ones less likely, and they add up to the answer's KL; point at one for its nats."""


def build(run: gr.Dropdown) -> tuple[list[gr.components.Component], list[gr.components.Component]]:
    """Lays out the browser of the run in view and wires it: (what `shown` needs besides the run, what it fills)."""
    gr.Markdown(INTRO)
    with gr.Row():
        iteration = gr.Dropdown(
            [NEWEST], value=NEWEST, label="Iteration", info="Whose answers to read; the newest follows the run."
        )
        order = gr.Dropdown(list(ORDERS), value=FIRST_ORDER, label="Order", info="Which answers stand first.")
    listed, seen = gr.HTML(html.tag("p", EMPTY, "pg-note"), padding=False), gr.State(None)
    reads, outputs = [iteration, order, seen], [iteration, listed, seen]

    def look(run_id: str | None, *asked: Any) -> list[Any]:
        return shown(Run(run_id) if run_id else None, *asked)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    gr.on([iteration.input, order.input], look, [run, *reads], outputs, **private)
    return reads, outputs


def shown(
    run: Run | None, iteration: str | int | None = NEWEST, order: str | None = FIRST_ORDER, seen: Any = None
) -> list[Any]:
    """[the iteration picker, the list, what was shown]; an iteration that the run has not makes way for the newest.

    The file is read only where it has grown or something else is asked for; a list that would be the same again is
    left as it is, with what the reader has unfolded. `seen`: (what was asked, what is listed), or None."""
    path = run.folder / "rollouts.jsonl" if run else None
    asked = (run and run.id, path.stat().st_size if path and path.exists() else 0, iteration, order)
    before, listed = seen or (None, None)
    if asked == before:
        return [gr.skip(), gr.skip(), gr.skip()]
    rows = run.rollouts() if run else []
    steps = sorted({row["step"] for row in rows}, reverse=True)
    picked = iteration in steps
    step = iteration if picked else next(iter(steps), None)
    rows = [row for row in rows if row["step"] == step]
    picker = gr.Dropdown(choices=[NEWEST, *steps], value=step if picked else NEWEST)
    now = (run and run.id, step, len(rows), order)
    return [picker, gr.skip() if now == listed else rollouts_html(rows, order or FIRST_ORDER), (asked, now)]


def rollouts_html(rows: list[dict[str, Any]], order: str) -> str:
    """Each rollout under a line with its reward, its KL and the question; the first one unfolded."""
    if not rows:
        return html.tag("p", EMPTY, "pg-note")
    ordered = sorted(rows, key=ORDERS[order])[:MOST]
    head = html.tag("p", f"Iteration {rows[0]['step']}: {len(ordered)} answers, {order.casefold()} first.", "pg-note")
    return html.box([head, *[_row_html(row, opened=i == 0) for i, row in enumerate(ordered)]])


def _row_html(row: dict[str, Any], opened: bool) -> str:
    question = row["prompt"]
    line = " ".join(question.split())
    short = line if len(line) <= LONGEST_SUMMARY else f"{line[:LONGEST_SUMMARY]}…"
    parts = [f"{name} {value:+.2f}" for name, value in row["parts"].items()]
    parts.append("came to its end" if row["ended"] else "cut off before its end")
    inner = [
        *([html.tag("p", question)] if short != question else []),
        html.heat(row["tokens"], [nats / FULL_COLOUR for nats in row["token_kl"]], row["token_kl"]),
        html.tag("p", "; ".join(parts), "pg-note"),
    ]
    summary = f"Reward {row['score']:+.2f} · KL {row['kl']:.1f} · {short}"
    return html.details(summary, [html.box(inner, "pg-row")], opened)
