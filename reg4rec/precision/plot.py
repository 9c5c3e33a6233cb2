"""A plot of LADQ's choices: every layer's number format over the steps of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from reg4rec.pictures import save_picture
from reg4rec.precision.ladq import COARSER, read_ladq

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_formats"]

COLORS = {"fp32": "#b2182b", "bf16": "#f4a582", "fp8": "#4393c3"}


def draw_formats(run: str | Path, path: Path) -> str | None:
    """Write a PNG of a run folder's formats and return None; if that is impossible, return the reason."""
    ladq = read_ladq(run)
    if not ladq.history:
        return "no step was sampled (a run of fewer steps than sample_every)"
    steps = [0, *(step for step, _ in ladq.history)]
    layers = list(ladq.history[-1][1])

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        panel = figure.subplots()
        codes = [[0, *(COARSER.index(rows[layer].format) for _, rows in ladq.history)] for layer in layers]
        ends = [*steps, 2 * steps[-1] - steps[-2]]
        colors = ListedColormap([COLORS[f] for f in COARSER])
        panel.pcolormesh(ends, range(len(layers) + 1), codes, cmap=colors, vmin=0, vmax=2)
        panel.set_yticks([i + 0.5 for i in range(len(layers))], layers, fontsize=7)
        panel.invert_yaxis()
        panel.set_xlabel("step")
        for step in ladq.spikes:
            panel.axvline(step, color="black", linewidth=0.8, linestyle=":")
        patches = [Patch(color=COLORS[f], label=f) for f in COARSER]
        figure.legend(handles=patches, loc="outside upper right", ncols=3, frameon=False)
        figure.suptitle("Number formats that LADQ chose (dotted: spikes of the loss)", fontsize=11, x=0.3)

    return save_picture(path, 9, 1.6 + 0.2 * len(layers), draw)
