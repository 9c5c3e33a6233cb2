"""The sources of a job's users, and histories with items that the catalog does not know."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reg4rec.batch.job import recommend_to_folder
from reg4rec.batch.users import UserFiles
from reg4rec.data import Dataset
from reg4rec.data.shop import SyntheticShop
from reg4rec.data.sources import part_files
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender

SOME = 25


@pytest.fixture(scope="module")
def data(shop: SyntheticShop) -> Dataset:
    """Some users of the shop as a separate dataset."""
    return Dataset.build("some", shop.user_ids.slice(0, SOME), shop.sequences.take(range(SOME)), shop.items)


@pytest.fixture(scope="module")
def clicks(data: Dataset) -> pl.DataFrame:
    """The same with one row per click, shuffled."""
    ids, users = data.items.ids.to_pylist(), data.user_ids.to_pylist()
    rows = [(users[u], ids[i], t) for u in range(SOME) for t, i in enumerate(data.sequences[u])]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").sample(
        fraction=1, shuffle=True, seed=0
    )


def recommended(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in sorted(out.glob("part-*.parquet"))])


def write_histories(path: Path, lists: Sequence[Sequence[Any]]) -> Path:
    pq.write_table(pa.table({"items": lists}), path)
    return path


def test_a_dataset_and_its_clicks_give_what_its_histories_give(
    recommender: Recommender, data: Dataset, clicks: pl.DataFrame, tmp_path: Path
) -> None:
    ids = data.items.ids.to_pylist()
    histories = {user: [ids[i] for i in data.sequences[u]] for u, user in enumerate(data.user_ids.to_pylist())}
    expected = recommender.recommend(histories, k=3, to="polars")
    clicks.write_csv(tmp_path / "clicks.csv")
    clicks.write_parquet(tmp_path / "clicks.parquet")
    clicks.rename({"user_id": "who", "item_id": "what"}).write_csv(tmp_path / "named.tsv", separator="\t")
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((clicks[:40], clicks[40:])):
        part.write_parquet(tmp_path / "parts" / f"part-{number}.parquet")
    named: dict[str, Any] = {"user": "who", "item": "what"}
    sources: list[tuple[Any, dict[str, Any]]] = [(data, {}), (tmp_path / "parts", {}), (tmp_path / "named.tsv", named)]
    sources += [(tmp_path / "clicks.csv", {}), (tmp_path / "clicks.parquet", {})]
    for number, (source, options) in enumerate(sources):
        out = tmp_path / f"out-{number}"
        summary = recommend_to_folder(recommender, source, out, k=3, users_in_part=10, **options)
        assert (summary["users"], summary["parts"], summary["unknown_items"]) == (SOME, 3, 0)
        assert summary["history_items"] == len(data.sequences.items)
        found = recommended(out)
        assert sorted(set(found["user_id"])) == sorted(histories)
        both = found.join(expected, on=["user_id", "rank"])
        assert len(both.filter(pl.col("item_id") == pl.col("item_id_right"))) > 0.95 * len(expected)
    job = json.loads((tmp_path / "out-0" / "manifest.json").read_text())["job"]
    assert job["input"] == data.card["fingerprint"]
    assert recommend_to_folder(recommender, data, tmp_path / "out-0", k=3, users_in_part=10)["users"] == SOME
    with pytest.raises(InputError, match=r"another job \(input differ\)"):
        recommend_to_folder(recommender, tmp_path / "clicks.csv", tmp_path / "out-0", k=3, users_in_part=10)


def test_a_dataset_in_place_of_a_file_is_named(recommender: Recommender, data: Dataset, tmp_path: Path) -> None:
    data.save(tmp_path / "data")
    with pytest.raises(InputError, match=r"contains item rows, not ids; give the dataset, --data .*data "):
        recommend_to_folder(recommender, tmp_path / "data" / "sequences.parquet", tmp_path / "out")
    with pytest.raises(InputError, match="is a dataset; give it as --data"):
        recommend_to_folder(recommender, tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_histories_is_one_table(recommender: Recommender, data: Dataset, tmp_path: Path) -> None:
    ids = data.items.ids.to_pylist()
    lists = [[ids[i] for i in data.sequences[u]] for u in range(SOME)]
    table = pa.table({"user_id": data.user_ids, "items": lists})
    pq.write_table(table, tmp_path / "whole.parquet")
    (tmp_path / "parts").mkdir()
    for number, (first, last) in enumerate(((0, 7), (7, 7), (7, 18), (18, SOME))):
        part = table.slice(first, last - first)
        pq.write_table(
            part.select(["items", "user_id"] if number % 2 else ["user_id", "items"]),
            tmp_path / f"parts/{number}.parquet",
            row_group_size=3,
        )
    (tmp_path / "parts" / "_SUCCESS").touch()
    for name, source in (("one", "whole.parquet"), ("folder", "parts"), ("pattern", "parts/*.parquet")):
        summary = recommend_to_folder(recommender, tmp_path / source, tmp_path / name, k=3, users_in_part=10)
        assert (summary["users"], summary["parts"], summary["rejected"]) == (SOME, 3, 0)
        assert recommended(tmp_path / name).rows() == recommended(tmp_path / "one").rows()
    files = UserFiles(tmp_path / "parts", part_files(tmp_path / "parts"), recommender.items)
    assert [files.part(first, 10).users.to_pylist() for first in (0, 10, 20)] == [
        data.user_ids.to_pylist()[first : first + 10] for first in (0, 10, 20)
    ]
    write_histories(tmp_path / "parts" / "4.parquet", [[1]])
    with pytest.raises(
        InputError,
        match=r"4.parquet has items of .*, but .*0.parquet has user_id of .*; all files need the same columns",
    ):
        recommend_to_folder(recommender, tmp_path / "parts", tmp_path / "out")


def test_clicks_count_what_is_left_out_and_what_is_unknown(
    numbered: Recommender, recommender: Recommender, tmp_path: Path
) -> None:
    lines = [
        "user_id,item_id,timestamp",
        "a,1000,1",
        "a,1010,2",
        ",1020,3",
        "b,1020,1",
        "b,17,2,2",
        "b,17,2",
        "c,007,1",
    ]
    (tmp_path / "clicks.csv").write_text("\n".join(lines))
    with (
        pytest.warns(UserWarning, match="rows left out because an id is missing .* 1 without user_id"),
        pytest.warns(UserWarning, match="1 malformed lines left out: .*line 6"),
    ):
        summary = recommend_to_folder(numbered, tmp_path / "clicks.csv", tmp_path / "out", k=2)
    assert (summary["users"], summary["history_items"], summary["unknown_items"]) == (3, 5, 2)
    assert "warning" not in summary


def test_a_job_of_unknown_items_does_not_end_well(recommender: Recommender, tmp_path: Path) -> None:
    known = ["item1", "item2"]
    out, users = tmp_path / "out", write_histories(tmp_path / "u.parquet", [["lost"] * 10, known[:1], ["x"] * 5])
    with pytest.raises(InputError, match=r"15 of 16 history items \(94%\) are not in the catalog.*such as 'item0'"):
        recommend_to_folder(recommender, users, out, k=2, users_in_part=2)
    assert not (out / "summary.json").exists()
    with pytest.warns(UserWarning, match=r"15 of 16 history items \(94%\) are not in the catalog"):
        summary = recommend_to_folder(recommender, users, out, k=2, users_in_part=2, allow_unknown=True)
    assert (summary["parts"], summary["parts_resumed"], summary["users"]) == (2, 2, 3)
    for share, lists in ((0.6, [["lost"] * 3, known]), (0.5, [["lost"] * 2, known])):
        users = write_histories(tmp_path / f"{share}.parquet", lists)
        folder = tmp_path / f"of-{share}"
        if share > 0.5:
            with pytest.warns(UserWarning, match="3 of 5 history items"):
                summary = recommend_to_folder(recommender, users, folder, k=1)
            assert summary["warning"].startswith("3 of 5 history items (60%) are not in the catalog; ids must be")
            with pytest.warns(UserWarning, match="3 of 5 history items"):
                assert recommend_to_folder(recommender, users, folder, k=1) == summary
        else:
            assert "warning" not in recommend_to_folder(recommender, users, folder, k=1)


@pytest.mark.parametrize("ids", [[1, 2], [1.0, 2.0]])
def test_ids_of_a_type_that_no_item_has_are_reported(recommender: Recommender, ids: list[Any], tmp_path: Path) -> None:
    users = write_histories(tmp_path / "u.parquet", [ids, ids[:1]])
    with pytest.raises(InputError, match=r"3 of 3 history items \(100%\) are not in the catalog"):
        recommend_to_folder(recommender, users, tmp_path / "out")
    rejected = pl.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert rejected["row"].to_list() == [0, 1]
    assert rejected["reason"].str.contains("but those of the catalog are string").all()
