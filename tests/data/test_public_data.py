"""Prepared Amazon folders, MovieLens-100K, and how they are found."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from reg4rec.data import load_dataset, movielens
from reg4rec.data.download import PACKAGE_MEMBERS, get_ml_100k
from reg4rec.errors import InputError

needs_data = pytest.mark.skipif(not os.environ.get("REG4REC_DATA"), reason="REG4REC_DATA names no folder of datasets")


@needs_data
@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "classes", "cold"),
    [("amazon2014-beauty", 22363, 12101, 198502, 46, 138), ("amazon2014-toys", 19412, 11924, 167597, 185, 279)],
)
def test_amazon_counts(name: str, users: int, items: int, interactions: int, classes: int, cold: int) -> None:
    dataset = load_dataset(name)
    assert (dataset.num_users, dataset.num_items, len(dataset.sequences.items)) == (users, items, interactions)
    assert (dataset.items.category_level, len(dataset.items.category_names)) == (3, classes)
    targets = dataset.targets("test")[1]
    assert int((~np.isin(targets, dataset.part("train").items)).sum()) == cold


def write_amazon(folder: Path, sequences: str = "u1 1 3\nu2 2 1 3\n") -> Path:
    folder.mkdir()
    (folder / "sequences.txt").write_text(sequences)
    rows: list[dict[str, Any]] = [
        {"item_id": i, "asin": f"B{i}", "title": f"thing {i}", "brand": None, "categories": [["A", f"C{i}"], ["Z"]]}
        for i in (1, 2, 3)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    np.save(folder / "image.f16.npy", np.ones((3, 2), dtype=np.float16))
    return folder


def test_a_prepared_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(write_amazon(tmp_path / "shop"))
    assert dataset.items.ids.to_pylist() == ["B1", "B2", "B3"]
    assert dataset.items.category_names == ["A > C1", "A > C2", "A > C3"]
    assert [dataset.sequences[u].tolist() for u in (0, 1)] == [[0, 2], [1, 0, 2]]
    assert dataset.vectors["image"].dtype == np.float32
    monkeypatch.setenv("REG4REC_DATA", str(tmp_path))
    assert load_dataset("shop").card == dataset.card


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ("u1 1 4", "0 to 3 where 0 to 2"),
        ("u1 0", "-1"),
        ("u1 x", "whole number"),
        ("u1 1\nu2", "line 2"),
        ("", "0 inter"),
    ],
)
def test_bad_sequences_are_refused(tmp_path: Path, sequences: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(write_amazon(tmp_path / "shop", sequences))


def test_times_lie_in_the_places_of_their_items(tmp_path: Path) -> None:
    folder = write_amazon(tmp_path / "shop")
    (folder / "times.txt").write_text("u1 5 5\nu2 7 8 9\n")
    dataset = load_dataset(folder)
    assert dataset.times is not None
    assert (dataset.times.tolist(), dataset.times.dtype) == ([5, 5, 7, 8, 9], np.int64)
    assert dataset.card["tied_times"] == {"share": round(1 / 3, 4), "in_order_of_ids": False}
    (folder / "times.txt").write_text("u1 5.5 6\nu2 7 8 9\n")
    assert load_dataset(folder).with_time_split(6, 9, "timestamp").targets("test")[0].tolist() == [1]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("u1 1 2\nu2 3 4", "line 2 does not match sequences.txt"),
        ("u1 1 2\nu3 3 4 5", "line 2 does not match sequences.txt"),
        ("u1 1 2", "line 2 does not match sequences.txt"),
        ("u1 1 2\nu2 3 4 5\nu3 1", "line 3 does not match sequences.txt"),
        ("u1 2 1\nu2 3 4 5", "not in order"),
        ("u1 1 2\nu2 3 nan 5", "not finite"),
        ("u1 1 2\nu2 3 soon 5", "does not have a valid time"),
    ],
)
def test_times_that_do_not_fit_are_refused(tmp_path: Path, times: str, message: str) -> None:
    folder = write_amazon(tmp_path / "shop")
    (folder / "times.txt").write_text(times)
    with pytest.raises(InputError, match=message):
        load_dataset(folder)


@needs_data
def test_equal_days_of_beauty_are_in_the_order_of_ids() -> None:
    dataset = load_dataset("amazon2014-beauty")
    tied = dataset.tied_targets("test")
    assert dataset.card["tied_times"]["in_order_of_ids"]
    assert tied is not None
    assert round(float(tied.mean()), 3) == 0.435
    assert dataset.with_time_split().card["split"]["test_targets"] == 6110


def test_unknown_names_are_answered_by_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_amazon(tmp_path / "shop")
    monkeypatch.setenv("REG4REC_DATA", str(tmp_path))
    with pytest.raises(InputError, match="known names: ml-100k, shop"):
        load_dataset("no-such-shop")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="read_interactions"):
        load_dataset(tmp_path / "empty")


def write_official(folder: Path) -> Path:
    flags = {name: "|".join("1" if g in name.split() else "0" for g in movielens.GENRES) for name in ("Drama War", "")}
    folder.mkdir()
    (folder / "u.data").write_text("7\t2\t3\t20\n7\t1\t5\t10\n8\t1\t1\t30\n7\t3\t1\t20\n")
    lines = ["1|Cérémonie, La (1995)|x||url|" + flags["Drama War"], "2|unknown||||" + flags[""]]
    lines.append("3|Tape (1994) (V)|x||url|" + flags[""])
    (folder / "u.item").write_text("\n".join(lines), encoding="latin-1")
    return folder


def test_official_and_atomic_files_give_the_same_movielens(tmp_path: Path) -> None:
    official = load_dataset(write_official(tmp_path / "official"))
    assert official.items.texts(("title", "release_year", "genres")) == [
        "Cérémonie, La (1995) 1995 Drama War",
        "unknown",
        "Tape (1994) 1994",
    ]
    assert official.items.category_names == ["Drama"]
    assert official.sequences[0].tolist() == [0, 1, 2]
    atomic = tmp_path / "atomic"
    atomic.mkdir()
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (atomic / "ml-100k.inter").write_text(header + (tmp_path / "official" / "u.data").read_text())
    rows = ["header\t\t\t", "1\tCérémonie, La\t1995\tDrama War", "2\tunkonwn\tunkonwn\t", "3\tTape (1994)\tV\t"]
    (atomic / "ml-100k.item").write_text("\n".join(rows), encoding="utf-8")
    assert load_dataset(atomic).card["fingerprint"] == official.card["fingerprint"]
    (atomic / "ml-100k.item").write_text("header\t\t\t\nbroken")
    with pytest.raises(InputError, match=r"ml-100k\.item"):
        load_dataset(atomic)


def unreachable(*_: object, **__: object) -> NoReturn:
    raise OSError("no network here")


def test_a_download_falls_through_its_roads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REG4REC_DATA", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("subprocess.run", unreachable)
    with pytest.raises(InputError, match="official address: no network here; package index: no network here"):
        get_ml_100k(tmp_path)
    assert list(tmp_path.iterdir()) == []
    files = dict.fromkeys(PACKAGE_MEMBERS, b"content")
    monkeypatch.setattr("reg4rec.data.download._from_package_index", lambda: files)
    folder = get_ml_100k(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    monkeypatch.setattr("reg4rec.data.download._from_package_index", unreachable)
    assert get_ml_100k(tmp_path) == folder


def test_a_provided_movielens_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REG4REC_DATA", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    provided = write_official(tmp_path / "ml-100k")
    assert get_ml_100k(tmp_path / "cache") == provided
    assert load_dataset("ml-100k").num_items == 3


def test_changed_downloads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Changed:
        def __enter__(self) -> "Changed":
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self) -> bytes:
            return b"something else"

    monkeypatch.delenv("REG4REC_DATA", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Changed())
    monkeypatch.setattr("subprocess.run", unreachable)
    with pytest.raises(InputError, match=r"ml-100k\.zip has sha256"):
        get_ml_100k(tmp_path)


@pytest.fixture(scope="session")
def movielens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return get_ml_100k(tmp_path_factory.mktemp("cache"))
    except InputError as error:
        pytest.skip(str(error))


def test_movielens_counts(movielens_folder: Path) -> None:
    dataset = load_dataset(movielens_folder)
    assert (dataset.num_users, dataset.num_items, len(dataset.sequences.items)) == (943, 1682, 100_000)
    assert dataset.items.table["title"][0].as_py() == "Toy Story (1995)"
    assert (dataset.items.category_level, len(dataset.items.category_names)) == (1, 19)
    assert (dataset.items.categories_I >= 0).all()
