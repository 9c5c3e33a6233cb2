"""`path_attention` in C++: a path after the other in float32 vectors, spread over torch's number of threads."""

import torch

__all__ = ["objection", "run"]

MOST_STEPS = 64


def objection(
    q_BPHD: torch.Tensor, keys_BTRHD: torch.Tensor, values_BTRHD: torch.Tensor, rows_BPS: torch.Tensor
) -> str | None:
    if q_BPHD.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16, these are {q_BPHD.dtype}"
    if rows_BPS.shape[2] > MOST_STEPS:
        return f"it takes paths of up to {MOST_STEPS} steps, these have {rows_BPS.shape[2]}"
    return None


def run(
    q_BPHD: torch.Tensor, keys_BTRHD: torch.Tensor, values_BTRHD: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    from ... import _C

    q_BPHD, keys_BTRHD, values_BTRHD = (_dense(x) for x in (q_BPHD, keys_BTRHD, values_BTRHD))
    rows_BPS = rows_BPS.contiguous()
    mixed_BPHD = q_BPHD.new_empty(q_BPHD.shape)
    _C.path_attention_cpu(
        (*q_BPHD.shape, rows_BPS.shape[2]),
        (q_BPHD.data_ptr(), *q_BPHD.stride()),
        (keys_BTRHD.data_ptr(), *keys_BTRHD.stride()),
        (values_BTRHD.data_ptr(), *values_BTRHD.stride()),
        q_BPHD.dtype == torch.bfloat16,
        *(rows_BPS.data_ptr(), mixed_BPHD.data_ptr(), torch.get_num_threads()),
    )
    return mixed_BPHD


def _dense(x: torch.Tensor) -> torch.Tensor:
    """With the channels of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()
