"""`encoder_blocks`: the blocks of the encoder over users' histories."""

import torch

from ..checks import bind
from ..dispatch import Op
from ..panels import num_weights
from .reference import NORMS, encoder_blocks_reference, layer_shapes

__all__ = ["encoder_blocks"]


def encoder_blocks(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> torch.Tensor:
    """y_BSE: the slots' states after all blocks.

    Each of the Y blocks: attention of slot s to the first seen_S[s] slots (1 to S, which is not checked) by queries and
    keys that cos_SD and sin_SD rotate (halves of a head's D channels are the pairs, D is even), FFN of ffn_dim with
    ReLU, each followed by addition and layer norm (epsilon 1e-5). weights_YN: what `reg4rec.kernels.panels.pack` makes
    of each block's layers (`layer_shapes`) and norms. E is a multiple of D.

    A user's result depends on its own slots alone: any split of the users gives the same bits in C++. Without gradient.
    B may be 0. ValueError for a wrong dtype, device or shape.

    Paper: model, figure, D6: the encoder's blocks.
    """
    return OP(x_BSE, seen_S, cos_SD, sin_SD, weights_YN, ffn_dim)


def _check(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> tuple:
    floats = {"x_BSE": x_BSE, "cos_SD": cos_SD, "sin_SD": sin_SD, "weights_YN": weights_YN}
    sizes = bind("encoder_blocks", floats, {"seen_S": seen_S}, integer_dtypes=(torch.int64,))
    if not sizes["Y"] or not sizes["E"] or not sizes["D"] or sizes["D"] % 2 or sizes["E"] % sizes["D"]:
        raise ValueError(
            f"encoder_blocks: Y > 0, an even D > 0 and E > 0 in multiples of D were expected, found {sizes}"
        )
    if sizes["N"] != (wanted := num_weights(layer_shapes(sizes["E"], ffn_dim), NORMS, sizes["E"])):
        raise ValueError(f"encoder_blocks: weights_YN has {sizes['N']} numbers a block where {wanted} were expected")
    return x_BSE, seen_S, cos_SD, sin_SD, weights_YN, ffn_dim


def _fake(x_BSE: torch.Tensor, *_: object) -> torch.Tensor:
    return x_BSE.new_empty(x_BSE.shape)


OP = Op(
    "encoder_blocks",
    "(Tensor x_BSE, Tensor seen_S, Tensor cos_SD, Tensor sin_SD, Tensor weights_YN, int ffn_dim) -> Tensor",
    check=_check,
    reference=encoder_blocks_reference,
    fake=_fake,
    implementations={"cpp": "native"},
)
