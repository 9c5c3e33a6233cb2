"""What all quantizers have in common: codebooks, what each of them represents, and the way back to item vectors."""

import torch
from torch import Tensor, nn

from reg4rec import ops

__all__ = ["Quantizer"]


class Quantizer(nn.Module):
    """M codebooks of K codewords; an item takes one codeword of each, and their gated sum stands for the item.

    A kind says with `latents` what each codebook has to represent and with `decode` which vector a sum means.
    """

    codebooks_MKE: Tensor

    def latents(self, vectors_BV: Tensor) -> Tensor:
        """latents_BME: what each codebook takes the nearest codeword of."""
        raise NotImplementedError

    def decode(self, mixed_BE: Tensor) -> Tensor:
        """(B, V) reconstruction of the vectors from gated sums of codewords."""
        raise NotImplementedError

    def gate(self, vectors_BV: Tensor) -> Tensor:
        """gate_BM: the weights of the codewords in the sum, here all 1."""
        return vectors_BV.new_ones(len(vectors_BV), len(self.codebooks_MKE))

    def wanted(self, vectors_BV: Tensor, ids_BM: Tensor) -> Tensor:
        """latents_BME of each codebook for the case that the other codebooks keep the given ids."""
        return self.latents(vectors_BV)

    def encode(self, vectors_BV: Tensor) -> tuple[Tensor, Tensor]:
        """ids_BM of the nearest codewords (int64, ties by lowest index) and their gated sum mixed_BE."""
        return ops.mpq_quantize(self.latents(vectors_BV), self.codebooks_MKE, self.gate(vectors_BV))

    def select(self, ids_BM: Tensor) -> Tensor:
        """z_BME: the codewords of the given ids."""
        books_M = torch.arange(len(self.codebooks_MKE), device=ids_BM.device)
        return self.codebooks_MKE[books_M, ids_BM]

    def mix(self, ids_BM: Tensor, vectors_BV: Tensor) -> Tensor:
        """mixed_BE: the gated sum of the codewords of given ids, nearest or not."""
        return (self.gate(vectors_BV).unsqueeze(2) * self.select(ids_BM)).sum(1)
