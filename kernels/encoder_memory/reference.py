"""The definition of `encoder_memory` in PyTorch."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..panels import Shapes, affine, unpack_weights

__all__ = ["EncoderShape", "encoder_memory_reference"]


class EncoderShape(NamedTuple):
    """What the sizes of an encoder's tensors do not tell; num_both: keys and values of all of the decoder's blocks."""

    num_blocks: int
    ffn_dim: int
    num_both: int

    def part_shapes(self, dim: int) -> list[Shapes]:
        """Of each block: queries, keys and values; out; up; down; norms after attention and FFN. Then of the memory."""
        block = [(3 * dim, dim), (dim, dim), (self.ffn_dim, dim), (dim, self.ffn_dim)]
        return [*[(block, 2)] * self.num_blocks, ([(self.num_both * dim, dim)], 0)]


def encoder_memory_reference(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    turn_cos_BSD: torch.Tensor,
    turn_sin_BSD: torch.Tensor,
    weights_N: torch.Tensor,
    shape: EncoderShape,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y_BSE, memory_BSZHD)"""
    dim, head_dim = x_BSE.shape[2], cos_SD.shape[1]
    visible_SS = torch.arange(len(seen_S), device=x_BSE.device) < seen_S[:, None]
    *blocks, ((to_memory,), _) = unpack_weights(weights_N, shape.part_shapes(dim), dim, x_BSE.dtype)
    for (qkv, out, up, down), (norm_attention, norm_ffn) in blocks:
        heads = affine(x_BSE, qkv).unflatten(-1, (3, -1, head_dim)).permute(2, 0, 3, 1, 4)
        q_BHSD, k_BHSD = (_rotated(x, cos_SD, sin_SD) for x in heads[:2])
        scores_BHSS = (q_BHSD * head_dim**-0.5 @ k_BHSD.mT).masked_fill(~visible_SS, -torch.inf)
        mixed_BSE = (scores_BHSS.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)
        x_BSE = F.layer_norm(x_BSE + affine(mixed_BSE, out), (dim,), *norm_attention)
        x_BSE = F.layer_norm(x_BSE + affine(affine(x_BSE, up).relu(), down), (dim,), *norm_ffn)
    keys, values = affine(x_BSE, to_memory).unflatten(-1, (-1, 2, dim // head_dim, head_dim)).unbind(3)
    keys = _rotated(keys, *(turn[:, :, None, None] for turn in (turn_cos_BSD, turn_sin_BSD)))
    return x_BSE.clone(), torch.stack([keys, values], dim=3).flatten(2, 3)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin
