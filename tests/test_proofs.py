"""What is proven before the first update, what a failed proof does to a run, and which parents are refused."""

import json
import os
import shutil

import psutil
import pytest
import torch

from playground import worker
from playground.data import library
from playground.data.pairs import Pair
from playground.data.readers import RawRow
from playground.data.rendering import Encoded, Renderer
from playground.data.report import examine
from playground.data.shapes import Row
from playground.data.tokens import EncodedPair, training_pairs, training_rows
from playground.models import catalog, loading
from playground.runs import run as runs
from playground.settings import SettingError
from playground.stages import dpo, launch, proofs, reward, trl_trainers
from playground.stages.inputs import WEIGHTS, StageError, parent_of, weights_sha256
from playground.stages.proofs import Proof, close, ends_learned, only_adapters, prove, same_model, sides_differ

QUICK = {"max_steps": 1, "per_device_train_batch_size": 4, "max_length": 128, "lora_r": 4}
CONVERSATION = [{"role": "user", "content": "What is 2?"}, {"role": "assistant", "content": "It is an even number."}]


@pytest.fixture
def renderer(tiny_model):
    return Renderer(tiny_model)


@pytest.fixture
def base(tiny_model):
    return catalog.prepare(str(tiny_model))


@pytest.fixture
def endless_base(tiny_model, tmp_path):
    """The tiny model with a template that never ends a turn."""
    folder = tmp_path / "endless"
    shutil.copytree(tiny_model, folder)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_end|>", ""))
    return catalog.prepare(str(folder))


def made_parent(base, name="parent", **changes):
    """A finished SFT run with an adapter folder, as far as the checks look at it."""
    request = {"stage": "sft", "base_identity": base.identity, "base_title": base.title, "parent": None, **changes}
    run = runs.create(name, request)
    run.adapter.mkdir()
    (run.adapter / WEIGHTS).write_bytes(b"weights")
    (run.adapter / "chat_template.jinja").write_text(Renderer(base.folder).template, encoding="utf-8")
    run.update(state="finished")
    return run


def made_child(base, parent, **changes):
    """A run that was asked to continue this parent."""
    asked = parent and {"id": parent.id, "name": parent.name, "weights_sha256": weights_sha256(parent)}
    return runs.create("child", {"base_identity": base.identity, "base_title": base.title, "parent": asked, **changes})


# --- one proof at a time


def test_every_answer_of_a_conversation_ends_with_an_end_token(renderer):
    rows = training_rows([Row(1, CONVERSATION), Row(2, CONVERSATION + CONVERSATION)], renderer, 512)
    proof = ends_learned(rows, renderer)
    assert (proof.passed, proof.name) == (True, "The end token is inside the labels")
    assert proof.words == "2 of 2 answers end with <|endoftext|> or <|im_end|>."


def test_some_conversations_may_be_cut_before_their_end_and_that_is_said(renderer):
    whole = renderer.encode(CONVERSATION)
    proof = ends_learned([whole, whole.cut(len(whole.ids) - 5)], renderer)
    assert proof.passed
    assert proof.words == "1 of 2 answers end with <|endoftext|> or <|im_end|>; 1 longer rows are cut before it."


def test_where_no_answer_has_its_end_token_the_proof_fails(renderer):
    whole = renderer.encode(CONVERSATION)
    proof = ends_learned([whole.cut(len(whole.ids) - 5)] * 3, renderer)
    assert not proof.passed
    assert proof.words.endswith("so the model would never learn to stop.")
    unlearned = Encoded(whole.ids, [False] * len(whole.ids), whole.texts)  # the end token alone is not enough
    assert not ends_learned([unlearned], renderer).passed


def test_an_end_token_that_is_not_learned_does_not_count(renderer):
    whole = renderer.encode(CONVERSATION)
    end = len(whole.learned) - 1 - whole.learned[::-1].index(True)
    learned = [learn and i != end for i, learn in enumerate(whole.learned)]
    assert not ends_learned([Encoded(whole.ids, learned, whole.texts)], renderer).passed


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_both_sides_of_every_pair_must_have_their_end_token(renderer, side):
    (good,) = training_pairs([Pair(1, CONVERSATION[:1], "Two.", "Three.")], renderer, 512)
    assert ends_learned([good] * 3, renderer).words == "6 of 6 answers end with <|endoftext|> or <|im_end|>."
    sides = {"chosen": good.chosen, "rejected": good.rejected}
    bad = EncodedPair(good.prompt, **{**sides, side: sides[side][:-1]})
    proof = ends_learned([good, bad], renderer)
    assert not proof.passed
    assert proof.words == "1 of 4 answers do not end with <|endoftext|> or <|im_end|>."


def test_both_sides_of_a_pair_must_differ_as_tokens():
    pairs = [EncodedPair([1], [2, 3], [2, 4]), EncodedPair([1], [5], [6])]
    assert sides_differ(pairs) == Proof("Both sides differ", True, "In all 2 pairs, as tokens.")
    same = sides_differ([*pairs, EncodedPair([1], [7, 8], [7, 8])])
    assert same == Proof("Both sides differ", False, "1 pair is equal once they are tokens.")


@pytest.mark.parametrize("scorer", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_only_the_adapter_and_a_score_head_may_be_trained(base, scorer, quantization):
    model = loading.load_base(base, loading.placement(quantization), scorer)
    model = loading.attach_lora(model, 4, 8, 0.0, "attention")
    assert only_adapters(model) == Proof("Only the adapter is trained", True, "Every weight of the base is frozen.")
    name, parameter = next((n, p) for n, p in model.named_parameters() if "norm" in n)
    parameter.requires_grad_(True)
    proof = only_adapters(model)
    assert (proof.passed, proof.words) == (False, f"{name} would be trained as well.")


@pytest.mark.parametrize(("found", "passed"), [(0.6931, True), (0.69325, False), (0.69, False), (float("nan"), False)])
def test_a_number_must_be_what_theory_says(found, passed):
    proof = close("The loss", found, 0.693147, 1e-4, "ln 2.")
    assert proof.passed == passed
    assert proof.words == f"{found:.6f}, expected 0.693147 ± 0.0001: ln 2."


def test_without_a_parent_the_base_is_the_one_that_was_asked_for(base, renderer):
    assert same_model(made_child(base, None), renderer).passed


def test_base_and_template_must_be_the_parents(base, renderer):
    parent = made_parent(base)
    child = made_child(base, parent)
    good = same_model(child, renderer)
    assert (good.passed, good.words) == (True, "As in parent.")
    (parent.adapter / "chat_template.jinja").write_text(renderer.template + " ", encoding="utf-8")
    changed = same_model(child, renderer)
    assert (changed.passed, changed.name) == (False, "The base and the template match the parent's")
    assert changed.words == "parent was trained with another chat template; train it again."
    (parent.adapter / "chat_template.jinja").unlink()
    assert not same_model(child, renderer).passed


def test_a_parent_of_another_base_fails_its_proof(base, renderer):
    parent = made_parent(base, base_identity="fingerprint:other", base_title="Another model")
    proof = same_model(made_child(base, parent), renderer)
    assert (proof.passed, proof.words) == (False, "parent was trained on Another model.")


def test_proofs_are_added_to_the_run_folder_and_the_first_that_fails_stops_it():
    run = runs.create("x", {})
    assert run.proofs() == []
    prove(run, Proof("One", True, "Fine."))
    with pytest.raises(StageError, match=r"^Two: Not so\.$"):
        prove(run, Proof("Two", False, "Not so."), Proof("Three", False, "Nor this."))
    assert run.proofs() == [
        {"name": "One", "passed": True, "words": "Fine."},
        {"name": "Two", "passed": False, "words": "Not so."},
        {"name": "Three", "passed": False, "words": "Nor this."},
    ]


# --- a failed proof in a run


@pytest.fixture
def failed(monkeypatch):
    """Runs a stage as the worker's child does; it must fail without one update. Returns (message, failed proofs)."""
    monkeypatch.setattr(launch.queue, "start_worker", lambda: None)
    monkeypatch.setattr(worker.os, "nice", lambda by: 0)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)

    def work(stage, base, parent=None, **values):
        kind = (
            {"completion": "It is {}."} if stage == "sft" else {"chosen": "It is {}.", "rejected": "No idea about {}"}
        )
        raw = [{"prompt": f"What is {i}?", **{k: text.format(i) for k, text in kind.items()}} for i in range(20)]
        dataset = library.store(examine([RawRow(i, row, None) for i, row in enumerate(raw)]), stage, "a test")
        own = {"rules": "max_words: 60"} if stage == "ppo" else {}
        run = launch.launch(stage, base, dataset, {**QUICK, **own, **values}, parent=parent)
        run.update(state="running", pid=os.getpid(), pid_started=psutil.Process().create_time())
        with pytest.raises(SystemExit):
            worker.work(run)
        assert run.status().state == "failed"
        assert [event for event in run.metrics() if event["kind"] == "train"] == []
        assert not run.adapter.exists()
        assert run.receipt() == {}
        return run.status().message, [proof["name"] for proof in run.proofs() if not proof["passed"]]

    return work


@pytest.mark.parametrize("stage", [name for name in launch.STAGES if name != "ppo"])  # whose answers are its own
def test_a_run_whose_template_never_ends_an_answer_fails_with_that_sentence(failed, endless_base, stage):
    message, names = failed(stage, endless_base)
    assert message == (
        "The end token is inside the labels: No answer ends with <|endoftext|> or <|im_end|>, "
        "so the model would never learn to stop."
    )
    assert names == ["The end token is inside the labels"]


@pytest.mark.parametrize("stage", launch.STAGES)
def test_a_run_whose_parent_had_another_template_fails_with_that_sentence(failed, base, stage):
    parent = made_parent(base)
    (parent.adapter / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    message, names = failed(stage, base, parent=parent)
    assert message == (
        "The base and the template match the parent's: parent was trained with another chat template; train it again."
    )
    assert names == ["The base and the template match the parent's"]


def test_a_dpo_run_with_a_wrong_reference_fails_before_its_first_step(failed, base, monkeypatch):
    zeros = [[(0.0, 0.0)] * 4, [(0.0, 0.0)] * 2]
    monkeypatch.setattr(dpo, "reference_pass", lambda trainer, run: zeros)
    message, names = failed("dpo", base)
    assert message.startswith("The margin starts at 0: ")
    assert message.endswith("expected 0.000000 ± 0.0001: the policy is its own reference.")
    assert names == ["The margin starts at 0", "The loss starts where it must"]


def test_a_dpo_run_whose_loss_is_not_ln_2_fails_before_its_first_step(failed, base, monkeypatch):
    real = trl_trainers.PairDPOTrainer.compute_loss
    monkeypatch.setattr(trl_trainers.PairDPOTrainer, "compute_loss", lambda *args, **rest: 2 * real(*args, **rest))
    message, names = failed("dpo", base)
    assert message == "The loss starts where it must: 1.386294, expected 0.693147 ± 0.0001: ln 2."
    assert names == ["The loss starts where it must"]


def test_a_reward_run_that_reads_its_scores_elsewhere_fails_before_its_first_step(failed, base, monkeypatch):
    real = trl_trainers.last_scores

    def one_early(scores, mask):  # as TRL does where the pad token is the end token
        return real(scores, torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1))

    monkeypatch.setattr(trl_trainers, "last_scores", one_early)
    message, names = failed("reward", base)
    assert message.startswith("The loss is −log σ(margin): ")
    assert message.endswith("the trainer reads its scores at the end token, as the explorer does.")
    assert names == ["The loss is −log σ(margin)"]


@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_a_run_that_would_train_more_than_the_adapter_fails(failed, base, monkeypatch, stage):
    real = loading.attach_lora

    def leaky(*args):
        model = real(*args)
        model.get_base_model().model.norm.weight.requires_grad_(True)
        return model

    monkeypatch.setattr(loading, "attach_lora", leaky)
    message, names = failed(stage, base)
    assert message == "Only the adapter is trained: base_model.model.model.norm.weight would be trained as well."
    assert names == ["Only the adapter is trained"]


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge", "robust", "sigmoid+sft"])
def test_the_start_loss_is_the_formula_at_margin_0(loss_type):
    settings = dpo.DPOSettings(loss_type=loss_type, beta=0.25, sft_weight=2.0)
    loss, _ = dpo.start_loss(settings, nll=1.5)
    ln2 = float(torch.tensor(2.0, dtype=torch.float64).log())
    assert loss == pytest.approx({"ipo": 4.0, "hinge": 1.0, "sigmoid+sft": ln2 + 3.0}.get(loss_type, ln2))


def test_a_start_proof_leaves_nothing_in_the_first_curves(base, renderer):
    pairs = [Pair(i, CONVERSATION[:1], f"Two {i}.", f"Three {i}!") for i in range(6)]
    rows = [training_pairs(pairs, renderer, 128), []]
    settings = reward.RewardSettings(center_rewards_coefficient=0.5)
    model = loading.load_base(base, loading.placement("none"), scorer=True)
    model = loading.attach_lora(model, 4, 8, 0.0, "all-linear")
    arguments = {"output_dir": str(runs.runs_root() / "x"), "use_cpu": True, "bf16": False, "report_to": "none"}
    trainer = trl_trainers.reward_trainer(
        model, loading.load_tokenizer(base), {**arguments, "center_rewards_coefficient": 0.5}, rows
    )
    assert reward.start_proof(trainer, settings, 1e-4).passed
    assert not reward.start_proof(trainer, reward.RewardSettings(center_rewards_coefficient=0.0), 1e-4).passed
    assert not any(trainer._metrics["eval"].values()) and not any(trainer._metrics["train"].values())
    assert trainer.eval_scores == [] and trainer._batch_rows["eval"] == []
    assert trainer.model.training


# --- which runs can be continued


def test_a_parent_is_found_again_by_the_hash_of_its_weights(base):
    parent = made_parent(base)
    assert parent_of(made_child(base, parent)) == parent
    assert parent_of(made_child(base, None)) is None


def test_a_parent_that_was_deleted_or_trained_further_is_refused(base):
    parent = made_parent(base)
    child = made_child(base, parent)
    (parent.adapter / WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(StageError, match=r"^parent was trained further since this run was asked for; start a new run"):
        parent_of(child)
    (parent.adapter / WEIGHTS).unlink()
    with pytest.raises(StageError, match=r"^parent, which this run needs, has been deleted; start a new run"):
        parent_of(child)
    shutil.rmtree(parent.folder)
    with pytest.raises(StageError, match=r"has been deleted"):
        parent_of(child)


def test_a_finished_run_on_the_same_base_can_be_continued_and_so_can_a_stopped_one(base):
    for state in ("finished", "stopped", "failed", "interrupted"):
        parent = made_parent(base, state)
        parent.update(state=state)
        launch.check_parent(parent, base)


def test_a_parent_is_refused_before_anything_is_queued(base):
    with pytest.raises(SettingError, match=r"^judge is a reward model: it gives scores, so there is nothing"):
        launch.check_parent(made_parent(base, "judge", stage="reward"), base)

    other = made_parent(base, "other", base_identity="fingerprint:other", base_title="Another model")
    with pytest.raises(SettingError, match=rf"^other was trained on Another model, not on {base.title}"):
        launch.check_parent(other, base)

    empty = made_parent(base, "empty")
    (empty.adapter / WEIGHTS).unlink()
    with pytest.raises(SettingError, match=r"^empty has no trained weights to continue"):
        launch.check_parent(empty, base)

    waiting = made_parent(base, "waiting")
    waiting.update(state="queued")
    with pytest.raises(SettingError, match=r"^waiting is still queued; wait for its end or stop it"):
        launch.check_parent(waiting, base)
    waiting.update(state="running", pid=os.getpid(), pid_started=psutil.Process().create_time())
    with pytest.raises(SettingError, match=r"^waiting is still running"):
        launch.check_parent(waiting, base)


def test_a_refused_parent_leaves_no_run_behind(base, monkeypatch):
    monkeypatch.setattr(launch.queue, "start_worker", lambda: None)
    rows = [RawRow(i, {"prompt": f"Say {i}", "chosen": "Yes.", "rejected": "No!"}, None) for i in range(12)]
    dataset, judge = library.store(examine(rows), "likes", "a test"), made_parent(base, "judge", stage="reward")
    with pytest.raises(SettingError, match=r"judge is a reward model"):
        launch.launch("dpo", base, dataset, QUICK, parent=judge)
    with pytest.raises(SettingError, match=r"SFT.* needs sft rows; likes holds preference rows"):
        launch.launch("sft", base, dataset, QUICK)
    assert runs.list_runs() == [judge]
    good = made_parent(base)
    child = launch.launch("dpo", base, dataset, QUICK, parent=good)
    assert child.request["parent"] == {"id": good.id, "name": "parent", "weights_sha256": weights_sha256(good)}
    assert json.loads((child.folder / "run.json").read_text())["stage"] == "dpo"
    assert proofs.same_model(child, Renderer(base.folder)).passed
