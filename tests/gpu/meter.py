"""How much memory was taken and whether the base stayed as it was."""

import contextlib
import os
import threading
import time
from typing import Any

import torch

GIB = 2**30
CHUNK = 1 << 24  # elements that are summed at once


class Meter:
    """Peaks between marks, in GiB: allocated and reserved by torch, taken on the whole card (less what others took).

    Make it before anything touches CUDA: what the bare context takes is measured first.
    """

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        self.phases: dict[str, dict[str, float]] = {}
        self.context = 0.0
        if not self.cuda:
            return
        self._nvml = _nvml()
        self._before = self._used()
        a = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        (a @ a).sum().item()  # with it comes cuBLAS and its workspace
        self.context = (self._used() - self._before) / GIB
        self._top = self._used()
        threading.Thread(target=self._watch, daemon=True).start()
        self.reset()

    def _used(self) -> int:
        if self._nvml is None:
            free, total = torch.cuda.mem_get_info()
            return total - free
        import pynvml

        return pynvml.nvmlDeviceGetMemoryInfo(self._nvml).used

    def _watch(self) -> None:
        while True:
            self._top = max(self._top, self._used())
            time.sleep(0.02)

    def reset(self) -> None:
        """Forgets the peaks since the last mark."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._top = self._used()

    def empty(self) -> None:
        """Gives back what torch keeps and does not use, so that the next peak is of what comes next."""
        if self.cuda:
            torch.cuda.empty_cache()
        self.reset()

    def mark(self, phase: str) -> None:
        """What was taken at most since the last mark belongs to this phase; of several, the most."""
        if not self.cuda:
            return
        torch.cuda.synchronize()
        self._top = max(self._top, self._used())
        taken = {
            "allocated": torch.cuda.max_memory_allocated() / GIB,
            "reserved": torch.cuda.max_memory_reserved() / GIB,
            "card": (self._top - self._before) / GIB,
        }
        known = self.phases.get(phase, {})
        self.phases[phase] = {name: round(max(size, known.get(name, 0.0)), 3) for name, size in taken.items()}
        self.reset()

    def peak(self, name: str, *without: str) -> float:
        """The largest of one kind over all phases but some."""
        return max((p[name] for phase, p in self.phases.items() if phase not in without), default=0.0)


def _nvml() -> Any:
    """The card's handle, or None where there is no pynvml."""
    with contextlib.suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return pynvml.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)
    return None


def frozen(model: Any) -> list[torch.Tensor]:
    """The base's own tensors: weights, and what NF4 needs to read them; neither LoRA weights nor a score head."""
    found = []
    for name, parameter in model.named_parameters():
        if ".lora_" in name or "score." in name:
            continue
        found.append(parameter)
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found += [state.absmax, *([state.state2.absmax] if state.nested else [])]
    return found


@torch.no_grad()
def checksum(tensors: list[torch.Tensor]) -> str:
    """A sum of all bits, each weighed by its place: made where the tensors lie, in whole numbers, so exact."""
    total = 0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        for start in range(0, len(flat), CHUNK):
            part = flat[start : start + CHUNK].to(torch.int64)
            place = torch.arange(start, start + len(part), device=part.device) % 65_521
            total = (total * 31 + int((part * (place + 1)).sum())) % 2**61
    return f"{total:x}"
