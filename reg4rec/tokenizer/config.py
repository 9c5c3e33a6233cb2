"""Settings of the tokenizer, with the source of each default."""

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
    """Limits of health; beyond one, fitting fails with TokenizerCollapseError, as the tokens are unusable. Ours."""

    min_usage: float = 0.5
    """minimum fraction of the attainable codewords in use, in the worst codebook"""
    max_collision_rate: float = 0.9
    """maximum fraction of items that share all tokens with an item of a different vector"""
    max_gate_share: float = 0.98
    """maximum mean gate weight of one expert"""
    max_similarity: float = 0.9
    """maximum chance-corrected mutual information of two codebooks; above it they are copies"""
    max_relative_error: float = 2.0
    """maximum squared reconstruction error, relative to that of the mean vector"""
    min_rebuilt_spread: float = 0.01
    """minimum variance of the reconstructions relative to the vectors'; below it the decoder ignores the tokens"""

    def __post_init__(self) -> None:
        check_settings(self, ("min_usage", 0 <= self.min_usage <= 1, "between 0 and 1"))


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings of a tokenizer with M codebooks of K codewords: the paper's MPQ, or other kinds to compare."""

    kind: Kind = "mpq"
    """kind of tokenizer. mpq: trained experts with one codebook each, as in the paper, recommends best
    (docs/results.md); product-k-means (OPQ) and residual-k-means: k-means of item vectors, without epochs, E and H;
    rq-vae: as in TIGER; given: codes made elsewhere (`Tokenizer.from_codes`)"""
    num_codebooks: int = 4
    """M, number of tokens per item (ours for public data, studied over 2 to 16: D2; large catalogs: 8)"""
    codebook_size: int = 256
    """K, number of codewords per codebook (ours, D2); small catalogs need fewer, about items / 8, large ones up to
    4096"""
    codeword_dim: int = 192
    """E, dimensions of a codeword (ours, measured: docs/results.md)"""
    hidden_dim: int = 256
    """H, hidden width of the experts and the decoder (ours); the layers of an RQ-VAE have widths H, H/2, H/4"""
    orthogonality: OrthogonalityForm = "weight"
    """form of the penalty that keeps experts different (docs/tokenizer.md): `weight` as in MMQ, the others are ours
    (D2)"""
    orthogonality_weight: float | None = None
    """lambda, weight of that penalty; None: 0.005 for `weight` (D2), 1 for the other forms (ours), which recommend
    worse in `default` and better in `paper` (docs/results.md)"""
    commitment: float = 0.25
    """weight of the commitment loss ||e - sg[z]||^2 (ours, D2; the usual VQ-VAE value)"""
    separate_collisions: bool = True
    """give items that share all tokens other near codewords, except the best fitting item of each bucket (ours, D3)"""
    collision_token: bool = False
    """add a token that numbers the items that share all others (TIGER)"""
    epochs: int = 40
    """number of passes over the items (ours, measured)"""
    autoencoder_epochs: int = 10
    """number of epochs at the start without codebooks, which k-means then initializes (ours, measured)"""
    batch_size: int = 256
    """maximum number of items per step; small catalogs use fewer, for 12 steps per epoch (ours, measured)"""
    learning_rate: float = 3e-3
    """peak learning rate of AdamW (ours, measured)"""
    views: ViewConfig = field(default_factory=ViewConfig)
    """views in the item vectors (ours, D1)"""
    floors: Floors = field(default_factory=Floors)
    """limits of health beyond which fitting fails"""
    recipe: str = "default"
    """default: the settings that measured best; paper: only what the paper describes. All stages of a fit need the same
    recipe; on the command line it sets the defaults of the other options"""

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
        """The weight of the orthogonality penalty, with the default of its form resolved."""
        if self.orthogonality_weight is None:
            return 0.005 if self.orthogonality == "weight" else 1.0
        return self.orthogonality_weight

    @property
    def tokens_per_item(self) -> int:
        """M, plus 1 with a collision token."""
        return self.num_codebooks + self.collision_token

    def steps_per_epoch(self, num_items: int) -> int:
        """The number of equal batches per epoch; a small last batch would disturb the decorrelation loss."""
        return max(1, -(-num_items // self.batch_size), min(_LEAST_STEPS, num_items // _SMALLEST_BATCH))

    def check_catalog(self, num_items: int) -> None:
        """InputError if a codebook has more codewords than there are items."""
        if self.codebook_size > num_items:
            raise InputError(
                f"codebook_size is {self.codebook_size} for {num_items} items; it can be at most {num_items}, "
                f"better is codebook_size={suggested_codebook_size(num_items)}"
            )

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "TokenizerConfig":
        """Settings from the JSON of `dataclasses.asdict`."""
        views: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["views"].items()}
        rest = {name: value for name, value in stored.items() if name not in ("views", "floors")}
        return cls(**rest, views=ViewConfig(**views), floors=Floors(**stored["floors"]))


def suggested_codebook_size(num_items: int) -> int:
    """The largest power of two up to num_items / 8, from 2 to 256: about eight items share a token."""
    return int(min(256, max(2, 2 ** ((num_items // 8).bit_length() - 1)))) if num_items >= 16 else 2
