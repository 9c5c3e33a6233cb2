"""Every example runs, one after the other, on a small shop."""

import runpy
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from reg4rec.data.shop import SyntheticShop
from reg4rec.recommend import Recommender

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_own_files_then_cold_start_then_batch(
    shop: SyntheticShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = shop.items.ids.to_pylist()
    clicks = [(u, ids[i], t) for u in range(120) for t, i in enumerate(shop.sequences[u])]
    pl.DataFrame(clicks, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "clicks.csv")
    titles = shop.items.table["title"].to_pylist()
    pl.DataFrame({"item_id": ids, "title": titles}).write_csv(tmp_path / "items.csv")

    example("own_files")(str(tmp_path / "clicks.csv"), str(tmp_path / "items.csv"), str(tmp_path / "run"), epochs=1)
    assert "popularity" in capsys.readouterr().err
    folder = str(tmp_path / "run" / "recommender")

    example("cold_start")(folder)
    shown = capsys.readouterr().out
    assert "nothing yet" in shown
    assert "can be recommended at once" in shown
    assert shown.count("│ new ") >= 3

    users = {"user_id": ["a", "b"], "items": [[ids[0]], []]}
    pl.DataFrame(users, schema_overrides={"items": pl.List(pl.String)}).write_parquet(tmp_path / "users.parquet")
    example("batch")(folder, str(tmp_path / "users.parquet"), str(tmp_path / "out"), k=4)
    table = pl.read_parquet(tmp_path / "out" / "part-*.parquet")
    assert table["user_id"].to_list() == ["a"] * 4 + ["b"] * 4


class SparkTable:
    """The part of Spark's DataFrame that the example uses: one batch, through `mapInArrow`."""

    def __init__(self, table: pa.Table):
        self.table = table

    def select(self, *names: str) -> "SparkTable":
        return SparkTable(self.table.select(list(names)))

    def mapInArrow(self, function: Any, schema: str) -> tuple[pa.Table, str]:
        return pa.Table.from_batches(function(iter(self.table.to_batches()))), schema


def test_spark_gets_batches_of_the_declared_schema(exact: Recommender, tmp_path: Path) -> None:
    exact.save_pretrained(tmp_path)
    table = pa.table({"items": [["item1", "item2"], []], "user_id": ["a", "b"], "age": [1, 2]})
    found, schema = example("spark")(SparkTable(table), str(tmp_path), k=4)
    names = {"string": pa.string(), "int": pa.int32(), "float": pa.float32()}
    assert found.schema == pa.schema([(name, names[kind]) for name, kind in map(str.split, schema.split(", "))])
    expected = exact.recommend({"a": ["item1", "item2"], "b": []}, k=4)
    assert found.drop_columns("score").equals(expected.select(["user_id", "rank", "item_id"]))


def test_a_shop_gets_more_from_its_exports_than_item_knn_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recall = example("shop")(str(tmp_path / "shop"), num_users=700, num_items=200)
    shown = capsys.readouterr().out
    assert recall["reg4rec"] > recall["item-knn"] > 0.3
    assert "rows_without_ids {" in shown
    assert "1,000 recommendations: " in shown
