"""Residual quantization: every codebook quantizes the residual of those before it."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.progress import counted
from reg4rec.tokenizer.quantizer import Quantizer

__all__ = ["ResidualQuantizer", "autoencoder_layers", "fill_codebooks"]


class ResidualQuantizer(Quantizer):
    """Approximates one latent per item by the sum of the codewords of all codebooks, coarse to fine.

    With autoencoder layers this is TIGER's RQ-VAE (Rajput et al. 2023, after Zeghidour et al. 2021 and Lee et al.
    2022); with identities, residual quantization of the item vectors.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, codebooks_MKE: Tensor):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.codebooks_MKE = nn.Parameter(codebooks_MKE)

    def latents(self, vectors_BV: Tensor) -> Tensor:
        left_BE = self.encoder(vectors_BV)
        residuals = []
        for book_KE in self.codebooks_MKE.detach():
            residuals.append(left_BE)
            ids_B1 = ops.mpq_quantize(left_BE.detach()[:, None], book_KE[None])[0]
            left_BE = left_BE - book_KE[ids_B1[:, 0]]
        return torch.stack(residuals, dim=1)

    def decode(self, mixed_BE: Tensor) -> Tensor:
        return self.decoder(mixed_BE)

    def latents_given(self, vectors_BV: Tensor, ids_BM: Tensor) -> Tensor:
        codewords_BME = self.select(ids_BM)
        left_BE = self.encoder(vectors_BV) - codewords_BME.sum(1)
        return left_BE[:, None] + codewords_BME


def autoencoder_layers(widths: tuple[int, ...], generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them; does not change the global random state."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        with torch.random.fork_rng(devices=[]):
            linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def fill_codebooks(quantizer: ResidualQuantizer, vectors_XV: Tensor, cluster: Callable[[Tensor], Tensor]) -> None:
    """Set the codebooks one after the other to the centers_KE that `cluster` finds for the residuals points_XE."""
    for m in counted(range(len(quantizer.codebooks_MKE)), "filling the codebooks"):
        quantizer.codebooks_MKE[m] = cluster(quantizer.latents(vectors_XV)[:, m])
