"""Evaluation on a tiny model: every held-out prompt is asked, every check becomes a rate with its interval."""

import json

import pytest

from playground.data import library
from playground.data.readers import DataError, RawRow
from playground.data.report import examine
from playground.models import catalog, loading
from playground.models.catalog import ModelError
from playground.runs import run as runs
from playground.settings import SettingError
from playground.stages import evaluate as evaluation
from playground.stages.evaluate import evaluate
from playground.statistics import wilson

CHECKS = "min_words: 1\nmax_words: 0\nlacks: zebra\n"  # the tiny model babbles: none, all, all of its answers pass


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_NEW_TOKENS", 8)


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
    found = evaluate(base, None, dataset)
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
    document = json.loads(json.dumps(evaluate(base, None, dataset).as_json()))
    assert set(document) == {"checks", "facts", "answers"}
    assert set(document["checks"]) == {"min_words", "max_words", "lacks", "all"}
    for rate in [*document["checks"].values(), document["facts"]]:
        assert set(rate) == {"rate", "low", "high", "n"}
        assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] + 1e-9 <= 1 + 1e-9
    assert document["checks"]["all"]["n"] == 4
    assert document["facts"]["n"] == 1


def test_every_held_out_prompt_is_answered_in_order(base, dataset):
    found = evaluate(base, None, dataset)
    held = [row.messages[-2]["content"] for row in dataset.rows("heldout")]
    assert [row["prompt"] for row in found.answers] == held
    assert all(set(row["passes"]) == {"min_words", "max_words", "lacks", "all"} for row in found.answers)
    assert evaluate(base, None, dataset) == found  # greedy: the same checkpoint, the same answers


def test_the_factual_probe_counts_what_is_right(base, dataset):
    add_facts(dataset, ["impossible"], ["unheard of"])
    assert evaluate(base, None, dataset).facts == wilson(0, 2)
    add_facts(dataset, [], ["anything"])
    assert evaluate(base, None, dataset).facts == wilson(0, 2)


def test_a_run_is_measured_with_its_adapter_and_must_have_one(base, dataset, tiny_model):
    import torch

    run = runs.create("tuned", {"stage": "sft", "base": base.ref, "base_identity": base.identity})
    with pytest.raises(ModelError, match="no trained weights yet"):
        evaluate(base, run, dataset)
    model = loading.attach_lora(loading.load_base(base, loading.placement("none")), 4, 8, 0.0, "all-linear")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    loading.save_adapter(model, base, (tiny_model / "chat_template.jinja").read_text(), run.adapter)
    assert evaluate(base, run, dataset).answers != evaluate(base, None, dataset).answers


def test_progress_is_told(base, dataset):
    told = []
    add_facts(dataset, ["4"])
    evaluate(base, None, dataset, lambda text, share=None: told.append((text, share)))
    assert told == [("Loading the model", None), ("Held-out prompts: 4 of 4", 1.0), ("Factual probe: 1 of 1", 1.0)]


@pytest.mark.parametrize("content", [None, ""])
def test_a_dataset_without_checks_says_so(base, dataset, content):
    if content is None:
        (dataset.folder / "checks.yaml").unlink()
    else:
        (dataset.folder / "checks.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"^sums has no checks of its own; name a YAML file of checks"):
        evaluate(base, None, dataset)


def test_a_dataset_that_holds_nothing_out_says_so(base):
    raw = [RawRow(i, {"prompt": f"Question {i}?", "completion": "Yes."}, None) for i in range(5)]
    few = library.store(examine(raw), "few", "a test")
    (few.folder / "checks.yaml").write_text(CHECKS, encoding="utf-8")
    with pytest.raises(DataError, match=r"^few holds nothing out"):
        evaluate(base, None, few)


def test_an_unknown_check_is_named_before_the_model_is_loaded(base, dataset, monkeypatch):
    monkeypatch.setattr(loading, "load_base", lambda *_: pytest.fail("the model was loaded"))
    (dataset.folder / "checks.yaml").write_text("politeness: 1", encoding="utf-8")
    with pytest.raises(SettingError, match=r"^There is no check called 'politeness'"):
        evaluate(base, None, dataset)
