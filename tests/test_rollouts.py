"""Rollouts: answers laid out for training, sampled as the model means it, and predicted anew with the same numbers."""

import math

import pytest
import torch

from playground.data.rendering import Renderer
from playground.models import catalog, loading
from playground.models.adapters import Adapters
from playground.models.decode import Sampling
from playground.stages import logprobs
from playground.stages.logprobs import hidden_states
from playground.stages.rollouts import pack, predict, sample

END, PAD = 9, 0
OFF = 10**6  # more tokens than any prefix has: nothing is shared
ASKED = ["hi", "What is the capital of France?", "Count from 1 to 5, and say why you do.", "Name a colour."]


@pytest.fixture
def base(tiny_model):
    return catalog.prepare(str(tiny_model))


@pytest.fixture
def plain(base):
    """The base itself, without an adapter."""
    return loading.load_base(base, loading.placement("none"))


@pytest.fixture
def lora(base):
    """The base with an adapter that says something else, its weights trainable."""
    torch.manual_seed(0)
    model = loading.attach_lora(loading.load_base(base, loading.placement("none")), 4, 8, 0.0, "all-linear")
    values = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=values)
    return model.eval()


@pytest.fixture
def prompts(tiny_model):
    """Four prompts of different length that begin alike, as those of one template do."""
    renderer = Renderer(tiny_model)
    system = {"role": "system", "content": "Be brief."}
    return [renderer.prompt_ids([system, {"role": "user", "content": asked}]) for asked in ASKED]


def written(prompts, ends=(END,)):
    """The prompts with answers of different length; the first is a single token, the last has no end."""
    answers = [[END], [20, 21, 22, END], [30, 31, 32, 33, 34, 35, END], [40, 41]]
    return pack(prompts, answers, set(ends), "cpu")


# --- laying out


def test_rows_are_padded_on_the_right_and_only_answers_are_learned():
    batch = pack([[1, 2, 3], [4]], [[5, END], [6, 7, 8]], {END}, "cpu")
    assert batch.input_ids.tolist() == [[1, 2, 3, 5, END], [4, 6, 7, 8, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.labels.tolist() == [[-100, -100, -100, 5, END], [-100, 6, 7, 8, -100]]
    assert batch.mask.tolist() == [[False, False, True, True], [True, True, True, False]]
    assert batch.ended == [True, False]
    assert batch.lengths == [2, 3]
    assert len(batch) == 2
    assert batch.found == {}


def test_an_answer_is_over_with_its_first_end_token_whichever_that_is():
    batch = pack([[1], [1], [1]], [[5, END, 6, END], [8, 5, END], [END, END]], {8, END}, "cpu")
    assert batch.answers == [[5, END], [8], [END]]
    assert batch.ended == [True, True, True]
    assert batch.labels.tolist() == [[-100, 5, END], [-100, 8, -100], [-100, END, -100]]


def test_the_end_token_in_a_prompt_ends_no_answer():
    batch = pack([[1, END, 2]], [[5, 6]], {END}, "cpu")
    assert batch.answers == [[5, 6]]
    assert batch.ended == [False]
    assert batch.mask.tolist() == [[False, False, True, True]]


def test_an_answer_that_ends_with_the_padding_token_keeps_it_and_its_padding_is_not_learned():
    batch = pack([[1], [1]], [[5, PAD, PAD, PAD], [5, 6, 7]], {PAD}, "cpu")
    assert batch.answers == [[5, PAD], [5, 6, 7]]
    assert batch.ended == [True, False]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.mask.tolist() == [[True, True, False], [True, True, True]]


def test_an_empty_answer_has_not_ended_and_learns_nothing():
    batch = pack([[1, 2], [3]], [[], [5]], {END}, "cpu")
    assert batch.ended == [False, False]
    assert batch.lengths == [0, 1]
    assert batch.mask.tolist() == [[False], [True]]


def test_what_was_given_is_not_changed_and_not_kept():
    prompts, answers = [[1, 2]], [[5, END, 6]]
    batch = pack(prompts, answers, {END}, "cpu")
    batch.prompts[0].append(3)
    batch.answers[0].append(3)
    assert (prompts, answers) == ([[1, 2]], [[5, END, 6]])


@pytest.mark.parametrize("seed", range(3))
def test_the_layout_holds_for_any_lengths(seed):
    random = torch.Generator().manual_seed(seed)

    def some(least, most):
        return torch.randint(0, 12, (int(torch.randint(least, most, (), generator=random)),), generator=random).tolist()

    prompts, answers = [some(1, 8) for _ in range(30)], [some(1, 12) for _ in range(30)]
    batch = pack(prompts, answers, {END, 3}, "cpu")
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        kept = []
        for token in answer:
            kept.append(token)
            if token in (END, 3):
                break
        assert batch.answers[i] == kept
        assert batch.ended[i] == (kept[-1] in (END, 3))
        row = batch.input_ids[i][batch.attention_mask[i].bool()].tolist()
        assert row == prompt + kept
        assert batch.attention_mask[i].tolist() == sorted(batch.attention_mask[i].tolist(), reverse=True)
        assert batch.labels[i, 1:][batch.mask[i]].tolist() == kept
        assert batch.mask[i].nonzero()[0] == len(prompt) - 1
        assert (batch.labels[i][: len(prompt)] == -100).all()


# --- choosing rows


def test_chosen_rows_are_cut_to_the_longest_of_them_with_all_that_was_found():
    batch = pack([[1, 2, 3], [4], [1]], [[5, END], [6, 7], [END]], {END}, "cpu")
    batch.found = {"logps": torch.arange(12.0).view(3, 4), "values": -torch.arange(12.0).view(3, 4)}
    part = batch.rows([2, 1])
    assert part.input_ids.tolist() == [[1, END, PAD], [4, 6, 7]]
    assert part.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert part.labels.tolist() == [[-100, END, -100], [-100, 6, 7]]
    assert part.mask.tolist() == [[True, False], [True, True]]
    assert part.found["logps"].tolist() == [[8, 9], [4, 5]]
    assert part.found["values"].tolist() == [[-8, -9], [-4, -5]]
    assert (part.prompts, part.answers, part.ended) == ([[1], [4]], [[END], [6, 7]], [True, False])
    assert len(part) == 2


def test_all_rows_chosen_are_the_batch_and_rows_of_rows_are_rows(prompts):
    batch = written(prompts)
    batch.found = {"logps": torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(0))}
    whole = batch.rows(range(4))
    twice, once = batch.rows([3, 1, 0]).rows([2, 1]), batch.rows([0, 1])
    for a, b in ((whole, batch), (twice, once)):
        for name in ("input_ids", "attention_mask", "labels", "mask"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(a.found["logps"], b.found["logps"])
        assert (a.prompts, a.answers, a.ended) == (b.prompts, b.answers, b.ended)


def test_chosen_rows_are_a_batch_of_their_own_answers(prompts):
    batch, chosen = written(prompts), [0, 3]
    part = batch.rows(chosen)
    alone = pack([batch.prompts[i] for i in chosen], [batch.answers[i] for i in chosen], {END}, "cpu")
    for name in ("input_ids", "attention_mask", "labels", "mask"):
        assert torch.equal(getattr(part, name), getattr(alone, name))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_groups_hold_each_chosen_row_once_from_short_to_long(size):
    lengths = [(i * 37) % 23 + 1 for i in range(12)]
    batch = pack([[1] * n for n in lengths], [[2] * (n % 5 + 1) for n in lengths], {END}, "cpu")
    chosen = [11, 3, 4, 0, 7, 8, 9]
    groups = batch.by_length(chosen, size)
    flat = [i for group in groups for i in group]
    assert sorted(flat) == sorted(chosen)
    assert [len(group) for group in groups[:-1]] == [size] * (len(groups) - 1)
    assert 0 < len(groups[-1]) <= size
    whole = [int(batch.attention_mask[i].sum()) for i in flat]
    assert whole == sorted(whole)


# --- sampling

WHOLE = Sampling(12, temperature=1.0)


def test_the_same_seeds_write_the_same_answers_and_others_other_ones(plain, prompts):
    first = sample(plain, prompts, set(), WHOLE, [5, 6, 7, 8])
    assert sample(plain, prompts, set(), WHOLE, [5, 6, 7, 8]).answers == first.answers
    other = sample(plain, prompts, set(), WHOLE, [9, 10, 11, 12]).answers
    assert all(a != b for a, b in zip(first.answers, other, strict=True))
    assert [len(answer) for answer in first.answers] == [12] * 4


def test_a_row_draws_from_its_own_seed_whoever_is_beside_it(plain, prompts):
    end = sample(plain, prompts, set(), WHOLE, [5, 6, 7, 8]).answers[2][4]  # a token that ends the third row early
    together = sample(plain, prompts, {end}, WHOLE, [5, 6, 7, 8])
    assert together.ended[2]
    assert together.lengths[2] <= 5
    assert max(together.lengths) > together.lengths[2]
    alone = [sample(plain, [prompt], {end}, WHOLE, [seed]) for prompt, seed in zip(prompts, [5, 6, 7, 8], strict=True)]
    assert [one.answers[0] for one in alone] == together.answers
    turned = sample(plain, prompts[::-1] + prompts[:1], {end}, WHOLE, [8, 7, 6, 5, 99])
    assert turned.answers[:4] == together.answers[::-1]


def test_the_same_prompt_with_another_seed_gets_another_answer(plain, prompts):
    answers = sample(plain, prompts[:1] * 6, set(), WHOLE, [0, 1, 2, 3, 0, 1]).answers
    assert answers[:2] == answers[4:]
    assert len({tuple(answer) for answer in answers}) == 4


def test_sampling_leaves_torch_s_own_random_numbers_alone(plain, prompts):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    sample(plain, prompts, set(), WHOLE, [1, 2, 3, 4])
    assert torch.equal(torch.rand(3), expected)


def test_an_answer_s_end_is_its_last_token_and_the_layout_is_that_of_its_tokens(plain, prompts):
    end = sample(plain, prompts, set(), WHOLE, [5, 6, 7, 8]).answers[0][3]
    batch = sample(plain, prompts, {end}, WHOLE, [5, 6, 7, 8])
    assert batch.ended == [answer[-1] == end for answer in batch.answers]
    assert batch.ended[0]
    assert all(end not in answer[:-1] for answer in batch.answers)
    again = pack(prompts, batch.answers, {end}, "cpu")
    assert torch.equal(batch.input_ids, again.input_ids)
    assert torch.equal(batch.labels, again.labels)


def test_a_stop_leaves_what_was_written_so_far(plain, prompts):
    asked = iter([False, False, False])
    batch = sample(plain, prompts, set(), WHOLE, [5, 6, 7, 8], lambda: next(asked, True))
    assert batch.lengths == [3] * 4
    assert batch.answers == [row[:3] for row in sample(plain, prompts, set(), WHOLE, [5, 6, 7, 8]).answers]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_first_tokens_are_as_frequent_as_the_model_means_them(plain, prompts, temperature):
    rows = 400
    sampling = Sampling(1, temperature=temperature)
    drawn = [
        answer[0]
        for start in range(0, rows, 100)
        for answer in sample(plain, prompts[1:2] * 100, set(), sampling, range(start, start + 100)).answers
    ]
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor(prompts[1:2])).logits[0, -1].double()
    expected = rows * (logits / temperature).softmax(-1)
    common = [token for token in range(len(expected)) if expected[token] >= 5]
    assert len(common) >= 5  # neither a single likely token nor a flat line: there is something to tell
    counted = [(drawn.count(token), float(expected[token])) for token in common]
    rest = rows - sum(wanted for _, wanted in counted)
    counted.append((rows - sum(seen for seen, _ in counted), rest))
    chi_square = sum((seen - wanted) ** 2 / wanted for seen, wanted in counted)
    freedom = len(counted) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
    flat = expected.sqrt() / expected.sqrt().sum() * rows  # temperature twice as high: the bound does tell them apart
    wrong = sum((drawn.count(token) - float(flat[token])) ** 2 / float(flat[token]) for token in common)
    assert wrong > freedom + 4 * math.sqrt(2 * freedom)


# --- predicting


def plain_predictions(causal_lm, batch, temperature):
    """[(log p, entropy, mean logit, likeliest?)] of each answer token, a row at a time, from all logits."""
    found = []
    for prompt, answer in zip(batch.prompts, batch.answers, strict=True):
        logits = causal_lm(input_ids=torch.tensor([prompt + answer])).logits[0].float() / temperature
        for t, token in enumerate(answer, len(prompt)):
            row = logits[t - 1].log_softmax(-1)
            found.append((row[token], -(row.exp() * row).sum(), logits[t - 1].mean(), row.argmax() == token))
    return found


@pytest.mark.parametrize("shared", [8, OFF])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.no_grad()
def test_predictions_are_those_of_one_row_at_a_time_from_all_logits(lora, prompts, monkeypatch, temperature, shared):
    monkeypatch.setattr(logprobs, "SHARED_LEAST", shared)
    batch = written(prompts)
    said = predict(lora.get_base_model(), batch, temperature, details=True)
    expected = plain_predictions(lora, batch, temperature)
    assert torch.equal(said.mask, batch.mask)
    assert len(expected) == sum(batch.lengths)
    for found, column in zip((said.logps, said.entropy, said.mean_logits), range(3), strict=True):
        wanted = torch.stack([values[column] for values in expected])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert said.right.tolist() == [bool(values[3]) for values in expected]


@torch.no_grad()
def test_the_temperature_matters_and_1_is_the_default(lora, prompts):
    batch = written(prompts)
    plainly, one, cold = (predict(lora.get_base_model(), batch, *t).logps for t in ((), (1.0,), (0.7,)))
    assert torch.equal(plainly, one)
    assert (one - cold).abs().max() > 0.1


@torch.no_grad()
def test_a_row_s_predictions_are_the_same_in_any_part_of_the_batch(lora, prompts):
    batch = written(prompts)
    whole = predict(lora.get_base_model(), batch)
    spread = whole.spread(whole.logps)
    for chosen in ([0], [2, 1], [3, 0, 2]):
        part = batch.rows(chosen)
        said = predict(lora.get_base_model(), part)
        found, wanted = said.spread(said.logps), spread[chosen, : part.mask.shape[1]]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        assert not spread[chosen, part.mask.shape[1] :].any()


@torch.no_grad()
def test_the_hidden_states_are_those_before_each_answer_token(lora, prompts):
    batch = written(prompts)
    said = predict(lora.get_base_model(), batch)
    expected = []
    for prompt, answer in zip(batch.prompts, batch.answers, strict=True):
        hidden = lora.get_base_model().base_model(input_ids=torch.tensor([prompt + answer])).last_hidden_state[0]
        expected.append(hidden[len(prompt) - 1 : -1])
    torch.testing.assert_close(said.hidden, torch.cat(expected), atol=1e-4, rtol=1e-5)


# --- a prefix that is computed once


def widths(causal_lm):
    """(rows, tokens) of every pass through the layers from now on."""
    seen = []
    causal_lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return seen


def gradients(model, batch, weight=1.0):
    """Hidden states of the real tokens, and the adapter's gradients of a loss over log-probs and hidden states."""
    model.zero_grad(set_to_none=True)
    hidden = hidden_states(model.get_base_model(), batch.input_ids, batch.attention_mask)
    said = predict(model.get_base_model(), batch, 0.7)
    weights = torch.linspace(-1, 1, said.logps.numel())
    everywhere = hidden[batch.attention_mask.bool()]  # the prefix's own states are in the loss as well
    scale = torch.linspace(-1, 1, everywhere.numel()).view_as(everywhere)
    (weight * ((said.logps * weights).sum() + (everywhere * scale).mean() + said.hidden.mean())).backward()
    return everywhere.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(found, wanted):
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        assert wanted[name].abs().max() > 0, name
        torch.testing.assert_close(grad, wanted[name], atol=2e-5, rtol=1e-3)


def test_a_shared_prefix_changes_neither_hidden_states_nor_gradients(lora, prompts, monkeypatch):
    batch = written(prompts)
    seen = widths(lora.get_base_model())
    hidden, grads = gradients(lora, batch)
    begin = logprobs._shared_prefix(batch.input_ids, batch.attention_mask)
    assert begin >= logprobs.SHARED_LEAST
    assert seen[0] == (1, begin + 4 * (batch.input_ids.shape[1] - begin))  # it was indeed shared
    assert all(prompt[:begin] == prompts[0][:begin] for prompt in prompts)
    seen.clear()
    monkeypatch.setattr(logprobs, "SHARED_LEAST", OFF)
    whole, expected = gradients(lora, batch)
    assert seen[0] == tuple(batch.input_ids.shape)
    torch.testing.assert_close(hidden, whole, atol=1e-4, rtol=1e-5)
    assert_same_gradients(grads, expected)


@pytest.mark.parametrize("least", [1, 2, 5, 1000])
def test_the_result_is_the_same_from_whatever_length_on_a_prefix_is_shared(lora, monkeypatch, least):
    monkeypatch.setattr(logprobs, "SHARED_LEAST", OFF)
    batch = pack([[1, 2, 3, 4, 5], [1, 2, 3, 7], [1, 2, 3, 4]], [[20, END], [20, 21, 22, END], [5]], {END}, "cpu")
    whole, expected = gradients(lora, batch)
    monkeypatch.setattr(logprobs, "SHARED_LEAST", least)
    seen = widths(lora.get_base_model())
    hidden, grads = gradients(lora, batch)
    assert seen[0] == ((1, 3 + 3 * 5) if least <= 3 else (3, 8))
    torch.testing.assert_close(hidden, whole, atol=1e-4, rtol=1e-5)
    assert_same_gradients(grads, expected)


def test_rows_that_are_one_another_s_beginning_share_less_than_the_shortest(lora, monkeypatch):
    row = list(range(20, 40))
    batch = pack([row[:12], row[:12], row[:12]], [row[12:], row[12:13], row[12:16]], {END}, "cpu")
    seen = widths(lora.get_base_model())
    hidden, grads = gradients(lora, batch)
    assert seen[0] == (1, 12 + 3 * 8)
    monkeypatch.setattr(logprobs, "SHARED_LEAST", OFF)
    whole, expected = gradients(lora, batch)
    torch.testing.assert_close(hidden, whole, atol=1e-4, rtol=1e-5)
    assert_same_gradients(grads, expected)


def test_equal_rows_share_all_but_their_last_token(lora, monkeypatch):
    batch = pack([list(range(20, 32))] * 3, [[40, END]] * 3, {END}, "cpu")
    seen = widths(lora.get_base_model())
    hidden, grads = gradients(lora, batch)
    assert seen == [(1, 13 + 3), (1, 12 + 3)]  # of the second pass the last tokens are no part
    monkeypatch.setattr(logprobs, "SHARED_LEAST", OFF)
    whole, expected = gradients(lora, batch)
    torch.testing.assert_close(hidden, whole, atol=1e-4, rtol=1e-5)
    assert_same_gradients(grads, expected)


def test_padding_that_looks_like_a_shared_token_is_not_shared(lora, monkeypatch):
    monkeypatch.setattr(logprobs, "SHARED_LEAST", 1)
    zeros = [[1, PAD], [1, PAD, PAD, PAD, PAD]]  # the first row's padding continues like the second row
    batch = pack(zeros, [[5], [PAD, 7]], {END}, "cpu")
    batch.input_ids[0, 2] = 5
    seen = widths(lora.get_base_model())
    hidden, grads = gradients(lora, batch)
    assert seen[0] == (1, 2 + 2 * 5)
    monkeypatch.setattr(logprobs, "SHARED_LEAST", OFF)
    whole, expected = gradients(lora, batch)
    torch.testing.assert_close(hidden, whole, atol=1e-4, rtol=1e-5)
    assert_same_gradients(grads, expected)


@pytest.mark.parametrize("rows", [[0], [2]])
def test_a_single_row_is_computed_at_once(lora, prompts, rows):
    part = written(prompts).rows(rows)
    seen = widths(lora.get_base_model())
    hidden_states(lora.get_base_model(), part.input_ids, part.attention_mask)
    assert seen == [tuple(part.input_ids.shape)]


def test_with_gradient_checkpointing_nothing_is_shared_in_training_and_gradients_agree(lora, prompts):
    batch = written(prompts)
    hidden, expected = gradients(lora, batch)
    lora.get_base_model().activation_checkpointing_enable()
    seen = widths(lora.get_base_model())
    lora.train()
    whole, grads = gradients(lora, batch)
    assert seen == [(4, batch.input_ids.shape[1]), (4, batch.input_ids.shape[1] - 1)]
    torch.testing.assert_close(hidden, whole, atol=1e-4, rtol=1e-5)
    assert_same_gradients(grads, expected)
    lora.eval()  # in evaluation nothing is recomputed, so that it may be shared
    seen.clear()
    again, _ = gradients(lora, batch)
    assert seen[0][0] == 1
    assert torch.equal(again, hidden)


def test_gradients_are_gathered_over_parts_of_a_batch_as_over_the_whole(lora, prompts):
    batch = written(prompts)

    def grads(parts):
        lora.zero_grad(set_to_none=True)
        for part in parts:
            predict(lora.get_base_model(), part).logps.sum().backward()
        return {name: p.grad.clone() for name, p in lora.named_parameters() if p.requires_grad}

    whole = grads([batch])
    assert_same_gradients(grads([batch.rows(rows) for rows in batch.by_length(range(4), 3)]), whole)
    assert_same_gradients(grads([batch.rows([i]) for i in range(4)]), whole)


# --- the reference


@pytest.mark.parametrize("shared", [8, OFF])
@torch.no_grad()
def test_with_adapters_off_predictions_are_the_bare_base_s_to_the_last_bit(plain, lora, prompts, monkeypatch, shared):
    monkeypatch.setattr(logprobs, "SHARED_LEAST", shared)
    batch, adapters = written(prompts), Adapters(lora)
    bare = predict(plain, batch, details=True)
    with adapters.use(None):
        off = predict(lora.get_base_model(), batch, details=True)
    for found, expected in zip(off, bare, strict=True):
        assert torch.equal(found, expected)
    with adapters.use("default"):
        on = predict(lora.get_base_model(), batch)
    assert (on.logps - bare.logps).abs().max() > 1e-2
    assert torch.equal(predict(lora.get_base_model(), batch).logps, on.logps)  # and on again afterwards


def test_with_adapters_off_no_gradient_reaches_the_adapter(lora, prompts):
    with Adapters(lora).use(None):
        said = predict(lora.get_base_model(), written(prompts))
    assert not said.logps.requires_grad
    assert all(p.requires_grad for name, p in lora.named_parameters() if "lora_" in name)
