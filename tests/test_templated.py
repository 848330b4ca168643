"""Texts in which somebody wrote a whole conversation down: taken apart if they begin with a mark, left alone if not."""

import time

import pytest

from playground.data.conversations import TEMPLATED, asked_of
from playground.data.readers import RawRow
from playground.data.report import examine
from playground.data.shapes import RowError
from playground.data.templated import dialect_of, taken_apart

TALK = [
    {"role": "user", "content": "What is a fjord?"},
    {"role": "assistant", "content": "An arm of the sea.\n\nIt is narrow."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "In Norway."},
]
ASK, ANSWER, MORE, LAST = (message["content"] for message in TALK)
WRITTEN = {
    "ChatML": f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n"
    f"<|im_start|>user\n{MORE}<|im_end|>\n<|im_start|>assistant\n{LAST}<|im_end|>\n<|endoftext|>",
    "Llama 3": "<|begin_of_text|>"
    + "".join(f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content']}<|eot_id|>" for m in TALK),
    "Llama 2": f"<s>[INST] {ASK} [/INST] {ANSWER} </s><s>[INST] {MORE} [/INST] {LAST} </s>",
    "Gemma": f"<bos><start_of_turn>user\n{ASK}<end_of_turn>\n<start_of_turn>model\n{ANSWER}<end_of_turn>\n"
    f"<start_of_turn>user\n{MORE}<end_of_turn>\n<start_of_turn>model\n{LAST}<end_of_turn>\n",
    "Zephyr": f"<|user|>\n{ASK}</s>\n<|assistant|>\n{ANSWER}</s>\n<|user|>\n{MORE}</s>\n<|assistant|>\n{LAST}</s>\n",
    "Guanaco": f"### Human: {ASK}### Assistant: {ANSWER}### Human: {MORE}### Assistant: {LAST}",
    "transcript": f"\n\nHuman: {ASK}\n\nAssistant: {ANSWER}\n\nHum: {MORE}\n\nAssistant: {LAST}",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_in_a_dialect_becomes_its_turns(name):
    dialect = dialect_of(WRITTEN[name])
    assert dialect.name == name
    assert taken_apart(WRITTEN[name], dialect) == TALK
    (row,) = examine([RawRow(1, {"text": WRITTEN[name], "id": 3}, None)]).kept
    assert row.messages == TALK
    assert row.notes == ({"mended": [TEMPLATED]} if dialect.template else {})


@pytest.mark.parametrize("name", WRITTEN)
def test_a_prompt_in_a_dialect_becomes_its_turns_and_a_mark_that_asks_for_the_answer_is_none(name):
    text = WRITTEN[name][: WRITTEN[name].rindex(LAST)]
    assert asked_of(text, "prompt") == TALK[:3]
    (row,) = examine([RawRow(1, {"prompt": text, "completion": LAST}, None)]).kept
    assert row.messages == TALK


def test_a_system_message_stands_in_front():
    for text in (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>",
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]",
        "### System: Be brief.\n### Human: Why?",
    ):
        assert asked_of(text, "prompt") == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why?"},
        ]


@pytest.mark.parametrize(
    "text",
    [
        "What does <|im_start|>user mean?",
        "Write [INST] in bold.",
        "A note.\n### Human: not a turn",
        "Humans: many.",
        "###Humanity: a novel",
        "<s>struck</s>",
    ],
)
def test_a_text_that_only_mentions_a_mark_stays_a_text(text):
    assert dialect_of(text) is None
    assert asked_of(text, "prompt") == [{"role": "user", "content": text}]


def test_what_looks_like_an_end_inside_an_answer_is_kept():
    text = "<|user|>\nHow do I strike text?</s>\n<|assistant|>\nWrite <s>so</s>, then go on.</s>"
    assert taken_apart(text, dialect_of(text))[-1]["content"] == "Write <s>so</s>, then go on."


def test_a_role_that_nobody_knows_is_told():
    text = "<|im_start|>narrator\nOnce upon a time<|im_end|>"
    with pytest.raises(RowError, match="a message has the unknown role 'narrator'"):
        taken_apart(text, dialect_of(text))


@pytest.mark.parametrize(
    "text",
    [
        " " * 400_000, "<s>" * 100_000, "<|im_start|>user" * 20_000, "<|start_header_id|>" + "a" * 400_000,
        "[INST]" * 60_000, "### Human:" * 40_000, "[INST] <<SYS>>" * 30_000,
        "<|im_start|>user\n" + "<|im_end|>" * 40_000,
        "Below is an instruction that describes a task" * 9_000,
    ],
)  # fmt: skip
def test_any_text_is_taken_apart_in_a_straight_line(text):
    began = time.process_time()
    dialect = dialect_of(text)
    if dialect:
        taken_apart(text, dialect)
    assert time.process_time() - began < 3
