"""The only place that builds HTML for the page: every text is escaped here, wherever it came from."""

from html import escape

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
.dark .pg-learned, .dark .pg-chosen {background: #064e3b; color: #d1fae5; box-shadow: inset 0 -2px 0 #34d399}
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


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of escaped cells that scrolls sideways on a small screen."""
    top = box([tag("th", cell) for cell in head], name="tr")
    body = [box([tag("td", cell) for cell in row], name="tr") for row in rows]
    return scroll(f'<table class="pg-table"><thead>{top}</thead><tbody>{"".join(body)}</tbody></table>', "Table")


def scroll(inner: str, label: str) -> str:
    """A region that scrolls sideways on a small screen, by keyboard too."""
    return f'<div class="pg-scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


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
