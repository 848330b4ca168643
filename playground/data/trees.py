"""Tables in which a conversation is a tree of rows: each row names the one that it answers.

OASST writes a message a row (`message_id`, `parent_id`, `role`, `text`, `rank`), H2O a question with its answer (`id`,
`parent_id`, `instruction`, `output`). Every tree becomes one record: the way from its root along the best answers.
"""

from playground.data.conversations import TREE, joined
from playground.data.records import RawRow
from playground.data.shapes import SYSTEMS, Record, RowError, first, is_blank, number_of

LOST = "no way leads from this row back to the beginning of a conversation"
PASSED = "another answer to the same message is followed"


def gathered(raw: list[RawRow]) -> list[RawRow]:
    """One record a tree, under the row number of its root; any other table as it is."""
    nodes = [item for item in raw if item.value and _is_node(item.value)]
    if all(is_blank((item.value or {})["parent_id"]) for item in nodes):
        return raw
    children: dict[str, list[RawRow]] = {}
    for item in nodes:
        children.setdefault(_parent(item), []).append(item)
    roots = children.pop("", [])
    reached = _reachable(roots, children)
    found = [item for item in raw if item.value is None or not _is_node(item.value)]
    followed: set[int] = set()
    found += [_path(root, children, followed) for root in roots]
    left = [item for item in nodes if item.row not in followed]
    found += [RawRow(item.row, None, PASSED if _id(item) in reached else LOST) for item in left]
    return sorted(found, key=lambda item: item.row)


def _is_node(record: Record) -> bool:
    """True for a message or an exchange with a place in a tree; pairs of answers have shapes of their own."""
    if "parent_id" not in record or not ("message_id" in record or "id" in record):
        return False
    return {"role", "text"} <= record.keys() or (
        {"instruction", "output"} <= record.keys() and not any(name.startswith("rejected") for name in record)
    )


def _id(item: RawRow) -> str:
    return str(first(item.value or {}, "message_id", "id"))


def _parent(item: RawRow) -> str:
    parent = (item.value or {})["parent_id"]
    return "" if is_blank(parent) else str(parent)


def _reachable(roots: list[RawRow], children: dict[str, list[RawRow]]) -> set[str]:
    """The names of the rows of whole trees; parents may be missing, or answer each other in a circle."""
    reached: set[str] = set()
    ahead = [_id(root) for root in roots]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += map(_id, children.get(name, []))
    return reached


def _path(root: RawRow, children: dict[str, list[RawRow]], followed: set[int]) -> RawRow:
    """From a root to a leaf, each time by the child of the best rank; children of one name are followed once."""
    turns: list[Record] = []
    item = root
    try:
        followed.add(item.row)
        turns += _turns(item)
        while answers := [child for child in children.pop(_id(item), []) if not (child.value or {}).get("deleted")]:
            item = min(answers, key=_rank)
            followed.add(item.row)
            turns += _turns(item)
    except RowError as error:
        return RawRow(root.row, None, str(error))
    system = first(root.value or {}, *SYSTEMS)
    return RawRow(root.row, {TREE: turns} | ({"system": system} if system else {}), None)


def _rank(item: RawRow) -> float:
    """0 is the best; what nobody ranked comes last."""
    rank = number_of((item.value or {}).get("rank"))
    return float("inf") if rank is None else rank


def _turns(item: RawRow) -> list[Record]:
    """What a row says: a message, or a question and its answer."""
    record = item.value or {}
    if {"role", "text"} <= record.keys():
        return [{"role": record["role"], "content": record["text"]}]
    return [{"human": joined(record, "instruction", "input"), "assistant": record["output"]}]
