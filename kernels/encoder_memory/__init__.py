"""`encoder_memory`: the encoder over users' histories, and what the decoder needs of it."""

from typing import Any

import torch

from ..checks import bind
from ..dispatch import Op
from ..panels import num_weights
from .reference import EncoderShape, encoder_memory_reference

__all__ = ["EncoderShape", "encoder_memory"]


def encoder_memory(
    x_BJD: torch.Tensor,
    seen_J: torch.Tensor,
    cos_JQ: torch.Tensor,
    sin_JQ: torch.Tensor,
    turn_cos_BJQ: torch.Tensor,
    turn_sin_BJQ: torch.Tensor,
    weights_Y: torch.Tensor,
    shape: EncoderShape,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y_BJD, memory_BJZAQ): the slots' states after all blocks, and the decoder's keys and values of them.

    Each of the blocks: attention of slot j to the first seen_J[j] slots (1 to J, which is not checked) by queries and
    keys that cos_JQ and sin_JQ rotate (halves of a head's Q channels are the pairs, Q is even), FFN with ReLU, each
    followed by addition and layer norm (epsilon 1e-5). One more layer makes the memory: keys at even z, rotated by
    turn_cos_BJQ and turn_sin_BJQ, values at odd ones. weights_Y: what `pack_weights` makes of all
    (`EncoderShape.part_shapes`), in the dtype of x or in bfloat16: then the operands of the layers' products are
    rounded to that and nothing else is. D = A x Q.

    A user's result depends on its own slots alone: any split of the users gives the same bits in C++. Without gradient.
    B may be 0. ValueError for a wrong dtype, device or shape.

    Paper: model, figure, D6: the encoder, and the memory of cross-attention.
    """
    return OP(x_BJD, seen_J, cos_JQ, sin_JQ, turn_cos_BJQ, turn_sin_BJQ, weights_Y, shape)


def _check(
    x_BJD: torch.Tensor,
    seen_J: torch.Tensor,
    cos_JQ: torch.Tensor,
    sin_JQ: torch.Tensor,
    turn_cos_BJQ: torch.Tensor,
    turn_sin_BJQ: torch.Tensor,
    weights_Y: torch.Tensor,
    shape: EncoderShape,
) -> tuple:
    floats = {"x_BJD": x_BJD, "cos_JQ": cos_JQ, "sin_JQ": sin_JQ}
    floats |= {"turn_cos_BJQ": turn_cos_BJQ, "turn_sin_BJQ": turn_sin_BJQ}
    sizes = bind("encoder_memory", floats, {"seen_J": seen_J}, integer_dtypes=(torch.int64,))
    weight_dtypes = (x_BJD.dtype, torch.bfloat16)
    bind("encoder_memory", {"weights_Y": weights_Y}, float_dtypes=weight_dtypes, sizes=sizes, device=x_BJD.device)
    dim, head_dim = sizes["D"], sizes["Q"]
    if not dim or not head_dim or head_dim % 2 or dim % head_dim or min(shape) < 1 or shape.num_both % 2:
        raise ValueError(
            "encoder_memory: an even Q > 0, D > 0 in multiples of it, and 1 or more of everything in the shape, keys "
            f"and values in pairs, were expected, found {sizes} and {shape}"
        )
    if sizes["Y"] != (wanted := num_weights(shape, dim, weights_Y.dtype)):
        raise ValueError(f"encoder_memory: weights_Y has {sizes['Y']} numbers where {wanted} were expected")
    return x_BJD, seen_J, cos_JQ, sin_JQ, turn_cos_BJQ, turn_sin_BJQ, weights_Y, *shape


def _reference(
    x_BJD: torch.Tensor,
    seen_J: torch.Tensor,
    cos_JQ: torch.Tensor,
    sin_JQ: torch.Tensor,
    turn_cos_BJQ: torch.Tensor,
    turn_sin_BJQ: torch.Tensor,
    weights_Y: torch.Tensor,
    *shape: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    return encoder_memory_reference(
        x_BJD, seen_J, cos_JQ, sin_JQ, turn_cos_BJQ, turn_sin_BJQ, weights_Y, EncoderShape(*shape)
    )


def _fake(x_BJD: torch.Tensor, _: torch.Tensor, cos_JQ: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    head_dim = cos_JQ.shape[1]
    heads = rest[-1], x_BJD.shape[2] // head_dim, head_dim
    return x_BJD.new_empty(x_BJD.shape), x_BJD.new_empty(*x_BJD.shape[:2], *heads)


OP = Op(
    "encoder_memory",
    "(Tensor x_BJD, Tensor seen_J, Tensor cos_JQ, Tensor sin_JQ, Tensor turn_cos_BJQ, Tensor turn_sin_BJQ,"
    " Tensor weights_Y, int num_blocks, int ffn_dim, int num_both) -> (Tensor, Tensor)",
    check=_check,
    reference=_reference,
    fake=_fake,
    implementations={"cpp": "native"},
)
