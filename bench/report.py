"""What results say: how our rows compare with eager PyTorch and rivals, and which are slower than the kept ones."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    *("EAGER", "Groups", "Record", "Rows", "grouped", "largest", "load", "median", "newest"),
    *("ratio", "rows_of", "slower_rows", "standing"),
]

Record = dict[str, Any]
Groups = dict[str, dict[str, Record]]
"""group `<op>/<size>/<device>` -> backend -> what pytest-benchmark kept of it"""

OURS = ("exact", "paths", "score_topk", "cuda graph", "cuda", "triton", "cpp", "fp32", "bf16", "ladq")
EAGER = ("eager", "plain", "torch float32")
"""The names of plain PyTorch; a group has at most one of them."""
OUR_PARTS = ("cpp bfloat16", "layers alone", "token scores of all items", "encoder, weights", "decoder, weights")
"""How the names of our rows begin that do a part of the work, or compute in less than float32."""
NOISE = 1.15


class Rows(NamedTuple):
    """The rows of a group that are compared: names of backends, None for one that the group lacks."""

    ours: str | None
    eager: str | None
    rival: str | None


def newest(folder: Path) -> Path | None:
    """The file of a machine's last run; None if no run is kept."""
    return max(folder.glob("*.json"), default=None)


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def grouped(records: Iterable[Record]) -> Groups:
    groups: Groups = defaultdict(dict)
    for record in records:
        groups[record["group"]][record["extra_info"]["backend"]] = record
    return dict(groups)


def median(group: dict[str, Record], backend: str) -> float:
    """Seconds."""
    return float(group[backend]["stats"]["median"])


def rows_of(group: dict[str, Record]) -> Rows:
    """Our fastest row, eager PyTorch's, and the fastest of what a user would run without reg4rec, by medians."""

    def fastest(backends: Iterable[str]) -> str | None:
        return min(backends, key=lambda backend: median(group, backend), default=None)

    return Rows(
        fastest(backend for backend in group if backend in OURS),
        next((name for name in EAGER if name in group), None),
        fastest(b for b in group if b not in OURS + EAGER and not b.startswith(OUR_PARTS)),
    )


def ratio(group: dict[str, Record], backend: str) -> float | None:
    """How many times faster than eager PyTorch, by medians."""
    eager = rows_of(group).eager
    return None if eager is None else median(group, eager) / median(group, backend)


def largest(groups: Groups) -> Groups:
    """Of each op the size at which eager PyTorch takes longest; ops without a row beside eager's are left out.

    Sizes along an axis (`rows=64`) count only where an op has no others.
    """
    ops: dict[str, dict[tuple[bool, float], str]] = defaultdict(dict)
    for name, group in groups.items():
        rows = rows_of(group)
        if rows.eager is not None and (rows.ours or rows.rival):
            ops[name.partition("/")[0]]["=" not in name, median(group, rows.eager)] = name
    return {name: groups[name] for sizes in ops.values() for name in [sizes[max(sizes)]]}


def standing(groups: Groups) -> Iterator[str]:
    """A line for each group in which a row of ours has others beside it: our best, and how many times faster it is."""
    for name, group in groups.items():
        best, _, rival = rows_of(group)
        if best is None or all(backend in OURS for backend in group):
            continue
        line = f"{name}: {best} {_milliseconds(median(group, best))}"
        if (times := ratio(group, best)) is not None:
            line += f", {times:.2f} times as fast as eager PyTorch"
        if rival is not None:
            line += f", {median(group, rival) / median(group, best):.2f} times as fast as {rival}"
        yield line


def slower_rows(groups: Groups, kept: dict[str, Any], name: str) -> Iterator[str]:
    """Rows whose least time exceeds the kept one by more than noise, or a sentence that says why none was compared."""
    pairs = [
        (f"{group}: {backend}", record, before)
        for group, backends in grouped(kept["benchmarks"]).items()
        for backend, before in backends.items()
        if (record := groups.get(group, {}).get(backend)) is not None and _measured(record) == _measured(before)
    ]
    if not pairs:
        yield f"No row of this run is in {name} with the same timer and number of threads: nothing was compared."
        return
    slower = [(row, now, before) for row, now, before in pairs if _least(now) > NOISE * _least(before)]
    found = f"{len(slower)} of the" if slower else "None of the"
    yield f"{found} {len(pairs)} rows that {name} holds too became slower by more than {NOISE - 1:.0%} (least times)."
    for row, now, before in sorted(slower, key=lambda found: _least(found[2]) / _least(found[1])):
        times = _least(now) / _least(before)
        yield f"  {row}: {_milliseconds(_least(now))}, was {_milliseconds(_least(before))}, {times:.2f} times as long"


def _measured(record: Record) -> tuple[Any, ...]:
    return record["extra_info"]["threads"], record["extra_info"]["timer"]


def _least(record: Record) -> float:
    return float(record["stats"]["min"])


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
