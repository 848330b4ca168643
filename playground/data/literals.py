"""Lists and objects as Python and NumPy print them, spelled as JSON: what a table export writes into a cell.

A translation of spellings, no evaluation: what isn't plain data turns into something that is no JSON either. Python's
own `literal_eval` can be made to take seconds for one cell, to warn on the terminal, and to end the process.
"""

import json
import re

_WORDS = {"True": "true", "False": "false", "None": "null", "nan": "null", "(": "[", ")": "]"}

# What the two languages spell differently. A text that is never closed runs to the end, so nothing is read twice.
_PYTHON = re.compile(
    r"(?P<text>'(?:[^'\\]++|\\.?)*+'?|\"(?:[^\"\\]++|\\.?)*+\"?)"
    r"|(?P<array>\barray\(|,\s*+dtype=object\))"  # NumPy's own name for a list inside an object
    r"|(?P<gap>(?<=[\]})'\"])\s++(?=[\[{'\"]|array\())"  # NumPy prints no comma between the items of a list
    r"|(?P<word>\b(?:True|False|None|nan)\b|[()])"
    r"|(?P<spare>,(?=\s*+[\]})]))"  # (1,) and [1, 2,]
    r"|(?P<key>(?<![\w.])-?\d++(?=\s*+:))",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U(00(?:0[\da-fA-F]|10)[\da-fA-F]{4})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}
_LETTERS |= {"\\": "\\", "'": "'", '"': '"'}


def as_json(text: str) -> str:
    """The text with Python's spellings replaced by JSON's; valid JSON if it was a list or object of plain data."""
    return _PYTHON.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    found = match[0]
    if match["text"]:
        closed = len(found) > 1 and found[-1] == found[0]
        return json.dumps(_ESCAPE.sub(_unescaped, found[1:-1]), ensure_ascii=False) if closed else found
    if match["word"]:
        return _WORDS[found]
    if match["gap"]:
        return ", "
    return "" if match["spare"] or match["array"] else f'"{found}"'


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    return chr(int(code, 16)) if code else _LETTERS.get(match[4], match[0])
