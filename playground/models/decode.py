"""Batched generation for chat, probes and evaluation: one loop, left-padded, stoppable, yielding as it goes.

transformers' `generate` streams only single rows and can't leave off in between; this loop can do both and drops
finished rows. With greedy decoding its tokens equal generate's (tested). Sampling fields that are not set here do not
exist: nothing is filled in from a model's own defaults.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from playground.models.adapters import Adapters

SHARED_LEAST = 64  # tokens; a chat template's own few are not worth a pass


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 = greedy; top_k 0 and top_p 1 = the whole distribution."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"The longest answer must be at least 1 token, got {self.max_new_tokens}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"The seed must be a whole number from 0, got {self.seed}.")
        if self.temperature < 0 or self.top_k < 0:
            raise ValueError("Temperature and top k must not be negative.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Top p must be above 0 and at most 1, got {self.top_p:g}.")


@dataclass
class _Row:
    """One row of the batch: where it came from, who speaks, and its own random numbers."""

    index: int
    role: str | None
    generator: torch.Generator


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ends: set[int],
    sampling: Sampling,
    roles: tuple[Adapters, Sequence[str | None]] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    seeds: Sequence[int] | None = None,
) -> Iterator[dict[int, int]]:
    """Yields {row: new token} a step, until every row has ended, max_new_tokens is reached or should_stop() says so.

    prompts: token ids, ragged. The end token is yielded too. Rows with the same prompt, role and seed get the same
    answer, whatever else is in the batch; `seeds` gives each row its own in place of the sampling's.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    shared = _shared(prompts) if roles is None or len(set(roles[1])) == 1 else 0
    input_ids, mask = _left_pad([prompt[shared:] for prompt in prompts], device)  # (B, T)
    names = roles[1] if roles else [None] * len(prompts)
    numbers = seeds or [sampling.seed] * len(prompts)
    rows = [_Row(i, name, torch.Generator().manual_seed(numbers[i])) for i, name in enumerate(names)]
    cache = DynamicCache()
    if shared:
        start = torch.tensor([prompts[0][:shared]], device=device)  # (1, S)
        with roles[0].rows([rows[0].role]) if roles else nullcontext():
            model(input_ids=start, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(rows))
        mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
    position = mask.cumsum(1)[:, shared:] - 1  # (B, T); a plain forward would count the padding as text
    position = position.clamp(min=0)
    for _ in range(sampling.max_new_tokens):
        if should_stop():
            return
        with roles[0].rows([row.role for row in rows]) if roles else nullcontext():
            output = model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        chosen = _choose(output.logits[:, -1].float(), sampling, rows)
        yield {row.index: token for row, token in zip(rows, chosen, strict=True)}
        keep = [i for i, token in enumerate(chosen) if token not in ends]
        if not keep:
            return
        position = position[:, -1:] + 1
        if len(keep) < len(rows):  # finished rows cost nothing any more
            select = torch.tensor(keep, device=device)
            cache.batch_select_indices(select)
            mask, position = mask[select], position[select]
            rows, chosen = [rows[i] for i in keep], [chosen[i] for i in keep]
        input_ids = torch.tensor(chosen, device=device)[:, None]  # (B, 1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ends: set[int],
    sampling: Sampling,
    progress: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[list[int]]:
    """Whole answers (token ids without the end token), 16 at a time, sorted by length so that padding stays small."""
    found: dict[int, list[int]] = {i: [] for i in range(len(prompts))}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), 16):
        chunk = order[start : start + 16]
        for step in decode(model, [prompts[i] for i in chunk], ends, sampling, should_stop=should_stop):
            for row, token in step.items():
                if token not in ends:
                    found[chunk[row]].append(token)
        if should_stop():
            break
        progress(min(start + 16, len(order)))
    return [found[i] for i in range(len(prompts))]


def favour_small_batches(model: Any) -> None:
    """Lays the CPU weights of linear layers out column by column: same values, same shapes, same memory.

    fp32 products of one to three rows then stream the weights in order, about 1.3 times as fast; large batches lose a
    little, so only the chat does this.
    """
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.device.type == "cpu":
            module.weight.data = module.weight.data.t().contiguous().t()


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts have in front in common, if enough to be worth reading once for all of them; every
    prompt keeps a token of its own."""
    if len(prompts) < 2:
        return 0
    least = min(map(len, prompts)) - 1
    same = next((i for i in range(least) if len({prompt[i] for prompt in prompts}) > 1), least)
    return same if same >= SHARED_LEAST else 0


def _left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, mask), both (B, T). What stands in the padding is masked, so any id will do."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _choose(logits: torch.Tensor, sampling: Sampling, rows: list[_Row]) -> list[int]:
    """The next token of each row from its logits (B, V), by a random number of its own."""
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], float("-inf"))
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0  # the first token over the line stays
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    shares = torch.stack([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows])
    reached = probabilities.double().cumsum(-1)  # multinomial would draw a number for every token there is
    return torch.searchsorted(reached, shares.to(reached.device) * reached[:, -1:], right=True)[:, 0].tolist()
