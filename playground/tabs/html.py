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
.pg-learned {background: #d1fae5; color: #064e3b; box-shadow: inset 0 -2px 0 #059669}
.dark .pg-learned {background: #064e3b; color: #d1fae5; box-shadow: inset 0 -2px 0 #34d399}
button[role=tab].selected {color: var(--primary-600) !important}
.dark button[role=tab].selected {color: var(--primary-400) !important}
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


def tokens(texts: list[str], learned: list[bool]) -> str:
    """Tokens one by one: what is learned coloured and underlined, the rest grey."""
    spans = []
    for text, learn in zip(texts, learned, strict=True):
        shown = escape(text).replace("\n", "⏎\n")
        spans.append(f'<span class="{"pg-learned" if learn else "pg-grey"}">{shown}</span>')
    return box(spans, "pg-tokens")


def _css(css: str) -> str:
    return f' class="{escape(css)}"' if css else ""
