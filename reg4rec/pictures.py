"""PNG pictures, drawn by matplotlib (an optional dependency)."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reg4rec.writing import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_picture"]


def new_figure(width: float, height: float) -> "Figure | None":
    """An empty figure (width, height in inches); None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_picture(path: Path, width: float, height: float, draw: Callable[["Figure"], object]) -> str | None:
    """Write what `draw` draws as a PNG and return None; without matplotlib, write nothing and return the reason."""
    if (figure := new_figure(width, height)) is None:
        return "matplotlib is not installed (pip install 'reg4rec[plots]')"
    draw(figure)
    with atomic_file(path) as fresh:
        figure.savefig(fresh, format="png", dpi=150)
    return None
