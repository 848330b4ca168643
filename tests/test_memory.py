"""The memory estimate: monotone, right about parameters, and near the figures it was derived from."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from playground.models.memory import GIB, Shape, free_bytes, ppo_bytes

QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
QWEN_1_5B = {
    "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
USUAL = {"rollouts": 16, "tokens": 512, "micro_batch": 4, "r": 16}


def test_7b_in_four_bits_fits_a_card_of_12_gib():
    total = ppo_bytes(QWEN_7B, **USUAL)["total"] / GIB
    assert 7.0 < total < 11.0


@pytest.mark.parametrize(("config", "card"), [(QWEN_1_5B, 3.212), (QWEN_7B, 8.878)])
def test_the_estimate_is_within_15_percent_of_what_a_card_held(config, card):
    """card: GiB that an H100 held at the peak of tests/gpu/check.py, context included."""
    total = ppo_bytes(config, rollouts=16, tokens=192, micro_batch=8, r=16)["total"] / GIB
    assert total == pytest.approx(card, rel=0.15)


@pytest.mark.parametrize("more", [{"rollouts": 256}, {"tokens": 1024}, {"micro_batch": 8}, {"r": 64}])
def test_more_of_anything_never_needs_less(more):
    assert ppo_bytes(QWEN_7B, **{**USUAL, **more})["total"] >= ppo_bytes(QWEN_7B, **USUAL)["total"]


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_the_model_has_them(tied):
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    linear = sum(
        m.weight.numel() for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"
    )
    shape = Shape.of(config.to_dict())
    assert shape.linear == linear
    norms = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert shape.linear + shape.embeddings + norms == sum(p.numel() for p in model.parameters())


def test_an_adapter_is_counted_as_peft_makes_it():
    from peft import LoraConfig, get_peft_model

    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300,
    )  # fmt: skip
    peft = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert Shape.of(config.to_dict()).lora(4) == sum(p.numel() for p in peft.parameters() if p.requires_grad)


@pytest.mark.parametrize(("most", "used", "expected"), [("900", "400", 500), ("900", "1200", 0), ("max", "4", None)])
def test_free_memory_heeds_the_limit_of_a_container(tmp_path, most, used, expected):
    (tmp_path / "memory.max").write_text(f"{most}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    found = free_bytes(tmp_path)
    assert found == expected if expected is not None else found > 10**8


def test_without_a_container_free_memory_is_the_machine_s(tmp_path):
    assert 10**8 < free_bytes(tmp_path) < 2**50
