"""What a Hugging Face Space does with requirements.txt, and that the code reads on every Python it is meant for."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PINS = [line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
PINS = [line for line in PINS if line and not line.startswith("#")]
NEWEST_PYDANTIC = (2, 12, 5)  # gradio[mcp] takes no newer one


def pinned(package: str) -> str:
    return next(line.split("==")[1] for line in PINS if line.startswith(f"{package}=="))


def spaces_own() -> list[str]:
    """The line that every Gradio Space adds to the same resolution."""
    return [f"gradio[oauth,mcp]=={pinned('gradio')}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]


@pytest.fixture(scope="module")
def uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        pytest.fail("uv is missing; it stands in tests/requirements.txt")
    return found


def resolve(uv: str, python: str, folder: Path) -> dict[str, str]:
    """Package → version, as a Space on this Python would install them."""
    wanted = folder / "wanted.txt"
    wanted.write_text("\n".join([*PINS, *spaces_own()]) + "\n", encoding="utf-8")
    command = [uv, "pip", "compile", str(wanted), "--python-version", python, "--python-platform", "linux"]
    command += ["--quiet", "--no-header", "--no-annotate", "--no-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    offline = re.search(r"Failed to fetch|error sending request|Could not connect|dns error", done.stderr)
    if done.returncode and offline and not os.environ.get("CI"):
        pytest.skip("the package index can't be reached")
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ;")[0].strip().split("==") for line in done.stdout.splitlines() if "==" in line)


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_requirements_resolve_together_with_what_a_space_adds(uv, python, tmp_path):
    found = resolve(uv, python, tmp_path)
    for line in PINS:
        name, version = line.split("==")
        assert found[name.lower()] == version
    assert tuple(map(int, found["pydantic"].split("."))) <= NEWEST_PYDANTIC
    assert {"spaces", "mcp", "authlib", "itsdangerous", "uvicorn", "websockets"} <= set(found)


def test_every_requirement_is_an_exact_pin():
    for line in PINS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==\d+(\.\d+)+", line), line
    names = [line.split("==")[0].lower() for line in PINS]
    assert len(names) == len(set(names))
    assert "pydantic" not in names  # a Space brings the one that it needs


def test_torch_is_one_that_spaces_with_a_shared_gpu_take():
    assert (2, 8) <= tuple(map(int, pinned("torch").split(".")))[:2] <= (2, 13)


@pytest.mark.parametrize("version", [(3, 11), (3, 12)])
def test_the_code_is_written_in_the_grammar_of_every_python_it_is_for(version):
    files = [ROOT / "app.py", *(ROOT / "playground").rglob("*.py")]
    assert len(files) > 30
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=version)


@pytest.mark.parametrize("python", ["python3.11", "python3.12"])
def test_the_code_compiles_on_each_python_of_this_machine(python, tmp_path):
    found = shutil.which(python)
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"no {python} here")
    program = """
import pathlib, sys
for path in map(pathlib.Path, sys.argv[1:]):
    compile(path.read_bytes(), str(path), "exec")
"""
    files = [str(ROOT / "app.py"), *map(str, (ROOT / "playground").rglob("*.py"))]
    done = subprocess.run([found, "-W", "error", "-c", program, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
