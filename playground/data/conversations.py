"""The shapes of conversations (SFT): each is a question whether it fits, and a function that makes messages of it."""

import re
from collections.abc import Callable
from typing import Any

from playground.data.records import is_chat
from playground.data.shapes import (
    MEDIA,
    OPENED,
    ROLES,
    Message,
    Reading,
    Record,
    Row,
    RowError,
    Shape,
    clean,
    column,
    has,
    is_turns,
    mend,
    text_of,
    turns_of,
    with_system,
)
from playground.data.templated import DIALECTS, dialect_of, taken_apart

TALKS = ("messages", "conversations", "conversation")
_OTHER_TALKS = re.compile(r"texts|dialogue?|chat|\w+_trace")  # taken only where they hold turns
# Names of ms-swift and Unsloth, the most telling first: a problem's solution says more than its answer.
QUERIES = (
    "instruction", "query", "prompt", "question", "problem", "input", "request", "snippet", "exercise", "user", "human",
    "task",
)  # fmt: skip
RESPONSES = (
    "output", "response", "solution", "answer", "completion", "targets", "target", "answer_key", "answers", "expected",
    "recommendation", "reply", "result", "explanation", "assistant", "text", "content",
)  # fmt: skip
ABOUT = ("input", "context")  # what a question is about
CHOICES = ("choices", "options")  # beside these, an answer is the number of one
TREE = "turns of a tree"  # the column that trees.py makes
WEIGHTS = ("weight", "loss_weight", "loss", "train")
TEMPLATES = tuple(dialect.name for dialect in DIALECTS if dialect.template)

TEMPLATED = "a chat template stood in the text; its turns are taken apart, so that it is not applied twice"
UNLEARNED = "the last answers have weight 0 and are left out"
UNWEIGHTED = "an earlier answer has weight 0, but every answer of a conversation is learned here"
JOINED_STEPS = "the steps are joined into one answer; labels of single steps are not trained here"

Messages = Callable[[Record, list[str]], list[Message]]  # (record, what was mended) → messages


def only_asks(turns: Any) -> bool:
    """True for messages that end with the user and hold no assistant's."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return False
    roles = [ROLES.get(str(turn.get("role") or turn.get("from")).strip().lower()) for turn in turns]
    return roles[-1] == "user" and {"assistant", None}.isdisjoint(roles)


def asked_of(value: Any, field: str, mended: list[str] | None = None) -> list[Message]:
    """What is asked: turns, one turn, a conversation written out as a text, or a plain text, which is the user's."""
    if isinstance(value, dict):
        value = [value]
    if is_turns(value):
        return turns_of(value, field)
    text = text_of(value, f"'{field}'")
    return _turns_in(text, mended) or [{"role": "user", "content": text.strip()}]


def _turns_in(text: str, mended: list[str] | None) -> list[Message]:
    """The turns that are written out in a text, if any are."""
    dialect = dialect_of(text)
    if dialect is None:
        return []
    if dialect.template:
        mend(mended, TEMPLATED)
    return taken_apart(text, dialect)


def _shape(name: str, fits: Callable[[Record], bool], messages_of: Messages) -> Shape:
    """A shape of conversations; what only pictures or sounds would answer is refused."""

    def convert(number: int, record: Record, reading: Reading) -> list[Row]:
        if shown := next((name for name in MEDIA if record.get(name)), None):
            raise RowError(f"the column '{shown}' is filled; only text is trained here")
        mended: list[str] = []
        messages = clean(_without_opening(messages_of(record, mended), mended), mended)
        return [Row(number, messages, {"mended": mended} if mended else {})]

    return Shape(name, "sft", fits, convert)


def _without_opening(messages: list[Message], mended: list[str]) -> list[Message]:
    """Without what the assistant says before the first question: many templates refuse that."""
    asked = next((i for i, message in enumerate(messages) if message["role"] == "user"), 0)
    if not any(message["role"] == "assistant" for message in messages[:asked]):
        return messages
    mend(mended, OPENED)
    return [message for message in messages[:asked] if message["role"] == "system"] + messages[asked:]


# ---- lists of turns


def _from_turns(*fields: str) -> Messages:
    """Messages from the first of these columns that a record has; answers of weight 0 at its end are left out."""

    def messages_of(record: Record, mended: list[str]) -> list[Message]:
        field = next(field for field in fields if field in record)
        return with_system(record, turns_of(_weighed(record[field], mended), field), mended)

    return messages_of


def _weighed(turns: Any, mended: list[str]) -> Any:
    """Turns up to the last answer whose weight is not 0."""
    if not isinstance(turns, list) or not any(map(_weightless, turns)):
        return turns
    while turns and (_weightless(turns[-1]) or not _answers(turns[-1])):
        if _answers(turns[-1]):
            mend(mended, UNLEARNED)
        turns = turns[:-1]
    if not turns:
        raise RowError("every answer has weight 0, so there is nothing to learn")
    if any(_weightless(turn) and _answers(turn) for turn in turns):
        mend(mended, UNWEIGHTED)
    return turns


def _answers(turn: Any) -> bool:
    return not isinstance(turn, dict) or ROLES.get(str(turn.get("role") or turn.get("from")).lower()) == "assistant"


def _weightless(turn: Any) -> bool:
    return isinstance(turn, dict) and any(turn.get(name) in (0, "0") for name in WEIGHTS)  # False is 0


def _talks(*fields: str) -> Callable[[Record], bool]:
    return lambda record: any(field in record and not only_asks(record[field]) for field in fields)


def _other_talk(record: Record) -> str | None:
    """A column of another name that holds turns with an answer among them."""
    found = (name for name in record if _OTHER_TALKS.fullmatch(name.lower()) and is_chat(record[name]))
    return next((name for name in found if not only_asks(record[name])), None)


def _from_other_talk(record: Record, mended: list[str]) -> list[Message]:
    return _from_turns(str(_other_talk(record)))(record, mended)


# ---- a column that asks and a column that answers


def _exchange(record: Record, asked: str, answer: str, mended: list[str]) -> list[Message]:
    """Messages from two columns, either of them a text or turns; what is asked about may stand in a third."""
    about = [name for name in ABOUT if name in record and name != asked]
    value = joined(record, asked, *about) if about and not is_turns(record[asked]) else record[asked]
    before = asked_of(value, asked, mended)
    if record.get(answer) is not None and is_turns(record[answer]):
        after = turns_of(record[answer], answer)
        if _repeats(after, before):  # some sets write the whole conversation as the completion
            return with_system(record, after, mended)
    else:
        after = [{"role": "assistant", "content": text_of(record[answer], f"'{answer}'").strip()}]
    return with_system(record, _history(record) + before + after, mended)


def _repeats(messages: list[Message], part: list[Message]) -> bool:
    """True if messages begin with these others, after a system message perhaps, whatever the spacing."""
    said, wanted = ([(m["role"], m["content"].split()) for m in turns] for turns in (messages, part))
    return wanted in (said[: len(wanted)], said[1 : len(wanted) + 1])


def _history(record: Record) -> list[Message]:
    """Earlier questions and answers."""
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise RowError("'history' is not a list of [question, answer] pairs")
    return [
        {"role": role, "content": text_of(text, "'history'").strip()}
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def joined(record: Record, *names: str) -> str:
    """The texts of these columns, one under the other."""
    return "\n".join(text for name in names if (text := text_of(record.get(name), f"'{name}'").strip()))


def _names(record: Record) -> tuple[str, str] | None:
    """(what asks, what answers): the columns of these meanings, whatever they are called."""
    if column(record, CHOICES):
        return None
    asked, answer = column(record, QUERIES), column(record, RESPONSES)
    return (asked, answer) if asked and answer else None


def _from_names(record: Record, mended: list[str]) -> list[Message]:
    asked, answer = _names(record) or ("", "")  # it fits
    return _exchange(record, asked, answer, mended)


def _from_columns(asked: str, answer: str) -> Messages:
    return lambda record, mended: _exchange(record, asked, answer, mended)


# ---- one text, and sets with columns of their own


def _written_out(*dialects: str) -> Callable[[Record], bool]:
    def fits(record: Record) -> bool:
        dialect = dialect_of(record["text"]) if isinstance(record.get("text"), str) else None
        return dialect is not None and dialect.name in dialects

    return fits


def _from_text(record: Record, mended: list[str]) -> list[Message]:
    return with_system(record, _turns_in(text_of(record["text"], "'text'"), mended), mended)


def _from_steps(record: Record, mended: list[str]) -> list[Message]:
    steps, labels = record["completions"], record["labels"]
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels):
        raise RowError("'completions' and 'labels' are not two lists of one length")
    if not all(labels):
        raise RowError("a step is marked as wrong, so the answer is not learned")
    mend(mended, JOINED_STEPS)
    answer = "\n".join(text_of(step, "'completions'").strip() for step in steps)
    return _exchange({**record, "answer": answer}, "prompt", "answer", mended)


def _is_whole(record: Record) -> bool:
    """True for a completion that holds the whole conversation, its prompt too (KTO-mix)."""
    turns = record.get("completion")
    several = isinstance(turns, list) and len(turns) > 1 and is_chat(turns)
    return several and column(record, QUERIES) is None and not only_asks(turns)


def _is_dolly(record: Record) -> bool:
    return has("instruction", "response")(record) and ("context" in record or "category" in record)


SFT_SHAPES = (
    _shape(
        "constitutional revisions",
        has("init_prompt", "revision_response"),
        _from_columns("init_prompt", "revision_response"),
    ),
    _shape("messages", _talks("messages"), _from_turns("messages")),
    _shape("ShareGPT", _talks("conversations", "conversation"), _from_turns("conversations", "conversation")),
    _shape("messages", lambda record: _other_talk(record) is not None, _from_other_talk),
    _shape("tree table", has(TREE), _from_turns(TREE)),
    _shape("stepwise", has("prompt", "completions", "labels"), _from_steps),
    _shape("messages", _is_whole, _from_turns("completion")),
    _shape("prompt-completion", has("prompt", "completion"), _from_columns("prompt", "completion")),
    _shape("templated text", _written_out(*TEMPLATES), _from_text),
    _shape("Guanaco text", _written_out("Guanaco"), _from_text),
    _shape("transcript", _written_out("transcript"), _from_text),
    _shape("alpaca", lambda r: _names(r) in (("instruction", "output"), ("input", "output")), _from_names),
    _shape("Dolly", _is_dolly, _from_names),
    _shape("query-response", lambda record: _names(record) is not None, _from_names),
)
