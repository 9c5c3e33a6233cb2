"""A dataset: who interacted with what, in which order, and what the items are."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.parquet import read_parquet, write_parquet
from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError
from reg4rec.storage import atomic_folder, read_header, read_tensors, write_json, write_tensors

__all__ = ["Dataset"]

FORMAT, VERSION = "reg4rec-dataset", 1
MIN_TO_SPLIT = 3
HELD_BACK = {"train": 2, "train+validation": 1, "all": 0}
TARGET_FROM_END = {"validation": 2, "test": 1}

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users, their interactions (oldest first), the items, and the matrices the user brought.

    Leave-one-out: the last interaction of a user is the test target, the last but one the validation target. A user
    with fewer than three interactions has no target, and all of the interactions are training.
    Make one with `Dataset.build`, which checks what it is given.
    """

    name: str
    user_ids: pa.Array
    sequences: Sequences
    items: ItemCatalog
    vectors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        name: str,
        user_ids: pa.Array,
        sequences: Sequences,
        items: ItemCatalog,
        vectors: Mapping[str, npt.ArrayLike] | None = None,
        card: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Self:
        """A checked dataset, its card completed by counts and the fingerprint (sha256 of the content).

        Raises InputError for item rows outside the catalog, and for a matrix that is not (I, V) or not finite.
        """
        _check_sequences(user_ids, sequences, len(items))
        checked = {key: check_matrix(key, value, len(items)) for key, value in (vectors or {}).items()}
        full_card = dict(card or {})
        full_card["counts"] = {
            "users": len(user_ids),
            "items": len(items),
            "interactions": len(sequences.items),
            "users_without_targets": int((sequences.lengths < MIN_TO_SPLIT).sum()),
        }
        full_card["category_level"] = items.category_level
        full_card["fingerprint"] = fingerprint(user_ids, sequences, items, checked)
        return cls(name, user_ids, sequences, items, checked, full_card, **more)

    @property
    def num_users(self) -> int:
        return len(self.sequences)

    @property
    def num_items(self) -> int:
        return len(self.items)

    def part(self, name: Literal["train", "train+validation", "all"]) -> Sequences:
        """Every user's interactions without the held-back targets: `train` is [:-2], `train+validation` [:-1]."""
        if name not in HELD_BACK:
            raise InputError(f"there is no part {name!r}; the parts are {sorted(HELD_BACK)}")
        return self.sequences.without_last(np.where(self._has_targets, HELD_BACK[name], 0))

    def item_counts(self, name: Literal["train", "train+validation", "all"]) -> npt.NDArray[np.int64]:
        """How often each item stands in a part, (I,): its popularity."""
        return np.bincount(self.part(name).items, minlength=self.num_items)

    def targets(self, split: Literal["validation", "test"]) -> tuple[Int32, Int32]:
        """The users that have a target (rows, ascending) and the target item of each (rows)."""
        if split not in TARGET_FROM_END:
            raise InputError(f"there is no split {split!r}; the splits are {sorted(TARGET_FROM_END)}")
        users = np.flatnonzero(self._has_targets)
        items = self.sequences.items[self.sequences.offsets[users + 1] - TARGET_FROM_END[split]]
        return users.astype(np.int32), items

    @property
    def _has_targets(self) -> npt.NDArray[np.bool_]:
        return self.sequences.lengths >= MIN_TO_SPLIT

    def save(self, folder: str | Path) -> None:
        """Write the dataset folder, replacing what was there."""
        with atomic_folder(folder) as fresh:
            header = {"format": FORMAT, "version": VERSION, "name": self.name, "card": self.card}
            write_json(fresh / "dataset.json", header | {"category_level": self.items.category_level})
            self.items.save(fresh / "items.parquet")
            _write_sequences(fresh / "sequences.parquet", self.user_ids, self.sequences)
            if self.vectors:
                tensors = {name: torch.from_numpy(matrix) for name, matrix in self.vectors.items()}
                write_tensors(fresh / "vectors.safetensors", tensors)

    @classmethod
    def load(cls, folder: str | Path) -> "Dataset":
        """The dataset that `save` wrote; InputError if the folder is damaged or its content is not what was saved."""
        folder = Path(folder)
        header = read_header(folder / "dataset.json", FORMAT, VERSION)
        items = ItemCatalog.load(folder / "items.parquet", header.get("category_level"))
        user_ids, sequences = _read_sequences(folder / "sequences.parquet")
        stored = folder / "vectors.safetensors"
        vectors = {name: t.numpy() for name, t in read_tensors(stored).items()} if stored.exists() else {}
        card = header.get("card", {})
        dataset = Dataset.build(header.get("name", folder.name), user_ids, sequences, items, vectors, card)
        if dataset.card["fingerprint"] != card.get("fingerprint"):
            raise InputError(f"{folder} was changed after it was saved (another fingerprint); prepare it again")
        return dataset


def check_matrix(name: str, matrix: npt.ArrayLike, num_rows: int) -> npt.NDArray[np.float32]:
    """`matrix` as float32 (rows, V), or InputError saying what is wrong with it."""
    array = np.asarray(matrix)
    if array.ndim != 2 or len(array) != num_rows or not array.shape[1]:
        raise InputError(f"matrix {name!r} has shape {array.shape} where ({num_rows}, V) was expected, a row an item")
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"matrix {name!r} has dtype {array.dtype} where real numbers were expected")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise InputError(f"matrix {name!r} has NaN or infinity in {len(bad)} rows, the first is row {bad[0]}")
    return np.ascontiguousarray(array, dtype=np.float32)


def load_matrix(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy file; InputError if it is missing, damaged or a pickle."""
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable .npy matrix: {error}") from None


def fingerprint(
    user_ids: pa.Array, sequences: Sequences, items: ItemCatalog, vectors: Mapping[str, npt.NDArray[np.float32]]
) -> str:
    """The sha256 of everything a dataset says, the same after saving and loading."""
    digest = hashlib.sha256()
    columns = {"user_id": user_ids} | {name: items.table[name] for name in items.table.column_names}
    for name, column in columns.items():
        digest.update(f"{name}\n".encode())
        for start in range(0, len(column), 4096):
            digest.update(repr(column.slice(start, 4096).to_pylist()).encode())
    for array in (sequences.offsets, sequences.items):
        digest.update(np.ascontiguousarray(array).data)
    for name in sorted(vectors):
        digest.update(f"{name}:{vectors[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(vectors[name]).data)
    return digest.hexdigest()


def _check_sequences(user_ids: pa.Array, sequences: Sequences, num_items: int) -> None:
    if not len(sequences.items) or not num_items:
        raise InputError(f"the dataset has {len(sequences.items)} interactions and {num_items} items; both are needed")
    if len(user_ids) != len(sequences):
        raise InputError(f"there are {len(user_ids)} user ids for {len(sequences)} sequences")
    low, high = sequences.items.min(), sequences.items.max()
    if low < 0 or high >= num_items:
        raise InputError(f"item rows run from {low} to {high} where 0 to {num_items - 1} was expected")


def _write_sequences(path: Path, user_ids: pa.Array, sequences: Sequences) -> None:
    items = pa.LargeListArray.from_arrays(pa.array(sequences.offsets), pa.array(sequences.items))
    write_parquet(path, pa.table({"user_id": user_ids, "items": items}))


def _read_sequences(path: Path) -> tuple[pa.Array, Sequences]:
    table = read_parquet(path, columns=("user_id", "items"))
    users, lists = table["user_id"].combine_chunks(), table["items"].combine_chunks()
    offsets = np.array(lists.offsets, dtype=np.int64)
    return users, Sequences(offsets - offsets[0], np.array(lists.flatten(), dtype=np.int32))
