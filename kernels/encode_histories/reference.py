"""The definition of `encode_histories` in PyTorch."""

from typing import NamedTuple

import torch

from ..bounds import bounded, bounded_norm
from ..panels import Shapes, affine, unpack_weights

__all__ = ["EncodeHistories", "EncoderShape", "empty_results", "encode_histories_reference"]


class EncoderShape(NamedTuple):
    """The sizes of an encoder. num_both: keys and values that the memory has per slot, 2 per block of the decoder."""

    num_blocks: int
    ffn_dim: int
    num_both: int

    def part_shapes(self, dim: int) -> list[Shapes]:
        """Each block: queries, keys and values; out; up; down; norms after attention and FFN. Last: the memory."""
        block = [(3 * dim, dim), (dim, dim), (self.ffn_dim, dim), (dim, self.ffn_dim)]
        return [*[(block, 2)] * self.num_blocks, ([(self.num_both * dim, dim)], 0)]


class EncodeHistories(NamedTuple):
    """A call of `encode_histories`."""

    x_XD: torch.Tensor
    length_B: torch.Tensor
    slots_per_item: int
    cos_TQ: torch.Tensor
    sin_TQ: torch.Tensor
    weights_Y: torch.Tensor
    shape: EncoderShape
    with_memory: bool = True


def empty_results(call: EncodeHistories) -> tuple[torch.Tensor, torch.Tensor]:
    """(states_BD, memory_XZAQ), not yet written to"""
    (num_slots, dim), head_dim = call.x_XD.shape, call.cos_TQ.shape[1]
    states_BD, num_both = (
        call.x_XD.new_empty(call.length_B.shape[0], dim),
        call.shape.num_both if call.with_memory else 0,
    )
    return states_BD, call.x_XD.new_empty(num_slots, num_both, dim // head_dim, head_dim)


def encode_histories_reference(call: EncodeHistories) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads the histories; no slot sees the padding, because its numbers are higher."""
    x_XD, length_B, slots_per_item, cos_TQ, sin_TQ, weights_Y, shape, with_memory = call
    dim, head_dim = x_XD.shape[1], cos_TQ.shape[1]
    *blocks, ((to_memory,), _) = unpack_weights(weights_Y, shape.part_shapes(dim), dim, x_XD.dtype)
    num_slots_B = 1 + length_B * slots_per_item
    slot_J = torch.arange(max(num_slots_B.tolist(), default=0), device=x_XD.device)
    filled_BJ, number_J = slot_J < num_slots_B[:, None], (slot_J + slots_per_item - 1) // slots_per_item
    visible_JJ, turn_J = number_J <= number_J[:, None], (cos_TQ[number_J], sin_TQ[number_J])
    x_BJD = x_XD.new_zeros(*filled_BJ.shape, dim)
    x_BJD[filled_BJ] = bounded(x_XD)
    for (qkv, out, up, down), (norm_attention, norm_ffn) in blocks:
        x_BJD = x_BJD.masked_fill(~filled_BJ[..., None], 0)  # NaN would spread, since 0 * NaN is NaN
        heads = affine(x_BJD, qkv).unflatten(-1, (3, -1, head_dim)).permute(2, 0, 3, 1, 4)
        q_BAJQ, k_BAJQ = (bounded(_rotated(x, *turn_J)) for x in heads[:2])
        scores_BAJJ = q_BAJQ * head_dim**-0.5 @ k_BAJQ.mT
        weights_BAJJ = scores_BAJJ.masked_fill(~visible_JJ, -torch.inf).softmax(-1)
        mixed_BJD = (weights_BAJJ @ bounded(heads[2])).transpose(1, 2).flatten(2)
        x_BJD = bounded_norm(x_BJD + affine(mixed_BJD, out), norm_attention)
        x_BJD = bounded_norm(x_BJD + affine(affine(x_BJD, up).relu(), down), norm_ffn)
    states_BD = x_BJD[torch.arange(len(x_BJD), device=x_XD.device), num_slots_B - 1]
    if not with_memory:
        return states_BD, x_XD.new_empty(len(x_XD), 0, dim // head_dim, head_dim)
    ahead_X = (1 + length_B[:, None] - number_J)[filled_BJ]
    keys, values = affine(x_BJD[filled_BJ], to_memory).unflatten(-1, (-1, 2, dim // head_dim, head_dim)).unbind(2)
    keys = _rotated(keys, cos_TQ[ahead_X, None, None], -sin_TQ[ahead_X, None, None])
    return states_BD, torch.stack([keys, values], dim=2).flatten(1, 2)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin
