"""Fused and merged LoRA products: PEFT's own numbers and gradients, and nothing is left behind."""

import pytest
import torch

from playground.models import catalog, loading, products
from playground.models.adapters import Adapters
from playground.models.products import fuse, merged, merged_bytes

IDS = torch.randint(4, 250, (3, 9), generator=torch.Generator().manual_seed(1))


def opened(tiny_model, quantization="none", targets="all-linear", double=True) -> Adapters:
    """A base with two adapters that say something, of different rank."""
    base = catalog.prepare(str(tiny_model))
    model = loading.attach_lora(loading.load_base(base, loading.placement(quantization)), 4, 8, 0.0, targets)
    adapters = Adapters(model)
    adapters.copy("default", "other")
    values = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2 if double else 0.05, generator=values)
    adapters.train_only("default", "other")
    return Adapters(model.double() if double else model)


def grads(adapters, role):
    """Gradients of a loss in which every logit counts differently."""
    adapters.model.zero_grad(set_to_none=True)
    with adapters.use(role):
        logits = adapters.model(input_ids=IDS).logits
        (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return logits.detach(), {name: p.grad for name, p in adapters.model.named_parameters() if p.grad is not None}


def state(adapters):
    return {name: p.detach().clone() for name, p in adapters.model.named_parameters()}


def patched(adapters):
    return [module for module in adapters.model.modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,v_proj"])
@pytest.mark.parametrize("role", ["default", "other"])
def test_fused_layers_have_peft_s_numbers_and_gradients(tiny_model, role, targets):
    adapters = opened(tiny_model, targets=targets)
    logits, expected = grads(adapters, role)
    fuse(adapters)
    assert len(patched(adapters)) == len(adapters.layers)
    found_logits, found = grads(adapters, role)
    torch.testing.assert_close(found_logits, logits, atol=1e-10, rtol=0)
    assert set(found) == set(expected)
    assert {name.split(".")[-2] for name in found} == {role}
    for name, grad in found.items():
        assert grad.abs().max() > 0
        torch.testing.assert_close(grad, expected[name], atol=1e-9, rtol=1e-9)


def test_the_fused_product_passes_a_numerical_check_of_its_gradients():
    random = torch.Generator().manual_seed(0)
    shapes = ((5, 4), (3, 4), (2, 4), (3, 2))
    x, w, a, b = (torch.randn(shape, dtype=torch.float64, generator=random) for shape in shapes)
    for part in (x, a, b):
        part.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a, b: products._LoraProduct.apply(x, w, a, b, 0.7), (x, a, b))


def test_a_fresh_adapter_changes_nothing_and_the_base_alone_is_the_base(tiny_model):
    base = catalog.prepare(str(tiny_model))
    bare = loading.load_base(base, loading.placement("none"))
    expected = bare(input_ids=IDS).logits
    adapters = Adapters(
        loading.attach_lora(loading.load_base(base, loading.placement("none")), 4, 8, 0.0, "all-linear")
    )
    fuse(adapters)
    with torch.no_grad():
        fresh = adapters.model(input_ids=IDS).logits
        with adapters.use(None):
            alone = adapters.model(input_ids=IDS).logits
    assert torch.equal(fresh, alone)  # so that the KL starts at exactly 0
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    with adapters.use(None):
        assert torch.equal(adapters.model(input_ids=IDS).logits, expected)


def test_a_layer_with_a_bias_keeps_it():
    from peft import LoraConfig, get_peft_model

    plain = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=True)).double()
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)).double()
    adapters, x = Adapters(model), torch.randn(2, 3, 6, dtype=torch.float64)
    expected = model(x)
    fuse(adapters)
    torch.testing.assert_close(model(x), expected, atol=1e-12, rtol=0)
    weight = products._whole(adapters.layers[0], "default")
    for rows in (1, 8, 9, 16):
        x = torch.randn(rows, 1, 6, dtype=torch.float64)
        found = products.product(x, weight, plain[0].get_base_layer().bias)
        torch.testing.assert_close(found, model(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("role", ["default", "other", None])
@pytest.mark.parametrize("fused", [True, False])
def test_merged_weights_say_what_the_role_says(tiny_model, quantization, role, fused):
    adapters = opened(tiny_model, quantization, double=False)
    if fused:
        fuse(adapters)
    before, patches = state(adapters), len(patched(adapters))
    for rows in (1, 3):
        with torch.no_grad():
            with adapters.use(role):
                expected = adapters.model(input_ids=IDS[:rows]).logits
            with merged(adapters, role):
                found = adapters.model(input_ids=IDS[:rows]).logits
            torch.testing.assert_close(found, expected, atol=2e-4 if quantization == "nf4" else 5e-5, rtol=0)
            with adapters.use(role):
                assert torch.equal(adapters.model(input_ids=IDS[:rows]).logits, expected)
    assert len(patched(adapters)) == patches
    assert all(torch.equal(p, before[name]) for name, p in state(adapters).items())
    assert all(p.requires_grad == (".lora_" in name) for name, p in adapters.model.named_parameters())


def test_merged_weights_follow_the_adapter_as_it_learns(tiny_model):
    adapters = opened(tiny_model)
    with torch.no_grad(), merged(adapters, "default"):
        before = adapters.model(input_ids=IDS).logits
    for parameter in adapters.weights("default").values():
        parameter.data.mul_(1.5)
    with torch.no_grad(), merged(adapters, "default"):
        after = adapters.model(input_ids=IDS).logits
    with torch.no_grad(), adapters.use("default"):
        torch.testing.assert_close(after, adapters.model(input_ids=IDS).logits, atol=1e-9, rtol=0)
    assert (after - before).abs().max() > 0.01


def test_everything_comes_back_after_an_error(tiny_model):
    adapters = opened(tiny_model)
    with pytest.raises(RuntimeError, match="inside"), merged(adapters, "other"):
        assert patched(adapters)
        raise RuntimeError("inside")
    assert not patched(adapters)
    assert adapters.layers[0]._active_adapter == ["default"]


def test_a_layer_of_another_kind_is_left_to_peft(tiny_model, monkeypatch):
    adapters = opened(tiny_model)
    logits, _ = grads(adapters, "default")

    class Strange(torch.nn.Linear):
        """Computes as ever, but who knows."""

    adapters.layers[0].get_base_layer().__class__ = Strange
    fuse(adapters)
    assert len(patched(adapters)) == len(adapters.layers) - 1
    with torch.no_grad(), merged(adapters, "default"):
        assert "forward" not in adapters.layers[0].__dict__
        torch.testing.assert_close(adapters.model(input_ids=IDS).logits, logits, atol=1e-9, rtol=0)


def test_the_room_that_merged_weights_take_is_counted(tiny_model):
    adapters = opened(tiny_model, double=False)
    whole = [products._whole(layer, "default") for layer in adapters.layers]
    assert merged_bytes(adapters) == sum(weight.numel() * weight.element_size() for weight in whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [(1,), (7,), (2, 3)])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_torch_s_whatever_the_layout(dtype, rows, transposed, biased):
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(*rows, 24, generator=random).to(dtype), torch.randn(40, 24, generator=random).to(dtype)
    weight = weight.t().contiguous().t() if transposed else weight
    bias = torch.randn(40, generator=random).to(dtype) if biased else None
    with torch.no_grad():
        found = products.product(x, weight, bias)
    assert found.shape == (*rows, 40)
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias), atol=2e-5, rtol=1e-4)


def test_products_need_no_onednn(monkeypatch):
    monkeypatch.setattr(products, "_ONEDNN", None)
    x, weight = torch.randn(3, 24), torch.randn(40, 24)
    assert torch.equal(products.product(x, weight), torch.nn.functional.linear(x, weight))
