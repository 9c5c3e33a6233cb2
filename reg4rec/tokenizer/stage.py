"""Training of a tokenizer as a stage of the training loop."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reg4rec import distributed, ops
from reg4rec.errors import TokenizerCollapseError
from reg4rec.loop import Validation
from reg4rec.tokenizer.codebooks import kmeans_codebooks, revive_dead, squared_distances
from reg4rec.tokenizer.config import TokenizerConfig
from reg4rec.tokenizer.health import Health, measure_health
from reg4rec.tokenizer.losses import tokenizer_loss
from reg4rec.tokenizer.quantizer import Quantizer
from reg4rec.tokenizer.residual import ResidualQuantizer, fill_codebooks
from reg4rec.tokenizer.verdict import collapse_reason

__all__ = ["TokenizerStage", "by_chunks", "encode_all", "health_of", "nearest_all", "sampled_items"]

CHUNK = 16384
"""number of items encoded at a time"""
KMEANS_ITERATIONS = 10
KMEANS_ITEMS_PER_CODEWORD = 256
"""codebooks of larger catalogs are initialized from a sample"""

Batch = tuple[Tensor, bool]


class TokenizerStage:
    """Trains with L_MPQ or the RQ-VAE's loss: first the autoencoder alone, then also codebooks, initialized by k-means.

    Every epoch with codebooks ends with the repair of unused codewords and a health check; in the second half of the
    epochs a collapse stops the run. A batch is (item rows, whether codebooks are in use).
    Paper: MPQ, stated (course of training: ours, D2)
    """

    name = "tokenizer"
    monitor = ""

    def __init__(
        self,
        quantizer: Quantizer,
        vectors_IV: Tensor,
        config: TokenizerConfig,
        settings: Mapping[str, Any],
        seed: int,
    ):
        self.module: nn.Module = quantizer
        self.settings: Mapping[str, Any] = settings
        self.quantizer, self.vectors_IV, self.config, self.seed = quantizer, vectors_IV, config, seed
        if config.autoencoder_epochs == 0:
            self._start_codebooks()

    def batches(self, epoch: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        rows_I = torch.randperm(len(self.vectors_IV), generator=generator).to(self.vectors_IV.device)
        quantizing = epoch >= self.config.autoencoder_epochs
        batches = rows_I.tensor_split(self.config.steps_per_epoch(len(rows_I)))
        return [(rows_B, quantizing) for rows_B in batches]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        rows_B, quantizing = batch
        vectors_BV = self.vectors_IV[rows_B[distributed.share()]]
        return tokenizer_loss(self.quantizer, vectors_BV, self.config, quantizing)

    def end_epoch(self, epoch: int) -> Validation:
        if epoch + 1 < self.config.autoencoder_epochs:
            return Validation({})
        if epoch + 1 == self.config.autoencoder_epochs:
            self._start_codebooks()
        revived = self._revive()
        health = health_of(self.quantizer, self.vectors_IV)
        if 2 * (epoch + 1) >= self.config.epochs and (reason := collapse_reason(health, self.config.floors)):
            raise TokenizerCollapseError(f"the tokenizer collapsed in epoch {epoch + 1}: {reason}")
        figures = {
            "usage": min(health.usage),
            "revived": float(revived),
            "collision_rate": health.collision_rate,
            "similarity": health.max_similarity,
            "gate_max": max(health.gate_mean),
            "relative_error": health.relative_error,
        }
        return Validation(figures)

    @torch.no_grad()
    def _start_codebooks(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        size = self.config.codebook_size
        vectors_XV = sampled_items(self.vectors_IV, size, generator)

        def start(latents_XME: Tensor) -> Tensor:
            return kmeans_codebooks(latents_XME, size, KMEANS_ITERATIONS, generator)

        if isinstance(self.quantizer, ResidualQuantizer):
            fill_codebooks(self.quantizer, vectors_XV, lambda points_XE: start(points_XE[:, None])[0])
        else:
            self.quantizer.codebooks_MKE.copy_(start(self.quantizer.latents(vectors_XV)))

    @torch.no_grad()
    def _revive(self) -> int:
        """Move unused codewords to latents with large errors; returns their number."""
        ids_IM, error_IM = nearest_all(self.quantizer, self.vectors_IV)

        def latents_of(rows_X: Tensor, m: int) -> Tensor:
            return self.quantizer.latents(self.vectors_IV[rows_X])[:, m]

        return revive_dead(self.quantizer.codebooks_MKE, ids_IM, error_IM, latents_of)


def sampled_items(vectors_IV: Tensor, codebook_size: int, generator: torch.Generator) -> Tensor:
    """vectors_XV for clustering codebooks of this size: all, or a random sample of a large catalog."""
    sample_X = torch.randperm(len(vectors_IV), generator=generator)[: codebook_size * KMEANS_ITEMS_PER_CODEWORD]
    return vectors_IV[sample_X.to(vectors_IV.device)]


@torch.no_grad()
def encode_all(quantizer: Quantizer, vectors_IV: Tensor) -> Tensor:
    """ids_IM: the nearest codewords of all items."""
    return by_chunks(lambda vectors_BV: quantizer.encode(vectors_BV)[:1], vectors_IV)[0]


@torch.no_grad()
def nearest_all(quantizer: Quantizer, vectors_IV: Tensor) -> tuple[Tensor, Tensor]:
    """ids_IM of the nearest codewords and error_IM, the squared distances to them."""

    def nearest(vectors_BV: Tensor) -> tuple[Tensor, ...]:
        latents_BME = quantizer.latents(vectors_BV)
        ids_BM = ops.mpq_quantize(latents_BME, quantizer.codebooks_MKE)[0]
        return ids_BM, squared_distances(latents_BME, quantizer.codebooks_MKE, ids_BM)

    ids_IM, error_IM = by_chunks(nearest, vectors_IV)
    return ids_IM, error_IM


@torch.no_grad()
def by_chunks(function: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> list[Tensor]:
    """Apply `function` to chunks of rows; the processes of a group share the chunks, and each gets all results."""
    found = [empty.new_zeros(len(rows[0]), *empty.shape[1:]) for empty in function(*(tensor[:0] for tensor in rows))]
    chunks = list(zip(*(tensor.split(CHUNK) for tensor in (*rows, *found)), strict=True))
    for chunk in chunks[distributed.share()]:
        for place, made in zip(chunk[len(rows) :], function(*chunk[: len(rows)]), strict=True):
            place.copy_(made)
    return [distributed.total(tensor) for tensor in found]


@torch.no_grad()
def health_of(quantizer: Quantizer, vectors_IV: Tensor, ids_IM: Tensor | None = None) -> Health:
    """The health of the nearest codewords, or of the given ids."""
    nearest_IM = encode_all(quantizer, vectors_IV)
    codes_IM = nearest_IM if ids_IM is None else ids_IM
    (rebuilt_IV,) = by_chunks(lambda i, v: (quantizer.decode(quantizer.mix(i, v)),), codes_IM, vectors_IV)
    gate_sum_M = sum(quantizer.gate(v).sum(0) for v in vectors_IV.split(CHUNK))
    gate_mean_M = torch.as_tensor(gate_sum_M) / torch.as_tensor(gate_sum_M).sum()
    return measure_health(
        codes_IM.cpu().numpy(),
        nearest_IM.cpu().numpy(),
        vectors_IV.cpu().numpy(),
        rebuilt_IV.cpu().numpy(),
        gate_mean_M.cpu().numpy(),
        codebook_size=quantizer.codebooks_MKE.shape[1],
    )
