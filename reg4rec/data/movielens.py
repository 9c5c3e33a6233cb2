"""MovieLens-100K, from the files of its archive (`u.data`, `u.item`) or RecBole atomic files."""

import csv
import re
from pathlib import Path
from typing import Any

from reg4rec.data.dataset import Dataset
from reg4rec.data.interactions import assemble
from reg4rec.errors import InputError

__all__ = ["is_ml_100k_folder", "read_ml_100k"]

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
LAYOUTS = (("u.data", "u.item"), ("ml-100k.inter", "ml-100k.item"))


def is_ml_100k_folder(folder: Path) -> bool:
    """Whether `folder` holds MovieLens-100K in a layout that `read_ml_100k` reads."""
    return any(all((folder / name).is_file() for name in layout) for layout in LAYOUTS)


def read_ml_100k(folder: Path) -> Dataset:
    """All 100,000 ratings as interactions of 943 users with 1,682 movies, sorted by time, ties in file order.

    An item has its `title` with the year, as MovieLens shows it, `release_year`, all `genres`, and the first genre
    as its category.
    """
    import polars as pl

    official = (folder / LAYOUTS[0][0]).is_file()
    log_name, item_name = LAYOUTS[0 if official else 1]
    log = _read_log(folder / log_name, skip=0 if official else 1)
    try:
        movies = _official_movies(folder / item_name) if official else _atomic_movies(folder / item_name)
    except ValueError:
        raise InputError(f"{folder / item_name} is not the item file of MovieLens-100K; fetch it again") from None
    described = pl.DataFrame([_describe(*movie) for movie in movies])
    return assemble("ml-100k", pl.DataFrame(log), described, 1, {}, {"source": "MovieLens-100K"})


def _read_log(path: Path, skip: int) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {"user_id": [], "item_id": [], "timestamp": []}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[skip:], start=skip + 1):
        try:
            user, item, _, time = line.split("\t")
            values = int(user), int(item), int(float(time))
        except ValueError:
            raise InputError(f"{path} line {number} is not `user item rating timestamp` with tabs between") from None
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return columns


def _official_movies(path: Path) -> list[tuple[int, str, list[str]]]:
    """(id, title with year, genres) of every line `id|title (year)|date|date|url|19 genre flags`."""
    movies = []
    for line in path.read_text(encoding="latin-1").splitlines():
        number, title, *_ = fields = line.split("|")
        genres = [genre for genre, flag in zip(GENRES, fields[5:], strict=True) if flag == "1"]
        movies.append((int(number), title.removesuffix(" (V)"), genres))
    return movies


def _atomic_movies(path: Path) -> list[tuple[int, str, list[str]]]:
    """The same from `item_id, movie_title, release_year, class` with tabs between."""
    movies = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, title, year, genres in list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]:
            shown = f"{title} ({year})" if year.isdigit() else title.replace("unkonwn", "unknown")
            movies.append((int(number), shown, genres.split()))
    return movies


def _describe(number: int, title: str, genres: list[str]) -> dict[str, Any]:
    year = re.search(r"\((\d{4})\)$", title)
    return {
        "item_id": number,
        "title": title,
        "categories": genres[:1],
        "release_year": int(year.group(1)) if year else None,
        "genres": genres,
    }
