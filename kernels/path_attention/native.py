"""`path_attention` in C++: a path after the other in float32 vectors, spread over torch's number of threads."""

import torch

__all__ = ["objection", "run"]

MOST_STEPS = 64


def objection(
    q_BPAQ: torch.Tensor, keys_BTRAQ: torch.Tensor, values_BTRAQ: torch.Tensor, rows_BPS: torch.Tensor
) -> str | None:
    if q_BPAQ.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16, these are {q_BPAQ.dtype}"
    if rows_BPS.shape[2] > MOST_STEPS:
        return f"it takes paths of up to {MOST_STEPS} steps, these have {rows_BPS.shape[2]}"
    return None


def run(
    q_BPAQ: torch.Tensor, keys_BTRAQ: torch.Tensor, values_BTRAQ: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    from ... import _C

    q_BPAQ, keys_BTRAQ, values_BTRAQ = (_dense(x) for x in (q_BPAQ, keys_BTRAQ, values_BTRAQ))
    rows_BPS = rows_BPS.contiguous()
    mixed_BPAQ = q_BPAQ.new_empty(q_BPAQ.shape)
    _C.path_attention_cpu(
        (*q_BPAQ.shape, rows_BPS.shape[2], keys_BTRAQ.shape[2]),
        (q_BPAQ.data_ptr(), *q_BPAQ.stride()),
        (keys_BTRAQ.data_ptr(), *keys_BTRAQ.stride()),
        (values_BTRAQ.data_ptr(), *values_BTRAQ.stride()),
        q_BPAQ.dtype == torch.bfloat16,
        *(rows_BPS.data_ptr(), mixed_BPAQ.data_ptr(), torch.get_num_threads()),
    )
    return mixed_BPAQ


def _dense(x: torch.Tensor) -> torch.Tensor:
    """With the channels of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()
