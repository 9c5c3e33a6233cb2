"""Residual quantization: every codebook represents what those before it left over."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.progress import counted
from reg4rec.tokenizer.quantizer import Quantizer

__all__ = ["ResidualQuantizer", "autoencoder_layers", "fill_codebooks"]


class ResidualQuantizer(Quantizer):
    """One latent an item; the codewords of all codebooks add up to it, coarse to fine.

    With autoencoder layers this is the RQ-VAE by which TIGER makes tokens (Rajput et al. 2023, after Zeghidour et al.
    2021 and Lee et al. 2022); without any, residual quantization of the item vectors themselves.
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

    def wanted(self, vectors_BV: Tensor, ids_BM: Tensor) -> Tensor:
        codewords_BME = self.select(ids_BM)
        left_BE = self.encoder(vectors_BV) - codewords_BME.sum(1)
        return left_BE[:, None] + codewords_BME


def autoencoder_layers(widths: tuple[int, ...], generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them; leaves the global random state as it was."""
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
    """Codebook after codebook, take as codewords what `cluster` makes of the points_XE left to represent."""
    for m in counted(range(len(quantizer.codebooks_MKE)), "filling the codebooks"):
        quantizer.codebooks_MKE[m] = cluster(quantizer.latents(vectors_XV)[:, m])
