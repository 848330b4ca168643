"""Will it fit? GPU memory of a PPO run from the model's config alone, before a weight is loaded.

Linear weights in NF4 with double quantisation, embeddings in the compute dtype, LoRA with gradients and Adam in fp32,
activations recomputed layer by layer, logits of one micro-batch. The constants of a layer's activations come from
fitcheck-llm 0.3.1 (MIT). Measured on an H100, with random weights of Qwen2.5's 1.5B and 7B sizes (tests/gpu/check.py),
the card held 7% and 4% more than this says. Other cards' contexts differ: say ± 15%.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
OVERHEAD = 0.75 * GIB  # the CUDA context (0.7 with CUDA 13 on an H100) and what the allocator can't use
NF4_BYTES = 0.5 + 4 / 64 * 0.254  # a weight's 4 bits and its share of the double-quantised constants
BLOCK = 128  # rows of logits that exist at once, as in stages/logprobs.py


@dataclass(frozen=True)
class Shape:
    """What a config says of a decoder's sizes."""

    hidden: int
    layers: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape":
        """From a config.json in the words of Llama's family."""
        heads = config["num_attention_heads"]
        width = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            intermediate=config["intermediate_size"],
            queries=heads * width,
            keys=(config.get("num_key_value_heads") or heads) * width,
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
        )

    @property
    def linear(self) -> int:
        """Parameters of all linear layers but the LM head."""
        per_layer = 2 * self.hidden * self.queries + 2 * self.hidden * self.keys + 3 * self.hidden * self.intermediate
        return self.layers * per_layer

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings, and of the LM head where it has its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def lora(self, r: int) -> int:
        """Parameters of one adapter of rank r on every linear layer."""
        h, q, k, i = self.hidden, self.queries, self.keys, self.intermediate
        return r * self.layers * ((h + q) + 2 * (h + k) + (q + h) + 2 * (h + i) + (i + h))


def free_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process may still take: what the machine has, or less where its container has a limit."""
    free = psutil.virtual_memory().available
    try:
        most, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(0, min(free, int(most) - int(used)))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def ppo_bytes(
    config: dict[str, Any], rollouts: int, tokens: int, micro_batch: int, r: int, adapters: tuple[int, int] = (2, 2)
) -> dict[str, float]:
    """Bytes by part, and "total", of PPO on one shared NF4 base.

    tokens: of a whole row, prompt and answer; adapters: (trained, frozen), as policy and critic, reference and reward.
    """
    shape, (trained, frozen) = Shape.of(config), adapters
    batch = micro_batch * tokens
    layer = 2 * batch * (12 * shape.hidden + 3 * shape.queries + shape.keys + 3 * shape.intermediate)
    head = 3 * 4 * min(batch, BLOCK) * shape.vocabulary
    parts = {
        "weights": shape.linear * NF4_BYTES + shape.embeddings * 2,
        "adapters": shape.lora(r) * (16 * trained + 4 * frozen),
        "activations": 2 * shape.layers * batch * shape.hidden + max(layer, head),
        "one dense weight": 2 * shape.hidden * shape.intermediate,
        "rollout cache": 4 * shape.layers * shape.keys * rollouts * tokens,
        "overhead": OVERHEAD,
    }
    # A rollout's cache is gone before the update's activations exist.
    peak = max(parts["activations"], parts["rollout cache"])
    steady = sum(size for name, size in parts.items() if name not in ("activations", "rollout cache"))
    return {**parts, "total": 1.05 * (steady + peak)}
