"""Products on a CPU: the same numbers as torch's and PEFT's, by faster ways.

PEFT multiplies by W, A and B apart and scales and adds in passes of their own, which costs a third of the time of a
small model. `fuse` keeps W, A and B apart, as training needs them; `merged` makes one matrix of them, as decoding
likes it. Both leave every parameter as it is, and layers they do not know to PEFT.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from playground.models.adapters import Adapters

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
MKL_ROWS = 128  # from here on MKL is the faster one on Intel's processors, most of all in the backward's layout


def _made_by_intel() -> bool:
    """Read from the processor, never timed: a resumed run must multiply as the run before it did."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


_INTEL = _made_by_intel()


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x Wᵀ + bias without a gradient. x: (…, in), weight: (out, in) in any layout.

    In fp32 on a CPU by oneDNN, which torch keeps for its compiler: a tenth to twice as fast as the MKL that
    torch.nn.functional.linear takes with few rows and on AMD's processors; many rows on Intel's are left to MKL.
    """
    mkl = _INTEL and x.shape[:-1].numel() >= MKL_ROWS
    if _ONEDNN is not None and not mkl and x.dtype == torch.float32 == weight.dtype and x.device.type == "cpu":
        return _ONEDNN(x, weight, bias, "none", [], "")
    return torch.nn.functional.linear(x, weight, bias)


class _LoraProduct(torch.autograd.Function):
    """x Wᵀ + s·(x Aᵀ) Bᵀ with W frozen (Hu et al. 2021, eq. 3). x: (N, in), W: (out, in), A: (r, in), B: (out, r)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: float) -> torch.Tensor:
        h = product(x, a)
        ctx.save_for_backward(x, w, a, b, h)
        ctx.s = s
        return product(x, w).addmm_(h, b.t(), alpha=s)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w, a, b, h = ctx.saved_tensors
        g = gradients[0]
        gh = (g @ b).mul_(ctx.s)
        gx = product(g, w.t()).addmm_(gh, a) if ctx.needs_input_grad[0] else None
        ga = gh.t() @ x if ctx.needs_input_grad[2] else None
        gb = (h.t() @ g).mul_(ctx.s).t() if ctx.needs_input_grad[3] else None  # g.t() @ h takes MKL longer
        return gx, None, ga, gb, None


def fuse(adapters: Adapters) -> None:
    """From now on plain linear layers compute base and adapter in one function. For a CPU and without dropout."""
    for layer in adapters.layers:
        if type(layer.get_base_layer()) is torch.nn.Linear:
            layer.forward = partial(_fused_forward, layer)


def _fused_forward(layer: "LoraLayer", x: torch.Tensor) -> torch.Tensor:
    """base(x) + s·B(A(x)) for the active role. x: (B, T, in) → (B, T, out)."""
    base = layer.get_base_layer()
    role = None if layer._disable_adapters else layer._active_adapter[0]
    if role not in layer.lora_A:
        return base(x) if torch.is_grad_enabled() else product(x, base.weight, base.bias)
    a, b = layer.lora_A[role].weight, layer.lora_B[role].weight
    found = _LoraProduct.apply(x.reshape(-1, x.shape[-1]), base.weight, a, b, layer.scaling[role])
    found = found if base.bias is None else found + base.bias
    return found.view(*x.shape[:-1], -1)


@contextmanager
def merged(adapters: Adapters, role: str | None) -> Iterator[None]:
    """Runs as this role with W + s·BA as one dense matrix a layer, made now and forgotten at the end.

    For decoding: a few rows at a time, many times over. An NF4 base is laid out in full meanwhile.
    """
    with adapters.use(role), torch.no_grad():
        before = [layer.__dict__.get("forward") for layer in adapters.layers]
        head = adapters.model.get_base_model().get_output_embeddings()
        try:
            for layer in adapters.layers:
                if (weight := _whole(layer, role)) is not None:
                    layer.forward = partial(product, weight=weight, bias=layer.get_base_layer().bias)
            if type(head) is torch.nn.Linear:
                head.forward = partial(product, weight=head.weight, bias=head.bias)
            yield
        finally:
            head.__dict__.pop("forward", None)
            for layer, forward in zip(adapters.layers, before, strict=True):
                layer.__dict__.pop("forward", None)
                if forward is not None:
                    layer.forward = forward


def merged_bytes(adapters: Adapters) -> int:
    """What `merged` takes in memory."""
    shapes = [(layer.in_features, layer.out_features) for layer in adapters.layers]
    return sum(4 * wide * high for wide, high in shapes)


def _whole(layer: "LoraLayer", role: str | None) -> torch.Tensor | None:
    """(out, in): the layer's matrix with this role's adapter in it, in fp32; None for a layer of an unknown kind."""
    base = layer.get_base_layer()
    if type(base) is torch.nn.Linear:
        weight = base.weight
    elif type(base).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(base.weight.data, base.weight.quant_state)
    else:
        return None
    if role not in layer.lora_A:
        return weight
    a, b = layer.lora_A[role].weight, layer.lora_B[role].weight
    return torch.addmm(weight.to(a.dtype), b, a, alpha=layer.scaling[role])
