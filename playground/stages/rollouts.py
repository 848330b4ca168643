"""Rollouts: the answers that the policy itself writes, laid out for training.

Answers are sampled from the whole distribution at temperature 1 (or as set), with every row's own random numbers. The
log-probs that PPO learns from are not the sampler's: they are computed anew on the path that training takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from playground.models.decode import Sampling, decode
from playground.stages.logprobs import Learned, learned_tokens


@dataclass
class Rollouts:
    """One iteration's prompts and answers. Tensors of tokens are (B, T), padded on the right; those of predictions are
    (B, T-1): place t belongs to token t+1, `mask` is true where that is one of the answer's, its end token included."""

    prompts: list[list[int]]
    answers: list[list[int]]
    ended: list[bool]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    found: dict[str, torch.Tensor] = field(default_factory=dict)  # logps, ref_logps, values, … each (B, T-1)

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, chosen: Sequence[int]) -> "Rollouts":
        """Some of the rows, cut to the longest of them."""
        index = torch.tensor(chosen, device=self.input_ids.device)
        width = int(self.attention_mask[index].sum(1).max())
        found = {name: tensor[index, : width - 1] for name, tensor in self.found.items()}
        return Rollouts(
            prompts=[self.prompts[i] for i in chosen],
            answers=[self.answers[i] for i in chosen],
            ended=[self.ended[i] for i in chosen],
            input_ids=self.input_ids[index, :width],
            attention_mask=self.attention_mask[index, :width],
            labels=self.labels[index, :width],
            mask=self.mask[index, : width - 1],
            found=found,
        )

    def by_length(self, chosen: Sequence[int], size: int) -> list[list[int]]:
        """The rows in groups of at most `size`, alike in length so that little is padding."""
        ordered = sorted(chosen, key=lambda i: len(self.prompts[i]) + len(self.answers[i]))
        return [ordered[i : i + size] for i in range(0, len(ordered), size)]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer, the end token included."""
        return [len(answer) for answer in self.answers]


def pack(prompts: Sequence[list[int]], answers: Sequence[list[int]], ends: set[int], device: Any) -> Rollouts:
    """Lays prompts and answers out as one batch. An answer is over with its first end token, wherever padding is."""
    cut = [_to_first_end(answer, ends) for answer in answers]
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, cut, strict=True))
    ids, attended, labels = [], [], []
    for prompt, answer in zip(prompts, cut, strict=True):
        empty = width - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[0] * empty])
        attended.append([1] * (len(prompt) + len(answer)) + [0] * empty)
        labels.append([-100] * len(prompt) + answer + [-100] * empty)
    target = torch.tensor(labels, device=device)
    return Rollouts(
        list(map(list, prompts)),
        cut,
        [bool(answer) and answer[-1] in ends for answer in cut],
        torch.tensor(ids, device=device),
        torch.tensor(attended, device=device),
        target,
        target[:, 1:] != -100,
    )


def _to_first_end(answer: list[int], ends: set[int]) -> list[int]:
    """Up to and with the first end token."""
    return answer[: next((i + 1 for i, token in enumerate(answer) if token in ends), len(answer))]


def sample(
    model: Any,
    prompts: Sequence[list[int]],
    ends: set[int],
    sampling: Sampling,
    seeds: Sequence[int],
    should_stop: Callable[[], bool] = lambda: False,
) -> Rollouts:
    """One answer to each prompt from the model as it is now; row i draws from seeds[i] alone."""
    answers: list[list[int]] = [[] for _ in prompts]
    for step in decode(model, prompts, ends, sampling, should_stop=should_stop, seeds=seeds):
        for row, token in step.items():
            answers[row].append(token)
    return pack(prompts, answers, ends, next(model.parameters()).device)


def predict(causal_lm: Any, batch: Rollouts, temperature: float = 1.0, details: bool = False) -> Learned:
    """Log-probs of the answers' tokens, and the hidden states that they were predicted from, in the training path."""
    return learned_tokens(causal_lm, batch.input_ids, batch.attention_mask, batch.labels, details, temperature)
