"""Evaluation on a tiny model: every held-out prompt is asked, every check becomes a rate with its interval."""

import json
import shutil

import pytest
from test_scoring import reward_run, tiny_run, write_adapter

from playground.chat import resident, scoring
from playground.data import library
from playground.data.readers import DataError, RawRow
from playground.data.report import examine
from playground.models import catalog, loading
from playground.models.catalog import ModelError
from playground.settings import SettingError
from playground.stages import evaluate as evaluation
from playground.stages.evaluate import Trial, Verdict, evaluate
from playground.statistics import wilson

CHECKS = "min_words: 1\nmax_words: 0\nlacks: zebra\n"  # the tiny model babbles: none, all, all of its answers pass


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(resident, "_loaded", None)


@pytest.fixture
def base(tiny_model):
    return catalog.prepare(str(tiny_model))


@pytest.fixture
def dataset():
    """Forty exchanges, four of them held out, with checks and a factual probe beside them."""
    raw = [RawRow(i, {"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."}, None) for i in range(40)]
    stored = library.store(examine(raw), "sums", "a test")
    (stored.folder / "checks.yaml").write_text(CHECKS, encoding="utf-8")
    return stored


def add_facts(dataset, *accepted):
    lines = [json.dumps({"prompt": f"Fact {i}?", "accept": accept}) + "\n" for i, accept in enumerate(accepted)]
    (dataset.folder / "facts.jsonl").write_text("".join(lines), encoding="utf-8")


def test_every_check_and_all_together_become_rates_with_intervals(base, dataset):
    found = evaluate(Trial(base, None, dataset))
    answers = [row["answer"] for row in found.answers]
    passed = sum(bool(answer) for answer in answers)
    assert passed > 0
    assert found.checks == {
        "min_words": wilson(passed, 4),
        "max_words": wilson(4 - passed, 4),
        "lacks": wilson(4, 4),
        "all": wilson(0, 4),
    }
    assert found.facts is None


def test_the_json_has_the_form_that_scripts_read(base, dataset):
    add_facts(dataset, ["impossible"])
    document = json.loads(json.dumps(evaluate(Trial(base, None, dataset)).as_json()))
    assert set(document) == {"checks", "facts", "verdict", "answers"}
    assert document["verdict"] is None
    assert set(document["checks"]) == {"min_words", "max_words", "lacks", "all"}
    for rate in [*document["checks"].values(), document["facts"]]:
        assert set(rate) == {"rate", "low", "high", "n"}
        assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] + 1e-9 <= 1 + 1e-9
    assert document["checks"]["all"]["n"] == 4
    assert document["facts"]["n"] == 1


def test_a_safety_set_gives_harmful_compliance_and_over_refusal(base):
    found = evaluate(Trial(base, None, library.find("red-team", "prompts")))
    document = json.loads(json.dumps(found.as_json()))
    assert set(document["safety"]) == {"harmful_compliance", "over_refusal"}
    for name, kind, label in (("harmful_compliance", "harmful", "compliance"), ("over_refusal", "benign", "refusal")):
        labels = [row["label"] for row in found.answers if row["kind"] == kind]
        assert found.safety[name] == wilson(labels.count(label), len(labels)) and len(labels) == 48
        assert f"{name}: {found.safety[name]}" in found.words()
    assert found.checks == {}


def test_every_held_out_prompt_is_answered_in_order(base, dataset):
    found = evaluate(Trial(base, None, dataset))
    held = [row.messages[-2]["content"] for row in dataset.rows("heldout")]
    assert [row["prompt"] for row in found.answers] == held
    assert all(set(row["passes"]) == {"min_words", "max_words", "lacks", "all"} for row in found.answers)
    assert evaluate(Trial(base, None, dataset)) == found  # greedy: the same checkpoint, the same answers


def test_the_factual_probe_counts_what_is_right(base, dataset):
    add_facts(dataset, ["impossible"], ["unheard of"])
    assert evaluate(Trial(base, None, dataset)).facts == wilson(0, 2)
    add_facts(dataset, [], ["anything"])
    assert evaluate(Trial(base, None, dataset)).facts == wilson(0, 2)


def test_a_run_is_measured_with_its_adapter_and_must_have_one(base, dataset, tiny_model):
    run = tiny_run(tiny_model, "tuned", "sft", {})
    with pytest.raises(ModelError, match="no trained weights yet"):
        evaluate(Trial(base, run, dataset))
    write_adapter(run, tiny_model, 1)
    assert evaluate(Trial(base, run, dataset)).answers != evaluate(Trial(base, None, dataset)).answers


def test_progress_is_told(base, dataset):
    told = []
    add_facts(dataset, ["4"])
    evaluate(Trial(base, None, dataset), lambda text, share=None: told.append((text, share)))
    assert told == [("Loading the model", None), ("Held-out prompts: 4 of 4", 1.0), ("Factual probe: 1 of 1", 1.0)]


@pytest.mark.parametrize("content", [None, ""])
def test_a_dataset_without_checks_says_so(base, dataset, content):
    if content is None:
        (dataset.folder / "checks.yaml").unlink()
    else:
        (dataset.folder / "checks.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"^sums has no checks of its own; name a YAML file of checks"):
        evaluate(Trial(base, None, dataset))


def test_a_dataset_that_holds_nothing_out_says_so(base):
    raw = [RawRow(i, {"prompt": f"Question {i}?", "completion": "Yes."}, None) for i in range(5)]
    few = library.store(examine(raw), "few", "a test")
    (few.folder / "checks.yaml").write_text(CHECKS, encoding="utf-8")
    with pytest.raises(DataError, match=r"^few holds nothing out"):
        evaluate(Trial(base, None, few))


def test_an_unknown_check_is_named_before_the_model_is_loaded(base, dataset, monkeypatch):
    monkeypatch.setattr(loading, "load_base", lambda *_: pytest.fail("the model was loaded"))
    (dataset.folder / "checks.yaml").write_text("politeness: 1", encoding="utf-8")
    with pytest.raises(SettingError, match=r"^There is no check called 'politeness'"):
        evaluate(Trial(base, None, dataset))


# ---- with a judge


@pytest.fixture
def judge(tiny_model):
    return reward_run(tiny_model, seed=3)


@pytest.fixture
def tuned(tiny_model):
    """Makes a run of the tiny model with a random adapter."""

    def make(name, seed, stage="sft", half="all", sha256="of the rows"):
        made = tiny_run(tiny_model, name, stage, {"half": half}, sha256)
        write_adapter(made, tiny_model, seed)
        return made

    return make


def won(judge, found) -> float:
    """How often the judge gives the first answer the higher score, counted by hand."""
    points = 0.0
    for row in found.answers:
        prompt = [{"role": "user", "content": row["prompt"]}]
        ours, theirs = scoring.score(judge, [(prompt, row["answer"]), (prompt, row["other"])])
        tie = abs(ours.score - theirs.score) < 1e-4
        points += 0.5 if tie else float(ours.score > theirs.score)
    return points


def test_a_judge_compares_a_run_with_the_base(base, dataset, judge, tuned):
    run = tuned("tuned", 1)
    found = evaluate(Trial(base, run, dataset, judge))
    assert [row["answer"] for row in found.answers] == [
        row["answer"] for row in evaluate(Trial(base, run, dataset)).answers
    ]
    assert [row["other"] for row in found.answers] == [
        row["answer"] for row in evaluate(Trial(base, None, dataset)).answers
    ]
    assert found.verdict == Verdict("judge", "the base", wilson(won(judge, found), 4), "")
    assert found.checks == evaluate(Trial(base, run, dataset)).checks
    assert found.words()[-1] == f"judge prefers its answer over the base's: {found.verdict.wins}"
    document = json.loads(json.dumps(found.as_json()))
    assert document["verdict"] == {
        "judge": "judge", "against": "the base", "wins": found.verdict.wins._asdict(), "note": "",
    }  # fmt: skip
    assert set(document["answers"][0]) == {"prompt", "answer", "passes", "other"}


def test_turning_the_question_round_turns_the_win_rate_round(base, dataset, judge, tuned):
    run, other = tuned("tuned", 1), tuned("other", 2, "dpo")
    there, back = (evaluate(Trial(base, one, dataset, judge, two)) for one, two in ((run, other), (other, run)))
    assert [(row["answer"], row["other"]) for row in there.answers] == [
        (row["other"], row["answer"]) for row in back.answers
    ]
    assert (there.verdict.against, back.verdict.against) == ("other", "tuned")
    assert there.verdict.wins.rate + back.verdict.wins.rate == 1
    assert there.verdict.wins == wilson(won(judge, there), 4)


def test_the_base_can_be_measured_against_a_run(base, dataset, judge, tuned):
    run = tuned("tuned", 1)
    found = evaluate(Trial(base, None, dataset, judge, run))
    mirrored = evaluate(Trial(base, run, dataset, judge))
    assert found.verdict.wins.rate == 1 - mirrored.verdict.wins.rate
    assert [row["other"] for row in found.answers] == [row["answer"] for row in mirrored.answers]


def test_ties_count_half(base, dataset, judge, tuned):
    run = tuned("tuned", 1)
    for one in (None, run):
        found = evaluate(Trial(base, one, dataset, judge, one))
        assert all(row["answer"] == row["other"] for row in found.answers)
        assert found.verdict.wins == wilson(2.0, 4)


@pytest.mark.parametrize(("sha256", "halves", "told"), [
    ("of the pairs", ("all", "all"), True), ("of the pairs", ("all", "first"), True),
    ("of the pairs", ("first", "first"), True), ("of the pairs", ("first", "second"), False),
    ("of the pairs", ("second", "first"), False), ("of others", ("all", "all"), False),
])  # fmt: skip
def test_a_judge_that_learned_from_the_same_pairs_is_told_to_be_no_independent_one(
    base, dataset, tiny_model, tuned, sha256, halves, told
):
    judge = reward_run(tiny_model, half=halves[0])
    run = tuned("tuned", 1, "dpo", halves[1], sha256)
    note = "; the judge learned from the same pairs as tuned: no independent check" if told else ""
    for one, other in ((run, None), (None, run)):
        verdict = evaluate(Trial(base, one, dataset, judge, other)).verdict
        assert verdict.note == note
        assert str(verdict).endswith(note or ")")


def test_with_a_judge_a_dataset_needs_no_checks_and_may_hold_pairs(base, judge, tuned):
    raw = [RawRow(i, {"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No."}, None) for i in range(20)]
    pairs = library.store(examine(raw), "pairs", "a test")
    found = evaluate(Trial(base, tuned("tuned", 1), pairs, judge))
    assert (found.checks, found.facts, len(found.answers)) == ({}, None, 2)
    assert [row["prompt"] for row in found.answers] == [row.prompt[-1]["content"] for row in pairs.rows("heldout")]
    assert found.words() == [str(found.verdict)]


def test_a_judge_may_stand_on_another_base_and_on_nf4(base, dataset, tiny_model_no_template, tuned):
    other = reward_run(tiny_model_no_template, quantization="nf4")
    found = evaluate(Trial(base, tuned("tuned", 1), dataset, other))
    assert found.verdict.wins == wilson(won(other, found), 4)
    assert resident._loaded.base.folder == tiny_model_no_template


def test_progress_with_a_judge_is_told(base, dataset, judge):
    told = []
    evaluate(Trial(base, None, dataset, judge), lambda text, share=None: told.append(text))
    assert told == ["Loading the model", "Held-out prompts: 4 of 4", "The other's answers: 4 of 4", "Loading tiny",
                    "8 of 8 answers"]  # fmt: skip


def test_who_can_not_do_his_part_is_told_before_the_model_is_loaded(
    base, dataset, judge, tuned, tiny_model, tmp_path, monkeypatch
):
    run, early = tuned("tuned", 1), tiny_run(tiny_model, "early", "reward", {"quantization": "none"})
    copy = shutil.copytree(tiny_model, tmp_path / "another")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    stranger = tiny_run(copy, "stranger", "sft", {})
    write_adapter(stranger, copy, 1)
    monkeypatch.setattr(loading, "load_base", lambda *_: pytest.fail("the model was loaded"))
    for trial, sentence in (
        (Trial(base, judge, dataset), "judge is a reward model: it gives scores, not answers."),
        (Trial(base, run, dataset, judge, judge), "judge is a reward model: it gives scores, not answers."),
        (Trial(base, None, dataset, run), "tuned can't judge: it is not a reward model."),
        (Trial(base, stranger, dataset), "stranger was trained on another, not on tiny."),
        (Trial(base, run, dataset, judge, stranger), "stranger was trained on another, not on tiny."),
        (Trial(base, run, dataset, early), "This run has no trained weights yet (adapter_config.json is missing)."),
    ):
        with pytest.raises(ModelError) as refused:
            evaluate(trial)
        assert str(refused.value) == sentence
