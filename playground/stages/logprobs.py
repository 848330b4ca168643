"""Log-probabilities of learned tokens only: the LM head is a fifth of a small model, and prompts need none of it."""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from playground.models.products import product

HEAD_ROWS = 128  # positions per LM-head product: 128 × 49k logits in fp32 are 25 MB
SHARED = "shared_prefix"  # the attention of rows that begin alike, by its name in transformers
SHARED_LEAST = 8  # tokens that all rows must begin with before they are computed once for all


class Learned(NamedTuple):
    """What the model says of the N learned tokens of a batch; mask (B, T-1) says where they stand, the rest is (N,).

    logps in nats, with gradient; right: the token was the likeliest; entropy in nats and mean_logits without gradient;
    hidden (N, H): the last hidden states that the tokens were predicted from, with gradient.
    """

    mask: torch.Tensor
    logps: torch.Tensor
    right: torch.Tensor
    entropy: torch.Tensor
    mean_logits: torch.Tensor
    hidden: torch.Tensor

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(N,) values at their places in a (B, T-1) tensor, zero elsewhere."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


def hidden_states(causal_lm: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, T, H): last hidden states of rows (B, T) padded on the right.

    What all rows begin with, such as a template's system message, is computed once and its keys and values are shared:
    the same numbers and the same gradients for less work. The prefix and all rests lie in one row, so that each linear
    layer multiplies them at once; only attention tells them apart.
    """
    inner = causal_lm.base_model
    shared = _shared_prefix(input_ids, attention_mask)
    recomputed = inner.training and causal_lm.is_activation_checkpointing
    if shared < SHARED_LEAST or recomputed or not _takes_own_attention(inner):
        return inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    rows, width = input_ids.shape
    flat = torch.cat([input_ids[0, :shared], input_ids[:, shared:].flatten()])[None]  # (1, S + B·R)
    places = torch.arange(width, device=flat.device)
    places = torch.cat([places[:shared], places[shared:].repeat(rows)])[None]
    causal_lm.config._attn_implementation = SHARED
    try:
        hidden = inner(input_ids=flat, position_ids=places, use_cache=False, shared=(shared, rows)).last_hidden_state
    finally:
        causal_lm.config._attn_implementation = "sdpa"
    first, rest = hidden[:, :shared], hidden[0, shared:].unflatten(0, (rows, -1))
    return torch.cat([first.expand(rows, -1, -1), rest], dim=1)


def _takes_own_attention(inner: Any) -> bool:
    """Whether all of the model's layers attend to everything before, by transformers' replaceable function."""
    kinds = set(getattr(inner.config, "layer_types", None) or ["full_attention"])
    replaceable = getattr(inner, "_supports_attention_backend", False)
    capped = getattr(inner.config, "attn_logit_softcapping", None) is not None
    plain = inner.config._attn_implementation == "sdpa" and not capped
    return replaceable and plain and kinds == {"full_attention"}


def _shared_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **given: Any
) -> tuple[torch.Tensor, None]:
    """Causal attention of S tokens and of the B rests that each follow them; all tensors (1, heads, S + B·R, d).

    Padding stands on the right, where no real token looks: one mask does for all rows. given["shared"]: (S, B).
    """
    (begin, rows), scaling = given["shared"], given.get("scaling")
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    q, k, v = (part[:, :, :begin] for part in (query, key, value))
    begun = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    ends = [part[0, :, begin:].unflatten(1, (rows, -1)).transpose(0, 1) for part in (query, key, value)]  # (B, …, R, d)
    whole = [torch.cat([a.expand(rows, -1, -1, -1), b], 2) for a, b in ((k, ends[1]), (v, ends[2]))]
    length = ends[0].shape[2]
    seen = torch.ones(length, begin + length, dtype=torch.bool, device=query.device).tril(begin)
    ended = scaled_dot_product_attention(ends[0], whole[0], whole[1], attn_mask=seen, scale=scaling)
    return torch.cat([begun.transpose(1, 2), ended.transpose(1, 2).flatten(0, 1)[None]], 1), None


AttentionInterface.register(SHARED, _shared_attention)


def _shared_prefix(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:
    """How many tokens all rows begin with; 0 for a single row, and always less than the shortest row."""
    if len(input_ids) == 1:
        return 0
    same = (input_ids == input_ids[:1]).all(0)
    return min(int(same.long().cumprod(0).sum()), int(attention_mask.sum(1).min()) - 1)


def learned_tokens(
    causal_lm: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    details: bool = False,
    temperature: float = 1.0,
) -> Learned:
    """log p(labels[t+1] | ids[≤t]) wherever the label is not -100, as sampled at `temperature`.

    All inputs (B, T), padded on the right. Without `details`, entropy and mean_logits are zeros.
    """
    hidden = hidden_states(causal_lm, input_ids[:, :-1], attention_mask[:, :-1])  # nothing follows the last token
    target = labels[:, 1:]
    mask = target != -100  # (B, T-1)
    hidden, target = hidden[mask], target[mask]  # (N, H), (N,)
    head = causal_lm.get_output_embeddings()
    logps, right, entropy, mean_logits = _Head.apply(hidden, head.weight, head.bias, target, details, temperature)
    return Learned(mask, logps, right, entropy, mean_logits, hidden)


class _Head(torch.autograd.Function):
    """log softmax((W·h + b)/temperature)[target] of each of N hidden states, and what else Learned tells of them.

    The gradient of one log-prob to its hidden state is (W[target] − Σ p·W)/temperature: a vector as long as the hidden
    state, found in the same pass as the log-prob. So no logits are kept for backward, in which nothing is left to do
    but to scale it. W (V, H) and b are frozen. hidden: (N, H), target: (N,).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        details: bool,
        temperature: float,
    ) -> tuple[torch.Tensor, ...]:
        assert not weight.requires_grad, "the LM head must be frozen"
        logps, entropy, mean = (hidden.new_zeros(len(hidden), dtype=torch.float32) for _ in range(3))
        right = torch.zeros_like(target, dtype=torch.bool)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), HEAD_ROWS):
            part = slice(start, start + HEAD_ROWS)
            logits = product(hidden[part], weight, bias).float()
            if temperature != 1:
                logits /= temperature
            goal = target[part, None]
            right[part] = logits.gather(1, goal)[:, 0] == logits.amax(-1)  # argmax takes five times as long on a CPU
            if details:
                mean[part] = logits.mean(-1)
            logits = logits.log_softmax(-1)
            logps[part] = logits.gather(1, goal)[:, 0]
            if details:
                entropy[part] = -(logits.exp() * logits).sum(-1)
            if slope is not None:
                expected = product(logits.exp_().to(weight.dtype), weight.t())
                slope[part] = (weight[goal[:, 0]] - expected) / temperature
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(right, entropy, mean)
        return logps, right, entropy, mean

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope).to(slope.dtype), None, None, None, None, None
