"""Conversations written out as one text: transcripts, Guanaco's marks, and chat templates that were applied already.

A text is taken apart only if it begins with a mark of a known dialect: a question about `<|im_start|>` stays a text.
"""

import re
from dataclasses import dataclass, field

from playground.data.pairs import TURN
from playground.data.shapes import Message, role_of


@dataclass(frozen=True)
class Dialect:
    """One way of writing turns into a text.

    mark: stands in front of each turn, its one group names the role; ends: tokens that close a turn or the whole;
    roles: names that only this dialect has; template: whether a model's chat template writes so.
    """

    name: str
    mark: re.Pattern[str]
    ends: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)
    template: bool = True


_GUANACO = {"instruction": "user", "input": "user", "response": "assistant"}
_GEMMA = ("<end_of_turn>", "<eos>")
DIALECTS = (
    Dialect("ChatML", re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n?"), ("<|im_end|>", "<|endoftext|>")),
    Dialect(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>[ \t]*(\w+)[ \t]*<\|end_header_id\|>\s*"),
        ("<|eot_id|>", "<|end_of_text|>"),
    ),
    Dialect("Llama 2", re.compile(r"\[(/?INST)\]"), ("</s>", "<s>"), {"inst": "user", "/inst": "assistant"}),
    Dialect("Gemma", re.compile(r"<start_of_turn>(\w+)\n"), _GEMMA),
    Dialect("Zephyr", re.compile(r"<\|(system|user|assistant)\|>\s*"), ("</s>", "<|end|>", "<|endoftext|>")),
    Dialect(
        "Guanaco",
        re.compile(r"###[ ]?(Human|User|Assistant|System|Instruction|Input|Response)[ ]?:[ \t]?"),
        ("</s>",),
        _GUANACO,
        template=False,
    ),
    Dialect("transcript", TURN, template=False),
)
_BEGIN = re.compile(r"(?:\s|<s>|<bos>|<\|begin_of_text\|>|Below is an instruction that describes a task[^\n#]*)*")
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)  # Llama 2 writes it into the first question


def dialect_of(text: str) -> Dialect | None:
    """The dialect whose mark this text begins with."""
    text = _BEGIN.sub("", text, count=1)
    return next((dialect for dialect in DIALECTS if dialect.mark.match(text)), None)


def taken_apart(text: str, dialect: Dialect) -> list[Message]:
    """The turns of a text in a dialect; a last mark that only asks for the answer is no turn."""
    pieces = dialect.mark.split(_BEGIN.sub("", text, count=1))[1:]  # role, text, role, text, …
    messages: list[Message] = []
    for name, said in zip(pieces[::2], pieces[1::2], strict=True):
        role = dialect.roles.get(name.lower()) or role_of(name)
        if not messages and (system := _SYSTEM.match(said)):
            messages.append({"role": "system", "content": system[1].strip()})
            said = said[system.end() :]
        messages.append({"role": role, "content": _without_ends(said, dialect.ends)})
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return messages


def _without_ends(said: str, ends: tuple[str, ...]) -> str:
    """A turn's text; what looks like an end inside it is part of what was said."""
    said = said.strip()
    while end := next((end for end in ends if said.endswith(end)), ""):
        said = said.removesuffix(end).rstrip()
    return said
