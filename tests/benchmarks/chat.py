"""Wall time of two answers side by side against one answer of the same length, from the same engine.

    python tests/benchmarks/chat.py --json

`ratio` compares base and tuned together with the tuned checkpoint alone; `ratio_to_base` with the base alone. The end
token is ignored, so that all answers have the same length; rounds alternate.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON document only")
    args = parser.parse_args()

    import torch

    from playground.data.rendering import Renderer
    from playground.models import catalog, loading
    from playground.models.adapters import Adapters
    from playground.models.decode import Sampling, decode, favour_small_batches

    base = catalog.prepare(args.model)
    plain = loading.load_base(base, loading.placement("none"))
    favour_small_batches(plain)
    model = loading.attach_lora(plain, 16, 32, 0.0, "all-linear").eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapters = Adapters(model)
    prompt = Renderer(base.folder).prompt_ids(
        [{"role": "user", "content": "Why do cats purr, and do big cats purr too?"}]
    )
    cases = {"both": [None, "default"], "tuned": ["default"], "base": [None]}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, roles in cases.items():
            start = time.perf_counter()
            for _ in decode(model, [prompt] * len(roles), set(), Sampling(args.tokens), (adapters, roles)):
                pass
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "ratio": round(medians["both"] / medians["tuned"], 3),
                "ratio_to_base": round(medians["both"] / medians["base"], 3),
                "seconds": medians,
                "tokens_per_second": round(2 * args.tokens / medians["both"], 1),
            },
            indent=None if args.json else 1,
        )
    )


if __name__ == "__main__":
    main()
