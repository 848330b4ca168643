"""Switching roles on one base: exact, and nothing else changes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from playground.models.adapters import Adapters, check_adapter, open_adapters, read_adapter
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
    return {name: save_lora(tiny_model, root / name, seed) for seed, name in enumerate("xy")}


@pytest.fixture
def adapters(tiny_model, saved) -> Adapters:
    adapters = open_adapters(bare(tiny_model), "x", saved["x"])
    adapters.load("y", saved["y"])
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


@pytest.mark.parametrize("roles", [[None, "x", "y"], ["y", "y", "x"], ["x", None, None], [None] * 3, ["x", "y", "x"]])
def test_each_row_of_a_mixed_batch_equals_its_role_alone(adapters, ids, roles):
    with adapters.rows(roles):
        mixed = logits(adapters.model, ids)
    for i, role in enumerate(roles):
        with adapters.use(role):
            close(mixed[i], logits(adapters.model, ids[i : i + 1])[0])


def test_a_mixed_batch_equals_peft_s_own(adapters, ids):
    theirs = logits(adapters.model, ids, adapter_names=["__base__", "x", "y"])
    with adapters.rows([None, "x", "y"]):
        close(logits(adapters.model, ids), theirs)


def test_the_roles_differ(adapters, ids):
    with adapters.rows(["x", "y", None]):
        mixed = logits(adapters.model, ids[:1].repeat(3, 1))
    assert (mixed[0] - mixed[1]).abs().max() > 0.01
    assert (mixed[0] - mixed[2]).abs().max() > 0.01


def test_no_role_is_the_bare_base_bit_for_bit(adapters, tiny_model, ids):
    expected = logits(bare(tiny_model), ids)
    with adapters.use(None):
        assert torch.equal(logits(adapters.model, ids), expected)
    with adapters.rows([None, "x", "y"]):
        pass
    with adapters.rows([None] * 3):
        assert torch.equal(logits(adapters.model, ids), expected)


def test_a_role_equals_peft_loading_that_adapter_alone(adapters, tiny_model, saved, ids):
    alone = PeftModel.from_pretrained(bare(tiny_model), str(saved["y"])).double().eval()
    with adapters.use("y"):
        close(logits(adapters.model, ids), logits(alone, ids))


def test_uses_nest_and_what_was_active_comes_back(adapters, ids):
    outside = logits(adapters.model, ids)
    with adapters.use("y"):
        inside = logits(adapters.model, ids)
        with adapters.use(None):
            pass
        assert torch.equal(logits(adapters.model, ids), inside)
    assert torch.equal(logits(adapters.model, ids), outside)
    with adapters.use("x"):
        assert torch.equal(logits(adapters.model, ids), outside)


def test_what_trains_stays_what_trains(adapters, saved, ids):
    for name, parameter in adapters.model.named_parameters():
        parameter.requires_grad_(".x." in name)
    before = trainable(adapters)
    assert len(before) == 2 * len(adapters.layers)
    for role in ("x", "y", None):
        with adapters.use(role):
            assert trainable(adapters) == before
    with adapters.rows(["x", "y", None]):
        logits(adapters.model, ids)
    assert trainable(adapters) == before
    adapters.load("z", saved["y"])
    assert trainable(adapters) == before


def test_a_loaded_adapter_is_frozen_and_leaves_the_active_one(adapters, saved, ids):
    assert trainable(adapters) == set()
    before = logits(adapters.model, ids)
    adapters.load("z", saved["y"])
    assert trainable(adapters) == set()
    assert torch.equal(logits(adapters.model, ids), before)


def test_a_mistake_inside_leaves_nothing_behind(adapters, ids):
    before = logits(adapters.model, ids)
    for context in (adapters.rows([None, "x", "y"]), adapters.use("y")):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
    assert not any("forward" in vars(layer) for layer in adapters.layers)
    assert torch.equal(logits(adapters.model, ids), before)


def test_gradients_reach_the_adapter_in_use_and_no_other(adapters, ids):
    for name, parameter in adapters.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    adapters.model.train()
    with adapters.use("y"):
        adapters.model(input_ids=ids, labels=ids).loss.backward()
    touched = {name for name, p in adapters.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched == {name for name, _ in adapters.model.named_parameters() if "lora_" in name and ".y." in name}


def test_adapters_on_different_layers_share_one_base(tiny_model, saved, tmp_path, ids):
    narrow = save_lora(tiny_model, tmp_path / "narrow", 5, ATTENTION)
    adapters = open_adapters(bare(tiny_model), "narrow", narrow)
    adapters.load("y", saved["y"])
    adapters.model.double()
    with adapters.use(None):
        assert torch.equal(logits(adapters.model, ids), logits(bare(tiny_model), ids))
    with adapters.rows(["narrow", None, "y"]):
        mixed = logits(adapters.model, ids)
    for i, folder in ((0, narrow), (2, saved["y"])):
        alone = PeftModel.from_pretrained(bare(tiny_model), str(folder)).double().eval()
        close(mixed[i], logits(alone, ids[i : i + 1])[0])


def test_an_adapter_can_be_dropped_and_the_others_go_on(adapters, ids):
    with adapters.use("x"):
        expected = logits(adapters.model, ids)
    before = trainable(adapters)
    adapters.drop("y")
    assert not any(".y." in name for name, _ in adapters.model.named_parameters())
    assert trainable(adapters) == before
    with adapters.use("x"):
        assert torch.equal(logits(adapters.model, ids), expected)


def test_the_active_adapter_can_be_dropped_too(adapters, ids):
    adapters.drop("x")
    assert trainable(adapters) == set()
    with adapters.rows(["y", None, "y"]):
        assert logits(adapters.model, ids).isfinite().all()


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_safetensors_is_refused(adapters, saved, tmp_path, missing):
    for path in saved["x"].iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=missing):
        check_adapter(tmp_path)
    with pytest.raises(ModelError, match="no trained weights yet"):
        adapters.load("z", tmp_path)


# ---- a reward model's adapter


@pytest.fixture
def scorer(tiny_model, tmp_path) -> Path:
    """The saved adapter of a reward model, with its score head."""
    torch.manual_seed(7)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, dtype=torch.float64, num_labels=1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(str(tmp_path / "scorer"))
    return tmp_path / "scorer"


def test_a_score_head_is_read_with_the_tensors_and_left_out_of_the_config(scorer):
    config, weights = read_adapter(scorer)
    assert [name for name in weights if "lora_" not in name] == ["base_model.model.score.weight"]
    assert (config.task_type, config.modules_to_save, config.r) == ("CAUSAL_LM", None, 4)


def test_a_reward_adapter_sits_beside_the_others_without_its_head(adapters, scorer, tiny_model, ids):
    with adapters.rows(["x", None, "y"]):
        before = logits(adapters.model, ids)
    adapters.load("z", scorer)
    adapters.model.double()
    assert trainable(adapters) == set()
    assert not any("score" in name for name, _ in adapters.model.named_parameters())
    with adapters.rows(["x", None, "y"]):
        close(logits(adapters.model, ids), before)
    alone = AutoModelForSequenceClassification.from_pretrained(tiny_model, dtype=torch.float64, num_labels=1)
    alone = PeftModel.from_pretrained(alone, str(scorer)).double().eval()
    with adapters.use("z"), torch.no_grad():
        ours = adapters.model.get_base_model().model(input_ids=ids).last_hidden_state
        close(ours, alone.get_base_model().model(input_ids=ids).last_hidden_state)
    adapters.drop("z")
    with adapters.rows(["x", None, "y"]):
        close(logits(adapters.model, ids), before)


def test_a_reward_adapter_may_come_first(scorer, tiny_model, saved, ids):
    adapters = open_adapters(bare(tiny_model), "z", scorer)
    adapters.load("y", saved["y"])
    adapters.model.double()
    alone = PeftModel.from_pretrained(bare(tiny_model), str(saved["y"])).double().eval()
    with adapters.use("y"):
        close(logits(adapters.model, ids), logits(alone, ids))


# ---- adapters that can't be used


def spoilt(saved, folder, tensors=None, **config) -> Path:
    """A copy of a saved adapter with its tensors or its config changed."""
    shutil.copytree(saved["y"], folder)
    weights, path = load_file(folder / "adapter_model.safetensors"), folder / "adapter_config.json"
    save_file(tensors(weights) if tensors else weights, folder / "adapter_model.safetensors")
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def narrower(weights):
    return {name: tensor[:, :-1].contiguous() for name, tensor in weights.items()}


def fewer(weights):
    return dict(list(weights.items())[1:])


def more(weights):
    name = next(iter(weights))
    return {**weights, name.replace(".layers.0.", ".layers.7."): weights[name].clone()}


MISFITS = [
    (narrower, {}),
    (fewer, {}),
    (more, {}),
    (None, {"r": 8}),
    (None, {"target_modules": ["q_proj"]}),
    (None, {"target_modules": ["no_such_layer"]}),
    (None, {"r": 0}),
]


@pytest.mark.parametrize(("tensors", "config"), MISFITS)
def test_an_adapter_of_another_model_is_refused_and_nothing_of_it_stays(
    adapters, saved, tmp_path, ids, tensors, config
):
    for name, parameter in adapters.model.named_parameters():
        parameter.requires_grad_(".x." in name)
    names, training = {name for name, _ in adapters.model.named_parameters()}, trainable(adapters)
    with adapters.rows(["x", None, "y"]):
        before = logits(adapters.model, ids)
    other = spoilt(saved, tmp_path / "other", tensors, **config)
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"^The saved adapter does not fit this model: it was trained on another one\.$"
        ):
            adapters.load("z", other)
    assert {name for name, _ in adapters.model.named_parameters()} == names
    assert (trainable(adapters), set(adapters.model.peft_config)) == (training, {"x", "y"})
    with adapters.rows(["x", None, "y"]):
        assert torch.equal(logits(adapters.model, ids), before)
    adapters.load("z", saved["y"])
    adapters.model.double()
    with adapters.rows(["z", "z", "y"]):
        mixed = logits(adapters.model, ids[:1].repeat(3, 1))
    close(mixed[0], mixed[2])


def test_a_first_adapter_of_another_model_is_refused_too(tiny_model, saved, tmp_path):
    with pytest.raises(ModelError, match=r"^The saved adapter does not fit this model"):
        open_adapters(bare(tiny_model), "x", spoilt(saved, tmp_path / "other", narrower))
    with pytest.raises(ModelError, match=r"^The saved adapter does not fit this model"):
        open_adapters(bare(tiny_model), "x", spoilt(saved, tmp_path / "third", target_modules=["no_such_layer"]))


@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_cut_weights_give_a_sentence(adapters, saved, tmp_path, size):
    path = spoilt(saved, tmp_path / "cut") / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    for read in (read_adapter, lambda folder: adapters.load("z", folder)):
        with pytest.raises(ModelError, match=r"^The saved adapter can't be read: "):
            read(path.parent)
    assert set(adapters.model.peft_config) == {"x", "y"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"peft_type": "NO_SUCH"}'])
def test_a_damaged_config_gives_a_sentence(saved, tmp_path, text):
    path = spoilt(saved, tmp_path / "cut") / "adapter_config.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"^The saved adapter can't be read: "):
        read_adapter(path.parent)


def test_an_adapter_that_is_no_lora_is_refused(tiny_model, tmp_path):
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    get_peft_model(bare(tiny_model), config).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"^The saved adapter is not a LoRA adapter\.$"):
        read_adapter(tmp_path)


def test_nobody_looks_on_the_hub_for_the_base_that_an_adapter_names(tiny_model, saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("peft.utils.other.file_exists", lambda *_, **__: pytest.fail("asked the Hub"))
    named = spoilt(saved, tmp_path / "named", base_model_name_or_path="someone/some-model")
    adapters = open_adapters(bare(tiny_model), "x", named)
    adapters.load("y", named)
