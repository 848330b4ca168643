"""The numbers under every curve, against plain loops and formulas written out here: log-probs, losses, scores."""

import math

import pytest
import torch

from playground.data.pairs import Pair
from playground.data.rendering import Renderer
from playground.data.tokens import training_pairs
from playground.models import catalog, loading
from playground.models.adapters import open_adapters
from playground.models.scoring import last_scores, read_head, score_rows, token_scores
from playground.runs import run as runs
from playground.stages import dpo, logprobs, trl_bridge, trl_trainers
from playground.stages.dpo import DPOSettings
from playground.stages.logprobs import learned_tokens
from playground.stages.reward import RewardSettings

LOSSES = ("sigmoid", "ipo", "hinge", "robust", "sigmoid+sft")
WORDS = ["a", "blue", "sky", "is", "what", "there", "was", "before", "the", "rain", "came", "down", "on", "all"]


@pytest.fixture
def base(tiny_model):
    return catalog.prepare(str(tiny_model))


@pytest.fixture
def pairs(tiny_model):
    """Fifteen pairs whose sides and prompts differ in length."""
    rows = [
        Pair(
            i,
            [{"role": "user", "content": f"Say {' '.join(WORDS[: i % 5])} {i}?"}],
            " ".join(WORDS[i % 7 : i % 7 + 1 + i % 4]),
            " ".join(WORDS[i % 3 : i % 3 + 1 + i % 6]) + "!",
        )
        for i in range(15)
    ]
    return training_pairs(rows, Renderer(tiny_model), 128)


def stir(model, size=0.05):
    """Gives every adapter weight that starts at zero a value, so that the policy is not the base."""
    values = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size, generator=values)
    return model


def lora(base, quantization="none", scorer=False):
    torch.manual_seed(0)
    where = loading.placement(quantization)
    return stir(loading.attach_lora(loading.load_base(base, where, scorer), 4, 8, 0.0, "all-linear"))


def arguments(settings, heldout=True):
    return trl_bridge.arguments(settings, loading.placement(settings.quantization), runs.create("x", {}), heldout)


def dpo_trainer(base, rows, **values):
    settings = DPOSettings(**values)
    known = {**arguments(settings, bool(rows[1])), **dpo.loss_arguments(settings)}
    model = lora(base, settings.quantization)
    trainer = trl_trainers.dpo_trainer(model, loading.load_tokenizer(base), known, rows)
    trainer.model.eval()
    return trainer, settings


def reward_trainer(base, rows, **values):
    settings = RewardSettings(**values)
    known = arguments(settings, bool(rows[1]))
    known["center_rewards_coefficient"] = settings.center_rewards_coefficient or None
    model = lora(base, settings.quantization, scorer=True)
    trainer = trl_trainers.reward_trainer(model, loading.load_tokenizer(base), known, rows)
    trainer.model.eval()
    return trainer


def loss_of(trainer, table):
    return trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(list(table))))


def plain_logps(model, prompt, answer):
    """log p of each answer token, one row at a time, from all logits. (answer,) with gradient."""
    ids = torch.tensor([prompt + answer])
    log_probs = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return log_probs[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]]


def plain_sums(model, rows):
    """(chosen, rejected) summed log-probs of each pair."""
    return [
        (plain_logps(model, row.prompt, row.chosen).sum(), plain_logps(model, row.prompt, row.rejected).sum())
        for row in rows
    ]


def plain_scores(model, rows):
    """(chosen, rejected) score of each pair, one row at a time, from the last hidden state."""
    inner = model.get_base_model()

    def one(ids):
        hidden = inner.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        return inner.score(hidden.float())[0]

    return [(one(row.prompt + row.chosen), one(row.prompt + row.rejected)) for row in rows]


# --- learned tokens


def batch():
    """Three rows of different length, padded on the right; some tokens are learned, the first never is."""
    random = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 250, (3, 12), generator=random)
    mask = (torch.arange(12)[None] < torch.tensor([12, 7, 9])[:, None]).long()
    learned = (torch.rand(ids.shape, generator=random) < 0.6) & mask.bool()
    learned[:, 0] = False
    return ids, mask, ids.masked_fill(~learned, -100)


def slow(model, ids, mask, labels):
    """{(row, place): (log p, right, entropy, mean logit)}, from logits by log_softmax and gather."""
    found = {}
    for i in range(len(ids)):
        logits = model(input_ids=ids[i : i + 1, : mask[i].sum()]).logits[0]
        log_probs = logits.log_softmax(-1)
        for t in range(1, logits.shape[0]):
            if labels[i, t] != -100:
                row = log_probs[t - 1]
                logp = row.gather(0, labels[i, t])
                entropy = -(row.exp() * row).sum()
                found[i, t - 1] = (logp, logits[t - 1].argmax() == labels[i, t], entropy, logits[t - 1].mean())
    return found


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("details", [True, False])
@pytest.mark.parametrize("head_rows", [256, 4, 1])
def test_learned_tokens_equal_a_slow_loop_over_all_logits(base, monkeypatch, head_rows, details, grad):
    monkeypatch.setattr(logprobs, "HEAD_ROWS", head_rows)
    model = lora(base)
    with torch.set_grad_enabled(grad):
        said = learned_tokens(model.get_base_model(), *batch(), details=details)
    expected = slow(model, *batch())
    assert sorted(expected) == [tuple(place) for place in said.mask.nonzero().tolist()]
    rows = [torch.stack([torch.as_tensor(v).float() for v in values]) for _, values in sorted(expected.items())]
    logps, right, entropy, mean = torch.stack(rows).detach().unbind(1)
    torch.testing.assert_close(said.logps.detach(), logps, atol=1e-5, rtol=1e-5)
    assert torch.equal(said.right, right.bool())
    for found, wanted in ((said.entropy, entropy), (said.mean_logits, mean)):
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted if details else torch.zeros_like(wanted), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_rows", [256, 4])
def test_learned_tokens_have_the_gradient_of_the_slow_loop(base, monkeypatch, head_rows):
    monkeypatch.setattr(logprobs, "HEAD_ROWS", head_rows)
    grads = []
    for ours in (True, False):
        model = lora(base)
        weights = torch.linspace(-1, 1, int((batch()[2][:, 1:] != -100).sum()))
        if ours:
            logps = learned_tokens(model.get_base_model(), *batch(), details=True).logps
        else:
            logps = torch.cat([values[0][None] for _, values in sorted(slow(model, *batch()).items())])
        (logps * weights).sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(grad.abs().max() > 0 for grad in grads[1].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("details", [True, False])
def test_a_batch_without_a_learned_token_is_empty_and_still_has_a_gradient(base, details):
    ids, mask, labels = batch()
    model = lora(base)
    said = learned_tokens(model.get_base_model(), ids, mask, torch.full_like(labels, -100), details)
    assert [len(values) for values in said[1:]] == [0, 0, 0, 0, 0]
    assert not said.mask.any()
    assert not said.spread(said.logps).any()
    said.logps.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_values_are_spread_to_the_places_of_their_tokens(base):
    said = learned_tokens(lora(base).get_base_model(), *batch())
    spread = said.spread(said.logps)
    assert spread.shape == (3, 11)
    assert torch.equal(spread[said.mask], said.logps)
    assert not spread[~said.mask].any()


# --- DPO


def plain_dpo(settings, model, rows, reference):
    """(loss, metrics) of these pairs by the papers' formulas, a pair at a time."""
    beta, smooth = settings.beta, settings.label_smoothing
    losses, found = [], []
    for row, (policy_c, policy_r), (ref_c, ref_r) in zip(rows, plain_sums(model, rows), reference, strict=True):
        chosen, rejected = policy_c - ref_c, policy_r - ref_r
        margin = beta * (chosen - rejected)
        sure, unsure = torch.sigmoid(margin).log(), torch.sigmoid(-margin).log()
        if settings.loss_type == "ipo":
            losses.append((chosen / len(row.chosen) - rejected / len(row.rejected) - 1 / (2 * beta)) ** 2)
        elif settings.loss_type == "hinge":
            losses.append(torch.relu(1 - margin))
        elif settings.loss_type == "robust":
            losses.append((-(1 - smooth) * sure + smooth * unsure) / (1 - 2 * smooth))
        else:
            losses.append(-sure)
        found.append([policy_c, policy_r, beta * chosen, beta * rejected, margin, margin > 0])
    loss = torch.stack(losses).mean()
    if settings.loss_type == "sigmoid+sft":
        tokens = torch.cat([plain_logps(model, row.prompt, row.chosen) for row in rows])
        loss = loss - settings.sft_weight * tokens.mean()
    names = ("logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/margins",
             "rewards/accuracies")  # fmt: skip
    columns = zip(*([float(torch.as_tensor(value).detach()) for value in values] for values in found), strict=True)
    return loss, {name: sum(column) / len(rows) for name, column in zip(names, columns, strict=True)}


def base_sums(model, rows):
    """The reference: the same model with its adapter switched off."""
    with torch.no_grad(), model.disable_adapter():
        return [(float(c), float(r)) for c, r in plain_sums(model, rows)]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_dpo_loss_and_its_metrics_are_the_plain_formulas(base, pairs, loss_type, quantization):
    rows = pairs[:6]
    values = {"loss_type": loss_type, "beta": 0.3, "label_smoothing": 0.2, "sft_weight": 0.7}
    trainer, settings = dpo_trainer(base, [rows, []], quantization=quantization, **values)
    reference = base_sums(trainer.model, rows)
    trl_trainers.set_reference(trainer, [rows, []], [reference])
    with torch.no_grad():
        loss = loss_of(trainer, trainer.train_dataset)
        expected, metrics = plain_dpo(settings, trainer.model, rows, reference)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5, abs=1e-5)
    assert abs(metrics["rewards/margins"]) > 1e-3  # policy and reference do differ
    for name, value in metrics.items():
        assert trainer._metrics["eval"][name] == [pytest.approx(value, rel=1e-5, abs=1e-5)], name


@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_dpo_loss_has_the_gradient_of_the_plain_formula(base, pairs, loss_type):
    rows, grads = pairs[:4], []
    for ours in (True, False):
        trainer, settings = dpo_trainer(base, [rows, []], loss_type=loss_type, beta=0.3)
        reference = base_sums(trainer.model, rows)
        trl_trainers.set_reference(trainer, [rows, []], [reference])
        loss = (
            loss_of(trainer, trainer.train_dataset) if ours else plain_dpo(settings, trainer.model, rows, reference)[0]
        )
        loss.backward()
        grads.append({name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad})
    assert any(grad.abs().max() > 0 for grad in grads[1].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=2e-5, rtol=1e-4)


def test_the_other_dpo_metrics_are_plain_means_over_answer_tokens(base, pairs):
    rows = pairs[:5]
    trainer, _ = dpo_trainer(base, [rows, []])
    with torch.no_grad():
        loss_of(trainer, trainer.train_dataset)
        logits = {}
        for side in ("chosen", "rejected"):
            whole = [trainer.model(input_ids=torch.tensor([r.prompt + getattr(r, side)])).logits[0] for r in rows]
            logits[side] = torch.cat([w[len(r.prompt) - 1 : -1] for w, r in zip(whole, rows, strict=True)])
    both = torch.cat(list(logits.values())).log_softmax(-1)
    answers = torch.tensor([token for row in rows for token in row.chosen])
    expected = {
        "entropy": float(-(both.exp() * both).sum(-1).mean()),
        "mean_token_accuracy": float((logits["chosen"].argmax(-1) == answers).float().mean()),
        "logits/chosen": float(logits["chosen"].mean()),
        "logits/rejected": float(logits["rejected"].mean()),
    }
    for name, value in expected.items():
        assert trainer._metrics["eval"][name] == [pytest.approx(value, rel=1e-5, abs=1e-5)], name


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_sequence_log_probs_are_the_plain_sums_and_leave_no_trace(base, pairs, quantization):
    trainer, _ = dpo_trainer(base, [pairs, []], quantization=quantization)
    found = trainer.sequence_logps(list(trainer.train_dataset))
    with torch.no_grad():
        expected = plain_sums(trainer.model, pairs)
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx([float(value) for value in wanted], rel=1e-5, abs=1e-5)
    assert not trainer._metrics["eval"] and not trainer._metrics["train"]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("make", [dpo_trainer, reward_trainer])
def test_a_trainer_takes_over_the_adapter_bit_for_bit_and_adds_no_other(base, pairs, make, quantization):
    before = {
        name: p.detach().clone()
        for name, p in lora(base, quantization, scorer=make is reward_trainer).named_parameters()
        if p.requires_grad
    }
    made = make(base, [pairs, []], quantization=quantization)
    model = (made[0] if isinstance(made, tuple) else made).model
    after = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert before.keys() == after.keys()
    for name, parameter in after.items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name]), name
    assert set(model.peft_config) == {"default"}


# --- reward


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_reward_loss_and_its_metrics_are_plain_bradley_terry(base, pairs, centring, quantization):
    rows = pairs[:6]
    trainer = reward_trainer(base, [rows, []], center_rewards_coefficient=centring, quantization=quantization)
    with torch.no_grad():
        loss = loss_of(trainer, trainer.train_dataset)
        scores = [(float(c), float(r)) for c, r in plain_scores(trainer.model, rows)]
    margins = [c - r for c, r in scores]
    expected = sum(math.log1p(math.exp(-m)) for m in margins) / 6 + centring * sum((c + r) ** 2 for c, r in scores) / 6
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    both = [value for pair in scores for value in pair]
    metrics = {
        "accuracy": sum(m > 0 for m in margins) / 6,
        "margin": sum(margins) / 6,
        "mean_reward": sum(both) / 12,
        "min_reward": min(both),
        "max_reward": max(both),
    }
    for name, value in metrics.items():
        assert trainer._metrics["eval"][name] == [pytest.approx(value, rel=1e-5, abs=1e-5)], name
    assert 0 < metrics["accuracy"] < 1


def test_the_reward_loss_has_the_gradient_of_the_plain_formula_in_adapter_and_head(base, pairs):
    rows, grads = pairs[:4], []
    for ours in (True, False):
        trainer = reward_trainer(base, [rows, []], center_rewards_coefficient=0.1)
        if ours:
            loss = loss_of(trainer, trainer.train_dataset)
        else:
            scores = plain_scores(trainer.model, rows)
            loss = sum(-torch.sigmoid(c - r).log() + 0.1 * (c + r) ** 2 for c, r in scores) / 4
        loss.backward()
        grads.append({name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad})
    assert any(".score." in name for name in grads[0])
    assert all(grad.abs().max() > 0 for grad in grads[1].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=2e-5, rtol=1e-4)


# --- means over batches of different size


def test_held_out_reward_metrics_are_plain_means_over_rows_though_the_last_batch_is_smaller(base, pairs):
    trainer = reward_trainer(base, [pairs[:4], pairs[:11]], center_rewards_coefficient=0.05)
    assert trainer.args.per_device_eval_batch_size == 8
    found = trainer.evaluate()
    with torch.no_grad():
        scores = [(float(c), float(r)) for c, r in plain_scores(trainer.model, pairs[:11])]
    margins = [c - r for c, r in scores]
    assert found["eval_margin"] == pytest.approx(sum(margins) / 11, abs=1e-5)
    assert found["eval_accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 11, abs=1e-6)
    assert found["eval_mean_reward"] == pytest.approx(sum(map(sum, scores)) / 22, abs=1e-5)
    loss = sum(math.log1p(math.exp(-m)) for m in margins) / 11 + 0.05 * sum((c + r) ** 2 for c, r in scores) / 11
    assert found["eval_loss"] == pytest.approx(loss, abs=1e-5)
    first = trainer.eval_scores.copy()
    for row, wanted in zip(first, scores, strict=True):  # every pair once, in the dataset's order
        assert row == pytest.approx(wanted, abs=1e-5)
    again = trainer.evaluate()  # nothing of the first measurement is left in the second
    assert again["eval_margin"] == pytest.approx(found["eval_margin"], abs=1e-6)
    assert trainer.eval_scores == first


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_held_out_dpo_metrics_are_plain_means_over_rows_though_the_last_batch_is_smaller(base, pairs, loss_type):
    rows = [pairs[:4], pairs[:11]]
    trainer, settings = dpo_trainer(base, rows, loss_type=loss_type, beta=0.3)
    reference = [base_sums(trainer.model, part) for part in rows]
    trl_trainers.set_reference(trainer, rows, reference)
    found = trainer.evaluate()
    with torch.no_grad():
        loss, metrics = plain_dpo(settings, trainer.model, rows[1], reference[1])
    assert found["eval_loss"] == pytest.approx(float(loss), rel=1e-5, abs=1e-5)
    for name, value in metrics.items():
        assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-5, abs=1e-5), name


# --- scores


def scorer(base):
    """A causal base with a stirred adapter, and a head."""
    head = torch.nn.Linear(64, 1, bias=False)
    torch.nn.init.normal_(head.weight, std=0.1, generator=torch.Generator().manual_seed(2))
    return lora(base).eval(), head


def padded(rows, side, pad, extra=0):
    """(ids, mask) of all rows in one batch, padded on one side with this token."""
    width = max(map(len, rows)) + extra
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        ids.append([*row, *[pad] * gap] if side == "right" else [*[pad] * gap, *row])
        mask.append([1] * len(row) + [0] * gap if side == "right" else [0] * gap + [1] * len(row))
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("pad", ["a spare token", "the end token"])
@torch.no_grad()
def test_a_score_is_the_same_alone_and_in_any_padded_batch(base, pairs, side, extra, pad):
    model, head = scorer(base)
    rows = [row.prompt + row.chosen for row in pairs[:5]]
    assert len({len(row) for row in rows}) > 2
    end = rows[0][-1]
    assert all(row[-1] == end for row in rows)
    alone = [token_scores(model, head, *padded([row], "right", 0))[0] for row in rows]
    ids, mask = padded(rows, side, end if pad == "the end token" else 0, extra)
    together = token_scores(model, head, ids, mask)
    torch.testing.assert_close(last_scores(together, mask), torch.stack([s[-1] for s in alone]), atol=1e-5, rtol=1e-5)
    for scores, attended, wanted in zip(together, mask, alone, strict=True):
        torch.testing.assert_close(scores[attended.bool()], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_left_padding_moves_no_score_where_positions_are_absolute(pairs):
    from transformers import GPT2Config, GPT2LMHeadModel  # Llama's positions are relative and would not tell

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=256, n_embd=64, n_layer=1, n_head=2)).eval()
    torch.nn.init.normal_(model.transformer.wpe.weight)
    head = torch.nn.Linear(64, 1)
    rows = [row.prompt + row.chosen for row in pairs[:4]]
    alone = [token_scores(model, head, *padded([row], "right", 0))[0, -1] for row in rows]
    ids, mask = padded(rows, "left", 0, 7)
    found = last_scores(token_scores(model, head, ids, mask), mask)
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scores_of_rows_are_plain_scores_after_each_prefix(base, pairs):
    model, head = scorer(base)
    rows = [row.prompt + row.chosen for row in pairs[:3]]
    inner = model.get_base_model()
    for row, scores in zip(rows, score_rows(model, head, rows), strict=True):
        assert len(scores) == len(row)
        for t in range(1, len(row) + 1):
            hidden = inner.base_model(input_ids=torch.tensor([row[:t]])).last_hidden_state[0, -1]
            assert scores[t - 1] == pytest.approx(float(head(hidden)), abs=1e-5)


def test_rows_are_scored_in_their_order_whatever_the_batch_and_a_stop_leaves_the_rest_empty(base, pairs):
    model, head = scorer(base)
    rows = [row.prompt + row.rejected for row in pairs]
    done = []
    one = score_rows(model, head, rows, batch=1)
    many = score_rows(model, head, rows, done.append, batch=4)
    assert done == [4, 8, 12, 15]
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    cut = score_rows(model, head, rows, should_stop=iter([False, True]).__next__, batch=4)
    assert sum(map(bool, cut)) == 4
    assert all(not scores or scores == pytest.approx(wanted, abs=1e-5) for scores, wanted in zip(cut, one, strict=True))
    assert score_rows(model, head, []) == []


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_trainers_scores_are_the_explorers_on_the_saved_adapter_over_the_causal_base(
    base, pairs, tmp_path, quantization
):
    trainer = reward_trainer(base, [pairs, pairs], quantization=quantization)
    trainer.evaluate()
    loading.save_adapter(trainer.model, base, "", tmp_path / "adapter")

    causal = loading.load_base(base, loading.placement(quantization))
    assert type(causal).__name__.endswith("ForCausalLM")
    adapters, head = open_adapters(causal, "judge", tmp_path / "adapter"), read_head(tmp_path / "adapter")
    with adapters.use("judge"):
        chosen, rejected = (
            score_rows(adapters.model, head, [row.prompt + getattr(row, side) for row in pairs])
            for side in ("chosen", "rejected")
        )
    for seen, c, r in zip(trainer.eval_scores, chosen, rejected, strict=True):
        assert seen == pytest.approx((c[-1], r[-1]), abs=1e-4)
    assert len({round(c[-1], 3) for c in chosen}) > 5
