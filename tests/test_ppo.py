"""PPO for real, on a 2-layer model: roles on one base, step-0 truths, what is learned, stop and exact resume."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_dpo import sft_parent, started, work
from test_scoring import reward_run, write_adapter

from playground.chat.scoring import score
from playground.data import library
from playground.data.readers import RawRow
from playground.data.rendering import Renderer
from playground.data.report import examine
from playground.models import catalog, loading
from playground.models.adapters import Adapters
from playground.runs import run as runs
from playground.settings import SettingError
from playground.stages import launch, ppo, ppo_losses, ppo_setup, ppo_state
from playground.stages.inputs import StageError
from playground.stages.ppo import PPOSettings
from playground.stages.ppo_trainer import POLICY, PPO, Roles
from playground.stages.rewards import Rewards

SMALL = {"per_device_train_batch_size": 8, "response_length": 12, "lora_r": 4, "micro_batch_size": 4, "eval_prompts": 4}
QUICK = {**SMALL, "max_steps": 3, "learning_rate": 1e-2, "probe_prompts": "", "rules": "keyword: e"}
WEIGHTS = "adapter_model.safetensors"


class Pays:
    """Any function of an answer's text and whether it ended, as a reward."""

    def __init__(self, worth):
        self.worth = worth

    def pay(self, texts, ended, raw):
        return Rewards([self.worth(text, done) for text, done in zip(texts, ended, strict=True)], list(raw), [])


def questions(count=40):
    rows = [RawRow(i, {"prompt": f"Say {i} again, please.", "completion": f"{i}!"}, None) for i in range(count)]
    return library.store(examine(rows), "sums", "a test")


def lora(base, r=4):
    return loading.attach_lora(loading.load_base(base, loading.placement("none")), r, 2 * r, 0.0, "all-linear")


def stir(parameters, seed, size=0.05):
    random = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=size, generator=random)


def trainer_on(folder, payer=None, critic="shared", seed=0, **values):
    """A PPO trainer on the tiny model, its reference the base itself."""
    base, renderer = catalog.prepare(str(folder)), Renderer(folder)
    torch.manual_seed(seed)
    adapters = Adapters(lora(base))
    head = torch.nn.Linear(64, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    if critic == "adapter":
        adapters.copy(POLICY, "value")
    roles = Roles(adapters, None, "value" if critic == "adapter" else POLICY, head)
    adapters.train_only(*dict.fromkeys((POLICY, roles.critic)))
    settings = PPOSettings.parse({**SMALL, "seed": seed, "critic": critic, **values})
    return PPO(settings, roles, renderer, payer or Pays(lambda text, done: 1.0))


def prompts_for(folder, count=8):
    renderer = Renderer(folder)
    return [renderer.prompt_ids([{"role": "user", "content": f"Say {i}"}]) for i in range(count)]


@pytest.fixture
def start(tiny_model, monkeypatch):
    def made(parent=None, **values):
        return started(tiny_model, monkeypatch, questions(), "ppo", parent, **{**QUICK, "max_length": 128, **values})

    return made


def train(run):
    ppo.main(PPOSettings.parse(run.request["settings"]), run)
    return run


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


# --- a whole run


def test_a_run_trains_only_the_adapter_and_leaves_every_trace(tiny_model, start, monkeypatch):
    before = hashes(tiny_model)
    run = train(start(eval_steps=2))
    assert hashes(tiny_model) == before
    weights = load_file(run.adapter / WEIGHTS)
    assert all(".lora_" in name for name in weights)
    assert any(tensor.abs().sum() > 0 for name, tensor in weights.items() if "lora_B" in name)
    events = run.metrics()
    assert [e["step"] for e in events if e["kind"] == "train"] == [1, 2, 3]
    assert [e["step"] for e in events if e["kind"] == "eval"] == [0, 2, 3]
    logged = {name for e in events for name in e["values"]}
    assert set(ppo.METRICS) - {"checks"} <= logged  # this dataset has no checks of its own
    rows = run.rollouts(2)
    assert len(rows) == 8
    for row in rows:
        assert len(row["tokens"]) == len(row["token_kl"]) <= 12
        assert row["kl"] == pytest.approx(sum(row["token_kl"]), abs=1e-2)
        assert row["prompt"].startswith("Say ")
        assert set(row["parts"]) == {"rules"}
    assert [proof["passed"] for proof in run.proofs()] == [True] * 4
    assert not (run.folder / "checkpoints").exists()
    assert run.receipt()["metrics"]["step"] == 3
    assert "the reward went from" in ppo.outcome(run)


def test_at_the_first_iteration_the_kl_is_0_and_the_ratio_1_and_later_they_are_not(start):
    run = train(start())
    first, *_, last = [e["values"] for e in run.metrics() if e["kind"] == "train"]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert abs(last["objective/kl"]) > 1e-3
    found = {proof["name"]: proof["words"] for proof in run.proofs()}
    assert found["The ratio starts at 1"].startswith("1.000000")
    assert found["The KL starts at 0"].lstrip("-").startswith("0.000000")


def test_a_run_that_continues_another_has_it_as_its_reference(tiny_model, start, monkeypatch):
    parent = sft_parent(tiny_model, monkeypatch)
    run = start(parent=parent, lora_r=16)  # the parent's rank counts
    setup = ppo_setup.open_run(PPOSettings.parse(run.request["settings"]), run)
    assert setup.trainer.roles.reference == "ref"
    saved = load_file(parent.adapter / WEIGHTS)
    for role in (POLICY, "ref"):
        for key, parameter in setup.trainer.roles.adapters.weights(role).items():
            assert torch.equal(parameter, saved[key.replace(f".{role}.", ".")])
    before = hashes(parent.adapter)
    train(run)
    assert run.metrics()[1]["values"]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert hashes(parent.adapter) == before


def test_the_reward_through_the_shared_base_is_the_reward_runs_own_score(tiny_model, start):
    judge = reward_run(tiny_model)
    known = {"mean": 0.5, "std": 2.0, "training": [0.0, 1.0]}
    (judge.adapter / "scores.json").write_text(json.dumps(known))
    judge.update(state="finished")
    run = train(start(reward_run="judge", rules="", missing_eos_penalty=0.0, score_clip=100))
    assert run.request["reward"]["id"] == judge.id
    rows = [row for row in run.rollouts() if row["ended"]]
    cut = [row for row in run.rollouts() if not row["ended"]]
    assert rows or cut
    for row in run.rollouts():
        assert row["score"] == pytest.approx((row["parts"]["reward model"] - 0.5) / 2, abs=1e-5)
    setup = ppo_setup.open_run(PPOSettings.parse(run.request["settings"]), run)
    texts = ["a", "b c", "hello there"]
    asked = [{"role": "user", "content": "Say 1"}]
    renderer = setup.renderer
    encoded = [renderer.answer(asked, text) for text in texts]
    from playground.stages.rollouts import pack

    answers = [e.ids[e.start :] for e in encoded]
    batch = pack([e.ids[: e.start] for e in encoded], answers, setup.trainer.ends, "cpu")
    ours = setup.trainer.reward_scores(batch)
    theirs = [found.score for found in score(judge, [(asked, text) for text in texts])]
    assert ours == pytest.approx(theirs, abs=1e-4)


# --- roles


@pytest.mark.parametrize("critic", ["shared", "adapter"])
def test_policy_and_critic_both_get_gradients_and_nothing_else_changes(tiny_model, critic):
    trainer = trainer_on(tiny_model, Pays(lambda text, done: float(len(text) % 3)), critic=critic, vf_coef=1.0)
    adapters = trainer.roles.adapters
    asked = {name for name, p in adapters.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in adapters.model.named_parameters()}
    trainer.iterate(prompts_for(tiny_model), 1)
    assert {name for name, p in adapters.model.named_parameters() if p.requires_grad} == asked
    changed = {name for name, p in adapters.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= asked
    for role in dict.fromkeys((POLICY, trainer.roles.critic)):
        assert any(f".{role}." in name for name in changed), role
    assert trainer.roles.value_head.weight.abs().sum() > 0


def test_the_critics_own_adapter_starts_as_the_reward_run_scaled_as_it_is_paid(tiny_model, start):
    judge = reward_run(tiny_model)
    (judge.adapter / "scores.json").write_text(json.dumps({"mean": 0.5, "std": 2.0, "training": [0.0]}))
    judge.update(state="finished")
    run = start(reward_run="judge", rules="", critic="adapter", reward_weight=3.0)
    trainer = ppo_setup.open_run(PPOSettings.parse(run.request["settings"]), run).trainer
    batch = trainer.collect(prompts_for(tiny_model), 1).batch
    with trainer._inference():
        values = trainer._critic(batch)
        with trainer.roles.adapters.use("reward"):
            from playground.models.scoring import token_scores

            roles = trainer.roles
            raw = token_scores(roles.causal_lm, roles.reward_head, batch.input_ids, batch.attention_mask)
    assert torch.allclose(values, (raw[:, :-1][batch.mask] - 0.5) / 2 * 3, atol=1e-4)


def test_a_minibatch_gives_the_gradient_of_the_plain_loss_however_it_is_cut(tiny_model):
    grads = []
    for size in (8, 3, 1):
        trainer = trainer_on(tiny_model, Pays(lambda text, done: float(len(text) % 3)), micro_batch_size=size)
        stir(trainer.roles.trained().values(), 3)
        found = trainer.collect(prompts_for(tiny_model), 1)
        trainer.assess(found)
        stir(trainer.roles.trained().values(), 4)  # the policy has moved since
        trainer._minibatch(found.batch, list(range(8)))
        grads.append({name: p.grad.clone() for name, p in trainer.roles.trained().items()})
    plain = plain_gradients(trainer, found.batch)
    for name, gradient in plain.items():
        for other in grads:
            assert torch.allclose(gradient, other[name], atol=2e-5), name


def plain_gradients(trainer, batch):
    """The same loss with loops: a row at a time, whole logits, one token after the other."""
    s, model = trainer.settings, trainer.roles.adapters.model
    trainer.optimizer.zero_grad()
    total, count = torch.zeros(()), int(batch.mask.sum())
    for i in range(len(batch)):
        ids = torch.tensor([batch.prompts[i] + batch.answers[i]])
        with trainer.roles.adapters.use(POLICY):
            output = model(input_ids=ids, output_hidden_states=True)
        logps = output.logits[0].float().log_softmax(-1)
        for t in range(len(batch.prompts[i]) - 1, ids.shape[1] - 1):
            old, advantage, old_value, goal = (
                batch.found[name][i, t] for name in ("logps", "advantages", "values", "returns")
            )
            ratio = torch.exp(logps[t, ids[0, t + 1]] - old)
            kept = min(max(float(ratio.detach()), 1 - s.cliprange), 1 + s.cliprange)
            total = total + torch.max(-advantage * ratio, -advantage * (ratio if kept == ratio else torch.tensor(kept)))
            value = trainer.roles.value_head(output.hidden_states[-1][0, t]).squeeze()
            near = old_value + (value - old_value).clamp(-s.cliprange_value, s.cliprange_value)
            total = total + s.vf_coef * 0.5 * torch.max((value - goal) ** 2, (near - goal) ** 2)
    (total / count).backward()
    return {name: p.grad.clone() for name, p in trainer.roles.trained().items()}


# --- what is learned


@pytest.fixture(scope="module")
def even_model(tiny_model, tmp_path_factory):
    """The tiny model with smaller weights: no token is out of reach at the start."""
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "even")
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 0.5
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_policy_paid_for_one_letter_writes_it(even_model, seed):
    wanted = [""]

    def share(text, done):
        return text.count(wanted[0]) / max(len(text), 1) if wanted[0] else 0.0

    trainer = trainer_on(
        even_model, Pays(share), seed=seed, learning_rate=5e-3, max_steps=60, response_length=16, kl_coef=0.0,
        kl_target=0.0, epoch_kl=0.0, num_mini_batches=2, num_ppo_epochs=4, micro_batch_size=32,
    )  # fmt: skip
    prompts = prompts_for(even_model, 32)
    written = "".join(trainer.collect(prompts, 0).texts)
    wanted[0] = max("abcdefghijklmnopqrstuvwxyz", key=written.count)
    earned = [trainer.iterate(prompts, i).values["objective/scores"] for i in range(1, 61)]
    assert earned[0] < 0.2
    assert sum(earned[-10:]) / 10 >= 0.8


@pytest.mark.parametrize("pad_is_end", [False, True])
def test_a_policy_paid_for_short_answers_learns_to_end_them(tiny_model, tmp_path, pad_is_end):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    if pad_is_end:
        for name in ("config.json", "generation_config.json"):
            config = json.loads((folder / name).read_text())
            end = config["eos_token_id"]
            config["pad_token_id"] = end[0] if isinstance(end, list) else end
            (folder / name).write_text(json.dumps(config))
    trainer = trainer_on(
        folder, Pays(lambda text, done: float(done)), learning_rate=1e-2, max_steps=40, response_length=8,
        kl_coef=0.0, kl_target=0.0, epoch_kl=0.0, per_device_train_batch_size=16,
    )  # fmt: skip
    prompts = prompts_for(folder, 16)
    rates = [trainer.iterate(prompts, i).values["val/eos_rate"] for i in range(1, 41)]
    assert rates[0] < 0.5
    assert rates[-1] > 0.9


# --- when it ends


def test_a_resumed_run_goes_exactly_the_way_it_would_have_gone(start, monkeypatch):
    straight = train(start(max_steps=6, save_steps=2))
    broken = start(max_steps=6, save_steps=2)
    real = ppo_state.save

    def dies(trainer, run, iteration):
        real(trainer, run, iteration)
        if iteration == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(ppo_state, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    monkeypatch.setattr(ppo_state, "save", real)
    broken.rollout(5, {"half": "written"})
    train(broken)
    assert hashes(straight.adapter) == hashes(broken.adapter)
    timeless = [
        [{k: v for k, v in e["values"].items() if not k.startswith("seconds")} for e in run.metrics()]
        for run in (straight, broken)
    ]
    assert timeless[0] == timeless[1]
    assert straight.rollouts() == broken.rollouts()


def test_stop_keeps_the_weights_of_the_last_whole_iteration(start, monkeypatch):
    run = start(max_steps=50)
    real = PPO.update

    def stops(trainer, batch, iteration):
        if iteration == 2:
            run.request_stop()
        return real(trainer, batch, iteration)

    monkeypatch.setattr(PPO, "update", stops)
    work(run, monkeypatch)
    assert run.status().state == "stopped"
    assert run.receipt()["metrics"]["step"] == 2
    assert (run.adapter / WEIGHTS).exists()
    assert (run.folder / "checkpoints" / "checkpoint-2" / "state.json").exists()
    monkeypatch.setattr(PPO, "update", real)
    run.requeue()
    settings = run.request["settings"]
    assert settings["max_steps"] == 50


def test_a_stop_while_answers_are_written_leaves_the_iteration_out(start, monkeypatch):
    run = start(max_steps=50)
    real = PPO.collect

    def stops(trainer, prompts, iteration):
        if iteration == 3:
            run.request_stop()
        return real(trainer, prompts, iteration)

    monkeypatch.setattr(PPO, "collect", stops)
    work(run, monkeypatch)
    assert run.status().state == "stopped"
    assert run.receipt()["metrics"]["step"] == 2


def test_a_run_over_its_kl_budget_stops_itself_and_says_why(start, monkeypatch):
    run = work(start(max_steps=50, kl_budget=0.01, kl_coef=0.0, kl_target=0.0), monkeypatch)
    assert run.status().state == "finished"
    assert "Stopped itself at iteration " in run.status().message
    assert run.status().step < 50
    assert "over the KL budget" in run.status().message
    assert run.metrics()[-1]["kind"] == "eval"


def test_epochs_end_where_a_minibatch_has_drifted_too_far(tiny_model):
    worth = Pays(lambda text, done: float(len(text) % 3))
    free = trainer_on(tiny_model, worth, learning_rate=1e-2, num_ppo_epochs=8, epoch_kl=0.0)
    held = trainer_on(tiny_model, worth, learning_rate=1e-2, num_ppo_epochs=8, epoch_kl=1e-3)
    prompts = prompts_for(tiny_model)
    assert free.iterate(prompts, 1).values["val/updates"] == 16
    assert held.iterate(prompts, 1).values["val/updates"] < 16


def test_an_update_whose_gradient_overflows_is_left_out(tiny_model, monkeypatch):
    trainer = trainer_on(tiny_model, Pays(lambda text, done: float(len(text) % 3)), num_ppo_epochs=1)
    before = {name: p.detach().clone() for name, p in trainer.roles.trained().items()}
    learn = trainer._minibatch

    def overflowing(batch, chosen):
        seen = learn(batch, chosen)
        next(p for p in trainer.roles.trained().values() if p.grad is not None).grad.view(-1)[0] = float("inf")
        return seen

    monkeypatch.setattr(trainer, "_minibatch", overflowing)
    assert trainer.iterate(prompts_for(tiny_model), 1).values["val/updates"] == 0
    assert all(torch.equal(p, before[name]) for name, p in trainer.roles.trained().items())
    monkeypatch.setattr(trainer, "_minibatch", learn)
    assert trainer.iterate(prompts_for(tiny_model), 2).values["val/updates"] > 0
    assert not all(torch.equal(p, before[name]) for name, p in trainer.roles.trained().items())


def test_the_kl_coefficient_follows_its_target(tiny_model):
    trainer = trainer_on(tiny_model, kl_coef=0.1, kl_target=5.0, kl_horizon=8)
    trainer.iterate(prompts_for(tiny_model), 1)
    assert trainer.kl_coef == pytest.approx(ppo_losses.next_kl_coef(0.1, 0.0, 5.0, 8, 8)) == pytest.approx(0.08)


# --- what is refused before anything is queued


def test_a_run_needs_something_to_be_rewarded_for(start):
    with pytest.raises(SettingError, match="Nothing would be rewarded: sums has no checks"):
        start(rules="")


def test_a_reward_run_must_be_one_that_scores_this_base(tiny_model, start, monkeypatch):
    parent = sft_parent(tiny_model, monkeypatch)
    with pytest.raises(SettingError, match="is not a reward model"):
        start(reward_run=parent.name)
    judge = reward_run(tiny_model)
    with pytest.raises(SettingError, match="is still queued"):
        start(reward_run="judge")
    judge.update(state="finished")
    with pytest.raises(SettingError, match="ended before its scores were measured"):
        start(reward_run="judge")
    with pytest.raises(ValueError, match="There is no run called 'nobody'"):
        start(reward_run="nobody")


def test_a_reward_run_that_changed_or_went_since_is_told(tiny_model, start):
    judge = reward_run(tiny_model)
    (judge.adapter / "scores.json").write_text(json.dumps({"mean": 0.0, "std": 1.0, "training": [0.0]}))
    judge.update(state="finished")
    run = start(reward_run="judge")
    with pytest.raises(ValueError, match="needs judge and has not ended"):
        judge.delete()
    write_adapter(judge, tiny_model, 5, scorer=True)
    with pytest.raises(StageError, match="judge was trained further since"):
        train(run)
    shutil.rmtree(judge.adapter)
    with pytest.raises(StageError, match="judge, which this run needs, has been deleted"):
        train(run)


def test_prompt_and_answer_must_fit_the_model(start):
    with pytest.raises(SettingError, match="holds 512 tokens"):
        start(max_length=504, response_length=12)
    with pytest.raises(SettingError, match="No prompt has at most 16 tokens"):
        start(max_length=16)
    with pytest.raises(SettingError, match="Minibatches: there are fewer rollouts"):
        start(num_mini_batches=9)


def test_every_dataset_has_prompts(tiny_model, monkeypatch):
    from test_dpo import pairs

    assert launch.stage("ppo").COLUMNS == "prompts"
    run = started(tiny_model, monkeypatch, pairs(), "ppo", **{**QUICK, "max_length": 128})
    assert runs.find(run.id).request["dataset"]["rows"][0] > 0
    assert library.find("pocket-tutor", "prompts").name == "pocket-tutor"


def test_prompts_come_in_shuffled_passes_that_depend_on_the_seed_alone(start):
    run = start()
    setup = ppo_setup.open_run(PPOSettings.parse(run.request["settings"]), run)
    count = len(setup.prompts)
    drawn = [tuple(p) for i in range(1, 2 * count // 8 + 1) for p in setup.batch(i)]
    assert set(drawn[:count]) == set(map(tuple, setup.prompts))
    assert drawn[: count // 2] != drawn[count : count + count // 2]
    assert setup.batch(3) == setup.batch(3)


def test_a_preset_that_needs_a_reward_run_takes_the_newest_or_says_that_there_is_none(tiny_model):
    with pytest.raises(SettingError, match="The preset pocket-tutor needs a finished reward run; train one first"):
        launch.preset_settings("ppo", "pocket-tutor")
    assert "reward_run" not in launch.preset_settings("ppo", "pocket-tutor", {"reward_run": "mine"})
    made = []
    for name in ("old", "new", "unmeasured"):
        made.append(reward_run(tiny_model, name=name))
        made[-1].update(state="finished")
        if name != "unmeasured":
            (made[-1].adapter / "scores.json").write_text(json.dumps({"mean": 0.0, "std": 1.0, "training": [0.0]}))
    assert launch.preset_settings("ppo", "pocket-tutor")["reward_run"] == made[1].id


@pytest.mark.parametrize("name", sorted(launch.presets("ppo")))
def test_every_preset_is_read_and_has_prompts_enough(name):
    preset = launch.presets("ppo")[name]
    settings = PPOSettings.parse(preset["settings"])
    assert len({row.asked[0]["content"] for row in library.find(preset["data"], "prompts").rows("train")}) >= 200
    assert settings.kl_budget > 0
