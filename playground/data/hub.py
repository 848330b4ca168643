"""Rows of a dataset on the Hugging Face Hub, streamed by a child process that has limits of its own.

Only tables are read (JSON, CSV, Parquet, Arrow, text), only files of the dataset's own repository, no code that comes
with it, no pictures or sounds. A child, because the `datasets` library is large and a dataset is as hostile as a file.

Not here: files of a repository by name, other hosts, uploads.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from playground.data import child
from playground.data.records import LIMITS, DataError, Limits, RawRow, amount, checked_row, shown

_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_READ = {"json", "csv", "parquet", "arrow", "text"}  # the readers of `datasets` that read plain tables
_SECONDS = 300
_MEMORY = 1_500_000_000  # the library and its threads take a part; a row group is read whole
_KEPT = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def read_dataset(
    dataset_id: str,
    subset: str = "",
    split: str = "train",
    most_rows: int = LIMITS.rows,
    limits: Limits = LIMITS,
    progress: Callable[[int, str], None] = lambda rows, note: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[RawRow]:
    """The first rows of a split. `progress` is told how many there are so far, and in words what is left out."""
    asked = {"subset": subset.strip(), "split": split.strip(), "most": min(most_rows, limits.rows)}
    rows: list[RawRow] = []
    for record in _asked(dataset_id, asked, limits, lambda count: progress(count, ""), stop):
        if "note" in record:
            progress(len(rows), record["note"])
        else:
            rows.append(RawRow(**record))
    if not rows:
        raise DataError(f"{shown(dataset_id)}: there are no rows in '{shown(split)}'")
    return rows


def splits(dataset_id: str) -> list[tuple[str, str]]:
    """(subset, split) of everything that the dataset offers."""
    found = _asked(dataset_id, {}, LIMITS, lambda count: None, lambda: False)
    return [(str(record["subset"]), str(record["split"])) for record in found]


def _asked(
    dataset_id: str, asked: dict[str, Any], limits: Limits, progress: Callable[[int], None], stop: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """What the child answers; DataError with the dataset's name where it can't."""
    name = dataset_id.strip()
    try:
        if not _ID.fullmatch(name) or "--" in name or ".." in name:  # the Hub's own rule
            raise DataError("this is no dataset id; it looks like owner/name")
        arguments = [json.dumps({"name": name, **asked}), json.dumps(asdict(limits))]
        yield from child.records(__name__, arguments, _SECONDS, _environment(), progress, stop)
    except child.Stopped:
        raise DataError(f"{shown(name)}: stopped; no row was kept") from None
    except child.Ended:
        raise DataError(f"{shown(name)}: it takes too much time or memory; take fewer rows") from None
    except DataError as error:
        raise DataError(f"{shown(name)}: {error}") from None


def _environment() -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if key.upper() in _KEPT}  # http_proxy is common, too
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    if "SPACE_ID" not in os.environ and "HF_TOKEN" in os.environ:  # a host's token must not open doors to visitors
        env["HF_TOKEN"] = os.environ["HF_TOKEN"]
    return env


# ---- the child


def _answer(asked: dict[str, Any], limits: Limits) -> None:
    """The child's whole life: rows, or the splits where none is asked for."""
    child.limit(_SECONDS, _MEMORY, written=2 * limits.unpacked_bytes)
    os.environ["HF_HOME"] = os.getcwd()  # the child's own folder: nothing is kept, no stored token is found
    try:
        name = _todays_id(asked["name"])
        _tell_rows(name, asked, limits) if "split" in asked else _tell_splits(name)
    except DataError as error:
        child.tell({"error": str(error)})
    except Exception as error:  # a library of this size fails in a hundred ways
        child.tell({"error": _sentence(error)})


def _todays_id(name: str) -> str:
    """The Hub knows where a dataset went that is still called by one word, or by its first owner. A Hub that can't be
    reached is noticed here: `datasets` would try for half a minute."""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name, timeout=15).id


def _tell_splits(name: str) -> None:
    builder = _builder(name, _subsets(name)[0])
    for config in builder.builder_configs.values() or [builder.config]:
        for split in config.data_files:
            child.tell({"subset": config.name, "split": str(split)})


def _tell_rows(name: str, asked: dict[str, Any], limits: Limits) -> None:
    values = told = 0
    left_out: set[str] = set()
    numbers = iter(range(1, asked["most"] + 1))
    for table in _tables(name, asked["subset"], asked["split"]):
        media = {field.name for field in table.schema if _is_media(field.type)}
        for column in sorted(media - left_out):
            child.tell({"note": f"the column '{shown(column)}' holds pictures or sounds and is left out"})
        left_out |= media
        for value in table.drop_columns(list(media)).to_pylist():
            if (number := next(numbers, None)) is None:
                return
            row = checked_row(number, value, limits)
            values += amount(row.value)
            if values > limits.values or told > limits.unpacked_bytes:
                child.tell({"note": f"only the first {number - 1:,} rows are taken; more would need too much memory"})
                return
            told += child.tell(vars(row))


def _tables(name: str, subset: str, split: str) -> Iterator[Any]:
    """Arrow tables of a few rows: in this form `datasets` decodes nothing."""
    known = _subsets(name)
    if subset and subset not in known:
        raise DataError(f"there is no subset '{shown(subset)}'; {_choice(known)}")
    try:
        builder = _builder(name, subset)
    except ValueError as error:
        if "Config name is missing" in str(error):
            raise DataError(f"it has several subsets; {_choice(known)}") from None
        raise
    if split not in builder.config.data_files:
        raise DataError(f"there is no split '{shown(split)}'; {_choice(builder.config.data_files)}")
    yield from builder.as_streaming_dataset(split=split).with_format("arrow").iter(batch_size=64)


def _choice(known: Iterable[Any]) -> str:
    names = [shown(str(name)) for name in known]
    return f"choose one of {', '.join(names[:20])}{' …' if len(names) > 20 else ''}"


def _subsets(name: str) -> list[str]:
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # only the repository itself is asked
    _stay_within_the_repository()
    return datasets.get_dataset_config_names(f"hf://datasets/{name}")


def _builder(name: str, subset: str) -> Any:
    import datasets

    builder = datasets.load_dataset_builder(f"hf://datasets/{name}", None if subset in ("", "default") else subset)
    if builder.name not in _READ:
        raise DataError(f"it is stored as {builder.name}, which is no table; only {', '.join(sorted(_READ))} are read")
    return builder


def _stay_within_the_repository() -> None:
    """A dataset's card names its files, and may name other hosts or this machine's folders: those are not looked up."""
    from datasets import data_files

    def resolve(pattern: str, *args: Any, **kwargs: Any) -> list[str]:
        foreign = "::" in pattern or ".." in pattern.split("/")
        if foreign or not (data_files.is_relative_path(pattern) or pattern.startswith("hf://datasets/")):
            raise DataError(f"its card names a file outside of the dataset: '{shown(pattern)}'; that is refused")
        return found(pattern, *args, **kwargs)

    found, data_files.resolve_pattern = data_files.resolve_pattern, resolve


def _is_media(kind: Any) -> bool:
    """True for the Arrow type of pictures, sounds and films, and for lists and objects that hold some."""
    import pyarrow.types as types

    if types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        return names == {"bytes", "path"} or any(_is_media(kind.field(i).type) for i in range(kind.num_fields))
    return (types.is_list(kind) or types.is_large_list(kind)) and _is_media(kind.value_type)


def _sentence(error: BaseException | None) -> str:
    """What went wrong in `datasets` or on the way to the Hub, for a person."""
    kinds, texts, first = set(), "", type(error).__name__
    while error:
        kinds |= {kind.__name__ for kind in type(error).__mro__}
        texts += str(error)
        error = error.__cause__ or error.__context__
    if "scripts are no longer supported" in texts:
        return "this dataset needs code of its own to load; that is refused"
    if kinds & {"GatedRepoError"} or "gated dataset" in texts:
        return "its terms must be accepted by each user; download it yourself and bring the file"
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError"}:
        return "there is no public dataset of this name on the Hub"
    if kinds & {"EmptyDatasetError", "DataFilesNotFoundError"}:
        return "it holds no table that can be read; JSON, CSV, Parquet, Arrow and text files are"
    if "MemoryError" in kinds:
        return "it takes too much memory; bring a part of it as a file"
    if kinds & {"ConnectionError", "OfflineModeIsEnabled", "TransportError"}:
        return "the Hub can't be reached; bring a file of the dataset instead"
    return f"it can't be read ({first}); bring a file of the dataset instead"


if __name__ == "__main__":
    _answer(json.loads(sys.argv[1]), Limits(**json.loads(sys.argv[2])))
