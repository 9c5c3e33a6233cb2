"""Options shared by commands on data: reading of files, split, matrices of item vectors.

`reg4rec.data` is imported only to read, so that help and errors about options need no numpy and Arrow.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reg4rec.errors import InputError
from reg4rec.settings import check_settings

if TYPE_CHECKING:
    from reg4rec.data import Dataset

__all__ = ["DataOptions", "FileOptions", "describe"]


@dataclass(frozen=True)
class FileOptions:
    """Options for reading files of interactions and items."""

    user: str = "user_id"
    """column of the user ids"""
    item: str = "item_id"
    """column of the item ids"""
    items_id: str | None = None
    """column of the item ids in the items file, by default that of --item, else `item_id`"""
    time: str | None = "timestamp"
    """column to sort by; None if the rows are oldest first"""
    event: str | None = None
    """column with the kind of event, such as view or purchase; needs --events"""
    events: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KIND=WEIGHT", help_behavior_hint="(default: all rows count the same)")
    ] = ()
    """weight of each kind of event as a training target, such as purchase=1 view=0.2; kinds of weight 0 are only
    history, and rows of unlisted kinds are left out"""
    title: str | None = None
    """column of the item titles, by default `title` if it exists"""
    brand: str | None = None
    """column of the item brands, by default `brand` if it exists"""
    categories: str | None = None
    """column of the category path, a list or text separated by | or >, by default `categories` if it exists"""
    min_interactions: int = 1
    """drop users and items with fewer interactions, repeatedly until none is left (k-core); 1 keeps all"""
    clicked_only: bool = False
    """leave out items of the items file without interactions"""
    max_malformed: int = 10
    """maximum number of unreadable lines to leave out; with more, the command fails"""

    def read(self, interactions: Path, items: Path | None, vectors: dict[str, Path]) -> "Dataset":
        from reg4rec.data import read_interactions

        return read_interactions(interactions, items, vectors=vectors, **asdict(self) | {"events": self._weights()})

    def _weights(self) -> dict[str, float] | None:
        """The weights in `events` by kind; None without any."""
        weights: dict[str, float] = {}
        for word in self.events:
            kind, _, weight = word.rpartition("=")
            try:
                weights[kind] = float(weight)
            except ValueError:
                raise InputError(f"events has {word!r}; give KIND=WEIGHT, such as --events purchase=1") from None
        return weights or None


@dataclass(frozen=True)
class DataOptions:
    """Options for the split, ties and matrices of a dataset."""

    split: Literal["leave-one-out", "time"] = "leave-one-out"
    """leave-one-out: hold out each user's last two interactions; time: hold out everything after a point in time"""
    validation_from: float | None = None
    """start of validation in a time split, by default 0.8"""
    test_from: float | None = None
    """start of test in a time split, by default 0.9"""
    cut_unit: Literal["quantile", "timestamp"] | None = None
    """unit of these two: quantile, fractions of all interactions (the default), or timestamp"""
    targets: Literal["last", "all"] | None = None
    """targets of a time split: each user's last interaction in a period (the default), or all of them"""
    ties: Literal["kept", "shuffled"] = "kept"
    """order of a user's interactions at equal times. kept: as in the file; shuffled: random, for files sorted by id"""
    ties_seed: int | None = None
    """seed of the random order, by default 0"""
    vectors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FILE")] = ()
    """matrices by name, such as image=image.npy: .npy files with one row per item, or Parquet files with an id column
    and a column of lists"""
    sentences: str | None = None
    """folder or installed package of a sentence encoder; its vectors of item texts become the matrix `sentences`"""

    def __post_init__(self) -> None:
        of_time = ("validation_from", "test_from", "cut_unit", "targets")
        by_time, shuffled = self.split == "time", self.ties == "shuffled"
        wrong = [word for word in self.vectors if not all(word.partition("=")[::2])]
        if wrong:
            raise InputError(f"vectors has {wrong[0]!r}; give NAME=FILE, such as --vectors image=image.npy")
        check_settings(
            self,
            *((name, by_time or getattr(self, name) is None, "left out without --split time") for name in of_time),
            ("ties_seed", shuffled or self.ties_seed is None, "left out without --ties shuffled"),
        )

    def matrices(self) -> dict[str, Path]:
        """The files of `vectors` by name."""
        return {name: Path(file) for name, _, file in (word.partition("=") for word in self.vectors)}

    def load(self, name: str, min_interactions: int | None = None) -> "Dataset":
        """The dataset with this name or folder, with these options applied."""
        from reg4rec.data import load_dataset

        with _warnings_deferred():
            data = load_dataset(name, min_interactions)
        return self.apply(data.with_vectors(self.matrices()) if self.vectors else data)

    def read(self, files: FileOptions, interactions: Path, items: Path | None) -> "Dataset":
        """The dataset from files of interactions and items, with these options applied."""
        with _warnings_deferred():
            data = files.read(interactions, items, self.matrices())
        return self.apply(data)

    def apply(self, data: "Dataset") -> "Dataset":
        """The dataset with the chosen split, ties and sentence vectors; `vectors` are added on reading."""
        if self.sentences is not None:
            from reg4rec.data import sentence_view

            data = data.with_vectors({"sentences": sentence_view(data.items, self.sentences)})
        if self.ties == "shuffled":
            data = data.with_shuffled_ties(self.ties_seed or 0)
        if self.split == "time":
            first = 0.8 if self.validation_from is None else self.validation_from
            last = 0.9 if self.test_from is None else self.test_from
            data = data.with_time_split(first, last, self.cut_unit or "quantile", self.targets or "last")
            if not len(data.part("train").items):
                raise InputError(f"validation_from is {first}; no interaction is earlier, so there is no training data")
        return data


@contextlib.contextmanager
def _warnings_deferred() -> Iterator[None]:
    """Suppress warnings that the split or order of ties may make obsolete; `describe` prints them if still valid."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"reg4rec: (no user can be validated|[0-9]+% of consecutive interactions)")
        yield


def describe(data: "Dataset", out: Path) -> str:
    """A summary line of a prepared dataset, and lines about what was left out or is unused.

    Warnings that were given on reading are not repeated.
    """
    from reg4rec.data.hints import ordered_ties, untested

    interactions = len(data.sequences.items)
    seed = data.card.get("ties_shuffled_with_seed")
    ties = "" if seed is None else f", equal times shuffled with seed {seed}"
    lines = [
        f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, {interactions:,} interactions, "
        f"{len(data.items.category_names)} categories, {data.split.kind} split{ties}: {out}"
    ]
    if events := data.card.get("events"):
        kinds = (f"{kind} {weight:g} ({events['interactions'][kind]:,})" for kind, weight in events["weights"].items())
        lines.append(f"weights of kinds (and their interactions): {', '.join(kinds)}")
    if 0 < (missing := data.card.get("items_not_described", 0)) < data.num_items:
        lines.append(f"without a row in the items file: {missing:,} of {data.num_items:,} items")
    if unclicked := data.card.get("items_never_clicked", 0):
        lines.append(f"never clicked: {unclicked:,} items (--clicked-only leaves them out)")
    targets = min(data.card["split"]["validation_targets"], data.card["split"]["test_targets"])
    if 0 < targets < data.num_users and data.split.kind == "leave-one-out":
        fewer = data.card["counts"]["users_without_targets"]
        lines.append(
            f"for validation and test: {targets:,} of {data.num_users:,} users; the other {fewer:,} have fewer than "
            "three interactions"
        )
    lines += [f"dropped: {_dropped(data.card)}"] if data.card.get("dropped", {}).get("below_min_interactions") else []
    lines += [*ordered_ties(data.card), *untested(data.card["split"])]
    lines += [f"hint: {hint}" for hint in data.card.get("hints", ())]
    return "\n".join(lines)


def _dropped(card: Mapping[str, Any]) -> str:
    before, after, minimum = card["before"], card["counts"], card["min_interactions"]
    parts = [f"{before[name] - after[name]:,} {name}" for name in ("users", "items", "interactions")]
    return f"{', '.join(parts)} (k-core {minimum}; --min-interactions 1 keeps them)"
