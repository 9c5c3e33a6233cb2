"""The definition of `decoder_blocks` in PyTorch."""

import torch
from torch.nn import functional as F

from ..panels import Shapes, unpack
from ..path_attention.reference import path_attention_reference

__all__ = ["NORMS", "decoder_blocks_reference", "layer_shapes"]

NORMS = 3
"""Of a block: after attention to the path, attention to the history, and FFN."""


def layer_shapes(dim: int, ffn_dim: int) -> Shapes:
    """Of a block: queries, keys and values of the path; out; queries to the history; out; up; down."""
    return [(3 * dim, dim), (dim, dim), (dim, dim), (dim, dim), (ffn_dim, dim), (dim, ffn_dim)]


def decoder_blocks_reference(
    x_BPE: torch.Tensor,
    kept_BTRZHD: torch.Tensor,
    rows_BPS: torch.Tensor,
    memory_BZHLD: torch.Tensor,
    visible_BL: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y_BPE, made_BPZHD)"""
    num_heads, dim, made = memory_BZHLD.shape[2], x_BPE.shape[2], []
    own_BP1 = torch.arange(x_BPE.shape[1], device=x_BPE.device)[:, None].expand(*x_BPE.shape[:2], 1)
    path_BPS = torch.cat([rows_BPS, own_BP1], dim=2)
    for block, weights_N in enumerate(weights_YN):
        layers, (norm_self, norm_cross, norm_ffn) = unpack(weights_N, layer_shapes(dim, ffn_dim), NORMS, dim)
        qkv, out, cross_q, cross_out, up, down = layers
        q, *own = F.linear(x_BPE, *qkv).unflatten(-1, (3, num_heads, -1)).unbind(-3)
        place = 2 * block, 2 * block + 1
        keys, values = (_grown(kept_BTRZHD[:, :, :, at], new, rows_BPS) for at, new in zip(place, own, strict=True))
        mixed_BPHD = path_attention_reference(q, keys, values, path_BPS)
        x_BPE = F.layer_norm(x_BPE + F.linear(mixed_BPHD.flatten(2), *out), (dim,), *norm_self)
        cross_BHPD = F.linear(x_BPE, *cross_q).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        keys_BHLD, values_BHLD = (memory_BZHLD[:, at] for at in place)
        scores_BHPL = cross_BHPD * cross_BHPD.shape[-1] ** -0.5 @ keys_BHLD.mT
        weights_BHPL = scores_BHPL.masked_fill(~visible_BL[:, None, None], -torch.inf).softmax(-1)
        seen_BPE = (weights_BHPL @ values_BHLD).transpose(1, 2).flatten(2)
        x_BPE = F.layer_norm(x_BPE + F.linear(seen_BPE, *cross_out), (dim,), *norm_cross)
        x_BPE = F.layer_norm(x_BPE + F.linear(F.linear(x_BPE, *up).relu(), *down), (dim,), *norm_ffn)
        made += own
    return x_BPE, torch.stack(made, dim=2)


def _grown(kept_BTRHD: torch.Tensor, new_BPHD: torch.Tensor, rows_BPS: torch.Tensor) -> torch.Tensor:
    """The keys or values of the steps before, and of this one."""
    num_rows, num_steps = max(new_BPHD.shape[1], kept_BTRHD.shape[2]), rows_BPS.shape[2]
    grown = new_BPHD.new_zeros(len(new_BPHD), num_steps + 1, num_rows, *new_BPHD.shape[2:])
    grown[:, :num_steps, : kept_BTRHD.shape[2]] = kept_BTRHD[:, :num_steps]
    grown[:, num_steps, : new_BPHD.shape[1]] = new_BPHD
    return grown
