"""Loading: the device, dtype and quantization rule, the base, LoRA adapters and what is saved of them.

Training processes and the chat import this; the server process does so only when someone chats.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.models.adapters import read_adapter, wrap
from playground.models.catalog import Base, ModelError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs."""

    device: str
    dtype: "torch.dtype"
    nf4: bool

    def __str__(self) -> str:
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}{', NF4 base' if self.nf4 else ''}"


def placement(quantization: str = "auto") -> Placement:
    """The one rule. CUDA from Ampere on: bf16; older CUDA: fp16; both NF4 unless "none". CPU: fp32 compute always (bf16
    is many times slower on AVX2), NF4 only on request."""
    import torch

    if quantization not in ("auto", "nf4", "none"):
        raise ModelError(f"Quantization must be auto, nf4 or none; got {quantization!r}.")
    if torch.cuda.is_available():
        dtype = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
        return Placement("cuda", dtype, quantization != "none")
    return Placement("cpu", torch.float32, quantization == "nf4")


def load_base(base: Base, where: Placement, scorer: bool = False) -> "PreTrainedModel":
    """The frozen base on its device. NF4 is double-quantised; its compute dtype is the rule's.

    scorer: with a new `score` head, H → 1, in the LM head's place.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

    quiet_libraries()
    kind: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    quantization = None
    if where.nf4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=where.dtype,
            llm_int8_skip_modules=["score"] if scorer else None,  # None: the LM head, found by the library
        )
    try:
        model = kind.from_pretrained(
            base.folder,
            dtype=where.dtype,
            quantization_config=quantization,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="sdpa",
            device_map={"": 0} if where.device == "cuda" else None,
            **({"num_labels": 1} if scorer else {}),
        )
    except (ValueError, OSError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise ModelError(f"{base.title} can't be loaded: {str(error)[:300]}") from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _keep_nf4_differentiable(model)
    if scorer:
        _new_head(model, base)
    return model.eval()


def _new_head(model: "PreTrainedModel", base: Base) -> None:
    """Starts the score head as N(0, 1/(H+1)) in fp32, as Huang et al. 2024 (N+) have it."""
    import torch

    if not isinstance(getattr(model, "score", None), torch.nn.Linear) or model.score.bias is not None:
        raise ModelError(f"{base.title} can't become a reward model: its architecture has no plain score head.")
    model.score.to(torch.float32)
    torch.nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5)


def _keep_nf4_differentiable(model: "PreTrainedModel") -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks the weights in the first evaluation, for good, and the packed
    product has no backward: every later gradient would be wrong without an error. So it may not repack (tested)."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(base: Base) -> "PreTrainedTokenizerBase":
    """transformers' tokenizer, for the libraries that ask for one; its pad token is never the eos token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _spare_token(tokenizer)
    tokenizer.padding_side = "left"
    return tokenizer


def _spare_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A special token that never occurs in text: library code that masks by token id then spares the eos."""
    vocabulary, eos = tokenizer.get_vocab(), tokenizer.eos_token
    known = ("<pad>", "<|pad|>", "<empty_output>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<unk>")
    extra = [token for token in tokenizer.all_special_tokens if token not in (eos, tokenizer.bos_token)]
    return next((token for token in (*known, *extra) if token in vocabulary and token != eos), eos)


def eos_ids(model: "PreTrainedModel", eos_token_id: int | None) -> set[int]:
    """Every token id that ends an answer."""
    listed = model.generation_config.eos_token_id
    ends = set(listed) if isinstance(listed, list) else {listed}
    return {end for end in ends | {eos_token_id} if end is not None}


def attach_lora(model: "PreTrainedModel", r: int, alpha: int, dropout: float, targets: str) -> "PeftModel":
    """A new trainable LoRA adapter called `default`, in fp32. targets: all-linear, attention or names with commas."""
    from peft import LoraConfig, get_peft_model

    names: str | list[str] = {"attention": ["q_proj", "k_proj", "v_proj", "o_proj"]}.get(targets, targets)
    if isinstance(names, str) and names != "all-linear":
        names = [name.strip() for name in names.split(",") if name.strip()]
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, **_task(model))
    try:
        return fp32_adapters(get_peft_model(model, config))
    except ValueError as error:
        raise ModelError(f"LoRA targets {targets!r} do not fit this model: {str(error)[:200]}") from error


def continue_lora(model: "PreTrainedModel", folder: Path, dropout: float) -> "PeftModel":
    """A trainable copy, called `default`, of the adapter saved in `folder`, with its rank, alpha and targets."""
    config, weights = read_adapter(folder)
    config.lora_dropout = dropout
    for name, value in _task(model).items():
        setattr(config, name, value)
    return fp32_adapters(wrap(model, "default", config, weights))


def _task(model: "PreTrainedModel") -> dict[str, Any]:
    """PEFT's words for what is trained: a language model, or a reward model with its head."""
    return (
        {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        if hasattr(model, "score")
        else {"task_type": "CAUSAL_LM"}
    )


def fp32_adapters(model: Any) -> Any:
    """Casts every trainable parameter to fp32: a bf16 adapter rounds small Adam updates away, and crawls on CPU."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def save_adapter(model: "PeftModel", base: Base, template: str, folder: Path) -> None:
    """Writes adapter, tokenizer and chat template as one folder that appears complete or not at all."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(str(part), selected_adapters=["default"], safe_serialization=True)
    (part / "README.md").unlink(missing_ok=True)  # the library's card names this machine's paths
    path = part / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.hub_id or base.title
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, part / name)
    (part / "chat_template.jinja").write_text(template, encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def quiet_libraries() -> None:
    """Keeps loading bars and kernel notices out of logs that people read."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a new score head would be reported as missing weights
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
