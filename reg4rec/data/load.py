"""One name or folder in, one dataset out."""

import os
from pathlib import Path

from reg4rec.data.amazon import is_amazon_folder, read_amazon
from reg4rec.data.dataset import Dataset
from reg4rec.data.download import cache_folder, get_ml_100k
from reg4rec.data.movielens import is_ml_100k_folder, read_ml_100k
from reg4rec.errors import InputError

__all__ = ["load_dataset"]


def load_dataset(name_or_folder: str | Path) -> Dataset:
    """The dataset of a name or a folder.

    Known are the name "ml-100k" (fetched into $REG4REC_CACHE, else ~/.cache/reg4rec), folders written by
    `Dataset.save`, prepared Amazon folders (`sequences.txt`, `items.jsonl`), MovieLens-100K folders, and the bare
    names of such folders under $REG4REC_DATA. Raises InputError for anything else.
    """
    if str(name_or_folder) == "ml-100k":
        return read_ml_100k(get_ml_100k(cache_folder()))
    data = os.environ.get("REG4REC_DATA")
    places = [Path(name_or_folder)] + ([Path(data) / name_or_folder] if data else [])
    for folder in places:
        if folder.is_dir():
            return _read_folder(folder)
    here = sorted(p.name for p in Path(data).iterdir() if p.is_dir()) if data and Path(data).is_dir() else []
    known = ", ".join(["ml-100k", *(name for name in here if name != "ml-100k")])
    raise InputError(
        f"there is no dataset or folder {str(name_or_folder)!r}; known names: {known}"
        + ("" if data else " (set REG4REC_DATA to a folder of datasets to know more)")
    )


def _read_folder(folder: Path) -> Dataset:
    if (folder / "dataset.json").is_file():
        return Dataset.load(folder)
    if is_amazon_folder(folder):
        return read_amazon(folder)
    if is_ml_100k_folder(folder):
        return read_ml_100k(folder)
    found = sorted(path.name for path in folder.iterdir())[:10]
    raise InputError(
        f"{folder} is no dataset: it holds {found or 'nothing'} where dataset.json, or sequences.txt and items.jsonl, "
        "or u.data and u.item were expected; use read_interactions for tables of your own"
    )
