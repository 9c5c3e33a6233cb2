"""Warnings and hints about data that was read: what was left out, suspicious, or unused."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

__all__ = [
    "KNOWN",
    "card_warnings",
    "event_hints",
    "flat_path_hints",
    "left_out",
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
"""For each role: common names of the column with that description of an item."""

EVENTS = ("event", "event_type", "event_name", "action", "action_type", "behavior", "behavior_type", "behaviour")
FEW_TARGETS = 30
"""Fewer validation targets of the heaviest kind than this give a warning."""
DIVIDERS = ("/", ", ")


def unused_columns(where: Any, columns: Sequence[str], roles: Sequence[str]) -> list[str]:
    """A hint for each role that an unused column could have by its name."""
    found = [(role, name) for role in roles for name in KNOWN[role] if name in columns]
    first = dict(reversed(found))
    return [
        f"{where} has an unused column {name}; --{role} {name} ({role}={name!r}) reads it as {role}"
        for role, name in first.items()
    ]


def new_item_hints(columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """A hint for each role that new items lack but a column could have by its name, unless the catalog has it too."""
    found = {role: [name for name in KNOWN[role] if name in columns] for role in KNOWN if role not in columns}
    return [
        f"the new items have a column {names[0]}, which is not used; if it is their {role}, rename it to {role}"
        for role, names in found.items()
        if names and names[0] not in known
    ]


def event_hints(where: Any, columns: Sequence[str]) -> list[str]:
    """A hint for each column that looks like kinds of events."""
    return [
        f"{where} has a column {name}, but all rows count the same; --event {name} (event={name!r}) with "
        "--events KIND=WEIGHT ... (events={KIND: WEIGHT}) gives each kind of event its weight"
        for name in columns
        if name.lower() in EVENTS
    ]


def flat_path_hints(where: Any, paths: pa.Array) -> list[str]:
    """A hint if most categories are one name that looks like a path."""
    known = [path for path in paths.to_pylist() if path]
    if any(len(path) > 1 for path in known):
        return []
    names = [path[0] for path in known]
    return [
        f"most categories of {where} contain {mark!r} but are read as one name, such as {names[0]!r}; if they are "
        "paths, write ' > ' between the levels"
        for mark in DIVIDERS
        if 2 * sum(mark in name for name in names) > len(names)
    ]


def matrix_hints(names: Sequence[str]) -> list[str]:
    """A hint that a tokenizer uses the dataset's matrices only on request."""
    if not names:
        return []
    listed = ", ".join(names)
    return [
        f"the tokenizer uses matrix {listed} only on request: `reg4rec tokenize --matrices {' '.join(names)}` "
        f"(ViewConfig(matrices={tuple(names)!r}))"
    ]


def left_out(malformed: int, examples: Sequence[str], nameless: Mapping[str, int]) -> list[str]:
    """A sentence about unreadable lines and one about rows without an id, if any were left out."""
    sentences = [f"{malformed} malformed lines left out: {'; '.join(examples)}"] if malformed else []
    if nameless:
        counts = ", ".join(f"{count:,} without {name}" for name, count in nameless.items())
        counts = counts.replace("without items file", "of the items file without an id")
        sentences.append(f"rows left out because an id is missing (empty, nan, null or None): {counts}")
    return sentences


def card_warnings(card: Mapping[str, Any]) -> list[str]:
    """Warnings about a dataset, from its card, one sentence each."""
    malformed, nameless = card.get("malformed_lines", {"count": 0, "first": []}), card.get("rows_without_ids", {})
    sentences = left_out(malformed["count"], malformed["first"], nameless)
    if kinds := card.get("rows_of_other_kinds"):
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        sentences.append(f"rows left out because their kind has no weight in --events (events=): {counts}")
    return sentences + rare_kind(card) + ordered_ties(card) + untested(card["split"])


def rare_kind(card: Mapping[str, Any]) -> list[str]:
    """A warning if few validation targets are of the heaviest kind of event."""
    events = card.get("events")
    if not events or events["validation_targets"] >= FEW_TARGETS:
        return []
    kind = next(iter(events["weights"]))
    return [
        f"only {events['validation_targets']} validation targets are of kind {kind}, which has the largest weight and "
        "is the kind that validation measures, so its choices are random; add data, or give all kinds the same weight"
    ]


def ordered_ties(card: Mapping[str, Any]) -> list[str]:
    """A warning if interactions of equal time are sorted by id."""
    ties = card.get("tied_times", {})
    if not ties.get("in_order_of_ids"):
        return []
    return [
        f"{ties['share']:.0%} of consecutive interactions of a user have equal times, and their items are sorted by "
        "id, so a model can predict them from that order and metrics on this data mean little; give finer times, rows "
        "in their true order with time=None (--time None), or shuffle equal times (with_shuffled_ties, --ties shuffled)"
    ]


def untested(split: Mapping[str, Any]) -> list[str]:
    """A warning if the split leaves no test targets."""
    if split["test_targets"]:
        return []
    remedy = (
        "leave-one-out needs users with three or more interactions; join the sessions of a user, bring more data, or "
        "split by time (with_time_split, --split time), which needs two"
        if split["kind"] == "leave-one-out"
        else "no user has interactions both before and after the times of the split; choose other times"
    )
    return [f"no user can be validated or tested: {remedy}"]
