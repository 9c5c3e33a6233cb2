"""TIGER: items as coarse-to-fine tokens of an RQ-VAE, generated in that order."""

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
    """Three codebooks of 256 on item texts, layers of 512, 256 and 128 around 32 dimensions, a collision token."""
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
    """A flat history, and the usual next-token loss in fixed order."""
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
    """TIGER's settings: sizes of the tokenizer as published, the trainer's as everywhere in this library."""

    tokenizer: TokenizerConfig = field(default_factory=_tokenizer)
    """any kind of tokens; their order is that of the codebooks"""
    pretrain: PretrainConfig = field(default_factory=_pretrain)
    """order, targets and category_weight must stay as they are: they are what makes it TIGER"""

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

    As Rajput et al. 2023 (arXiv 2305.05065) describe it: RQ-VAE tokens of item texts and a fourth one that separates
    items which share three; an encoder-decoder that emits them in order. Other than there, the transformer, its
    training windows and its optimizer are this library's, so that a comparison shows what tokens and decoding do;
    there is no user token; and texts enter by TF-IDF and SVD unless `tokenizer.views` names a matrix of embeddings.
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
        """The road of every recipe, without a search to set up; `config.pretrain.part` of the data is learned from.

        With `run.out` the runs lie in its folders tokenizer/ and model/, and the result in model/recommender/.
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
        """(B, k) item rows, best first, -1 where there are no more; `filter_seen` leaves out items of the history."""
        return self.recommender.rank(histories, k, filter_seen)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder, that of a recommender, replacing what was there."""
        self.recommender.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto") -> "Tiger":
        """What `save_pretrained` wrote; InputError for a recommender that does not search in fixed order."""
        recommender = Recommender.from_pretrained(folder, device)
        if recommender.config.order != "fixed":
            raise InputError(f"{folder} holds a recommender whose search order is free; load it with Recommender")
        return cls(recommender)
