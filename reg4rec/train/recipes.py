"""Named settings of the whole road: `paper` ranks by the paper's paths alone, `default` is the best measured."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.tokenizer import TokenizerConfig
from reg4rec.train.align_config import AlignConfig
from reg4rec.train.config import PretrainConfig

__all__ = ["RECIPES", "Recipe", "RecipeName", "recipe_named"]

RecipeName = Literal["default", "paper"]


@dataclass(frozen=True)
class Recipe:
    """Settings of all stages."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    align: AlignConfig = field(default_factory=AlignConfig)


RECIPES: dict[RecipeName, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(
        TokenizerConfig(orthogonality="decorrelation"),
        PretrainConfig(
            score_items=False,
            renormalize=False,
            decoded_fraction=1.0,
            category_weight=0.2,
            crss_fraction=0.15,
            max_history=20,
            dropout=0.1,
            loop=LoopConfig(epochs=14, learning_rate=2e-3, weight_decay=0.1),
        ),
        AlignConfig(kl_weight=0.1, loop=LoopConfig(epochs=1, learning_rate=1e-4)),
    ),
}
"""They differ in how far tokens may repeat one another, in item scores, in probabilities among existing items, in the
length of histories, in dropout, epochs, the weight of the categories, and in how far alignment may go. `paper` decodes
every target, and feeds tokens in the model's own order at the end (D4). It is trained to that end, for its validation
Recall wavers while it learns (docs/findings.md). Three things are ours, because they were measured to be better:
decorrelated experts, separated collisions, and pooled histories where the paper's figure has flat ones."""


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; InputError with the known ones where there is none."""
    if name not in get_args(RecipeName):
        raise InputError(f"recipe is one of {', '.join(get_args(RecipeName))}, found {name!r}")
    return RECIPES[name]  # type: ignore[index]
