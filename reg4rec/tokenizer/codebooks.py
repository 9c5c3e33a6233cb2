"""Initialization of codebooks by k-means, and repair of unused codewords."""

from collections.abc import Callable

import torch
from torch import Tensor

from reg4rec import ops

__all__ = ["cluster_centers", "kmeans_codebooks", "revive_dead"]

KMEANS_ITERATIONS = 50
"""maximum number of iterations of scikit-learn's k-means"""


def kmeans_codebooks(latents_XME: Tensor, codebook_size: int, iterations: int, generator: torch.Generator) -> Tensor:
    """codebooks_MKE: k-means of each expert's latents by Lloyd's algorithm with k-means++ initialization.

    Empty clusters move to the latents with the largest error. The same generator state gives the same bits on the CPU.
    Needs at least K items.
    Paper: MPQ, ours, D2
    """
    latents_XME = latents_XME.contiguous()
    centers_MKE = spread_centers(latents_XME, codebook_size, generator)
    for _ in range(iterations):
        ids_XM = ops.mpq_quantize(latents_XME, centers_MKE)[0]
        centers_MKE = cluster_means(latents_XME, ids_XM, centers_MKE)
        error_XM = squared_distances(latents_XME, centers_MKE, ids_XM)
        revive_dead(centers_MKE, ids_XM, error_XM, lambda rows_T, m: latents_XME[rows_T, m])
    return centers_MKE


def cluster_centers(points_XE: Tensor, size: int, seed: int, start_KE: Tensor | None = None) -> Tensor:
    """(K, E) centers of scikit-learn's k-means, initialized by `start_KE` or k-means++."""
    from sklearn.cluster import KMeans  # here, because it is slow to import

    start = "k-means++" if start_KE is None else start_KE.cpu().numpy()
    means = KMeans(size, init=start, n_init=1, max_iter=KMEANS_ITERATIONS, random_state=seed)
    found = means.fit(points_XE.cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(points_XE)


def spread_centers(latents_XME: Tensor, codebook_size: int, generator: torch.Generator) -> Tensor:
    """K latents per codebook, each drawn in proportion to its squared distance to those drawn before (k-means++)."""
    num_items, num_books, dim = latents_XME.shape
    books_M = torch.arange(num_books, device=latents_XME.device)
    centers_MKE = latents_XME.new_empty(num_books, codebook_size, dim)
    chance_MX = torch.ones(num_books, num_items)
    closest_XM = latents_XME.new_full((num_items, num_books), torch.inf)
    for k in range(codebook_size):
        rows_M = torch.multinomial(chance_MX, 1, generator=generator).squeeze(1).to(latents_XME.device)
        centers_MKE[:, k] = latents_XME[rows_M, books_M]
        closest_XM = torch.minimum(closest_XM, (latents_XME - centers_MKE[:, k]).square().sum(2))
        chance_MX = closest_XM.T.cpu() + 1e-30
    return centers_MKE


def cluster_means(latents_XME: Tensor, ids_XM: Tensor, centers_MKE: Tensor) -> Tensor:
    """The mean of the latents in every cluster; an empty cluster keeps its center."""
    num_books, size, dim = centers_MKE.shape
    flat_XM = ids_XM + size * torch.arange(num_books, device=ids_XM.device)
    sums = latents_XME.new_zeros(num_books * size, dim).index_add_(0, flat_XM.flatten(), latents_XME.flatten(0, 1))
    counts = torch.bincount(flat_XM.flatten(), minlength=num_books * size)
    means_MKE = (sums / counts.clamp(min=1).unsqueeze(1)).view_as(centers_MKE)
    return torch.where((counts > 0).view(num_books, size, 1), means_MKE, centers_MKE)


def squared_distances(latents_XME: Tensor, codebooks_MKE: Tensor, ids_XM: Tensor) -> Tensor:
    """(X, M) squared distances between latents and the codewords of the given ids."""
    books_M = torch.arange(len(codebooks_MKE), device=ids_XM.device)
    return (latents_XME - codebooks_MKE[books_M, ids_XM]).square().sum(2)


@torch.no_grad()
def revive_dead(
    codebooks_MKE: Tensor, ids_IM: Tensor, error_IM: Tensor, latents_of: Callable[[Tensor, int], Tensor]
) -> int:
    """Move unused codewords, in place, to the latents with the largest error; returns their number.

    `latents_of(rows_X, m)` returns the latents_XE of expert m.
    Paper: MPQ, ours, D2
    """
    moved = 0
    for m, book_KE in enumerate(codebooks_MKE):
        dead = (torch.bincount(ids_IM[:, m], minlength=len(book_KE)) == 0).nonzero().squeeze(1)
        worst = error_IM[:, m].topk(min(len(dead), len(error_IM))).indices
        if len(worst):
            book_KE[dead[: len(worst)]] = latents_of(worst, m).to(book_KE.dtype)
        moved += len(worst)
    return moved
