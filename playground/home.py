"""Where things live and what they are called.

`home()` holds what people made (runs, datasets); `cache()` what can be made again (models).
"""

import os
import re
import threading
from collections.abc import Collection
from pathlib import Path

import platformdirs

APP = "alignment-playground"


def home() -> Path:
    """PLAYGROUND_HOME, else `/data/alignment-playground` where `/data` is writable, else the user data folder."""
    if asked := os.environ.get("PLAYGROUND_HOME"):
        root = Path(asked).expanduser()
    elif os.access("/data", os.W_OK):
        root = Path("/data") / APP
    else:
        root = Path(platformdirs.user_data_dir(APP, appauthor=False))
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def cache() -> Path:
    """PLAYGROUND_CACHE, else the user cache folder: converted models, safe to delete at any time."""
    asked = os.environ.get("PLAYGROUND_CACHE")
    root = Path(asked).expanduser() if asked else Path(platformdirs.user_cache_dir(APP, appauthor=False))
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step: a reader sees the old text or the new, never half of one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def clean_name(wanted: str, fallback: str) -> str:
    """`wanted` as one short line that is safe in a terminal, a page and a file name."""
    return re.sub(r"[^\w.+-]+", "-", wanted).strip("-.")[:60] or fallback


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, with -2, -3 … behind it where it is taken."""
    if name not in taken:
        return name
    return next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)
