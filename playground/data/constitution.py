"""A constitution: principles to criticise, revise and compare answers by. Its limits, its YAML, its imports.

What `parse` reads, from JSON or YAML: ours, llm-swarm's {critic, revision}, the Anthropic paper's released {prompt,
edit_request} and its list of comparisons, LangChain's {name, critique_request, revision_request}; and plain text, one
principle a line, bullet, heading or paragraph. A text that is missing is made from what is there, as FRAMES says.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from playground.data.constitution_text import MOST_BYTES, ConstitutionError, read, shown, tidy
from playground.home import clean_name

MOST_PRINCIPLES = 64
MOST_TITLE = 80
MOST_TEXT = 1000
MOST_WEIGHT = 10.0
TEXTS = ("critique", "revision", "comparison")

# What files call our fields; case, spaces and underscores don't matter.
FIELDS = {
    "title": "title", "critique": "critique", "revision": "revision", "comparison": "comparison",
    "weight": "weight", "enabled": "enabled",
    "principle": "principle", "text": "principle", "statement": "principle",
    "name": "name", "critic": "critique",
    "critiquerequest": "critique", "revisionrequest": "revision",
    "prompt": "critique", "editrequest": "revision", "comparisonrequest": "comparison",
}  # fmt: skip
SCAFFOLDED = {"prompt", "editrequest", "critiquerequest", "revisionrequest"}  # fields that hold the paper's own marks

_WISHED = {
    "critique": "Say where the answer falls short of this: {}",
    "revision": "Rewrite the answer so that it meets this: {}",
    "comparison": "Which answer is better by this: {}?",
}
FRAMES = {  # what is there, the first of these → what is missing → how that is made from it
    "principle": _WISHED,
    "title": _WISHED,
    "comparison": {"critique": "Say why a better answer would win by this: {}",
                   "revision": "Rewrite the answer so that it would win by this: {}"},
    "revision": {"critique": "Say why the answer needs this change: {}",
                 "comparison": "Which answer has less need of this change: {}"},
    "critique": {"revision": "Rewrite the answer with this in mind: {}",
                 "comparison": "Which answer stands better before this: {}"},
}  # fmt: skip

# These search whole texts, so none may begin with a repetition: that takes time with the square of what repeats.
_FRONT = re.compile(r"(?:critique\s?request|revision\s?request)\s*:\s*", re.IGNORECASE)
_OPTIONS = re.compile(r"\n[^\S\n]*Options:|\bOptions:\s*\Z|\bOptions:\s*\(A\)")
_BACK = re.compile(r"\b(?:critique|revision|the answer is|options)\s*:\s*\Z", re.IGNORECASE)
_DIALOGUE = re.compile(r"\s*(?:consider the following conversation|\[[^\]]*\]|human:|assistant:)", re.IGNORECASE)
_COMPARES = re.compile(
    r"(?:please\s+)?(?:which|whose|choose|select|pick|compare|consider|think about)\b", re.IGNORECASE
)
_ANSWERS = re.compile(r"\b(?:responses?|answers?|repl(?:y|ies)|completions?|options?|outputs?)\b", re.IGNORECASE)
_OPENING = re.compile(
    r"(?:please\s+)?(?:(?:choose|select|pick)\s+the\s+(?:\w+\s+)?(?:response|answer|reply|option|output|completion)\s+"
    r"(?:that\s+(?:is|are)\s+|that's\s+|that\s+|which\s+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Principle:
    """One rule in the three ways in which it is put to a model."""

    title: str
    critique: str
    revision: str
    comparison: str
    weight: float = 1.0
    enabled: bool = True


@dataclass(frozen=True)
class Constitution:
    """Principles under a name."""

    name: str
    about: str
    principles: tuple[Principle, ...]

    @property
    def active(self) -> tuple[Principle, ...]:
        """The principles that take part: switched on, with a weight above zero."""
        return tuple(p for p in self.principles if p.enabled and p.weight > 0)

    @property
    def sha256(self) -> str:
        """The hash of the principles alone: the same ones under another name are the same."""
        text = json.dumps([dataclasses.astuple(p) for p in self.principles], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, where they can be read."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)


def dump(constitution: Constitution) -> str:
    """Our YAML; `parse` gives back exactly the constitution that `check` let pass."""
    value = {"name": constitution.name, "about": constitution.about}
    principles = [dataclasses.asdict(p) for p in constitution.principles]
    return yaml.dump(
        {**value, "principles": principles}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110
    )


def check(constitution: Constitution) -> Constitution:
    """The constitution tidied (a safe name, nothing that can't be seen), or a sentence that names what is wrong."""
    if not constitution.principles:
        raise ConstitutionError("There are no principles; write at least one.")
    if len(constitution.principles) > MOST_PRINCIPLES:
        raise ConstitutionError(
            f"There are {len(constitution.principles):,} principles; at most {MOST_PRINCIPLES} are allowed, "
            "so join or drop some."
        )
    principles = tuple(_checked(number, p) for number, p in enumerate(constitution.principles, 1))
    numbers: dict[str, int] = {}
    for number, principle in enumerate(principles, 1):
        first = numbers.setdefault(principle.title.casefold(), number)
        if first != number:
            raise ConstitutionError(
                f"{_where(number, principle.title)} has the title of principle {first}; give it another."
            )
    name = kept_name(str(constitution.name)) or "constitution"
    about = _text("about", constitution.about) or ""
    if len(about) > MOST_TEXT:
        raise ConstitutionError(f"The line about it has {len(about):,} characters; at most {MOST_TEXT:,} are allowed.")
    found = Constitution(name, about, principles)
    if not found.active:
        raise ConstitutionError("No principle takes part; switch one on and give it a weight above 0.")
    if sum(len(text) for p in principles for text in dataclasses.astuple(p)[:4]) > MOST_BYTES // 10:
        size = len(dump(found).encode())  # slow, so only for large ones
        if size > MOST_BYTES - 100:  # room for the line that says when a version was saved
            raise ConstitutionError(
                f"Written as a file, this takes {size // 1000} kB; {MOST_BYTES // 1000} kB is the limit, so shorten it."
            )
    return found


def kept_name(name: str) -> str:
    """A name as it is kept: My-rules for "My rules"; empty if nothing is left of it."""
    return clean_name(clean_name(tidy(name), ""), "")  # twice: a cut may end in a dash


def _where(number: int, title: str = "") -> str:
    return f'Principle {number} ("{shown(title)}")' if title else f"Principle {number}"


def _checked(number: int, principle: Principle) -> Principle:
    """One principle, tidied."""
    title = " ".join((_text("title", principle.title, _where(number)) or "").split())
    if not title:
        raise ConstitutionError(f"{_where(number)} has no title; give it a few words.")
    where = _where(number, title)
    texts = {field: _text(field, getattr(principle, field), where) or "" for field in TEXTS}
    for field, text, most in (("title", title, MOST_TITLE), *((f, t, MOST_TEXT) for f, t in texts.items())):
        if not text:
            raise ConstitutionError(f"{where}: its {field} is empty; write a sentence.")
        if len(text) > most:
            raise ConstitutionError(f"{where}: its {field} has {len(text):,} characters; at most {most:,} are allowed.")
    weight, enabled = principle.weight, principle.enabled
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= MOST_WEIGHT:
        raise ConstitutionError(f"{where}: its weight should be a number from 0 to 10, not {shown(weight)}.")
    if not isinstance(enabled, bool):
        raise ConstitutionError(f"{where}: enabled should be true or false, not {shown(enabled)}.")
    return Principle(title, **texts, weight=abs(float(weight)), enabled=enabled)


def _text(field: str, value: Any, where: str = "") -> str | None:
    """A field's text, tidied; None where nothing stands."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        value = "\n".join(value)  # the paper's `prompt` is a list of one
    if not isinstance(value, str | None):
        kinds: dict[type, str] = {dict: "an object", list: "a list", bool: "true or false"}
        what = f"the field '{field}'" if not where else f"{where}: its {field}"
        raise ConstitutionError(
            f"{what[0].upper()}{what[1:]} should be text, not {kinds.get(type(value), 'a number')}."
        )
    return (tidy(value) if value else None) or None


def parse(text: str, name: str, suffix: str = "") -> Constitution:
    """The constitution in a text of any known shape. `name` is for one that has none; a suffix settles what it is."""
    kind, value = read(text, suffix)
    head, entries = _entries(value, kind)
    if len(entries) > MOST_PRINCIPLES:
        raise ConstitutionError(f"This holds {len(entries):,} principles; at most {MOST_PRINCIPLES} are allowed.")
    drafts = [_draft(number, key, entry) for number, (key, entry) in enumerate(entries, 1)]
    filled = [field for field in TEXTS if any(not draft.get(field) for draft in drafts)]
    taken = {draft["title"].casefold() for draft in drafts if draft.get("title")}
    principles = tuple(_principle(number, draft, taken) for number, draft in enumerate(drafts, 1))
    about = _text("about", head.get("about"))
    if about is None and (filled or "principles" not in head):
        made = f" Made from what it says: {', '.join(filled)}." if filled else ""
        about = f"Imported from {kind}.{made}"
    return check(Constitution(_text("name", head.get("name")) or name, about or "", principles))


def _entries(value: Any, kind: str) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """(what the document says of itself, its principles, each with the key that it has)."""
    if isinstance(value, list):
        return {}, [("", entry) for entry in value]
    if not isinstance(value, dict):
        raise ConstitutionError(f"This {kind} holds no list of principles; write 'principles:' and the list under it.")
    field = next((field for field in ("principles", "constitutions") if field in value), None)
    if field:
        held = value[field]
        if isinstance(held, dict):
            return value, [(str(key), entry) for key, entry in held.items()]
        if not isinstance(held, list):
            raise ConstitutionError(f"'{field}' should be a list of principles, each a sentence or an object.")
        return value, [("", entry) for entry in held]
    if any(_field(key) in (*TEXTS, "principle") for key in value):
        return {}, [("", value)]
    if value and (
        all(isinstance(entry, dict) for entry in value.values())
        or all(isinstance(entry, str) and " " in entry.strip() for entry in value.values())
    ):
        return {}, [(str(key), entry) for key, entry in value.items()]
    found = ", ".join(shown(key) for key in list(value)[:5]) or "nothing"
    raise ConstitutionError(
        f"This {kind} holds no principles (found: {found}); each needs a title, critique, revision or comparison."
    )


def _plain(key: Any) -> str:
    return re.sub(r"[^a-z]", "", str(key).lower())


def _field(key: Any) -> str | None:
    return FIELDS.get(_plain(key))


def _draft(number: int, key: str, entry: Any) -> dict[str, Any]:
    """One entry by our fields' names; `principle` is a sentence to make the missing ones from."""
    if isinstance(entry, str):
        entry = {"principle": entry} if key.isdigit() or not key else {"title": key, "principle": entry}
    where = _where(number, key)
    if not isinstance(entry, dict):
        raise ConstitutionError(
            f"{where} should be a sentence or an object with a title, critique, revision, comparison."
        )
    draft: dict[str, Any] = {}
    for name, value in entry.items():
        field = _field(name)
        if field is None:
            if close := difflib.get_close_matches(_plain(name)[:40], FIELDS, 1, 0.75):
                raise ConstitutionError(f"{where} has a field '{shown(name)}'; did you mean '{FIELDS[close[0]]}'?")
        elif field in ("weight", "enabled"):
            draft[field] = value
        elif found := _text(field, value, where):
            draft[field] = (
                _bare(found) if field == "principle" or _plain(name) in SCAFFOLDED else draft.get(field) or found
            )
    draft.setdefault("name", key)
    said = draft.get("principle", "")
    if _COMPARES.match(said) and _ANSWERS.search(said):  # a sentence that compares already
        draft.setdefault("comparison", draft.pop("principle"))
    if not any(draft.get(field) for field in (*TEXTS, "principle", "title")):
        raise ConstitutionError(f"{where} says nothing; give it a title, critique, revision or comparison.")
    return draft


def _bare(text: str) -> str:
    """The text without the marks that the paper's files put around it: CritiqueRequest: …, Options: (A) …"""
    text = _OPTIONS.split(tidy(text), maxsplit=1)[0]
    lines = [line for line in text.split("\n") if not _DIALOGUE.match(line)]
    return _BACK.sub("", _FRONT.sub("", "\n".join(lines), count=1).rstrip()).strip()


def _principle(number: int, draft: dict[str, Any], taken: set[str]) -> Principle:
    """The draft with everything that is missing made from what is there."""
    source = next(field for field in FRAMES if draft.get(field))
    said, title = draft[source], draft.get("title") or ""
    if not title:
        first = next(draft[field] for field in ("principle", "comparison", "critique", "revision") if draft.get(field))
        title = draft.get("name") or _headline(first)
        title = title if title.casefold() not in taken else f"{title[: MOST_TITLE - 5]} {number}"
        taken.add(title.casefold())
    missing = [field for field in TEXTS if not draft.get(field)]
    made = {field: _framed(FRAMES[source][field], said) for field in missing}
    longest = max(missing, key=lambda field: len(made[field]), default="")
    if longest and len(made[longest]) > MOST_TEXT and source != "title":  # which has a limit of its own
        most = len(said) - len(made[longest]) + MOST_TEXT
        raise ConstitutionError(
            f"{_where(number, title)}: its {source} has {len(said):,} characters; at most {most:,} fit, because its "
            f"{longest} is made from it."
        )
    weight, enabled = draft.get("weight"), draft.get("enabled")
    return Principle(
        title,
        **{field: draft.get(field) or made[field] for field in TEXTS},
        weight=1.0 if weight is None else _number(weight),
        enabled=True if enabled is None else _switch(enabled),
    )


def _framed(frame: str, said: str) -> str:
    return frame.format(said.rstrip(" .!?;:,") if frame.endswith("?") else said)


def _headline(text: str) -> str:
    """A title from a sentence's first words, past "Please choose the response that is"."""
    words = (text[_OPENING.match(text).end() :] or text).split()  # type: ignore[union-attr]  # it matches "" at least
    first = next((n for n, word in enumerate(words[:8], 1) if word[-1] in ".!?;:,"), 8)
    short = next((" ".join(words[:n]) for n in range(first, 1, -1) if len(" ".join(words[:n])) <= 60), words[0][:60])
    head = short.rstrip(" .!?;:,") or "Principle"
    return head[0].upper() + head[1:]


def _number(value: Any) -> Any:
    """A weight that YAML gave as text; anything else is left for `check` to refuse."""
    try:
        return float(value) if isinstance(value, str) and math.isfinite(float(value)) else value
    except ValueError:
        return value


def _switch(value: Any) -> Any:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value
