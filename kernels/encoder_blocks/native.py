"""`encoder_blocks` in C++: each thread takes some users through all blocks at a time."""

import torch

__all__ = ["objection", "run"]


def objection(x_BSE: torch.Tensor, *_: object) -> str | None:
    return None if x_BSE.dtype == torch.float32 else f"it computes float32, this is {x_BSE.dtype}"


def run(
    x_BSE: torch.Tensor,
    seen_S: torch.Tensor,
    cos_SD: torch.Tensor,
    sin_SD: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> torch.Tensor:
    from ... import _C

    num_users, num_slots, dim = x_BSE.shape
    dense = [tensor.contiguous() for tensor in (x_BSE, seen_S, cos_SD, sin_SD, weights_YN)]
    y_BSE = torch.empty(x_BSE.shape)
    _C.encoder_blocks_cpu(
        (num_users, num_slots, dim, dim // cos_SD.shape[1], ffn_dim, len(weights_YN)),
        *(tensor.data_ptr() for tensor in dense),
        y_BSE.data_ptr(),
        torch.get_num_threads(),
    )
    return y_BSE
