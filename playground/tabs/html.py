"""The only place that builds HTML for the page: every text is escaped here, wherever it came from."""

import re
from collections import Counter
from difflib import Match, SequenceMatcher
from html import escape
from itertools import accumulate

MOST_COMPARED = 3000  # words a side
# Looks at two equal words: about half a second. Repetitive texts take time with the cube of their words.
MOST_WORK = 4_000_000

STYLE = """
.prose h2 {font-size: 1.15rem; margin: 1rem 0 .4rem}
.prose h3 {font-size: 1rem; margin: .8rem 0 .3rem}
.pg-lead {font-size: 1.05rem; max-width: 62rem}
.pg-note {color: var(--body-text-color-subdued)}
.pg-bar {height: .5rem; border-radius: .25rem; background: var(--border-color-primary); overflow: hidden;
  margin: .4rem 0}
.pg-bar > div {height: 100%; background: var(--color-accent)}
.pg-state {font-weight: 600}
.pg-turn {margin: .35rem 0; padding: .5rem .75rem; border-left: 3px solid var(--border-color-primary);
  overflow-wrap: anywhere}
.pg-turn.pg-assistant {border-left-color: var(--color-accent)}
.pg-row {margin: 0 0 1rem; padding: .75rem; border: 1px solid var(--border-color-primary); border-radius: .5rem}
.pg-tokens {font-family: var(--font-mono); font-size: .85rem; line-height: 1.9; white-space: pre-wrap;
  overflow-wrap: anywhere}
.pg-tokens span {border-radius: .2rem; padding: .1rem 0}
.pg-grey {color: var(--body-text-color-subdued)}
.pg-learned, .pg-chosen {background: #d1fae5; color: #064e3b; box-shadow: inset 0 -2px 0 #059669}
.dark .pg-learned {background: #064e3b; color: #d1fae5; box-shadow: inset 0 -2px 0 #34d399}
.dark .pg-chosen {background: #064e3b; color: #d1fae5; box-shadow: inset 0 -2px 0 #34d399}
button[role=tab].selected {color: var(--primary-600) !important}
.dark button[role=tab].selected {color: var(--primary-400) !important}
.pg-rejected {background: #fee2e2; color: #7f1d1d; box-shadow: inset 0 -2px 0 #dc2626}
.dark .pg-rejected {background: #7f1d1d; color: #fee2e2; box-shadow: inset 0 -2px 0 #f87171}
.pg-turn.pg-lost {border-left-color: #dc2626}
.pg-reading {margin: 0 0 .6rem; font-size: .9rem}
.pg-list {margin: .2rem 0 .4rem; padding-left: 1.2rem}
.pg-alert {color: #78350f; background: #fef3c7; border-left: 3px solid #b45309; border-radius: .25rem;
  padding: .5rem .75rem; margin: .5rem 0}
.dark .pg-alert {color: #fde68a; background: #451a03; border-left-color: #f59e0b}
.pg-alert > * {color: inherit !important}
details summary {cursor: pointer; overflow-wrap: anywhere; padding: .1rem 0}
.html-container {padding: 0 !important}
table.pg-table, table.pg-table thead, table.pg-table tbody, table.pg-table tr {border: 0 !important}
table.pg-table {width: 100%; border-collapse: collapse}
table.pg-table th, table.pg-table td {text-align: left; vertical-align: top; padding: .35rem .6rem; border: 0;
  border-bottom: 1px solid var(--border-color-primary)}
table.pg-table th:first-child, table.pg-table td:first-child {white-space: nowrap; width: 1%}
.pg-scroll {overflow-x: auto}
.pg-diff {white-space: pre-wrap; overflow-wrap: anywhere}
.pg-diff ins, .pg-diff del {border-radius: .2rem; padding: .05rem .1rem}
.pg-diff ins {background: #d1fae5; color: #064e3b; text-decoration: underline; text-decoration-thickness: 2px}
.dark .pg-diff ins {background: #064e3b; color: #d1fae5}
.pg-diff del {background: #fee2e2; color: #7f1d1d; text-decoration: line-through}
.dark .pg-diff del {background: #7f1d1d; color: #fee2e2}
.pg-cards .wrap {flex-direction: column; flex-wrap: nowrap; max-height: 34rem; overflow-y: auto}
.pg-cards .wrap label {width: 100%; overflow-wrap: anywhere}
@media (max-width: 640px) {.pg-cards .wrap {max-height: 17rem}}
input[type=checkbox]:not(:checked), input[type=radio]:not(:checked) {border: 1px solid var(--neutral-500) !important}
label.selected, .dark label.selected {background: var(--primary-600) !important}
.pg-sides {display: grid; grid-template-columns: 1fr 1fr; gap: .75rem}
.pg-sides > * {min-width: 0}
.pg-side {border-radius: .4rem; padding: .5rem .75rem; overflow-wrap: anywhere; background: #ecfdf5;
  border-left: 3px solid #059669}
.pg-side.pg-lost {background: #fef2f2; border-left-color: #dc2626}
.dark .pg-side {background: #06281e; border-left-color: #34d399}
.dark .pg-side.pg-lost {background: #2c0d0d; border-left-color: #f87171}
.pg-head {display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin-bottom: .4rem}
.pg-head > :first-child {flex: 1 1 8rem; margin: 0}
button.pg-do, .pg-fact {margin: 0 !important}
button.pg-do {font: inherit; font-size: .85rem; line-height: 1.2; padding: .3rem .7rem; border-radius: .4rem;
  cursor: pointer; color: var(--body-text-color); background: var(--button-secondary-background-fill);
  border: 1px solid var(--border-color-primary)}
button.pg-do[aria-disabled] {opacity: .5; cursor: default}
button.pg-do:hover {background: var(--button-secondary-background-fill-hover)}
button.pg-do.pg-link {border: 0; background: none; padding: 0; color: var(--primary-600); text-decoration: underline;
  text-align: left; font-size: inherit}
.dark button.pg-do.pg-link {color: var(--primary-300)}
.pg-fact {display: inline-block; font-size: .8rem; font-weight: 600; border-radius: 1rem; padding: .05rem .6rem;
  border: 1px solid currentColor}
.pg-row.pg-changed {border-left: 3px solid var(--color-accent)}
.pg-row.pg-gone {border-style: dashed}
.pg-row.pg-gone > :not(.pg-head) {text-decoration: line-through}
label.pg-field {display: block; font-size: .85rem; margin: .4rem 0}
label.pg-field textarea {display: block; width: 100%; box-sizing: border-box; font: inherit; margin-top: .2rem;
  min-height: 4.5rem; resize: vertical; padding: .5rem; border-radius: .4rem; color: var(--body-text-color);
  background: var(--input-background-fill); border: 1px solid var(--neutral-500)}
select.pg-select {appearance: auto; font: inherit; font-weight: 400; font-size: .85rem; width: 100%;
  min-width: 9.5rem; margin-top: .3rem; padding: .3rem .4rem; border-radius: .4rem; color: var(--body-text-color);
  background: var(--input-background-fill); border: 1px solid var(--neutral-500)}
table.pg-columns th, table.pg-columns td {max-width: 20rem; overflow-wrap: anywhere}
table.pg-columns th:first-child, table.pg-columns td:first-child {white-space: normal; width: auto}
table.pg-columns th.pg-used {border-bottom: 2px solid var(--color-accent)}
table.pg-columns .pg-out {color: var(--body-text-color-subdued)}
:is(button.pg-do, select.pg-select, label.pg-field textarea):focus-visible {outline: 2px solid var(--color-accent);
  outline-offset: 1px}
details {margin-top: .3rem}
.pg-act {margin: .4rem 0 .6rem}
table.pg-wide {min-width: 58rem}
@media (max-width: 640px) {
  .pg-sides {grid-template-columns: 1fr}
  .pg-row > .pg-head > :first-child, .pg-pending > * {flex: 1 1 100% !important}
}
.pg-bars {display: flex; align-items: flex-end; gap: 1px; height: 7rem; border-bottom: 1px solid var(--neutral-500)}
.pg-bars > span {flex: 1 1 0; min-height: 1px; background: var(--color-accent); border-radius: 2px 2px 0 0}
.pg-bars > span.pg-none {background: none}
.pg-ends {display: flex; justify-content: space-between; margin-bottom: .6rem; font-size: .8rem;
  color: var(--body-text-color-subdued)}
.pg-tall .pg-scroll {max-height: 20rem; overflow-y: auto}
.pg-pending {position: sticky; bottom: 0; z-index: 5; align-items: center; padding: .6rem .75rem;
  background: var(--background-fill-primary); border: 1px solid var(--border-color-primary); border-radius: .5rem;
  border-left: 3px solid var(--color-accent)}
.pg-slot {border-bottom: 2px solid var(--border-color-primary); padding-bottom: 1rem; margin-bottom: 1rem}
.pg-yaml textarea {font-family: var(--font-mono); font-size: .85rem; white-space: pre; overflow-x: auto}
"""


def tag(name: str, text: str, css: str = "") -> str:
    """One element around escaped text."""
    return f"<{name}{_css(css)}>{escape(text)}</{name}>"


def box(inner: list[str], css: str = "", name: str = "div") -> str:
    """One element around elements that this module has built."""
    return f"<{name}{_css(css)}>{''.join(inner)}</{name}>"


def live(inner: list[str]) -> str:
    """A box whose changes screen readers announce."""
    return f'<div role="status" aria-live="polite">{"".join(inner)}</div>'


def alert(title: str, text: str) -> str:
    """A warning with a sign that is not told by colour alone. It belongs into a live box, which announces it."""
    sign = '<span aria-hidden="true">⚠ </span>'
    return box([sign, tag("strong", f"{title}."), escape(f" {text}")], "pg-alert")


def details(summary: str, inner: list[str], opened: bool = False) -> str:
    """Elements that unfold under a line of text."""
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{''.join(inner)}</details>"


def bar(share: float, label: str) -> str:
    """A progress bar; share between 0 and 1."""
    percent = round(100 * max(0.0, min(1.0, share)))
    return (
        f'<div class="pg-bar" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width:{percent}%"></div></div>'
    )


def histogram(about: str, bars: list[tuple[str, int]], ends: tuple[str, str]) -> str:
    """Counts as bars, told in words to those who don't see them; each bar has its numbers to point at."""
    top = max(count for _, count in bars)
    spans = [
        f'<span{"" if count else _css("pg-none")} style="height: {100 * count / top:.1f}%" '
        f'title="{escape(f"{name}: {count:,}")}"></span>'
        for name, count in bars
    ]
    below = box([tag("span", end) for end in ends], "pg-ends")
    return f'<div role="img" aria-label="{escape(about)}">{box(spans, "pg-bars")}{below}</div>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of escaped cells that scrolls sideways on a small screen."""
    top = box([tag("th", cell) for cell in head], name="tr")
    body = [box([tag("td", cell) for cell in row], name="tr") for row in rows]
    return scroll(grid(top, body), "Table")


def grid(head: str, body: list[str], css: str = "pg-table") -> str:
    """A table of a header row and body rows that this module has built."""
    return f"<table{_css(css)}><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def scroll(inner: str, label: str) -> str:
    """A region that scrolls sideways on a small screen, by keyboard too."""
    return f'<div class="pg-scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


def button(words: str, act: str, about: str = "", css: str = "", off: bool = False) -> str:
    """A button inside a talking element, which tells the server the name of the act.

    about: which thing it acts on, where its words alone don't say it to those who don't see the page. One that is off
    keeps the focus, so that a person who turns pages by keyboard does not lose their place at the end.
    """
    named = f' aria-label="{escape(f"{words} {about}")}"' if about else ""
    told = f'{named} aria-disabled="true"' if off else f'{named} data-act="{escape(act)}"'
    return f'<button type="button" class="{escape(f"pg-do {css}".strip())}"{told}>{escape(words)}</button>'


def select(label: str, options: list[tuple[str, str]], chosen: str) -> str:
    """A list to choose from inside a talking element: (words, value) each."""
    inner = [
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(words)}</option>'
        for words, value in options
    ]
    names = f'aria-label="{escape(label)}" data-value="{escape(chosen)}"'
    return f'<select class="pg-select" {names}>{"".join(inner)}</select>'


def field(label: str, text: str) -> str:
    """A text to edit inside a talking element."""
    return f'<label class="pg-field">{escape(label)}<textarea rows="3">\n{escape(text)}</textarea></label>'


def marked(inner: list[str], css: str, **names: str) -> str:
    """A box that a talking element knows by these names."""
    data = "".join(f' data-{name}="{escape(value)}"' for name, value in names.items())
    return f"<div{_css(css)}{data}>{''.join(inner)}</div>"


def conversation(messages: list[dict[str, str]]) -> str:
    """Messages as a chat, role in words."""
    return box(
        [
            box(
                [tag("strong", message["role"]), "<br>", escape(message["content"]).replace("\n", "<br>")],
                f"pg-turn pg-{message['role'] if message['role'] in ('user', 'assistant') else 'system'}",
            )
            for message in messages
        ]
    )


def answer(side: str, text: str) -> str:
    """One side of a pair as a chat turn, named."""
    inner = [tag("strong", side), "<br>", escape(text).replace("\n", "<br>")]
    return box(inner, f"pg-turn pg-{'assistant' if side == 'chosen' else 'lost'}")


def side(name: str, text: str, won: bool) -> str:
    """An answer on green if it is the one to learn, on red if it is not; its name says which, too."""
    inner = [tag("strong", name), "<br>", escape(text).replace("\n", "<br>")]
    return box(inner, "pg-side" if won else "pg-side pg-lost")


def diff(before: str, after: str) -> str:
    """The second text with what it takes from the first struck out and what it adds underlined, word by word.

    Line breaks and spaces are those of the words themselves; texts too long or too repetitive to compare stand one
    after the other."""
    old, new = (re.findall(r"\s*\S+", text.rstrip()) for text in (before, after))  # a long gap at the end is slow
    parts = []
    try:
        for kind, a, b, c, d in _opcodes(old, new):
            if kind == "equal":
                parts.append(escape("".join(new[c:d])))
            else:
                gone, come = "".join(old[a:b]), "".join(new[c:d])
                parts += [_changed("del", gone), " " if gone and come[:1].strip() else "", _changed("ins", come)]
    except _TooMuch:
        parts = [_changed("del", before), " ", _changed("ins", after)]
    return box(parts, "pg-diff")


class _TooMuch(Exception):
    """Two texts take too long to compare."""


class _Words(SequenceMatcher[str]):
    """A comparison that gives up before it has looked at MOST_WORK pairs of equal words."""

    def __init__(self, old: list[str], new: list[str]) -> None:
        super().__init__(None, old, new, autojunk=False)
        places = Counter(new)
        self.work = [0, *accumulate(1 + places[word] for word in old)]  # up to each old word
        self.left = MOST_WORK

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Match:
        self.left -= self.work[-1 if ahi is None else ahi] - self.work[alo]
        if self.left < 0:
            raise _TooMuch
        return super().find_longest_match(alo, ahi, blo, bhi)


def _opcodes(old: list[str], new: list[str]) -> list[tuple[str, int, int, int, int]]:
    """difflib's steps from the old words to the new ones, whatever space stands before a word."""
    if max(len(old), len(new)) > MOST_COMPARED:
        raise _TooMuch
    return list(_Words(*([word.strip() for word in side] for side in (old, new))).get_opcodes())


def _changed(name: str, text: str) -> str:
    """Words in <del> or <ins>, the space in front of them outside; nothing for nothing."""
    bare = text.lstrip()
    return escape(text[: len(text) - len(bare)]) + tag(name, bare) if bare else ""


def tokens(texts: list[str], learned: list[bool], css: str = "pg-learned") -> str:
    """Tokens one by one: what is learned coloured and underlined (as `css` says), the rest grey."""
    spans = []
    for text, learn in zip(texts, learned, strict=True):
        shown = escape(text).replace("\n", "⏎\n")
        spans.append(f'<span class="{css if learn else "pg-grey"}">{shown}</span>')
    return box(spans, "pg-tokens")


def heat(texts: list[str], shares: list[float], values: list[float]) -> str:
    """Tokens on a ground from orange (-1) over nothing (0) to blue (1), each with its value to point at."""
    spans = []
    for text, share, value in zip(texts, shares, values, strict=True):
        strength = round(100 * min(1.0, abs(share)) * 0.55)
        colour = f"color-mix(in srgb, {'#3b82f6' if share > 0 else '#f97316'} {strength}%, transparent)"
        shown = escape(text).replace("\n", "⏎\n")
        spans.append(f'<span style="background: {colour}" title="{value:+.2f}">{shown}</span>')
    return box(spans, "pg-tokens")


def _css(css: str) -> str:
    return f' class="{escape(css)}"' if css else ""
