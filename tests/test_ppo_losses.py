"""PPO's arithmetic against slow loops over plain numbers, written out here: a place at a time, a row at a time."""

import math
import random
import statistics
from itertools import pairwise

import pytest
import torch

from playground.stages import ppo_losses as ppo
from playground.stages.rollouts import pack

SEEDS = range(5)


def numbers(dice, rows, width, size=1.0):
    return torch.tensor([[dice.gauss(0, size) for _ in range(width)] for _ in range(rows)])


def ragged(dice, rows=5, width=11):
    """(B, T) bool: each row's answer is one span of at least a token that begins behind place 0."""
    mask = torch.zeros(rows, width, dtype=torch.bool)
    for row in mask:
        first = dice.randrange(1, width - 1)
        row[first : dice.randrange(first + 1, width + 1)] = True
    return mask


def spans(mask):
    """[(first, last)] of each row's answer, found by looking at each place in turn."""
    found = []
    for row in mask.tolist():
        places = [t for t, inside in enumerate(row) if inside]
        assert places == list(range(places[0], places[-1] + 1))
        found.append((places[0], places[-1]))
    return found


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), atol=1e-5, rtol=1e-4)


# --- places and rewards


@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_place_is_that_of_the_last_answer_token(seed):
    mask = ragged(random.Random(seed), rows=20)
    assert ppo.last_places(mask).tolist() == [last for _, last in spans(mask)]


def test_the_last_place_is_right_at_both_edges_and_for_a_single_token():
    mask = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    assert ppo.last_places(mask).tolist() == [1, 3, 3, 0]


@pytest.mark.parametrize("kl_coef", [0.0, 0.05, 3.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_rewards_are_the_kl_s_price_at_every_token_and_the_score_at_the_last(seed, kl_coef):
    dice = random.Random(seed)
    mask = ragged(dice)
    logps, ref_logps = numbers(dice, *mask.shape), numbers(dice, *mask.shape)
    scores = [dice.gauss(0, 2) for _ in mask]
    expected = [[0.0] * mask.shape[1] for _ in mask]
    for b, (first, last) in enumerate(spans(mask)):
        for t in range(first, last + 1):
            expected[b][t] = -kl_coef * (float(logps[b, t]) - float(ref_logps[b, t]))
        expected[b][last] += scores[b]
    close(ppo.token_rewards(logps, ref_logps, mask, torch.tensor(scores), kl_coef), expected)


def test_the_score_lands_on_the_end_token_even_where_padding_is_the_end_token_too():
    batch = pack([[5, 6, 7], [5]], [[8, 9, 0], [8, 0, 0, 0]], {0}, "cpu")  # padding is token 0 as well
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 0], [5, 8, 0, 0, 0, 0]]
    zeros = torch.zeros(batch.mask.shape)
    found = ppo.token_rewards(zeros, zeros, batch.mask, torch.tensor([2.0, 3.0]), 0.1)
    assert found.tolist() == [[0, 0, 0, 0, 2], [0, 3, 0, 0, 0]]


def test_rewards_leave_what_they_were_made_of_as_it_was():
    dice = random.Random(1)
    mask = ragged(dice)
    logps, ref_logps, scores = numbers(dice, *mask.shape), numbers(dice, *mask.shape), torch.ones(len(mask))
    before = [tensor.clone() for tensor in (logps, ref_logps, mask, scores)]
    ppo.token_rewards(logps, ref_logps, mask, scores, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, (logps, ref_logps, mask, scores), strict=True))


# --- advantages


def plain_advantages(rewards, values, mask, gamma, lam):
    """A(t) = Σ_k (γλ)^k δ(t+k), δ(t) = r(t) + γ·V(t+1) − V(t), within each answer; V behind it is 0."""
    found = [[0.0] * mask.shape[1] for _ in mask]
    for b, (first, last) in enumerate(spans(mask)):
        delta = {
            t: float(rewards[b, t]) + (gamma * float(values[b, t + 1]) if t < last else 0.0) - float(values[b, t])
            for t in range(first, last + 1)
        }
        for t in range(first, last + 1):
            found[b][t] = sum((gamma * lam) ** k * delta[t + k] for k in range(last - t + 1))
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (1.0, 1.0), (0.9, 0.0), (0.97, 0.5), (0.0, 0.95)])
@pytest.mark.parametrize("seed", SEEDS)
def test_advantages_are_the_discounted_sum_of_all_later_surprises(seed, gamma, lam):
    dice = random.Random(seed)
    mask = ragged(dice)
    rewards, values = numbers(dice, *mask.shape) * mask, numbers(dice, *mask.shape) * mask
    found = ppo.advantages(rewards, values, mask, gamma, lam)
    close(found, plain_advantages(rewards, values, mask, gamma, lam))
    assert not found[~mask].any()


def test_what_stands_outside_the_answer_moves_no_advantage():
    dice = random.Random(7)
    mask = ragged(dice)
    rewards, values = numbers(dice, *mask.shape) * mask, numbers(dice, *mask.shape) * mask
    noise = numbers(dice, *mask.shape, size=100) * ~mask
    clean = ppo.advantages(rewards, values, mask, 0.9, 0.8)
    assert torch.equal(ppo.advantages(rewards + noise, values - noise, mask, 0.9, 0.8), clean)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_gamma_and_lambda_1_the_returns_are_the_rewards_still_to_come(seed):
    dice = random.Random(seed)
    mask = ragged(dice)
    rewards, values = numbers(dice, *mask.shape) * mask, numbers(dice, *mask.shape) * mask
    returns = ppo.advantages(rewards, values, mask, 1.0, 1.0) + values
    expected = [
        [sum(row[t:]) if inside else 0.0 for t, inside in enumerate(marks)]
        for row, marks in zip(rewards.tolist(), mask.tolist(), strict=True)
    ]
    close(returns, expected)


def test_a_perfect_critic_leaves_no_advantage():
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]).bool()
    rewards = torch.tensor([[0, 0, 0, 2.0, 0], [0, 0, 0, 0, -1.0]])
    values = torch.tensor([[0, 2.0, 2.0, 2.0, 0], [0, 0, -1.0, -1.0, -1.0]])
    assert not ppo.advantages(rewards, values, mask, 1.0, 0.95).any()


# --- whitening


@pytest.mark.parametrize("shift_mean", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_whitening_divides_by_the_biased_deviation_of_the_masked_values(seed, shift_mean):
    dice = random.Random(seed)
    mask = ragged(dice)
    values = numbers(dice, *mask.shape, size=3) + 2
    inside = values[mask].tolist()
    mean, deviation = statistics.fmean(inside), math.sqrt(statistics.pvariance(inside) + 1e-8)
    expected = [
        [((v - mean) / deviation + (0 if shift_mean else mean)) if kept else 0.0 for v, kept in zip(*rows, strict=True)]
        for rows in zip(values.tolist(), mask.tolist(), strict=True)
    ]
    found = ppo.whiten(values, mask, shift_mean)
    close(found, expected)
    assert statistics.fmean(found[mask].tolist()) == pytest.approx(0 if shift_mean else mean, abs=1e-5)
    assert statistics.pvariance(found[mask].tolist()) == pytest.approx(1, abs=1e-4)


def test_whitening_shifts_the_mean_unless_told_otherwise_and_ignores_what_is_outside():
    mask = torch.tensor([[0, 1, 1, 0]]).bool()
    assert ppo.whiten(torch.tensor([[1e6, 3.0, 5.0, -1e6]]), mask).tolist() == [[0, -1, 1, 0]]


def test_equal_values_become_zeros_not_nans():
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]]).bool()
    values = torch.full((2, 3), 4.0)
    assert not ppo.whiten(values, mask).any()
    assert ppo.whiten(values, mask, shift_mean=False).tolist() == (values * mask).tolist()


def test_a_masked_mean_counts_each_token_once():
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]]).bool()
    assert float(ppo.masked_mean(torch.tensor([[9.0, 1, 2], [9, 9, 6]]), mask)) == 3


# --- losses


def plain_policy_loss(logp, old, advantage, cliprange):
    """(loss, ratio) of one token: −min(A·ρ, A·clip(ρ))."""
    ratio = math.exp(logp - old)
    clipped = min(max(ratio, 1 - cliprange), 1 + cliprange)
    return -min(advantage * ratio, advantage * clipped), ratio


@pytest.mark.parametrize("cliprange", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_policy_losses_are_the_clipped_objective_token_by_token(seed, cliprange):
    dice = random.Random(seed)
    old = numbers(dice, 1, 200)[0] - 2
    logps, advantages = old + numbers(dice, 1, 200, size=0.3)[0], numbers(dice, 1, 200)[0]
    losses, ratio = ppo.policy_losses(logps, old, advantages, cliprange)
    each = zip(logps.tolist(), old.tolist(), advantages.tolist(), strict=True)
    expected = [plain_policy_loss(*token, cliprange) for token in each]
    close(losses, [loss for loss, _ in expected])
    close(ratio, [ratio for _, ratio in expected])


# ratio 1.5 or 0.5 with ε = 0.2: only a step that would go further the same way is held back
@pytest.mark.parametrize(("ratio", "advantage", "flows"), [
    (1.0, 2.0, True), (1.0, -2.0, True), (1.5, 2.0, False), (1.5, -2.0, True), (0.5, 2.0, True), (0.5, -2.0, False),
])  # fmt: skip
def test_the_policy_loss_pulls_unless_the_token_has_gone_far_enough_that_way(ratio, advantage, flows):
    logps = torch.tensor([math.log(ratio)], requires_grad=True)
    losses, _ = ppo.policy_losses(logps, torch.zeros(1), torch.tensor([advantage]), 0.2)
    losses.sum().backward()
    assert float(logps.grad) == pytest.approx(-advantage * ratio if flows else 0.0, abs=1e-6)


def test_at_the_old_policy_the_loss_is_minus_the_advantage():
    old, advantages = torch.tensor([-1.0, -20.0]), torch.tensor([0.7, -0.3])
    losses, ratio = ppo.policy_losses(old, old, advantages, 0.2)
    assert torch.equal(losses, -advantages)
    assert ratio.tolist() == [1, 1]


@pytest.mark.parametrize("far", [1000.0, -1000.0])
def test_a_policy_that_went_very_far_has_finite_losses_and_gradients(far):
    logps = torch.tensor([far, far], requires_grad=True)
    losses, ratio = ppo.policy_losses(logps, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2)
    losses.sum().backward()
    assert ratio.isfinite().all() and losses.isfinite().all() and logps.grad.isfinite().all()
    assert float(ratio[0].detach()) == pytest.approx(math.exp(math.copysign(20, far)))


@pytest.mark.parametrize("cliprange", [0.1, 0.2, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_value_losses_are_half_the_larger_square_token_by_token(seed, cliprange):
    dice = random.Random(seed)
    values, old, returns = (numbers(dice, 1, 200)[0] for _ in range(3))
    expected = []
    for v, o, r in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        clipped = min(max(v, o - cliprange), o + cliprange)
        expected.append(max((v - r) ** 2, (clipped - r) ** 2) / 2)
    close(ppo.value_losses(values, old, returns, cliprange), expected)


def test_a_value_that_moved_far_enough_towards_its_return_is_no_longer_pulled():
    values = torch.tensor([0.5, -0.5], requires_grad=True)
    ppo.value_losses(values, torch.zeros(2), torch.ones(2), 0.2).sum().backward()
    assert values.grad.tolist() == [0, -1.5]


# --- KL


@pytest.mark.parametrize("seed", SEEDS)
def test_kl_estimates_are_the_formulas_token_by_token(seed):
    dice = random.Random(seed)
    logps, ref_logps = numbers(dice, 1, 100)[0], numbers(dice, 1, 100)[0]
    pairs = list(zip(logps.tolist(), ref_logps.tolist(), strict=True))
    close(ppo.k1(logps, ref_logps), [p - q for p, q in pairs])
    close(ppo.k3(logps, ref_logps), [math.exp(q) / math.exp(p) - 1 - (q - p) for p, q in pairs])
    assert (ppo.k3(logps, ref_logps) >= 0).all()
    assert not ppo.k1(logps, logps).any()
    assert not ppo.k3(logps, logps).any()


def test_k3_is_finite_and_not_negative_however_far_apart_and_however_near():
    gaps = torch.tensor([1000.0, 100.0, 20.0, 1e-3, 1e-6, 1e-8, 0.0])
    for gap in (gaps, -gaps):
        found = ppo.k3(gap, torch.zeros_like(gap))
        assert found.isfinite().all()
        assert (found >= -1e-6).all()  # exp rounds in fp32


@pytest.mark.parametrize("seed", SEEDS)
def test_both_kl_estimates_have_the_exact_kl_as_their_mean_over_samples_of_the_policy(seed):
    draws = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(4, generator=draws, dtype=torch.float64).mul(0.7).softmax(0) for _ in range(2))
    exact = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    tokens = torch.multinomial(p, 200_000, replacement=True, generator=draws)
    for estimate in (ppo.k1, ppo.k3):
        found = estimate(p.log()[tokens], q.log()[tokens])
        error = float(found.std()) / math.sqrt(len(tokens))
        assert abs(float(found.mean()) - exact) < 4 * error
        assert error < 0.01


# --- explained variance


@pytest.mark.parametrize("seed", SEEDS)
def test_explained_variance_is_the_share_of_the_returns_that_the_critic_foresees(seed):
    dice = random.Random(seed)
    mask = ragged(dice)
    returns = numbers(dice, *mask.shape)
    values = returns * 0.5 + numbers(dice, *mask.shape, size=0.3)
    wanted, left = returns[mask].tolist(), (returns - values)[mask].tolist()
    expected = 1 - statistics.pvariance(left) / statistics.pvariance(wanted)
    assert ppo.explained_variance(values, returns, mask) == pytest.approx(expected, abs=1e-4)
    assert ppo.explained_variance(returns + ~mask * 9, returns, mask) == 1
    assert ppo.explained_variance(torch.full_like(returns, 3.0), returns, mask) == pytest.approx(0, abs=1e-5)
    assert ppo.explained_variance(-returns, returns, mask) == pytest.approx(-3, abs=1e-4)


def test_where_all_returns_are_equal_or_there_is_one_nothing_is_explained():
    mask = torch.tensor([[0, 1, 1]]).bool()
    assert ppo.explained_variance(torch.tensor([[0, 1.0, 2.0]]), torch.full((1, 3), 0.5), mask) == 0
    one = torch.tensor([[0, 0, 1]]).bool()
    assert ppo.explained_variance(torch.ones(1, 3), torch.zeros(1, 3), one) == 0


# --- the adaptive coefficient


@pytest.mark.parametrize(("kl", "expected"), [
    (6.0, 0.1),  # on target
    (6.6, 0.1 * (1 + 0.1 * 16 / 64)),
    (5.4, 0.1 * (1 - 0.1 * 16 / 64)),
    (60.0, 0.1 * (1 + 0.2 * 16 / 64)),  # at most a fifth a horizon
    (0.0, 0.1 * (1 - 0.2 * 16 / 64)),
    (-50.0, 0.1 * (1 - 0.2 * 16 / 64)),  # the k1 estimate may be negative
])  # fmt: skip
def test_the_coefficient_rises_above_the_target_and_falls_below_it(kl, expected):
    assert ppo.next_kl_coef(0.1, kl, 6.0, rollouts=16, horizon=64) == pytest.approx(expected)


def test_the_coefficient_stays_within_its_bounds_and_positive_even_with_more_rollouts_than_the_horizon():
    assert ppo.next_kl_coef(9.9, 100.0, 1.0, 64, 64) == 10
    assert ppo.next_kl_coef(1e-4, 0.0, 1.0, 64, 64) == 1e-4
    assert ppo.next_kl_coef(5.0, 0.0, 1.0, rollouts=1000, horizon=1) == 1e-4
    assert ppo.next_kl_coef(5.0, 100.0, 1.0, rollouts=1000, horizon=1) == 10


@pytest.mark.parametrize("coef", [0.0, 1e-6, 0.05, 100.0])
def test_without_a_target_the_coefficient_stays_as_it_is(coef):
    assert ppo.next_kl_coef(coef, 50.0, 0.0, 16, 64) == coef


def test_steered_again_and_again_the_coefficient_goes_up_and_down_in_one_direction():
    for kl, compare in ((20.0, float.__gt__), (1.0, float.__lt__)):
        coefs = [0.1]
        for _ in range(20):
            coefs.append(ppo.next_kl_coef(coefs[-1], kl, 6.0, 16, 64))
        assert all(compare(after, before) for before, after in pairwise(coefs))
