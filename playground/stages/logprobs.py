"""Log-probabilities of learned tokens only: the LM head is a fifth of a small model, and prompts need none of it."""

from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

HEAD_ROWS = 1024  # positions per LM-head product: 1024 × 49k logits in fp32 are 200 MB


class Learned(NamedTuple):
    """What the model says of the N learned tokens of a batch; mask (B, T-1) says where they stand, the rest is (N,).

    logps in nats, with gradient; right: the token was the likeliest; entropy in nats and mean_logits without gradient.
    """

    mask: torch.Tensor
    logps: torch.Tensor
    right: torch.Tensor
    entropy: torch.Tensor
    mean_logits: torch.Tensor

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(N,) values at their places in a (B, T-1) tensor, zero elsewhere."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


def learned_tokens(
    causal_lm: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, details: bool = False
) -> Learned:
    """log p(labels[t+1] | ids[≤t]) wherever the label is not -100.

    All inputs (B, T), padded on the right. Without `details`, entropy and mean_logits are zeros.
    """
    hidden = causal_lm.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    target = labels[:, 1:]
    mask = target != -100  # (B, T-1)
    hidden, target = hidden[:, :-1][mask], target[mask]  # (N, H), (N,)
    head = causal_lm.get_output_embeddings()

    def part(rows: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = head(rows).float()
        logps = -torch.nn.functional.cross_entropy(logits, goal, reduction="none")
        with torch.no_grad():
            right = logits.argmax(-1) == goal
            entropy = mean = torch.zeros_like(logps)
            if details:
                all_logps = logits.log_softmax(-1)
                entropy, mean = -(all_logps.exp() * all_logps).sum(-1), logits.mean(-1)
        return logps, right, entropy, mean

    if not len(target):
        nothing = hidden.sum(-1)  # empty, and keeps a gradient path
        return Learned(mask, nothing, nothing.bool(), nothing.detach(), nothing.detach())
    many = len(target) > HEAD_ROWS and torch.is_grad_enabled()  # recompute each part in backward instead of keeping all
    parts = [
        checkpoint(part, rows, goal, use_reentrant=False) if many else part(rows, goal)
        for rows, goal in zip(hidden.split(HEAD_ROWS), target.split(HEAD_ROWS), strict=True)
    ]
    return Learned(mask, *(torch.cat(column) for column in zip(*parts, strict=True)))
