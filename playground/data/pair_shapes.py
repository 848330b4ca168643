"""The ways in which people write preference pairs down: one small function a shape, one table, most specific first.

A function only finds the prompt, the chosen and the rejected answer; pairs.pair() checks them, so that every mess is
told once. Sets that name two answers and a winner stand in votes.py, sets that rank or score several in ranks.py.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from playground.data.pairs import SIDES, is_pair, is_transcript, number_in, opened, pair_shape, split_answer
from playground.data.records import has_objects
from playground.data.shapes import Reading, Record, RowError, column, first, has, is_blank, turns_of
from playground.data.votes import VOTE_SHAPES, asked_about, question

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
Canonical = Callable[[Record, Reading], Record]


def renamed(**columns: str) -> Canonical:
    """Takes fields of the normal form from columns with other names; all else stays.

    A prompt takes along what it is about, unless each side is a whole conversation, which repeats it.
    """

    def canonical(record: Record, _: Reading) -> Record:
        found = record | {field: record[name] for field, name in columns.items()}
        if found.get("prompt") is not None and all(_is_one(found[side]) for side in SIDES):
            found["prompt"] = asked_about(record, columns.get("prompt", "prompt"))
        return with_margin(found)

    return canonical


def _is_one(side: Any) -> bool:
    """True for an answer that stands alone, as a text or as one message."""
    side = opened(side)
    return len(side) == 1 if isinstance(side, list) else not is_transcript(side)


def with_margin(record: Record) -> Record:
    """The record with the difference of its two scores as the margin, where it has scores and no margin."""
    names = next((names for names in SCORES if set(names) <= record.keys()), None)
    if names is None or not is_blank(record.get("margin")):
        return record
    with suppress(RowError):  # a column of another meaning is no reason to lose the pair
        better, worse = (number_in(record[name], name) for name in names)
        if better is not None and worse is not None:
            return record | {"margin": round(better - worse, 6)}
    return record


def _holds_turns(*names: str) -> Callable[[Record], bool]:
    """A test for records whose columns hold one message each, or several."""
    return lambda record: all(isinstance(record.get(name), dict) or has_objects(record.get(name)) for name in names)


def _is_hh(record: Record) -> bool:
    return any(is_transcript(record.get(side)) for side in SIDES) and is_pair(record)


def _is_explicit(record: Record) -> bool:
    return is_pair(record) and not is_blank(record.get("prompt"))


def _is_binarized(record: Record) -> bool:
    return _is_explicit(record) and has("score_chosen", "score_rejected")(record) and _holds_turns(*SIDES)(record)


def _openai(record: Record, _: Reading) -> Record:
    asked = record["input"].get("messages") if isinstance(record["input"], dict) else record["input"]
    sides = {"chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}
    return record | sides | {"prompt": asked}


def _swift_answer(record: Record, _: Reading) -> Record:
    """ms-swift: the conversation's last answer is the chosen one, the rejected one stands beside it."""
    asked, answer = split_answer(turns_of(record["messages"], "messages"), "messages")
    return record | {"prompt": asked, "chosen": answer, "rejected": record["rejected_response"]}


def _llamafactory(record: Record, _: Reading) -> Record:
    """LlamaFactory's Alpaca form: an instruction may have an input, and earlier [question, answer] pairs."""
    asked = question(record)
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(two, list) and len(two) == 2 for two in history):
        raise RowError("'history' is not a list of [question, answer] pairs")
    if history:
        earlier = [{"human": said, "assistant": answer} for said, answer in history]
        asked = [*turns_of(earlier, "history"), {"role": "user", "content": asked}]
    return with_margin(record | {"prompt": asked})


H2O_ASKED, H2O_CHOSEN = ("instruction", "prompt"), ("output", "answer")
H2O_REJECTED, H2O_OTHER = ("rejected", "rejected_answer", "rejected_response"), ("rejected_input", "rejected_prompt")


def _is_h2o(record: Record) -> bool:
    return all(column(record, names) is not None for names in (H2O_ASKED, H2O_CHOSEN, H2O_REJECTED))


def _h2o(record: Record, _: Reading) -> Record:
    asked, chosen, rejected = (first(record, *names) for names in (H2O_ASKED, H2O_CHOSEN, H2O_REJECTED))
    name = next((name for name in H2O_ASKED if record.get(name) is not None), "")
    if first(record, *H2O_OTHER) not in (None, "", asked):
        raise RowError("the rejected answer has a prompt of its own, so the two answer different prompts")
    return with_margin(
        record | {"prompt": asked_about(record, name) if name else None, "chosen": chosen, "rejected": rejected}
    )


PAIR_SHAPES = (
    pair_shape(
        "constitutional AI",
        has("init_prompt", "init_response", "revision_response"),
        renamed(prompt="init_prompt", chosen="revision_response", rejected="init_response"),
    ),
    pair_shape("OpenAI preference", has("input", "preferred_output", "non_preferred_output"), _openai),
    pair_shape(
        "LlamaFactory v1",
        has("chosen_messages", "rejected_messages"),
        renamed(chosen="chosen_messages", rejected="rejected_messages"),
    ),
    pair_shape(
        "ms-swift", has("messages", "rejected_messages"), renamed(chosen="messages", rejected="rejected_messages")
    ),
    pair_shape("ms-swift", has("messages", "rejected_response"), _swift_answer),
    pair_shape("HH-RLHF", _is_hh, renamed()),
    pair_shape("UltraFeedback-binarized", _is_binarized, renamed()),
    pair_shape("prompt, chosen, rejected", _is_explicit, renamed()),
    pair_shape("LlamaFactory ShareGPT", _holds_turns("conversations", *SIDES), renamed(prompt="conversations")),
    pair_shape("axolotl chat", _holds_turns("messages", *SIDES), renamed(prompt="messages")),
    pair_shape("axolotl Intel", has("question", *SIDES), renamed(prompt="question")),
    pair_shape("LlamaFactory Alpaca", has("instruction", *SIDES), _llamafactory),
    pair_shape("axolotl ICR", has("input", *SIDES), renamed(prompt="input")),
    pair_shape("chosen, rejected", is_pair, renamed()),
    *VOTE_SHAPES,
    pair_shape(
        "axolotl Argilla",
        has("instruction", "chosen_response", "rejected_response"),
        renamed(prompt="instruction", chosen="chosen_response", rejected="rejected_response"),
    ),
    pair_shape("AutoTrain", has("prompt", "text", "rejected_text"), renamed(chosen="text", rejected="rejected_text")),
    pair_shape("AutoTrain reward", has("text", "rejected_text"), renamed(chosen="text", rejected="rejected_text")),
    pair_shape("H2O", _is_h2o, _h2o),
)
