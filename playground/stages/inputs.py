"""What a run was asked to work on, found again and proven to be the same."""

import hashlib

from playground.data import library
from playground.data.library import Dataset
from playground.models import catalog
from playground.models.catalog import Base
from playground.runs.run import Run

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
    request = run.request
    run.update(phase="reading the data")
    dataset = library.find(request["dataset"]["id"])
    if dataset.sha256 != request["dataset"]["sha256"]:
        raise StageError(f"The dataset {dataset.name} has changed since this run was asked for; start a new run.")
    return dataset
