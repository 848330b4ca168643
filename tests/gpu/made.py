"""Models of real sizes with random weights, runs as a stage leaves them, and rows: all made here."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from playground.data import library
from playground.data.records import RawRow
from playground.data.rendering import Renderer
from playground.data.report import examine
from playground.models import catalog, loading
from playground.models.catalog import Base
from playground.runs import run as runs
from playground.stages.judgement import FILE

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NAMES = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
SIZES = {  # the configs of Qwen2.5, with vocabulary and whether the LM head is the embeddings
    "1.5B": ((1536, 28, 8960, 12, 2), 151_936, True),
    "7B": ((3584, 28, 18_944, 28, 4), 152_064, False),
    "tiny": ((64, 2, 128, 4, 2), 49_280, True),
}
RANK = 16


def tokenizer_folder() -> Path:
    """The embedded model's tokenizer: carried beside the checkout, or in this machine's cache."""
    if (ROOT / ".tok" / "tokenizer.json").exists():
        return ROOT / ".tok"
    import platformdirs

    from playground.home import APP

    found = sorted(Path(platformdirs.user_cache_dir(APP, appauthor=False)).glob("models/*/tokenizer.json"))
    if not found:
        raise SystemExit("There is no tokenizer: copy the embedded model's into .tok/.")
    return found[0].parent


def model(work: Path, size: str) -> Base:
    """The model of this size, made at the first time of asking, in bf16, on the GPU where there is one."""
    folder = work / f"random-{size}"
    if not (folder / "tokenizer.json").exists():
        _write_model(folder, size)
    return catalog.prepare(str(folder))


def _write_model(folder: Path, size: str) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

    sizes, vocabulary, tied = SIZES[size]
    source = tokenizer_folder()
    end = Renderer(source).eos_id
    config = Qwen2Config(
        **dict(zip(NAMES, sizes, strict=True)),
        vocab_size=vocabulary,
        max_position_embeddings=32_768,
        tie_word_embeddings=tied,
        initializer_range=0.02 * max(1.0, 1536 / sizes[0]) ** 0.5,  # a narrow model would hardly heed its context
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=vocabulary - 1,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made.generation_config = GenerationConfig(eos_token_id=end)
    made.save_pretrained(folder)
    del made
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for name in TOKENIZER:  # last: its presence says that the folder is complete
        if (source / name).exists():
            shutil.copyfile(source / name, folder / f".{name}")
    for name in reversed(TOKENIZER):
        if (folder / f".{name}").exists():
            (folder / f".{name}").rename(folder / name)


def finished(base: Base, name: str, stage: str, seed: int, size: float = 0.01) -> runs.Run:
    """A run as its stage leaves it, whose adapter is random; that of a reward run has a score head and scores."""
    request = {"stage": stage, "base": base.ref, "base_title": base.title, "base_identity": base.identity}
    run = runs.create(name, {**request, "parent": None, "settings": {"quantization": "auto"}})
    write_adapter(base, run.adapter, seed, size, scorer=stage == "reward")
    (run.adapter / "chat_template.jinja").write_text(Renderer(base.folder).template, encoding="utf-8")
    if stage == "reward":
        known = {"mean": 0.0, "std": 1.0, "training": [0.0]}
        (run.adapter / FILE).write_text(json.dumps(known), encoding="utf-8")
    run.update(state="finished", phase="ended")
    return run


def write_adapter(base: Base, folder: Path, seed: int, size: float, scorer: bool) -> None:
    """A random adapter for this base, of which no weight is loaded: names and shapes come from an empty model."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(base.folder)
    config.num_labels = 1
    kind: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    with torch.device("meta"):
        empty = loading.attach_lora(kind.from_config(config), RANK, 2 * RANK, 0.0, "all-linear")
    shapes = {name: tensor.shape for name, tensor in get_peft_model_state_dict(empty).items()}
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        std = size if "lora_B" in name else shape[-1] ** -0.5
        weights[name] = torch.randn(shape, generator=random) * std
    folder.mkdir(parents=True)
    empty.peft_config["default"].save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors")


def stored(rows: list[dict[str, Any]], name: str) -> library.Dataset:
    return library.store(examine([RawRow(i, row, None) for i, row in enumerate(rows)]), name, "a GPU check")


def prompts(base: Base, tokens: int, count: int = 40) -> library.Dataset:
    """Questions that are exactly so many tokens with the template, all of them different."""
    renderer = Renderer(base.folder)

    def length(text: str) -> int:
        return len(renderer.prompt_ids([{"role": "user", "content": text}]))

    rows = []
    for i in range(count):
        text = f"Question {100 + i}: tell me"
        while length(text) < tokens:
            text += " more"
        assert length(text) == tokens, (length(text), text)
        rows.append({"prompt": text})
    return stored(rows, "questions")


def conversations(count: int = 40) -> library.Dataset:
    asked = "Question {}: {}please explain in your own words why the sky is blue in the day and red in the evening."
    told = "Answer {}: {}sunlight is scattered by the air, and blue light more than red light is, so it comes from all "
    told += "over the sky; in the evening its way through the air is so long that only the red is left."
    more = "this is a longer row, as some are; "
    rows = [
        {"prompt": asked.format(i, more * (i % 5)), "completion": told.format(i, more * (i % 7))} for i in range(count)
    ]
    return stored(rows, "conversations")


def pairs(count: int = 40) -> library.Dataset:
    rows = [
        {
            "prompt": f"Question {i}: what does the tide have to do with the moon?" + " Tell me more." * (i % 4),
            "chosen": "The moon pulls the water that is near to it more than the earth below." + " So it is." * (i % 6),
            "rejected": "Nobody knows, and I would not tell you if I did." + " No." * (i % 9),
        }
        for i in range(count)
    ]
    return stored(rows, "pairs")
