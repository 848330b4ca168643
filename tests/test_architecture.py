"""The plan of the house, held by the syntax trees: which module may import which, and how long things may grow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "playground"
FILES = sorted(PACKAGE.rglob("*.py")) + [path for path in [ROOT / "app.py"] if path.exists()]
LOOSE = ("utils.py", "util.py", "common.py", "helpers.py", "misc.py")

# Every arrow points down: a room imports from its own floor or a lower one.
FLOORS = [
    {"settings", "statistics", "home", "runs", "data", "models"},
    {"stages", "chat", "export", "presets"},
    {"tabs", "worker", "verbs", "data_verbs", "__main__"},
    {"app"},
]
SHARED = {
    "settings",
    "statistics",
    "home",
    "data.rendering",
}  # what the rooms of the ground floor may take from each other


def name_of(path: Path) -> str:
    """playground/models/gguf.py → models.gguf; app.py → app."""
    parts = path.relative_to(PACKAGE if PACKAGE in path.parents else ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(name: str) -> str:
    return name.split(".")[0]


def floor_of(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room_of(name) in rooms)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Everything that a file imports, wherever in it, as dotted names."""
    package = ["playground", *name_of(path).split(".")]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, as name_of() calls them."""
    known = {name_of(file) for file in FILES}
    for imported in imports_of(path):
        parts = imported.split(".")
        if parts[0] == "playground" and len(parts) > 1:
            names = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
            found = next((name for name in names if name in known), None)
            if found:
                yield found


def each(files=FILES):
    return pytest.mark.parametrize("path", files, ids=[str(path.relative_to(ROOT)) for path in files])


def test_there_is_a_package_to_look_at():
    assert len(FILES) > 15
    assert {"settings", "runs.run", "models.gguf", "data.rendering"} <= {name_of(path) for path in FILES}
    assert set(own_imports(PACKAGE / "models" / "gguf.py")) == {"home", "models.catalog"}


@each()
def test_every_module_has_its_place_on_a_floor(path):
    assert path == PACKAGE / "__init__.py" or any(room_of(name_of(path)) in rooms for rooms in FLOORS)


@each()
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        assert list(own_imports(path)) == []
        return
    me = name_of(path)
    for other in own_imports(path):
        assert floor_of(other) <= floor_of(me), f"{me} must not import {other}, a floor above it"
        if floor_of(me) == 0 and room_of(me) != room_of(other):
            assert other in SHARED, (
                f"{me} must not import {other}: on the ground floor only {sorted(SHARED)} are shared"
            )


@each()
def test_only_the_tabs_and_the_app_know_gradio(path):
    if room_of(name_of(path)) not in ("tabs", "app"):
        assert not {name for name in imports_of(path) if name.split(".")[0] == "gradio"}


@each()
def test_only_the_bridge_and_its_trainers_know_trl(path):
    if name_of(path) not in ("stages.trl_bridge", "stages.trl_trainers"):
        assert not {name for name in imports_of(path) if name.split(".")[0] == "trl"}


@each()
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(tree_of(path))


@each()
def test_nothing_grows_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = node.args
            count = len(taken.posonlyargs + taken.args + taken.kwonlyargs) + bool(taken.vararg) + bool(taken.kwarg)
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert node.end_lineno - first + 1 <= 70, f"{node.name} is longer than 70 lines"
            assert count <= 7, f"{node.name} takes more than 7 parameters"


def test_there_is_no_drawer_for_odds_and_ends():
    assert [path for path in FILES if path.name in LOOSE] == []


def test_the_ground_floor_opens_without_the_large_libraries():
    """The page must open without torch: modules that import it at the top are loaded with the first answer or score."""
    on_first_use = {"models.decode", "models.products", "models.scoring"}
    names = [name_of(path) for path in FILES if path != PACKAGE / "__init__.py"]
    ground = [f"playground.{name}" for name in names if floor_of(name) == 0 and name not in on_first_use]
    large = ("torch", "transformers", "peft", "trl", "gradio")
    program = f"import sys, {', '.join(ground)}\nprint([name for name in {large} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
