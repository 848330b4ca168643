"""What the model reads is what transformers' apply_chat_template would give it, and only answers are learned."""

import json
import shutil

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from playground.data.rendering import PLAYGROUND_TEMPLATE, Renderer, RenderError

ASK = {"role": "user", "content": "hello there, what is 12 + 345?"}
ANSWER = {"role": "assistant", "content": "The answer is 357."}
CONVERSATIONS = {
    "single": [ASK, ANSWER],
    "system": [{"role": "system", "content": "Be brief."}, ASK, ANSWER],
    "multi-turn": [
        ASK,
        ANSWER,
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "Yes.\n\nI am."},
    ],
    "unicode": [
        {"role": "user", "content": "Grüße 日本 🦙‍♀️\u2028"},
        {"role": "assistant", "content": "ß 🇫🇷 é\u0301  two  spaces"},
    ],
    "digits": [
        {"role": "user", "content": "1234567890 3.14 2024-11-23"},
        {"role": "assistant", "content": "x = 007\t42"},
    ],
    "code": [
        {"role": "user", "content": "<b>&amp;</b> {{ x }}"},
        {"role": "assistant", "content": "```\n{% raw %}\n```"},
    ],
    "empty": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
}


@pytest.fixture(params=["tiny", "tiny-no-template", "embedded"])
def folder(request, tiny_model, tiny_model_no_template):
    if request.param == "embedded":
        return request.getfixturevalue("embedded_model").folder
    return tiny_model if request.param == "tiny" else tiny_model_no_template


@pytest.fixture
def renderer(folder) -> Renderer:
    return Renderer(folder)


@pytest.fixture
def with_template(tiny_model, tmp_path):
    """The tiny model with another template."""

    def new(template: str) -> Renderer:
        shutil.copytree(tiny_model, tmp_path / "model", dirs_exist_ok=True)
        (tmp_path / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")
        return Renderer(tmp_path / "model")

    return new


def transformers_tokenizer(renderer, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = renderer.template
    return tokenizer


# ---- the same text and tokens as transformers


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_text_and_ids_equal_transformers(renderer, folder, name):
    messages = CONVERSATIONS[name]
    theirs = transformers_tokenizer(renderer, folder)
    for rows, generate in ((messages, False), (messages[:-1], True)):
        text = theirs.apply_chat_template(rows, tokenize=False, add_generation_prompt=generate)
        ids = theirs.apply_chat_template(rows, add_generation_prompt=generate, return_dict=True)["input_ids"]
        assert renderer.text(rows, generate) == text
        assert (renderer.prompt_ids(rows) if generate else renderer.encode(rows).ids) == ids


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_learned_are_the_answers_and_the_token_that_ends_each_turn(renderer, name):
    messages = CONVERSATIONS[name]
    encoded = renderer.encode(messages)
    learned = [token for token, learn in zip(encoded.ids, encoded.learned, strict=True) if learn]
    expected = []
    for message in messages:
        if message["role"] == "assistant":
            expected += [*renderer.tokenizer.encode(message["content"], add_special_tokens=False).ids, renderer.eos_id]
    assert learned == expected
    assert encoded.labels == [t if learn else -100 for t, learn in zip(encoded.ids, encoded.learned, strict=True)]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_prompt_of_the_last_answer_is_a_prefix_of_the_whole(renderer, name):
    messages = CONVERSATIONS[name]
    encoded = renderer.encode(messages)
    prompt = renderer.prompt_ids(messages[:-1])
    assert encoded.ids[: len(prompt)] == prompt
    assert encoded.learned[len(prompt)]
    assert not encoded.learned[len(prompt) - 1]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_tokens_texts_join_back_to_the_rendered_text(renderer, name):
    encoded = renderer.encode(CONVERSATIONS[name])
    assert len(encoded.texts) == len(encoded.ids)
    assert "".join(encoded.texts) == renderer.text(CONVERSATIONS[name])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_texts_join_where_a_tokenizer_trims_its_offsets(tiny_model, name):
    renderer = Renderer(tiny_model)
    renderer.tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    assert "".join(renderer.encode(CONVERSATIONS[name]).texts) == renderer.text(CONVERSATIONS[name])


def test_a_cut_keeps_ids_mask_and_texts_in_step(renderer):
    cut = renderer.encode(CONVERSATIONS["single"]).cut(7)
    assert len(cut.ids) == len(cut.learned) == len(cut.texts) == 7


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_an_answer_s_tokens_decode_to_its_words(renderer, name):
    answer = CONVERSATIONS[name][-1]["content"]
    assert renderer.decode([*renderer.tokenizer.encode(answer).ids, renderer.eos_id]) == answer


def test_an_unfinished_character_is_held_back(renderer):
    ids = renderer.tokenizer.encode("a🦙").ids
    assert renderer.decode(ids[:-1]) == "a"


def test_many_conversations_at_once_give_the_tokens_of_each_alone(renderer):
    talks = [renderer.pieces(messages) for messages in CONVERSATIONS.values()]
    together = renderer.tokenized([*talks, *talks[:2]])
    assert together == [*map(renderer.encode, CONVERSATIONS.values()), *together[:2]]
    for pieces, found in zip(talks, together, strict=False):
        plain = [renderer.tokenizer.encode(text, add_special_tokens=False).ids for text, _ in pieces]
        assert found.ids == [token for ids in plain for token in ids]


# ---- one answer to a prompt


@pytest.mark.parametrize("name", [name for name in CONVERSATIONS if name != "empty"])
def test_an_answer_ends_with_the_token_that_ends_it(renderer, name):
    *prompt, last = CONVERSATIONS[name]
    asked = renderer.prompt_ids(prompt)
    found = renderer.answer(prompt, last["content"])
    said = renderer.tokenizer.encode(last["content"], add_special_tokens=False).ids
    assert found.ids == [*asked, *said, renderer.eos_id]
    assert found.learned == [False] * len(asked) + [True] * (len(said) + 1)
    assert found.start == len(asked)
    whole = renderer.encode([*prompt, last])
    assert (found.ids, found.texts) == (whole.ids[: len(found.ids)], whole.texts[: len(found.ids)])


def test_nothing_follows_the_token_that_ends_an_answer(renderer):
    whole, found = renderer.encode([ASK, ANSWER]), renderer.answer([ASK], ANSWER["content"])
    assert "".join(whole.texts[len(found.ids) :]) == "\n"
    assert found.texts[-1] == "<|im_end|>"


def test_an_answer_without_a_word_is_its_end_alone(renderer):
    found = renderer.answer([ASK], "")
    assert found.ids == [*renderer.prompt_ids([ASK]), renderer.eos_id]


def test_earlier_answers_are_part_of_the_prompt(renderer):
    *prompt, last = CONVERSATIONS["multi-turn"]
    found = renderer.answer(prompt, last["content"])
    learned = "".join(text for text, learn in zip(found.texts, found.learned, strict=True) if learn)
    assert learned == last["content"] + "<|im_end|>"


def test_an_end_token_that_someone_typed_does_not_end_the_answer(renderer):
    found = renderer.answer([ASK], "It is <|im_end|>, I think.")
    assert found.ids[-1] == renderer.eos_id
    assert found.ids.count(renderer.eos_id) == renderer.prompt_ids([ASK]).count(renderer.eos_id) + 2


def test_special_tokens_that_someone_typed_are_found(renderer):
    assert renderer.control_tokens("fine <b> text <|im_endd") == []
    assert set(renderer.control_tokens("x<|im_end|>\n<|im_start|>system")) == {"<|im_end|>", "<|im_start|>"}


# ---- whose template


def test_the_model_s_own_template_is_used(tiny_model):
    assert Renderer(tiny_model).template_origin == "the model's own"


def test_a_base_without_a_template_gets_the_playground_s(tiny_model_no_template):
    renderer = Renderer(tiny_model_no_template)
    assert (renderer.template_origin, renderer.template) == ("the playground's", PLAYGROUND_TEMPLATE)
    assert renderer.text([ASK, ANSWER]) == (
        f"<|user|>\n{ASK['content']}<|im_end|>\n<|assistant|>\n{ANSWER['content']}<|im_end|>\n"
    )


# ---- templates that do unusual things

REWRITING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ '...' if m['role'] == 'assistant' and not loop.last else m['content'] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_drops_earlier_answers_still_learns_the_last(with_template):
    renderer = with_template(REWRITING)
    messages = CONVERSATIONS["multi-turn"]
    encoded = renderer.encode(messages)
    learned = "".join(text for text, learn in zip(encoded.texts, encoded.learned, strict=True) if learn)
    assert learned == messages[-1]["content"] + "<|im_end|>"
    prompt = renderer.prompt_ids(messages[:-1])
    assert encoded.ids[: len(prompt)] == prompt


def test_a_template_that_rewrites_the_last_answer_is_refused(with_template):
    renderer = with_template(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    with pytest.raises(RenderError, match="rewrites the answer"):
        renderer.encode([ASK, ANSWER])


FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'] if loop.last or m['role'] == 'assistant' else '...' }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_drops_earlier_answers_still_asks_for_the_last(with_template):
    renderer = with_template(REWRITING)
    *prompt, last = CONVERSATIONS["multi-turn"]
    found = renderer.answer(prompt, last["content"])
    assert found.ids[: found.start] == renderer.prompt_ids(prompt)
    assert "".join(found.texts[found.start :]) == last["content"] + "<|im_end|>"


def test_a_template_that_rewrites_the_prompt_is_refused(with_template):
    with pytest.raises(RenderError, match="writes this prompt differently when an answer follows it"):
        with_template(FORGETFUL).answer([ASK], "Yes.")


def test_a_template_that_leaves_the_answer_out_is_refused(with_template):
    renderer = with_template("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(RenderError, match="writes this prompt differently when an answer follows it"):
        renderer.answer([ASK], "Yes.")


def test_without_an_end_token_an_answer_goes_on_to_the_end(with_template):
    renderer = with_template(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    found = renderer.answer([ASK], "Yes.")
    assert "".join(found.texts[found.start :]) == "Yes.\n"


@pytest.mark.parametrize("template", [
    "{{ raise_exception('roles must alternate') }}", "{{ messages[7]['role'] }}", "{{ 1 // 0 }}", "{{ 'a' + 1 }}",
    "{{ [].pop() }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for i in range(10**9) %}x{% endfor %}", "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}",
    "{{ cycler.__init__.__globals__ }}", "{{ ''['__class__']['__base__'] }}",
])  # fmt: skip
def test_a_template_that_fails_or_reaches_out_is_refused(with_template, template):
    with pytest.raises(RenderError, match="the chat template refuses it"):
        with_template(template).text([ASK])


def test_the_template_s_own_words_reach_the_person(with_template):
    with pytest.raises(RenderError, match="roles must alternate"):
        with_template("{{ raise_exception('roles must alternate') }}").text([ASK])


@pytest.mark.parametrize("template", ["{% for %}", "{{ x", "{% include 'x' %}" * 5000])
def test_a_template_that_can_t_be_read_is_refused(with_template, template):
    with pytest.raises(RenderError, match="the chat template"):
        with_template(template)


@pytest.mark.parametrize("template", [
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}"
    "{{ m.role }}{% endfor %}",
    "{% if tools is not none %}tools{% endif %}{% if documents is not none %}documents{% endif %}plain",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ 'ü' | tojson(ensure_ascii=True) }}",
    "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "  {% if true %}\n  trimmed\n  {% endif %}\n",
    "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}",
    "{{ strftime_now('%Y') }}",
])  # fmt: skip
def test_what_published_templates_use_works_as_in_transformers(with_template, tiny_model, template):
    renderer = with_template(template)
    theirs = transformers_tokenizer(renderer, tiny_model)
    assert renderer.text([ASK, ANSWER]) == theirs.apply_chat_template([ASK, ANSWER], tokenize=False)


# ---- which tokens end an answer


@pytest.fixture
def with_ends(tiny_model, tmp_path):
    """The tiny model with another eos token and other ids in generation_config.json; None leaves the file out."""

    def new(eos: str, config: dict | None) -> Renderer:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}), encoding="utf-8")
        (folder / "generation_config.json").unlink()
        if config is not None:
            (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
        return Renderer(folder)

    return new


def test_an_answer_ends_where_the_model_s_generation_stops(renderer, tiny_model):
    assert renderer.ends["<|im_end|>"] == renderer.eos_id
    ids = json.loads((tiny_model / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    found = Renderer(tiny_model).ends
    assert found == {"<|im_end|>": ids[0], "<|endoftext|>": ids[1]}


@pytest.mark.parametrize(
    "listed", [266, [266], [268, 266], [268, 268, 266, 9_999, -1, 2**40, None, True, "266", [266]]]
)
def test_one_end_token_or_a_list_is_read(with_ends, listed):
    assert with_ends("<|im_end|>", {"eos_token_id": listed}).ends == {"<|im_end|>": 268, "<|endoftext|>": 266}


@pytest.mark.parametrize("config", [None, {}, {"eos_token_id": None}, {"eos_token_id": []}])
def test_without_a_list_the_eos_token_alone_ends_an_answer(with_ends, config):
    assert with_ends("<|im_end|>", config).ends == {"<|im_end|>": 268}


def test_without_any_end_token_there_is_none(with_ends):
    assert with_ends("", None).ends == {}


def test_a_turn_may_end_with_a_token_that_only_generation_knows(with_ends):
    """Gemma's eos token never stands in its template; its turns end with <end_of_turn>."""
    renderer = with_ends("<|endoftext|>", {"eos_token_id": [266, 268]})
    assert renderer.tokenizer.id_to_token(renderer.eos_id) == "<|endoftext|>"
    found = renderer.answer([ASK], "Yes.")
    assert "".join(found.texts[found.start :]) == "Yes.<|im_end|>"
    whole = renderer.encode([ASK, ANSWER])
    learned = "".join(text for text, learn in zip(whole.texts, whole.learned, strict=True) if learn)
    assert learned == ANSWER["content"] + "<|im_end|>"
