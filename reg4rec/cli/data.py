"""Options that commands on data share: how files are read, what is held back, matrices that describe the items.

`reg4rec.data` is imported by what reads, so that help and refusals come without numpy and Arrow.
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
    """How files of interactions and items are read."""

    user: str = "user_id"
    """column of the user ids"""
    item: str = "item_id"
    """column of the item ids"""
    items_id: str | None = None
    """column of the item ids in the items file, by default that of --item, else `item_id`"""
    time: str | None = "timestamp"
    """column to sort by; None takes the rows as oldest first"""
    event: str | None = None
    """column that tells kinds of events apart, view and purchase for example; --events says what each counts"""
    events: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KIND=WEIGHT", help_behavior_hint="(default: all rows count alike)")
    ] = ()
    """what each kind counts as a target of training, purchase=1 view=0.2 for example: 0 is history alone, rows of kinds
    that are not listed are left out"""
    title: str | None = None
    """column of the item titles, by default `title` if it exists"""
    brand: str | None = None
    """column of the item brands, by default `brand` if it exists"""
    categories: str | None = None
    """column of the category path, a list or text separated by | or >, by default `categories` if it exists"""
    min_interactions: int = 1
    """users and items with fewer are dropped, again and again until none is left (k-core); 1 keeps all"""
    clicked_only: bool = False
    """leave out items of the items file that nobody clicked"""
    max_malformed: int = 10
    """lines that may be left out because they cannot be read; with more, nothing is prepared"""

    def read(self, interactions: Path, items: Path | None, vectors: dict[str, Path]) -> "Dataset":
        from reg4rec.data import read_interactions

        return read_interactions(interactions, items, vectors=vectors, **asdict(self) | {"events": self._weights()})

    def _weights(self) -> dict[str, float] | None:
        """`events` as numbers by kind."""
        weights: dict[str, float] = {}
        for word in self.events:
            kind, _, weight = word.rpartition("=")
            try:
                weights[kind] = float(weight)
            except ValueError:
                raise InputError(f"events holds {word!r}; give KIND=WEIGHT, --events purchase=1 for example") from None
        return weights or None


@dataclass(frozen=True)
class DataOptions:
    """How a dataset that was read is completed before it is saved."""

    split: Literal["leave-one-out", "time"] = "leave-one-out"
    """leave-one-out: each user's last two interactions are held back; time: all from two moments on"""
    validation_from: float | None = None
    """where validation begins in a time split, by default 0.8"""
    test_from: float | None = None
    """where test begins in a time split, by default 0.9"""
    cut_unit: Literal["quantile", "timestamp"] | None = None
    """whether the two are quantiles, shares of all interactions (the default), or timestamps"""
    targets: Literal["last", "all"] | None = None
    """of a time split: the last interaction that a user has in a period (the default), or all of them"""
    ties: Literal["kept", "shuffled"] = "kept"
    """kept: equal times of a user stay in the order of the file; shuffled: in a random order, where the file sorts them
    by id"""
    ties_seed: int | None = None
    """seed of that order, by default 0"""
    vectors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FILE")] = ()
    """matrices by name, image=image.npy for example: .npy files with a row an item, or Parquet files with an id column
    and a column of lists"""
    sentences: str | None = None
    """folder or installed package of a sentence encoder; its vectors of the items' texts become matrix `sentences`"""

    def __post_init__(self) -> None:
        of_time = ("validation_from", "test_from", "cut_unit", "targets")
        by_time, shuffled = self.split == "time", self.ties == "shuffled"
        wrong = [word for word in self.vectors if not all(word.partition("=")[::2])]
        if wrong:
            raise InputError(f"vectors holds {wrong[0]!r}; give NAME=FILE, --vectors image=image.npy for example")
        check_settings(
            self,
            *((name, by_time or getattr(self, name) is None, "left out without --split time") for name in of_time),
            ("ties_seed", shuffled or self.ties_seed is None, "left out without --ties shuffled"),
        )

    def matrices(self) -> dict[str, Path]:
        """The files of `vectors` by name."""
        return {name: Path(file) for name, _, file in (word.partition("=") for word in self.vectors)}

    def load(self, name: str, min_interactions: int | None = None) -> "Dataset":
        """The dataset of that name or folder, completed."""
        from reg4rec.data import load_dataset

        with _told_at_the_end():
            data = load_dataset(name, min_interactions)
        return self.apply(data.with_vectors(self.matrices()) if self.vectors else data)

    def read(self, files: FileOptions, interactions: Path, items: Path | None) -> "Dataset":
        """The dataset of files of interactions and items, completed."""
        with _told_at_the_end():
            data = files.read(interactions, items, self.matrices())
        return self.apply(data)

    def apply(self, data: "Dataset") -> "Dataset":
        """The dataset with the chosen split and sentence vectors; `vectors` are the reader's affair."""
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
                raise InputError(f"validation_from is {first}; no interaction is earlier, to train on")
        return data


@contextlib.contextmanager
def _told_at_the_end() -> Iterator[None]:
    """Within the block nothing is warned of that another split or order of ties may mend; `describe` says it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"reg4rec: (no user can be validated|[0-9]+% of a user's neighboring)")
        yield


def describe(data: "Dataset", out: Path) -> str:
    """One line about a prepared dataset, and one each about what was left out and what is not used.

    What reading has warned of is not said again.
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
            f"to validate and test: {targets:,} of {data.num_users:,} users; the other {fewer:,} have fewer than three "
            "interactions"
        )
    lines += [f"dropped: {_dropped(data.card)}"] if data.card.get("dropped", {}).get("below_min_interactions") else []
    lines += [*ordered_ties(data.card), *untested(data.card["split"])]
    lines += [f"hint: {hint}" for hint in data.card.get("hints", ())]
    return "\n".join(lines)


def _dropped(card: Mapping[str, Any]) -> str:
    before, after, minimum = card["before"], card["counts"], card["min_interactions"]
    parts = [f"{before[name] - after[name]:,} {name}" for name in ("users", "items", "interactions")]
    return f"{', '.join(parts)} (k-core {minimum}; --min-interactions 1 keeps them)"
