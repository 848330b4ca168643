"""Switching roles on one base: exact, and nothing else changes."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from playground.models.adapters import Adapters, check_adapter, open_adapters
from playground.models.catalog import ModelError

ATTENTION = ["q_proj", "v_proj"]


def bare(tiny_model):
    """In double precision: what differs then is a mistake, not rounding."""
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval()


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def save_lora(tiny_model, folder, seed, targets="all-linear"):
    """A LoRA that changes the answers: B is zero in a fresh one."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", lora_dropout=0.1)
    model = get_peft_model(bare(tiny_model), config)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {name: save_lora(tiny_model, root / name, seed) for seed, name in enumerate("ab")}


@pytest.fixture
def adapters(tiny_model, saved) -> Adapters:
    adapters = open_adapters(bare(tiny_model), "a", saved["a"])
    adapters.load("b", saved["b"])
    adapters.model.double()
    return adapters


@pytest.fixture
def ids():
    return torch.randint(0, 250, (3, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(input_ids=ids, **kwargs).logits


def trainable(adapters) -> set[str]:
    return {name for name, parameter in adapters.model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("roles", [[None, "a", "b"], ["b", "b", "a"], ["a", None, None], [None] * 3, ["a", "b", "a"]])
def test_each_row_of_a_mixed_batch_equals_its_role_alone(adapters, ids, roles):
    with adapters.rows(roles):
        mixed = logits(adapters.model, ids)
    for i, role in enumerate(roles):
        with adapters.use(role):
            close(mixed[i], logits(adapters.model, ids[i : i + 1])[0])


def test_a_mixed_batch_equals_peft_s_own(adapters, ids):
    theirs = logits(adapters.model, ids, adapter_names=["__base__", "a", "b"])
    with adapters.rows([None, "a", "b"]):
        close(logits(adapters.model, ids), theirs)


def test_the_roles_differ(adapters, ids):
    with adapters.rows(["a", "b", None]):
        mixed = logits(adapters.model, ids[:1].repeat(3, 1))
    assert (mixed[0] - mixed[1]).abs().max() > 0.01
    assert (mixed[0] - mixed[2]).abs().max() > 0.01


def test_no_role_is_the_bare_base_bit_for_bit(adapters, tiny_model, ids):
    expected = logits(bare(tiny_model), ids)
    with adapters.use(None):
        assert torch.equal(logits(adapters.model, ids), expected)
    with adapters.rows([None, "a", "b"]):
        pass
    with adapters.rows([None] * 3):
        assert torch.equal(logits(adapters.model, ids), expected)


def test_a_role_equals_peft_loading_that_adapter_alone(adapters, tiny_model, saved, ids):
    alone = PeftModel.from_pretrained(bare(tiny_model), str(saved["b"])).double().eval()
    with adapters.use("b"):
        close(logits(adapters.model, ids), logits(alone, ids))


def test_uses_nest_and_what_was_active_comes_back(adapters, ids):
    outside = logits(adapters.model, ids)
    with adapters.use("b"):
        inside = logits(adapters.model, ids)
        with adapters.use(None):
            pass
        assert torch.equal(logits(adapters.model, ids), inside)
    assert torch.equal(logits(adapters.model, ids), outside)
    with adapters.use("a"):
        assert torch.equal(logits(adapters.model, ids), outside)


def test_what_trains_stays_what_trains(adapters, saved, ids):
    for name, parameter in adapters.model.named_parameters():
        parameter.requires_grad_(".a." in name)
    before = trainable(adapters)
    assert len(before) == 2 * len(adapters.layers)
    for role in ("a", "b", None):
        with adapters.use(role):
            assert trainable(adapters) == before
    with adapters.rows(["a", "b", None]):
        logits(adapters.model, ids)
    assert trainable(adapters) == before
    adapters.load("c", saved["b"])
    assert trainable(adapters) == before


def test_a_loaded_adapter_is_frozen_and_leaves_the_active_one(adapters, saved, ids):
    assert trainable(adapters) == set()
    before = logits(adapters.model, ids)
    adapters.load("c", saved["b"])
    assert trainable(adapters) == set()
    assert torch.equal(logits(adapters.model, ids), before)


def test_a_mistake_inside_leaves_nothing_behind(adapters, ids):
    before = logits(adapters.model, ids)
    for context in (adapters.rows([None, "a", "b"]), adapters.use("b")):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
    assert not any("forward" in vars(layer) for layer in adapters.layers)
    assert torch.equal(logits(adapters.model, ids), before)


def test_gradients_reach_the_adapter_in_use_and_no_other(adapters, ids):
    for name, parameter in adapters.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    adapters.model.train()
    with adapters.use("b"):
        adapters.model(input_ids=ids, labels=ids).loss.backward()
    touched = {name for name, p in adapters.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched == {name for name, _ in adapters.model.named_parameters() if "lora_" in name and ".b." in name}


def test_adapters_on_different_layers_share_one_base(tiny_model, saved, tmp_path, ids):
    narrow = save_lora(tiny_model, tmp_path / "narrow", 5, ATTENTION)
    adapters = open_adapters(bare(tiny_model), "narrow", narrow)
    adapters.load("b", saved["b"])
    adapters.model.double()
    with adapters.use(None):
        assert torch.equal(logits(adapters.model, ids), logits(bare(tiny_model), ids))
    with adapters.rows(["narrow", None, "b"]):
        mixed = logits(adapters.model, ids)
    for i, folder in ((0, narrow), (2, saved["b"])):
        alone = PeftModel.from_pretrained(bare(tiny_model), str(folder)).double().eval()
        close(mixed[i], logits(alone, ids[i : i + 1])[0])


def test_an_adapter_can_be_dropped_and_the_others_go_on(adapters, ids):
    with adapters.use("a"):
        expected = logits(adapters.model, ids)
    before = trainable(adapters)
    adapters.drop("b")
    assert not any(".b." in name for name, _ in adapters.model.named_parameters())
    assert trainable(adapters) == before
    with adapters.use("a"):
        assert torch.equal(logits(adapters.model, ids), expected)


def test_the_active_adapter_can_be_dropped_too(adapters, ids):
    adapters.drop("a")
    assert trainable(adapters) == set()
    with adapters.rows(["b", None, "b"]):
        assert logits(adapters.model, ids).isfinite().all()


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_safetensors_is_refused(adapters, saved, tmp_path, missing):
    for path in saved["a"].iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=missing):
        check_adapter(tmp_path)
    with pytest.raises(ModelError, match="no trained weights yet"):
        adapters.load("c", tmp_path)
