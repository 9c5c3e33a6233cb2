"""Named settings of the whole road: `paper` holds what the paper states, `default` the best that we measured."""

from dataclasses import dataclass, field
from typing import Literal

from reg4rec.tokenizer import TokenizerConfig
from reg4rec.train.config import PretrainConfig

__all__ = ["RECIPES", "Recipe", "RecipeName"]

RecipeName = Literal["default", "paper"]


@dataclass(frozen=True)
class Recipe:
    """Settings of both stages."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


RECIPES: dict[RecipeName, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(
        TokenizerConfig(orthogonality="weight", orthogonality_weight=0.005, separate_collisions=False),
        PretrainConfig(
            score_items=False,
            renormalize=False,
            token_weight=1.0,
            decoded_fraction=1.0,
            crss_fraction=0.15,
            max_history=20,
            num_beams=20,
        ),
    ),
}
"""They differ in orthogonality and collisions (docs/tokenizer.md), in item scores, and in probabilities among existing
items (docs/findings.md). `paper` decodes every target, and feeds tokens in the model's own order at the end (D4)."""
