"""Ids, times and categories in any form that a column may have."""

import csv
import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from reg4rec.data import ItemCatalog, read_interactions
from reg4rec.data.categories import text_path
from reg4rec.data.lines import BadLines
from reg4rec.data.tables import read_log
from reg4rec.errors import InputError

TEN = int(dt.datetime(2021, 4, 25, 10, tzinfo=dt.UTC).timestamp()) * 10**6


def write(folder: Path, ending: str, columns: dict[str, Any]) -> Path:
    path, frame = folder / f"log{ending}", pl.DataFrame(columns, strict=False)
    if ending == ".parquet":
        frame.write_parquet(path)
    elif ending == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if ending == ".tsv" else ",")
    return path


def read(path: Path, bad: BadLines | None = None) -> pl.DataFrame:
    return read_log(path, "user_id", "item_id", "timestamp", bad or BadLines())


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_mix_of_seconds_and_milliseconds_is_reported(tmp_path: Path, ending: str) -> None:
    times = [1_600_000_000, 1_600_000_000_000, 1_600_000_001]
    log = {"user_id": ["a"] * 3, "item_id": ["x", "y", "z"], "timestamp": times}
    with pytest.warns(UserWarning, match="timestamp of .* mixes .* 2 numbers are below .* and 1 above .*; write all"):
        assert read(write(tmp_path, ending, log))["timestamp"].to_list() == times
    for alike in (times[:1] * 3, times[1:2] * 3, [1, 2, 3], ["1970-01-01", "2021-04-25", "2021-04-26"]):
        read(write(tmp_path, ending, log | {"timestamp": alike}))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2021-04-25 10:00:00 UTC", TEN),
        ("2021-04-25T10:00:00Z", TEN),
        ("2021-04-25T12:00:00.123456789+02:00", TEN + 123456),
        ("2021-04-25 10:00:00 +0000 UTC", TEN),
        ("2021-04-25 10:00", TEN),
        ("2021/4/25 10:00:00.5", TEN + 500_000),
        ("25.04.2021 10:00", TEN),
        ("4/25/2021 10:00 AM", TEN),
        ("4/25/2021 10:00 PM", TEN + 12 * 3600 * 10**6),
        ("2021-04-25", TEN - 10 * 3600 * 10**6),
        ("1600000000", 1600000000),
        ("1600000000.5", 1600000000.5),
    ],
)
def test_times_are_read_alike_in_every_format(tmp_path: Path, ending: str, text: str, time: float) -> None:
    columns = {"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [text, text]}
    assert read(write(tmp_path, ending, columns))["timestamp"].to_list() == [time, time]


def test_times_of_mixed_precision(tmp_path: Path) -> None:
    times = ["2021-04-25", "2021-04-25T10:00:00Z", "2021-04-25 10:00:00.25"]
    log = read(write(tmp_path, ".csv", {"user_id": [1] * 3, "item_id": [1, 2, 3], "timestamp": times}))
    assert log["timestamp"].to_list() == [TEN - 36 * 10**9, TEN, TEN + 250_000]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2021-04-25", "soon"], "'soon' in row 2; times must be numbers or dates such as 2021-04-03"),
        (["2021-04-25", "2021-13-25"], "'2021-13-25' in row 2"),
        (["2021-04-25", "1600000000"], "'1600000000' in row 2.* all of one kind"),
        (["25/04/2021", "04/25/2021"], "can be read in two ways"),
        (["2021-04-25", "nan"], "1 rows without timestamp, the first is row 2"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_values_that_are_no_times_are_named(tmp_path: Path, ending: str, times: list[str], message: str) -> None:
    columns = {"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": times}
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, ending, columns))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("nobody", [None, "", " ", "nan", "NaN", "null", "None", "<NA>"])
def test_rows_without_a_user_or_an_item_are_left_out(tmp_path: Path, ending: str, nobody: str | None) -> None:
    columns = {"user_id": ["a", nobody, "b", "b"], "item_id": ["x", "y", nobody, "z"], "timestamp": [1, 2, 3, 4]}
    path = write(tmp_path, ending, columns)
    assert read(path, bad := BadLines()).rows() == [("a", "x", 1), ("b", "z", 4)]
    assert bad.nameless == {"user_id": 1, "item_id": 1}
    with pytest.warns(UserWarning, match="an id is missing .*: 1 without user_id, 1 without item_id"):
        assert read_interactions(path).card["rows_without_ids"] == bad.nameless


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_numbers_beside_missing_ones_stay_whole(tmp_path: Path, ending: str) -> None:
    columns = {"user_id": [1, None, 3], "item_id": [7, 8, 9], "timestamp": [1, 2, 3]}
    frame = pl.DataFrame(columns)
    path = write(
        tmp_path, ending, columns if ending == ".csv" else {**columns, "user_id": frame["user_id"].cast(float)}
    )
    assert read(path)["user_id"].to_list() == [1, 3]


def test_ids_of_mixed_kinds_are_text(tmp_path: Path) -> None:
    rows = ['{"user_id": 1, "item_id": "a", "timestamp": 1}', '{"user_id": "x", "item_id": 2, "timestamp": 2}']
    rows += ['{"user_id": 1.0, "item_id": 2, "timestamp": "3"}', '{"user_id": NaN, "item_id": 2, "timestamp": 4}']
    (tmp_path / "log.jsonl").write_text("\n".join(rows))
    assert read(tmp_path / "log.jsonl")["user_id"].to_list() == ["1", "x", "1"]


def test_half_an_emoji_and_nan_in_other_fields_harm_nothing(tmp_path: Path) -> None:
    row = '{"user_id": "a", "item_id": "i%d", "timestamp": %d, "rating": NaN, "review": "\\ud83d"}\n'
    (tmp_path / "log.jsonl").write_text("".join(row % (n, n) for n in range(30)))
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": "i1", "title": "cut \\ud83d", "price": NaN}\n{"item_id": "i2", "title": "\\ud83d\\ude00"}\n'
        '{"item_id": "i3", "title": "\\u00e9", "price": 1.5, "details": {"a": [1, "\\udc00"]}}\n'
    )
    data = read_interactions(tmp_path / "log.jsonl", tmp_path / "items.jsonl")
    assert data.card["malformed_lines"]["count"] == 0
    assert [data.items.table["title"][int(row)].as_py() for row in data.items.rows(["i1", "i2", "i3"])] == [
        "cut \ufffd", "\U0001f600", "é",
    ]  # fmt: skip
    assert data.items.table["price"].drop_null().to_pylist() == [1.5]
    data.save(tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("Home > Kitchen", ["Home", "Kitchen"]),
        ("Home|Kitchen|", ["Home", "Kitchen"]),
        ("Home &gt; Men&#39;s", ["Home", "Men's"]),
        ("['Home', 'Kitchen 0']", ["Home", "Kitchen 0"]),
        ('["Home", "Kitchen 0"]', ["Home", "Kitchen 0"]),
        ("['Home' \"Men's\"\n 'Kitchen']", ["Home", "Men's", "Kitchen"]),
        ("[['Home', 'Kitchen'], ['Gifts']]", ["Home", "Kitchen"]),
        ('["caf\\u00e9", null]', ["café"]),
        ("('Home', 'Kitchen')", ["Home", "Kitchen"]),
        ("[7, 12]", ["7", "12"]),
        ("[]", []),
        ("nan", []),
        ("[Sale]", ["[Sale]"]),
        ("[Sale] > Shoes", ["[Sale]", "Shoes"]),
        ("Home, Kitchen", ["Home, Kitchen"]),
        ("Home/Kitchen", ["Home/Kitchen"]),
    ],
)
def test_paths_in_text(tmp_path: Path, text: str, path: list[str]) -> None:
    assert text_path(text) == path
    with (tmp_path / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "categories"), ("a", text)])
    log = write(tmp_path, ".csv", {"user_id": [1] * 3, "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]})
    assert read_interactions(log, tmp_path / "items.csv").items.table["categories"][0].as_py() == path
    made = ItemCatalog.from_table({"item_id": ["a"], "categories": [text]})
    assert made.table["categories"][0].as_py() == path


def test_objects_are_no_names_of_categories() -> None:
    with pytest.raises(InputError, match=r"has lists of objects, such as .*; categories must be names"):
        ItemCatalog.from_table({"item_id": ["a"], "categories": ["[{'id': 16, 'name': 'Animation'}]"]})


def test_ids_are_compared_as_they_are_spelled() -> None:
    numbers = ItemCatalog.from_table(pa.table({"item_id": [7, 12]}))
    assert numbers.rows(["7", "007", "12", "-7"]).tolist() == [0, -1, 1, -1]
    assert numbers.rows(pa.array(["12", "07"]).dictionary_encode()).tolist() == [1, -1]
    assert numbers.rows([7.0, 12.0]).tolist() == [0, 1]
    with pytest.raises(InputError, match="booleans"):
        numbers.rows([True])
    texts = ItemCatalog.from_table(pa.table({"item_id": ["7", "007"]}))
    assert texts.rows([7]).tolist() == [0]
    assert texts.rows(["007"]).tolist() == [1]
