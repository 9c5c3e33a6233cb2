"""`encoder_memory` in C++: each thread takes some users through all blocks at a time."""

import torch

from ..panels import weights_objection

__all__ = ["objection", "run"]


def objection(x_BSE: torch.Tensor, *rest: object) -> str | None:
    if x_BSE.dtype != torch.float32:
        return f"it computes float32, this is {x_BSE.dtype}"
    return weights_objection(rest[5])  # type: ignore[arg-type]


def run(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    turn_cos_BSD: torch.Tensor,
    turn_sin_BSD: torch.Tensor,
    weights_N: torch.Tensor,
    num_blocks: int,
    ffn_dim: int,
    num_both: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    num_users, num_slots, dim = x_BSE.shape
    head_dim = cos_SD.shape[1]
    dense = [x.contiguous() for x in (x_BSE, seen_S, cos_SD, sin_SD, weights_N, turn_cos_BSD, turn_sin_BSD)]
    places = [x.data_ptr() for x in dense]
    y_BSE = x_BSE.new_empty(x_BSE.shape)
    memory_BSZHD = x_BSE.new_empty(num_users, num_slots, num_both, dim // head_dim, head_dim)
    _C.encoder_memory_cpu(
        (num_users, num_slots, dim, dim // head_dim, ffn_dim, num_blocks, num_both * dim),
        *(*places[:5], weights_N.dtype == torch.bfloat16, *places[5:], y_BSE.data_ptr(), memory_BSZHD.data_ptr()),
        torch.get_num_threads(),
    )
    return y_BSE, memory_BSZHD
