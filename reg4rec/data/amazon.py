"""Amazon reviews as published: the 2014, 2018 and 2023 releases, plain or gzipped, one product category per folder."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reg4rec.data.dataset import Dataset
from reg4rec.data.interactions import assemble
from reg4rec.data.lines import BadLines, file_kind, numbered_lines, parse_json, whole_characters
from reg4rec.errors import InputError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["find_release", "read_amazon"]

BLOCK = 200_000
"""number of reviews in memory as Python values"""


def parse_literal(line: bytes) -> Any:
    """The value of a JSON line, or of a Python literal as in the 2014 files; None for anything else."""
    value = parse_json(line)
    if value is None:
        try:
            value = whole_characters(ast.literal_eval(line.decode()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return value


@dataclass(frozen=True)
class Release:
    """File and field names of one release; `categories` returns the first category path of an item."""

    year: int
    reviews: str
    user: str
    item: str
    time: str
    brand: str
    parse: Callable[[bytes], Any]
    categories: Callable[[dict[str, Any]], Any]


def _first_path(meta: dict[str, Any]) -> Any:
    paths = meta.get("categories")
    return paths[0] if isinstance(paths, list) and paths else None


def _path_without_markup(meta: dict[str, Any]) -> Any:
    """The 2018 category path, cut before the first element that is HTML of the page."""
    path = meta.get("category")
    if not isinstance(path, list):
        return None
    markup = next((i for i, name in enumerate(path) if isinstance(name, str) and "</" in name), len(path))
    return path[:markup]


SMALL = r"(?P<name>.+?)"
RELEASES = (
    Release(2014, rf"reviews_{SMALL}(_5)?\.json", "reviewerID", "asin", "unixReviewTime", "brand", parse_literal,
            _first_path),
    Release(2018, rf"(?!meta_){SMALL}(_5)?\.json", "reviewerID", "asin", "unixReviewTime", "brand", parse_json,
            _path_without_markup),
    Release(2023, rf"(?!meta_){SMALL}\.(jsonl|csv)", "user_id", "parent_asin", "timestamp", "store", parse_json,
            lambda meta: meta.get("categories")),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The files of one release in a folder; `meta` is None if there is no item file."""

    release: Release
    name: str
    reviews: Path
    meta: Path | None


def find_release(folder: Path) -> Found | None:
    """The review file in `folder` with its `meta_*` file; None if there is none, InputError for several.

    Full 2018 and 2023 review files have plain names and are recognized only if their `meta_*` file is present.
    """
    files = {path.name.removesuffix(".gz"): path for path in sorted(folder.iterdir()) if path.is_file()}
    found = []
    for plain, path in files.items():
        for release in RELEASES:
            match = re.fullmatch(release.reviews, plain)
            if match is None:
                continue
            ending = ".jsonl" if release.year == 2023 else ".json"
            meta = files.get(f"meta_{match['name']}{ending}")
            if meta is not None or match[0].endswith("_5.json") or release.year == 2014:
                found.append(Found(release, match["name"], path, meta))
                break
    if len(found) > 1:
        names = ", ".join(one.reviews.name for one in found)
        raise InputError(f"{folder} holds several review files: {names}; keep one product category per folder")
    return found[0] if found else None


def read_amazon(found: Found, min_interactions: int = 5) -> Dataset:
    """Reviews as interactions; items get `title`, `brand` (2023: the store) and their first category path.

    Times are seconds (2023: milliseconds) since 1970. If an item is described twice, the first description counts.
    """
    bad = BadLines()
    log = _read_reviews(found, bad)
    described = None if found.meta is None else _read_meta(found, set(log["item_id"].unique().to_list()), bad)
    files = {"interactions": found.reviews.name, "items": found.meta and found.meta.name}
    source = {"release": f"Amazon reviews {found.release.year}"} | files
    return assemble(found.name, log, described, min_interactions, {}, {"source": source}, bad)


def _read_reviews(found: Found, bad: BadLines) -> pl.DataFrame:
    import polars as pl

    from reg4rec.data.tables import known_ids, read_log
    from reg4rec.data.values import as_ids

    release = found.release
    if file_kind(found.reviews) == ".csv":
        log = read_log(found.reviews, release.user, release.item, release.time, bad)
        return log.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    schema: dict[str, Any] = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    rows = _review_rows(found.reviews, release, bad)
    blocks = [pl.DataFrame(block, schema=schema, orient="row") for block in _blocks(rows)]
    if not blocks:
        raise InputError(f"{found.reviews} has no review with {release.user}, {release.item} and {release.time}")
    log = pl.concat(blocks)
    ids = {name: as_ids(found.reviews, log[name]) for name in ("user_id", "item_id")}
    return known_ids(log.with_columns(**ids), bad)


def _review_rows(path: Path, release: Release, bad: BadLines) -> Iterator[tuple[str, str, int]]:
    for number, line in numbered_lines(path):
        review = release.parse(line)
        if not isinstance(review, dict):
            bad.add(path, number, "is not a review")
            continue
        user, item, time = (review.get(name) for name in (release.user, release.item, release.time))
        if isinstance(user, str) and isinstance(item, str) and type(time) is int and abs(time) < 1 << 63:
            yield user, item, time
        else:
            bad.add(path, number, f"lacks {release.user}, {release.item} or {release.time}")


def _blocks(rows: Iterator[tuple[str, str, int]]) -> Iterator[list[tuple[str, str, int]]]:
    block: list[tuple[str, str, int]] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _read_meta(found: Found, wanted: set[str], bad: BadLines) -> pl.DataFrame:
    """The first description of each item in `wanted`."""
    import polars as pl

    release, rows = found.release, {}
    assert found.meta is not None
    for number, line in numbered_lines(found.meta):
        meta = release.parse(line)
        item = meta.get(release.item) if isinstance(meta, dict) else None
        if not isinstance(item, str):
            bad.add(found.meta, number, f"is not an item with {release.item}")
        elif item in wanted and item not in rows:
            path = release.categories(meta)
            names = [_text(name) for name in path] if isinstance(path, list) else []
            rows[item] = (item, _title(meta.get("title")), _brand(meta.get(release.brand)), [n for n in names if n])
    kinds: dict[str, Any] = {
        "item_id": pl.String,
        "title": pl.String,
        "brand": pl.String,
        "categories": pl.List(pl.String),
    }
    return pl.DataFrame(list(rows.values()), schema=kinds, orient="row")


def _title(value: Any) -> str | None:
    """A title; None for the scripts that some items of 2018 have instead."""
    title = _text(value)
    return None if title is not None and "getTime()" in title else title


def _brand(value: Any) -> str | None:
    """A brand without the "by" of the product page."""
    brand = _text(value)
    return brand and _text(re.sub(r"^by\s*\n", "", brand))


def _text(value: Any) -> str | None:
    """Text without HTML entities and surrounding space; None for empty text and anything else."""
    return (html.unescape(value).strip() or None) if isinstance(value, str) else None
