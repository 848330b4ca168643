"""Constitutions on a desk: principles as cards with ids of their own, drafts that are kept until they are saved.

Plain values that JSON holds, so that the browser can keep a copy of what is not saved yet (keeping.py). No Gradio here:
the Constitution tab shows a desk and asks for the next one.
"""

import re
import secrets
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from playground.data import constitutions
from playground.data.constitution import TEXTS, Constitution, ConstitutionError, Principle, check, dump, parse
from playground.data.constitution_text import tidy
from playground.data.constitutions import Version
from playground.home import free_name

CARDS, YAML = "Cards", "YAML"  # the two ways to edit a draft
NEW = "*"  # how the key of a draft begins that was never saved
FIELDS = ("title", "critique", "revision", "comparison", "weight", "enabled")
MOST_REMOVED = 20


@dataclass(frozen=True)
class Card:
    """A principle with an id that stays while it is edited, moved and renamed."""

    id: str
    title: str = ""
    critique: str = ""
    revision: str = ""
    comparison: str = ""
    weight: float = 1.0
    enabled: bool = True

    @property
    def principle(self) -> Principle:
        """The card as a principle, not checked yet."""
        return Principle(**{name: getattr(self, name) for name in FIELDS})


@dataclass(frozen=True)
class Draft:
    """A constitution as it is on the page. `origin`: what was opened, None if it was never saved; `open`: the id of the
    card in the form; `removed`: (place, card), the latest last; `text`: the YAML while that is what is edited."""

    name: str
    about: str = ""
    cards: tuple[Card, ...] = ()
    base: str = ""
    origin: Constitution | None = None
    open: str = ""
    removed: tuple[tuple[int, Card], ...] = ()
    text: str | None = None

    @property
    def constitution(self) -> Constitution:
        """What the cards say, whether it can be saved or not."""
        return Constitution(self.name, self.about, tuple(card.principle for card in self.cards))

    @cached_property
    def changed(self) -> bool:
        """True if something would be lost with it."""
        typed = self.text is not None and self.text != dump(self.constitution)
        return typed or self.constitution != self.origin

    @property
    def place(self) -> int:
        """Where the open card stands; -1 if there is none."""
        return next((i for i, card in enumerate(self.cards) if card.id == self.open), -1)

    @property
    def problem(self) -> str:
        """Why it can't be saved as it is; empty if it can. YAML is not read here: it takes too long for every word."""
        try:
            check(self.constitution)
        except ConstitutionError as error:
            return "" if self.text is not None else str(error)
        return ""


@dataclass(frozen=True)
class Desk:
    """Every draft of one page by its key, and the key of the one in view."""

    current: str
    drafts: dict[str, Draft] = field(default_factory=dict)

    @property
    def draft(self) -> Draft:
        """The draft in view."""
        return self.drafts[self.current]

    def put(self, draft: Draft, key: str | None = None) -> "Desk":
        """The desk with another draft in the place of the one in view, or of `key`, which then comes into view."""
        key = key or self.current
        return Desk(key, {**self.drafts, key: draft})

    def without(self, key: str) -> "Desk":
        """The desk without a draft; one that nobody needs any more."""
        return Desk(self.current, {other: draft for other, draft in self.drafts.items() if other != key})

    def show(self, key: str, draft: Draft) -> "Desk":
        """Brings a draft into view: the one on the desk if there is one, else `draft`. What was in view stays on the
        desk if it would be lost otherwise."""
        left = self if self.draft.changed else self.without(self.current)
        return left.put(left.drafts.get(key, draft), key)


def new_id() -> str:
    """An id for a card or for a draft that was never saved."""
    return secrets.token_hex(4)


def opened(constitution: Constitution, base: str = "") -> Draft:
    """A draft of a stored constitution, or of one that was never saved where there is no base."""
    cards = tuple(Card(new_id(), **asdict(principle)) for principle in constitution.principles)
    origin = constitution if base else None
    return Draft(constitution.name, constitution.about, cards, base, origin, cards[0].id if cards else "")


def filled(draft: Draft, card_id: str, typed: dict[str, Any]) -> Draft:
    """What the form holds, put on its card. None changes nothing: a weight that was emptied, a box that is not on the
    page yet while its tab opens. One that a person emptied holds an empty text."""
    known = {name: typed[name] for name in FIELDS if typed[name] is not None}
    known |= {name: tidy(known[name]) for name in ("title", *TEXTS) if name in known}
    known |= {"title": " ".join(known["title"].split())} if "title" in known else {}
    known |= {"weight": float(known["weight"])} if "weight" in known else {}
    cards = tuple(replace(c, **known) if c.id == card_id else c for c in draft.cards)
    return replace(draft, cards=cards)


def named(draft: Draft, name: str | None, about: str | None) -> Draft:
    """The draft under another name, with other words about it; None: not on the page yet."""
    draft = draft if name is None else replace(draft, name=tidy(name))
    return draft if about is None else replace(draft, about=tidy(about))


def shown(draft: Draft, card_id: str) -> Draft:
    """Another card in the form."""
    return replace(draft, open=card_id) if any(card.id == card_id for card in draft.cards) else draft


def added(draft: Draft) -> Draft:
    """An empty card behind the open one."""
    return _inserted(draft, draft.place + 1 if draft.open else len(draft.cards), Card(new_id()))


def duplicated(draft: Draft) -> Draft:
    """A copy of the open card behind it, under a title of its own."""
    if draft.place < 0:
        return draft
    card = draft.cards[draft.place]
    title = free_name(f"{card.title} (copy)"[-80:], {other.title for other in draft.cards}) if card.title else ""
    return _inserted(draft, draft.place + 1, replace(card, id=new_id(), title=title))


def _inserted(draft: Draft, place: int, card: Card) -> Draft:
    cards = (*draft.cards[:place], card, *draft.cards[place:])
    return replace(draft, cards=cards, open=card.id)


def moved(draft: Draft, by: int) -> Draft:
    """The open card so many places further down; at an end it stays."""
    place = draft.place
    target = place + by
    if place < 0 or not 0 <= target < len(draft.cards):
        return draft
    cards = list(draft.cards)
    cards.insert(target, cards.pop(place))
    return replace(draft, cards=tuple(cards))


def removed(draft: Draft) -> Draft:
    """Without the open card, which can be brought back; the next one opens."""
    place = draft.place
    if place < 0:
        return draft
    card, cards = draft.cards[place], draft.cards[:place] + draft.cards[place + 1 :]
    beside = cards[min(place, len(cards) - 1)].id if cards else ""
    kept = (*draft.removed, (place, card))[-MOST_REMOVED:]
    return replace(draft, cards=cards, open=beside, removed=kept)


def brought_back(draft: Draft) -> Draft:
    """With the card that was removed last, in its place."""
    if not draft.removed:
        return draft
    place, card = draft.removed[-1]
    return replace(_inserted(draft, min(place, len(draft.cards)), card), removed=draft.removed[:-1])


def in_text(draft: Draft) -> Draft:
    """The draft as YAML, to be edited there."""
    return draft if draft.text is not None else replace(draft, text=dump(draft.constitution))


def in_cards(draft: Draft) -> Draft:
    """The draft as cards; ConstitutionError says where its YAML can't be read, with the words of that line."""
    if draft.text is None or draft.text == dump(draft.constitution):
        return replace(draft, text=None)
    try:
        read = opened(parse(draft.text, draft.name or "constitution", "yaml"))
    except ConstitutionError as error:
        raise ConstitutionError(f"{error}{_line(draft.text, str(error))}") from None
    place = max(0, min(draft.place, len(read.cards) - 1))
    return replace(draft, name=read.name, about=read.about, cards=read.cards, open=read.cards[place].id, text=None)


def _line(text: str, error: str) -> str:
    """The words at the line that an error names: nobody counts to line 87. YAML often sees an error a line late."""
    found, lines = re.search(r"line (\d+)", error), text.splitlines()
    said = [line.strip() for line in lines[: int(found[1])] if line.strip()] if found else []
    return f' It stands at: "{said[-1][:80]}"' if said else ""


def dropped_text(draft: Draft) -> Draft:
    """The YAML of the cards again, in the place of one that was typed."""
    return in_text(replace(draft, text=None))


def newest() -> list[Version]:
    """The newest version of every constitution that can be read: a damaged file is no reason to show none."""
    return [version for name in constitutions.names() if (version := constitutions.newest(name))]


# ---- in words


def counted(number: int) -> str:
    """1 principle, 2 principles."""
    return f"{number} principle{'' if number == 1 else 's'}"


def card_choices(draft: Draft) -> list[tuple[str, str]]:
    """(number, title and what is special, id) of every card."""
    before = set(draft.origin.principles) if draft.origin else None
    choices = []
    for number, card in enumerate(draft.cards, 1):
        words = [f"{number}. {card.title or '(no title yet)'}"]
        words += ["off"] if not card.enabled else [f"weight {card.weight:g}"] if card.weight != 1 else []
        words += ["edited"] if before is not None and card.principle not in before else []
        choices.append((" · ".join(words), card.id))
    return choices


def name_choices(desk: Desk) -> list[tuple[str, str]]:
    """Every constitution, with a mark where edits wait to be saved, and those that were never saved."""
    edited = {key.partition("@")[0] for key, draft in desk.drafts.items() if draft.changed}
    choices = [(f"{name} (unsaved edits)" if name in edited else name, name) for name in constitutions.names()]
    new = [(key, draft) for key, draft in desk.drafts.items() if key.startswith(NEW)]
    return choices + [(f"{draft.name or '(no name yet)'} (not saved yet)", key) for key, draft in new]


def version_choices(desk: Desk) -> list[tuple[str, str]]:
    """The versions of the constitution in view, the newest first."""
    if desk.current.startswith(NEW):
        return [("not saved yet", desk.current)]
    choices = []
    for version in reversed(constitutions.versions(desk.current.partition("@")[0])):
        draft = desk.drafts.get(version.reference)
        words = f"version {version.number}" + (", comes with the app" if version.preset else "")
        words += " (unsaved edits)" if draft and draft.changed else ""
        choices.append((words, version.reference))
    return choices if desk.current in dict(choices).values() else [("deleted meanwhile", desk.current), *choices]


def against_choices(desk: Desk) -> list[tuple[str, str]]:
    """What can be compared with: the version in view first, its other versions, the newest of every other name."""
    own = desk.current.partition("@")[0]
    found = sorted(constitutions.versions(own), key=lambda v: (v.reference != desk.current, -v.number))
    found += [version for version in newest() if version.name != own]
    return [(version.label, version.reference) for version in found]
