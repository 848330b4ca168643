"""Several answers to one prompt, scored or ranked, become preference pairs.

Whatever the source's words, a record is first brought to `{"prompt", "candidates": [{"text", "score"? , "rank"?}]}`.
Which of the candidates are paired is a matter of Reading.pairs_by; a tie makes no pair. The margin of a pair is the
difference of the two scores, or of the two ranks. Tables with one answer in each row are gathered by prompt first.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import combinations, islice, pairwise
from typing import Any

from playground.data.pair_shapes import PAIR_SHAPES
from playground.data.pairs import Pair, number_in, pair
from playground.data.records import RawRow, has_objects
from playground.data.shapes import SYSTEMS, Reading, Record, RowError, Shape, column, filled, first, is_blank
from playground.data.votes import TIE, need_prompt, question

MOST_PAIRS = 30  # of one prompt; all pairs of 8 answers are 28, and they grow with the square
# HelpSteer's attributes with its paper's weights: of two answers that are alike, the shorter one is the better.
HELPSTEER = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.4}
TEXTS = ("text", "response", "answer", "completion", "output", "content", "generation")
SCORES = ("score", "rating", "reward", "overall_score")
LISTS = ("responses", "answers", "completions", "generations", "outputs", "candidates")
SCORE_LISTS = ("scores", "ratings", "rewards", "ranks")
PAIRED: dict[str, Callable[[list[Any]], Iterable[tuple[Any, Any]]]] = {
    "best-worst": lambda ordered: [(ordered[0], ordered[-1])],
    "adjacent": pairwise,
    "all": lambda ordered: combinations(ordered, 2),
}


def pairs_of(number: int, record: Record, reading: Reading) -> list[Pair]:
    """The pairs of a canonical record, best answers first, or RowError with the reason why there are none."""
    need_prompt(record["prompt"], (candidate["text"] for candidate in record["candidates"]))
    found: list[Pair] = []
    problem = RowError(f"no two answers' scores are {reading.min_margin:g} or more apart")
    for better, worse, margin in _couples(record["candidates"], reading):
        if margin <= 0 or margin < reading.min_margin:
            continue
        sides = {"chosen": better["text"], "rejected": worse["text"], "margin": margin}
        try:
            made = pair(number, record | sides)
        except RowError as error:  # one bad answer costs only its own pairs
            problem = error
            continue
        shared = found and made.prompt == found[0].prompt  # a long prompt is kept once, not once a pair
        found.append(replace(made, prompt=found[0].prompt) if shared else made)
    if not found:
        raise problem
    return found


def _couples(candidates: list[Record], reading: Reading) -> list[tuple[Record, Record, float]]:
    """(better, worse, margin) of the candidates that are to be compared."""
    valued = [(value, candidate) for candidate in candidates if (value := _value(candidate)) is not None]
    if len(valued) < 2:
        raise RowError("fewer than two answers with a score or a rank")
    ordered = sorted(valued, key=lambda item: -item[0])
    if ordered[0][0] == ordered[-1][0]:
        raise RowError(TIE)
    couples = list(islice(PAIRED[reading.pairs_by](ordered), MOST_PAIRS + 1))
    if len(couples) > MOST_PAIRS:
        raise RowError(f"more than {MOST_PAIRS} pairs from one prompt; pair only its best answer with its worst")
    return [(better, worse, round(high - low, 6)) for (high, better), (low, worse) in couples]


def _value(candidate: Record) -> float | None:
    """How good a candidate is: its score, else its rank, of which 1 is the best."""
    score = number_in(candidate.get("score"), "a score")
    rank = number_in(candidate.get("rank"), "a rank")
    return score if score is not None else -rank if rank is not None else None


def _shape(name: str, fits: Callable[[Record], bool], canonical: Callable[[Record], Record]) -> Shape:
    return Shape(name, "preference", fits, lambda number, record, reading: pairs_of(number, canonical(record), reading))


def _with(record: Record, candidates: list[Record]) -> Record:
    found = {"prompt": question(record), "candidates": candidates}
    return found | {name: record[name] for name in SYSTEMS if name in record}


# ---- one record, several answers


def _listed(record: Record) -> str | None:
    return next((name for name in LISTS if has_objects(record.get(name))), None)


def _is_listed(record: Record) -> bool:
    """True for a list of objects with a text and a score or rank each."""
    name = _listed(record)
    return name is not None and all(
        column(item, TEXTS) is not None and column(item, (*SCORES, "rank")) is not None for item in record[name]
    )


def _from_listed(record: Record) -> Record:
    name = _listed(record)
    assert name
    return _with(record, [_candidate(item) for item in record[name]])


def _candidate(item: Record) -> Record:
    return {"text": first(item, *TEXTS), "score": first(item, *SCORES), "rank": item.get("rank")}


def _each_has(name: str, *fields: str) -> Callable[[Record], bool]:
    """A test for records that hold a list of objects, each with all of these fields."""
    wanted = set(fields)
    return lambda record: has_objects(record.get(name)) and all(wanted <= item.keys() for item in record[name])


def _from_ultrafeedback(record: Record) -> Record:
    """The ratings of the aspects are averaged; the overall score stands in where there are none."""
    candidates = []
    for item in record["completions"]:
        mean = _mean_rating(item["annotations"])
        score = item.get("overall_score") if mean is None else mean
        candidates.append({"text": item["response"], "score": score})
    return _with(record, candidates)


def _mean_rating(annotations: Any) -> float | None:
    """The mean of the aspects that were rated; "N/A" is no rating."""
    ratings = []
    for aspect in annotations.values() if isinstance(annotations, dict) else ():
        with suppress(RowError):
            ratings.append(number_in(aspect.get("Rating") if isinstance(aspect, dict) else None, "a rating"))
    known = [rating for rating in ratings if rating is not None]
    return round(sum(known) / len(known), 6) if known else None


def _parallel(record: Record) -> tuple[str, str] | None:
    """The columns with a list of texts and a list of their scores."""
    texts = next((name for name in LISTS if isinstance(record.get(name), list)), None)
    scores = next((name for name in SCORE_LISTS if isinstance(record.get(name), list)), None)
    return (texts, scores) if texts and scores else None


def _from_parallel(record: Record) -> Record:
    found = _parallel(record)
    assert found
    texts, values = (record[name] for name in found)
    if len(texts) != len(values):
        raise RowError(f"{len(texts)} answers but {len(values)} in '{found[1]}'")
    field = "rank" if found[1] == "ranks" else "score"
    return _with(record, [{"text": text, field: value} for text, value in zip(texts, values, strict=True)])


RANK_SHAPES = (
    _shape("UltraFeedback", _each_has("completions", "response", "annotations"), _from_ultrafeedback),
    _shape("Nectar", _each_has("answers", "answer", "rank"), _from_listed),
    _shape("scored answers", _is_listed, _from_listed),
    _shape("scored answers", lambda record: _parallel(record) is not None, _from_parallel),
)

# ---- one answer in each row


def gathered(raw: list[RawRow]) -> list[RawRow]:
    """One record for each prompt of a table that has a scored answer in each row; any other table as it is.

    A record bears the number of its first row and stands in that row's place.
    """
    found = {item.row: answer for item in raw if item.value and (answer := _scored_answer(filled(item.value)))}
    prompts = Counter(prompt for prompt, _ in found.values())
    shared = sum(times for times in prompts.values() if times > 1)
    if shared * 2 <= sum(item.value is not None for item in raw):
        return raw
    records: dict[str, RawRow] = {}
    kept = []
    for item in raw:
        if item.row not in found:
            kept.append(item)
            continue
        prompt, candidate = found[item.row]
        if prompt not in records:
            assert item.value
            records[prompt] = RawRow(item.row, _with(item.value, []), None)
            kept.append(records[prompt])
        value = records[prompt].value
        assert value
        value["candidates"].append(candidate)
    return kept


def _scored_answer(record: Record) -> tuple[str, Record] | None:
    """(prompt, candidate) of a row with one answer and a number that says how good it is."""
    text = column(record, ("response", "answer", "completion", "output", "text"))
    try:
        asked, (field, value) = question(record), _score(record)
    except RowError:  # a word in a column of numbers: thumbs, or something else
        return None
    if text is None or is_blank(asked) or value is None or any(shape.fits(record) for shape in PAIR_SHAPES):
        return None
    return repr(asked), {"text": record[text], field: value}


def _score(record: Record) -> tuple[str, float | None]:
    """("score" or "rank", its value) of a row."""
    if set(HELPSTEER) <= record.keys():
        values = [(number_in(record[name], name), weight) for name, weight in HELPSTEER.items()]
        known = [value * weight for value, weight in values if value is not None]
        return "score", round(sum(known), 6) if len(known) == len(values) else None
    name = column(record, (*SCORES, "rank"))
    return "rank" if name == "rank" else "score", number_in(record[name], name) if name else None
