"""Sources of interactions and items: parts, patterns, tables in memory, packed files; and the messages about them."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import reg4rec.data.lines
from reg4rec.cli import main
from reg4rec.data import Dataset, ItemCatalog, read_interactions
from reg4rec.errors import InputError

LOG = {
    "user_id": [f"u{n // 4}" for n in range(40)],
    "item_id": [n * 7 % 10 for n in range(40)],
    "timestamp": [n * 5 % 40 for n in range(40)],
}
ITEMS = {"item_id": [*range(12)], "title": [f"thing {n}" for n in range(12)]}


@pytest.fixture(scope="module")
def expected() -> str:
    return fingerprint(read_interactions(pl.DataFrame(LOG), pl.DataFrame(ITEMS)))


def fingerprint(data: Dataset) -> str:
    return str(data.card["fingerprint"])


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl", ".csv.gz"])
def test_folders_of_parts_and_patterns(tmp_path: Path, ending: str, expected: str) -> None:
    for name, columns in (("clicks", LOG), ("items", ITEMS)):
        folder = tmp_path / f"{name}.parts"
        (folder / "_temporary").mkdir(parents=True)
        (folder / "_SUCCESS").touch()
        (folder / ".part-0.crc").write_text("x")
        (folder / "_temporary" / f"part-9{ending}").write_text("unfinished")
        frame = pl.DataFrame(columns)
        for number, part in enumerate((frame[:5], frame[5:])):
            path = folder / f"part-{number}{ending}"
            if ending == ".parquet":
                part.write_parquet(path)
            else:
                text = part.write_ndjson() if ending == ".jsonl" else part.write_csv()
                path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    clicks, items = tmp_path / "clicks.parts", tmp_path / "items.parts"
    data = read_interactions(clicks, items)
    assert (data.name, fingerprint(data)) == ("clicks", expected)
    assert fingerprint(read_interactions(str(clicks / f"part-*{ending}"), f"{items}/part-?{ending}")) == expected


def test_parts_with_numbers_and_with_text_meet_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\n1,5,1\n1,6,2\n")
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\n1,007,3\n")
    assert read_interactions(tmp_path).items.ids.to_pylist() == ["007", "5", "6"]


@pytest.mark.parametrize(("files", "held"), [([], "no files"), (["a.csv", "b.parquet"], r"end in \.csv, \.parquet")])
def test_other_folders_are_refused(tmp_path: Path, files: list[str], held: str) -> None:
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(InputError, match=f"{held}; its parts must be tables of one kind"):
        read_interactions(tmp_path)
    with pytest.raises(InputError, match="has no files"):
        read_interactions(tmp_path / "none-*.csv")


class Streamed:
    """A table of any library that supports the Arrow stream interface."""

    def __init__(self, table: pa.Table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("form", [pl.DataFrame, pa.table, dict, lambda columns: Streamed(pa.table(columns))])
def test_tables_in_memory(form: Any, expected: str) -> None:
    data = read_interactions(form(LOG), form(ITEMS))
    assert (data.name, fingerprint(data)) == ("interactions", expected)
    assert ItemCatalog.from_table(form(ITEMS)).table.equals(ItemCatalog.from_table(pa.table(ITEMS)).table)


def test_tables_of_pandas(expected: str) -> None:
    pd = pytest.importorskip("pandas")
    assert fingerprint(read_interactions(pd.DataFrame(LOG), pd.DataFrame(ITEMS))) == expected
    indexed = pd.DataFrame(LOG).set_index("user_id").astype({"item_id": "float64"})
    moments = pd.DataFrame(LOG).assign(user_id=lambda frame: frame["user_id"].astype("category"))
    assert fingerprint(read_interactions(indexed, pd.DataFrame(ITEMS))) == expected
    assert fingerprint(read_interactions(moments, pd.DataFrame(ITEMS))) == expected
    mixed = pd.DataFrame({"user_id": [1, "x", None, 1], "item_id": [1, 2, 3, 4], "timestamp": [1, 2, 3, 4]})
    with pytest.warns(UserWarning, match="1 without user_id"):
        assert read_interactions(mixed).user_ids.to_pylist() == ["1", "x"]
    catalog = ItemCatalog.from_table(pd.DataFrame({"item_id": ["n"], "title": [None], "categories": ["A > B"]}))
    assert catalog.table["categories"].to_pylist() == [["A", "B"]]


@pytest.mark.parametrize("wrong", [7, None, [1, 2], pl.DataFrame(LOG).lazy(), {"user_id": [1], "item_id": [1, 2]}])
def test_other_things_are_no_tables(wrong: Any) -> None:
    with pytest.raises(InputError, match="give a pandas or polars DataFrame, an Arrow table, or a dictionary"):
        read_interactions(wrong)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".txt", ".inter"])
def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(reg4rec.data.lines, "UNPACKED_SURELY", 1 << 20)
    path = tmp_path / f"log{ending}.gz"
    path.write_bytes(gzip.compress(b"user_id,item_id,timestamp\n" + b"x" * (3 << 20)))
    with pytest.raises(InputError, match=r"unpacks to more than 1 MiB, .* unpack it yourself"):
        read_interactions(path)


def test_lists_with_other_marks_than_blanks_are_refused(tmp_path: Path) -> None:
    for line in ("1: 2, 3, 1", "1 [2 3]", "1 2, 3"):
        (tmp_path / "lists.txt").write_text(f"{line}\n")
        with pytest.raises(InputError, match=r"line 1 has commas, colons or brackets .* separated by blanks only"):
            read_interactions(tmp_path / "lists.txt")


def test_own_files_keep_every_user_and_item() -> None:
    data = read_interactions(LOG, ITEMS)
    assert data.items.ids.to_pylist() == [*range(12)]
    assert data.items.table["title"].null_count == 0
    assert (data.card["items_never_clicked"], data.card["before"]["items"]) == (2, 12)
    image = np.arange(12.0)[:, None]
    assert read_interactions(LOG, ITEMS, vectors={"image": image}).vectors["image"].tolist() == image.tolist()
    assert read_interactions(LOG, ITEMS, clicked_only=True).num_items == 10
    assert read_interactions(LOG, ITEMS, min_interactions=2).num_items == 10


def test_ties_in_the_order_of_ids_are_reported() -> None:
    rows = [(user, item) for item in range(30) for user in range(item % 3, 12, 3)]
    users, items = [u for u, _ in rows], [f"i{i}" for _, i in rows]
    log: dict[str, list[Any]] = {"user_id": users, "item_id": items, "timestamp": [1] * len(rows)}
    with pytest.warns(UserWarning, match="100% of consecutive interactions .* sorted by id"):
        assert read_interactions(log).card["tied_times"] == {"share": 1.0, "in_order_of_ids": True}
    shuffled = {name: list(np.random.default_rng(0).permutation(column)) for name, column in log.items()}
    assert not read_interactions(shuffled).card["tied_times"]["in_order_of_ids"]
    assert read_interactions(LOG).card["tied_times"]["share"] == 0


def test_users_with_too_few_items_for_a_test_are_reported() -> None:
    with pytest.warns(UserWarning, match="no user can be validated or tested: .* three or more .* split by time"):
        read_interactions({"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1, 2]})


def prepared(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    pl.DataFrame(LOG | {"event_type": ["view"] * 40}).rename({"item_id": "item"}).write_csv(folder / "clicks.csv")
    goods = pl.DataFrame(ITEMS).with_columns(category=pl.format("a/{}", "item_id"))
    goods.write_csv(folder / "items.csv")
    files = [str(folder / "clicks.csv"), "--items", str(folder / "items.csv"), "--out", str(folder / "out")]
    main(["data", "prepare", *files, "--item", "item", *options])
    return capsys.readouterr().out


def test_a_line_says_what_is_dropped_and_what_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "image.npy", np.ones((12, 2)))
    printed = prepared(tmp_path, capsys, "--vectors", f"image={tmp_path / 'image.npy'}")
    assert "never clicked: 2 items (--clicked-only leaves them out)" in printed
    assert "items.csv has an unused column category; --categories category" in printed
    assert "clicks.csv has a column event_type, but all rows count" in printed
    assert "matrix image only on request: `reg4rec tokenize --matrices image`" in printed
    assert "dropped" not in printed
    printed = prepared(tmp_path, capsys, "--min-interactions", "2", "--categories", "category")
    assert "most categories of" in printed
    assert "contain '/' but are read as one name" in printed
    with pytest.raises(SystemExit, match="2"):
        prepared(tmp_path, capsys, "--items-id", "sku")
    assert "items.csv has no column sku; it has item_id, title, category; --items-id" in capsys.readouterr().err


def test_what_the_k_core_drops_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(u, i, n) for n, (u, i) in enumerate([(u, i) for u in range(4) for i in range(4)] + [(9, 1), (9, 7)])]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "clicks.csv")
    command = ["data", "prepare", str(tmp_path / "clicks.csv"), "--out", str(tmp_path / "out")]
    main([*command, "--min-interactions", "3"])
    said = "dropped: 1 users, 1 items, 2 interactions (k-core 3; --min-interactions 1 keeps them)"
    assert said in capsys.readouterr().out
    main(command)
    printed = capsys.readouterr().out
    assert "5 users, 5 items" in printed
    assert "for validation and test: 4 of 5 users" in printed
