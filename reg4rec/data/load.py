"""Datasets by name or folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reg4rec.data.amazon import find_release, read_amazon
from reg4rec.data.dataset import Dataset
from reg4rec.data.download import cache_folder, get_ml_100k
from reg4rec.data.interactions import read_interactions
from reg4rec.data.movielens import is_ml_100k_folder, is_movielens_folder, read_ml_100k, read_movielens
from reg4rec.data.prepared import is_prepared_folder, read_prepared
from reg4rec.data.recbole import is_atomic_folder, read_atomic
from reg4rec.errors import InputError
from reg4rec.forks import check_polars

__all__ = ["load_dataset"]

EXPECTED = (
    "dataset.json (written by Dataset.save); sequences.txt, optionally items.jsonl; u.data and u.item; ratings.dat "
    "and movies.dat; ratings.csv and movies.csv; *.inter; or Amazon's reviews with meta_*"
)


def load_dataset(name_or_folder: str | Path, min_interactions: int | None = None) -> Dataset:
    """The dataset with a name or in a folder, whose format is recognized by its files.

    Names: "ml-100k" (downloaded into $REG4REC_CACHE, else ~/.cache/reg4rec) and the names of folders in $REG4REC_DATA.
    Folders: written by `Dataset.save`, prepared sequences, MovieLens, RecBole atomic files, Amazon reviews as published
    in 2014, 2018 and 2023 (`docs/data.md` lists the files).

    `min_interactions` is the k of the k-core, by default 5 for Amazon and RecBole, 1 for MovieLens and sequences;
    InputError for a folder that is prepared already. InputError for anything else.
    """
    if str(name_or_folder) == "ml-100k":
        return read_ml_100k(get_ml_100k(cache_folder()), _or(min_interactions, 1))
    data = os.environ.get("REG4REC_DATA")
    places = [Path(name_or_folder)] + ([Path(data) / name_or_folder] if data else [])
    for folder in places:
        if folder.is_dir():
            return _read_folder(folder, min_interactions)
    if places[0].is_file():
        raise InputError(f"{places[0]} is a file; for tables use read_interactions or `reg4rec data prepare`")
    here = sorted(p.name for p in Path(data).iterdir() if p.is_dir()) if data and Path(data).is_dir() else []
    known = ", ".join(["ml-100k", *(name for name in here if name != "ml-100k")])
    raise InputError(
        f"there is no dataset or folder {str(name_or_folder)!r}; known names: {known}"
        + ("" if data else " (set REG4REC_DATA to a folder of datasets to add theirs)")
    )


def _read_folder(folder: Path, minimum: int | None) -> Dataset:
    if (folder / "dataset.json").is_file() or is_prepared_folder(folder):
        if minimum is not None:
            raise InputError(f"{folder} is prepared already; leave min_interactions out, it cannot be filtered again")
        return Dataset.load(folder) if (folder / "dataset.json").is_file() else read_prepared(folder)
    check_polars()
    readers: tuple[tuple[Callable[[Path], bool], Callable[[Path, int], Dataset], int], ...] = (
        (is_ml_100k_folder, read_ml_100k, 1),
        (is_movielens_folder, read_movielens, 1),
        (lambda folder: (folder / "sequences.txt").is_file(), _read_sequences_alone, 1),
        (is_atomic_folder, read_atomic, 5),
    )
    for recognizes, read, default in readers:
        if recognizes(folder):
            return read(folder, _or(minimum, default))
    release = find_release(folder)
    if release is not None:
        return read_amazon(release, _or(minimum, 5))
    found: list[Any] = sorted(path.name for path in folder.iterdir())[:10]
    raise InputError(
        f"{folder} is not a dataset: it contains {found or 'nothing'} where one of these was expected: {EXPECTED}; "
        "for your own tables use read_interactions"
    )


def _read_sequences_alone(folder: Path, min_interactions: int) -> Dataset:
    return read_interactions(folder / "sequences.txt", name=folder.name, min_interactions=min_interactions)


def _or(chosen: int | None, default: int) -> int:
    return default if chosen is None else chosen
