"""Splits: each user's last two interactions are held out (leave-one-out), or everything after a point in time."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError

__all__ = ["Cases", "CutUnit", "Split", "SplitKind", "TargetKind", "kept_lengths", "target_places", "time_split"]

SplitKind = Literal["leave-one-out", "time"]
CutUnit = Literal["quantile", "timestamp"]
TargetKind = Literal["last", "all"]
MIN_TO_SPLIT = 3

Int64 = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """The rule that holds out targets.

    `leave-one-out`: for users with three or more interactions, the last is the test target, the one before it the
    validation target. `time`: training ends before `validation_from`, validation before `test_from`, both in the unit
    of the dataset's times. `targets` are each user's "last" interaction in a period, or "all"; the history of a target
    is everything its user did before, including earlier interactions of the period.
    """

    kind: SplitKind = "leave-one-out"
    validation_from: float | None = None
    test_from: float | None = None
    targets: TargetKind | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SplitKind):
            raise InputError(f"there is no split {self.kind!r}; the splits are {list(get_args(SplitKind))}")
        cuts = (self.validation_from, self.test_from)
        if self.kind == "leave-one-out" and (cuts != (None, None) or self.targets is not None):
            raise InputError(
                f"a leave-one-out split takes no times and no targets, found {cuts}, {self.targets}; use kind='time'"
            )
        if self.kind == "time" and not _ascending(*cuts):
            raise InputError(f"a time split needs validation_from < test_from, two finite numbers; found {cuts}")
        if self.kind == "time" and self.targets not in get_args(TargetKind):
            raise InputError(
                f"targets of a time split is {self.targets!r}; it must be one of {list(get_args(TargetKind))}; "
                "prepare the data again if it was saved by an earlier version"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields that are not None, for headers and cards."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, stored: Any) -> "Split":
        """The split from the output of `to_json`; InputError for anything else."""
        try:
            return cls(**stored)
        except TypeError as error:
            raise InputError(f"{stored!r} does not describe a split: {error}") from None


@dataclass(frozen=True, eq=False)
class Cases:
    """B evaluation cases: user row, non-empty history, and target (the item row that came next).

    A user has one case, or several if a time split takes all targets. The history of case b is
    `items_X[starts_B[b]:starts_B[b] + lengths_B[b]]`.
    """

    users_B: npt.NDArray[np.int32]
    targets_B: npt.NDArray[np.int32]
    starts_B: Int64
    lengths_B: Int64
    items_X: npt.NDArray[np.int32]

    @classmethod
    def of(cls, users_B: npt.NDArray[np.int32], histories: Sequences, targets_B: npt.NDArray[np.int32]) -> "Cases":
        """Cases with the given histories."""
        return cls(users_B, targets_B, histories.offsets[:-1], histories.lengths, histories.items)

    def __len__(self) -> int:
        return len(self.users_B)

    @property
    def histories(self) -> Sequences:
        """The histories of all targets, copied."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths_B)])
        return Sequences(
            offsets, self.items_X[np.repeat(self.starts_B - offsets[:-1], self.lengths_B) + np.arange(offsets[-1])]
        )

    def take(self, rows: npt.NDArray[Any]) -> "Cases":
        """The cases in the given rows, in that order."""
        return replace(
            self,
            users_B=self.users_B[rows],
            targets_B=self.targets_B[rows],
            starts_B=self.starts_B[rows],
            lengths_B=self.lengths_B[rows],
        )


class Kept(NamedTuple):
    """Per user, the number of oldest interactions in `train` and in `train+validation`, (B,) each."""

    train: Int64
    validation: Int64


def kept_lengths(split: Split, sequences: Sequences, times: Times | None) -> Kept:
    """The number of each user's interactions in two parts; InputError for a time split without times."""
    lengths = sequences.lengths
    if split.kind == "leave-one-out":
        held_back = (lengths >= MIN_TO_SPLIT).astype(np.int64)
        return Kept(lengths - 2 * held_back, lengths - held_back)
    if times is None:
        raise InputError("a time split needs the time of every interaction; this dataset was read without times")
    cuts = (split.validation_from, split.test_from)
    return Kept(*(_count_before(sequences, times, cut) for cut in cuts if cut is not None))


def target_places(targets: TargetKind | None, sequences: Sequences, before: Int64, until: Int64) -> tuple[Int64, Int64]:
    """User rows and positions in `sequences.items` of the targets among each user's interactions before..until.

    The first one if `targets` is None (leave-one-out). A user's very first interaction is never a target.
    """
    if targets == "all":
        first = np.maximum(before, 1)
        count = np.maximum(until - first, 0)
        users = np.repeat(np.arange(len(sequences)), count)
        number = np.arange(len(users)) - np.repeat(np.cumsum(count) - count, count)
        return users, sequences.offsets[users] + first[users] + number
    place = before if targets is None else until - 1
    users = np.flatnonzero((place > 0) & (before < until))
    return users, sequences.offsets[users] + place[users]


def time_split(times: Times | None, validation: float, test: float, unit: CutUnit, targets: TargetKind) -> Split:
    """A split at two timestamps, or after two quantiles of all times (between 0 and 1).

    Interactions at exactly the time of a quantile belong to the earlier part, as in published splits.
    """
    if times is None:
        raise InputError("a time split needs the time of every interaction; this dataset was read without times")
    if unit not in get_args(CutUnit):
        raise InputError(f"the unit of the cuts is {unit!r}; it must be one of {list(get_args(CutUnit))}")
    if unit == "timestamp":
        return Split("time", validation, test, targets)
    if not 0 < validation < test < 1:
        raise InputError(
            f"validation from {validation} and test from {test}: quantiles must rise between 0 and 1, "
            "for example 0.8 and 0.9"
        )
    moments = np.quantile(times, [validation, test], method="higher")
    later = [times[times > moment] for moment in moments]
    if moments[0] == moments[1] or not len(later[1]):
        raise InputError(
            f"quantiles {validation} and {test} are at times {moments.tolist()} and the last time is {times.max()}, "
            "which leaves a part empty; choose others"
        )
    return Split("time", later[0].min().item(), later[1].min().item(), targets)


def check_times(sequences: Sequences, times: npt.ArrayLike) -> Times:
    """Times as int64 or float64; InputError unless there is one per interaction, oldest first within a user."""
    array = np.asarray(times)
    if array.shape != sequences.items.shape or array.dtype.kind not in "iuf":
        raise InputError(
            f"times are {array.dtype} of shape {array.shape} where a number for each of the "
            f"{len(sequences.items)} interactions was expected"
        )
    checked: Times = array.astype(np.float64) if array.dtype.kind == "f" else array.astype(np.int64)
    if not np.isfinite(checked).all():
        raise InputError("some times are not finite; drop those interactions")
    owners = sequences.owners()
    if ((checked[1:] < checked[:-1]) & (owners[1:] == owners[:-1])).any():
        raise InputError("some user's times are not in order; list each user's interactions oldest first")
    return checked


def _ascending(first: Any, second: Any) -> bool:
    if any(isinstance(cut, bool) or not isinstance(cut, int | float) for cut in (first, second)):
        return False
    return bool(-np.inf < first < second < np.inf)


def _count_before(sequences: Sequences, times: Times, cut: float) -> Int64:
    earlier = np.concatenate([[0], np.cumsum(times < cut, dtype=np.int64)])
    return np.asarray(np.diff(earlier[sequences.offsets]))
