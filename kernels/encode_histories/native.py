"""`encode_histories` in C++: each thread takes some users through all blocks at a time."""

import torch

from ..panels import weights_objection

__all__ = ["objection", "run"]


def objection(x_XD: torch.Tensor, *rest: object) -> str | None:
    if x_XD.dtype != torch.float32:
        return f"it computes float32, this is {x_XD.dtype}"
    return weights_objection(rest[4])  # type: ignore[arg-type]


def run(
    x_XD: torch.Tensor,
    length_B: torch.Tensor,
    slots_per_item: int,
    cos_TQ: torch.Tensor,
    sin_TQ: torch.Tensor,
    weights_Y: torch.Tensor,
    num_blocks: int,
    ffn_dim: int,
    num_both: int,
    with_memory: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    num_users, (num_slots, dim), (num_positions, head_dim) = len(length_B), x_XD.shape, cos_TQ.shape
    num_heads, num_both = dim // head_dim, num_both if with_memory else 0
    dense = [x.contiguous() for x in (x_XD, length_B, cos_TQ, sin_TQ, weights_Y)]
    states_BD = x_XD.new_empty(num_users, dim)
    memory_XZAQ = x_XD.new_empty(num_slots, num_both, num_heads, head_dim)
    sizes = num_users, num_slots, num_positions, dim, num_heads, ffn_dim, num_blocks, num_both * dim, slots_per_item
    _C.encode_histories_cpu(
        *(sizes, *(x.data_ptr() for x in dense), weights_Y.dtype == torch.bfloat16),
        *(states_BD.data_ptr(), memory_XZAQ.data_ptr(), torch.get_num_threads()),
    )
    return states_BD, memory_XZAQ
