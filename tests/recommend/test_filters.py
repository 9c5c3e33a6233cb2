"""Filters of a job from files, and its output formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from reg4rec.batch.job import recommend_to_folder
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender

ITEMS = [f"item{i}" for i in range(3, 40)]
GONE = [f"item{i}" for i in range(10, 20)]


@pytest.fixture
def users(histories: dict[str, list[str]], tmp_path: Path) -> Path:
    table = pl.DataFrame({"user_id": list(histories), "items": list(histories.values())})
    table.write_parquet(tmp_path / "users.parquet")
    return tmp_path / "users.parquet"


def write_txt(path: Path, ids: list[str]) -> Path:
    path.with_suffix(".txt").write_text("\n".join([*ids, "", "no such item"]))
    return path.with_suffix(".txt")


def write_csv(path: Path, ids: list[str]) -> Path:
    pl.DataFrame({"stock": [1] * len(ids), "item_id": ids}).write_csv(path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def write_parquet(path: Path, ids: list[str]) -> Path:
    pl.DataFrame({"item_id": ids}).write_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def rows_of(out: Path) -> list[dict[str, Any]]:
    return pl.concat([pl.read_parquet(part) for part in sorted(out.glob("part-*.parquet"))]).drop("score").to_dicts()


def expected(recommender: Recommender, histories: dict[str, list[str]], **filters: Any) -> list[dict[str, Any]]:
    """The recommendations of each user alone, in the form of a job's files."""
    found = []
    for user, items in histories.items():
        own = {name: lists.get(user, []) if isinstance(lists, dict) else lists for name, lists in filters.items()}
        found += recommender.recommend({user: items}, k=4, **own, to="polars").drop("score").to_dicts()
    return found


@pytest.mark.parametrize("write", [write_txt, write_csv, write_parquet])
def test_a_job_recommends_what_its_files_allow(
    recommender: Recommender,
    histories: dict[str, list[str]],
    users: Path,
    tmp_path: Path,
    write: Callable[[Path, list[str]], Path],
) -> None:
    exact = recommender.with_search(retriever="exact")
    files: dict[str, Any] = {"candidates": write(tmp_path / "stock", ITEMS), "exclude": write(tmp_path / "gone", GONE)}
    recommend_to_folder(exact, users, tmp_path / "out", k=4, users_in_part=10, **files)
    assert rows_of(tmp_path / "out") == expected(exact, histories, candidates=ITEMS, exclude=GONE)
    with pytest.raises(InputError, match=r"another job \(exclude differ\)"):
        recommend_to_folder(exact, users, tmp_path / "out", k=4, users_in_part=10, candidates=files["candidates"])
    more = write(tmp_path / "more", [*ITEMS, "item50"])
    with pytest.raises(InputError, match=r"another job \(candidates differ\)"):
        recommend_to_folder(exact, users, tmp_path / "out", k=4, users_in_part=10, **files | {"candidates": more})
    same = write(tmp_path / "same", ITEMS[::-1])
    again = recommend_to_folder(exact, users, tmp_path / "out", k=4, users_in_part=10, **files | {"candidates": same})
    assert again["parts"] == 4


@pytest.mark.parametrize("retriever", ["exact", "paths"])
def test_files_with_users_give_each_of_them_a_list(
    recommender: Recommender,
    histories: dict[str, list[str]],
    users: Path,
    tmp_path: Path,
    retriever: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reg4rec.recommend.recommender.MASKS_AT_ONCE", 3 * len(recommender.items))
    own = {user: [f"item{i}" for i in range(n, n + 12)] for n, user in enumerate(list(histories)[:20])}
    without = {user: [f"item{i}" for i in range(n + 6, n + 9)] for n, user in enumerate(list(histories)[5:25])}
    for name, lists in (("own", own), ("without", without)):
        rows = [(user, item) for user, items in lists.items() for item in [*items, "unknown"]]
        table = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").sample(fraction=1, shuffle=True, seed=1)
        table.write_csv(tmp_path / f"{name}.csv")
    chosen = recommender.with_search(retriever=retriever)
    filters: dict[str, Any] = {"candidates": tmp_path / "own.csv", "exclude": tmp_path / "without.csv"}
    summary = recommend_to_folder(chosen, users, tmp_path / "out", k=4, users_in_part=16, **filters)
    assert summary["users"] == 31
    assert rows_of(tmp_path / "out") == expected(chosen, histories, candidates=own, exclude=without)
    mixed: dict[str, Any] = {"candidates": write_txt(tmp_path / "stock", ITEMS), "exclude": tmp_path / "without.csv"}
    recommend_to_folder(chosen, users, tmp_path / "mixed", k=4, users_in_part=16, **mixed)
    assert rows_of(tmp_path / "mixed") == expected(chosen, histories, candidates=ITEMS, exclude=without)


def test_files_that_allow_nothing_are_refused(recommender: Recommender, users: Path, tmp_path: Path) -> None:
    for name, rows, said in (
        ("candidates", {"item_id": ["x", "y"]}, "lists no item of the catalog .*for example 'x'.*such as 'item0'"),
        ("candidates", {"item": ["item1"]}, "has no column item_id; it has item; "),
        ("exclude", {"sku": ["item1"]}, "has no column item_id; it has sku; "),
    ):
        pl.DataFrame(rows).write_csv(tmp_path / "list.csv")
        given: dict[str, Any] = {name: tmp_path / "list.csv"}
        with pytest.raises(InputError, match=said):
            recommend_to_folder(recommender, users, tmp_path / "out", **given)
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.txt"):
        recommend_to_folder(recommender, users, tmp_path / "out", candidates=tmp_path / "nowhere.txt")
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match=r"exclude \(.*gone.csv\) names 1 items, none of which is in the catalog"):
        recommend_to_folder(recommender, users, tmp_path / "out", exclude=write_csv(tmp_path / "gone", ["x"]))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_parts_are_of_the_kind_that_was_asked_for(
    recommender: Recommender, histories: dict[str, list[str]], users: Path, tmp_path: Path, kind: Any
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"k": 4, "format": kind, "titles": True, "users_in_part": 10}
    recommend_to_folder(recommender, users, out, **options)
    readers: dict[str, Any] = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}
    read = readers[kind]
    table = pl.concat([read(part) for part in sorted(out.glob(f"part-*.{kind}"))])
    assert table.columns == ["user_id", "rank", "item_id", "title", "score", "source"]
    assert list(dict.fromkeys(table["user_id"])) == list(histories)
    titles = dict(zip(*(recommender.items.table[name].to_pylist() for name in ("item_id", "title")), strict=True))
    assert all(titles[row["item_id"]] == row["title"] for row in table.to_dicts())
    before = {part.name: part.read_bytes() for part in out.glob("part-*")}
    (out / f"part-00001.{kind}").write_text("cut off")
    (out / "summary.json").unlink()
    again = recommend_to_folder(recommender, users, out, **options)
    assert again["parts_resumed"] == 3
    assert {part.name: part.read_bytes() for part in out.glob("part-*")} == before
    other = "csv" if kind == "parquet" else "parquet"
    recommend_to_folder(recommender, users, out, **options | {"format": other}, resume=False)
    assert {part.suffix for part in out.glob("part-*")} == {f".{other}"}


def test_forms_that_cannot_be_are_refused(recommender: Recommender, users: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format csv cannot contain paths; use jsonl or parquet"):
        recommend_to_folder(recommender, users, tmp_path / "out", format="csv", return_paths=True)
    with pytest.raises(InputError, match="format must be one of parquet, csv, jsonl, found 'xlsx'"):
        recommend_to_folder(recommender, users, tmp_path / "out", format="xlsx")
    with pytest.raises(InputError, match=r"recs.csv looks like a file name, but the output is a folder.*--format csv"):
        recommend_to_folder(recommender, users, tmp_path / "recs.csv")
    with pytest.raises(InputError, match="JobOptions has no setting filter_sen; its settings are k, filter_seen"):
        recommend_to_folder(recommender, users, tmp_path / "out", filter_sen=False)
    recommend_to_folder(recommender, users, tmp_path / "paths", k=2, format="jsonl", return_paths=True)
    row = json.loads((tmp_path / "paths" / "part-00000.jsonl").read_text().splitlines()[0])
    assert row["path"][0].keys() == {"token", "category", "confidence"}
