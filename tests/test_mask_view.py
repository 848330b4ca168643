"""What the Data tab shows of a row is, token for token, what the trainer's own batches hold."""

import html as pages
import re
import shutil

import pytest
import torch

from playground.data import library
from playground.data.edits import Draft
from playground.data.pairs import Pair
from playground.data.rendering import Renderer
from playground.data.shapes import Row
from playground.data.tokens import encoded_sides, training_pairs, training_rows
from playground.models import catalog, loading
from playground.stages import dpo, launch, reward, sft, trl_bridge, trl_trainers
from playground.tabs import rows as view
from playground.tabs.looking import Looked

LIMIT = 120
# A template that writes a system message of its own, and one that writes dots for earlier answers.
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ '...' if m['role'] == 'assistant' and not loop.last else m['content'] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"chatml": None, "the playground's": "", "own system message": OWN_SYSTEM, "forgets": FORGETS}


def chat(*texts: str, system: str = "") -> list[dict[str, str]]:
    """A conversation that the user opens."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + turns


TALKS = [
    chat("hello?", "Yes."),
    chat("hello?", "Yes.", "And the other?", "No, \n\nnot that one."),
    chat("hello?", "Yes.", system="Be brief."),
    chat("Grüße 日本 🦙‍♀️\u2028?", "ß 🇫🇷 é\u0301  two  spaces\t"),
    chat("<b>&amp;</b> <|im_end|>?", "It is </span> <|im_start|>."),
    chat("hello?", "Yes. " * 60),  # cut within the answer
    chat("hello?", "Yes.", "Again? " * 5, "Yes. " * 60),  # cut within the second answer
    chat("hello? " * 60, "Yes."),  # nothing is left to learn
]
ROWS = [Row(number, messages) for number, messages in enumerate(TALKS, 1)]
ANSWERS = [(talk[:-1], talk[-1]["content"], f"No, {number}.") for number, talk in enumerate(TALKS)]
PAIRS = [Pair(number, *answer) for number, answer in enumerate(ANSWERS, 1)]


@pytest.fixture(params=TEMPLATES)
def folder(request, tiny_model, tmp_path):
    """The tiny model with one of the templates."""
    if TEMPLATES[request.param] is None:
        return tiny_model
    found = tmp_path / "model"
    shutil.copytree(tiny_model, found)
    (found / "chat_template.jinja").write_text(TEMPLATES[request.param], encoding="utf-8")
    if not TEMPLATES[request.param]:
        (found / "chat_template.jinja").unlink()
    return found


@pytest.fixture
def made(folder, monkeypatch):
    """Makes a stage's real trainer for rows that are tokenized already."""
    monkeypatch.setattr(launch.queue, "start_worker", lambda: None)
    base = catalog.prepare(str(folder))

    def trainer(stage, kind: str, rows, encoded):
        dataset = library.make("rows", kind, rows, "a test", {}, heldout=[])
        values = {"max_length": LIMIT, "per_device_train_batch_size": 3, "lora_r": 4}
        run = launch.launch(stage.NAME, base, dataset, values)
        settings, where = stage.Settings.parse(run.request["settings"]), loading.placement("none")
        model = loading.attach_lora(loading.load_base(base, where, stage is reward), 4, 8, 0.0, "all-linear")
        build = getattr(trl_trainers, f"{stage.NAME}_trainer")
        arguments = trl_bridge.arguments(settings, where, run, False)
        return build(model, loading.load_tokenizer(base), arguments, [encoded, []])

    return trainer


def batches(trainer) -> list[dict[str, torch.Tensor]]:
    """What the trainer's own collator makes of the rows, in the trainer's own order."""
    return list(trainer.get_train_dataloader())


def unpadded(batch, name: str) -> list[list[int]]:
    """One tensor of a batch, row by row, without the padding."""
    return [row[mask.bool()].tolist() for row, mask in zip(batch[name], batch["attention_mask"], strict=True)]


def sides_of(batch, name: str) -> list[tuple[list[int], list[int]]]:
    """(chosen, rejected) of each pair: a batch holds the chosen sides first."""
    found = unpadded(batch, name)
    half = len(found) // 2
    return list(zip(found[:half], found[half:], strict=True))


def page_of(row, folder) -> str:
    """The page's view of one row."""
    return view.page_html(Looked("rows", Draft({"train": [row]})), LIMIT, str(folder))


def shown(row, folder) -> list[tuple[str, bool]]:
    """(text, learned) of each token that the page shows of a row."""
    css = "pg-grey|pg-learned|pg-chosen|pg-rejected"
    spans = re.findall(rf'<span class="({css})">(.*?)</span>', page_of(row, folder), re.DOTALL)
    return [(pages.unescape(text).replace("⏎\n", "\n"), css != "pg-grey") for css, text in spans]


def test_the_mask_that_is_shown_is_the_labels_that_sft_trains_on(made, folder):
    renderer = Renderer(folder)
    trainer = made(sft, "sft", ROWS, training_rows(ROWS, renderer, LIMIT))
    found = []
    for batch in batches(trainer):
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
        found += zip(unpadded(batch, "input_ids"), unpadded(batch, "labels"), strict=True)
    views = [encoded_sides(row, renderer)[0].cut(LIMIT) for row in ROWS]
    assert sorted(found) == sorted((seen.ids, seen.labels) for seen in views if any(seen.learned))
    assert 6 <= len(found) < len(ROWS)
    for row, seen in zip(ROWS, views, strict=True):
        assert shown(row, folder) == list(zip(seen.texts, seen.learned, strict=True))


def fitting(renderer: Renderer, folder) -> list[list]:
    """Both sides, as the page knows them, of the pairs that are used."""
    views = [encoded_sides(row, renderer) for row in PAIRS]
    for row, (chosen, rejected) in zip(PAIRS, views, strict=True):
        start = rejected.start  # the prompt stands there once
        texts, learned = chosen.texts + rejected.texts[start:], chosen.learned + rejected.learned[start:]
        assert shown(row, folder) == list(zip(texts, learned, strict=True))
        assert chosen.ids[: chosen.start] == rejected.ids[: rejected.start]
    used = [sides for sides in views if max(len(side.ids) for side in sides) <= LIMIT]
    assert 5 <= len(used) < len(PAIRS)
    return used


def test_both_sides_that_are_shown_are_what_dpo_compares(made, folder):
    renderer = Renderer(folder)
    trainer = made(dpo, "preference", PAIRS, training_pairs(PAIRS, renderer, LIMIT))
    found = []
    for batch in batches(trainer):
        assert (batch["completion_mask"][batch["attention_mask"] == 0] == 0).all()
        found += zip(sides_of(batch, "input_ids"), sides_of(batch, "completion_mask"), strict=True)
    expected = [
        (tuple(side.ids for side in sides), tuple(list(map(int, side.learned)) for side in sides))
        for sides in fitting(renderer, folder)
    ]
    assert sorted(found) == sorted(expected)


def test_both_sides_that_are_shown_are_what_a_reward_model_reads(made, folder):
    renderer = Renderer(folder)
    trainer = made(reward, "preference", PAIRS, training_pairs(PAIRS, renderer, LIMIT))
    found = [sides for batch in batches(trainer) for sides in sides_of(batch, "input_ids")]
    views = fitting(renderer, folder)
    assert sorted(found) == sorted(tuple(side.ids for side in sides) for sides in views)
    ends = set(renderer.ends.values())
    assert all(side.ids[-1] in ends and side.end == len(side.ids) for sides in views for side in sides)


def test_a_row_that_is_cut_or_left_out_says_so_below_its_tokens(tiny_model):
    words = [len(Renderer(tiny_model).encode(row.messages).ids) - LIMIT for row in ROWS]
    lost = "tokens are cut off here, with the end of the last answer and the token that ends it."
    nothing = f"Nothing is left to learn within {LIMIT} tokens, so this row is left out."
    notes = [f"{words[5]} {lost}", f"{words[6]} {lost}", nothing]
    found = [page_of(row, tiny_model) for row in ROWS]
    assert [[note in page for note in notes] for page in found[5:]] == [[i == j for j in range(3)] for i in range(3)]
    assert not any("cut off" in page or "left out" in page for page in found[:5])
    too_long = ["This pair is too long and left out." in page_of(row, tiny_model) for row in PAIRS]
    assert too_long == [False] * 5 + [True] * 3
