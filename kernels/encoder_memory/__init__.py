"""`encoder_memory`: the encoder over users' histories, and what the decoder needs of it."""

from typing import Any

import torch

from ..checks import bind
from ..dispatch import Op
from ..panels import num_weights
from .reference import EncoderShape, encoder_memory_reference

__all__ = ["EncoderShape", "encoder_memory"]


def encoder_memory(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    turn_cos_BSD: torch.Tensor,
    turn_sin_BSD: torch.Tensor,
    weights_N: torch.Tensor,
    shape: EncoderShape,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y_BSE, memory_BSZHD): the slots' states after all blocks, and the decoder's keys and values of them.

    Each of the blocks: attention of slot s to the first seen_S[s] slots (1 to S, which is not checked) by queries and
    keys that cos_SD and sin_SD rotate (halves of a head's D channels are the pairs, D is even), FFN with ReLU, each
    followed by addition and layer norm (epsilon 1e-5). One more layer makes the memory: keys at even z, rotated by
    turn_cos_BSD and turn_sin_BSD, values at odd ones. weights_N: what `pack_weights` makes of all
    (`EncoderShape.part_shapes`), in the dtype of x or in bfloat16: then the operands of the layers' products are
    rounded to that and nothing else is. E = H x D.

    A user's result depends on its own slots alone: any split of the users gives the same bits in C++. Without gradient.
    B may be 0. ValueError for a wrong dtype, device or shape.

    Paper: model, figure, D6: the encoder, and the memory of cross-attention.
    """
    return OP(x_BSE, seen_S, cos_SD, sin_SD, turn_cos_BSD, turn_sin_BSD, weights_N, shape)


def _check(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    turn_cos_BSD: torch.Tensor,
    turn_sin_BSD: torch.Tensor,
    weights_N: torch.Tensor,
    shape: EncoderShape,
) -> tuple:
    floats = {"x_BSE": x_BSE, "cos_SD": cos_SD, "sin_SD": sin_SD}
    floats |= {"turn_cos_BSD": turn_cos_BSD, "turn_sin_BSD": turn_sin_BSD}
    sizes = bind("encoder_memory", floats, {"seen_S": seen_S}, integer_dtypes=(torch.int64,))
    weight_dtypes = (x_BSE.dtype, torch.bfloat16)
    bind("encoder_memory", {"weights_N": weights_N}, float_dtypes=weight_dtypes, sizes=sizes, device=x_BSE.device)
    dim, head_dim = sizes["E"], sizes["D"]
    if not dim or not head_dim or head_dim % 2 or dim % head_dim or min(shape) < 1 or shape.num_both % 2:
        raise ValueError(
            "encoder_memory: an even D > 0, E > 0 in multiples of it, and 1 or more of everything in the shape, keys "
            f"and values in pairs, were expected, found {sizes} and {shape}"
        )
    if sizes["N"] != (wanted := num_weights(shape, dim, weights_N.dtype)):
        raise ValueError(f"encoder_memory: weights_N has {sizes['N']} numbers where {wanted} were expected")
    return x_BSE, seen_S, cos_SD, sin_SD, turn_cos_BSD, turn_sin_BSD, weights_N, *shape


def _reference(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    turn_cos_BSD: torch.Tensor,
    turn_sin_BSD: torch.Tensor,
    weights_N: torch.Tensor,
    *shape: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    return encoder_memory_reference(
        x_BSE, seen_S, cos_SD, sin_SD, turn_cos_BSD, turn_sin_BSD, weights_N, EncoderShape(*shape)
    )


def _fake(x_BSE: torch.Tensor, _: torch.Tensor, cos_SD: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    head_dim = cos_SD.shape[1]
    heads = rest[-1], x_BSE.shape[2] // head_dim, head_dim
    return x_BSE.new_empty(x_BSE.shape), x_BSE.new_empty(*x_BSE.shape[:2], *heads)


OP = Op(
    "encoder_memory",
    "(Tensor x_BSE, Tensor seen_S, Tensor cos_SD, Tensor sin_SD, Tensor turn_cos_BSD, Tensor turn_sin_BSD,"
    " Tensor weights_N, int num_blocks, int ffn_dim, int num_both) -> (Tensor, Tensor)",
    check=_check,
    reference=_reference,
    fake=_fake,
    implementations={"cpp": "native"},
)
