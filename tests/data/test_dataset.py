"""Leave-one-out parts and targets, the dataset folder, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reg4rec.data import Dataset, ItemCatalog, Sequences, load_dataset
from reg4rec.errors import InputError
from tests.artifacts import reseal

HISTORIES = [[0, 1, 2, 3], [4, 5], [3, 2, 1], [0]]


def make_dataset(histories: list[list[int]] = HISTORIES, **more: Any) -> Dataset:
    users = pa.array([f"u{i}" for i in range(len(histories))])
    items = ItemCatalog.from_table(pa.table({"item_id": list(range(10, 16)), "title": list("abcdef")}))
    return Dataset.build("tiny", users, Sequences.from_lists(histories), items, **more)


def as_lists(sequences: Sequences) -> list[list[int]]:
    return [sequences[row].tolist() for row in range(len(sequences))]


def test_parts_hold_back_the_targets_of_users_with_three_or_more() -> None:
    dataset = make_dataset()
    assert as_lists(dataset.part("train")) == [[0, 1], [4, 5], [3], [0]]
    assert as_lists(dataset.part("train+validation")) == [[0, 1, 2], [4, 5], [3, 2], [0]]
    assert as_lists(dataset.part("all")) == HISTORIES


def test_targets_are_the_last_two_items() -> None:
    dataset = make_dataset()
    for split, expected in (("validation", [2, 2]), ("test", [3, 1])):
        users, items = dataset.targets(split)  # type: ignore[arg-type]
        assert (users.tolist(), items.tolist()) == ([0, 2], expected)
        assert (users.dtype, items.dtype) == (np.int32, np.int32)


def test_unknown_parts_and_splits_are_named() -> None:
    with pytest.raises(InputError, match="train\\+validation"):
        make_dataset().part("dev")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="validation"):
        make_dataset().targets("dev")  # type: ignore[arg-type]


def test_saved_dataset_comes_back_with_the_same_fingerprint(tmp_path: Path) -> None:
    dataset = make_dataset(vectors={"image": np.arange(12.0).reshape(6, 2)}, card={"source": "made up"})
    dataset.save(tmp_path / "set")
    loaded = load_dataset(tmp_path / "set")
    assert loaded.card == dataset.card
    assert loaded.card["counts"] == {"users": 4, "items": 6, "interactions": 10, "users_without_targets": 2}
    assert loaded.user_ids.equals(dataset.user_ids)
    assert as_lists(loaded.sequences) == HISTORIES
    assert np.array_equal(loaded.vectors["image"], dataset.vectors["image"])
    assert loaded.sequences.items.flags.writeable


def test_every_change_changes_the_fingerprint() -> None:
    others = [make_dataset(HISTORIES[::-1]), make_dataset([[0, 1, 2, 4], *HISTORIES[1:]])]
    others.append(make_dataset(vectors={"image": np.ones((6, 1))}))
    prints = {dataset.card["fingerprint"] for dataset in [make_dataset(), make_dataset(), *others]}
    assert len(prints) == 4


def test_a_folder_changed_by_hand_is_refused(tmp_path: Path) -> None:
    make_dataset().save(tmp_path / "a")
    make_dataset([[1, 1, 1]] * 4).save(tmp_path / "b")
    (tmp_path / "b" / "sequences.parquet").replace(tmp_path / "a" / "sequences.parquet")
    with pytest.raises(InputError, match=r"sequences\.parquet is not the file that was saved with this folder"):
        Dataset.load(tmp_path / "a")
    assert np.array_equal(Dataset.load(tmp_path / "a", verify=False).sequences.items, np.ones(12))
    reseal(tmp_path / "a" / "dataset.json")
    with pytest.raises(InputError, match="fingerprint"):
        Dataset.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((5, 2)), "shape \\(5, 2\\)"),
        (np.ones(6), "shape \\(6,\\)"),
        (np.array([[np.nan]] + [[1.0]] * 5), "1 rows, the first is row 0"),
        (np.array([[1.0]] * 5 + [[np.inf]]), "first is row 5"),
        (np.full((6, 1), "x"), "dtype"),
    ],
)
def test_bad_matrices_are_refused(matrix: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_dataset(vectors={"image": matrix})


def test_bad_sequences_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 6 where 0 to 5"):
        make_dataset([[0, 6]])
    with pytest.raises(InputError, match="0 interactions"):
        make_dataset([[]])
