"""The Constitution tab's wiring to the rest of the page: what its forms and those of the other stages offer."""

import asyncio
import json

import gradio as gr
import pytest

from playground.data import constitutions, library
from playground.data.constitution import Constitution, Principle
from playground.runs import run as runs
from playground.stages import launch
from playground.tabs import page, values


@pytest.fixture(scope="module")
def built():
    async def build() -> gr.Blocks:
        return page.build()

    return asyncio.run(build())


def wired(built: gr.Blocks) -> list:
    return [fn for fn in built.fns.values() if fn.fn is not None and "offered" in fn.fn.__code__.co_names]


def asking() -> int:
    """How many forms ask for a constitution: those of stages, and the recipe's."""
    return 1 + sum("constitution" in launch.stage(name).Settings.specs() for name in (*launch.STAGES, *launch.MAKERS))


def labels(outputs) -> list[str]:
    return [getattr(part, "label", "") for part in outputs]


def test_forms_learn_of_constitutions_and_datasets_when_a_page_opens_and_a_tab_is_chosen(built):
    events = [(type(built.blocks.get(target)).__name__, name) for fn in wired(built) for target, name in fn.targets]
    assert events.count(("Tabs", "change")) == 2
    assert ("State", "change") in events and "load" in [name for _, name in events]
    assert all(part.parent is not built for part in built.blocks.values() if isinstance(part, gr.Dropdown))  # no strays
    for fn in wired(built):
        said = labels(fn.outputs)
        assert said.count("Constitution") == asking()
        assert said.count("Data") == len(launch.STAGES) + len(launch.MAKERS)


def test_what_is_offered_is_what_there_is_today(built):
    kind = Principle("Kind", "Is it kind?", "Make it kind.", "Which is kinder?")
    constitutions.save(Constitution("on-another-page", "", (kind,)))
    used = {"name": "rules", "version": 1, "sha256": "0" * 64}
    asked = {"stage": "constitution", "parent": None, "base": "embedded", "constitution": used, "settings": {}}
    run = runs.create("maker", asked)
    rows = [{"index": i, "prompt": [{"role": "user", "content": f"What about {i}?"}], "answer": f"Answer {i}.",
             "steps": [], "notes": {}, "revision": f"Kind answer {i}.", "reason": None} for i in range(6)]  # fmt: skip
    (run.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (send,) = [fn for fn in built.fns.values() if fn.fn is not None and fn.fn.__name__ == "send"
               and fn.fn.__defaults__ == ("dpo",)]  # fmt: skip
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values.gr, "Info", said.append)
        found = send.fn(run.id)
    (made,) = [dataset for dataset in library.datasets() if dataset.name.startswith("maker")]
    assert set(found) == set(send.outputs)
    updates = [update for update in found.values() if isinstance(update, dict)]
    assert [update["value"] for update in updates if "value" in update] == [made.id]
    lists = [update["choices"] for update in updates]
    assert sum(made.id in [choice[-1] for choice in choices] for choices in lists) >= 2  # the reward model's, too
    assert sum("on-another-page" in choices for choices in lists) == asking() >= 3
