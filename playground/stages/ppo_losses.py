"""PPO's arithmetic: rewards, advantages, losses and KL estimates as functions of tensors, without a model.

Tensors are (B, T): place t of row b belongs to the token that follows it, `mask` is true where that token is one of
the answer's. Everything is zero outside the mask. Log-probs are in nats.
"""

import torch


def last_places(mask: torch.Tensor) -> torch.Tensor:
    """(B,): the place of each row's last answer token. By position: the token that ends an answer may be the pad token
    as well."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask * (places + 1)).argmax(1)


def token_rewards(
    logps: torch.Tensor, ref_logps: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """(B, T): −kl_coef · (log π − log π_ref) at every answer token, and the score (B,) at the last one (Ziegler et al.
    2019, eq. 2; Ouyang et al. 2022)."""
    rewards = -kl_coef * (logps - ref_logps) * mask
    return rewards.scatter_add(1, last_places(mask)[:, None], scores[:, None])


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """(B, T): generalised advantage estimates (Schulman et al. 2016, eq. 16); past the last token the value is 0."""
    found = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(following)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        found[:, t] = following
    return found


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the mask, a scalar."""
    return (values * mask).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """(B, T): variance 1 over the mask (biased estimate), and mean 0 unless it is to stay (Huang et al. 2024, N+)."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def policy_losses(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss a token, ratio): max(−A·ρ, −A·clip(ρ, 1−ε, 1+ε)) with ρ = π/π_old (Schulman et al. 2017, eq. 7).

    log ρ is held within ±20, where exp would overflow.
    """
    ratio = (logps - old_logps).clamp(-20, 20).exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange))
    return losses, ratio


def value_losses(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> torch.Tensor:
    """Loss a token: ½·max((V−R)², (V_clipped−R)²), V_clipped at most `cliprange` from V_old (Stiennon et al. 2020)."""
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def k1(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """log π − log π_ref a token: unbiased for the KL on the policy's own samples, may be negative."""
    return logps - ref_logps


def k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """(q/p − 1) − log(q/p) a token with p = π, q = π_ref: unbiased and never negative (Schulman 2020)."""
    difference = (ref_logps - logps).clamp(-20, 20)
    return difference.exp() - 1 - difference


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """1 − Var(R − V) / Var(R) over the mask: 1 is a perfect critic, 0 one that knows the mean only."""
    spread = returns[mask].var(correction=0)
    if spread < 1e-12:
        return 0.0
    return float(1 - (returns - values)[mask].var(correction=0) / spread)


def next_kl_coef(coef: float, kl: float, target: float, rollouts: int, horizon: int) -> float:
    """The coefficient that follows: up where the KL a response is above its target, down where below, by at most a
    fifth a horizon (Ziegler et al. 2019, eq. 4), within 1e-4 and 10. Target 0 or coefficient 0 leaves it as it is."""
    if target <= 0 or coef == 0:
        return coef
    error = max(-0.2, min(0.2, kl / target - 1))
    return max(1e-4, min(10.0, coef * (1 + error * rollouts / horizon)))
