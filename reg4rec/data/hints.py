"""What a file holds that nothing uses, said in one line each, with what would use it."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["KNOWN", "event_hints", "flat_path_hints", "matrix_hints", "new_item_hints", "unused_columns"]

KNOWN = {
    "title": ("title", "movie_title", "movie_name", "item_name", "product_title", "name"),
    "brand": ("brand", "store"),
    "categories": ("categories", "category", "genres", "genre", "class", "type"),
}
"""Names under which datasets have the columns that describe an item."""

EVENTS = ("event", "event_type", "event_name", "action", "action_type", "behavior", "behavior_type", "behaviour")
DIVIDERS = ("/", ", ")


def unused_columns(where: Any, columns: Sequence[str], roles: Sequence[str]) -> list[str]:
    """A line for each of the roles that one of the columns could have by its name."""
    found = [(role, name) for role in roles for name in KNOWN[role] if name in columns]
    first = dict(reversed(found))
    return [
        f"{where} has a column {name} that describes no item yet; --{role} {name} ({role}={name!r}) takes it as {role}"
        for role, name in first.items()
    ]


def new_item_hints(columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """A line for columns of new items that look like a role which they lack, unless the catalog has them too."""
    found = {role: [name for name in KNOWN[role] if name in columns] for role in KNOWN if role not in columns}
    return [
        f"the new items have a column {names[0]}, which is not used as {role}; rename it to {role} if it is that"
        for role, names in found.items()
        if names and names[0] not in known
    ]


def event_hints(where: Any, columns: Sequence[str]) -> list[str]:
    """A line for columns that tell kinds of events apart."""
    return [
        f"{where} has a column {name}, but every row counts as an interaction alike; leave rows of other kinds out of "
        "the file if they should not"
        for name in columns
        if name.lower() in EVENTS
    ]


def flat_path_hints(where: Any, paths: pa.Array) -> list[str]:
    """A line where most categories are one name that looks like a path."""
    names = [path[0] for path in paths.to_pylist() if path]
    if any(path is not None and len(path) > 1 for path in paths.to_pylist()):
        return []
    return [
        f"most categories of {where} hold {mark!r} and count as one name each, such as {names[0]!r}; write ' > ' "
        "between the levels if they are paths"
        for mark in DIVIDERS
        if 2 * sum(mark in name for name in names) > len(names)
    ]


def matrix_hints(names: Sequence[str]) -> list[str]:
    """A line about the matrices of a dataset, which a tokenizer uses on demand only."""
    if not names:
        return []
    listed = ", ".join(names)
    return [
        f"tokens use the matrix {listed} only if asked to: `reg4rec tokenize --matrices {' '.join(names)}` "
        f"(ViewConfig(matrices={tuple(names)!r}))"
    ]
