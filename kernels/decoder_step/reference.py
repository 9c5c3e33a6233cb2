"""The definition of `decoder_step` in PyTorch."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..bounds import bounded, bounded_norm
from ..panels import Shapes, affine, unpack_weights
from ..path_attention.reference import attend_to_paths

__all__ = ["DecoderShape", "DecoderStep", "decoder_step_reference", "empty_results"]


class DecoderShape(NamedTuple):
    """The sizes of a decoder. num_tokens: of all codebooks together; num_categories: 0 without a category head."""

    num_blocks: int
    ffn_dim: int
    num_tokens: int
    num_categories: int
    refines: bool

    def part_shapes(self, dim: int) -> list[Shapes]:
        """Each block: queries, keys and values of the path; out; queries to the history; out; up; down; 3 norms.

        The last part: the layer that refines states, if any; tokens; categories, if any; the norm of the inputs.
        """
        block = [(3 * dim, dim), (dim, dim), (dim, dim), (dim, dim), (self.ffn_dim, dim), (dim, self.ffn_dim)]
        heads = (
            [(dim, dim)] * self.refines
            + [(self.num_tokens, dim)]
            + [(self.num_categories, dim)] * bool(self.num_categories)
        )
        return [*[(block, 3)] * self.num_blocks, (heads, 1)]


class DecoderStep(NamedTuple):
    """A call of `decoder_step`."""

    inputs_XD: torch.Tensor
    row_BP: torch.Tensor
    scale: float
    position_D: torch.Tensor
    states_BD: torch.Tensor
    kept_BTRZAQ: torch.Tensor
    rows_BPS: torch.Tensor
    memory_BZAJQ: torch.Tensor
    visible_BJ: torch.Tensor
    weights_Y: torch.Tensor
    shape: DecoderShape
    with_logits: bool = True


def empty_results(call: DecoderStep) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits_BPO, categories_BPC), not yet written to"""
    like, paths = call.inputs_XD, call.row_BP.shape
    logits_BPO = like.new_empty(*paths, call.shape.num_tokens if call.with_logits else 0)
    return logits_BPO, like.new_empty(*paths, call.shape.num_categories)


def decoder_step_reference(call: DecoderStep) -> tuple[torch.Tensor, torch.Tensor]:
    inputs_XD, row_BP, scale, position_D, states_BD, kept_BTRZAQ, rows_BPS, memory_BZAJQ, visible_BJ, *_ = call
    weights_Y, shape, with_logits = call[-3:]
    dim, num_heads, (num_paths, step) = inputs_XD.shape[1], memory_BZAJQ.shape[2], rows_BPS.shape[1:]
    own_BP1 = torch.arange(num_paths, device=row_BP.device)[:, None].expand(*row_BP.shape, 1)
    path_BPS = torch.cat([rows_BPS, own_BP1], dim=2)
    *blocks, (heads, (norm_input,)) = unpack_weights(weights_Y, shape.part_shapes(dim), dim, inputs_XD.dtype)
    x_BPD = bounded_norm(scale * F.embedding(row_BP, inputs_XD) + position_D, norm_input)
    for block, ((qkv, out, cross_q, cross_out, up, down), (norm_self, norm_cross, norm_ffn)) in enumerate(blocks):
        at = 2 * block, 2 * block + 1
        q_BPAQ, *own = affine(x_BPD, qkv).unflatten(-1, (3, num_heads, -1)).unbind(-3)
        kept_BTRZAQ[:, step, :num_paths, at[0] : at[1] + 1] = torch.stack(own, dim=2)
        keys, values = (kept_BTRZAQ[:, :, :, z] for z in at)
        mixed_BPAQ = attend_to_paths(q_BPAQ, keys, values, path_BPS)
        x_BPD = bounded_norm(x_BPD + affine(mixed_BPAQ.flatten(2), out), norm_self)
        cross_BAPQ = affine(x_BPD, cross_q).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        keys_BAJQ, values_BAJQ = (bounded(memory_BZAJQ[:, z].masked_fill(~visible_BJ[:, None, :, None], 0)) for z in at)
        scores_BAPJ = cross_BAPQ * cross_BAPQ.shape[-1] ** -0.5 @ keys_BAJQ.mT
        weights_BAPJ = scores_BAPJ.masked_fill(~visible_BJ[:, None, None], -torch.inf).softmax(-1)
        seen_BPD = (weights_BAPJ @ values_BAJQ).transpose(1, 2).flatten(2)
        x_BPD = bounded_norm(x_BPD + affine(seen_BPD, cross_out), norm_cross)
        x_BPD = bounded_norm(x_BPD + affine(affine(x_BPD, up).relu(), down), norm_ffn)
    if shape.refines:
        x_BPD = bounded(states_BD[:, None] + affine(x_BPD, heads[0]))
    tokens, *categories = heads[shape.refines :]
    nothing_BP0 = x_BPD[..., :0].clone()
    return (
        affine(x_BPD, tokens) if with_logits else nothing_BP0,
        affine(x_BPD, categories[0]) if categories else nothing_BP0.clone(),
    )
