"""Kinds of interactions, such as views and purchases, and their weights as training targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from reg4rec.errors import InputError

__all__ = ["Kinds", "check_weights"]

MOST, LARGEST = 256, float(np.finfo(np.float32).max)
"""The number of kinds that fit in a byte, and the largest weight in float32."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """The weight of each kind by name, heaviest first, and the kind of every interaction as a row of them (uint8)."""

    weights: dict[str, float]
    rows: npt.NDArray[np.uint8]

    @classmethod
    def build(cls, weights: Any, rows: npt.NDArray[Any], num_interactions: int) -> "Kinds":
        """Checked kinds; InputError for invalid or unsorted weights, and unless every interaction has a valid row."""
        checked = check_weights(weights)
        if list(checked) != list(weights) or rows.shape != (num_interactions,) or rows.dtype.kind not in "iu":
            raise InputError(
                f"kinds are {rows.dtype} of shape {rows.shape} among {list(weights)} where a row for each of the "
                f"{num_interactions} interactions was expected, among kinds in order of decreasing weight"
            )
        if rows.min(initial=0) < 0 or rows.max(initial=0) >= len(checked):
            raise InputError(f"rows of kinds range from {rows.min()} to {rows.max()}; there are {len(checked)} kinds")
        return cls(checked, rows.astype(np.uint8))

    @property
    def of_interactions(self) -> npt.NDArray[np.float32]:
        """The weight of every interaction."""
        return np.array(list(self.weights.values()), dtype=np.float32)[self.rows]

    def to_card(self) -> dict[str, Any]:
        """The weights, and the number of interactions of each kind."""
        counts = np.bincount(self.rows, minlength=len(self.weights)).tolist()
        return {"weights": self.weights, "interactions": dict(zip(self.weights, counts, strict=True))}


def check_weights(weights: Any) -> dict[str, float]:
    """The weights by name, heaviest first, ties by name; InputError for invalid weights."""
    if not isinstance(weights, Mapping) or not 1 <= len(weights) <= MOST:
        raise InputError(f"events is {weights!r}; give weights for 1 to {MOST} kinds, such as purchase=1 and view=0.2")
    for kind, weight in weights.items():
        number = isinstance(weight, Real) and not isinstance(weight, bool | np.bool_)
        if not number or not 0 <= weight <= LARGEST:
            raise InputError(f"events gives {kind!r} the weight {weight!r}; a weight is a finite number, 0 or more")
    named = {str(kind).strip(): float(weight) for kind, weight in weights.items()}
    if "" in named:
        raise InputError("events gives a weight to a kind without a name; rows without a kind are left out")
    if not any(map(np.float32, named.values())):
        raise InputError(f"events gives weight 0 to all of {', '.join(named)}, which leaves no targets; raise one")
    return dict(sorted(named.items(), key=lambda pair: (-pair[1], pair[0])))
