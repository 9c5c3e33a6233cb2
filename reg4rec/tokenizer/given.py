"""Codes that were made elsewhere: a codeword is the mean vector of the items that have it."""

import torch
from torch import Tensor

from reg4rec.tokenizer.codebooks import cluster_means
from reg4rec.tokenizer.quantizer import Quantizer

__all__ = ["GivenCodes"]


FAR = 1e6
"""Where codewords are that no item has: nothing is nearest to them."""


class GivenCodes(Quantizer):
    """Knows given codes by the mean item vector of each codeword; a new item takes the nearest one in each codebook."""

    def __init__(self, vector_dim: int, num_codebooks: int, codebook_size: int):
        super().__init__()
        self.register_buffer("codebooks_MKE", torch.zeros(num_codebooks, codebook_size, vector_dim))

    def learn(self, vectors_IV: Tensor, codes_IM: Tensor) -> None:
        """Take the means; a codeword that no item has is never the nearest."""
        unused_MKE = torch.full_like(self.codebooks_MKE, FAR)
        self.codebooks_MKE.copy_(cluster_means(self.latents(vectors_IV), codes_IM, unused_MKE))

    def latents(self, vectors_BV: Tensor) -> Tensor:
        return vectors_BV[:, None].expand(-1, len(self.codebooks_MKE), -1)

    def gate(self, vectors_BV: Tensor) -> Tensor:
        return super().gate(vectors_BV) / len(self.codebooks_MKE)

    def decode(self, mixed_BE: Tensor) -> Tensor:
        return mixed_BE
