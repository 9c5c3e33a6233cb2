"""What a comparison found: rows with mean and standard deviation over the seeds, as Markdown, JSON and a picture."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reg4rec.experiments.finding import Finding, markdown_table
from reg4rec.statistics import by_user, paired_interval
from reg4rec.storage import entries, new_header, read_header

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Row", "Spread", "Try", "beyond", "reference_among"]

Float64 = npt.NDArray[np.float64]

REFERENCE = "reg4rec"
"""The row that the others are held against, else the last one."""
SHOWN = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
"""Metrics of the Markdown table; the JSON file holds all."""
DRAWN = {"recall@10": "Recall@10", "ndcg@10": "NDCG@10"}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None for a single value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of one or more values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")


@dataclass(frozen=True)
class Row:
    """One method under one protocol; lists hold a value a seed, `epochs` those that are in the kept weights.

    `metrics`, their standard errors over users `errors`, `groups` and `lists` are those of `ReportRow`. `train_seconds`
    is the time in training loops, validation included; `users_per_second` that of ranking 50 items; `latency_ms` the
    median time of a call that ranks 10, by its number of users. `beyond` are the gains over the row `reg4rec` (else the
    last one), the mean over the seeds that both have (else the first of each) with the 95 % interval of a paired
    bootstrap over users.
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

    def spread(self, metric: str) -> Spread:
        """Mean and standard deviation of a metric over the seeds."""
        return Spread.of(self.metrics[metric])


@dataclass(frozen=True)
class Try:
    """Settings that were tried: the changes, and what they gave on all validation users under a protocol, one seed."""

    method: str
    protocol: str
    changes: dict[str, Any]
    validation: dict[str, float]
    epochs: int
    train_seconds: float


@dataclass(frozen=True)
class Comparison(Finding):
    """All rows, the card of each protocol, the settings of each method and the versions that ran them.

    `tries` lists every setting that was tried, `chosen` the changes that each method was fitted with in the end.
    """

    dataset: str
    rows: list[Row]
    cards: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    versions: dict[str, Any]
    fingerprint: str = ""
    tries: list[Try] = field(default_factory=list)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    FORMAT = "reg4rec-comparison", 3

    @classmethod
    def read(cls, folder: str | Path) -> "Comparison":
        """What `save` wrote; InputError for a folder without a comparison of this version."""
        found = entries(read_header(Path(folder) / "compare.json", *cls.FORMAT))
        rows = [Row(**{key: value for key, value in row.items() if key != "spread"}) for row in found.pop("rows")]
        return cls(**{**found, "rows": rows, "tries": [Try(**one) for one in found.pop("tries")]})

    @property
    def name(self) -> str:
        return "compare"

    def as_dict(self) -> dict[str, Any]:
        rows = [asdict(row) | {"spread": {m: asdict(row.spread(m)) for m in row.metrics}} for row in self.rows]
        return new_header(*self.FORMAT, **{**asdict(self), "rows": rows})

    def markdown(self) -> str:
        """A table for each protocol, readable on a console too, and what it was measured under."""
        parts = [f"# {self.dataset}: methods compared\n"]
        for protocol, card in self.cards.items():
            rows = [row for row in self.rows if row.protocol == protocol]
            parts += [f"## {protocol}\n", f"{_describe(card, rows)}\n", f"{_table(rows)}\n"]
            parts += [f"{_lists_table(rows, card)}\n"] if rows[0].lists else []
        if self.tries:
            parts += ["## Settings tried on validation\n", f"{_tries_table(self.tries)}\n"]
        reference = reference_among([row.method for row in self.rows])
        versions = ", ".join(f"{name} {value}" for name, value in self.versions.items())
        parts.append(
            f"Mean ± sample standard deviation over the seeds; gains over {reference} are means over the "
            f"seeds with 95 % intervals of a paired bootstrap over users. {versions}."
        )
        return "\n".join([*parts, *self.notes]) + "\n"

    def picture_size(self) -> tuple[float, float]:
        return 4.2 * len(DRAWN), 2.9 * len({row.protocol for row in self.rows})

    def draw(self, figure: "Figure") -> None:
        """A panel for each protocol and metric, and a bar for each method."""
        protocols = list(dict.fromkeys(row.protocol for row in self.rows))
        panels = figure.subplots(len(protocols), len(DRAWN), squeeze=False)
        for line, protocol in zip(panels, protocols, strict=True):
            for panel, metric in zip(line, DRAWN, strict=True):
                _draw_panel(panel, [row for row in self.rows if row.protocol == protocol], metric)
                panel.set_title(f"{DRAWN[metric]}, {protocol}", fontsize=10)
        figure.suptitle(f"{self.dataset} (mean and standard deviation over seeds)", fontsize=11)


def _describe(card: dict[str, Any], rows: list[Row]) -> str:
    cold = "dropped" if card["cold_targets_dropped"] else "counted"
    seeds = max((row.seeds for row in rows), key=lambda seeds: len(seeds))
    return (
        f"{card['split']} of a {card['held_back']['kind']} split, {card['users']:,} users, {card['items']:,} items, "
        f"{card['cold_targets']:,} cold targets {cold}, seen items {'removed' if card['filter_seen'] else 'kept'}, "
        f"trained on {rows[0].trained_on}, seeds {', '.join(map(str, seeds))}"
    )


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


def _table(rows: list[Row]) -> str:
    gain = f"Recall@10 over {reference_among([row.method for row in rows])} (95 %)"
    lines = [["method", *SHOWN, gain, "parameters", "epochs", "training s", "users/s", "ms for 1", "ms for 64"]]
    for row in rows:
        sizes = [f"{row.parameters:,}", f"{statistics.fmean(row.epochs):.3g}"]
        speeds = [f"{statistics.fmean(values):,.0f}" for values in (row.train_seconds, row.users_per_second)]
        speeds += [f"{statistics.fmean(values):.1f}" for values in row.latency_ms.values()]
        mean, low, high = row.beyond.get("recall@10", (0.0, 0.0, 0.0))
        gained = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" if row.beyond else ""
        lines.append([row.method, *(str(row.spread(metric)) for metric in SHOWN), gained, *sizes, *speeds])
    return markdown_table(lines)


def _lists_table(rows: list[Row], card: dict[str, Any]) -> str:
    """What the lists are like, and Recall@10 of the groups of targets."""
    measures = list(rows[0].lists)
    groups = [f"Recall@10 of {count:,} targets {name}" for name, count in card["groups"].items()]
    lines = [["method", "mrr@10", *measures, *groups]]
    for row in rows:
        values = [statistics.fmean(row.metrics["mrr@10"]), *(statistics.fmean(row.lists[name]) for name in measures)]
        values += [statistics.fmean(values["recall@10"]) for values in row.groups.values()]
        lines.append([row.method, *(f"{value:.4f}" if value < 10 else f"{value:.1f}" for value in values)])
    return markdown_table(lines)


def _tries_table(tries: list[Try]) -> str:
    lines = [["method", "recall@10", "ndcg@10", "epochs", "training s", "protocol", "settings"]]
    best = {one.method: max(t.validation["ndcg@10"] for t in tries if t.method == one.method) for one in tries}
    for one in tries:
        changes = ", ".join(f"{name} {value}" for name, value in one.changes.items()) or "as given"
        changes += " (the best)" if one.validation["ndcg@10"] == best[one.method] else ""
        quality = [f"{one.validation[name]:.4f}" for name in ("recall@10", "ndcg@10")]
        lines.append([one.method, *quality, str(one.epochs), f"{one.train_seconds:,.0f}", one.protocol, changes])
    return markdown_table(lines)


def _draw_panel(panel: "Axes", rows: list[Row], metric: str) -> None:
    spreads = [row.spread(metric) for row in rows]
    errors = [math.nan if spread.std is None else spread.std for spread in spreads]
    colors = [f"C{number}" for number in range(len(rows))]
    bars = panel.bar([row.method for row in rows], [s.mean for s in spreads], yerr=errors, capsize=3, color=colors)
    panel.bar_label(bars, [f"{s.mean:.4f}" for s in spreads], padding=2, fontsize=8)
    panel.margins(y=0.15)
    panel.spines[["top", "right"]].set_visible(False)
