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
from playground.stages.training import TrainingSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows_of(settings, names=None) -> list[str]:
    """The rows that markdown() prints for these settings, or for some of them."""
    rows = dict(zip(settings.specs(), markdown(settings).splitlines()[2:], strict=True))
    return [row for name, row in rows.items() if names is None or name in names]


def own_settings(stage) -> list[str]:
    """The settings that a stage has beyond the common ones, or has otherwise."""
    common = TrainingSettings.specs()
    return [name for name, spec in launch.stage(stage).Settings.specs().items() if common.get(name) != spec]


def test_the_common_settings_stand_once_in_the_table_that_the_code_prints():
    assert README.count(markdown(TrainingSettings)) == 1


@pytest.mark.parametrize("stage", (*launch.STAGES, *launch.MAKERS))
def test_every_setting_of_a_stage_that_is_its_own_has_the_row_that_the_code_prints(stage):
    lines = README.splitlines()
    own = own_settings(stage)
    assert own and (stage in launch.MAKERS or len(own) < len(launch.stage(stage).Settings.specs()))
    assert [row for row in rows_of(launch.stage(stage).Settings, own) if row not in lines] == []


def test_no_row_of_a_setting_says_what_the_code_does_not():
    printed = {row for stage in (*launch.STAGES, *launch.MAKERS) for row in rows_of(launch.stage(stage).Settings)}
    printed |= set(rows_of(TrainingSettings))
    rows = re.findall(r"^\| `[a-z_]+` \| [^|]* \| [^|]* \| [^|]* \|$", README, re.MULTILINE)
    assert rows
    assert set(rows) <= printed


@pytest.mark.parametrize("stage", (*launch.STAGES, *launch.MAKERS))
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
