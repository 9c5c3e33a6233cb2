"""What a user can choose about the tokenizer, and where each default comes from."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from reg4rec.data import ViewConfig
from reg4rec.errors import InputError
from reg4rec.settings import check_settings

__all__ = ["Floors", "Kind", "OrthogonalityForm", "TokenizerConfig", "suggested_codebook_size"]

_LEAST_STEPS = 12
_SMALLEST_BATCH = 16

Kind = Literal["mpq", "rq-vae", "residual-k-means", "product-k-means", "given"]
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

    def __post_init__(self) -> None:
        check_settings(self, ("min_usage", 0 <= self.min_usage <= 1, "between 0 and 1"))


@dataclass(frozen=True)
class TokenizerConfig:
    """M codebooks of K codewords: the paper's trained experts (MPQ), OPQ, or others to compare with."""

    kind: Kind = "mpq"
    """mpq: trained experts with a codebook each, as the paper has them; product-k-means (OPQ) or residual-k-means of
    item vectors, without epochs, E and H; rq-vae as in TIGER. MPQ recommends best (measured: docs/results.md). given:
    codes made elsewhere (`Tokenizer.from_codes`)"""
    num_codebooks: int = 4
    """M, tokens of an item (ours for public data, studied over 2 to 16: D2; large catalogs: 8)"""
    codebook_size: int = 256
    """K, codewords of a codebook (ours, D2; large catalogs: up to 4096). Small catalogs want less: about I / 8"""
    codeword_dim: int = 192
    """E, dimensions of a codeword (ours, measured: docs/results.md)"""
    hidden_dim: int = 256
    """H, hidden width of the experts and of the decoder (ours); of an RQ-VAE the widest of three layers: H, H/2, H/4"""
    orthogonality: OrthogonalityForm = "weight"
    """what keeps experts from becoming copies (docs/tokenizer.md): `weight` as in MMQ, the others are ours (D2)"""
    orthogonality_weight: float | None = None
    """lambda of L_MPQ; None: 0.005 for `weight` (D2), 1 for the other forms (ours). The strong ones recommend worse in
    `default`, better in `paper` (measured: docs/results.md)"""
    commitment: float = 0.25
    """weight of ||e - sg[z]||^2 (ours, D2; the usual VQ-VAE value)"""
    separate_collisions: bool = True
    """all but one of the items that share all tokens take a near codeword, not the nearest (ours, D3)"""
    collision_token: bool = False
    """one more token, which numbers the items that share all others (TIGER)"""
    epochs: int = 40
    """passes over the items (ours, measured)"""
    autoencoder_epochs: int = 10
    """of these, passes without codebooks, before k-means starts them (ours, measured)"""
    batch_size: int = 256
    """most items of a step; a small catalog takes fewer, so that an epoch has 12 steps (ours, measured)"""
    learning_rate: float = 3e-3
    """peak learning rate of AdamW (ours, measured)"""
    views: ViewConfig = field(default_factory=ViewConfig)
    """what an item vector is made of (ours, D1)"""
    floors: Floors = field(default_factory=Floors)
    """health below which fitting stops"""
    recipe: str = "default"
    """default: the best that we measured; paper: the paper's parts alone. All stages of a fit have the same one; on the
    command line it sets the defaults of the other options"""

    def __post_init__(self) -> None:
        sizes = ("num_codebooks", "codebook_size", "codeword_dim", "hidden_dim", "epochs", "batch_size")
        check_settings(
            self,
            ("kind", self.kind in get_args(Kind), f"one of {', '.join(get_args(Kind))}"),
            ("collision_token", isinstance(self.collision_token, bool), "True or False"),
            *((name, getattr(self, name) >= 1, "1 or more") for name in sizes),
            ("orthogonality_weight", self.orthogonality_strength >= 0, "0 or more, or None"),
            ("commitment", self.commitment >= 0, "0 or more"),
            (
                "autoencoder_epochs",
                0 <= self.autoencoder_epochs < self.epochs,
                f"from 0 to below epochs, {self.epochs}",
            ),
            ("learning_rate", self.learning_rate > 0, "positive"),
        )

    @property
    def orthogonality_strength(self) -> float:
        """The weight of the penalty, its form's own where none was given."""
        if self.orthogonality_weight is None:
            return 0.005 if self.orthogonality == "weight" else 1.0
        return self.orthogonality_weight

    @property
    def tokens_per_item(self) -> int:
        """M, and the collision token if there is one."""
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
