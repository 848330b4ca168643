"""Roles on one base: the only code that touches adapter state.

PEFT's own `set_adapter` and `disable_adapter` change `requires_grad` behind the caller's back, and its mixed batches
cost a third of the decoding time. Here switching flips two attributes per layer and nothing else; a batch whose rows
speak for different checkpoints adds each row's own low-rank term to one shared base product.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.models.catalog import ModelError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora import LoraLayer

MISFIT = "The saved adapter does not fit this model: it was trained on another one."


class Adapters:
    """The adapters of one loaded base. A role is an adapter's name, or None for the base itself."""

    def __init__(self, model: "PeftModel"):
        self.model = model
        self.layers: list[LoraLayer] = []
        self._find_layers()

    def _find_layers(self) -> None:
        from peft.tuners.lora import LoraLayer

        self.layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]

    @contextmanager
    def use(self, role: str | None) -> Iterator[None]:
        """The whole batch runs as this role; `requires_grad` stays as it is, gradients flow if asked for."""
        before = [(layer._active_adapter, layer._disable_adapters) for layer in self.layers]
        try:
            for layer in self.layers:
                layer._disable_adapters = role is None
                if role is not None:
                    layer._active_adapter = [role]
            yield
        finally:
            for layer, (active, disabled) in zip(self.layers, before, strict=True):
                layer._active_adapter, layer._disable_adapters = active, disabled

    @contextmanager
    def rows(self, roles: Sequence[str | None]) -> Iterator[None]:
        """Row i of every batch runs as roles[i]. For inference only: dropout is left out."""
        spans = [(role, span) for role, span in _spans(roles) if role is not None]
        try:
            for layer in self.layers:
                layer.forward = partial(_mixed_forward, layer, spans)
            yield
        finally:
            for layer in self.layers:
                del layer.forward  # the class's own forward shows again

    def load(self, name: str, folder: Path) -> None:
        """Adds the adapter saved in `folder` under `name`, frozen."""
        config, weights = read_adapter(folder)
        try:
            with self._same_gradients():
                self.model.add_adapter(name, config)
                put_weights(self.model, name, weights)
            self.model.train(self.model.training)  # else a new adapter's dropout is on
        except ValueError as error:
            if name in self.model.peft_config:
                self.model.delete_adapter(name)
            raise ModelError(MISFIT) from error
        finally:
            self._find_layers()  # it may sit on layers that no other adapter sits on

    def copy(self, name: str, new: str) -> None:
        """A second adapter with the same weights as `name`, frozen."""
        with self._same_gradients():
            self.model.add_adapter(new, copy.deepcopy(self.model.peft_config[name]))
            for key, parameter in self.weights(new).items():
                parameter.data.copy_(self.model.get_parameter(key.replace(f".{new}.", f".{name}.")))
        self.model.train(self.model.training)
        self._find_layers()

    def train_only(self, *names: str) -> None:
        """From now on exactly these adapters are trained; nothing else of the model is."""
        chosen = tuple(f".{name}." for name in names)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(".lora_" in name and any(part in name for part in chosen))

    def weights(self, name: str) -> "dict[str, torch.nn.Parameter]":
        """The adapter's own parameters, by their names in the model."""
        part = f".{name}."
        return {key: p for key, p in self.model.named_parameters() if ".lora_" in key and part in key}

    def drop(self, name: str) -> None:
        """Forgets an adapter and frees its memory."""
        for layer in self.layers:  # PEFT would switch to another adapter by itself, and make it trainable
            layer._active_adapter = [other for other in layer.lora_A if other != name][:1]
        with self._same_gradients():
            self.model.delete_adapter(name)

    @contextmanager
    def _same_gradients(self) -> Iterator[None]:
        """Whatever PEFT does inside, the same parameters train afterwards, and new ones do not."""
        before = {parameter for parameter in self.model.parameters() if parameter.requires_grad}
        try:
            yield
        finally:
            for parameter in self.model.parameters():
                parameter.requires_grad_(parameter in before)


def open_adapters(base_model: Any, name: str, folder: Path) -> Adapters:
    """Wraps a plain base with its first adapter, frozen."""
    model = wrap(base_model, name, *read_adapter(folder))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Adapters(model.eval())


def read_adapter(folder: Path) -> "tuple[LoraConfig, dict[str, torch.Tensor]]":
    """(LoRA config, tensors by name) of a saved adapter; a reward model's score head is among the tensors only."""
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_adapter(folder)
    try:
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_file(folder / "adapter_model.safetensors")
    except (SafetensorError, TypeError, KeyError, ValueError, OSError) as error:
        raise ModelError(f"The saved adapter can't be read: {str(error)[:200]}") from error
    if type(config) is not LoraConfig:
        raise ModelError("The saved adapter is not a LoRA adapter.")
    config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, False
    config.base_model_name_or_path = None  # else PEFT looks that name up on the Hub
    return config, weights


def wrap(base_model: Any, name: str, config: "LoraConfig", weights: "dict[str, torch.Tensor]") -> "PeftModel":
    """A plain base with this saved adapter on it, trainable; ModelError where it does not fit."""
    from peft import get_peft_model

    try:
        model = get_peft_model(base_model, config, adapter_name=name)
    except ValueError as error:
        raise ModelError(MISFIT) from error
    put_weights(model, name, weights)
    return model


def put_weights(model: "PeftModel", name: str, weights: "dict[str, torch.Tensor]") -> None:
    """Copies saved LoRA tensors into the adapter called `name`; ModelError unless they fit it one to one."""
    from peft import get_peft_model_state_dict

    lora = {key: tensor for key, tensor in weights.items() if ".lora_" in key}
    state = get_peft_model_state_dict(model, adapter_name=name)  # the parameters' own memory, under the saved names
    there = {key: tensor for key, tensor in state.items() if ".lora_" in key}
    if {key: tensor.shape for key, tensor in lora.items()} != {key: tensor.shape for key, tensor in there.items()}:
        raise ModelError(MISFIT)
    for key, tensor in lora.items():
        there[key].copy_(tensor)


def check_adapter(folder: Path) -> None:
    """ModelError unless the folder holds a LoRA adapter as safetensors (PEFT would fall back to a pickle)."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).exists():
            raise ModelError(f"This run has no trained weights yet ({name} is missing).")


def _spans(roles: Sequence[str | None]) -> list[tuple[str | None, slice]]:
    """Runs of equal neighbours as slices: views, where an index would copy."""
    spans: list[tuple[str | None, slice]] = []
    for i, role in enumerate(roles):
        if spans and spans[-1][0] == role:
            spans[-1] = (role, slice(spans[-1][1].start, i + 1))
        else:
            spans.append((role, slice(i, i + 1)))
    return spans


def _mixed_forward(
    layer: "LoraLayer", spans: list[tuple[str, slice]], x: "torch.Tensor", *args: Any, **kwargs: Any
) -> "torch.Tensor":
    """base(x) + s·B(A(x)) on each role's rows. x: (B, T, in) → (B, T, out); Hu et al. 2021, eq. 3."""
    result = layer.base_layer(x, *args, **kwargs)
    for role, span in spans:
        if role in layer.lora_A:
            a, b = layer.lora_A[role], layer.lora_B[role]
            result[span] += layer.scaling[role] * b(a(x[span].to(a.weight.dtype))).to(result.dtype)
    return result
