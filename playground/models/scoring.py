"""Scores of answers under a reward model: one number per token position, the last of them is the answer's score.

The trainer and the explorer call the same functions, so that a score means the same in both.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from playground.models.adapters import read_adapter
from playground.models.catalog import ModelError

Head = Callable[[torch.Tensor], torch.Tensor]


def token_scores(model: Any, head: Head, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Score after every prefix, (B, T) in fp32. `model` is the language model or a PeftModel around it.

    Inputs (B, T), padded on either side: positions count the attended tokens, so padding changes nothing.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    ).last_hidden_state  # (B, T, H)
    return head(hidden.float()).squeeze(-1)


def last_scores(scores: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(B,): each row's score at its last attended token, by position and never by token id: some models pad with the
    token that ends an answer."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * (places + 1)).argmax(1, keepdim=True)
    return scores.gather(1, last).squeeze(1)


def head_weight(adapter: Path) -> torch.Tensor:
    """(1, H) in fp32: the score head of a saved reward adapter."""
    weights = {name: tensor for name, tensor in read_adapter(adapter)[1].items() if ".score." in f".{name}"}
    if len(weights) != 1:
        raise ModelError("This run has no score head: it is not a reward model.")
    (weight,) = weights.values()
    return weight.float()


def read_head(adapter: Path, device: Any = None) -> Head:
    """The score head of a saved reward adapter as a function of hidden states: a linear layer from H to 1."""
    weight = head_weight(adapter).to(device)
    return lambda hidden: torch.nn.functional.linear(hidden, weight)


@torch.inference_mode()
def score_rows(
    model: Any,
    head: Head,
    rows: Sequence[Sequence[int]],
    progress: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
    batch: int = 8,
) -> list[list[float]]:
    """Score after every token of every row, sorted by length meanwhile so that padding stays small.

    Stopped early, the rows that were not reached are empty.
    """
    device = next(model.parameters()).device
    found: list[list[float]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch):
        if should_stop():
            break
        chunk = order[start : start + batch]
        width = len(rows[chunk[-1]])
        ids = torch.tensor([[*rows[i], *[0] * (width - len(rows[i]))] for i in chunk], device=device)
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in chunk], device=device)
        for i, scores in zip(chunk, token_scores(model, head, ids, mask).cpu(), strict=True):
            found[i] = scores[: len(rows[i])].tolist()
        progress(min(start + batch, len(order)))
    return found
