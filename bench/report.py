"""Reads results: compares our rows with eager PyTorch and rivals, and finds rows that became slower."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "EAGER",
    "Groups",
    "Record",
    "Standing",
    "grouped",
    "largest",
    "load",
    "median",
    "newest",
    "ratio",
    "sentences",
    "slower_rows",
]

Record = dict[str, Any]
Groups = dict[str, dict[str, Record]]
"""group `<op>/<size>/<device>` -> backend -> record of pytest-benchmark"""

OURS = ("exact", "paths", "score_topk", "cuda graph", "cuda", "triton", "cpp")
EAGER = ("eager", "plain", "torch float32")
"""Names of plain PyTorch; a group has at most one of them."""
OUR_PARTS = ("cpp bfloat16", "layers alone", "token scores of all items", "encoder, weights", "decoder, weights")
"""Prefixes of rows of ours that do only part of the work, or compute in less than float32."""
NOISE = 1.15


def newest(folder: Path) -> Path | None:
    """The file of a machine's last run; None if there is none."""
    return max(folder.glob("*.json"), default=None)


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def grouped(records: Iterable[Record]) -> Groups:
    groups: Groups = defaultdict(dict)
    for record in records:
        groups[record["group"]][record["extra_info"]["backend"]] = record
    return dict(groups)


def ratio(group: dict[str, Record], backend: str) -> float | None:
    """How many times faster a backend is than eager PyTorch, by medians; None without an eager row."""
    eager = next((name for name in EAGER if name in group), None)
    return None if eager is None else _median(group[eager]) / _median(group[backend])


class Standing(NamedTuple):
    """Our best row of a group, and the best one of others; None where there is no other but eager PyTorch."""

    group: str
    best: str
    rival: str | None


def standing(groups: Groups) -> Iterator[Standing]:
    """Of every group with rows of ours and of others."""
    for name, group in groups.items():
        ours = [backend for backend in group if backend in OURS]
        rivals = [b for b in group if b not in OURS + EAGER and not b.startswith(OUR_PARTS)]
        if ours and len(group) > len(ours):
            best, rival = (min(some, key=lambda b: _median(group[b]), default=None) for some in (ours, rivals))
            assert best is not None
            yield Standing(name, best, rival)


def sentences(groups: Groups) -> Iterator[str]:
    """A line for every `standing`: our best row, and how many times faster it is."""
    for name, best, rival in standing(groups):
        group = groups[name]
        line = f"{name}: {best} {_milliseconds(_median(group[best]))}"
        if (times := ratio(group, best)) is not None:
            line += f", {times:.2f} times as fast as eager PyTorch"
        if rival is not None:
            line += f", {_median(group[rival]) / _median(group[best]):.2f} times as fast as {rival}"
        yield line


def largest(groups: Groups) -> list[Standing]:
    """One `standing` for each op: the one whose call takes our best row longest."""
    found: dict[str, Standing] = {}
    for one in standing(groups):
        op = one.group.partition("/")[0]
        if op not in found or median(groups, one) > median(groups, found[op]):
            found[op] = one
    return list(found.values())


def median(groups: Groups, one: Standing) -> float:
    """Seconds of our best row."""
    return _median(groups[one.group][one.best])


def slower_rows(groups: Groups, kept: dict[str, Any], name: str) -> Iterator[str]:
    """Lines that list rows whose least time is above the saved one by more than noise, or say why none was compared."""
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
    yield f"{found} {len(pairs)} rows that are also in {name} became slower by more than {NOISE - 1:.0%} (least times)."
    for row, now, before in sorted(slower, key=lambda found: _least(found[2]) / _least(found[1])):
        times = _least(now) / _least(before)
        yield f"  {row}: {_milliseconds(_least(now))}, was {_milliseconds(_least(before))}, {times:.2f} times as long"


def _measured(record: Record) -> tuple[Any, ...]:
    return record["extra_info"]["threads"], record["extra_info"]["timer"]


def _median(record: Record) -> float:
    return float(record["stats"]["median"])


def _least(record: Record) -> float:
    return float(record["stats"]["min"])


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
