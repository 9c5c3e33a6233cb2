"""The rows of a comparison, mean and standard deviation over the seeds, and the tables and pictures of them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reg4rec.experiments.finding import Columns, Spread, Table
from reg4rec.statistics import by_user, paired_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Row", "Try", "beyond", "draw_rows", "reference_among", "tables"]

Float64 = npt.NDArray[np.float64]

REFERENCE = "reg4rec"
"""The row that the others are held against, else the last one."""
SHOWN = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
"""Metrics of the Markdown table; the JSON file holds all."""
DRAWN = {"recall@10": "Recall@10", "ndcg@10": "NDCG@10"}


@dataclass
class Row:
    """One method under one protocol; lists hold a value a seed, `epochs` those that are in the kept weights.

    `metrics`, their standard errors over users `errors`, `groups` and `lists` are those of `ReportRow`, `spread` mean
    and deviation of a metric over the seeds. `train_seconds` is the time in training loops, validation included, or in
    the whole fit of a method without one; `users_per_second` that of ranking 50 items; `latency_ms` the median time of
    a call that ranks 10, by its number of users. `beyond` are the gains over the row `reg4rec` (else the last one), the
    mean over the seeds that both have (else the first of each) with the 95 % interval of a paired bootstrap over users.
    """

    method: str
    protocol: str
    trained_on: str
    seeds: list[int]
    metrics: dict[str, list[float]]
    users_per_second: list[float]
    train_seconds: list[float]
    latency_ms: dict[str, list[float]]
    epochs: list[int]
    parameters: int
    errors: dict[str, list[float]] = field(default_factory=dict)
    lists: dict[str, list[float]] = field(default_factory=dict)
    groups: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    beyond: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    spread: dict[str, Spread] = field(init=False)

    def __post_init__(self) -> None:
        self.spread = {name: Spread.of(values) for name, values in self.metrics.items()}


@dataclass(frozen=True)
class Try:
    """Settings that were tried: the changes, and what they gave on all validation users under a protocol, one seed."""

    method: str
    protocol: str
    changes: dict[str, Any]
    validation: dict[str, float]
    epochs: int
    train_seconds: float


def reference_among(methods: Sequence[str]) -> str:
    """The method that the others are held against."""
    return REFERENCE if REFERENCE in methods else methods[-1]


def beyond(
    own: Mapping[int, Mapping[str, Float64]], other: Mapping[int, Mapping[str, Float64]], users_B: npt.NDArray[np.int32]
) -> dict[str, tuple[float, float, float]]:
    """Gains of a method over another, from what the targets of these users add to the metrics, by seed."""
    pairs = [(own[seed], other[seed]) for seed in own if seed in other] or [(own[min(own)], other[min(other)])]
    found = {}
    for name in DRAWN:
        sides = (np.mean([metrics[name] for metrics in side], axis=0) for side in zip(*pairs, strict=True))
        mine, theirs = (by_user(values_B, users_B) for values_B in sides)
        found[name] = paired_interval(mine, theirs)
    return found


def tables(
    rows: Sequence[Row], cards: Mapping[str, Mapping[str, Any]], tries: Sequence[Try], reference: str
) -> list[Table]:
    """For each protocol quality and cost, and what the lists are like; then the settings that were tried.

    `reference`: the method that the gains are over.
    """
    columns: Columns = {
        "method": "{row.method}",
        **{name: f"{{row.spread[{name}]}}" for name in SHOWN},
        f"Recall@10 over {reference} (95 %)": _gain,
        "parameters": "{row.parameters:,}",
        "epochs": lambda row: f"{statistics.fmean(row.epochs):.3g}",
        "training s": lambda row: f"{statistics.fmean(row.train_seconds):,.0f}",
        "users/s": lambda row: f"{statistics.fmean(row.users_per_second):,.0f}",
        **{f"ms for {n}": partial(_milliseconds, n) for n in rows[0].latency_ms},
    }
    made = list[Table]()
    for protocol, card in cards.items():
        own = [row for row in rows if row.protocol == protocol]
        made.append(Table(own, columns, protocol, _describe(card, own)))
        made += [_lists_table(own, card)] if own[0].lists else []
    return [*made, _tries_table(tries)] if tries else made


def _gain(row: Row) -> str:
    mean, low, high = row.beyond.get("recall@10", (0.0, 0.0, 0.0))
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" if row.beyond else ""


def _describe(card: Mapping[str, Any], rows: Sequence[Row]) -> str:
    cold = "dropped" if card["cold_targets_dropped"] else "counted"
    seeds = max((row.seeds for row in rows), key=lambda seeds: len(seeds))
    return (
        f"{card['split']} of a {card['held_back']['kind']} split, {card['users']:,} users, {card['items']:,} items, "
        f"{card['cold_targets']:,} cold targets {cold}, seen items {'removed' if card['filter_seen'] else 'kept'}, "
        f"trained on {rows[0].trained_on}, seeds {', '.join(map(str, seeds))}"
    )


def _milliseconds(users: str, row: Row) -> str:
    return f"{statistics.fmean(row.latency_ms[users]):.1f}"


def _lists_table(rows: Sequence[Row], card: Mapping[str, Any]) -> Table:
    """What the lists are like, and Recall@10 of the groups of targets."""
    lines = []
    for row in rows:
        values = {"mrr@10": row.metrics["mrr@10"], **row.lists}
        for name, count in card["groups"].items():
            values[f"Recall@10 of {count:,} targets {name}"] = row.groups[name]["recall@10"]
        means = {name: statistics.fmean(of_seeds) for name, of_seeds in values.items()}
        lines.append({"method": row.method} | {name: f"{v:.4f}" if v < 10 else f"{v:.1f}" for name, v in means.items()})
    return Table(lines, {name: f"{{row[{name}]}}" for name in lines[0]})


def _tries_table(tries: Sequence[Try]) -> Table:
    best = {one.method: max(t.validation["ndcg@10"] for t in tries if t.method == one.method) for one in tries}

    def changes(row: Try) -> str:
        mark = " (the best)" if row.validation["ndcg@10"] == best[row.method] else ""
        return (", ".join(f"{name} {value}" for name, value in row.changes.items()) or "as given") + mark

    columns: Columns = {
        "method": "{row.method}",
        "recall@10": "{row.validation[recall@10]:.4f}",
        "ndcg@10": "{row.validation[ndcg@10]:.4f}",
        "epochs": "{row.epochs}",
        "training s": "{row.train_seconds:,.0f}",
        "protocol": "{row.protocol}",
        "settings": changes,
    }
    return Table(tries, columns, "Settings tried on validation")


def draw_rows(figure: "Figure", rows: Sequence[Row]) -> None:
    """A panel for each protocol and metric, and a bar for each method."""
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    panels = figure.subplots(len(protocols), len(DRAWN), squeeze=False)
    for line, protocol in zip(panels, protocols, strict=True):
        own = [row for row in rows if row.protocol == protocol]
        colors = [f"C{number}" for number in range(len(own))]
        for panel, (metric, title) in zip(line, DRAWN.items(), strict=True):
            spreads = [row.spread[metric] for row in own]
            errors = [math.nan if s.std is None else s.std for s in spreads]
            bars = panel.bar(
                [row.method for row in own], [s.mean for s in spreads], yerr=errors, capsize=3, color=colors
            )
            panel.bar_label(bars, [f"{s.mean:.4f}" for s in spreads], padding=2, fontsize=8)
            panel.margins(y=0.15)
            panel.set_title(f"{title}, {protocol} (mean and deviation over seeds)")
