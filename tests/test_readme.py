"""The README says what the code says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from playground.__main__ import parser
from playground.settings import markdown
from playground.stages import launch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", launch.STAGES)
def test_the_settings_table_is_the_one_the_code_prints(stage):
    assert markdown(launch.stage(stage).Settings) in README


@pytest.mark.parametrize("stage", launch.STAGES)
def test_every_curve_is_explained_in_the_codes_words(stage):
    for name, words in launch.stage(stage).METRICS.items():
        assert f"- `{name}`: {words}" in README


def test_every_verb_stands_in_the_command_list():
    verbs = next(action for action in parser()._actions if action.dest == "verb").choices
    assert verbs
    for verb in verbs:
        assert f"python -m playground {verb}" in README


def test_every_module_stands_in_the_tree():
    tree = README.split("## The tree")[1]
    modules = [path for path in (ROOT / "playground").rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 20
    for path in modules:
        assert re.search(rf"(?<!\w){re.escape(path.name)}", tree), path


def test_the_front_matter_is_what_a_space_accepts():
    card = yaml.safe_load(README.split("---")[1])
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    assert card["sdk"] == "gradio"
    assert card["sdk_version"] == pins["gradio"]
    assert card["python_version"] == "3.12"
    assert (ROOT / card["app_file"]).exists()
    assert len(card["short_description"]) <= 60
    assert card["colorFrom"] in ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def test_the_settings_verb_lists_what_set_accepts():
    done = subprocess.run(
        [sys.executable, "-m", "playground", "settings", "sft", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert [spec["name"] for spec in json.loads(done.stdout)] == list(launch.stage("sft").Settings.specs())
