"""`decoder_blocks`: the blocks of the decoder for the new tokens of a search's paths."""

import torch

from ..checks import bind
from ..dispatch import Op
from ..panels import num_weights
from .reference import NORMS, decoder_blocks_reference, layer_shapes

__all__ = ["decoder_blocks"]


def decoder_blocks(
    x_BPE: torch.Tensor,
    kept_BTRZHD: torch.Tensor,
    rows_BPS: torch.Tensor,
    memory_BZHLD: torch.Tensor,
    visible_BL: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y_BPE, made_BPZHD): the paths' states after all blocks, and the keys and values of this step for later ones.

    Each of the Y blocks: attention to the path's own S earlier steps and this one, attention to the visible slots of
    the user's history, FFN of ffn_dim with ReLU, each followed by addition and layer norm (epsilon 1e-5). Z = 2 Y: the
    keys of block n stand at 2 n, its values at 2 n + 1. kept_BTRZHD holds what earlier steps made: step s of path p is
    row rows_BPS[b, p, s] of step s, as in `path_attention`; S may be 0. Rows must lie within 0..R - 1, and each user
    must see a slot, neither of which is checked; what is hidden or not named is not read. weights_YN: what
    `reg4rec.kernels.panels.pack` makes of each block's layers (`layer_shapes`) and norms. E = H x D.

    A path's result depends on its own row alone: any split of users or paths gives the same bits in C++. Without
    gradient. B and P may be 0. ValueError for a wrong dtype, device or shape.

    Paper: model, figure, D6: the decoder's blocks.
    """
    return OP(x_BPE, kept_BTRZHD, rows_BPS, memory_BZHLD, visible_BL, weights_YN, ffn_dim)


def _check(
    x_BPE: torch.Tensor,
    kept_BTRZHD: torch.Tensor,
    rows_BPS: torch.Tensor,
    memory_BZHLD: torch.Tensor,
    visible_BL: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> tuple:
    floats = {"x_BPE": x_BPE, "kept_BTRZHD": kept_BTRZHD, "memory_BZHLD": memory_BZHLD, "weights_YN": weights_YN}
    rest = {"rows_BPS": rows_BPS}, {"visible_BL": visible_BL}
    sizes = bind("decoder_blocks", floats, *rest, integer_dtypes=(torch.int64,))
    if sizes["S"] > sizes["T"]:
        raise ValueError(f"decoder_blocks: rows_BPS names {sizes['S']} steps, {sizes['T']} are there")
    if not sizes["Y"] or not sizes["E"] or sizes["E"] != sizes["H"] * sizes["D"] or sizes["Z"] != 2 * sizes["Y"]:
        raise ValueError(f"decoder_blocks: E = H x D > 0 and Z = 2 Y > 0 were expected, found {sizes}")
    if sizes["N"] != (wanted := num_weights(layer_shapes(sizes["E"], ffn_dim), NORMS, sizes["E"])):
        raise ValueError(f"decoder_blocks: weights_YN has {sizes['N']} numbers a block where {wanted} were expected")
    return x_BPE, kept_BTRZHD, rows_BPS, memory_BZHLD, visible_BL, weights_YN, ffn_dim


def _fake(x_BPE: torch.Tensor, kept_BTRZHD: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    return x_BPE.new_empty(x_BPE.shape), x_BPE.new_empty(*x_BPE.shape[:2], *kept_BTRZHD.shape[3:])


OP = Op(
    "decoder_blocks",
    "(Tensor x_BPE, Tensor kept_BTRZHD, Tensor rows_BPS, Tensor memory_BZHLD, Tensor visible_BL, Tensor weights_YN, "
    "int ffn_dim) -> (Tensor, Tensor)",
    check=_check,
    reference=decoder_blocks_reference,
    fake=_fake,
    implementations={"cpp": "native"},
)
