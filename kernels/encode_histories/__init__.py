"""`encode_histories`: the encoder over users' histories without padding, and the decoder's keys and values."""

import torch

from ..bounds import check_weights
from ..checks import bind, check_count, within
from ..dispatch import Op
from ..panels import num_weights
from .reference import EncodeHistories, EncoderShape, empty_results, encode_histories_reference

__all__ = ["EncoderShape", "encode_histories"]


def encode_histories(
    x_XD: torch.Tensor,
    length_B: torch.Tensor,
    slots_per_item: int,
    cos_TQ: torch.Tensor,
    sin_TQ: torch.Tensor,
    weights_Y: torch.Tensor,
    shape: EncoderShape,
    with_memory: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(states_BD, memory_XZAQ): the state of each user's last slot after all blocks, and the decoder's keys and values.

    x_XD has the slots of one user after another: the start, number 0, then slots_per_item slots for each of the user's
    length_B items, which are numbered from 1. Each block applies attention of a slot to its user's slots whose number
    is not higher, with queries and keys at number n rotated by row n of cos_TQ and sin_TQ (Q is even, channel i of a
    head pairs with i + Q / 2), and an FFN with ReLU, each followed by addition and layer norm (epsilon 1e-5). One more
    layer makes the memory: keys at even z, rotated back by the distance to the next item (row length + 1 - number),
    values at odd z. Without `with_memory` Z = 0, and the last block computes only what the last slots need. weights_Y:
    all weights by `pack_weights` in the order of `EncoderShape.part_shapes`, in the dtype of x or in bfloat16, which
    rounds the operands of the layers' products to bfloat16 and nothing else. D = A x Q.

    A user's result depends on its own slots alone, so in C++ any split of the users gives the same bits; states are the
    same bits with and without memory. Without gradient. B may be 0. Numbers in x_XD, attention or a norm that are not
    finite or are 1e15 or more in magnitude become NaN, as does everything computed from them. ValueError for a wrong
    dtype, device or shape, on the CPU also for lengths that do not add up to X slots or need more rows than cos_TQ has,
    and for weights of 1e6 or more.

    Paper: model, figure, D6: the encoder, and the memory of cross-attention.
    """
    return OP(EncodeHistories(x_XD, length_B, slots_per_item, cos_TQ, sin_TQ, weights_Y, shape, with_memory))


def _check(call: EncodeHistories) -> None:
    floats = {"x_XD": call.x_XD, "cos_TQ": call.cos_TQ, "sin_TQ": call.sin_TQ}
    sizes = bind("encode_histories", floats, {"length_B": call.length_B}, integer_dtypes=(torch.int64,))
    weights_Y, dtype, device = call.weights_Y, call.x_XD.dtype, call.x_XD.device
    bind("encode_histories", {"weights_Y": weights_Y}, float_dtypes=(dtype, torch.bfloat16), sizes=sizes, device=device)
    dim, head_dim, slots_per_item, shape = sizes["D"], sizes["Q"], call.slots_per_item, call.shape
    fits = dim and head_dim and head_dim % 2 == 0 and dim % head_dim == 0 and shape.num_both % 2 == 0
    if not fits or min(*shape, slots_per_item) < 1 or shape.num_blocks > sizes["Y"]:
        raise ValueError(
            "encode_histories: an even Q > 0, D > 0 in multiples of Q, 1 or more slots per item, an even num_both and "
            f"every number of the shape 1 or more were expected, found {sizes}, {slots_per_item} slots and {shape}"
        )
    check_count("encode_histories", "slots_per_item", slots_per_item, 1)
    if sizes["Y"] != (wanted := num_weights(shape, dim, weights_Y.dtype)):
        raise ValueError(f"encode_histories: weights_Y has {sizes['Y']} numbers where {wanted} were expected")
    check_weights("encode_histories", weights_Y)


def _values(call: EncodeHistories) -> None:
    x_XD, length_B = call.x_XD, call.length_B
    # the memory rotates the start's keys by length + 1, the number of the next item
    within("encode_histories", "length_B", length_B, 0, len(call.cos_TQ) - (2 if call.with_memory else 1))
    num_slots = len(length_B) + call.slots_per_item * int(length_B.sum()) if length_B.is_cpu else len(x_XD)
    if num_slots != len(x_XD):
        raise ValueError(f"encode_histories: x_XD must have {num_slots} slots by these lengths, found {len(x_XD)}")


OP = Op(
    "encode_histories",
    EncodeHistories,
    2,
    check=_check,
    reference=encode_histories_reference,
    fake=empty_results,
    values=_values,
    implementations={"cpp": "native"},
)
