"""What a run was asked to work on, found again and proven to be the same."""

import contextlib
import hashlib
from typing import Any

from playground.data import library
from playground.data.library import Dataset
from playground.data.readers import DataError
from playground.models import catalog
from playground.models.catalog import Base
from playground.runs.run import ACTIVE, Run, RunError, list_runs

WEIGHTS = "adapter_model.safetensors"


class StageError(ValueError):
    """Training that can't start or go on; the text says what to change."""


class Stopped(Exception):
    """Raised where a stop was asked for and there is nothing to save yet."""


def heed_stop(run: Run) -> None:
    """Stopped, if someone asked for it."""
    if run.stop_requested():
        raise Stopped


def base_of(run: Run) -> Base:
    """The run's starting model, fetched if it must be; StageError if it is not the one that was asked for."""
    request = run.request
    run.update(phase="preparing the model")

    def progress(text: str, share: float | None = None) -> None:
        run.update(phase=text)

    base = catalog.prepare(request["base"], progress, request["base_identity"])
    heed_stop(run)
    if base.identity != request["base_identity"]:
        raise StageError(f"{base.title} has changed on disk since this run was asked for; start a new run.")
    return base


def parent_of(run: Run) -> Run | None:
    """The run whose weights this one continues, if any; StageError unless they are the ones that were asked for."""
    return _same_weights(run.request["parent"])


def reward_of(run: Run) -> Run | None:
    """The reward run that scores this one's answers, if any; StageError likewise."""
    return _same_weights(run.request["reward"])


def judge_of(run: Run) -> Run | None:
    """The run that judges this one's answers, if another does; StageError likewise."""
    return _same_weights(run.request["judge"])


def known_weights(run: Run | None) -> dict[str, str] | None:
    """How a request names a run whose weights it needs."""
    return {"id": run.id, "name": run.name, "weights_sha256": weights_sha256(run)} if run else None


def _same_weights(asked: dict[str, str] | None) -> Run | None:
    if asked is None:
        return None
    needed = Run(asked["id"])
    if not (needed.adapter / WEIGHTS).exists():
        raise StageError(f"{asked['name']}, which this run needs, has been deleted; start a new run.")
    if weights_sha256(needed) != asked["weights_sha256"]:
        raise StageError(f"{asked['name']} was trained further since this run was asked for; start a new run.")
    return needed


def weights_sha256(run: Run) -> str:
    """The hash of a run's trained weights."""
    with (run.adapter / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dataset_of(run: Run) -> Dataset:
    """The run's dataset; StageError if its rows are not the ones that were asked for."""
    asked = run.request["dataset"]
    run.update(phase="reading the data")
    try:
        dataset = library.find(asked["id"])
    except DataError:
        raise StageError(f"{asked['name']}, which this run needs, has been deleted; start a new run.") from None
    if dataset.sha256 != asked["sha256"]:
        raise StageError(f"The dataset {dataset.name} has changed since this run was asked for; start a new run.")
    return dataset


def known_dataset(dataset: Dataset) -> dict[str, Any]:
    """How a request names the dataset that it needs."""
    return {
        "id": dataset.id,
        "name": dataset.name,
        "version": dataset.version,
        "sha256": dataset.sha256,
        "rows": [dataset.train, dataset.heldout],
        "origin": dataset.origin,
    }


def uses() -> dict[tuple[str, str], list[Run]]:
    """(id, sha256) of every dataset that a run was asked to work on → those runs, oldest first."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in list_runs():
        with contextlib.suppress(RunError):  # being deleted just now
            asked = run.request["dataset"]
            found.setdefault((asked["id"], asked["sha256"]), []).append(run)
    return found


def used_by(dataset: Dataset) -> list[Run]:
    """The runs that were asked to work on this very version, oldest first."""
    return uses().get((dataset.id, dataset.sha256), [])


def delete_datasets(which: list[Dataset]) -> None:
    """Removes these versions from the library, all or none; DataError while a run needs one or may go on with it."""
    for dataset in which:
        for run in used_by(dataset):
            state = run.status().state
            if state in ACTIVE:
                raise DataError(f"{run.name} is {state} and needs {dataset.label}; stop and delete that run first.")
            if state != "finished":
                raise DataError(f"{run.name} ({state}) may go on with {dataset.label}; delete that run first.")
    library.delete(*which)
