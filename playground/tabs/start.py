"""The Start tab: what this place is, the way through it, and what the machine can do."""

import os

import gradio as gr

from playground.tabs import hosting

INTRO = """
A language model fresh from pre-training continues text; it does not answer, help or refuse. Alignment is a stack of
layers on top, each one a training stage that you can run here on a small model and then talk to:

1. **Supervised fine-tuning (SFT)** imitates good answers. It gives the model the form of an assistant.
2. **A reward model** learns from pairs which of two answers people prefer.
3. **PPO** lets the model write answers of its own and strengthens those the reward model likes; **DPO** learns from
   the same pairs without a reward model.
4. **A constitution** writes the preferences down as principles and lets the model criticise and revise itself.
"""
STEPS = """
## Five minutes to a model that changed

1. Open **Data** and look at *pocket-tutor*: a tutor who answers in at most three short sentences and ends with a
   question. The coloured tokens are all that the model learns from.
2. Open **Fine-tune (SFT)**, choose the preset *pocket-tutor* and press **Start training**. It takes about three minutes
   on two cores. Watch the held-out loss fall and the probe answers change. You can close the page meanwhile.
3. Open **Chat**, put the starting model on the left and your run on the right, and ask both the same thing.

## And then: preferences

4. Open **Reward model**, choose its preset and train: about six minutes. In **Score**, type two answers to one
   question and see which it prefers, and after which word it changes its mind.
5. Open **PPO**, choose its preset, which takes both of your runs, and train: the model writes answers, the reward model
   pays for them. Read them below its curves, and see whether it only learned to please the judge.
6. Open **DPO**, choose its preset, which continues your SFT run, and train. Compare the two in **Chat**; the ticks
   under the run say what was proven before its first step.
7. Open **Constitution**: edit a principle and try it on the bench, have the model criticise and revise itself, review
   what it made, and send that to Fine-tune or DPO. Queue a **recipe** to see the whole way at once.
"""


def build() -> list[gr.Button]:
    """Lays out the tab; returns the buttons that lead on, in the order data, fine-tune, chat."""
    gr.Markdown(INTRO, elem_classes="pg-lead")
    gr.Markdown(STEPS)
    with gr.Row():
        buttons = [gr.Button(words) for words in ("1. Look at data", "2. Fine-tune", "3. Compare")]
    gr.Markdown(machine_words())
    return buttons


def machine_words() -> str:
    """What this machine offers and where its results stay, without importing torch."""
    cores = os.environ.get("CPU_CORES") or os.cpu_count()
    lines = [
        f"**This machine**: {cores} CPU cores. SmolLM2-135M-Instruct needs no account and no model hub. "
        "Its weights come from a 4-bit file, so it is a little weaker than the original.",
    ]
    if hosting.on_space() and not os.access("/data", os.W_OK):
        lines.append("**Runs here are lost when the Space restarts**: it has no storage mounted at `/data`.")
    if hosting.on_space():
        lines.append("Everything on this page is shared by all its visitors: upload nothing that is private.")
    return "\n\n".join(lines)
