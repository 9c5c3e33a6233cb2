"""What is held back from training: each user's last two interactions, or all that happened after a moment."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError

__all__ = ["CutUnit", "Split", "SplitKind", "kept_lengths", "time_split"]

SplitKind = Literal["leave-one-out", "time"]
CutUnit = Literal["quantile", "timestamp"]
MIN_TO_SPLIT = 3

Int64 = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """How targets are held back; the target of a user is the first interaction after what a part keeps.

    `leave-one-out`: a user with three or more interactions gives the last one to test and the one before it to
    validation. `time`: training ends before `validation_from`, validation before `test_from`, both in the unit of the
    dataset's times, the same moments for all users.
    """

    kind: SplitKind = "leave-one-out"
    validation_from: float | None = None
    test_from: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SplitKind):
            raise InputError(f"there is no split {self.kind!r}; the splits are {list(get_args(SplitKind))}")
        cuts = (self.validation_from, self.test_from)
        if self.kind == "leave-one-out" and cuts != (None, None):
            raise InputError(f"a leave-one-out split has no moments, found {cuts}; use kind='time'")
        if self.kind == "time" and not _ascending(*cuts):
            raise InputError(f"a time split needs validation_from < test_from, two finite numbers; found {cuts}")

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, for headers and cards."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, stored: Any) -> "Split":
        """The split that `to_json` described; InputError for anything else."""
        try:
            return cls(**stored)
        except TypeError as error:
            raise InputError(f"{stored!r} describes no split: {error}") from None


class Kept(NamedTuple):
    """How many of each user's interactions, from the oldest, two parts keep."""

    train: Int64
    validation: Int64


def kept_lengths(split: Split, sequences: Sequences, times: Times | None) -> Kept:
    """Each user's number of interactions in `train` and in `train+validation`; a time split needs times."""
    lengths = sequences.lengths
    if split.kind == "leave-one-out":
        held_back = (lengths >= MIN_TO_SPLIT).astype(np.int64)
        return Kept(lengths - 2 * held_back, lengths - held_back)
    if times is None:
        raise InputError("a time split needs the time of every interaction; this dataset was read without times")
    cuts = (split.validation_from, split.test_from)
    return Kept(*(_count_before(sequences, times, cut) for cut in cuts if cut is not None))


def time_split(times: Times | None, validation: float, test: float, unit: CutUnit) -> Split:
    """A split at two timestamps, or at two quantiles of all times (between 0 and 1).

    At a quantile, interactions of the very moment are held back with the later ones.
    """
    if times is None:
        raise InputError("a time split needs the time of every interaction; this dataset was read without times")
    if unit not in get_args(CutUnit):
        raise InputError(f"cuts are given as {list(get_args(CutUnit))}, found {unit!r}")
    if unit == "timestamp":
        return Split("time", validation, test)
    if not 0 < validation < test < 1:
        raise InputError(
            f"validation from {validation} and test from {test}: quantiles must rise between 0 and 1, "
            "for example 0.8 and 0.9"
        )
    cuts = np.quantile(times, [validation, test], method="higher").tolist()
    if cuts[0] == cuts[1]:
        raise InputError(f"quantiles {validation} and {test} are both at time {cuts[0]}; choose others")
    return Split("time", *cuts)


def check_times(sequences: Sequences, times: npt.ArrayLike) -> Times:
    """Times as int64 or float64, one an interaction, oldest first within a user; InputError otherwise."""
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
