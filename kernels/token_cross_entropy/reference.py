"""The definition of `token_cross_entropy` in PyTorch: open pairs only, a tile of logits at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

__all__ = [
    "TokenCrossEntropy",
    "TokenCrossEntropyBackward",
    "token_cross_entropy_backward_reference",
    "token_cross_entropy_reference",
]

_TILE = 1 << 19
"""Logits held at a time, whatever T is."""


class TokenCrossEntropy(NamedTuple):
    """A call of `token_cross_entropy`."""

    hidden_TD: torch.Tensor
    weight_MKD: torch.Tensor
    ids_TM: torch.Tensor
    open_TM: torch.Tensor
    among_TMK: torch.Tensor | None = None


class TokenCrossEntropyBackward(NamedTuple):
    """A call of the backward op: the gradient of loss_T, the forward call and its lse_TM."""

    grad_T: torch.Tensor
    forward: TokenCrossEntropy
    lse_TM: torch.Tensor


def token_cross_entropy_reference(call: TokenCrossEntropy) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss_T, lse_TM); lse is the log-sum-exp of the logits where open, else 0."""
    hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK = call
    dtype = _work_dtype(hidden_TD)
    lse_TM = torch.zeros(open_TM.shape, dtype=dtype, device=hidden_TD.device)
    loss_T = torch.zeros(len(hidden_TD), dtype=dtype, device=hidden_TD.device)
    for book, row_X in _open_tiles(open_TM, weight_MKD.shape[1]):
        logits_XK = (hidden_TD.index_select(0, row_X) @ weight_MKD[book].T).to(dtype)
        if among_TMK is not None:
            logits_XK.masked_fill_(~among_TMK[row_X, book], -torch.inf)
        lse_X = logits_XK.logsumexp(1)
        lse_TM[row_X, book] = lse_X
        loss_T[row_X] += lse_X - logits_XK.gather(1, ids_TM[row_X, book].long().unsqueeze(1)).squeeze(1)
    return loss_T / open_TM.sum(1).clamp_min(1), lse_TM


def token_cross_entropy_backward_reference(call: TokenCrossEntropyBackward) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden_grad_TD, weight_grad_MKD); recomputes the logits."""
    grad_T, (hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK), lse_TM = call
    dtype = _work_dtype(hidden_TD)
    hidden_grad_TD = torch.zeros(hidden_TD.shape, dtype=dtype, device=hidden_TD.device)
    weight_grad_MKD = torch.zeros(weight_MKD.shape, dtype=dtype, device=hidden_TD.device)
    share_T = grad_T.to(dtype) / open_TM.sum(1).clamp_min(1)
    for book, row_X in _open_tiles(open_TM, weight_MKD.shape[1]):
        hidden_XD = hidden_TD.index_select(0, row_X)
        grad_XK = (hidden_XD @ weight_MKD[book].T).to(dtype).sub_(lse_TM[row_X, book, None]).exp_()
        if among_TMK is not None:
            grad_XK.masked_fill_(~among_TMK[row_X, book], 0)
        ids_X1 = ids_TM[row_X, book].long().unsqueeze(1)
        grad_XK.scatter_add_(1, ids_X1, grad_XK.new_full(ids_X1.shape, -1.0)).mul_(share_T[row_X, None])
        grad_XK = grad_XK.to(hidden_TD.dtype)
        hidden_grad_TD.index_add_(0, row_X, (grad_XK @ weight_MKD[book]).to(dtype))
        weight_grad_MKD[book] += grad_XK.T @ hidden_XD
    return hidden_grad_TD.to(hidden_TD.dtype), weight_grad_MKD.to(weight_MKD.dtype)


def _work_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _open_tiles(open_TM: torch.Tensor, num_codewords: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(codebook, rows where it is open), for one tile of logits after another."""
    for book, open_T in enumerate(open_TM.unbind(1)):
        for row_X in open_T.nonzero().squeeze(1).split(max(1, _TILE // num_codewords)):
            if len(row_X):
                yield book, row_X
