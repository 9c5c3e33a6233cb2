"""A dataset: users, their interactions in order, and the items."""

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
from reg4rec.page import facts_html
from reg4rec.settings import check_seed
from reg4rec.storage import new_header, read_header, read_tensors, write_header, write_tensors
from reg4rec.writing import atomic_folder

if TYPE_CHECKING:
    import torch

__all__ = ["ITEM_ROWS", "Dataset"]

FORMAT, VERSION = "reg4rec-dataset", 4
ITEM_ROWS = "item_rows"
SHOWN = 5
"""How many items a notebook shows of a dataset."""
"""The column of `sequences.parquet` with the histories, as rows of the item table (not ids)."""

Int32 = npt.NDArray[np.int32]
PartName = Literal["train", "train+validation", "all"]
PARTS = ("train", "train+validation", "all")
SplitName = Literal["validation", "test"]
HISTORY_PART: dict[str, PartName] = {"validation": "train", "test": "train+validation"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users, their interactions (oldest first), the items, and matrices of item vectors.

    `split` defines the held-out targets, by default each user's last two interactions (leave-one-out). `times` has the
    time of every interaction, None if the source had none; `kinds` has its kind of event and weight, None without
    `events=`. Make a dataset with `Dataset.build`, which checks its arguments.
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
        """A checked dataset; adds counts and the fingerprint (sha256 of the content) to its card.

        InputError for item rows outside the catalog, repeated user ids, times out of order, and matrices that are not
        finite or not (I, V).
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

    def _repr_html_(self) -> str:
        titles = self.items.table["title"].slice(0, SHOWN).to_pylist()
        facts = {"first items": "; ".join(str(title) for title in titles if title)}
        split = self.card.get("split", {})
        if "kind" in split:
            sizes = (split["kind"], split["validation_targets"], split["test_targets"])
            facts["split"] = "{}, {:,} validation and {:,} test targets".format(*sizes)
        facts["order"] = self.card.get("order", "")
        return facts_html(repr(self), {name: fact for name, fact in facts.items() if fact})

    @property
    def num_users(self) -> int:
        return len(self.sequences)

    @property
    def num_items(self) -> int:
        return len(self.items)

    @property
    def weights(self) -> npt.NDArray[np.float32] | None:
        """The weight of every interaction as a training target; None if all are equal."""
        return None if self.kinds is None else self.kinds.of_interactions

    def part(self, name: PartName) -> Sequences:
        """Every user's interactions in a part of the split.

        `train` excludes validation and test, `train+validation` excludes test: with leave-one-out [:-2] and [:-1].
        """
        return self.sequences.without_last(self.sequences.lengths - self._kept_in(name))

    def item_counts(self, name: PartName) -> npt.NDArray[np.int64]:
        """The number of occurrences of each item in a part, (I,): its popularity."""
        return np.bincount(self.part(name).items, minlength=self.num_items)

    def targets(self, split: SplitName) -> tuple[Int32, Int32]:
        """User rows (ascending) and item rows of the held-out targets.

        With leave-one-out, a user's target is the first interaction after the training part; with a time split, the
        last one of the period or all of them (`Split.targets`). A user's very first interaction is never a target.
        """
        users, places = self._target_places(split)
        return users.astype(np.int32), self.sequences.items[places]

    def cases(self, split: SplitName) -> Cases:
        """The targets, each with its history: everything its user did before."""
        users, places = self._target_places(split)
        starts, items = self.sequences.offsets[users], self.sequences.items
        return Cases(users.astype(np.int32), items[places], starts, places - starts, items)

    def tied_targets(self, split: SplitName) -> npt.NDArray[np.bool_] | None:
        """Whether each target has the same time as the interaction before it, (B,); None without times."""
        if self.times is None:
            return None
        _, places = self._target_places(split)
        return np.asarray(self.times[places] == self.times[places - 1])

    def target_kinds(self, split: SplitName) -> npt.NDArray[np.uint8] | None:
        """The kind of event of each target, as its row in `kinds`, (B,); None without kinds."""
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
        """The same data split at two times instead of leave-one-out, so that training never sees the future.

        Validation is between the two times, test after the second. `unit` "quantile": fractions of all interactions;
        "timestamp": times in the unit of `times`; an interaction at a cut belongs to the later part. `targets`: each
        user's last interaction in a period, or all. InputError without times. The fingerprint changes, so tokens and
        models must be fitted again.
        """
        return self._rebuilt(split=time_split(self.times, validation, test, unit, targets))

    def with_shuffled_ties(self, seed: int = 0) -> "Dataset":
        """The same data with each user's interactions of equal time in random order, drawn with `seed`.

        If ties are sorted by id, as in public files of Amazon reviews, a model can learn that order instead of taste;
        shuffling removes it from training and targets. InputError without times.
        """
        check_seed(seed)
        places = shuffled_ties(self.sequences, self.times, seed)
        card = {name: value for name, value in self.card.items() if name != "tied_times"}  # recounted
        sequences = Sequences(self.sequences.offsets, self.sequences.items[places])
        kinds = None if self.kinds is None else replace(self.kinds, rows=self.kinds.rows[places])
        return self._rebuilt(sequences=sequences, kinds=kinds, card=card | {"ties_shuffled_with_seed": seed})

    def with_vectors(self, vectors: Mapping[str, Matrix]) -> "Dataset":
        """The same data with more matrices: arrays or .npy files with one row per item, or Parquet files keyed by id.

        A Parquet file has a column `item_id` and one column of lists; items without a row get zeros and are counted in
        the card.
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
        """The sha256 of the content, split included; the same after saving and loading."""
        columns = {"user_id": self.user_ids} | {f"item.{k}": self.items.table[k] for k in self.items.table.column_names}
        arrays: dict[str, npt.NDArray[Any]] = {"offsets": self.sequences.offsets, "items": self.sequences.items}
        arrays |= {} if self.times is None else {"times": self.times}
        arrays |= {f"vectors.{name}": self.vectors[name] for name in sorted(self.vectors)}
        settings = self.split.to_json()
        if self.kinds is not None:
            arrays["kinds"], settings["events"] = self.kinds.rows, self.kinds.weights
        return fingerprint(columns, arrays, settings)

    def save(self, folder: str | Path) -> None:
        """Write the dataset folder, replacing an earlier one."""
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
        """The dataset that `save` wrote; InputError if the folder is damaged or was changed.

        `verify=False` skips the checksums.
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
            raise InputError(f"{folder} was changed after it was saved (its fingerprint differs); prepare it again")
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
        raise InputError("some user ids are missing or repeated; keep one sequence per user")
    low, high = sequences.items.min(), sequences.items.max()
    if low < 0 or high >= num_items:
        raise InputError(f"item rows range from {low} to {high} where 0 to {num_items - 1} was expected")


def _write_sequences(path: Path, dataset: Dataset) -> None:
    offsets = pa.array(dataset.sequences.offsets)
    columns: dict[str, npt.NDArray[Any]] = {ITEM_ROWS: dataset.sequences.items}
    columns |= {} if dataset.times is None else {"times": dataset.times}
    columns |= {} if dataset.kinds is None else {"kinds": dataset.kinds.rows}
    lists = {name: pa.LargeListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
    write_parquet(path, pa.table({"user_id": dataset.user_ids} | lists))


def _read_sequences(path: Path) -> tuple[pa.Array, Sequences, npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
    """User ids, item rows, times and kinds; the last two are None if the file lacks them."""
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
    """Offsets (from 0) and values of a list column, as `kind`; InputError for other types and nulls."""
    lists = column.combine_chunks()
    try:
        values = lists.flatten().cast(kind)
        if lists.null_count or values.null_count:
            raise ValueError("some are null")
        lengths = np.asarray(pc.list_value_length(lists), dtype=np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, AttributeError, ValueError) as error:
        raise InputError(f"{path} has a column of {column.type} where lists of {kind} were expected: {error}") from None
    return np.concatenate([[0], np.cumsum(lengths)]), np.array(values)
