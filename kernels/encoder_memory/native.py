"""`encoder_memory` in C++: each thread takes some users through all blocks at a time."""

import torch

from ..panels import weights_objection

__all__ = ["objection", "run"]


def objection(x_BJD: torch.Tensor, *rest: object) -> str | None:
    if x_BJD.dtype != torch.float32:
        return f"it computes float32, this is {x_BJD.dtype}"
    return weights_objection(rest[5])  # type: ignore[arg-type]


def run(
    x_BJD: torch.Tensor,
    seen_J: torch.Tensor,
    cos_JQ: torch.Tensor,
    sin_JQ: torch.Tensor,
    turn_cos_BJQ: torch.Tensor,
    turn_sin_BJQ: torch.Tensor,
    weights_Y: torch.Tensor,
    num_blocks: int,
    ffn_dim: int,
    num_both: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    num_users, num_slots, dim = x_BJD.shape
    head_dim = cos_JQ.shape[1]
    dense = [x.contiguous() for x in (x_BJD, seen_J, cos_JQ, sin_JQ, weights_Y, turn_cos_BJQ, turn_sin_BJQ)]
    places = [x.data_ptr() for x in dense]
    y_BJD = x_BJD.new_empty(x_BJD.shape)
    memory_BJZAQ = x_BJD.new_empty(num_users, num_slots, num_both, dim // head_dim, head_dim)
    _C.encoder_memory_cpu(
        (num_users, num_slots, dim, dim // head_dim, ffn_dim, num_blocks, num_both * dim),
        *(*places[:5], weights_Y.dtype == torch.bfloat16, *places[5:], y_BJD.data_ptr(), memory_BJZAQ.data_ptr()),
        torch.get_num_threads(),
    )
    return y_BJD, memory_BJZAQ
