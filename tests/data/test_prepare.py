"""The data commands: options, and what they print."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reg4rec.cli import main
from reg4rec.data import Dataset

ROWS = [(user, item, time) for user in range(6) for time, item in enumerate(range(user, user + 6))]


def write_log(path: Path) -> Path:
    pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(path)
    return path


def test_a_time_split_and_keyed_vectors_are_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log.csv")
    with log.open("a") as file:
        file.write("1,2\n")
    image = pl.DataFrame({"item_id": [3, 4], "row": [[1.0, 2.0], [3.0, 4.0]]})
    image.write_parquet(tmp_path / "image.parquet")
    cuts = ["--split", "time", "--validation-from", "3", "--test-from", "4", "--cut-unit", "timestamp"]
    more = ["--min-interactions", "2", "--vectors", f"image={tmp_path / 'image.parquet'}"]
    main(["data", "prepare", str(log), "--out", str(tmp_path / "out"), *cuts, *more])
    printed = capsys.readouterr()
    assert "time split" in printed.out
    assert printed.err.startswith("reg4rec: 1 malformed lines left out: ")
    assert "malformed" not in printed.out
    data = Dataset.load(tmp_path / "out")
    assert data.split.to_json() == {"kind": "time", "validation_from": 3, "test_from": 4, "targets": "last"}
    assert np.count_nonzero(data.vectors["image"].any(axis=1)) == 2


def test_a_folder_is_fetched_with_a_k_core(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{user}\t{item}\t{time}\n" for user, item, time in ROWS)
    (tmp_path / "shop.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    main(["data", "get", str(tmp_path), "--out", str(tmp_path / "out"), "--min-interactions", "3"])
    assert "leave-one-out split" in capsys.readouterr().out
    assert Dataset.load(tmp_path / "out").card["min_interactions"] == 3


def test_too_many_malformed_lines_prepare_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log.csv")
    log.write_text(log.read_text() + "1,2\n")
    with pytest.raises(SystemExit, match="2"):
        main(["data", "prepare", str(log), "--out", str(tmp_path / "out"), "--max-malformed", "0"])
    assert "log.csv line 38 has 2 fields where 3 were expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_column_is_not_taken_for_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log.csv")
    pl.DataFrame({"item_id": [1, 2], "title": [["a"], ["b"]]}).write_parquet(tmp_path / "items.parquet")
    command = ["data", "prepare", str(log), "--items", str(tmp_path / "items.parquet"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--item", "item_id", "--min-interactions", "1"])
    assert "reg4rec: column title of the items has type" in capsys.readouterr().err
