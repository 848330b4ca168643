"""Which model: the embedded one, a Hub id, a local folder of safetensors or a local GGUF file, brought to a local
folder.

`prepare(ref)` is the one door: what comes out is a folder that holds config.json, tokenizer.json and safetensors,
checked. Nothing here runs code that comes with a model, and nothing but safetensors and GGUF is ever read as weights.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import psutil

Progress = Callable[[str, float | None], None]
EMBEDDED = "embedded"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE*",
]

# Small models that answer or complete well for their size; any other Hub id can be typed.
SUGGESTED = {
    "HuggingFaceTB/SmolLM2-135M": "base, 135M",
    "HuggingFaceTB/SmolLM2-360M-Instruct": "instruct, 360M",
    "Qwen/Qwen3-0.6B-Base": "base, 0.6B",
    "Qwen/Qwen2.5-0.5B-Instruct": "instruct, 0.5B",
    "Qwen/Qwen2.5-1.5B-Instruct": "instruct, 1.5B",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "instruct, 1.7B",
}


class ModelError(ValueError):
    """A model that can't be found, fetched or used; the text says why and what to do."""


@dataclass(frozen=True)
class Base:
    """A starting checkpoint on this disk. `identity` is its revision or a fingerprint of its weights."""

    ref: str
    title: str
    folder: Path
    identity: str
    note: str = ""
    hub_id: str | None = None


def silent(text: str, share: float | None = None) -> None:
    """A progress that nobody watches."""


def choices() -> list[tuple[str, str]]:
    """(label, ref) of the models that a person can pick without typing."""
    return [("SmolLM2-135M-Instruct (embedded)", EMBEDDED)] + [
        (f"{ref} ({say})", ref) for ref, say in SUGGESTED.items()
    ]


def kind(ref: str) -> str:
    """ "embedded", "gguf", "folder" or "hub": what this reference points to."""
    if ref == EMBEDDED:
        return "embedded"
    if ref.endswith(".gguf"):
        return "gguf"
    with contextlib.suppress(OSError, RuntimeError):  # a name that is too long, a ~user who does not exist
        if ref and Path(ref).expanduser().is_dir():
            return "folder"
    if HUB_ID.fullmatch(ref) and "--" not in ref and ".." not in ref:  # the Hub's own rule
        return "hub"
    raise ModelError(
        f"{ref[:80]!r} is neither 'embedded', a folder, a .gguf file nor a Hub id such as 'HuggingFaceTB/SmolLM2-135M'."
    )


def is_ready(ref: str) -> bool:
    """True if `prepare(ref)` would need no download and no conversion."""
    from playground.models import gguf

    if kind(ref) == "embedded":
        return gguf.embedded_folder() is not None
    return kind(ref) == "folder" or (kind(ref) == "hub" and _hub_copy(ref) is not None)


def prepare(ref: str, progress: Progress = silent, identity: str | None = None, refresh: bool = False) -> Base:
    """The starting checkpoint that `ref` names, fetched and converted if needed; ModelError if it can't be used.

    A Hub id means the copy that was fetched before, if there is one: its revision at `identity`, where a run names one;
    refresh=True asks the Hub for today's.
    """
    from playground.models import gguf

    match kind(ref):
        case "embedded":
            folder = gguf.embedded(progress)
            return Base(
                ref,
                "SmolLM2-135M-Instruct",
                folder,
                f"sha256:{gguf.WHEEL_SHA256}",
                "4-bit-origin weights",
                "HuggingFaceTB/SmolLM2-135M-Instruct",
            )
        case "gguf":
            path = Path(ref).expanduser().resolve()
            folder, digest = gguf.local(path, progress)
            return Base(str(path), path.stem, folder, f"sha256:{digest}", "weights that were quantized in a GGUF file")
        case "folder":
            folder = Path(ref).expanduser().resolve()
            check_folder(folder)
            return Base(str(folder), folder.name, folder, f"fingerprint:{fingerprint(folder)}")
        case _:
            revision = identity.removeprefix("revision:") if identity else None
            copy = None if refresh else _hub_copy(ref, revision)
            return (
                Base(ref, ref, copy, f"revision:{copy.name}", hub_id=ref)
                if copy
                else _from_hub(ref, revision, progress)
            )


def check_folder(folder: Path) -> None:
    """ModelError unless the folder holds a causal language model as safetensors with a fast tokenizer and no code."""
    try:
        config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ModelError(f"{folder.name} has no readable config.json, so it is not a model folder.") from None
    if "auto_map" in config:
        raise ModelError(
            f"{folder.name} needs its own Python code to run; this app runs no code that comes with a model."
        )
    if not any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or []):
        raise ModelError(f"{folder.name} is not a causal language model: {config.get('architectures')}.")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder.name} has no .safetensors file; other weight formats can hide code and are not read."
        )
    if missing := [name for name in _shards(folder) if not (folder / name).exists()]:
        raise ModelError(f"{folder.name} is incomplete: {missing[0]} is missing.")
    if not (folder / "tokenizer.json").exists():
        raise ModelError(f"{folder.name} has no tokenizer.json; save its fast tokenizer there first.")


def _shards(folder: Path) -> set[str]:
    """The weight files that the folder's index names; empty if it has no readable index."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def fingerprint(folder: Path) -> str:
    """A hash of the weight files' names, sizes, first and last megabyte: quick, and enough to tell folders apart."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:32]


def _from_hub(ref: str, revision: str | None, progress: Progress) -> Base:
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        # No token: the host's own access must not open private models to visitors.
        info = HfApi(token=False).model_info(ref, revision=revision, files_metadata=True, timeout=15)
        _check_hub_files(ref, {file.rfilename: file.size or 0 for file in info.siblings or []})
        progress(f"Downloading {ref}", None)
        folder = Path(snapshot_download(ref, revision=info.sha, allow_patterns=WANTED, token=False))
    except GatedRepoError:
        raise ModelError(
            f"{ref} asks every user to accept its terms; download it yourself and give its folder."
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(f"There is no public model {ref} on the Hub.") from None
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        if copy := _hub_copy(ref, revision):
            return Base(ref, ref, copy, f"revision:{copy.name}", hub_id=ref)
        raise ModelError(
            f"The Hub can't be reached for {ref} ({type(error).__name__}); use the embedded model or a local folder."
        ) from None
    check_folder(folder)
    return Base(ref, ref, folder, f"revision:{info.sha}", hub_id=ref)


def _hub_copy(ref: str, revision: str | None = None) -> Path | None:
    """An earlier complete download of this model, so that nothing needs the network twice."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(ref, revision=revision, allow_patterns=WANTED, local_files_only=True, token=False)
        )
        check_folder(folder)
        return folder
    except (LocalEntryNotFoundError, ModelError):
        return None


def _check_hub_files(ref: str, sizes: dict[str, int]) -> None:
    """ModelError before a byte is downloaded: no safetensors, or larger than disk and memory allow."""
    if not any(name.endswith(".safetensors") for name in sizes):
        raise ModelError(f"{ref} has no .safetensors weights; other formats can hide code and are not read.")
    for name in ("config.json", "tokenizer.json"):
        if name not in sizes:
            raise ModelError(f"{ref} has no {name}, which this app needs.")
    wanted = sum(size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in WANTED))
    room = min(shutil.disk_usage(Path.home()).free / 2, psutil.virtual_memory().total * 0.6)
    if wanted > room:
        raise ModelError(f"{ref} takes {wanted / 1e9:.1f} GB; this machine has room for {room / 1e9:.1f} GB.")
