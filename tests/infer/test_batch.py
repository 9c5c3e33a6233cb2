"""Files of users in, a folder of Parquet parts out."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reg4rec.infer import Recommender
from reg4rec.infer.batch import read_users, recommend_to_folder
from tests.infer.lists import check_lists


def test_files_of_users_become_parts_of_a_folder(
    recommender: Recommender, histories: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"user_id": list(histories), "items": pa.array(list(histories.values()), pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "users.parquet")
    monkeypatch.setattr("reg4rec.infer.batch.USERS_IN_PART", 10)
    count = recommend_to_folder(recommender, read_users(tmp_path / "users.parquet"), tmp_path / "out", k=3)
    assert count == 31
    parts = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in parts] == [f"part-{n:05d}.parquet" for n in range(4)]
    found = pl.concat([pl.read_parquet(part) for part in parts])
    check_lists(found, histories, 3, set(recommender.items.ids.to_pylist()))


def test_users_without_ids_are_numbered_through_all_parts(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reg4rec.infer.batch.USERS_IN_PART", 2)
    pq.write_table(pa.table({"items": [["item0"], ["item1"], ["item2"]]}), tmp_path / "users.parquet")
    recommend_to_folder(recommender, read_users(tmp_path / "users.parquet"), tmp_path / "out", k=1)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet")["user_id"].to_list() == [0, 1, 2]
