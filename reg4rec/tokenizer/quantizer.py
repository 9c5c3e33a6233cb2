"""The base class of quantizers: codebooks, the latents they quantize, and decoding to item vectors."""

import torch
from torch import Tensor, nn

from reg4rec import ops

__all__ = ["Quantizer"]


class Quantizer(nn.Module):
    """M codebooks of K codewords; an item takes one codeword of each, and their gated sum represents the item.

    A subclass defines `latents`, which each codebook quantizes, and `decode`, which maps a sum to a vector.
    """

    codebooks_MKE: Tensor

    def latents(self, vectors_BV: Tensor) -> Tensor:
        """latents_BME: the vectors to which each codebook finds the nearest codeword."""
        raise NotImplementedError

    def decode(self, mixed_BE: Tensor) -> Tensor:
        """(B, V): vectors reconstructed from gated sums of codewords."""
        raise NotImplementedError

    def gate(self, vectors_BV: Tensor) -> Tensor:
        """gate_BM: the weights of the codewords in the sum; 1 by default."""
        return vectors_BV.new_ones(len(vectors_BV), len(self.codebooks_MKE))

    def latents_given(self, vectors_BV: Tensor, ids_BM: Tensor) -> Tensor:
        """latents_BME of each codebook, given the ids of all other codebooks."""
        return self.latents(vectors_BV)

    def encode(self, vectors_BV: Tensor) -> tuple[Tensor, Tensor]:
        """ids_BM of the nearest codewords (int64, ties by lowest index), and their gated sum mixed_BE."""
        return ops.mpq_quantize(self.latents(vectors_BV), self.codebooks_MKE, self.gate(vectors_BV))

    def select(self, ids_BM: Tensor) -> Tensor:
        """z_BME: the codewords with these ids."""
        books_M = torch.arange(len(self.codebooks_MKE), device=ids_BM.device)
        return self.codebooks_MKE[books_M, ids_BM]

    def mix(self, ids_BM: Tensor, vectors_BV: Tensor) -> Tensor:
        """mixed_BE: the gated sum of the codewords with these ids."""
        return (self.gate(vectors_BV).unsqueeze(2) * self.select(ids_BM)).sum(1)
