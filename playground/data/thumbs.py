"""Thumbs: a prompt, one answer, and whether somebody liked it (what KTO learns from).

The normal form is TRL's unpaired preference, `{"prompt": [messages], "completion": [answer], "label": true}`. Words and
numbers become thumbs for a whole table at once, because only the table shows what a number means: 1 is up among 0 and
1, down among 1 to 5, and nothing but a class among 0 to 9 in a column called `label`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from playground.data.conversations import SFT_SHAPES, TALKS
from playground.data.records import RawRow, shown
from playground.data.shapes import (
    MOST_MESSAGES,
    Message,
    Reading,
    Record,
    Row,
    RowError,
    Shape,
    clean,
    column,
    filled,
    fitting,
    is_blank,
    is_turns,
    number_of,
    turns_of,
)

LABELS = ("label", "kto_tag")  # in many sets, a number in these is a class
RATINGS = ("liked", "thumbs", "thumb", "feedback", "rating")
COLUMNS = (*LABELS, *RATINGS)
UP = {"true", "1", "1.0", "yes", "good", "up", "thumbs up", "like", "liked", "chosen", "desirable", "👍"}
DOWN = {"false", "0", "0.0", "no", "bad", "down", "thumbs down", "dislike", "disliked", "rejected", "undesirable", "👎"}
_COLOURS = dict.fromkeys([*range(0x1F3FB, 0x1F400), 0xFE0F])  # a thumb's colour says nothing

DISLIKED = "a thumbs-down answer, which is not to be imitated"
ALONE = "no answer to the same prompt has the other thumb, so there is nothing to compare"


@dataclass(frozen=True)
class Thumb:
    """A prompt with one answer that somebody liked or did not; `row` is its number in the file."""

    row: int
    prompt: list[Message]
    answer: str
    good: bool
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> list[Message]:
        """The conversation up to the answer."""
        return self.prompt

    @property
    def messages(self) -> list[Message]:
        """The prompt with the answer."""
        return [*self.prompt, {"role": "assistant", "content": self.answer}]

    @property
    def content(self) -> Any:
        """What a dataset's hash is made of."""
        return [self.prompt, self.answer, self.good]

    def as_json(self) -> Record:
        """The thumb as it is stored, in the form that TRL reads."""
        found: Record = {"prompt": self.prompt, "completion": self.messages[-1:], "label": self.good}
        return found | ({"notes": self.notes} if self.notes else {})


def thumb_of(value: Any) -> bool | None:
    """What a word says, None if it is no such word."""
    if isinstance(value, bool):
        return value
    word = (
        str(value).strip().lower().replace("_", " ").translate(_COLOURS) if isinstance(value, str | int | float) else ""
    )
    return True if word in UP else False if word in DOWN else None


# ---- a table's ratings


Verdict = Callable[[Any], bool | None]
Scale = tuple[float, float]


class Judged(NamedTuple):
    """A table whose ratings are thumbs: true or false in the column where it had words or numbers.

    notes: what the report should tell; scale: the lowest and the highest rating, where numbers were cut in two.
    """

    rows: list[RawRow]
    notes: list[str]
    scale: Scale | None


def judged(raw: list[RawRow], reading: Reading) -> Judged:
    """Turns what rows say of their answers into thumbs, by all that the table shows in that column."""
    rows, notes, scale = list(raw), [], None
    rated = {index: item.value for index, item in enumerate(raw) if item.value and column(item.value, COLUMNS)}
    rated = {index: record for index, record in rated.items() if _conversation(record)}
    for name in COLUMNS:
        values = {index: record[name] for index, record in rated.items() if name in record}
        told = [value for value in values.values() if not is_blank(value)]
        judge, found = _judge(name, told, reading)
        if told and judge is None:
            notes.append(f"'{name}' holds {_examples(told)}; these are no thumbs, so it is not used.")
        if found:
            scale = found
            notes.append(_cut_in_two(name, found, reading))
        for index, value in values.items():
            rows[index] = _thumbed(rows[index], name, value, judge)
            if judge:
                del rated[index]
    return Judged(_opposed(rows, reading) if reading.kind == "preference" else rows, notes, scale)


def _conversation(record: Record) -> tuple[Shape, Record] | None:
    """(shape, record as it fits) of a record with one answer; beside two of them, a label means something else."""
    full = filled(record)
    if any(name.startswith(("chosen", "rejected")) for name in full):
        return None
    return next(((shape, seen) for seen in (full, record) if (shape := fitting(SFT_SHAPES, seen))), None)


def _judge(name: str, told: list[Any], reading: Reading) -> tuple[Verdict | None, Scale | None]:
    """(what a value of this column says, None if the column says nothing; the scale that was cut in two)."""
    if told and all(thumb_of(value) is not None for value in told):
        return thumb_of, None
    known = {number_of(value) for value in told}
    if None not in known and known <= {-1, 0, 1}:
        return _sign, None
    insists = reading.good_from is not None or "label" in reading.columns
    if None not in known and known and (insists or name not in LABELS):
        numbers = [number for number in known if number is not None]
        low, high = min(numbers), max(numbers)
        return _at_least(_start((low, high), reading)), (low, high)
    words = sum(isinstance(value, str) and thumb_of(value) is not None for value in told)
    return (thumb_of if words * 2 > len(told) else None), None


def _start(scale: Scale, reading: Reading) -> float:
    """The lowest rating that is a thumb up."""
    return sum(scale) / 2 if reading.good_from is None else reading.good_from


def _cut_in_two(name: str, scale: Scale, reading: Reading) -> str:
    start = _start(scale, reading)
    return f"'{name}' goes from {scale[0]:g} to {scale[1]:g}; {start:g} and more counts as a thumb up."


def _sign(value: Any) -> bool | None:
    """-1 is down, 1 is up, and 0 says nothing."""
    number = number_of(value)
    return number > 0 if number else None


def _at_least(start: float) -> Verdict:
    def verdict(value: Any) -> bool | None:
        number = number_of(value)
        return None if number is None else number >= start

    return verdict


def _examples(values: Iterable[Any]) -> str:
    """A few different values, in words."""
    different = list(dict.fromkeys(shown(str(value))[:20] for value in values))
    return ", ".join(different[:4]) + (f" and {len(different) - 4} more" if len(different) > 4 else "")


def _thumbed(item: RawRow, name: str, value: Any, judge: Verdict | None) -> RawRow:
    """A row with a thumb in its column, or without that column where it is none."""
    record = item.value or {}
    if judge is None:
        return replace(item, value={key: other for key, other in record.items() if key != name})
    if is_blank(value):
        return replace(item, value=None, problem=f"'{name}' is empty, so nobody said whether the answer is good")
    good = judge(value)
    if good is None:
        return RawRow(item.row, None, f"'{name}' is {shown(str(value))[:20]}, which is neither up nor down")
    return replace(item, value={**record, name: good})


def _opposed(rows: list[RawRow], reading: Reading) -> list[RawRow]:
    """Pairs instead of thumbs: each good answer beside a bad one to the same prompt, as long as there are both."""
    found: list[RawRow] = []
    groups: dict[str, dict[bool, list[Thumb]]] = {}
    for item in rows:
        shape = fitting(THUMB_SHAPES, item.value) if item.value else None
        if shape is None:
            found.append(item)
            continue
        try:
            thumbs = shape.convert(item.row, item.value or {}, reading)
        except RowError as error:
            found.append(RawRow(item.row, None, str(error)))
            continue
        for thumb in thumbs:
            groups.setdefault(repr(thumb.prompt), {True: [], False: []})[thumb.good].append(thumb)
    alone: set[int] = set()
    for sides in groups.values():
        both = min(map(len, sides.values()))
        for good, bad in zip(sides[True], sides[False], strict=False):
            pair = {"prompt": good.prompt, "chosen": good.messages[-1:], "rejected": bad.messages[-1:]}
            found.append(RawRow(good.row, pair, None))
        alone.update(thumb.row for thumbs in sides.values() for thumb in thumbs[both:])
    found += [RawRow(row, None, ALONE) for row in alone]
    return sorted(found, key=lambda item: item.row)


# ---- shapes


def _verdict(record: Record) -> bool | None:
    """The thumb that stands beside a record's answer."""
    name = column(record, COLUMNS)
    return thumb_of(record[name]) if name else None


def _is_thumb(*names: str) -> Callable[[Record], bool]:
    """The question whether a record has one answer and a thumb, and one of these columns."""

    def fits(record: Record) -> bool:
        return column(record, names) is not None and _verdict(record) is not None and _conversation(record) is not None

    return fits


def _thumb(number: int, record: Record, reading: Reading) -> list[Thumb]:
    found = _conversation(record)
    if found is None:
        raise RowError("no answer stands beside the thumb")
    shape, seen = found
    rows = shape.convert(number, seen, reading)
    return [Thumb(number, row.asked, row.messages[-1]["content"], bool(_verdict(record)), row.notes) for row in rows]


def _talk(record: Record) -> str | None:
    """The column of turns of which some are rated (FeeL)."""
    found = (name for name in TALKS if is_turns(record.get(name)))
    return next((n for n in found if any(isinstance(t, dict) and t.get("rating") is not None for t in record[n])), None)


def _rated_turns(number: int, record: Record, reading: Reading) -> list[Thumb]:
    """A thumb for every answer of a conversation that somebody rated."""
    name, start = str(_talk(record)), reading.good_from
    turns = record[name]
    if len(turns) > MOST_MESSAGES:
        raise RowError(f"more than {MOST_MESSAGES} messages in one conversation")
    found: list[Thumb] = []
    said: list[Message] = []
    for turn in turns:
        said += turns_of([turn], name)
        rating = number_of(turn.get("rating"))
        if said[-1]["role"] == "assistant" and rating is not None and (rating != 0 or start is not None):
            messages = clean(said)
            good = rating > 0 if start is None else rating >= start
            found.append(Thumb(number, messages[:-1], messages[-1]["content"], good))
    if not found:
        raise RowError("no answer of this conversation is rated")
    return found


def _liked(convert: Callable[[int, Record, Reading], list[Thumb]]) -> Callable[[int, Record, Reading], list[Row]]:
    """Conversations that end with an answer that somebody liked."""

    def rows(number: int, record: Record, reading: Reading) -> list[Row]:
        good = [thumb for thumb in convert(number, record, reading) if thumb.good]
        if not good:
            raise RowError(DISLIKED)
        return [Row(number, thumb.messages, thumb.notes) for thumb in good]

    return rows


THUMB_SHAPES = (
    Shape("FeeL", "thumbs", lambda record: _talk(record) is not None, _rated_turns),
    Shape("KTO", "thumbs", _is_thumb("label"), _thumb),
    Shape("LlamaFactory KTO", "thumbs", _is_thumb("kto_tag"), _thumb),
    Shape("rating", "thumbs", _is_thumb(*COLUMNS), _thumb),
)
LIKED_SHAPES = (
    Shape("FeeL", "sft", lambda record: _talk(record) is not None, _liked(_rated_turns)),
    Shape("thumbs", "sft", _is_thumb(*COLUMNS), _liked(_thumb)),
)
