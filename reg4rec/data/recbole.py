"""Folders of RecBole atomic files: `NAME.inter` and optionally `NAME.item`."""

from pathlib import Path

from reg4rec.data.dataset import Dataset
from reg4rec.data.hints import KNOWN
from reg4rec.data.interactions import read_interactions
from reg4rec.data.lines import first_line
from reg4rec.errors import InputError

__all__ = ["is_atomic_folder", "read_atomic"]


def is_atomic_folder(folder: Path) -> bool:
    """Whether `folder` has a file of interactions `*.inter`."""
    return any(folder.glob("*.inter"))


def read_atomic(folder: Path, min_interactions: int = 5) -> Dataset:
    """The dataset in a folder with one `*.inter` file; item columns are found by their names in RecBole's datasets.

    Without a column `timestamp` the rows must be oldest first.
    """
    files = sorted(folder.glob("*.inter"))
    if len(files) != 1:
        raise InputError(f"{folder} has {[file.name for file in files]}; keep one .inter file per folder")
    items = files[0].with_suffix(".item")
    options: dict[str, str | None] = {"time": "timestamp" if "timestamp" in _names(files[0]) else None}
    if items.is_file():
        present = _names(items)
        options |= {role: next((name for name in names if name in present), None) for role, names in KNOWN.items()}
    return read_interactions(
        files[0],
        items if items.is_file() else None,
        min_interactions=min_interactions,
        clicked_only=True,
        **options,  # type: ignore[arg-type]
    )


def _names(path: Path) -> list[str]:
    header = first_line(path).decode(errors="replace").strip()
    return [field.partition(":")[0] for field in header.split("\t")]
