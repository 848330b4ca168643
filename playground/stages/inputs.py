"""What a run was asked to work on, found again and proven to be the same."""

from playground.data import library
from playground.data.library import Dataset
from playground.models import catalog
from playground.models.catalog import Base
from playground.runs.run import Run


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


def dataset_of(run: Run) -> Dataset:
    """The run's dataset; StageError if its rows are not the ones that were asked for."""
    request = run.request
    run.update(phase="reading the data")
    dataset = library.find(request["dataset"]["id"])
    if dataset.sha256 != request["dataset"]["sha256"]:
        raise StageError(f"The dataset {dataset.name} has changed since this run was asked for; start a new run.")
    return dataset
