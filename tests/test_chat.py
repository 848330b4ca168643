"""The chat engine on a tiny model: one batch, many checkpoints, the same answers as each of them gives alone."""

import itertools
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from playground.chat import engine, resident
from playground.data.rendering import Renderer
from playground.models import catalog, loading
from playground.models.adapters import open_adapters
from playground.models.catalog import ModelError
from playground.models.decode import Sampling, answers
from playground.runs import run as runs
from playground.tabs import chat

GREEDY = Sampling(max_new_tokens=12)
QUESTION = [{"role": "user", "content": "Why do cats purr?"}]
LONGER = [
    {"role": "user", "content": "Hello there, who are you?"},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "And who am I, in your opinion?"},
]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    """Each test starts with an engine that has loaded nothing."""
    monkeypatch.setattr(resident, "_loaded", None)


@pytest.fixture
def tuned(tiny_model):
    """Makes a run of the tiny model whose adapter is random and strong enough to change what is said."""

    def make(seed: int, name: str = "tuned") -> runs.Run:
        run = new_run(tiny_model, name)
        write_adapter(run, tiny_model, seed)
        return run

    return make


def new_run(folder: Path, name: str, stage: str = "sft") -> runs.Run:
    base = catalog.prepare(str(folder))
    request = {"stage": stage, "base": base.ref, "base_title": base.title, "base_identity": base.identity}
    return runs.create(name, request)


def write_adapter(run: runs.Run, folder: Path, seed: int, dropout: float = 0.0) -> None:
    base = catalog.prepare(str(folder))
    model = loading.attach_lora(loading.load_base(base, loading.placement("none")), 4, 8, dropout, "all-linear")
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=random)
    loading.save_adapter(model, base, Renderer(folder).template, run.adapter)


@pytest.fixture
def ask(tiny_model):
    """The last texts that the engine yields for the tiny model."""

    def asked(columns, histories=None, sampling=GREEDY, **options):
        histories = histories or [QUESTION] * len(columns)
        return list(engine.reply(str(tiny_model), columns, histories, sampling, **options))[-1]

    return asked


@pytest.fixture
def spoken(monkeypatch):
    """Every decoding since the test began, as the tokens of each row."""
    calls: list[list[list[int]]] = []
    real = engine.decode

    def listening(model, prompts, *rest):
        calls.append([[] for _ in prompts])
        for step in real(model, prompts, *rest):
            for row, token in step.items():
                calls[-1][row].append(token)
            yield step

    monkeypatch.setattr(engine, "decode", listening)
    return calls


def plain_answer(folder: Path, run: runs.Run | None, history=QUESTION) -> str:
    """What a freshly loaded model answers, without the engine."""
    base = catalog.prepare(str(folder))
    renderer = Renderer(folder)
    model = loading.load_base(base, loading.placement("none"))
    ends = loading.eos_ids(model, renderer.eos_id)
    if run:
        model = open_adapters(model, run.id, run.adapter).model
    return renderer.decode(answers(model, [renderer.prompt_ids(history)], ends, GREEDY)[0])


def patched_layers() -> list[object]:
    return [layer for layer in resident._loaded.adapters.layers if "forward" in vars(layer)]


def test_two_columns_in_one_batch_say_what_each_says_alone(ask, tuned, spoken):
    run = tuned(1)
    both = ask([None, run])
    assert [ask([None])[0], ask([run])[0]] == both
    together, alone, tuned_alone = spoken
    assert together == [alone[0], tuned_alone[0]]
    assert together[0] != together[1]
    assert ask([run, None]) == both[::-1]


def test_the_columns_equal_the_bare_base_and_the_adapter_on_a_fresh_base(ask, tuned, tiny_model):
    run = tuned(1)
    bare = plain_answer(tiny_model, None)
    assert ask([None]) == [bare]  # before any adapter was attached
    assert ask([None, run]) == [bare, plain_answer(tiny_model, run)]
    assert ask([None]) == [bare]  # and after


def test_histories_of_different_length_do_not_touch_each_other(ask, tuned):
    run = tuned(1)
    alone = ask([None], [QUESTION]) + ask([run], [LONGER])
    assert ask([None, run], [QUESTION, LONGER]) == alone
    assert ask([run, None], [LONGER, QUESTION]) == alone[::-1]


def test_answers_grow_token_by_token(tiny_model, tuned):
    run = tuned(1)
    seen = list(engine.reply(str(tiny_model), [None, run], [QUESTION] * 2, GREEDY))
    assert len(seen) > 3
    for before, after in itertools.pairwise(seen):
        assert all(late.startswith(early) for early, late in zip(before, after, strict=True))


def test_a_third_run_sits_beside_the_others(ask, tuned, tiny_model):
    first, second = tuned(1), tuned(2)
    found = ask([None, first, second, first])
    assert found == [plain_answer(tiny_model, run) for run in (None, first, second, first)]
    assert len(set(found)) == 3


def test_only_so_many_adapters_stay_in_memory_and_the_least_used_one_leaves(ask, tuned):
    made = [tuned(seed) for seed in range(resident.MAX_ADAPTERS + 1)]
    alone = [ask([run])[0] for run in made[:-1]]
    ask([made[0]])
    alone.append(ask([made[-1]])[0])  # pushes out made[1]: made[0] was used since
    loaded = resident._loaded
    assert set(loaded.names) == {run.id for run in made} - {made[1].id}
    assert set(loaded.adapters.layers[0].lora_A) == set(loaded.names)
    assert [ask([run])[0] for run in made] == alone


def test_more_runs_at_once_than_fit_are_refused_instead_of_answering_as_the_base(ask, tuned):
    made = [tuned(seed) for seed in range(resident.MAX_ADAPTERS + 1)]
    with pytest.raises(ModelError, match=f"^{resident.MAX_ADAPTERS} runs at most can answer at once"):
        ask(made)
    assert len(ask([None, *made[1:], made[1]])) == resident.MAX_ADAPTERS + 2  # repetitions and the base cost nothing


def test_an_adapter_that_was_trained_further_is_loaded_again(ask, tuned, tiny_model):
    run, other = tuned(1), tuned(2)
    before = ask([run, other])
    write_adapter(run, tiny_model, 3)
    after = ask([run, other])
    assert after == [plain_answer(tiny_model, run), before[1]]
    assert after[0] != before[0]


def test_the_only_adapter_can_be_loaded_again_too(ask, tuned, tiny_model):
    run = tuned(1)
    before = ask([run, None])
    write_adapter(run, tiny_model, 3)
    assert ask([run, None]) == [plain_answer(tiny_model, run), before[1]]


@pytest.mark.parametrize("first", [False, True])
def test_damaged_weights_are_refused_and_the_next_question_is_answered(ask, tuned, tiny_model, first):
    good, bad = tuned(1), tuned(2)
    if not first:
        ask([good, bad])
    write_adapter(bad, tiny_model, 3)
    whole = (bad.adapter / "adapter_model.safetensors").read_bytes()
    (bad.adapter / "adapter_model.safetensors").write_bytes(whole[:1000])
    for _ in range(2):
        with pytest.raises(ModelError, match="tuned-2"):
            ask([bad])
    assert ask([None, good]) == [plain_answer(tiny_model, None), plain_answer(tiny_model, good)]
    write_adapter(bad, tiny_model, 3)
    assert ask([bad]) == [plain_answer(tiny_model, bad)]


def test_a_run_of_another_base_is_refused_with_both_names(ask, tuned, tiny_model, tmp_path):
    other = tmp_path / "another"
    shutil.copytree(tiny_model, other)
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    stranger = new_run(other, "stranger")
    write_adapter(stranger, other, 1)
    with pytest.raises(ModelError, match=r"^stranger was trained on another, not on tiny\.$"):
        ask([None, stranger])
    assert not engine.busy()
    assert len(list(engine.reply(str(other), [stranger], [QUESTION], GREEDY))) > 1  # on its own base it answers


def test_a_run_without_weights_says_so(ask, tiny_model):
    with pytest.raises(ModelError, match=r"^This run has no trained weights yet"):
        ask([new_run(tiny_model, "early")])
    assert not engine.busy()


def test_a_reward_model_is_refused_before_anything_is_loaded(ask, tuned, tiny_model):
    judge = new_run(tiny_model, "judge", "reward")
    for columns in ([judge], [None, tuned(1), judge]):
        with pytest.raises(ModelError, match=r"^judge is a reward model: it gives scores, not answers\."):
            ask(columns)
    assert resident._loaded is None
    assert not engine.busy()


def test_a_second_adapter_that_was_trained_with_dropout_answers_without_it(ask, tuned, tiny_model):
    first, second = tuned(1), tuned(2)
    write_adapter(second, tiny_model, 2, dropout=0.5)
    expected = ask([second])
    resident.forget()
    ask([first])
    assert [ask([second]) for _ in range(3)] == [expected] * 3
    assert not any(module.training for module in resident._loaded.adapters.model.modules())


def test_a_conversation_that_is_too_long_is_refused(ask):
    endless = [{"role": "user", "content": "why " * engine.MAX_PROMPT_TOKENS}]
    with pytest.raises(ModelError, match=r"^This conversation is \d+ tokens long, 500 at most; start a new one\.$"):
        ask([None], [endless])
    assert not engine.busy()
    assert ask([None])


def test_stopping_ends_the_answer_and_frees_the_turn(ask, tuned, spoken):
    run = tuned(1)
    asked = iter([False, False, False])
    assert ask([None, run], should_stop=lambda: next(asked, True))
    assert [len(tokens) for tokens in spoken[0]] == [3, 3]
    assert not engine.busy()
    assert patched_layers() == []


def test_a_closed_page_frees_the_turn_and_leaves_no_patch_behind(ask, tuned, tiny_model):
    run = tuned(1)
    whole = ask([None, run])
    talking = engine.reply(str(tiny_model), [None, run], [QUESTION] * 2, GREEDY)
    next(talking), next(talking)
    assert engine.busy()
    assert patched_layers() == []  # not even between two tokens
    talking.close()
    assert not engine.busy()
    assert ask([None, run]) == whole


def test_an_error_in_the_middle_frees_the_turn_and_leaves_no_patch_behind(ask, tuned, monkeypatch):
    run = tuned(1)
    whole = ask([None, run])
    with monkeypatch.context() as patch:
        patch.setattr("playground.models.decode._choose", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask([None, run])
    assert not engine.busy()
    assert patched_layers() == []
    assert ask([None, run]) == whole


def test_two_people_asking_at_once_both_get_their_own_answers(ask, tuned):
    first, second = tuned(1), tuned(2)
    asked = [([None, first], [QUESTION] * 2), ([second, first], [LONGER] * 2)]
    alone = [ask(*question) for question in asked]
    found: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda i=i, question=question: found.update({i: ask(*question)}))
        for i, question in enumerate(asked)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[0], found[1]] == alone


def test_sampling_follows_its_seed(ask, tuned):
    run = tuned(1)
    warm = Sampling(max_new_tokens=12, temperature=1.5, seed=3)
    first = ask([None, run], sampling=warm)
    assert ask([None, run], sampling=warm) == first
    assert ask([run], sampling=warm) == first[1:]  # whoever sits beside it
    assert ask([None, run], sampling=replace(warm, seed=4)) != first


def test_the_engine_changes_its_base_when_asked_for_another(ask, tuned, tiny_model, tiny_model_no_template):
    run = tuned(1)
    before = ask([None, run])
    assert list(engine.reply(str(tiny_model_no_template), [None], [QUESTION], GREEDY))
    assert ask([None, run]) == before


def test_who_gives_up_while_another_answer_is_written_gets_none_and_leaves_the_turn_alone(tiny_model):
    gave_up = threading.Event()
    waiting = engine.reply(str(tiny_model), [None], [QUESTION], GREEDY, should_stop=gave_up.is_set)
    with resident.turn:
        gave_up.set()
        assert list(waiting) == []
        assert engine.busy()
    assert not engine.busy()


def test_stop_lets_the_answer_end_itself_and_its_last_frame_is_the_last_word(monkeypatch):
    waited = []

    def slow(stop, **asked):
        yield asked["question"], "Answering…"
        assert stop.wait(10)
        yield asked["question"], "Stopped."

    def clear():
        chat.halt_and_wait(page)
        waited.append(list(chat._asked))

    monkeypatch.setattr(chat, "answer", slow)
    page, other = SimpleNamespace(session_hash="a"), SimpleNamespace(session_hash="b")
    answer = chat.until_stopped("a", {"question": "Why?"})
    assert next(answer) == ("Why?", "Answering…")
    chat.halt(other)  # somebody else's stop, and a stop where nothing is asked
    assert not chat._asked["a"].stop.is_set()
    clearing = threading.Thread(target=clear)
    clearing.start()
    assert list(answer) == [("Why?", "Stopped.")]
    clearing.join(10)
    assert waited == [[]]


def test_an_answer_that_fails_can_be_followed_by_another(monkeypatch):
    def broken(**asked):
        yield from ()
        raise ValueError("no")

    monkeypatch.setattr(chat, "answer", broken)
    with pytest.raises(ValueError, match="no"):
        list(chat.until_stopped("a", {}))
    assert chat._asked == {}
