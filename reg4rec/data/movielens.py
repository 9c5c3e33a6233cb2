"""MovieLens from its original files: 100K (also as RecBole atomic files), 1M, 10M, 20M, 25M, 32M, latest."""

import csv
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from reg4rec.data.dataset import Dataset
from reg4rec.data.interactions import assemble
from reg4rec.data.lines import BadLines, read_text
from reg4rec.errors import InputError

__all__ = ["is_ml_100k_folder", "is_movielens_folder", "read_ml_100k", "read_movielens"]

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
LAYOUTS = (("u.data", "u.item"), ("ml-100k.inter", "ml-100k.item"))
LARGER = (("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"))
NO_GENRE = "(no genres listed)"

Movie = tuple[int, str, list[str]]
"""id, title with year, genres"""


def is_ml_100k_folder(folder: Path) -> bool:
    """Whether `read_ml_100k` can read `folder`."""
    return _layout(folder, LAYOUTS) is not None


def is_movielens_folder(folder: Path) -> bool:
    """Whether `folder` has a larger MovieLens: `ratings.dat` and `movies.dat`, or `ratings.csv` and `movies.csv`."""
    return _layout(folder, LARGER) is not None


def read_ml_100k(folder: Path, min_interactions: int = 1) -> Dataset:
    """All 100,000 ratings as interactions of 943 users with 1,682 movies, sorted by time, ties in file order.

    An item has its `title` (with the year), `release_year`, all `genres`, and the first genre as its category.
    """
    log_name, item_name = _layout(folder, LAYOUTS) or LAYOUTS[0]
    official = log_name == LAYOUTS[0][0]
    log = _read_log(folder / log_name, skip=0 if official else 1)
    try:
        movies = _official_movies(folder / item_name) if official else _atomic_movies(folder / item_name)
    except (ValueError, csv.Error):
        raise InputError(f"{folder / item_name} is not the item file of MovieLens-100K; fetch it again") from None
    return _build("ml-100k", log, movies, min_interactions, "MovieLens-100K")


def read_movielens(folder: Path, min_interactions: int = 1) -> Dataset:
    """All ratings of a larger MovieLens as interactions, items as in `read_ml_100k`; the name is the folder's."""
    log_name, item_name = _layout(folder, LARGER) or LARGER[0]
    if log_name.endswith(".dat"):
        log, movies = _read_dat_log(folder / log_name), _dat_movies(folder / item_name)
    else:
        log, movies = _read_csv_log(folder / log_name), _csv_movies(folder / item_name)
    return _build(folder.name, log, movies, min_interactions, f"MovieLens, {log_name} and {item_name}")


def _layout(folder: Path, layouts: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    return next((names for names in layouts if all((folder / name).is_file() for name in names)), None)


def _build(name: str, log: Any, movies: list[Movie], min_interactions: int, source: str) -> Dataset:
    import polars as pl

    columns = ("item_id", "title", "categories", "release_year", "genres")
    kinds = (pl.Int64, pl.String, pl.List(pl.String), pl.Int64, pl.List(pl.String))
    described = pl.DataFrame(
        [_describe(*movie) for movie in movies], schema=dict(zip(columns, kinds, strict=True)), orient="row"
    )
    repeated = described.filter(described["item_id"].is_duplicated())
    if len(repeated):
        raise InputError(f"the item file of {name} lists movie {repeated['item_id'][0]} more than once")
    return assemble(name, pl.DataFrame(log), described, min_interactions, {}, {"source": source}, BadLines())


def _describe(number: int, title: str, genres: list[str]) -> tuple[Any, ...]:
    year = re.search(r"\((\d{4})(?:[-\u2013]\s?\d*)?\)\s*$", title)  # the first year of a series
    return number, title, genres[:1], int(year.group(1)) if year else None, genres


def _read_log(path: Path, skip: int) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {"user_id": [], "item_id": [], "timestamp": []}
    for number, line in enumerate(_lines(path, "utf-8")[skip:], start=skip + 1):
        try:
            user, item, _, time = line.split("\t")
            values = int(user), int(item), int(float(time))
            if not all(abs(value) < 1 << 63 for value in values):
                raise ValueError
        except (ValueError, OverflowError):
            raise InputError(f"{path} line {number} is not `user item rating timestamp` separated by tabs") from None
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return columns


def _lines(path: Path, *encodings: str) -> list[str]:
    """The lines in the first encoding that fits, split as bytes because str.splitlines splits at latin-1 controls."""
    lines = read_text(path).splitlines()
    for encoding in encodings[:-1]:
        with suppress(UnicodeDecodeError):
            return [line.decode(encoding) for line in lines]
    try:
        return [line.decode(encodings[-1]) for line in lines]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not {encodings[-1]} text ({error}); fetch it again") from None


def _official_movies(path: Path) -> list[Movie]:
    """The movies in lines `id|title (year)|date|date|url|19 genre flags`."""
    movies = []
    for line in _lines(path, "latin-1"):
        number, title, *_ = fields = line.split("|")
        genres = [genre for genre, flag in zip(GENRES, fields[5:], strict=True) if flag == "1"]
        movies.append((_whole(number), title.removesuffix(" (V)"), genres))
    return movies


def _atomic_movies(path: Path) -> list[Movie]:
    """The movies in tab-separated lines `item_id, movie_title, release_year, class`."""
    movies = []
    for number, title, year, genres in list(_rows(path, "\t", csv.QUOTE_NONE))[1:]:
        shown = f"{title} ({year})" if year.isdigit() else title.replace("unkonwn", "unknown")
        movies.append((_whole(number), shown, genres.split()))
    return movies


def _rows(path: Path, delimiter: str, quoting: Any) -> Any:
    return csv.reader(_lines(path, "utf-8"), delimiter=delimiter, quoting=quoting)


def _whole(number: str) -> int:
    value = int(number)
    if abs(value) >= 1 << 63:
        raise ValueError(number)
    return value


def _read_dat_log(path: Path) -> Any:
    """The ratings in lines `user::movie::rating::timestamp`."""
    content = read_text(path)
    lines = content.splitlines()
    wrong = next((n for n, line in enumerate(lines, 1) if line.count(b"::") != 3 or b"," in line), None)
    if wrong is not None:
        raise InputError(f"{path} line {wrong} is not `user::movie::rating::timestamp`")
    return _numbers(path, b"userId,movieId,rating,timestamp\n" + content.replace(b"::", b","))


def _read_csv_log(path: Path) -> Any:
    return _numbers(path, read_text(path))


def _numbers(path: Path, content: bytes) -> Any:
    import polars as pl

    from reg4rec.data.tables import UNREADABLE

    names = {"userId": "user_id", "movieId": "item_id", "timestamp": "timestamp"}
    kinds = {"userId": pl.Int64, "movieId": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
    try:
        table = pl.read_csv(content, schema=kinds, columns=list(names)).rename(names)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a ratings file of MovieLens: {str(error).splitlines()[0]}") from None
    empty = sum(table[name].null_count() for name in table.columns)
    if empty or not len(table):
        raise InputError(f"{path} has {len(table)} ratings with {empty} empty fields; fetch it again")
    return table


def _dat_movies(path: Path) -> list[Movie]:
    """The movies in lines `movie::title (year)::genre|genre`; 1M is latin-1, 10M UTF-8."""
    lines = _lines(path, "utf-8", "latin-1")
    rows = [(line.split("::", 1)[0], *line.split("::", 1)[-1].rsplit("::", 1)) for line in lines]
    return _titled(path, rows)


def _csv_movies(path: Path) -> list[Movie]:
    """The movies in rows `movieId,title,genres`."""
    try:
        return _titled(path, [tuple(row) for row in _rows(path, ",", csv.QUOTE_MINIMAL)][1:])
    except csv.Error as error:
        raise InputError(f"{path} is not an item file of MovieLens: {error}") from None


def _titled(path: Path, rows: list[tuple[str, ...]]) -> list[Movie]:
    movies = []
    for row in rows:
        try:
            number, title, genres = row
            movies.append((_whole(number), title, [] if genres == NO_GENRE else genres.split("|")))
        except ValueError:
            raise InputError(f"{path} has {row!r} where movie, title and genres were expected") from None
    return movies
