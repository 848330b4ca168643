"""The text of a constitution to plain values: JSON, YAML or sentences, whatever a stranger's file holds.

Told apart by content where no suffix says it. Size is checked before parsing, depth while parsing, and no content makes
anything but a ConstitutionError leave this module. What the values mean is constitution.py's business.
"""

import json
import re
from typing import Any

import yaml

MOST_BYTES = 200_000
MOST_DEPTH = 10
MOST_NODES = 10_000  # texts, lists and mappings of a YAML file: reading 100,000 of them takes seconds
SUFFIXES = {"json": "JSON", "yaml": "YAML", "yml": "YAML"}

_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Control and direction characters, halves of pairs, and tags: nobody sees them, but a model that is asked reads them.
_UNSAFE = re.compile(
    "[\0-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_TAGS = re.compile("[\U000e0000-\U000e007f]")

_TEXT_KEYS = "critique|critic|revision|comparison|critique_request|revision_request"
_YAML = re.compile(
    rf"^(?:principles|constitutions|{_TEXT_KEYS})[ \t]*:(?:\s|$)"
    rf"|^[ \t]*-[ \t]+(?:title|name|{_TEXT_KEYS})[ \t]*:[ \t]"
    r"|(?:^|[:-][ \t]+)(?:!!\w|&\w+[ \t\n]|\*\w+[ \t]*$)",  # tags, anchors and aliases: refused, but as YAML
    re.MULTILINE,
)
_JSON = re.compile(r'\s*(?:\{|\[\s*(?:[{\["\]]|\Z))')
_PAGE = re.compile(r"\s*(?:<!doctype|<html|<\?xml)", re.IGNORECASE)
_NULLS = ("", "~", "null", "Null", "NULL")

_HEADING = re.compile(r"#{1,6}\s")  # the rest by hand: a pattern for it would try every gap as the last
_BULLET = re.compile(
    r"(?:[-*+•–—·‣◦▪>]\s+|\(?\d{1,3}[.):]\s*(?!\d)|\(?[A-Za-z]\)\s+|(?:principle|rule|article)\s+\d{1,3}\s*[.:)-]\s*)+"
    r"(?:\[[ xX]?\]\s+)?",
    re.IGNORECASE,
)
_ENDS = (".", "!", "?", ";", "…", "。", "！", "？")
_CLOSERS = " \u00a0\"'”’»)]*_`"
_BOLD_TITLE = re.compile(r"(?:\*\*|__)([^*_]{1,80}?)[.:]?(?:\*\*|__)\s*:?\s*(.*)", re.DOTALL)


class ConstitutionError(ValueError):
    """One sentence for a person: what is wrong, where, and what to do."""


def tidy(text: str) -> str:
    """The text without characters that can't be seen, with plain line breaks, stripped."""
    return _TAGS.sub("", _UNSAFE.sub("", _BREAKS.sub("\n", text))).replace("\t", " ").strip()


def shown(text: object) -> str:
    """A stranger's words, safe and short enough for a sentence."""
    line = " ".join(tidy(str(text)[:400]).split())
    return line if len(line) <= 60 else line[:59] + "…"


def read(text: str, suffix: str = "") -> tuple[str, Any]:
    """(what it is: "JSON", "YAML" or "plain text", its value); plain text is a list of objects."""
    if len(text) > MOST_BYTES or len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise ConstitutionError(
            f"This is larger than {MOST_BYTES // 1000} kB, the limit for a constitution; keep only its principles."
        )
    if "\0" in text:
        raise ConstitutionError("This holds NUL bytes, so it is not text; save it as text, YAML or JSON.")
    text = _UNSAFE.sub("", _BREAKS.sub("\n", text)).expandtabs(4)
    if not text.strip():
        raise ConstitutionError("This is empty; write at least one principle, one a line.")
    if _PAGE.match(text):
        raise ConstitutionError("This is a web page, not a constitution; save its principles as text, one a line.")
    kind = SUFFIXES.get(suffix.lower().removeprefix(".")) or _kind(text)
    readers = {"JSON": _json, "YAML": _yaml, "plain text": _sentences}
    return kind, readers[kind](text)


def _kind(text: str) -> str:
    return "JSON" if _JSON.match(text) else "YAML" if _YAML.search(text) else "plain text"


def _json(text: str) -> Any:
    try:
        return json.loads(text, strict=False, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        reason, where = error.msg.lower().removesuffix(" at"), f"line {error.lineno}, column {error.colno}"
        raise ConstitutionError(f"This is not valid JSON ({reason} at {where}); correct it there.") from None
    except RecursionError:
        raise ConstitutionError(_too_deep()) from None
    except ConstitutionError:
        raise
    except ValueError:  # Python's own limit on digits
        raise ConstitutionError("This JSON holds a number of thousands of digits; take it out.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ConstitutionError(_repeated(key))
        value[key] = item
    return value


class _Loader(yaml.BaseLoader):
    """YAML as texts, lists and mappings, and null where nothing stands: a title `Yes` or `2024` stays what was typed.

    It constructs no other type, whatever a tag says, and refuses what a constitution never needs.
    """

    depth = 0
    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        where = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise ConstitutionError(
                f"This YAML uses an anchor or alias (& or *) in {where}; write the text out instead."
            )
        if event.tag:
            raise ConstitutionError(f"This YAML uses a tag ({shown(event.tag)}) in {where}; take it out.")
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise ConstitutionError(f"This YAML holds more than {MOST_NODES:,} values; keep only its principles.")
        self.depth += 1
        if self.depth > MOST_DEPTH:  # before Python's own limit, and before a second is gone
            raise ConstitutionError(_too_deep())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        return None if node.style is None and value in _NULLS else value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstitutionError(
                    f"This YAML has a list as a name in line {key.start_mark.line + 1}; use a text."
                )
            if key.value in seen:
                raise ConstitutionError(_repeated(key.value))
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    loader = None
    try:
        loader = _Loader(text)  # only texts, lists and mappings
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = shown(getattr(error, "problem", None) or "a character it may not hold")
        raise ConstitutionError(
            f"This is not valid YAML ({reason}{where}); correct it there, or put the text in quotation marks."
        ) from None
    except ConstitutionError:
        raise
    except (ValueError, ArithmeticError, LookupError):  # what chr() and int() say to "\UFFFFFFFF" and to long numbers
        where = f" in line {loader.line + 1}" if loader else ""
        raise ConstitutionError(
            f"This is not valid YAML (a character or number that does not exist{where}); correct it there."
        ) from None


def _too_deep() -> str:
    return f"This is nested deeper than {MOST_DEPTH} levels; a constitution is a list of principles."


def _repeated(key: str) -> str:
    return f"The field '{shown(key)}' appears twice in one object; keep one."


def _sentences(text: str) -> list[dict[str, str]]:
    """Plain text or Markdown as objects with `principle` and, where one is given, `title`.

    One principle a bullet or number; else, of several headings, one with what is under it; else a paragraph, where
    lines run on; else a line. The paper's own listing, CritiqueRequest: … RevisionRequest: …, is read as such pairs.
    """
    if "CritiqueRequest:" in text:
        pairs = [part.partition("RevisionRequest:") for part in text.split("CritiqueRequest:")[1:]]
        return [{"critique_request": critique, "revision_request": revision} for critique, _, revision in pairs]
    lines = text.strip().split("\n")
    bulleted = any(_BULLET.match(line.strip()) for line in lines)
    headed = not bulleted and sum(_heading(line) is not None for line in lines) > 1
    each_line = not (bulleted or headed or _runs_on(lines))
    items: list[tuple[str, list[str]]] = []  # (title, lines)
    new = True
    for line in lines:
        bare = line.strip()
        heading, bullet = _heading(line), _BULLET.match(bare)
        if heading is not None and headed:
            items.append((heading, []))
        elif heading is not None or not _has_letters(bare):  # a heading over the rest, a blank line, a rule
            new = not headed
            continue
        elif bullet or not items or each_line or (new and not (bulleted and line[0] == " ")):
            items.append(("", [bare[bullet.end() :] if bullet else bare]))
        else:
            items[-1][1].append(bare)
        new = False
    entries = [_sentence(title, " ".join(part for part in parts if part)) for title, parts in items if any(parts)]
    rules = [entry for entry in entries if not (bulleted and entry["principle"].endswith(":"))]  # "Our rules:"
    if not rules:
        raise ConstitutionError("No sentence was found in this text; write one principle a line.")
    return rules


def _heading(line: str) -> str | None:
    """What a Markdown heading says; None for any other line."""
    bare = line.strip()
    return bare.lstrip("#").strip().rstrip("#").rstrip() if _HEADING.match(bare) else None


def _has_letters(line: str) -> bool:
    return any(char.isalpha() for char in line)


def _runs_on(lines: list[str]) -> bool:
    """True for paragraphs of wrapped lines: blank lines part them, and in one a line ends in the middle of a sentence.

    A list of one principle a line may be parted by blank lines as well, so these alone say nothing.
    """
    blocks: list[list[str]] = [[]]
    for line in lines:
        if not _has_letters(line):
            blocks.append([])
        elif _heading(line) is None:
            blocks[-1].append(line)
    filled = [block for block in blocks if block]
    return len(filled) > 1 and any(not line.rstrip(_CLOSERS).endswith(_ENDS) for block in filled for line in block[:-1])


def _sentence(title: str, text: str) -> dict[str, str]:
    """`**Be kind.** Never mock.` and `Be kind: never mock.` name themselves; the sentence stays whole."""
    if bold := _BOLD_TITLE.fullmatch(text):
        title = title or bold[1]
        text = bold[2] or bold[1]
    elif not title and 1 <= len(text.partition(": ")[0].split()) <= 6 and text.partition(": ")[2].strip():
        title = text.partition(": ")[0]
    text = text.replace("**", "").replace("`", "").strip()
    if len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”", "‘’"):
        text = text[1:-1]
    return {"principle": text.strip()} | ({"title": title} if title else {})
