"""TIGER: items as coarse-to-fine tokens of an RQ-VAE, which are generated in that order."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reg4rec.alignment import AlignConfig
from reg4rec.data import Dataset, Sequences, ViewConfig
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.recipes import Recipe
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.search import SearchConfig
from reg4rec.tokenizer import TokenizerConfig
from reg4rec.train import PretrainConfig

__all__ = ["Tiger", "TigerConfig"]


def _tokenizer() -> TokenizerConfig:
    """An RQ-VAE of item texts: 3 codebooks of 256 codewords, layers of 512, 256, 128 and 32, a collision token."""
    return TokenizerConfig(
        recipe="tiger",
        kind="rq-vae",
        num_codebooks=3,
        codebook_size=256,
        codeword_dim=32,
        hidden_dim=512,
        batch_size=256,
        separate_collisions=False,
        collision_token=True,
        views=ViewConfig(collaborative_dim=0),
    )


def _pretrain() -> PretrainConfig:
    """Pre-training with a flat history and the usual next-token loss in fixed order."""
    return PretrainConfig(
        recipe="tiger",
        order="fixed",
        targets="next",
        score_items=False,
        renormalize=False,
        category_weight=0.0,
        decoded_fraction=1.0,
        num_beams=75,
        history_layout="flat",
        max_history=20,
        dropout=0.1,
        batch_targets=512,
        loop=LoopConfig(epochs=15, learning_rate=2e-3, weight_decay=0.1, patience=3),
    )


@dataclass(frozen=True)
class TigerConfig:
    """Settings of TIGER: the tokenizer's sizes as published, training as for this library's own model."""

    tokenizer: TokenizerConfig = field(default_factory=_tokenizer)
    """tokenizer of any kind; tokens are generated in the order of the codebooks"""
    pretrain: PretrainConfig = field(default_factory=_pretrain)
    """settings of the training; TIGER fixes order, targets and category_weight"""

    def __post_init__(self) -> None:
        found = (self.pretrain.order, self.pretrain.targets, self.pretrain.category_weight)
        if found != ("fixed", "next", 0):
            raise InputError(
                f"TIGER is trained with order 'fixed', targets 'next' and category_weight 0, found {found}; "
                "change other settings by dataclasses.replace(TigerConfig().pretrain, ...)"
            )


@dataclass(frozen=True, eq=False)
class Tiger:
    """Ranks items by a beam search over the trie of their token sequences.

    As in Rajput et al. 2023 (arXiv 2305.05065): RQ-VAE tokens of item texts, a fourth token that separates items with
    the same three, and an encoder-decoder that generates them in order. Differences: the transformer, training windows
    and optimizer are this library's, so that a comparison isolates tokens and decoding; there is no user token; texts
    are encoded by TF-IDF and SVD unless `tokenizer.views` names a matrix of embeddings.
    """

    recommender: Recommender
    name = "tiger"

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        config: TigerConfig | None = None,
        run: Run = Run(),
    ) -> "Tiger":
        """Fit tokens and model on `config.pretrain.part` of a dataset (`Recipe.fit` without a search to choose).

        Writes to tokenizer/ and model/ in `run.out`, and the result to model/recommender/.
        """
        config = config or TigerConfig()
        recipe = Recipe(config.tokenizer, config.pretrain, AlignConfig(recipe=config.pretrain.recipe))
        search = SearchConfig(prune_threshold=None, **config.pretrain.search)
        return cls(recipe.fit(dataset, run, search=search))

    @property
    def trained_on(self) -> str:
        """The part of the data that tokens and model were fitted on."""
        return self.recommender.trained_on

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        """Item rows (B, k), best first, padded with -1; `filter_seen` leaves out items of the history."""
        return self.recommender.rank(histories, k, filter_seen)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a recommender folder, replacing an earlier one."""
        self.recommender.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto") -> "Tiger":
        """The TIGER that `save_pretrained` wrote; InputError for a recommender that does not search in fixed order."""
        recommender = Recommender.from_pretrained(folder, device)
        if recommender.config.order != "fixed":
            raise InputError(f"{folder} has a recommender without a fixed search order; load it with Recommender")
        return cls(recommender)
