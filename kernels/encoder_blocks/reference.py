"""The definition of `encoder_blocks` in PyTorch."""

import torch
from torch.nn import functional as F

from ..panels import Shapes, unpack

__all__ = ["NORMS", "encoder_blocks_reference", "layer_shapes"]

NORMS = 2
"""Of a block: after attention and FFN."""


def layer_shapes(dim: int, ffn_dim: int) -> Shapes:
    """Of a block: queries, keys and values; out; up; down."""
    return [(3 * dim, dim), (dim, dim), (ffn_dim, dim), (dim, ffn_dim)]


def encoder_blocks_reference(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> torch.Tensor:
    """y_BSE"""
    dim, head_dim = x_BSE.shape[2], cos_SD.shape[1]
    visible_SS = torch.arange(len(seen_S), device=x_BSE.device) < seen_S[:, None]
    for weights_N in weights_YN:
        layers, (norm_attention, norm_ffn) = unpack(weights_N, layer_shapes(dim, ffn_dim), NORMS, dim)
        qkv, out, up, down = layers
        heads = F.linear(x_BSE, *qkv).unflatten(-1, (3, -1, head_dim)).permute(2, 0, 3, 1, 4)
        q_BHSD, k_BHSD = (x * cos_SD + _turned(x) * sin_SD for x in heads[:2])
        scores_BHSS = (q_BHSD * head_dim**-0.5 @ k_BHSD.mT).masked_fill(~visible_SS, -torch.inf)
        mixed_BSE = (scores_BHSS.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)
        x_BSE = F.layer_norm(x_BSE + F.linear(mixed_BSE, *out), (dim,), *norm_attention)
        x_BSE = F.layer_norm(x_BSE + F.linear(F.linear(x_BSE, *up).relu(), *down), (dim,), *norm_ffn)
    return x_BSE


def _turned(x: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat([-high, low], dim=-1)
