"""The decoding loop gives what transformers' generate gives, row by row, whoever else is in the batch."""

import random
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM

from playground.data.rendering import Renderer
from playground.models.adapters import open_adapters
from playground.models.catalog import Base
from playground.models.decode import Sampling, answers, decode, favour_small_batches
from playground.models.loading import attach_lora, eos_ids, save_adapter

QUESTIONS = ["hi", "What is the capital of France?", "Count from 1 to 5, and say why you do.", "Name a colour."]


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return load(tiny_model)


@pytest.fixture(scope="module")
def prompts(tiny_model):
    return prompts_of(tiny_model)


def prompts_of(folder) -> list[list[int]]:
    renderer = Renderer(folder)
    return [renderer.prompt_ids([{"role": "user", "content": question}]) for question in QUESTIONS]


def rows_of(model, prompts, ends, sampling, **kwargs) -> list[list[int]]:
    """All new tokens of each row, the end token included."""
    found: list[list[int]] = [[] for _ in prompts]
    for step in decode(model, prompts, ends, sampling, **kwargs):
        for row, token in step.items():
            found[row].append(token)
    return found


def generated(model, prompts, ends, new_tokens) -> list[list[int]]:
    """The same with transformers' generate, on the left-padded batch, cut behind the first end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False,
                            eos_token_id=sorted(ends), pad_token_id=0)  # fmt: skip
    return [cut_behind(row, ends) for row in output[:, width:].tolist()]


def cut_behind(row, ends):
    return next((row[: i + 1] for i, token in enumerate(row) if token in ends), row)


def common_token(model, prompts) -> int:
    """A token that greedy answers reach after a few steps, in some rows only."""
    rows = rows_of(model, prompts, set(), Sampling(max_new_tokens=16))
    seen = Counter(token for row in rows for token in set(row[2:8]) - set(row[:2]))
    return next(token for token, rows_with in seen.most_common() if rows_with < len(rows))


def test_greedy_equals_generate_on_a_ragged_batch(tiny, prompts):
    ends = {common_token(tiny, prompts)}
    mine = rows_of(tiny, prompts, ends, Sampling(max_new_tokens=16))
    assert len({len(row) for row in mine}) > 1  # some rows ended before others
    assert mine == generated(tiny, prompts, ends, 16)


def test_greedy_equals_generate_on_the_embedded_model(embedded_model):
    model, prompts = load(embedded_model.folder), prompts_of(embedded_model.folder)
    ends = eos_ids(model, None)
    assert rows_of(model, prompts, ends, Sampling(max_new_tokens=12)) == generated(model, prompts, ends, 12)


@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, temperature=1.0, seed=3)]
)
def test_an_answer_is_the_same_alone_and_in_any_batch(tiny, prompts, sampling):
    ends = {common_token(tiny, prompts)}
    together = rows_of(tiny, prompts, ends, sampling)
    assert [rows_of(tiny, [prompt], ends, sampling)[0] for prompt in prompts] == together
    assert rows_of(tiny, prompts[::-1], ends, sampling) == together[::-1]


def test_rows_that_end_early_change_nothing_for_the_others(tiny, prompts):
    end = common_token(tiny, prompts)
    unending = rows_of(tiny, prompts, set(), Sampling(max_new_tokens=16))
    assert rows_of(tiny, prompts, {end}, Sampling(max_new_tokens=16)) == [cut_behind(row, {end}) for row in unending]


def test_the_end_token_is_the_last_one_and_answers_leave_it_out(tiny, prompts):
    end = common_token(tiny, prompts)
    sampling = Sampling(max_new_tokens=16)
    rows = rows_of(tiny, prompts, {end}, sampling)
    assert all(end not in row[:-1] for row in rows)
    assert any(row[-1] == end for row in rows)
    assert answers(tiny, prompts, {end}, sampling) == [[token for token in row if token != end] for row in rows]


def test_answers_keep_the_order_of_many_prompts_and_report_progress(tiny, prompts):
    many = [prompts[i % 4][: 3 + i % 7] for i in range(20)]
    seen = []
    found = answers(tiny, many, set(), Sampling(max_new_tokens=3), progress=seen.append)
    assert found == [rows_of(tiny, [prompt], set(), Sampling(max_new_tokens=3))[0] for prompt in many]
    assert seen == [16, 20]
    assert answers(tiny, [], set(), Sampling()) == []


def test_the_same_seed_gives_the_same_sample_and_another_another(tiny, prompts):
    first, second, other = (
        rows_of(tiny, prompts, set(), Sampling(max_new_tokens=12, temperature=1.0, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"top_k": 1, "top_p": 0.5}, {"temperature": 1e-4}])
def test_the_narrowest_sampling_is_greedy(tiny, prompts, narrow):
    sampling = Sampling(**{"max_new_tokens": 12, "temperature": 1.0, **narrow})
    assert rows_of(tiny, prompts, set(), sampling) == rows_of(tiny, prompts, set(), Sampling(max_new_tokens=12))


@pytest.mark.parametrize(("rule", "top_k", "top_p"), [("all", 0, 1.0), ("top_k", 5, 1.0), ("top_p", 0, 0.7)])
def test_samples_follow_the_model_s_probabilities(tiny, prompts, rule, top_k, top_p):
    """2000 first tokens against softmax(logits / T), cut and renormalised, by Pearson's chi-square."""
    temperature, draws = 0.8, 2000
    with torch.no_grad():
        p = (tiny(torch.tensor([prompts[1]])).logits[0, -1] / temperature).softmax(-1)
    order = p.argsort(descending=True).tolist()
    if rule == "top_k":
        kept = order[:5]
    elif rule == "top_p":
        kept = order[: next(n for n in range(1, len(order)) if p[order[:n]].sum() >= top_p)]
    else:
        kept = order
    expected = {token: float(p[token] / p[kept].sum()) * draws for token in kept}

    counts: Counter[int] = Counter()
    for seed in range(draws):
        sampling = Sampling(max_new_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        counts += Counter(chosen_once(tiny, prompts[1], sampling))
    assert set(counts) <= set(kept)
    likely = [token for token in kept if expected[token] >= 5]
    chi_square = sum((counts[token] - expected[token]) ** 2 / expected[token] for token in likely)
    assert chi_square < 2 * len(likely) + 10


def chosen_once(model, prompt, sampling):
    """The first sampled token; the forward pass is done once and kept, the choice is the real one."""
    from playground.models import decode as module

    key = tuple(prompt)
    if key not in KEPT:
        with torch.no_grad():
            KEPT[key] = model(torch.tensor([prompt])).logits[:, -1]
    row = module._Row(0, None, torch.Generator().manual_seed(sampling.seed))
    return module._choose(KEPT[key], sampling, [row])


KEPT: dict[tuple[int, ...], torch.Tensor] = {}


def test_should_stop_ends_it_between_two_tokens(tiny, prompts):
    asked = []
    steps = list(
        decode(tiny, prompts, set(), Sampling(max_new_tokens=50), should_stop=lambda: asked.append(1) or len(asked) > 3)
    )
    assert len(steps) == 3
    assert all(set(step) == {0, 1, 2, 3} for step in steps)


def test_a_reader_may_leave_in_between(tiny, prompts):
    steps = decode(tiny, prompts, set(), Sampling(max_new_tokens=50))
    next(steps)
    steps.close()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_between_two_tokens_the_caller_is_not_in_inference_mode(tiny, prompts):
    for _ in decode(tiny, prompts, set(), Sampling(max_new_tokens=2)):
        assert not torch.is_inference_mode_enabled()


def test_each_role_answers_as_it_would_alone(tiny_model, prompts, tmp_path):
    base = Base("tiny", "tiny", tiny_model, "none")
    trained = attach_lora(load(tiny_model), 4, 8, 0.0, "all-linear")
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(7))
    save_adapter(trained, base, "", tmp_path / "adapter")
    adapters = open_adapters(load(tiny_model), "sft", tmp_path / "adapter")
    sampling = Sampling(max_new_tokens=12)
    roles = [None, "sft", None, "sft"]
    mixed = rows_of(adapters.model, [prompts[1]] * 4, set(), sampling, roles=(adapters, roles))
    with adapters.use(None):
        plain = rows_of(adapters.model, prompts[1:2], set(), sampling)[0]
    with adapters.use("sft"):
        aligned = rows_of(adapters.model, prompts[1:2], set(), sampling)[0]
    assert plain != aligned
    assert mixed == [plain, aligned, plain, aligned]


def test_the_layout_for_small_batches_changes_no_value(tiny_model, tiny, prompts):
    other = load(tiny_model)
    favour_small_batches(other)
    for (name, weight), (_, expected) in zip(other.named_parameters(), tiny.named_parameters(), strict=True):
        assert torch.equal(weight, expected), name
    assert not other.model.layers[0].mlp.up_proj.weight.is_contiguous()
    ids = torch.tensor([prompts[1]])
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, tiny(ids).logits, atol=1e-5, rtol=1e-5)
    sampling = Sampling(max_new_tokens=12)
    assert rows_of(other, prompts, set(), sampling) == rows_of(tiny, prompts, set(), sampling)


def test_a_shared_beginning_is_read_once_and_changes_no_answer(tiny_model, monkeypatch):
    from playground.models import decode as module

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    chance = random.Random(0)
    front = [chance.randrange(200) for _ in range(80)]
    prompts = [front + [chance.randrange(200) for _ in range(n)] for n in (1, 9, 4)]
    found, read = {}, []
    plain = model.forward

    def counted(*args, **inputs):
        read.append(inputs["input_ids"].numel())
        return plain(*args, **inputs)

    monkeypatch.setattr(model, "forward", counted)
    for least in (64, 10**9):
        monkeypatch.setattr(module, "SHARED_LEAST", least)
        read.clear()
        found[least] = [module.answers(model, prompts, set(), Sampling(12)), sum(read[:2])]
    assert found[64][0] == found[10**9][0]
    assert found[64][1] < 120 < found[10**9][1]
