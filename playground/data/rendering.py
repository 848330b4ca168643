"""Chat template, token ids and the mask of what is learned: the same object in the data report, training, chat and
export.

It needs only `tokenizers` and `jinja2`, so that the page can show the very tokens of a training run without importing
torch. Text and ids equal transformers' `apply_chat_template` (tested).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

Message = dict[str, str]
Pieces = list[tuple[str, bool]]  # a rendered text cut into (text, learned), in order

# For a base that has no template: role lines in plain text, each turn closed by the eos token the model already knows.
PLAYGROUND_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class RenderError(ValueError):
    """Messages that the template refuses, or a template that can't be used."""


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens. learned[i] says whether ids[i] is a target of the loss."""

    ids: list[int]
    learned: list[bool]
    texts: list[str]

    def cut(self, length: int) -> "Encoded":
        """The first `length` tokens."""
        return Encoded(self.ids[:length], self.learned[:length], self.texts[:length])

    @property
    def start(self) -> int:
        """Index of the first learned token."""
        return self.learned.index(True)

    @property
    def end(self) -> int:
        """Index behind the last learned token; 0 if none is."""
        return max((i + 1 for i, learn in enumerate(self.learned) if learn), default=0)

    @property
    def labels(self) -> list[int]:
        """ids where learned, else -100, as transformers' losses ask."""
        return [token if learn else -100 for token, learn in zip(self.ids, self.learned, strict=True)]


class Renderer:
    """Turns messages into text and tokens, for one model folder."""

    def __init__(self, folder: Path):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.special = {name: _text(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        own = _own_template(folder, config)
        self.template_origin = "the model's own" if own else "the playground's"
        self.template = own or PLAYGROUND_TEMPLATE
        if not own and not self.tokenizer.encode("").ids:
            self.special["bos_token"] = ""  # this tokenizer puts no bos in front of text, so neither do we
        self._compiled = _compile(self.template)
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._control = [token.content for token in added if token.special]
        self.ends = self._end_tokens(folder)

    @property
    def eos_id(self) -> int | None:
        """The id of the eos token."""
        return self.tokenizer.token_to_id(self.special["eos_token"])

    def _end_tokens(self, folder: Path) -> dict[str, int]:
        """Every token that ends an answer, with its id: the eos token, and what the model's generation stops at."""
        path = folder / "generation_config.json"
        listed = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else None
        ids = [self.eos_id, *(listed if isinstance(listed, list) else [listed])]
        tokens = {self.tokenizer.id_to_token(i): i for i in ids if type(i) is int and 0 <= i < 2**32}
        return {token: i for token, i in tokens.items() if token}

    def text(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as one text, as the model reads it."""
        try:
            return self._compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special,
            )
        except Exception as error:  # a template is a stranger's program: it may fail in any way
            raise RenderError(f"the chat template refuses it: {str(error)[:200]}") from error

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """Token ids of the conversation up to where the assistant's next answer starts."""
        return self.encode(messages, add_generation_prompt=True).ids

    def encode(self, messages: list[Message], add_generation_prompt: bool = False) -> Encoded:
        """Tokens of a whole conversation; learned are the assistant's words and the token that ends each turn."""
        return self.tokenized([self.pieces(messages, add_generation_prompt)])[0]

    def answer(self, prompt: list[Message], answer: str) -> Encoded:
        """Tokens of one answer to a prompt, learned from its first token to the one that ends it."""
        return self.tokenized(self.answer_pieces(prompt, [answer]))[0]

    def tokenized(self, talks: Sequence[Pieces]) -> list[Encoded]:
        """The tokens of rendered texts; those of many rows at once are made on all cores.

        Every piece is tokenized by itself: an answer starts on a token boundary here, as when the model writes it.
        """
        unique = list(dict.fromkeys(text for pieces in talks for text, _ in pieces))
        known = dict(zip(unique, self.tokenizer.encode_batch(unique, add_special_tokens=False), strict=True))
        found = []
        for pieces in talks:
            ids, learned, texts = [], [], []
            for text, learn in pieces:
                ids += known[text].ids
                learned += [learn] * len(known[text])
                texts += _token_texts(text, known[text].offsets)
            found.append(Encoded(ids, learned, texts))
        return found

    def pieces(self, messages: list[Message], add_generation_prompt: bool = False) -> Pieces:
        """A rendered conversation; learned are the assistant's words and the token that ends each turn."""
        full = self.text(messages, add_generation_prompt)
        pieces: Pieces = []
        at = 0
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            last = i == len(messages) - 1 and not add_generation_prompt
            start = self.text(messages[:i], add_generation_prompt=True)
            end = full if last else self.text(messages[: i + 1])
            if not end.startswith(start) or not full.startswith(end) or len(start) < at:
                if last:
                    raise RenderError("the chat template rewrites the answer, so its tokens can't be told apart")
                continue  # templates that drop earlier reasoning: only the last answer is learned
            stop = self._end_of_turn(end, len(start))
            pieces += [(full[at : len(start)], False), (full[len(start) : stop], True)]
            at = stop
        pieces.append((full[at:], False))
        return [(text, learn) for text, learn in pieces if text]

    def answer_pieces(self, prompt: list[Message], answers: Sequence[str]) -> list[Pieces]:
        """Each of several answers behind their prompt, learned from its beginning to its end; nothing follows that.

        Templates write a line break behind the end of a turn. A model that answers never does, so a score read there
        in training would be read elsewhere later.
        """
        asked = [(text, False) for text, _ in self.pieces(prompt, add_generation_prompt=True)]
        before, found = "".join(text for text, _ in asked), []
        for answer in answers:
            whole = self.text([*prompt, {"role": "assistant", "content": answer}])
            said = whole[len(before) : self._end_of_turn(whole, len(before))]
            if not whole.startswith(before) or not said:
                raise RenderError("the chat template writes this prompt differently when an answer follows it")
            found.append([*asked, (said, True)])
        return found

    def decode(self, ids: list[int]) -> str:
        """Text of token ids without control tokens; an unfinished character at the end is held back."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).rstrip("�")

    def token_texts(self, ids: list[int]) -> list[str]:
        """What each token stands for, control tokens included."""
        return [self.tokenizer.decode([token], skip_special_tokens=False) for token in ids]

    def control_tokens(self, text: str) -> list[str]:
        """Special tokens of this model that stand in a text as if someone had typed them."""
        return [token for token in self._control if token in text]

    def _end_of_turn(self, text: str, start: int) -> int:
        """Where the learned part that begins at `start` ends: behind its last end token, or with the text."""
        found = [at + len(token) for token in self.ends if (at := text.rfind(token, start)) >= 0]
        return max(found, default=len(text))


def _own_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The template that came with the model: a file of its own, or a field of tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    found = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
    if isinstance(found, list):  # several named ones
        found = next((item["template"] for item in found if item.get("name") == "default"), None)
    return found or None


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks answers for training libraries; here what it holds is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 – jinja2 reads it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _compile(template: str) -> jinja2.Template:
    """As transformers compiles it: sandboxed, with loop controls and the three names that templates expect."""
    if len(template) > 64_000:
        raise RenderError("the chat template is longer than 64,000 characters")

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise RenderError(f"the chat template can't be read: {str(error)[:200]}") from error


def _text(token: Any) -> str:
    """Token fields are a string or {"content": …}."""
    return (token.get("content", "") if isinstance(token, dict) else token) or ""


def _token_texts(text: str, offsets: list[tuple[int, int]]) -> list[str]:
    """What each token stands for; of a character split over several tokens, the first one gets it.

    Some tokenizers leave the space before a word out of its offsets: it belongs to the token all the same.
    """
    texts, at = [], 0
    for _, end in offsets:
        texts.append(text[at:end])
        if end > at:
            at = end
    if texts:
        texts[-1] += text[at:]
    return texts
