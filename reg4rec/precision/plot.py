"""A plot of LADQ's choices: every layer's number format over the steps of a run."""

import importlib.util
from pathlib import Path

from reg4rec.precision.ladq import COARSER, read_ladq
from reg4rec.writing import atomic_file

__all__ = ["draw_formats"]

COLORS = {"fp32": "#b2182b", "bf16": "#f4a582", "fp8": "#4393c3"}


def draw_formats(run: str | Path, path: Path) -> str | None:
    """Write a PNG of a run folder's formats and return None; if that is impossible, return the reason."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed (pip install 'reg4rec[plots]')"
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    ladq = read_ladq(run)
    steps = [0, *(step for step, _ in ladq.history)]
    if not ladq.history:
        return "no step was sampled (a run of fewer steps than sample_every)"
    layers = list(ladq.history[-1][1])
    figure = Figure(figsize=(9, 1.6 + 0.2 * len(layers)), layout="constrained")
    panel = figure.subplots()
    codes = [[0, *(COARSER.index(rows[layer].format) for _, rows in ladq.history)] for layer in layers]
    ends = [*steps, 2 * steps[-1] - steps[-2]]
    panel.pcolormesh(
        ends, range(len(layers) + 1), codes, cmap=ListedColormap([COLORS[f] for f in COARSER]), vmin=0, vmax=2
    )
    panel.set_yticks([i + 0.5 for i in range(len(layers))], layers, fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel("step")
    for step in ladq.spikes:
        panel.axvline(step, color="black", linewidth=0.8, linestyle=":")
    figure.legend(
        handles=[Patch(color=COLORS[f], label=f) for f in COARSER], loc="outside upper right", ncols=3, frameon=False
    )
    figure.suptitle("Number formats that LADQ chose (dotted: spikes of the loss)", fontsize=11, x=0.3)
    with atomic_file(path) as fresh:
        figure.savefig(fresh, format="png", dpi=150)
    return None
