"""Settings of the search for items."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from reg4rec.errors import InputError

__all__ = ["RetrieverName", "SearchConfig", "SearchOrder"]

SearchOrder = Literal["confidence", "fixed"]
RetrieverName = Literal["auto", "exact", "paths"]


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the search for items: the retriever, the width of the path search, and when CORP drops a path."""

    num_beams: int = 75
    """number of paths that the search keeps at every step; does not depend on the number of items asked for"""
    num_spares: int = 4
    """extra paths decoded at every step, which replace the paths that CORP drops (D10)"""
    prune_threshold: float | None = 0.06
    """CORP's theta: drop a path whose category distribution changes in a step by more than this Jensen-Shannon
    divergence (nats); None turns CORP off"""
    order: SearchOrder = "confidence"
    """order in which a path takes codebooks. confidence: each step may take any unused codebook (CRSS); fixed: step t
    takes codebook t"""
    num_steps: int | None = None
    """number of tokens that a path decodes, None for all M; a shorter path leads to all items that have its tokens"""
    retriever: RetrieverName = "auto"
    """how items are found. exact: score every item; paths: search paths of tokens; auto: exact if the model scores
    items and has at most two million of them, else paths"""

    def __post_init__(self) -> None:
        if self.retriever not in get_args(RetrieverName):
            raise InputError(f"retriever must be one of {get_args(RetrieverName)}, found {self.retriever!r}")
        if self.num_beams < 1 or self.num_spares < 0:
            raise InputError(
                f"num_beams must be at least 1 and num_spares at least 0, found {self.num_beams}, {self.num_spares}"
            )
        if self.prune_threshold is not None and not self.prune_threshold >= 0:
            raise InputError(f"prune_threshold must be 0 nats or more, or None, found {self.prune_threshold}")
        if self.order not in get_args(SearchOrder):
            raise InputError(f"order must be one of {get_args(SearchOrder)}, found {self.order!r}")
        if self.num_steps is not None and self.num_steps < 1:
            raise InputError(f"num_steps must be at least 1, or None for all, found {self.num_steps}")

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "SearchConfig":
        """Settings from the JSON of `dataclasses.asdict`; missing fields get defaults. TypeError for anything else."""
        if not isinstance(stored, dict):
            raise TypeError(f"search settings are {stored!r}")
        found = cls(**stored)
        kinds = {"num_beams": (int,), "num_spares": (int,), "num_steps": (int, type(None))}
        for name, known in kinds.items():
            if type(getattr(found, name)) not in known:
                raise TypeError(f"{name} is {getattr(found, name)!r}")
        return found
