"""`path_attention` in C++: one path after another in float32 vectors, spread over torch's number of threads."""

import torch

from ..call import dense_rows, native_op
from .reference import PathAttention

__all__ = ["objection", "run"]

MOST_STEPS = 64


def objection(call: PathAttention) -> str | None:
    if call.q_BPAQ.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16, these are {call.q_BPAQ.dtype}"
    if call.rows_BPS.shape[2] > MOST_STEPS:
        return f"it takes paths of up to {MOST_STEPS} steps, these have {call.rows_BPS.shape[2]}"
    return None


def run(call: PathAttention) -> torch.Tensor:
    num_users, num_paths, num_heads, width = call.q_BPAQ.shape
    mixed_BPAQ = call.q_BPAQ.new_empty(call.q_BPAQ.shape)
    native_op("path_attention")(
        num_users=num_users,
        num_paths=num_paths,
        num_heads=num_heads,
        width=width,
        num_steps=call.rows_BPS.shape[2],
        num_rows=call.keys_BTRAQ.shape[2],
        q=dense_rows(call.q_BPAQ),
        keys=dense_rows(call.keys_BTRAQ),
        values=dense_rows(call.values_BTRAQ),
        rows=call.rows_BPS.contiguous(),
        mixed=mixed_BPAQ,
    )
    return mixed_BPAQ
