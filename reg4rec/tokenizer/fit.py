"""Fitting the tokenizer: item views, training, tokens, health."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reg4rec import loop
from reg4rec.data import Dataset, ItemViews, Sequences
from reg4rec.errors import TokenizerCollapseError
from reg4rec.settings import override
from reg4rec.tokenizer.collisions import separate_collisions
from reg4rec.tokenizer.config import TokenizerConfig
from reg4rec.tokenizer.health import shared_tokens
from reg4rec.tokenizer.mpq import MPQ
from reg4rec.tokenizer.stage import CHUNK, TokenizerStage, health_of, nearest_all
from reg4rec.tokenizer.tokenizer import Tokenizer, build_mpq
from reg4rec.tokenizer.verdict import collapse_reason

__all__ = ["fit_tokenizer"]


def fit_tokenizer(
    dataset: Dataset,
    config: TokenizerConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = True,
    part: Literal["train", "train+validation"] = "train",
    device: str = "cpu",
    progress: bool = True,
    **overrides: Any,
) -> Tokenizer:
    """Learn tokens for all items of a dataset, from texts, matrices and the interactions of `part`.

    `overrides` replace fields of `config` by name, `num_codebooks=2` or `text_dim=64` for example. With `out` the run
    lies there (`metrics.jsonl`, `checkpoints/`), a killed one resumes from it, and the tokenizer is saved in
    `out/tokenizer`. The same seed gives the same bits on the CPU with the same number of threads.

    InputError for settings that do not fit the catalog; TokenizerCollapseError, with the reason and a remedy, when
    the tokens could not carry a recommender.
    Paper: MPQ, stated, D2
    """
    config = override(config or TokenizerConfig(), overrides)
    config.check_catalog(dataset.num_items)
    views = ItemViews.fit(dataset, config.views, part, config.seed)
    vectors_IV = torch.from_numpy(views.vectors_IV).to(device)
    mpq = build_mpq(config, views.dim, torch.Generator().manual_seed(config.seed)).to(device)
    card = {"dataset": dataset.card.get("fingerprint"), "part": part}
    stage = TokenizerStage(mpq, vectors_IV, config, asdict(config) | card)
    plan = loop.LoopConfig(epochs=config.epochs, learning_rate=config.learning_rate)
    loop.run(stage, plan, out, resume, config.seed, progress)
    tokenizer = _finish(mpq.eval(), vectors_IV, views, config, card, dataset.part(part))
    if out is not None:
        tokenizer.save_pretrained(Path(out) / "tokenizer")
    return tokenizer


@torch.no_grad()
def _finish(
    mpq: MPQ, vectors_IV: Tensor, views: ItemViews, config: TokenizerConfig, card: dict[str, Any], train: Sequences
) -> Tokenizer:
    ids_IM, error_IM = nearest_all(mpq, vectors_IV)
    if config.separate_collisions:
        ids_IM = separate_collisions(
            ids_IM, error_IM.sum(1), lambda rows_X: mpq.latents(vectors_IV[rows_X]), mpq.codebooks_MKE
        )
    health = health_of(mpq, vectors_IV, ids_IM)
    if reason := collapse_reason(health, config.floors):
        raise TokenizerCollapseError(f"the tokenizer collapsed: {reason}")
    by_neighbors, by_chance = shared_tokens(ids_IM.cpu().numpy(), train)
    health = replace(health, shared_by_neighbors=by_neighbors, shared_by_chance=by_chance)
    quantized_IE = torch.cat([mpq.mix(i, v) for i, v in zip(ids_IM.split(CHUNK), vectors_IV.split(CHUNK), strict=True)])
    mpq = mpq.cpu()
    return Tokenizer(config, mpq, views, ids_IM.to("cpu", torch.int32), quantized_IE.cpu(), health, card)
