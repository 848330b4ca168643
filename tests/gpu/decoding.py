"""Decoding and log-probs on a GPU: what is true of one row alone stays true in a batch."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import made
import torch

from playground.chat import engine, resident
from playground.data.rendering import Renderer
from playground.models import loading
from playground.models.adapters import open_adapters
from playground.models.decode import Sampling, decode
from playground.models.loading import Placement
from playground.stages.logprobs import learned_tokens

ASKED = (
    "Why is the sky blue?",
    "Name three colours, please, and say why you chose them; take all the time you need.",
    "Hello!",
)
SYSTEM = {"role": "system", "content": "You are a careful assistant who thinks before every word. " * 8}
TOKENS = 24


def chat(base: Any, tiny: bool, say: Callable[[str, Any], None]) -> None:
    """Base and two adapters in one batch, in fp32, where equality must hold, and as the chat has it, where it is told
    how far it holds. The adapters are large enough to change the answers."""
    runs = [made.finished(base, name, "sft", seed, size=0.05) for name, seed in (("one", 3), ("two", 4))]
    renderer = Renderer(base.folder)
    device = "cpu" if tiny else "cuda"
    model = loading.load_base(base, Placement(device, torch.float32, False))
    plain = [renderer.prompt_ids([{"role": "user", "content": text}]) for text in ASKED]
    say("fp32, no adapter: the same as generate", _as_generate(model, plain[1]))
    adapters = open_adapters(model, runs[0].id, runs[0].adapter)
    adapters.load(runs[1].id, runs[1].adapter)
    roles = [None, runs[0].id, runs[1].id]
    say("fp32: batch and single", _compare(adapters.model, plain, adapters, roles))
    long = [renderer.prompt_ids([SYSTEM, {"role": "user", "content": text}]) for text in ASKED]
    say("fp32, one long beginning", _compare(adapters.model, long, adapters, [runs[0].id] * 3))
    say("fp32: shared beginning and plain rows, largest difference of a log-prob", _logps(adapters, runs[0].id, long))
    del model, adapters
    if not tiny:
        torch.cuda.empty_cache()
    histories = [[{"role": "user", "content": text}] for text in ASKED]
    columns = [None, *runs]
    began = time.monotonic()
    *_, last = engine.reply(base.ref, columns, histories, Sampling(TOKENS))
    loaded = resident._loaded
    assert loaded is not None and loaded.adapters is not None
    say("the chat's own: answers", [len(text) for text in last])
    say("the chat's own: placement and seconds", [str(loaded.where), round(time.monotonic() - began, 1)])
    say("the chat's own: batch and single", _compare(loaded.adapters.model, plain, loaded.adapters, roles))
    began = time.monotonic()
    list(decode(loaded.adapters.model, plain * 4, set(), Sampling(TOKENS, 1.0), (loaded.adapters, roles * 4)))
    say("the chat's own: tokens a second, 12 rows", round(12 * TOKENS / (time.monotonic() - began), 1))


def _said(model: Any, prompts: Sequence[list[int]], adapters: Any, roles: Sequence[str | None]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    for step in decode(model, prompts, set(), Sampling(TOKENS), (adapters, roles)):
        for row, token in step.items():
            found[row].append(token)
    return found


def _compare(model: Any, prompts: Sequence[list[int]], adapters: Any, roles: Sequence[str | None]) -> dict[str, Any]:
    """Greedy answers of a batch beside those of each row alone: how many tokens are the same until they part."""
    together = _said(model, prompts, adapters, roles)
    alone = [_said(model, [prompt], adapters, [role])[0] for prompt, role in zip(prompts, roles, strict=True)]
    same = []
    for one, other in zip(together, alone, strict=True):
        pairs = list(zip(one, other, strict=True))
        same.append(next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs)))
    return {
        "equal": together == alone,
        f"the same of {TOKENS}": same,
        "answers differ between roles": len(set(map(tuple, together))),
    }


@torch.inference_mode()
def _as_generate(model: Any, prompt: list[int]) -> bool:
    ids = torch.tensor([prompt], device=model.device)
    theirs = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS, pad_token_id=0
    )
    ours = [step[0] for step in decode(model, [prompt], set(), Sampling(TOKENS))]
    told = theirs[0, len(prompt) :].tolist()
    return ours[: len(told)] == told


@torch.no_grad()
def _logps(adapters: Any, role: str, rows: Sequence[list[int]]) -> float:
    """The same rows in one batch, whose beginning is then computed once, and each alone."""
    inner = adapters.model.get_base_model()

    def said(chosen: Sequence[list[int]]) -> torch.Tensor:
        width = max(map(len, chosen))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in chosen], device=inner.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in chosen], device=inner.device)
        return learned_tokens(inner, ids, mask, ids.masked_fill(mask == 0, -100)).logps

    with adapters.use(role):
        return float((said(rows) - torch.cat([said([row]) for row in rows])).abs().max())
