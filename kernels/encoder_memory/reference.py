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
    x_BJD: torch.Tensor,
    seen_J: torch.Tensor,
    cos_JQ: torch.Tensor,
    sin_JQ: torch.Tensor,
    turn_cos_BJQ: torch.Tensor,
    turn_sin_BJQ: torch.Tensor,
    weights_Y: torch.Tensor,
    shape: EncoderShape,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y_BJD, memory_BJZAQ)"""
    dim, head_dim = x_BJD.shape[2], cos_JQ.shape[1]
    visible_JJ = torch.arange(len(seen_J), device=x_BJD.device) < seen_J[:, None]
    *blocks, ((to_memory,), _) = unpack_weights(weights_Y, shape.part_shapes(dim), dim, x_BJD.dtype)
    for (qkv, out, up, down), (norm_attention, norm_ffn) in blocks:
        heads = affine(x_BJD, qkv).unflatten(-1, (3, -1, head_dim)).permute(2, 0, 3, 1, 4)
        q_BAJQ, k_BAJQ = (_rotated(x, cos_JQ, sin_JQ) for x in heads[:2])
        scores_BAJJ = (q_BAJQ * head_dim**-0.5 @ k_BAJQ.mT).masked_fill(~visible_JJ, -torch.inf)
        mixed_BJD = (scores_BAJJ.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)
        x_BJD = F.layer_norm(x_BJD + affine(mixed_BJD, out), (dim,), *norm_attention)
        x_BJD = F.layer_norm(x_BJD + affine(affine(x_BJD, up).relu(), down), (dim,), *norm_ffn)
    keys, values = affine(x_BJD, to_memory).unflatten(-1, (-1, 2, dim // head_dim, head_dim)).unbind(3)
    keys = _rotated(keys, *(turn[:, :, None, None] for turn in (turn_cos_BJQ, turn_sin_BJQ)))
    return x_BJD.clone(), torch.stack([keys, values], dim=3).flatten(2, 3)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin
