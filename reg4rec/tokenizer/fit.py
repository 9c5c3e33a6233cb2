"""Fitting a tokenizer: item views, training, tokens, health."""

import contextlib
import json
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from reg4rec import checkpoints, distributed, loop
from reg4rec.data import Dataset, ItemViews, Sequences
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.progress import quiet
from reg4rec.run import Run, choose_device
from reg4rec.settings import override
from reg4rec.tokenizer.codebooks import squared_distances
from reg4rec.tokenizer.collisions import collision_token, separate_collisions
from reg4rec.tokenizer.config import TokenizerConfig
from reg4rec.tokenizer.health import with_neighbors
from reg4rec.tokenizer.kinds import TRAINED, build_quantizer, fit_by_kmeans
from reg4rec.tokenizer.quantizer import Quantizer
from reg4rec.tokenizer.stage import CHUNK, TokenizerStage, by_chunks, encode_all, health_of
from reg4rec.tokenizer.tokenizer import Tokenizer
from reg4rec.tokenizer.verdict import collapse_reason

__all__ = ["fit_tokenizer"]


def fit_tokenizer(
    dataset: Dataset,
    config: TokenizerConfig | None = None,
    run: Run = Run(),
    part: Literal["train", "train+validation"] = "train",
    **overrides: Any,
) -> Tokenizer:
    """Learn tokens for all items of a dataset, from texts, matrices and the interactions of `part`.

    `overrides` replace fields of `config` by name, such as `kind="rq-vae"` or `text_dim=64`. The tokenizer is saved in
    `run.out`/tokenizer; with `run.resume` a killed run resumes (trained kinds only) and a finished one is loaded. On
    the CPU, the same seed and number of threads give the same bits.

    InputError for settings that do not fit the catalog, or a run folder with other settings; TokenizerCollapseError,
    with the reason and a remedy, if the tokens are unusable.
    Paper: MPQ, stated, D2
    """
    config = override(config or TokenizerConfig(), overrides)
    if config.kind == "given":
        raise InputError("kind 'given' is for codes made elsewhere: use Tokenizer.from_codes(codes, dataset)")
    config.check_catalog(dataset.num_items)
    card = {"dataset": dataset.card.get("fingerprint"), "part": part, "seed": run.seed}
    if (finished := _finished(run, config, card)) is not None:
        return finished
    settings = json.loads(json.dumps(asdict(config) | card))
    device = choose_device(run.device)
    views = ItemViews.fit(dataset, config.views, part, run.seed)
    vectors_IV = torch.from_numpy(views.vectors_IV).to(device)
    quantizer = build_quantizer(config, views.dim, torch.Generator().manual_seed(run.seed)).to(device)
    if config.kind in TRAINED:
        stage = TokenizerStage(quantizer, vectors_IV, config, settings, run.seed)
        plan = loop.LoopConfig(epochs=config.epochs, learning_rate=config.learning_rate)
        loop.train(stage, plan, run)
    else:
        if run.folder is not None:
            checkpoints.open_folder(run.folder, settings, run.resume)
        with quiet(not run.progress):
            fit_by_kmeans(quantizer, vectors_IV, run.seed)
    with checkpoints.failure_recorded(run.folder):
        tokenizer = _finish(quantizer.eval(), vectors_IV, views, config, card, dataset.part(part))
    if run.folder is not None and distributed.is_first():
        tokenizer.save_pretrained(run.folder / "tokenizer")
    return tokenizer


def _finished(run: Run, config: TokenizerConfig, card: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a finished run with these settings; None without one."""
    if run.folder is None or not run.resume or not (run.folder / "tokenizer").exists():
        return None
    with contextlib.suppress(InputError):  # a damaged tokenizer is written again
        found = Tokenizer.from_pretrained(run.folder / "tokenizer")
        return found if (found.config, found.card) == (config, card) else None
    return None


@torch.no_grad()
def _finish(
    quantizer: Quantizer,
    vectors_IV: Tensor,
    views: ItemViews,
    config: TokenizerConfig,
    card: dict[str, Any],
    train: Sequences,
) -> Tokenizer:
    ids_IM = encode_all(quantizer, vectors_IV)
    if config.separate_collisions:
        ids_IM = _separated(quantizer, vectors_IV, ids_IM)
    health = health_of(quantizer, vectors_IV, ids_IM)
    if reason := collapse_reason(health, config.floors):
        raise TokenizerCollapseError(f"the tokenizer collapsed: {reason}")
    health = with_neighbors(health, ids_IM.cpu().numpy(), train)
    quantized_IE = by_chunks(lambda i, v: (quantizer.mix(i, v),), ids_IM, vectors_IV)[0].cpu()
    if config.collision_token:
        ids_IM = torch.cat([ids_IM, collision_token(ids_IM, config.codebook_size)], dim=1)
    return Tokenizer(config, quantizer.cpu(), views, ids_IM.to("cpu", torch.int32), quantized_IE, health, card)


def _separated(quantizer: Quantizer, vectors_IV: Tensor, ids_IM: Tensor) -> Tensor:
    def latents_of(rows_X: Tensor) -> Tensor:
        return quantizer.latents_given(vectors_IV[rows_X], ids_IM[rows_X])

    rows_I = torch.arange(len(ids_IM), device=ids_IM.device)
    errors = [
        squared_distances(latents_of(rows_X), quantizer.codebooks_MKE, ids_IM[rows_X]).sum(1)
        for rows_X in rows_I.split(CHUNK)
    ]
    return separate_collisions(ids_IM, torch.cat(errors), latents_of, quantizer.codebooks_MKE)
