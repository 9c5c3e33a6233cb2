"""Optimized product quantization: a learned rotation, then k-means in blocks of dimensions."""

from itertools import chain

import torch
from torch import Tensor

from reg4rec.errors import InputError
from reg4rec.progress import counted
from reg4rec.tokenizer.codebooks import cluster_centers, cluster_means
from reg4rec.tokenizer.quantizer import Quantizer

__all__ = ["ProductQuantizer", "balanced_rotation", "fit_product"]

ROTATIONS = 20
"""number of updates of the rotation"""


class ProductQuantizer(Quantizer):
    """Splits the rotated item vector into M blocks, each with its own codebook (Jegou et al. 2011; Ge et al. 2013).

    Codewords have full width and are zero outside their block, so the codewords of an item add up to its vector.
    """

    rotation_VV: Tensor
    block_MV: Tensor

    def __init__(self, vector_dim: int, num_codebooks: int, codebook_size: int):
        super().__init__()
        if vector_dim < num_codebooks:
            raise InputError(
                f"item vectors of width {vector_dim} cannot be split into {num_codebooks} blocks; use fewer codebooks"
            )
        block_V = torch.arange(vector_dim, device="cpu") * num_codebooks // vector_dim
        self.register_buffer("rotation_VV", torch.eye(vector_dim))
        self.register_buffer("codebooks_MKE", torch.zeros(num_codebooks, codebook_size, vector_dim))
        self.register_buffer(
            "block_MV", block_V == torch.arange(num_codebooks, device="cpu")[:, None], persistent=False
        )

    def latents(self, vectors_BV: Tensor) -> Tensor:
        return (vectors_BV @ self.rotation_VV)[:, None] * self.block_MV

    def decode(self, mixed_BE: Tensor) -> Tensor:
        return mixed_BE @ self.rotation_VV.T


@torch.no_grad()
def fit_product(quantizer: ProductQuantizer, vectors_XV: Tensor, seed: int) -> None:
    """Fit codebooks and rotation alternately, each optimal given the other; ends with k-means.

    Paper: Ge et al. 2013, the non-parametric solution started from the parametric one
    """
    quantizer.rotation_VV.copy_(balanced_rotation(vectors_XV, quantizer.block_MV.sum(1).tolist()))
    _cluster_blocks(quantizer, vectors_XV, seed)
    for _ in counted(range(ROTATIONS), "rotating the codebooks"):
        rebuilt_XV = quantizer.encode(vectors_XV)[1]
        left_VV, _, right_VV = torch.linalg.svd((vectors_XV.T @ rebuilt_XV).double())
        quantizer.rotation_VV.copy_(left_VV @ right_VV)
        latents_XMV, ids_XM = quantizer.latents(vectors_XV), quantizer.encode(vectors_XV)[0]
        quantizer.codebooks_MKE.copy_(cluster_means(latents_XMV, ids_XM, quantizer.codebooks_MKE))
    _cluster_blocks(quantizer, vectors_XV, seed, again=True)


def balanced_rotation(vectors_XV: Tensor, widths: list[int]) -> Tensor:
    """(V, V): principal directions, distributed so that the product of variances is about equal in all blocks."""
    centered_XV = (vectors_XV - vectors_XV.mean(0)).double()
    variance_V, direction_VV = torch.linalg.eigh(centered_XV.T @ centered_XV / len(vectors_XV))
    blocks: list[list[int]] = [[] for _ in widths]
    weight = [0.0] * len(widths)
    for column in reversed(range(len(variance_V))):
        b = min((b for b, width in enumerate(widths) if len(blocks[b]) < width), key=weight.__getitem__)
        blocks[b].append(column)
        weight[b] += float(variance_V[column].clamp(min=1e-12).log() - variance_V[0].clamp(min=1e-12).log())
    return direction_VV[:, list(chain(*blocks))].to(vectors_XV.dtype)


def _cluster_blocks(quantizer: ProductQuantizer, vectors_XV: Tensor, seed: int, again: bool = False) -> None:
    latents_XMV = quantizer.latents(vectors_XV)
    for m, (book_KE, inside_V) in enumerate(zip(quantizer.codebooks_MKE, quantizer.block_MV, strict=True)):
        start_KE = book_KE[:, inside_V] if again else None
        book_KE[:, inside_V] = cluster_centers(latents_XMV[:, m, inside_V], len(book_KE), seed + m, start_KE)
