"""Recipes: several runs asked for at once, each built on what the ones before it make.

A step whose data or parent does not exist yet is queued all the same, with `waits_for` in its request. The worker
leaves it in the queue until those have finished, and fills the gap just before it starts. So a recipe survives a closed
page like any run; each of its steps can be watched, stopped and resumed, and those behind it go on from there.
"""

from pathlib import Path
from typing import Any

import yaml

from playground.data import constitutions, library
from playground.models import catalog
from playground.models.catalog import Base
from playground.runs import queue, run
from playground.runs.run import Run
from playground.settings import SettingError
from playground.stages import harvest, launch
from playground.stages.inputs import StageError

RECIPES = Path(__file__).resolve().parents[2] / "presets" / "recipes"


def recipes() -> dict[str, dict[str, Any]]:
    """Every recipe by name: {"about", "steps": {name: {"stage", "data", "parent", "settings"}}}. A step's data is a
    dataset or an earlier step that makes one; its parent is an earlier step that trains."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RECIPES.glob("*.yaml"))}


def steps(name: str) -> dict[str, dict[str, Any]]:
    """The steps of one recipe, in order."""
    known = recipes()
    if name not in known:
        raise SettingError(f"There is no recipe called {name[:60]!r}. Known: {', '.join(known)}.")
    return known[name]["steps"]


def start(name: str, base: Base, constitution: str | None = None) -> list[Run]:
    """Queues every step of a recipe; the first is checked whole, the others as far as they can be.

    constitution: the one that its steps apply, where they apply one. All get the same version, whatever is saved later.
    """
    made: dict[str, Run] = {}
    entry = steps(name)
    if constitution and not applies(name):
        raise SettingError(f"No step of {name} applies a constitution; leave it out.")
    for title, step in entry.items():
        values = dict(step.get("settings", {}))
        if "constitution" in (specs := launch.stage(step["stage"]).Settings.specs()):
            asked = constitution or values.get("constitution", specs["constitution"].default)
            values["constitution"] = constitutions.find(asked).reference
        settings = launch.stage(step["stage"]).Settings.parse(values)
        waits = {part: made[step[part]] for part in ("data", "parent") if step.get(part) in made}
        request = launch.described(step["stage"], base, settings, None) | {"recipe": name}
        if waits:
            request |= _later(step, waits)
        else:
            dataset = library.find(step["data"], launch.stage(step["stage"]).COLUMNS)
            request |= launch.checked(step["stage"], settings, base, dataset, None)
        made[title] = run.create(f"{name}-{title}", request)
    queue.start_worker()
    return list(made.values())


def applies(name: str) -> bool:
    """True if a step of the recipe applies a constitution."""
    return any("constitution" in launch.stage(step["stage"]).Settings.specs() for step in steps(name).values())


def _later(step: dict[str, Any], waits: dict[str, Run]) -> dict[str, Any]:
    """What the request of a step says of the runs that it waits for, until they have ended."""
    parent, source = waits.get("parent"), waits.get("data")
    return {
        "waits_for": {part: needed.id for part, needed in waits.items()},
        "parent": {"id": parent.id, "name": parent.name, "weights_sha256": ""} if parent else None,
        "dataset": {"id": None, "name": source.name if source else step["data"], "sha256": "", "rows": [0, 0]},
    }


def resolve(asked: Run) -> dict[str, Any]:
    """The request with data and parent filled in, where it waited for them; StageError if they did not come about."""
    request = asked.request
    waits = request.get("waits_for")
    if not waits:
        return request
    needed = {part: Run(run_id) for part, run_id in waits.items()}
    for other in needed.values():
        if (state := other.status().state) != "finished":
            raise StageError(f"{other.name}, which this step builds on, is {state}; see to it first, then resume.")
    base = catalog.prepare(request["base"], identity=request["base_identity"])
    module = launch.stage(request["stage"])
    settings = module.Settings.parse(request["settings"])
    source = needed.get("data")
    name = request["dataset"]["name"]
    dataset = harvest.hand_over(source, module.COLUMNS) if source else library.find(name, module.COLUMNS)
    found = launch.checked(request["stage"], settings, base, dataset, needed.get("parent"))
    del request["waits_for"]
    request |= found
    asked.write_request(request)
    return request
