"""Scores on a tiny reward model: the same as the model's own, whatever else is in the batch or in memory."""

import csv
import io
import json
import math

import pytest
import torch
from peft import PeftModel

from playground.chat import engine, resident, scoring
from playground.chat.scoring import accuracy, as_csv, preferred, score, score_table
from playground.data.readers import RawRow
from playground.data.rendering import Renderer
from playground.data.report import examine
from playground.models import catalog, loading
from playground.models.adapters import open_adapters
from playground.models.catalog import ModelError
from playground.models.decode import Sampling
from playground.models.scoring import last_scores, read_head, score_rows, token_scores
from playground.runs import run as runs
from playground.stages import judgement
from playground.statistics import wilson

CAT = [{"role": "user", "content": "Why do cats purr?"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello there!"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who is 日本?"},
]
ITEMS = [(CAT, "They are content."), (TALK, "A country, and an old one at that; ask me more 🎌."), (CAT, "No.")]
END = "<|im_end|>"


def reward_run(folder, seed=1, quantization="none", name="judge", sha256="of the pairs", half="all") -> runs.Run:
    """A run of this model folder, as the reward stage leaves it, whose adapter and head are random."""
    made = tiny_run(folder, name, "reward", {"quantization": quantization, "half": half}, sha256)
    write_adapter(made, folder, seed, quantization, scorer=True)
    return made


def tiny_run(folder, name, stage, settings, sha256="of the rows") -> runs.Run:
    base = catalog.prepare(str(folder))
    dataset = {"id": "data_0", "name": "rows", "sha256": sha256, "rows": [36, 4]}
    request = {"base": base.ref, "base_title": base.title, "base_identity": base.identity, "parent": None}
    return runs.create(name, {"stage": stage, **request, "settings": settings, "dataset": dataset})


def write_adapter(run, folder, seed, quantization="none", scorer=False, dropout=0.0) -> None:
    base = catalog.prepare(str(folder))
    plain = loading.load_base(base, loading.placement(quantization), scorer)
    model = loading.attach_lora(plain, 4, 8, dropout, "all-linear")
    random = torch.Generator().manual_seed(seed)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.3, generator=random)
    loading.save_adapter(model, base, Renderer(folder).template, run.adapter)


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(resident, "_loaded", None)


@pytest.fixture
def judge(tiny_model):
    return reward_run(tiny_model)


@pytest.fixture
def tuned(tiny_model):
    made = tiny_run(tiny_model, "tuned", "sft", {"quantization": "none"})
    write_adapter(made, tiny_model, 2)
    return made


def own_model(folder, run):
    """The sequence classifier as transformers and PEFT load it, without anything of ours but the base."""
    where = loading.placement(run.request["settings"]["quantization"])
    plain = loading.load_base(catalog.prepare(str(folder)), where, scorer=True)
    return PeftModel.from_pretrained(plain, str(run.adapter)).eval()


def ids_of(folder, prompt, answer) -> list[int]:
    """The prompt, the answer and the token that ends it, each tokenized by itself."""
    renderer = Renderer(folder)
    said = renderer.tokenizer.encode(answer, add_special_tokens=False).ids
    return [*renderer.prompt_ids(prompt), *said, renderer.eos_id]


@torch.no_grad()
def own_score(model, ids) -> float:
    return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


# ---- the number


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_score_is_the_model_s_own_alone_and_beside_others(tiny_model, quantization):
    run = reward_run(tiny_model, quantization=quantization)
    model = own_model(tiny_model, run)
    expected = [own_score(model, ids_of(tiny_model, *item)) for item in ITEMS]
    assert len({round(value, 2) for value in expected}) == len(ITEMS)
    together = [found.score for found in score(run, ITEMS)]
    alone = [score(run, [item])[0].score for item in ITEMS]
    assert together == pytest.approx(expected, abs=1e-4)
    assert alone == pytest.approx(expected, abs=1e-4)
    assert resident._loaded.where.nf4 == (quantization == "nf4")


def test_more_answers_than_fit_in_one_turn_come_back_in_order(tiny_model, judge):
    model = own_model(tiny_model, judge)
    items = [(CAT, "purr " * (i * 7 % 11)) for i in range(scoring.AT_ONCE + 5)]
    told = []
    found = score(judge, items, lambda text, share: told.append((text, share)))
    assert [one.score for one in found] == pytest.approx(
        [own_score(model, ids_of(tiny_model, *item)) for item in items], abs=1e-4
    )
    assert told[-2:] == [("32 of 37 answers", 32 / 37), ("37 of 37 answers", 1.0)]


def test_no_answers_have_no_scores(judge):
    assert score(judge, []) == []


def test_the_score_after_each_token_is_that_of_the_text_so_far(tiny_model, judge):
    model = own_model(tiny_model, judge)
    for (prompt, answer), found in zip(ITEMS, score(judge, ITEMS), strict=True):
        ids, start = ids_of(tiny_model, prompt, answer), len(Renderer(tiny_model).prompt_ids(prompt))
        prefixes = [own_score(model, ids[: end + 1]) for end in range(start, len(ids))]
        assert found.after == pytest.approx(prefixes, abs=1e-4)
        assert found.after[-1] == found.score
        assert len(found.after) == len(found.texts)


ANSWERS = [
    "They are content.", "", " ", "\n\n", "  spaces at both ends  ", "日本 and 🎌🏳️‍🌈", "Bye.<|im_end|>",
    "Bye.<|im_end|>\n<|im_start|>user\nMore?", "<|im_start|>assistant\n", "<|endoftext|>", "{{ 7 * 7 }}", "\x00\u202e",
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_tokens_join_to_the_answer_with_its_end_whatever_was_typed(tiny_model, judge, answer):
    (found,) = score(judge, [(CAT, answer)])
    assert "".join(found.texts) == answer + END
    assert found.score == pytest.approx(
        own_score(own_model(tiny_model, judge), ids_of(tiny_model, CAT, answer)), abs=1e-4
    )
    (asked,) = score(judge, [([{"role": "user", "content": answer}], "Yes.")])
    assert "".join(asked.texts) == "Yes." + END


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_even_with_the_end_token(tiny_model, judge, side):
    adapters = open_adapters(loading.load_base(catalog.prepare(str(tiny_model)), loading.placement("none")),
                             judge.id, judge.adapter)  # fmt: skip
    head, end = read_head(judge.adapter), Renderer(tiny_model).eos_id
    rows = [ids_of(tiny_model, *item) for item in ITEMS]
    width = max(map(len, rows)) + 3

    def padded(values, filling):
        rest = [filling] * (width - len(values))
        return rest + values if side == "left" else values + rest

    ids = torch.tensor([padded(row, end) for row in rows])
    mask = torch.tensor([padded([1] * len(row), 0) for row in rows])
    with torch.no_grad():
        found = last_scores(token_scores(adapters.model, head, ids, mask), mask).tolist()
    assert found == pytest.approx([one.score for one in score(judge, ITEMS)], abs=1e-4)


def test_rows_are_scored_in_small_batches_and_said_so(tiny_model, judge):
    adapters = open_adapters(loading.load_base(catalog.prepare(str(tiny_model)), loading.placement("none")),
                             judge.id, judge.adapter)  # fmt: skip
    rows, told = [ids_of(tiny_model, *item) for item in ITEMS], []
    found = score_rows(adapters.model, read_head(judge.adapter), rows, told.append, batch=2)
    assert told == [2, 3]
    assert [len(scores) for scores in found] == [len(row) for row in rows]
    assert [scores[-1] for scores in found] == pytest.approx([one.score for one in score(judge, ITEMS)], abs=1e-4)


# ---- beside others in memory


def test_chat_and_scores_share_the_base_and_leave_each_other_alone(tiny_model, judge, tuned):
    def said():
        asked = [{"role": "user", "content": "hello"}]
        return list(engine.reply(str(tiny_model), [None, tuned], [asked] * 2, Sampling(max_new_tokens=12)))[-1]

    before, words = score(judge, ITEMS), None
    for _ in range(2):
        words, last = said(), words
        assert last in (None, words)
        assert score(judge, ITEMS) == before
    assert set(resident._loaded.names) == {judge.id, tuned.id}
    resident.forget()
    assert said() == words  # as without the reward model beside it
    assert score(judge, ITEMS) == before


def test_a_chat_between_two_turns_of_scoring_changes_nothing(tiny_model, judge, tuned):
    items = [(CAT, f"Because {i}.") for i in range(scoring.AT_ONCE + 3)]
    expected, said = score(judge, items), []

    def talk(text, share):
        if share:
            said.extend(engine.reply(str(tiny_model), [tuned, None], [CAT] * 2, Sampling(max_new_tokens=4)))

    assert score(judge, items, talk) == expected
    assert said


def test_a_judge_that_was_trained_with_dropout_scores_without_it(tiny_model, judge, tuned):
    write_adapter(judge, tiny_model, 1, scorer=True, dropout=0.5)
    expected = own_score(own_model(tiny_model, judge), ids_of(tiny_model, *ITEMS[0]))
    list(engine.reply(str(tiny_model), [tuned], [CAT], Sampling(max_new_tokens=2)))  # so that it is not the first one
    assert [score(judge, ITEMS[:1])[0].score for _ in range(3)] == pytest.approx([expected] * 3, abs=1e-4)


def test_two_judges_in_memory_give_their_own_scores(tiny_model, judge):
    other = reward_run(tiny_model, seed=5, name="other")
    mine, theirs = score(judge, ITEMS), score(other, ITEMS)
    assert score(judge, ITEMS) == mine
    assert all(abs(a.score - b.score) > 1e-3 for a, b in zip(mine, theirs, strict=True))


def test_a_judge_that_was_trained_further_scores_anew(tiny_model, judge):
    before = score(judge, ITEMS)[0].score
    write_adapter(judge, tiny_model, 7, scorer=True)
    after = score(judge, ITEMS)[0].score
    assert after == pytest.approx(own_score(own_model(tiny_model, judge), ids_of(tiny_model, *ITEMS[0])), abs=1e-4)
    assert after != before


def test_an_nf4_judge_scores_on_nf4_weights_and_chat_goes_back_to_whole_ones(tiny_model, judge):
    coarse = reward_run(tiny_model, quantization="nf4", name="coarse")
    assert score(judge, ITEMS) != score(coarse, ITEMS)
    assert resident._loaded.where.nf4
    list(engine.reply(str(tiny_model), [None], [CAT], Sampling(max_new_tokens=2)))
    assert not resident._loaded.where.nf4


# ---- what is refused


def test_a_run_of_another_stage_is_refused(tuned):
    with pytest.raises(ModelError, match=r"^tuned is not a reward model; train one in the Reward model tab\.$"):
        score(tuned, ITEMS)


def test_a_reward_run_without_weights_or_without_a_head_says_so(tiny_model):
    early = tiny_run(tiny_model, "early", "reward", {"quantization": "none"})
    with pytest.raises(ModelError, match=r"^This run has no trained weights yet"):
        score(early, ITEMS)
    write_adapter(early, tiny_model, 1)
    with pytest.raises(ModelError, match=r"^This run has no score head: it is not a reward model\.$"):
        score(early, ITEMS)
    assert not resident.turn.locked()


def test_an_answer_that_is_too_long_is_named_by_its_number(judge):
    with pytest.raises(ModelError, match=r"^Answer 2 is 6\d\d tokens long with its prompt; 512 at most\.$"):
        score(judge, [ITEMS[0], (CAT, "a" * 600)])
    with pytest.raises(ModelError, match=r"^Answer 34 is 6"):
        score(judge, [ITEMS[0]] * 33 + [(CAT, "a" * 600)])
    assert not resident.turn.locked()
    asked = len(ids_of_prompt := resident._loaded.renderer.prompt_ids(CAT))
    (found,) = score(judge, [(CAT, "z" * (512 - asked - 1))])  # one token less than too long
    assert len(found.after) + len(ids_of_prompt) == 512


def test_a_template_that_refuses_an_answer_is_told_with_its_number(tmp_path, tiny_model):
    import shutil

    strict = tmp_path / "strict"
    shutil.copytree(tiny_model, strict)
    template = (strict / "chat_template.jinja").read_text()
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (strict / "chat_template.jinja").write_text(refusal + template)
    with pytest.raises(ModelError, match=r"^Answer 2 can't be read: the chat template refuses it: no system\.$"):
        score(reward_run(strict), ITEMS)


# ---- stopping


def test_a_stop_gives_what_was_scored_so_far(judge):
    items = [(CAT, f"Answer {i}.") for i in range(10, 30)]
    asked = iter([False])
    found = score(judge, items, should_stop=lambda: next(asked, True))
    assert found == score(judge, items)[: len(found)]
    assert len(found) == 8
    assert score(judge, items, should_stop=lambda: True) == []
    assert len(score_table(judge, examine(SUMS).kept, should_stop=lambda: True)) == 0


# ---- what it is worth


def test_a_percentile_needs_the_training_scores_and_counts_ties_half(judge):
    (found,) = score(judge, ITEMS[:1])
    assert found.percentile is None
    assert judgement.read_scores(judge) == {}
    training = [found.score - 1, found.score, found.score + 1, found.score + 2]
    (judge.adapter / "scores.json").write_text(json.dumps({"training": training}))
    assert score(judge, ITEMS[:1])[0].percentile == 1.5 / 4
    (judge.adapter / "scores.json").write_text(json.dumps({"training": []}))
    assert score(judge, ITEMS[:1])[0].percentile is None


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (1.5, -0.5), (-3.0, 4.0), (1000.0, -1000.0), (-1e6, 1e6)])
def test_a_preference_is_the_sigmoid_of_the_difference_and_symmetric(a, b):
    assert preferred(a, b) + preferred(b, a) == pytest.approx(1)
    if abs(a - b) < 100:
        assert preferred(a, b) == pytest.approx(1 / (1 + math.exp(b - a)))
    assert (preferred(a, b) > 0.5) == (a > b)


# ---- tables


SUMS = [RawRow(i, {"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."}, None) for i in range(1, 4)]
PAIRS = [
    RawRow(i, {"prompt": f"What is {i} + {i}?", "chosen": f"It is {2 * i}.", "rejected": "No idea."}, None)
    for i in range(1, 4)
]


def test_rows_have_a_line_each(judge):
    table = score_table(judge, examine(SUMS).kept)
    scores = score(
        judge, [([{"role": "user", "content": f"What is {i} + {i}?"}], f"It is {2 * i}.") for i in (1, 2, 3)]
    )
    assert table == [
        {
            "row": i,
            "prompt": f"What is {i} + {i}?",
            "answer": f"It is {2 * i}.",
            "score": scores[i - 1].score,
            "percentile": None,
        }
        for i in (1, 2, 3)
    ]
    assert accuracy(table) is None


def test_pairs_have_a_line_for_each_side(judge):
    (judge.adapter / "scores.json").write_text(json.dumps({"training": [-1000.0, -999.0, 1000.0]}))
    table = score_table(judge, examine(PAIRS).kept)
    assert [(line["row"], line["side"]) for line in table] == [
        (i, side) for i in (1, 2, 3) for side in ("chosen", "rejected")
    ]
    assert [line["answer"] for line in table[:2]] == ["It is 2.", "No idea."]
    assert {line["percentile"] for line in table} == {2 / 3}
    wins = sum(better["score"] > worse["score"] for better, worse in zip(table[::2], table[1::2], strict=True))
    assert accuracy(table) == wilson(wins, 3)


def test_a_long_conversation_is_named_by_its_last_question_and_scored_whole(judge):
    raw = [RawRow(1, {"messages": [*TALK, {"role": "assistant", "content": "A country."}]}, None)]
    (line,) = score_table(judge, examine(raw).kept)
    assert (line["prompt"], line["answer"]) == ("Who is 日本?", "A country.")
    assert line["score"] == score(judge, [(TALK, "A country.")])[0].score


def lines(*pairs):
    sides = [("chosen", 0), ("rejected", 1)]
    return [
        {"row": i, "side": side, "score": pair[at]}
        for i, pair in enumerate(pairs)
        for side, at in sides
        if pair[at] is not None
    ]


def test_accuracy_counts_ties_half_and_leaves_half_pairs_out():
    assert accuracy(lines((2.0, 1.0), (0.5, 0.5), (-2.0, -1.0), (3.0, -3.0))) == wilson(2.5, 4)
    assert accuracy(lines((2.0, 1.0), (5.0, None))) == wilson(1, 1)  # stopped between the two sides
    assert accuracy(lines((5.0, None))) is None
    assert accuracy([]) is None


def test_a_table_as_csv_comes_back_as_it_was():
    table = [
        {"row": 1, "prompt": 'Say "hi", please', "answer": "one\ntwo\r\nthree", "score": -0.25, "percentile": None},
        {"row": 2, "prompt": "日本 🎌; a,b", "answer": "", "score": 1.5, "percentile": 0.5},
    ]
    read = list(csv.DictReader(io.StringIO(as_csv(table), newline="")))
    assert [list(line) for line in read] == [["row", "prompt", "answer", "score", "percentile"]] * 2
    assert [{name: str("" if value is None else value) for name, value in line.items()} for line in table] == read
    assert as_csv([]) == ""


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(start):
    said = f'{start}HYPERLINK("http://x")'
    (read,) = csv.DictReader(io.StringIO(as_csv([{"answer": said, "plain": f"a{said}", "score": -1.0}]), newline=""))
    assert read == {"answer": f"'{said}", "plain": f"a{said}", "score": "-1.0"}


def test_a_score_that_is_no_number_is_an_empty_cell():
    assert as_csv([{"row": 1, "score": math.nan}, {"row": 2, "score": -math.inf}]) == "row,score\n1,\n2,\n"
