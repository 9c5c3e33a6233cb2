"""A dataset: who interacted with what, in which order, and what the items are."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.events import Kinds
from reg4rec.data.fingerprint import fingerprint
from reg4rec.data.matrices import KeyedMatrix, Matrix, check_matrix, match_rows, read_matrix
from reg4rec.data.parquet import read_parquet, write_parquet
from reg4rec.data.sequences import Sequences
from reg4rec.data.split import (
    Cases,
    CutUnit,
    Kept,
    Split,
    TargetKind,
    Times,
    check_times,
    kept_lengths,
    target_places,
    time_split,
)
from reg4rec.data.ties import shuffled_ties, tied_times
from reg4rec.errors import InputError
from reg4rec.settings import check_seed
from reg4rec.storage import new_header, read_header, read_tensors, write_header, write_tensors
from reg4rec.writing import atomic_folder

if TYPE_CHECKING:
    import torch

__all__ = ["ITEM_ROWS", "Dataset"]

FORMAT, VERSION = "reg4rec-dataset", 4
ITEM_ROWS = "item_rows"
"""The column of `sequences.parquet` that holds histories, as rows of the items table and not as ids."""

Int32 = npt.NDArray[np.int32]
PartName = Literal["train", "train+validation", "all"]
PARTS = ("train", "train+validation", "all")
SplitName = Literal["validation", "test"]
HISTORY_PART: dict[str, PartName] = {"validation": "train", "test": "train+validation"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users, their interactions (oldest first), the items, and the matrices the user brought.

    `split` says what is held back, by default each user's last two interactions (leave-one-out). `times` holds the
    time of every interaction, where the source had one, `kinds` what it was and what that weighs, where the reader was
    told (`events=`). Make a dataset with `Dataset.build`, which checks what it is given.
    """

    name: str
    user_ids: pa.Array
    sequences: Sequences
    items: ItemCatalog
    vectors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    times: Times | None = None
    split: Split = field(default_factory=Split)
    kinds: Kinds | None = None

    @classmethod
    def build(
        cls,
        name: str,
        user_ids: pa.Array,
        sequences: Sequences,
        items: ItemCatalog,
        vectors: Mapping[str, npt.ArrayLike] | None = None,
        card: Mapping[str, Any] | None = None,
        times: npt.ArrayLike | None = None,
        split: Split | None = None,
        kinds: Kinds | None = None,
        **more: Any,
    ) -> Self:
        """A checked dataset, its card completed by counts and the fingerprint (sha256 of the content).

        Raises InputError for item rows outside the catalog, user ids that repeat, times that are not in order, and
        for a matrix that is not (I, V) or not finite.
        """
        _check_sequences(user_ids, sequences, len(items))
        matrices = {key: check_matrix(key, value, len(items)) for key, value in (vectors or {}).items()}
        moments = None if times is None else check_times(sequences, times)
        full_card = dict(card or {}) | {"category_level": items.category_level}
        kinds = None if kinds is None else Kinds.build(kinds.weights, kinds.rows, len(sequences.items))
        dataset = cls(name, user_ids, sequences, items, matrices, full_card, moments, split or Split(), kinds, **more)
        full_card["counts"] = {
            "users": len(user_ids),
            "items": len(items),
            "interactions": len(sequences.items),
            "users_without_targets": len(user_ids) - len(np.unique(dataset.targets("test")[0])),
        }
        if moments is not None and "tied_times" not in full_card:
            full_card["tied_times"] = tied_times(sequences, moments, items.ids)
        full_card["split"] = dataset.split.to_json() | {
            f"{name}_targets": len(dataset.targets(name)[0]) for name in ("validation", "test")
        }
        if kinds is not None:
            heaviest = int(np.count_nonzero(dataset.target_kinds("validation") == 0))
            full_card["events"] = kinds.to_card() | {"validation_targets": heaviest}
        full_card["fingerprint"] = dataset.fingerprint()
        return dataset

    def __repr__(self) -> str:
        counts = {
            "users": self.num_users,
            "items": self.num_items,
            "interactions": len(self.sequences.items),
            "categories": len(self.items.category_names),
        }
        matrices = "".join(f", matrix {name!r}" for name in self.vectors)
        return f"Dataset({self.name!r}: {', '.join(f'{n:,} {what}' for what, n in counts.items())}{matrices})"

    @property
    def num_users(self) -> int:
        return len(self.sequences)

    @property
    def num_items(self) -> int:
        return len(self.items)

    @property
    def weights(self) -> npt.NDArray[np.float32] | None:
        """What every interaction counts as a target of training; None where all count alike."""
        return None if self.kinds is None else self.kinds.of_interactions

    def part(self, name: PartName) -> Sequences:
        """Every user's interactions without what the split holds back.

        `train` lacks validation and test, `train+validation` lacks test: with leave-one-out they are [:-2] and [:-1].
        """
        return self.sequences.without_last(self.sequences.lengths - self._kept_in(name))

    def item_counts(self, name: PartName) -> npt.NDArray[np.int64]:
        """How often each item occurs in a part, (I,): its popularity."""
        return np.bincount(self.part(name).items, minlength=self.num_items)

    def targets(self, split: SplitName) -> tuple[Int32, Int32]:
        """The users (rows, ascending) and the item (row) of every target that the split holds back.

        With leave-one-out the first interaction after the part that trains, with a time split the last one of a period
        or all of them (`Split.targets`). An interaction that has none before it is no target.
        """
        users, places = self._target_places(split)
        return users.astype(np.int32), self.sequences.items[places]

    def cases(self, split: SplitName) -> Cases:
        """The targets with the history of each: all that its user did before it."""
        users, places = self._target_places(split)
        starts, items = self.sequences.offsets[users], self.sequences.items
        return Cases(users.astype(np.int32), items[places], starts, places - starts, items)

    def tied_targets(self, split: SplitName) -> npt.NDArray[np.bool_] | None:
        """Which targets have the time of the interaction before them, (B,); None without times."""
        if self.times is None:
            return None
        _, places = self._target_places(split)
        return np.asarray(self.times[places] == self.times[places - 1])

    def target_kinds(self, split: SplitName) -> npt.NDArray[np.uint8] | None:
        """The row of each target's kind, (B,); None where all interactions count alike."""
        return None if self.kinds is None else self.kinds.rows[self._target_places(split)[1]]

    def _target_places(self, split: SplitName) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if split not in HISTORY_PART:
            raise InputError(f"there is no split {split!r}; the splits are {sorted(HISTORY_PART)}")
        before = self._kept_in(HISTORY_PART[split])
        until = self._kept_in("train+validation" if split == "validation" else "all")
        return target_places(self.split.targets, self.sequences, before, until)

    def _kept_in(self, name: str) -> npt.NDArray[np.int64]:
        if name not in PARTS:
            raise InputError(f"there is no part {name!r}; the parts are {sorted(PARTS)}")
        kept = self._kept
        return {"train": kept.train, "train+validation": kept.validation, "all": self.sequences.lengths}[name]

    @cached_property
    def _kept(self) -> Kept:
        return kept_lengths(self.split, self.sequences, self.times)

    def with_time_split(
        self, validation: float = 0.8, test: float = 0.9, unit: CutUnit = "quantile", targets: TargetKind = "last"
    ) -> "Dataset":
        """The same data, split at two moments instead of leave-one-out: nobody's future is in anybody's training.

        Validation lies between the two moments, test after the second. `unit` "quantile": shares of all interactions;
        "timestamp": moments in the unit of `times`, which belong to the later part. `targets`: the last interaction
        that a user has in a period, or all of them. InputError without times. The fingerprint changes: tokens and
        models must be fitted again.
        """
        return self._rebuilt(split=time_split(self.times, validation, test, unit, targets))

    def with_shuffled_ties(self, seed: int = 0) -> "Dataset":
        """The same data, each user's interactions of equal time in random order, drawn with `seed`.

        Where ties are in the order of their ids, as in public files of Amazon reviews, a model learns this order
        instead of taste; shuffled, training and targets are free of it. InputError without times.
        """
        check_seed(seed)
        places = shuffled_ties(self.sequences, self.times, seed)
        card = {name: value for name, value in self.card.items() if name != "tied_times"}  # counted again
        sequences = Sequences(self.sequences.offsets, self.sequences.items[places])
        kinds = None if self.kinds is None else replace(self.kinds, rows=self.kinds.rows[places])
        return self._rebuilt(sequences=sequences, kinds=kinds, card=card | {"ties_shuffled_with_seed": seed})

    def with_vectors(self, vectors: Mapping[str, Matrix]) -> "Dataset":
        """The same data with more matrices: arrays or .npy files with a row an item, or Parquet files keyed by id.

        A Parquet file has a column `item_id` and one column of lists; an item without a row gets zeros, and the card
        counts them.
        """
        found = {key: read_matrix(key, matrix) for key, matrix in vectors.items()}
        rows, reports = dict(self.vectors), dict(self.card.get("vectors", {}))
        for key, matrix in found.items():
            if isinstance(matrix, KeyedMatrix):
                rows[key], reports[key] = match_rows(matrix, self.items.ids)
            else:
                rows[key] = check_matrix(key, matrix, self.num_items)
        return self._rebuilt(vectors=rows, card=self.card | ({"vectors": reports} if reports else {}))

    def _rebuilt(self, **changes: Any) -> "Dataset":
        names = ("sequences", "vectors", "card", "times", "split", "kinds")
        parts = {name: getattr(self, name) for name in names} | changes
        return Dataset.build(self.name, self.user_ids, items=self.items, **parts)

    def fingerprint(self) -> str:
        """The sha256 of everything the dataset says, split included; the same after saving and loading."""
        columns = {"user_id": self.user_ids} | {f"item.{k}": self.items.table[k] for k in self.items.table.column_names}
        arrays: dict[str, npt.NDArray[Any]] = {"offsets": self.sequences.offsets, "items": self.sequences.items}
        arrays |= {} if self.times is None else {"times": self.times}
        arrays |= {f"vectors.{name}": self.vectors[name] for name in sorted(self.vectors)}
        settings = self.split.to_json()
        if self.kinds is not None:
            arrays["kinds"], settings["events"] = self.kinds.rows, self.kinds.weights
        return fingerprint(columns, arrays, settings)

    def save(self, folder: str | Path) -> None:
        """Write the dataset folder, replacing what was there."""
        with atomic_folder(folder, "dataset.json", ["vectors.safetensors"]) as fresh:
            self.items.save(fresh / "items.parquet")
            _write_sequences(fresh / "sequences.parquet", self)
            if self.vectors:
                write_tensors(fresh / "vectors.safetensors", self.vectors)
            files = [file.name for file in fresh.iterdir()]
            header = new_header(FORMAT, VERSION, name=self.name, split=self.split.to_json())
            body = {"category_level": self.items.category_level, "card": self.card}
            body |= {} if self.kinds is None else {"events": self.kinds.weights}
            write_header(fresh / "dataset.json", header | body, files)

    @classmethod
    def load(cls, folder: str | Path, verify: bool = True) -> "Dataset":
        """The dataset that `save` wrote; InputError if the folder is damaged or its content is not what was saved.

        `verify` False leaves the checksums of the files unread.
        """
        folder = Path(folder)
        header = read_header(folder / "dataset.json", FORMAT, VERSION, verify=verify)
        name, level, card = (header.get(key) for key in ("name", "category_level", "card"))
        if not isinstance(name, str) or not isinstance(card, dict) or type(level) is not int:
            raise InputError(f"{folder / 'dataset.json'} lacks name, category_level or card; prepare the data again")
        items = ItemCatalog.load(folder / "items.parquet", level)
        user_ids, sequences, times, rows = _read_sequences(folder / "sequences.parquet")
        kinds = None if rows is None else Kinds(header.get("events") or {}, rows)
        stored = "vectors.safetensors"
        vectors = _as_numpy(read_tensors(folder / stored)) if stored in header["files"] else {}
        split = Split.from_json(header.get("split"))
        dataset = Dataset.build(name, user_ids, sequences, items, vectors, card, times, split, kinds)
        if verify and dataset.card["fingerprint"] != card.get("fingerprint"):
            raise InputError(f"{folder} was changed after it was saved (another fingerprint); prepare it again")
        return dataset


def _as_numpy(tensors: "Mapping[str, torch.Tensor]") -> dict[str, npt.NDArray[Any]]:
    foreign = {name: str(t.dtype) for name, t in tensors.items() if str(t.dtype) != "torch.float32"}
    if foreign:
        raise InputError(f"the dataset's matrices are stored as float32, found {foreign}; prepare the data again")
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _check_sequences(user_ids: pa.Array, sequences: Sequences, num_items: int) -> None:
    if not len(sequences.items) or not num_items:
        raise InputError(f"the dataset has {len(sequences.items)} interactions and {num_items} items; both are needed")
    if len(user_ids) != len(sequences):
        raise InputError(f"there are {len(user_ids)} user ids for {len(sequences)} sequences")
    if user_ids.null_count or len(pc.unique(user_ids)) < len(user_ids):
        raise InputError("some user ids are missing or stand for several sequences; keep one sequence a user")
    low, high = sequences.items.min(), sequences.items.max()
    if low < 0 or high >= num_items:
        raise InputError(f"item rows run from {low} to {high} where 0 to {num_items - 1} was expected")


def _write_sequences(path: Path, dataset: Dataset) -> None:
    offsets = pa.array(dataset.sequences.offsets)
    columns: dict[str, npt.NDArray[Any]] = {ITEM_ROWS: dataset.sequences.items}
    columns |= {} if dataset.times is None else {"times": dataset.times}
    columns |= {} if dataset.kinds is None else {"kinds": dataset.kinds.rows}
    lists = {name: pa.LargeListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
    write_parquet(path, pa.table({"user_id": dataset.user_ids} | lists))


def _read_sequences(path: Path) -> tuple[pa.Array, Sequences, npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
    """User ids, item rows and, where the file has them, times and kinds."""
    table = read_parquet(path, columns=("user_id", ITEM_ROWS))
    users = table["user_id"].combine_chunks()
    sequences = Sequences(*_flat(path, table[ITEM_ROWS], pa.int32()))
    more: list[npt.NDArray[Any] | None] = []
    for name in ("times", "kinds"):
        if name not in table.column_names:
            more.append(None)
            continue
        whole = pa.types.is_integer(getattr(table[name].type, "value_type", pa.null()))
        offsets, values = _flat(path, table[name], pa.int64() if whole else pa.float64())
        if not np.array_equal(offsets, sequences.offsets):
            raise InputError(f"{path} has lists of {name} and of items that differ in length; prepare the data again")
        more.append(values)
    return users, sequences, more[0], more[1]


def _flat(path: Path, column: pa.ChunkedArray, kind: pa.DataType) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Offsets from 0 and the values of a column of lists of whole numbers or times, none null."""
    lists = column.combine_chunks()
    try:
        values = lists.flatten().cast(kind)
        if lists.null_count or values.null_count:
            raise ValueError("some are null")
        lengths = np.asarray(pc.list_value_length(lists), dtype=np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, AttributeError, ValueError) as error:
        raise InputError(f"{path} has a column of {column.type} where lists of {kind} are stored: {error}") from None
    return np.concatenate([[0], np.cumsum(lengths)]), np.array(values)
