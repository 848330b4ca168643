"""Plain text to raw records: one prompt a line, or a conversation written down with role marks."""

import re
from collections.abc import Iterator
from itertools import islice

from playground.data.documents import numbered_lines
from playground.data.records import Limits, RawRow, checked_row
from playground.data.tables import delimiter_of, first_cells

# Whoever writes these writes conversations: Guanaco and Alpaca texts, ChatML and its like, HH-RLHF transcripts.
_ROLES = r"(?:Human|User|Assistant|System|Instruction|Input|Response)"
_MARKED = re.compile(rf"### ?{_ROLES}\b|<\|\w+\|>|\[INST\]|(?:\A|\n\n)(?:Human|Assistant):")

_ENDS = (".", "?", "!", ":", "。", "？", "！", "：")
# Column names that are known even where there is one column alone.
_ALONE = {"prompt", "prompts", "question", "questions", "query", "instruction", "text", "input", "messages"}


def is_plain(text: str) -> bool:
    """True where the first line can't be a table's header, or where the text is marked as a conversation."""
    if _MARKED.match(text.lstrip()):
        return True
    rest, delimiter = delimiter_of(text)
    names = first_cells(rest, delimiter)
    if len(names) > 1 or rest is not text:
        return not all(map(_is_name, names))
    return names[0].strip().lower() not in _ALONE


def _is_name(cell: str) -> bool:
    """True for what can be a column's name: few words, no end of a sentence, no blank in front as after a comma."""
    return len(cell.split()) <= 3 and not cell.startswith(" ") and not cell.rstrip().endswith(_ENDS)


def _is_conversation(text: str) -> bool:
    """True where two marks or more are found; one alone may be what a prompt is about."""
    return len(list(islice(_MARKED.finditer(text), 2))) == 2


def plain_rows(text: str, limits: Limits) -> Iterator[RawRow]:
    """A prompt a line; one record of the whole text where it is a conversation, or of each line where those are."""
    marked = _is_conversation(text)
    if marked and not all(_is_conversation(content) for _, content in numbered_lines(text)):
        yield checked_row(1, {"text": text}, limits)
        return
    for line, content in numbered_lines(text):
        yield checked_row(line, {"text" if marked else "prompt": content.strip()}, limits)
