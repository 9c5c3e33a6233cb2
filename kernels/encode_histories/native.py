"""`encode_histories` in C++: each thread takes a few users at a time through all blocks."""

import torch

from ..call import native_op
from ..panels import weights_objection
from .reference import EncodeHistories, empty_results

__all__ = ["objection", "run"]


def objection(call: EncodeHistories) -> str | None:
    if call.x_XD.dtype != torch.float32:
        return f"it computes float32, this is {call.x_XD.dtype}"
    return weights_objection(call.weights_Y)


def run(call: EncodeHistories) -> tuple[torch.Tensor, torch.Tensor]:
    (num_slots, dim), (num_positions, head_dim), shape = call.x_XD.shape, call.cos_TQ.shape, call.shape
    states_BD, memory_XZAQ = empty_results(call)
    native_op("encode_histories")(
        num_users=states_BD.shape[0],
        num_slots=num_slots,
        num_positions=num_positions,
        width=dim,
        num_heads=dim // head_dim,
        ffn_width=shape.ffn_dim,
        num_blocks=shape.num_blocks,
        memory_width=memory_XZAQ.shape[1] * dim,
        slots_per_item=call.slots_per_item,
        x=call.x_XD.contiguous(),
        lengths=call.length_B.contiguous(),
        cos=call.cos_TQ.contiguous(),
        sin=call.sin_TQ.contiguous(),
        weights=call.weights_Y.contiguous(),
        is_bf16=call.weights_Y.dtype == torch.bfloat16,
        states=states_BD,
        memory=memory_XZAQ,
    )
    return states_BD, memory_XZAQ
