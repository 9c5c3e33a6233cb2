"""Separated text as people write it: quotation marks, line breaks, separators and encodings."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reg4rec.data import Dataset, read_interactions
from reg4rec.data.lines import BadLines
from reg4rec.data.tables import read_items_table, read_log
from reg4rec.errors import InputError


def titles(path: Path, *titles: str, separator: str = ",", title: str = "title") -> dict[str, Any]:
    """The titles read from an items file that holds them unquoted in its last column."""
    rows = [f"i{n}{separator}{text}" for n, text in enumerate(titles)]
    path.write_text("\n".join([f"item_id{separator}{title}", *rows]) + "\n", newline="")
    table = read_items_table(path, "item_id", None, None, None, BadLines())
    return dict(zip(table["item_id"], table[title], strict=True))


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_quotation_mark_that_is_not_closed_swallows_no_line(tmp_path: Path, name: str, separator: str) -> None:
    given = ["plain", '"Open', "between", '12" pipe', 'shut"', '"Weird" Al', "the end"]
    assert list(titles(tmp_path / name, *given, separator=separator).values()) == given
    lines = [separator.join((f"u{n // 5}", f"i{n % 7}", f"title {n}", str(n))) for n in range(200)]
    for place, text in ((20, '"Open'), (90, 'shut"'), (91, '"Open'), (150, 'shut"')):
        lines[place] = lines[place].replace(f"title {place}", text)
    log = tmp_path / f"log{name}"
    log.write_text("\n".join([separator.join(("user_id", "item_id", "artist", "timestamp")), *lines]))
    assert read_interactions(log).card["counts"]["interactions"] == 200


def test_every_line_may_open_or_close_a_quotation(tmp_path: Path) -> None:
    given = ['"a' if n % 2 else 'b"' for n in range(40)]
    assert list(titles(tmp_path / "a.tsv", *given, separator="\t").values()) == given


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"of wool, and warm"', "of wool, and warm"),
        ('"of\nwool"', "of\nwool"),
        ('"of\nwool, and\nwarm, too"', "of\nwool, and\nwarm, too"),
        ('"6"" pipe"', '6" pipe'),
        ('"say \\"hi\\", ok"', 'say "hi", ok'),
        ('"C:\\"', "C:\\"),
        ('6" pipe', '6" pipe'),
        ('"A" side', '"A" side'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_fields(tmp_path: Path, written: str, read: str, end: str) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(f"item_id,title\ni1,plain\ni2,{written}\ni3,plain\n".replace("\n", end).encode())
    table = read_items_table(path, "item_id", None, None, None, BadLines())
    assert table["item_id"].to_list() == ["i1", "i2", "i3"]
    assert table["title"].to_list() == ["plain", read.replace("\n", end), "plain"]


def test_texts_of_several_lines_stay_whole_beside_a_short_line(tmp_path: Path) -> None:
    rows = [f'u{n // 5},i{n % 7},"good, really\nworth it",{n}' for n in range(50)]
    rows[1] = "u0,i1"
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,review,timestamp", *rows]))
    with pytest.warns(
        UserWarning, match="1 malformed lines left out: log.csv line 4 has 2 fields where 4 were expected"
    ):
        data = read_interactions(tmp_path / "log.csv")
    assert data.card["counts"]["interactions"] == 49


FIELD = st.text(st.sampled_from('ab",\n\r é'), max_size=6)


@settings(derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_what_python_writes_is_read(tmp_path_factory: pytest.TempPathFactory, fields: Any, quoting: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "fields.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator="\n")
        writer.writerow(["user_id", "one", "two", "item_id", "timestamp"])
        writer.writerows([f"u{n}", one, two, "i", n] for n, (one, two) in enumerate(fields))
    log = read_log(path, "user_id", "item_id", "timestamp", BadLines())
    assert log["user_id"].to_list() == [f"u{n}" for n in range(len(fields))]
    assert log["timestamp"].to_list() == list(range(len(fields)))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_file_of_other_separators_is_read_by_them(tmp_path: Path, separator: str) -> None:
    assert titles(tmp_path / "a.csv", "one, two", separator=separator) == {"i0": "one, two"}


def test_blanks_around_names_and_ids_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id, item_id , timestamp\nu, 7 , 3\nu , 8, 4\nu,9,5\n")
    data = read_interactions(tmp_path / "log.csv")
    assert (data.user_ids.to_pylist(), data.items.ids.to_pylist()) == (["u"], [7, 8, 9])


def users(path: Path, content: bytes) -> list[Any]:
    path.write_bytes(content)
    data: Dataset = read_interactions(path, time=None)
    return list(data.user_ids.to_pylist())


@pytest.mark.filterwarnings("ignore:reg4rec. no user")
def test_encodings(tmp_path: Path) -> None:
    text = "user_id,item_id\né,1\nz,2\n"
    assert users(tmp_path / "log.csv", text.encode("utf-16")) == ["z", "é"]
    assert users(tmp_path / "log.csv", text.encode("utf-8-sig").replace(b"\n", b"\r")) == ["z", "é"]
    with pytest.raises(InputError, match=r"line 2 is not UTF-8.* save the file as UTF-8, for example by `iconv"):
        users(tmp_path / "log.csv", (text[:16] + "é,1\n" * 20).encode("latin-1"))
