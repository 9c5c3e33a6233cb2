"""The definition of `decoder_step` in PyTorch."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..panels import Shapes, affine, unpack_weights
from ..path_attention.reference import path_attention_reference

__all__ = ["DecoderShape", "decoder_step_reference"]


class DecoderShape(NamedTuple):
    """What the sizes of a decoder's tensors do not tell; num_tokens of all codebooks, num_categories 0 for none."""

    num_blocks: int
    ffn_dim: int
    num_tokens: int
    num_categories: int
    refines: bool

    def part_shapes(self, dim: int) -> list[Shapes]:
        """Of each block: queries, keys and values of the path; out; queries to the history; out; up; down; 3 norms.

        Then of what is around them: the layer that refines states, if any; tokens; categories, if any; the inputs'
        norm.
        """
        block = [(3 * dim, dim), (dim, dim), (dim, dim), (dim, dim), (self.ffn_dim, dim), (dim, self.ffn_dim)]
        heads = (
            [(dim, dim)] * self.refines
            + [(self.num_tokens, dim)]
            + [(self.num_categories, dim)] * bool(self.num_categories)
        )
        return [*[(block, 3)] * self.num_blocks, (heads, 1)]


def decoder_step_reference(
    inputs_XE: torch.Tensor,
    row_BP: torch.Tensor,
    scale: float,
    position_E: torch.Tensor,
    states_BE: torch.Tensor,
    kept_BTRZHD: torch.Tensor,
    rows_BPS: torch.Tensor,
    memory_BZHLD: torch.Tensor,
    visible_BL: torch.Tensor,
    weights_N: torch.Tensor,
    shape: DecoderShape,
    with_logits: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits_BPO, categories_BPC)"""
    dim, num_heads, (num_paths, step) = inputs_XE.shape[1], memory_BZHLD.shape[2], rows_BPS.shape[1:]
    own_BP1 = torch.arange(num_paths, device=row_BP.device)[:, None].expand(*row_BP.shape, 1)
    path_BPS = torch.cat([rows_BPS, own_BP1], dim=2)
    *blocks, (heads, (norm_input,)) = unpack_weights(weights_N, shape.part_shapes(dim), dim, inputs_XE.dtype)
    x_BPE = F.layer_norm(scale * F.embedding(row_BP, inputs_XE) + position_E, (dim,), *norm_input)
    for block, ((qkv, out, cross_q, cross_out, up, down), (norm_self, norm_cross, norm_ffn)) in enumerate(blocks):
        at = 2 * block, 2 * block + 1
        q_BPHD, *own = affine(x_BPE, qkv).unflatten(-1, (3, num_heads, -1)).unbind(-3)
        kept_BTRZHD[:, step, :num_paths, at[0] : at[1] + 1] = torch.stack(own, dim=2)
        keys, values = (kept_BTRZHD[:, :, :, z] for z in at)
        mixed_BPHD = path_attention_reference(q_BPHD, keys, values, path_BPS)
        x_BPE = F.layer_norm(x_BPE + affine(mixed_BPHD.flatten(2), out), (dim,), *norm_self)
        cross_BHPD = affine(x_BPE, cross_q).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        keys_BHLD, values_BHLD = (memory_BZHLD[:, z].masked_fill(~visible_BL[:, None, :, None], 0) for z in at)
        scores_BHPL = cross_BHPD * cross_BHPD.shape[-1] ** -0.5 @ keys_BHLD.mT
        weights_BHPL = scores_BHPL.masked_fill(~visible_BL[:, None, None], -torch.inf).softmax(-1)
        seen_BPE = (weights_BHPL @ values_BHLD).transpose(1, 2).flatten(2)
        x_BPE = F.layer_norm(x_BPE + affine(seen_BPE, cross_out), (dim,), *norm_cross)
        x_BPE = F.layer_norm(x_BPE + affine(affine(x_BPE, up).relu(), down), (dim,), *norm_ffn)
    if shape.refines:
        x_BPE = states_BE[:, None] + affine(x_BPE, heads[0])
    tokens, *categories = heads[shape.refines :]
    nothing_BP0 = x_BPE[..., :0].clone()
    return (
        affine(x_BPE, tokens) if with_logits else nothing_BP0,
        affine(x_BPE, categories[0]) if categories else nothing_BP0.clone(),
    )
