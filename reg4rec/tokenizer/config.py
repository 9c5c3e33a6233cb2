"""What a user can choose about the tokenizer, and where each default comes from."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from reg4rec.data import ViewConfig
from reg4rec.errors import InputError

__all__ = ["Floors", "Kind", "OrthogonalityForm", "TokenizerConfig", "suggested_codebook_size"]

_LEAST_STEPS = 12
_SMALLEST_BATCH = 16

Kind = Literal["mpq", "rq-vae", "residual-k-means", "product-k-means"]
OrthogonalityForm = Literal["weight", "latent", "codeword", "decorrelation"]


@dataclass(frozen=True)
class Floors:
    """Health below which fitting stops with a reason: such tokens cannot carry a recommender. Ours."""

    min_usage: float = 0.5
    """least part of the attainable codewords that some item uses, in the worst codebook"""
    max_collision_rate: float = 0.9
    """greatest part of the items that share all tokens with another item, identical vectors excepted"""
    max_gate_share: float = 0.98
    """greatest mean gate weight of a single expert"""
    max_similarity: float = 0.9
    """greatest chance-corrected mutual information of two codebooks: above it one is a copy of the other"""
    max_relative_error: float = 2.0
    """greatest squared reconstruction error, relative to describing every item by the mean vector"""
    min_rebuilt_spread: float = 0.01
    """least spread of the reconstructions relative to the vectors': below it the decoder ignores the tokens"""


@dataclass(frozen=True)
class TokenizerConfig:
    """MPQ: M experts, each with a codebook of K codewords of E dimensions; or one of the kinds it is compared with."""

    kind: Kind = "mpq"
    """`rq-vae`: an autoencoder with residual codebooks, as TIGER; k-means of item vectors: `residual-k-means`, and
    `product-k-means` in blocks of rotated dimensions (OPQ). The k-means kinds have no epochs, no E and no H"""
    num_codebooks: int = 4
    """M, tokens of an item (ours for public data, studied over 2 to 16: D2; large catalogs: 8)"""
    codebook_size: int = 256
    """K, codewords of a codebook (ours, D2; large catalogs: up to 4096). Small catalogs want less: about I / 8"""
    codeword_dim: int = 64
    """E, dimensions of a codeword (ours, measured: docs/tokenizer.md)"""
    hidden_dim: int = 256
    """H, hidden width of the experts and of the decoder (ours); of an RQ-VAE the widest of three layers: H, H/2, H/4"""
    orthogonality: OrthogonalityForm = "decorrelation"
    """what keeps experts from becoming copies: `weight` is the sibling paper MMQ's form (D2), `latent` and `codeword`
    are ours (D2), and so is `decorrelation`, the only one that did it when measured (docs/tokenizer.md)"""
    orthogonality_weight: float = 1.0
    """lambda of L_MPQ (ours, measured; 0.005 goes with `weight`: D2)"""
    commitment: float = 0.25
    """weight of ||e - sg[z]||^2 (ours, D2; the usual VQ-VAE value)"""
    separate_collisions: bool = True
    """give all but one of the items of a bucket a near codeword instead of the nearest, so that most items have tokens
    of their own (ours, D3; off is the paper's argmin for every item)"""
    collision_token: bool = False
    """one more token, which numbers the items that share all others (TIGER)"""
    epochs: int = 40
    """passes over the items (ours, measured)"""
    autoencoder_epochs: int = 10
    """of these, passes without codebooks, before k-means starts them (ours, measured)"""
    batch_size: int = 1024
    """most items of a step; a small catalog takes fewer, so that an epoch has 12 steps (ours)"""
    learning_rate: float = 3e-3
    """peak learning rate of AdamW (ours, measured)"""
    views: ViewConfig = field(default_factory=ViewConfig)
    """what an item vector is made of (ours, D1)"""
    floors: Floors = field(default_factory=Floors)
    """health below which fitting stops"""
    seed: int = 0
    """seed of the views, the weights, the k-means start and the order of batches"""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}")
        if not isinstance(self.collision_token, bool):
            raise InputError(f"collision_token is {self.collision_token!r}; it must be True or False")
        for name in ("num_codebooks", "codebook_size", "codeword_dim", "hidden_dim", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("orthogonality_weight", "commitment", "seed"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.autoencoder_epochs < self.epochs:
            raise InputError(
                f"autoencoder_epochs is {self.autoencoder_epochs} of {self.epochs} epochs; "
                "at least one epoch must be left to the codebooks"
            )
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be positive")

    @property
    def tokens_per_item(self) -> int:
        """M, and the collision token where there is one."""
        return self.num_codebooks + self.collision_token

    def steps_per_epoch(self, num_items: int) -> int:
        """Batches that a catalog of this size is split into, evenly: a small rest would upset the decorrelation."""
        return max(1, -(-num_items // self.batch_size), min(_LEAST_STEPS, num_items // _SMALLEST_BATCH))

    def check_catalog(self, num_items: int) -> None:
        """InputError if a codebook has more codewords than there are items."""
        if self.codebook_size > num_items:
            raise InputError(
                f"codebook_size is {self.codebook_size} for {num_items} items: every codeword would be one item; "
                f"use codebook_size={suggested_codebook_size(num_items)}"
            )

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "TokenizerConfig":
        """The configuration that `dataclasses.asdict` and JSON made of one."""
        views: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["views"].items()}
        rest = {name: value for name, value in stored.items() if name not in ("views", "floors")}
        return cls(**rest, views=ViewConfig(**views), floors=Floors(**stored["floors"]))


def suggested_codebook_size(num_items: int) -> int:
    """The power of two nearest below I / 8, between 2 and 256: about eight items share a token."""
    return int(min(256, max(2, 2 ** ((num_items // 8).bit_length() - 1)))) if num_items >= 16 else 2
