"""The judge: a language model that is asked which of two answers is better under each principle of a constitution.

Nothing it writes is parsed. It is shown the answers and the choice between two words, each a single token, and the
log-probabilities of those words are read where it would begin to speak (Bai et al. 2022, section 4; Lee et al. 2023).

**pairwise**: "A or B?", asked in both orders. With l the log-prob of the first answer's letter less the second's,
m = (l of order 1 − l of order 2)/2. Whatever the judge adds to a letter or to a place, it adds in both orders, and it
cancels. For the same reason a contextual calibration (letter logits of empty answers, subtracted) would change nothing
here, and is not made. **pointwise**: "yes or no?" of each answer alone; m is the difference of the two yes-logits, in
which a habit of saying yes cancels likewise. Several principles: the weighted mean of their m, and p = σ(m).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from playground.data.rendering import Message, Renderer, RenderError

if TYPE_CHECKING:
    from playground.stages.writing import Writer

METHODS = ("pairwise", "pointwise")
KEEPS = "The rule is: {}. Does the answer keep to it?"  # a title says what is good; a comparison needs two answers
ROWS = 8  # requests in one forward pass where each has its own beginning


class Format(NamedTuple):
    """The two words that the judge chooses between, and what its turn begins with before it says one of them."""

    lead: str
    words: tuple[str, str]


# "_" stands for a space: many vocabularies have a letter with a space in front as a token of its own.
FORMATS = {
    "pairwise": {
        "A/B": Format("", ("A", "B")),
        "_A/_B": Format("Answer:", (" A", " B")),
        "1/2": Format("", ("1", "2")),
        "_1/_2": Format("Answer:", (" 1", " 2")),
    },
    "pointwise": {
        "Yes/No": Format("", ("Yes", "No")),
        "_Yes/_No": Format("Answer:", (" Yes", " No")),
        "yes/no": Format("", ("yes", "no")),
        "_yes/_no": Format("Answer:", (" yes", " no")),
    },
}


class Question(NamedTuple):
    """One principle as it is put to the judge."""

    title: str
    text: str
    weight: float


class Pair(NamedTuple):
    """Two answers to one prompt, neither of them known to be the better."""

    prompt: list[Message]
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a pair.

    p: the probability that the first answer is the better one. logits: m of each principle. readings: the weighted
    means of what was read: of both orders (positive: the first place wins), or of both answers (positive: yes).
    consistent: the same answer wins in both orders. first: share of the orders won by the first place; None: pointwise.
    """

    p: float
    logits: tuple[float, ...]
    readings: tuple[float, float]
    consistent: bool
    first: float | None


# --- combining what was read: no model here


def probability(m: float) -> float:
    """σ(m), so that p(−m) is 1 − p(m) to the last bit: 1 − q is exact for q from ½ to 1."""
    sure = 1 / (1 + math.exp(-abs(m)))
    return sure if m >= 0 else 1 - sure


def weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted mean of logits; its sign turns with theirs, bit for bit."""
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def combine(method: str, one: Sequence[float], two: Sequence[float], weights: Sequence[float]) -> Verdict:
    """The verdict from what was read under each principle, in nats.

    pairwise: log-prob of the first place's letter less the second's, `one` with the first answer in front, `two` with
    the second. pointwise: log-prob of yes less no's, `one` of the first answer, `two` of the second.
    """
    readings = (weighted(one, weights), weighted(two, weights))
    share = 2 if method == "pairwise" else 1
    logits = tuple((a - b) / share for a, b in zip(one, two, strict=True))
    p = probability(weighted(logits, weights))
    if method == "pointwise":
        return Verdict(p, logits, readings, True, None)
    return Verdict(p, logits, readings, readings[0] * readings[1] < 0, sum(r > 0 for r in readings) / 2)


# --- what the judge is asked


def questions(principles: Sequence[dict[str, Any]], method: str) -> list[Question]:
    """The principles that are switched on, in the words of a method; of a request's constitution."""
    active = [p for p in principles if p["enabled"] and p["weight"] > 0]
    if method == "pairwise":
        return [Question(p["title"], p["comparison"], p["weight"]) for p in active]
    return [Question(p["title"], KEEPS.format(p["title"]), p["weight"]) for p in active]


def pairwise_request(pair: Pair, question: Question, names: tuple[str, str]) -> list[Message]:
    """The question comes last, so that what stands before it is computed once for all principles."""
    first, second = (name.strip() for name in names)
    text = (
        f"A user asked: {_told(pair.prompt)}\n\nAnswer {first}: {pair.first}\n\nAnswer {second}: {pair.second}\n\n"
        f"{question.text} Reply with {first} or {second} only."
    )
    return [{"role": "user", "content": text}]


def pointwise_request(prompt: list[Message], answer: str, question: Question, names: tuple[str, str]) -> list[Message]:
    """One answer alone."""
    yes, no = (name.strip() for name in names)
    text = f"A user asked: {_told(prompt)}\n\nAn assistant answered: {answer}\n\n{question.text} "
    return [{"role": "user", "content": f"{text}Reply with {yes} or {no} only."}]


def _told(prompt: list[Message]) -> str:
    """A single question as it is, a conversation with its roles."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def harmless(messages: list[Message], renderer: Renderer) -> list[Message]:
    """The same text without control tokens: an answer that holds one could end the judge's question and speak on."""
    return [{"role": message["role"], "content": _plain(message["content"], renderer)} for message in messages]


def _plain(text: str, renderer: Renderer) -> str:
    for _ in range(3):  # taking one apart might make another; a vocabulary that goes on so is no reason to go on
        for token in renderer.control_tokens(text):
            text = text.replace(token, " ".join(token) if len(token) > 1 else " ")
    return text


# --- reading a model


@dataclass
class Judge:
    """A checkpoint that judges, by one method and with one pair of words."""

    writer: "Writer"
    method: str
    options: str
    most: int  # tokens that it can read
    title: str = ""
    identity: str = ""  # of its base: a file that changes on the disk is another judge

    @property
    def format(self) -> Format:
        return FORMATS[self.method][self.options]

    def requests(self, pair: Pair, question: Question) -> tuple[list[Message], list[Message]]:
        """What is read for a pair: both orders, or both answers."""
        words = self.format.words
        if self.method == "pairwise":
            turned = Pair(pair.prompt, pair.second, pair.first)
            return pairwise_request(pair, question, words), pairwise_request(turned, question, words)
        return (
            pointwise_request(pair.prompt, pair.first, question, words),
            pointwise_request(pair.prompt, pair.second, question, words),
        )


def _ids(renderer: Renderer, text: str) -> list[int]:
    return renderer.tokenizer.encode(text, add_special_tokens=False).ids if text else []


def word_ids(renderer: Renderer, form: Format) -> tuple[list[int], tuple[int, int]] | str:
    """(tokens that the judge's turn begins with, the ids of the two words), or why this model can't choose so."""
    lead = _ids(renderer, form.lead)
    found = []
    for word in form.words:
        whole = _ids(renderer, form.lead + word)
        if whole[: len(lead)] != lead or len(whole) != len(lead) + 1:
            return f"'{word.replace(' ', '_')}' is not a single token of this model"
        found.append(whole[-1])
    if found[0] == found[1]:
        return "both words are the same token of this model"
    return lead, (found[0], found[1])


def formats(renderer: Renderer, method: str) -> tuple[list[str], dict[str, str]]:
    """(the formats that this model's tokens allow, why the others are left out)."""
    told = {name: word_ids(renderer, form) for name, form in FORMATS[method].items()}
    return [n for n, found in told.items() if not isinstance(found, str)], {
        n: found for n, found in told.items() if isinstance(found, str)
    }


def compare(
    judge: Judge,
    pairs: Sequence[Pair],
    asked: Sequence[Question],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[int, Verdict]:
    """The verdicts by pair. A pair that is too long for the judge has none; after a stop, so have those not reached.

    Which rows share a batch depends on what they say and not on which answer came first, so that a turned pair is
    computed from the very same numbers.
    """
    encoded = word_ids(judge.writer.renderer, judge.format)
    assert not isinstance(encoded, str), encoded
    lead, words = encoded
    cases = []  # (pair, side, its requests as tokens, a question each)
    for index, pair in enumerate(pairs):
        sides = _encoded(judge, pair, asked, lead)
        cases += [(index, side, rows) for side, rows in enumerate(sides)]
    cases.sort(key=lambda case: (len(case[2][0]), case[2]))
    size = ROWS if len(asked) == 1 else 1  # rows of one case begin alike, which is worth more than a large batch
    read: dict[tuple[int, int], list[float]] = {}
    for start in range(0, len(cases), size):
        if judge.writer.should_stop():
            break
        batch = cases[start : start + size]
        logits = option_logits(judge.writer, [row for _, _, rows in batch for row in rows], words)
        for i, (index, side, rows) in enumerate(batch):
            read[index, side] = logits[i * len(rows) : (i + 1) * len(rows)]
        progress(min(start + size, len(cases)) * len(pairs) // len(cases))
    weights = [question.weight for question in asked]
    whole = [index for index in range(len(pairs)) if (index, 0) in read and (index, 1) in read]
    return {index: combine(judge.method, read[index, 0], read[index, 1], weights) for index in whole}


def _encoded(judge: Judge, pair: Pair, asked: Sequence[Question], lead: list[int]) -> list[list[list[int]]]:
    """Both sides' requests under every question as tokens; nothing if one is too long or the template refuses it."""
    renderer = judge.writer.renderer
    sides: list[list[list[int]]] = [[], []]
    try:
        for question in asked:
            for side, messages in zip(sides, judge.requests(pair, question), strict=True):
                side.append(renderer.prompt_ids(harmless(messages, renderer)) + lead)
    except RenderError:
        return []
    return sides if max(len(row) for side in sides for row in side) <= judge.most else []


def option_logits(writer: "Writer", rows: Sequence[list[int]], words: tuple[int, int]) -> list[float]:
    """log p(first word) − log p(second word) behind each row, in nats: the softmax's sum is in both and cancels.

    rows: token ids, ragged; they are padded on the right, and what all begin with is computed once.
    """
    import torch

    from playground.stages.logprobs import hidden_states

    inner = writer.model.get_base_model() if hasattr(writer.model, "get_base_model") else writer.model
    device = next(inner.parameters()).device
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)  # (B, T)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    with torch.inference_mode(), writer.adapters.use(writer.role) if writer.adapters else nullcontext():
        hidden = hidden_states(inner, ids, mask)
        last = hidden[torch.arange(len(rows), device=device), mask.sum(1) - 1].double()  # (B, H)
        head = inner.get_output_embeddings()
        weight = head.weight[list(words)].double()
        found = last @ (weight[0] - weight[1])
        if head.bias is not None:
            found = found + (head.bias[words[0]] - head.bias[words[1]]).double()
    return found.tolist()
