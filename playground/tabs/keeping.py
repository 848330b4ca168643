"""The browser's copy of what is not saved: what goes there, what of it can be read, and how a lost desk comes back.

Every draft has an entry of its own in the browser's storage, which the pages of one browser share: so none overwrites
what another has edited. Where two pages edited the same draft, both stay, the later one as a draft of its own.
"""

from dataclasses import asdict, replace
from typing import Any

from playground.data import constitutions
from playground.data.constitution import Constitution
from playground.tabs import drafts
from playground.tabs.drafts import NEW, YAML, Card, Desk, Draft

# A page that opens reads all entries. `known` says of each draft that this page has: the entry it lies in, the stamp
# that this page read or wrote there last, and the draft as JSON. Another stamp there is another page's writing.
LOOK = """() => {
  const PREFIX = "playground-draft ", VIEW = "playground-view";
  const fresh = () => Math.random().toString(16).slice(2, 10);
  const read = (name) => { try { return JSON.parse(localStorage.getItem(PREFIX + name)) || {}; } catch { return {}; } };
  const drafts = {}, stamps = {}, known = {};
  let current = null, opened = false;
  try {
    current = localStorage.getItem(VIEW);
    for (const entry of Object.keys(localStorage).filter((name) => name.startsWith(PREFIX))) {
      const name = entry.slice(PREFIX.length), {draft, stamp} = read(name);
      if (draft) [drafts[name], stamps[name]] = [draft, stamp];
    }
  } catch (error) { console.warn("The browser keeps no drafts:", error); }
  const write = (kept) => {
    localStorage.setItem(VIEW, kept.current);
    for (const key of Object.keys(known).filter((key) => !(key in kept.drafts))) {  // saved or dropped on this page
      const {name, stamp} = known[key];
      if (read(name).stamp === stamp) localStorage.removeItem(PREFIX + name);
      delete known[key];
    }
    for (const [key, draft] of Object.entries(kept.drafts)) {
      const text = JSON.stringify(draft), had = known[key] || {name: key};
      if (!opened && stamps[key]) { known[key] = {name: key, stamp: stamps[key], text}; continue; }  // as it was read
      if (had.text === text) continue;
      const there = read(had.name).stamp, stamp = fresh();
      const name = there && there !== had.stamp ? "*" + fresh() : had.name;
      localStorage.setItem(PREFIX + name, JSON.stringify({stamp, draft}));
      known[key] = {name, stamp, text};
    }
    opened = true;
  };
  window.playgroundKeep = (kept) => {
    try { write(kept); } catch (error) { console.warn("The browser could not keep a draft:", error); }
  };
  return [{current, drafts}];
}"""
KEEP = "(kept) => { window.playgroundKeep?.(kept); }"


def packed(desk: Desk) -> dict[str, Any]:
    """What the browser keeps: the key in view, the ids of its cards, and every draft that would be lost."""
    changed = {key: asdict(draft) for key, draft in desk.drafts.items() if draft.changed}
    return {"current": desk.current, "cards": [card.id for card in desk.draft.cards], "drafts": changed}


def unpacked(value: Any) -> Desk | None:
    """A desk from what the browser kept; None if it holds no draft that can be read. It may be anything at all."""
    found: dict[str, Draft] = {}
    given = value.get("drafts") if isinstance(value, dict) else None
    for key, draft in given.items() if isinstance(given, dict) else ():
        try:
            found[str(key)] = _draft(str(key), **draft)
        except (TypeError, ValueError, KeyError, AttributeError):
            continue  # one that can't be read is no reason to lose the others
    if not found:
        return None
    current = value.get("current")
    return Desk(current if current in found else next(iter(found)), found)


def recovered(kept: Any, holds: str) -> Desk | None:
    """The desk of a page that the server has forgotten, from what that page kept and what its form holds; None if that
    can't be known. A version in view that had no edits is opened anew, its cards under the ids that the page knows."""
    key, _, card = holds.partition(" ")
    if not key or not isinstance(kept, dict) or kept.get("current") != key:
        return None
    found = unpacked(kept) or Desk(key)
    if key not in found.drafts:
        try:
            version = constitutions.find(key)
            draft = drafts.opened(version.constitution, version.reference)
            pairs = zip(draft.cards, kept["cards"], strict=True)
            draft = replace(draft, cards=tuple(replace(card, id=str(its)) for card, its in pairs))
        except (ValueError, KeyError, TypeError):  # deleted meanwhile, or never as the page says
            return None
        draft = drafts.in_text(draft) if card == YAML else replace(draft, open=card)
        found = Desk(key, {**found.drafts, key: draft})
    return replace(found, current=key)


def _draft(key: str, **given: Any) -> Draft:
    if given["text"] is not None and not isinstance(given["text"], str):
        raise TypeError("not a text")
    texts = {name: str(given[name]) for name in ("name", "about", "base", "open")}
    origin = given["origin"] and Constitution(
        str(given["origin"]["name"]),
        str(given["origin"]["about"]),
        tuple(_card(id="", **principle).principle for principle in given["origin"]["principles"]),
    )
    if key.startswith(NEW):  # one that a second page edited, too, is a draft of its own
        origin, texts["base"] = None, ""
    removed = tuple((int(place), _card(**card)) for place, card in given["removed"])
    cards = tuple(_card(**card) for card in given["cards"])
    return Draft(**texts, origin=origin or None, cards=cards, removed=removed, text=given["text"])


def _card(**given: Any) -> Card:
    texts = {name: str(given[name]) for name in ("id", "title", "critique", "revision", "comparison")}
    return Card(**texts, weight=float(given["weight"]), enabled=bool(given["enabled"]))
