"""The picture of a comparison: a panel for each protocol and metric, a bar for each method."""

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

from reg4rec.storage import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from reg4rec.comparison.table import Row

__all__ = ["draw"]

DRAWN = {"recall@10": "Recall@10", "ndcg@10": "NDCG@10"}


def draw(rows: "list[Row]", title: str, path: Path) -> str | None:
    """Write a PNG; without matplotlib write nothing and return the reason."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed (pip install 'reg4rec[plots]')"
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys(row.protocol for row in rows))
    figure = Figure(figsize=(4.2 * len(DRAWN), 2.9 * len(protocols)), layout="constrained")
    panels = figure.subplots(len(protocols), len(DRAWN), squeeze=False)
    for line, protocol in zip(panels, protocols, strict=True):
        for panel, metric in zip(line, DRAWN, strict=True):
            _draw_panel(panel, [row for row in rows if row.protocol == protocol], metric)
            panel.set_title(f"{DRAWN[metric]}, {protocol}", fontsize=10)
    figure.suptitle(f"{title} (mean and standard deviation over seeds)", fontsize=11)
    with atomic_file(path) as fresh:
        figure.savefig(fresh, format="png", dpi=150)
    return None


def _draw_panel(panel: "Axes", rows: "list[Row]", metric: str) -> None:
    spreads = [row.spread(metric) for row in rows]
    errors = [math.nan if spread.std is None else spread.std for spread in spreads]
    colors = [f"C{number}" for number in range(len(rows))]
    bars = panel.bar([row.method for row in rows], [s.mean for s in spreads], yerr=errors, capsize=3, color=colors)
    panel.bar_label(bars, [f"{s.mean:.4f}" for s in spreads], padding=2, fontsize=8)
    panel.margins(y=0.15)
    panel.spines[["top", "right"]].set_visible(False)
