"""Separation of items that share all tokens, by other near codewords or a collision token."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["collision_token", "separate_collisions"]

_SINGLES = 16
"""number of near codewords tried in one codebook"""
_PAIRS = 4
"""number of near codewords tried in each of two codebooks together"""
_CHUNK = 1024
"""number of items whose distances to all codewords are in memory at a time"""


@torch.no_grad()
def separate_collisions(
    ids_IM: Tensor, error_I: Tensor, latents_of: Callable[[Tensor], Tensor], codebooks_MKE: Tensor
) -> Tensor:
    """The nearest tokens `ids_IM`, changed to reduce collisions.

    In each bucket the item with the smallest `error_I` (squared distance to its codewords) keeps its tokens. Each other
    item takes the nearest free combination of tokens that differs in one or two codebooks, or keeps its tokens if none
    is free. `latents_of(rows_X)` returns the latents_XME of some items.
    Paper: MPQ, ours, D3
    """
    ids_IM, keys_MK = ids_IM.clone(), token_keys(codebooks_MKE.shape[:2])
    key_I = keys_MK[np.arange(ids_IM.shape[1]), ids_IM.cpu().numpy()].sum(1)
    taken = set(key_I.tolist())
    crowded = _crowded(key_I, error_I.cpu().numpy())
    for rows in np.split(crowded, range(_CHUNK, len(crowded), _CHUNK)):
        rows_X = torch.from_numpy(rows).to(ids_IM.device)
        near_XMk, extra_XMk = _near_codewords(latents_of(rows_X), codebooks_MKE, ids_IM[rows_X])
        a, t, b, u = _candidates(*near_XMk.shape[1:])
        cost_XT = extra_XMk[:, a, t] + extra_XMk[:, b, u]
        near_keys_XMk = keys_MK[np.arange(ids_IM.shape[1])[:, None], near_XMk]
        changed_XMk = near_keys_XMk - near_keys_XMk[:, :, :1]
        wanted_XT = key_I[rows, None] + changed_XMk[:, a, t] + changed_XMk[:, b, u]
        for x, row in enumerate(rows):
            c = _first_free(wanted_XT[x], cost_XT[x], taken)
            if c >= 0:
                ids_IM[row, b[c]] = int(near_XMk[x, b[c], u[c]])
                ids_IM[row, a[c]] = int(near_XMk[x, a[c], t[c]])
    return ids_IM


def collision_token(codes_IM: Tensor, codebook_size: int) -> Tensor:
    """(I, 1): the number of each item within its bucket (items that share all tokens), from 0, by item row.

    In buckets of more than K items the numbers restart at 0, so some of their items still collide.
    Paper: Rajput et al. 2023 (TIGER), section 3.1
    """
    key_I = np.unique(codes_IM.cpu().numpy(), axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(key_I, kind="stable")
    sizes = np.bincount(key_I)
    number_I = np.empty_like(key_I)
    number_I[order] = np.arange(len(key_I)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return torch.from_numpy(number_I % codebook_size).to(codes_IM).unsqueeze(1)


def _first_free(wanted_T: npt.NDArray[np.int64], cost_T: npt.NDArray[np.floating], taken: set[int]) -> int:
    """The cheapest candidate whose key is free, or -1; adds its key to `taken`."""
    for c in np.argsort(cost_T, kind="stable").tolist():
        key = int(wanted_T[c])
        if key not in taken:
            taken.add(key)
            return int(c)
    return -1


def _candidates(num_books: int, num_near: int) -> npt.NDArray[np.int64]:
    """(4, T): rows a, t, b, u; codebook a takes its t-th nearest codeword, b its u-th; u = 0 leaves b unchanged."""
    books = range(num_books)
    singles = [(a, t, a, 0) for a in books for t in range(1, num_near)]
    few = range(1, min(num_near, _PAIRS + 1))
    pairs = [(a, t, b, u) for a, b in combinations(books, 2) for t in few for u in few]
    return np.array(singles + pairs, dtype=np.int64).reshape(-1, 4).T


def token_keys(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Random 64-bit keys_MK; the wrapped sum of the keys of an item's tokens identifies their combination."""
    limits = np.iinfo(np.int64)
    return np.random.default_rng(0).integers(limits.min, limits.max, size=shape, dtype=np.int64)


def _crowded(key_I: npt.NDArray[np.int64], error_I: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The items of each bucket except the one with the smallest error (ties by lowest row), bucket by bucket."""
    order = np.lexsort((error_I, key_I))
    again = np.r_[False, key_I[order][1:] == key_I[order][:-1]]
    return order[again]


def _near_codewords(
    latents_XME: Tensor, codebooks_MKE: Tensor, ids_XM: Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]:
    """near_XMk: codewords by distance, starting with `ids_XM`; extra_XMk: their squared distances minus the first's."""
    distance_MXK = torch.cdist(latents_XME.transpose(0, 1), codebooks_MKE).square()
    own_MX1 = ids_XM.T.unsqueeze(2)
    distance_MXK = (distance_MXK - distance_MXK.gather(2, own_MX1)).scatter(2, own_MX1, -torch.inf)
    near = distance_MXK.topk(min(_SINGLES + 1, distance_MXK.shape[2]), largest=False)
    extra_MXk = torch.cat([torch.zeros_like(near.values[..., :1]), near.values[..., 1:]], dim=2)
    return near.indices.transpose(0, 1).cpu().numpy(), extra_MXk.transpose(0, 1).cpu().numpy()
