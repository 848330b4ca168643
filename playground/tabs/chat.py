"""The Chat tab: one question, two checkpoints of one base, both answers streaming from one batch."""

import html
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from playground.models import catalog
from playground.runs.run import Run, list_runs
from playground.stages import launch
from playground.stages.inputs import WEIGHTS
from playground.tabs import fetching, view

START = "base"
PATIENCE = 30  # seconds for an answer that was stopped to come to its end
Turns = list[dict[str, str]]
INTRO = """The left column is where the model started, the right one what training made of it. Both answer the same
question at the same time, from one copy of the weights: the right column adds its small adapter, the left one leaves
it out."""


@dataclass
class Asked:
    """A question under way. Gradio's own cancelling shows an error and lets a late frame bring the answer back, so the
    answer ends itself: its last frame is the last word."""

    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


_asked: dict[str | None, Asked] = {}  # by browser page


def build() -> list[Any]:
    """Lays out the tab and wires it; returns the two checkpoint pickers and the conversations."""
    gr.Markdown(INTRO)
    with gr.Row():
        left = gr.Dropdown(
            choices(), value=START, label="Left", info="A checkpoint of the same starting model.", elem_id="chat-left"
        )
        right = gr.Dropdown(
            choices(), value=START, label="Right", info="The run to compare with it.", elem_id="chat-right"
        )
    with gr.Row():
        left_bot = _bot("Left answers", "Where it started", "left-answers")
        right_bot = _bot("Right answers", "What training made of it", "right-answers")
    status = gr.Markdown("Ask something; both columns get the same question.", elem_id="chat-status")
    question = gr.Textbox(
        label="Your question", placeholder="Why do cats purr?", max_length=4000, submit_btn=True, elem_id="question"
    )
    with gr.Row():
        stop = gr.Button("Stop", size="sm", variant="stop")
        clear = gr.Button("New conversation", size="sm")
    with gr.Accordion("Sampling", open=False), gr.Row():
        sampling = {
            "max_new_tokens": gr.Slider(8, 512, value=128, step=8, label="Longest answer", info="In tokens."),
            "temperature": gr.Slider(
                0,
                2,
                value=0,
                step=0.05,
                label="Temperature",
                info="0 always takes the likeliest token; higher is more varied.",
            ),
            "top_p": gr.Slider(
                0.05, 1, value=1, step=0.05, label="Top p", info="Keeps the likeliest tokens that make up this share."
            ),
            "top_k": gr.Slider(
                0, 200, value=0, step=1, label="Top k", info="Keeps so many of the likeliest tokens; 0 keeps all."
            ),
            "seed": gr.Number(
                0, precision=0, label="Seed", info="The same seed gives the same answers; both columns share it."
            ),
        }
    histories = gr.State([[], []])
    names = {"left": left, "right": right, "question": question, "histories": histories, **sampling}

    def ask(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        named = {name: values[component] for name, component in names.items()}
        if not named["question"].strip():
            return
        kept = False
        for turns, words in until_stopped(request.session_hash, {**named, "question": named["question"].strip()}):
            update: dict[Any, Any] = {left_bot: shown(turns[0]), right_bot: shown(turns[1]), status: words}
            if turns[0][-1]["role"] == "assistant":  # a question that got no answer must not stay in the conversation
                update[histories] = turns
                update |= {} if kept else {question: ""}
                kept = True
            yield update

    outputs = [question, histories, left_bot, right_bot, status]
    question.submit(
        ask, set(names.values()), outputs, api_visibility="private", concurrency_id="chat", concurrency_limit=16
    )
    stop.click(halt, api_visibility="private", queue=False)
    fresh = [[[], []], [], [], "A new conversation."]
    for changed in (clear.click, left.input, right.input, left_bot.clear, right_bot.clear):
        changed(halt_and_wait, api_visibility="private", concurrency_limit=None).then(
            lambda: fresh, None, [histories, left_bot, right_bot, status], api_visibility="private"
        )
    return [left, right, histories]


def _bot(label: str, empty: str, elem_id: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=label, placeholder=empty, height=380, render_markdown=False, buttons=["copy_all"], elem_id=elem_id
    )


def choices() -> list[tuple[str, str]]:
    """(label, id) of the starting checkpoint and every run that has weights, newest first."""
    tuned = [
        (view.lineage(run), run.id)
        for run in reversed(list_runs())
        if launch.stage(run.request["stage"]).ANSWERS and (run.adapter / WEIGHTS).exists()
    ]
    return [("the starting model", START), *tuned]


def refresh(left: str, right: str, histories: list[Turns]) -> list[Any]:
    """Both pickers with today's runs; before a conversation begins, the right one moves on to the newest run."""
    found = choices()
    known = [value for _, value in found]
    newest = known[1] if len(known) > 1 else START
    return [
        gr.Dropdown(choices=found, value=left if left in known else START),
        gr.Dropdown(choices=found, value=right if right in known and (right != START or any(histories)) else newest),
    ]


def until_stopped(page: str | None, asked: dict[str, Any]) -> Iterator[tuple[list[Turns], str]]:
    """answer(), which `halt` from the same page ends; of two questions from one page, the newer is the one to end."""
    mine = _asked[page] = Asked()
    try:
        yield from answer(**asked, stop=mine.stop)
    finally:
        mine.done.set()
        if _asked.get(page) is mine:
            del _asked[page]


def halt(request: gr.Request) -> None:
    """Ends this page's answer after the word it is at."""
    if asked := _asked.get(request.session_hash):
        asked.stop.set()


def halt_and_wait(request: gr.Request) -> None:
    """Ends this page's answer and waits until it has ended, so that nothing of it comes after what follows."""
    if asked := _asked.get(request.session_hash):
        asked.stop.set()
        asked.done.wait(PATIENCE)


def answer(
    left: str, right: str, question: str, histories: list[Turns], stop: threading.Event, **sampling: Any
) -> Iterator[tuple[list[Turns], str]]:
    """Yields (both conversations, status line) as the answers grow, until they end or `stop` is set."""
    columns = [None if name == START else Run(name) for name in (left, right)]
    tuned = [run for run in columns if run]
    try:
        ref = tuned[0].request["base"] if tuned else catalog.EMBEDDED
        wait = fetching.ready_or_fetch(ref)
    except ValueError as error:  # the run was deleted, its base folder moved
        raise gr.Error(str(error), duration=None) from error
    if wait:
        raise gr.Error(wait)
    asked = [[*turns, {"role": "user", "content": question}] for turns in histories]
    yield asked, waiting_words()

    from playground.chat import engine  # torch comes into the server here, with the first question
    from playground.models.decode import Sampling

    began = None  # the clock starts with the first word: loading is told apart
    answers = ["", ""]
    try:
        chosen = Sampling(**{**sampling, "seed": int(sampling["seed"] or 0), "top_k": int(sampling["top_k"])})
        for answers in engine.reply(ref, columns, asked, chosen, should_stop=stop.is_set):
            began = began or time.monotonic()
            yield _with(asked, answers), "Answering…"
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    if stop.is_set():
        yield (_with(asked, answers) if began else asked), "Stopped."
        return
    words = sum(len(text.split()) for text in answers)
    yield (
        _with(asked, answers),
        f"{words} words in {time.monotonic() - (began or 0):.1f} s, both answers together.{cost_words()}",
    )


def waiting_words() -> str:
    """What the person waits for before the first token."""
    import sys

    loaded = "playground.chat.engine" in sys.modules
    return ("Thinking…" if loaded else "Loading the model, a few seconds the first time…") + cost_words()


def cost_words() -> str:
    """What a run that trains meanwhile costs the chat, and the chat the run."""
    if any(run.status().state == "running" for run in list_runs()):
        return " A run is training on the same cores: both are slower while an answer is written."
    return ""


def shown(turns: Turns) -> Turns:
    """Turns for a Chatbot, which renders HTML even where it renders no Markdown."""
    return [{"role": turn["role"], "content": html.escape(turn["content"], quote=False)} for turn in turns]


def _with(asked: list[Turns], answers: list[str]) -> list[Turns]:
    return [[*turns, {"role": "assistant", "content": text}] for turns, text in zip(asked, answers, strict=True)]
