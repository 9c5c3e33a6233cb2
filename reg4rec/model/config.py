"""Sizes and settings of the encoder-decoder."""

from dataclasses import dataclass
from typing import Literal, get_args

from reg4rec.errors import InputError

__all__ = ["HistoryLayout", "ModelConfig", "Size", "sized"]

Size = Literal["tiny", "small", "base", "large"]
HistoryLayout = Literal["pooled", "flat"]

_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 64, "num_heads": 2, "ffn_dim": 256, "num_blocks": 1},
    "small": {"dim": 128, "num_heads": 4, "ffn_dim": 512, "num_blocks": 2},
    "base": {"dim": 256, "num_heads": 8, "ffn_dim": 1024, "num_blocks": 4},
    "large": {"dim": 1024, "num_heads": 16, "ffn_dim": 4096, "num_blocks": 8},
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one model. Encoder and decoder have `num_blocks` blocks each."""

    num_codebooks: int
    codebook_size: int
    num_categories: int
    """number of categories; 0 for a catalog without categories, whose model has no category head"""
    dim: int = 128
    num_heads: int = 4
    ffn_dim: int = 512
    num_blocks: int = 2
    dropout: float = 0.1
    max_history: int = 20
    """the encoder reads this many of the newest items of a history"""
    history_layout: HistoryLayout = "pooled"
    """encoder input for one item. pooled: one vector; flat: a separator and the item's M tokens (D14; measured in
    docs/results.md)"""
    renormalize: bool = False
    """normalize a token's probability over the tokens that lead to existing items, not over the whole codebook"""
    num_items: int = 0
    """number of items that the model also scores directly, not only by tokens; 0 for a model that scores tokens only"""

    def __post_init__(self) -> None:
        counts = (
            self.num_codebooks,
            self.codebook_size,
            self.num_blocks,
            self.max_history,
            self.num_heads,
            self.ffn_dim,
        )
        if min(counts) < 1 or self.dim < 2 or min(self.num_categories, self.num_items) < 0:
            raise InputError(
                f"num_categories and num_items must be at least 0, dim at least 2, other sizes at least 1; found {self}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, found {self.dropout}")
        if self.dim % self.num_heads or self.dim // self.num_heads % 2:
            raise InputError(f"dim must be an even multiple of num_heads, found {self.dim} and {self.num_heads}")
        if self.history_layout not in get_args(HistoryLayout):
            raise InputError(f"history_layout must be one of {get_args(HistoryLayout)}, found {self.history_layout!r}")


def sized(size: Size, num_codebooks: int, codebook_size: int, num_categories: int, **changes: object) -> ModelConfig:
    """The configuration of a named size; `changes` override its fields."""
    if size not in _SIZES:
        raise InputError(f"size must be one of {tuple(_SIZES)}, found {size!r}")
    shape: dict[str, object] = {**_SIZES[size], **changes}
    return ModelConfig(num_codebooks, codebook_size, num_categories, **shape)  # type: ignore[arg-type]
