"""Files of sequences, gzipped files, and folders that another command reads."""

from pathlib import Path

import pytest

from reg4rec.data import load_dataset, read_interactions
from reg4rec.errors import InputError
from tests.data.files import EXPECTED, REVIEWS, histories, json_lines, write


def test_sequences_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "set" / "sequences.txt", "1 5 3 5\n2 3 9 1\n")
    expected = {1: [5, 3, 5], 2: [3, 9, 1]}
    assert histories(load_dataset(tmp_path / "set")) == expected
    assert load_dataset(tmp_path / "set").name == "set"
    assert histories(read_interactions(path, min_interactions=1)) == expected
    write(path, "u1 a b\n")
    assert histories(load_dataset(tmp_path / "set")) == {"u1": ["a", "b"]}


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.gz", ".jsonl.gz", ".inter.gz"])
def test_text_files_may_be_gzipped(tmp_path: Path, ending: str) -> None:
    if ending == ".jsonl.gz":
        text = json_lines([{"user_id": u, "item_id": i, "timestamp": t} for u, i, t in REVIEWS])
    else:
        separator = "," if ending == ".csv.gz" else "\t"
        rows = [("user_id", "item_id", "timestamp"), *REVIEWS]
        text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    log = write(tmp_path / f"log{ending}", text)
    dataset = read_interactions(log, min_interactions=1)
    assert (dataset.name, histories(dataset)) == ("log", EXPECTED)
    log.write_bytes(log.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a complete gzip file"):
        read_interactions(log, min_interactions=1)


@pytest.mark.parametrize("name", ["reviews_Beauty_5.json.gz", "ratings.csv"])
def test_prepared_folders_and_files_say_how_they_are_read(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, json_lines([{"asin": "B1"}]))
    with pytest.raises(InputError, match="use read_interactions"):
        load_dataset(file)
    if name.endswith(".gz"):
        file.write_bytes(file.read_bytes()[:20])
        with pytest.raises(InputError, match="not a complete gzip file"):
            load_dataset(tmp_path)
