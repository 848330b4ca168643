"""Two answers and a verdict: votes, preference strengths and scores of many tools and sets as preference pairs.

A verdict is the place of the better answer (0 or 1), with the margin where it has one. A tie, a vote that both are bad
and a verdict that names neither answer make no pair; RowError says which of these it was.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from playground.data.conversations import ABOUT, joined
from playground.data.pairs import STEERED, is_transcript, number_in, pair_shape
from playground.data.records import RawRow, has_objects, shown
from playground.data.shapes import Reading, Record, RowError, column, filled, fitting, has, is_blank, number_of, text_of

PROMPTS = ("prompt", "question", "instruction", "input", "query", "input_text", "context", "history", "post")
ANSWERS = ("response", "answer", "text", "output", "completion", "conversation", "summary", "candidate", "option")
MARKS = (("a", "b"), ("0", "1"), ("1", "2"))
TWO = [  # names of two columns that hold answers, with what tells the two apart
    (f"{stem}{gap}{marks[0]}", f"{stem}{gap}{marks[1]}", marks)
    for stem in ANSWERS
    for gap in ("_", "")
    for marks in MARKS
]
VERDICTS = (
    *("winner", "preferred", "preference", "choice", "better", "best", "label", "chosen", "vote", "verdict"),
    *("preferred_text", "preferred_response", "preferred_answer", "better_response", "better_response_id"),
)

WINNER = "two answers and a winner"
FIRST, SECOND = {"left", "leftvote", "first"}, {"right", "rightvote", "second"}
TIES = {"tie", "tievote", "draw", "equal", "same", "both", "both good"}
BOTH_BAD = {"tie bothbad", "tie both bad", "both bad", "bothbad", "bothbad vote", "neither", "none"}
NOUNS = {*ANSWERS, "model", "assistant", "id"}  # "model_a", "text_b", "response_1"
TIE = "a tie: neither answer was preferred"
_SIGNED = re.compile(r"\s*[-\u2212\u2013]\s*\d")  # -1, with a hyphen, a minus sign or a dash
STRENGTH = " on a scale"  # behind a number that tells how much better an answer is, not which one


def named(value: Any, marks: tuple[str, str], record: Record) -> int:
    """The place of the answer that a word names: its letter or number, its column, or its model."""
    if is_blank(value):
        raise RowError("no winner is named")
    models = [record.get(f"model_{mark}") for mark in marks]
    if models.count(value) == 1:
        return models.index(value)
    if _SIGNED.match(str(value)):
        raise RowError(f"the winner is '{shown(str(value))[:30]}': a number below 0 names neither answer")
    *nouns, mark = re.findall("[a-z]+|[0-9]+", str(value).casefold().removesuffix(".0")) or [""]
    word = " ".join([*nouns, mark])
    if word in BOTH_BAD:
        raise RowError("both answers were judged bad: neither was preferred")
    if word in TIES:
        raise RowError(TIE)
    if word in FIRST | SECOND:
        return int(word in SECOND)
    if mark not in marks or not NOUNS.issuperset(nouns):
        raise RowError(f"the winner is '{shown(str(value))[:30]}', which names neither answer")
    return marks.index(mark)


def higher(first: float | None, second: float | None) -> tuple[int, float]:
    """(place of the higher one, the difference between the two)."""
    if first is None or second is None:
        raise RowError("no score to compare the answers by")
    if first == second:
        raise RowError(TIE)
    return int(second > first), round(abs(first - second), 6)


def decided(record: Record, prompt: Any, answers: tuple[Any, Any], better: int, margin: float | None = None) -> Record:
    """Prompt, chosen and rejected, once it is known which of two answers is the better one."""
    need_prompt(prompt, answers)
    found = record | {"prompt": prompt, "chosen": answers[better], "rejected": answers[1 - better]}
    return found if margin is None else found | {"margin": margin}


def need_prompt(prompt: Any, answers: Iterable[Any]) -> None:
    """RowError where answers stand alone: that they begin alike ("I think …") doesn't make a prompt of it."""
    if is_blank(prompt) and any(isinstance(answer, str) and not is_transcript(answer) for answer in answers):
        raise RowError("no prompt: there are answers, but nothing that was asked")


def question(record: Record) -> Any:
    """What was asked, under whichever name, with what it is about."""
    name = column(record, PROMPTS)
    return asked_about(record, name) if name else None


def asked_about(record: Record, name: str) -> Any:
    """What a column asks, and under it the texts that it is about, where these stand in columns of their own."""
    asked = record[name]
    if not isinstance(asked, str) or is_transcript(asked) or STEERED.search(asked):
        return asked
    texts = {
        other: record[other] for other in ABOUT if other != name and isinstance(record.get(other), str | int | float)
    }
    return joined(record, name, *(other for other, text in texts.items() if str(text).strip() not in asked))


# ---- any two answers


def _two(record: Record) -> tuple[str, str, tuple[str, str]] | None:
    return next((found for found in TWO if found[0] in record and found[1] in record), None)


def _scores(record: Record, marks: tuple[str, str]) -> list[str]:
    """The columns with the two answers' scores, if there are any."""
    pairs = ([f"{stem}{mark}" for mark in marks] for stem in ("score_", "score", "rating_", "rating"))
    return next((names for names in pairs if set(names) <= record.keys()), [])


def _is_voted(record: Record) -> bool:
    return column(record, VERDICTS) is not None and _two(record) is not None


def _is_scored(record: Record) -> bool:
    two = _two(record)
    return two is not None and bool(_scores(record, two[2]))


def _voted(record: Record, _: Reading) -> Record:
    two, verdict = _two(record), column(record, VERDICTS)
    assert two and verdict
    better = named(record[verdict], two[2], record)
    return decided(record, question(record), (record[two[0]], record[two[1]]), better)


def _scored(record: Record, _: Reading) -> Record:
    two = _two(record)
    assert two
    first, second = (number_in(record[name], f"'{name}'") for name in _scores(record, two[2]))
    return decided(record, question(record), (record[two[0]], record[two[1]]), *higher(first, second))


# ---- a table's numbers

Numbers = dict[tuple[str, str, str], dict[int, float]]  # (first answer, second one, verdict): index → number


def numbered(raw: list[RawRow]) -> tuple[list[RawRow], list[str]]:
    """(the rows, what the report should tell): only a whole column shows what a number in it means.

    Beside response_1 and response_2, 1 is the second answer where the column counts from 0, and no answer at all where
    it goes from -2 to 2.
    """
    rows, notes = list(raw), []
    for (first, second, name), numbers in _numbers(raw).items():
        found, low, high = set(numbers.values()), min(numbers.values()), max(numbers.values())
        marks = int(first[-1]), int(second[-1])
        if found <= {*marks}:
            continue
        if found <= {0, 1} or found <= {1, 2}:
            counted = (0, 1) if 0 in found else (1, 2)
            notes.append(
                f"'{name}' counts from {counted[0]}, so {counted[0]} is '{first}' and {counted[1]} '{second}'."
            )
            said = {index: str(marks[int(number) - counted[0]]) for index, number in numbers.items()}
        elif found <= {0, 1, 2}:  # a tie is written as 0 in some sets
            continue
        else:
            held = f"goes from {low:g} to {high:g}" if low < high else f"holds {low:g}"
            notes.append(f"'{name}' {held}: no numbers of answers, so it names no better one.")
            said = {index: f"{number:g}{STRENGTH}" for index, number in numbers.items()}
        for index, word in said.items():
            rows[index] = replace(rows[index], value={**(rows[index].value or {}), name: word})
    return rows, notes


def _numbers(raw: list[RawRow]) -> Numbers:
    """The numbers that stand beside two numbered answers as a verdict, column by column."""
    found: Numbers = {}
    for index, item in enumerate(raw):
        record = item.value or {}
        two, verdict = _two(record), column(filled(record), VERDICTS)
        if not two or not verdict or two[2] == ("a", "b"):
            continue
        shape = fitting(VOTE_SHAPES, filled(record))
        number = None if isinstance(record[verdict], bool) else number_of(record[verdict])
        named_model = record[verdict] in [record.get(f"model_{mark}") for mark in two[2]]
        if shape and shape.name == WINNER and number is not None and not named_model:
            found.setdefault((two[0], two[1], verdict), {})[index] = number
    return found


# ---- tools


def _is_fastchat(record: Record) -> bool:
    return "type" in record and has_objects(record.get("states")) and len(record["states"]) == 2


def _fastchat(record: Record, _: Reading) -> Record:
    """A line of an arena's log. The systems' own instructions differ from model to model, so they are left out."""
    better = named(record["type"], ("a", "b"), {})
    first, second = (_fastchat_turns(state) for state in record["states"])
    return decided({}, None, (first, second), better)


def _fastchat_turns(state: Record) -> list[Record]:
    turns, roles = state.get("messages"), state.get("roles")
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise RowError("the messages of a vote are not [role, text] pairs")
    asks = roles[0] if isinstance(roles, list) and roles else "user"
    examples = state.get("offset")  # so many turns in front were written by the arena
    turns = turns[examples:] if isinstance(examples, int) and examples > 0 else turns
    return [{"role": "user" if role == asks else "assistant", "content": text} for role, text in turns]


def _is_annotated(record: Record) -> bool:
    sides = (record.get("response_a"), record.get("response_b"))
    return isinstance(record.get("annotations"), dict) and all(isinstance(side, dict) for side in sides)


def _annotated(record: Record, _: Reading) -> Record:
    """ICAI's annotated pairs; of the annotators, the first is the one whom the file calls its default."""
    opinion = next(iter(record["annotations"].values()), None)
    better = named(opinion.get("pref") if isinstance(opinion, dict) else None, ("a", "b"), {})
    texts = (record["response_a"].get("text"), record["response_b"].get("text"))
    return decided(record, record.get("prompt"), texts, better)


def _compared(record: Record, _: Reading) -> Record:
    """LLM Comparator's score is above 0 where the first answer is the better one."""
    verdict = higher(number_in(record["score"], "the score"), 0.0)
    return decided(record, record["input_text"], (record["output_text_a"], record["output_text_b"]), *verdict)


def _battle(record: Record, _: Reading) -> Record:
    """Chatbot Arena's table: each cell is a list with one text for every turn, often spelled as JSON."""
    flags = [number_in(record[f"winner_{name}"], f"'winner_{name}'") or 0 for name in ("model_a", "model_b")]
    asked, *answers = (_texts(record[name], name) for name in ("prompt", "response_a", "response_b"))
    if {len(asked)} != {len(texts) for texts in answers}:
        raise RowError("the answers have not as many turns as the prompt")
    talks = [[turn for two in zip(asked, texts, strict=True) for turn in _exchange(*two)] for texts in answers]
    return decided(record, None, (talks[0], talks[1]), higher(*flags)[0])


def _texts(value: Any, name: str) -> list[Any]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError(f"'{name}' is not a list of texts") from None
    return value if isinstance(value, list) else [value]


def _exchange(asked: Any, answer: Any) -> list[Record]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


# ---- public sets


def _pku(record: Record, reading: Reading) -> Record:
    """Two votes: which answer helps more, and which one does less harm."""
    names = ("safer_response_id", "better_response_id")
    name = next(name for name in (names if reading.better == "safe" else names[::-1]) if name in record)
    better = named(record[name], ("0", "1"), {})
    return decided(record, record["prompt"], (record["response_0"], record["response_1"]), better)


def _helpsteer2(record: Record, _: Reading) -> Record:
    """The strength is below 0 where the first answer is the better one."""
    verdict = higher(0.0, number_in(record["preference_strength"], "the preference's strength"))
    return decided(record, record.get("prompt"), (record["response_1"], record["response_2"]), *verdict)


def _helpsteer3(record: Record, _: Reading) -> Record:
    """The preference is below 0 where the first answer is the better one."""
    verdict = higher(0.0, number_in(record["overall_preference"], "the preference"))
    return decided(record, record.get("context"), (record["response1"], record["response2"]), *verdict)


def _is_webgpt(record: Record) -> bool:
    return isinstance(record.get("question"), dict) and has("answer_0", "answer_1", "score_0", "score_1")(record)


def _webgpt(record: Record, reading: Reading) -> Record:
    return _scored(record | {"question": record["question"].get("full_text")}, reading)


def _shp(record: Record, _: Reading) -> Record:
    """1 says that A got more votes."""
    label = number_in(record["labels"], "'labels'")
    if label not in (0, 1):
        raise RowError("'labels' is neither 0 nor 1, so no answer is preferred")
    return decided(record, record["history"], (record["human_ref_A"], record["human_ref_B"]), int(label == 0))


def _is_summaries(record: Record) -> bool:
    return isinstance(record.get("info"), dict) and has_objects(record.get("summaries")) and "choice" in record


def _summaries(record: Record, _: Reading) -> Record:
    """OpenAI's summaries; the prompt asks in the words of its authors."""
    if len(record["summaries"]) != 2:
        raise RowError("not two summaries to choose from")
    info = record["info"]
    labels = {"subreddit": "SUBREDDIT: r/", "title": "TITLE: ", "post": "POST: ", "article": ""}
    parts = [label + text_of(info[name], f"'{name}'") for name, label in labels.items() if not is_blank(info.get(name))]
    first, second = (summary.get("text") for summary in record["summaries"])
    better = named(record["choice"], ("0", "1"), {})
    return decided(record, "\n".join([*parts, "TL;DR:"]), (first, second), better)


def _is_tokens(record: Record) -> bool:
    return isinstance(record.get("query"), list) and has("sample0", "sample1", "best")(record)


def _unreadable(_: Record, __: Reading) -> Record:
    raise RowError("prompt and answers are numbers of GPT-2's tokens; bring the set decoded to text")


VOTE_SHAPES = (
    pair_shape("FastChat votes", _is_fastchat, _fastchat),
    pair_shape("ICAI annotated pairs", _is_annotated, _annotated),
    pair_shape("LLM Comparator", has("input_text", "output_text_a", "output_text_b", "score"), _compared),
    pair_shape(
        "Chatbot Arena table", has("response_a", "response_b", "winner_model_a", "winner_model_b", "prompt"), _battle
    ),
    pair_shape("Chatbot Arena", has("conversation_a", "conversation_b", "winner"), _voted),
    pair_shape("PKU-SafeRLHF", has("prompt", "response_0", "response_1", "better_response_id"), _pku),
    pair_shape("PKU-SafeRLHF", has("prompt", "response_0", "response_1", "safer_response_id"), _pku),
    pair_shape("HelpSteer2-Preference", has("response_1", "response_2", "preference_strength"), _helpsteer2),
    pair_shape("HelpSteer3", has("response1", "response2", "overall_preference"), _helpsteer3),
    pair_shape("WebGPT", _is_webgpt, _webgpt),
    pair_shape("SHP", has("history", "human_ref_A", "human_ref_B", "labels"), _shp),
    pair_shape("summaries with a choice", _is_summaries, _summaries),
    pair_shape("lm-human-preferences", _is_tokens, _unreadable),
    pair_shape("ICAI", has("text_a", "text_b", "preferred_text"), _voted),
    pair_shape(WINNER, _is_voted, _voted),
    pair_shape("two answers and their scores", _is_scored, _scored),
)
