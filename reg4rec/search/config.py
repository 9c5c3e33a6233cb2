"""The settings by which items are found."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from reg4rec.errors import InputError

__all__ = ["RetrieverName", "SearchConfig", "SearchOrder"]

SearchOrder = Literal["confidence", "fixed"]
RetrieverName = Literal["auto", "exact", "paths"]


@dataclass(frozen=True)
class SearchConfig:
    """By what items are found; how wide the search for paths is, and when a path is dropped."""

    num_beams: int = 75
    """paths kept at every step, whatever the number of items that are asked for"""
    num_spares: int = 4
    """further children decoded at every step, from which CORP replaces what it drops (D10)"""
    prune_threshold: float | None = 0.06
    """CORP's theta: largest Jensen-Shannon divergence (nats) of adjacent category distributions; None turns CORP off"""
    order: SearchOrder = "confidence"
    """confidence: every step may take a token of any unused codebook (CRSS); fixed: step t takes codebook t's"""
    num_steps: int | None = None
    """tokens that a path decodes, None for all: a shorter one leads to every item that carries its tokens"""
    retriever: RetrieverName = "auto"
    """exact: all items by their own score; paths: those that paths lead to; auto: exact where the model scores items
    and has no more than two million, else paths"""

    def __post_init__(self) -> None:
        if self.retriever not in get_args(RetrieverName):
            raise InputError(f"retriever is one of {get_args(RetrieverName)}, found {self.retriever!r}")
        if self.num_beams < 1 or self.num_spares < 0:
            raise InputError(f"num_beams starts at 1 and num_spares at 0, found {self.num_beams}, {self.num_spares}")
        if self.prune_threshold is not None and not self.prune_threshold >= 0:
            raise InputError(f"prune_threshold is a number of nats from 0 up, or None, found {self.prune_threshold}")
        if self.order not in get_args(SearchOrder):
            raise InputError(f"order is one of {get_args(SearchOrder)}, found {self.order!r}")
        if self.num_steps is not None and self.num_steps < 1:
            raise InputError(f"num_steps starts at 1, or is None for all, found {self.num_steps}")

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "SearchConfig":
        """What `dataclasses.asdict` and JSON made of one, perhaps before it had all fields; TypeError for others."""
        if not isinstance(stored, dict):
            raise TypeError(f"search settings are {stored!r}")
        found = cls(**stored)
        kinds = {"num_beams": (int,), "num_spares": (int,), "num_steps": (int, type(None))}
        for name, known in kinds.items():
            if type(getattr(found, name)) not in known:
                raise TypeError(f"{name} is {getattr(found, name)!r}")
        return found
