"""What a caller should know of data that was read: what was left out, what is wrong with it, what nothing uses."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

__all__ = [
    "KNOWN",
    "event_hints",
    "flat_path_hints",
    "left_out",
    "losses",
    "matrix_hints",
    "new_item_hints",
    "ordered_ties",
    "untested",
    "unused_columns",
]

KNOWN = {
    "title": ("title", "movie_title", "movie_name", "item_name", "product_title", "name"),
    "brand": ("brand", "store"),
    "categories": ("categories", "category", "genres", "genre", "class", "type"),
}
"""Names under which datasets have the columns that describe an item."""

EVENTS = ("event", "event_type", "event_name", "action", "action_type", "behavior", "behavior_type", "behaviour")
FEW_TARGETS = 30
"""A dataset with fewer targets of the heaviest kind says so."""
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
        f"{where} has a column {name}, but every row counts as an interaction alike; --event {name} (event={name!r}) "
        "with --events KIND=WEIGHT ... (events={KIND: WEIGHT}) says which kinds count, and how much"
        for name in columns
        if name.lower() in EVENTS
    ]


def flat_path_hints(where: Any, paths: pa.Array) -> list[str]:
    """A line where most categories are one name that looks like a path."""
    known = [path for path in paths.to_pylist() if path]
    if any(len(path) > 1 for path in known):
        return []
    names = [path[0] for path in known]
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


def left_out(malformed: int, examples: Sequence[str], nameless: Mapping[str, int]) -> list[str]:
    """A sentence each about lines that could not be read and rows without an id, which were left out."""
    sentences = [f"{malformed} malformed lines left out: {'; '.join(examples)}"] if malformed else []
    if nameless:
        counts = ", ".join(f"{count:,} without {name}" for name, count in nameless.items())
        counts = counts.replace("without items file", "of the items file without an id")
        sentences.append(f"rows left out because an id is missing (empty, nan, null or None): {counts}")
    return sentences


def losses(card: Mapping[str, Any]) -> list[str]:
    """What a reader of a dataset's card must know before using it, a sentence each."""
    malformed, nameless = card.get("malformed_lines", {"count": 0, "first": []}), card.get("rows_without_ids", {})
    sentences = left_out(malformed["count"], malformed["first"], nameless)
    if kinds := card.get("rows_of_other_kinds"):
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        sentences.append(f"rows left out because their kind has no weight in --events (events=): {counts}")
    return sentences + rare_kind(card) + ordered_ties(card) + untested(card["split"])


def rare_kind(card: Mapping[str, Any]) -> list[str]:
    """A sentence where hardly a validation target is of the kind of event that weighs most."""
    events = card.get("events")
    if not events or events["validation_targets"] >= FEW_TARGETS:
        return []
    kind = next(iter(events["weights"]))
    return [
        f"{events['validation_targets']} validation targets are of kind {kind}, which weighs most; validation asks for "
        "the heaviest kind that occurs, so its choices are chance. Bring more data, or give all kinds the same weight"
    ]


def ordered_ties(card: Mapping[str, Any]) -> list[str]:
    """A sentence where ids put equal times in order."""
    ties = card.get("tied_times", {})
    if not ties.get("in_order_of_ids"):
        return []
    return [
        f"{ties['share']:.0%} of a user's neighboring interactions have equal times, and their items are in the order "
        "of their ids; a rule that knows only this order predicts them, so figures on this data say little. Give finer "
        "times, rows in their true order with time=None (--time None), or shuffle equal times (with_shuffled_ties, "
        "--ties shuffled)"
    ]


def untested(split: Mapping[str, Any]) -> list[str]:
    """A sentence where the split of a dataset's card leaves no user to test."""
    if split["test_targets"]:
        return []
    remedy = (
        "leave-one-out needs users with three or more interactions; join the sessions of a user, bring more data, or "
        "split by time (with_time_split, --split time), which needs two"
        if split["kind"] == "leave-one-out"
        else "nobody has interactions before and after the moments of the split; choose other moments"
    )
    return [f"no user can be validated or tested: {remedy}"]
