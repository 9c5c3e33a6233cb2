"""`path_attention`: each path of a search attends to its own steps, whose keys and values are never moved."""

import torch

from ..checks import bind, within
from ..dispatch import Op
from .reference import PathAttention, gather_paths, path_attention_reference

__all__ = ["gather_paths", "path_attention"]


def path_attention(
    q_BPAQ: torch.Tensor, keys_BTRAQ: torch.Tensor, values_BTRAQ: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    """mixed_BPAQ: softmax over the S steps of each path of q . k / sqrt(Q), applied to their values, head by head.

    Path p's keys and values of step s are in row rows_BPS[b, p, s] of step s: the path's own row or its ancestor's, so
    nothing is copied when children replace paths. S is at most T; later steps and other rows are not read. Sums are
    float32 (float64 for float64), the result has the dtype of q_BPAQ. Without gradient. B and P may be 0, S may not.
    ValueError for a wrong dtype, device or shape, on the CPU also for rows outside 0..R-1. Numbers that are not finite
    or are 1e15 or more in magnitude count as NaN.

    Paper: decoding, ours: the decoder's cache is indexed by path, never copied.
    """
    return OP(PathAttention(q_BPAQ, keys_BTRAQ, values_BTRAQ, rows_BPS))


def _check(call: PathAttention) -> None:
    floats = {"q_BPAQ": call.q_BPAQ, "keys_BTRAQ": call.keys_BTRAQ, "values_BTRAQ": call.values_BTRAQ}
    sizes = bind("path_attention", floats, {"rows_BPS": call.rows_BPS}, integer_dtypes=(torch.int64,))
    if not 1 <= sizes["S"] <= sizes["T"]:
        raise ValueError(f"path_attention: rows_BPS has {sizes['S']} steps where 1 to {sizes['T']} were expected")


def _values(call: PathAttention) -> None:
    within("path_attention", "rows_BPS", call.rows_BPS, 0, call.keys_BTRAQ.shape[2] - 1)


OP = Op(
    "path_attention",
    PathAttention,
    1,
    check=_check,
    reference=path_attention_reference,
    fake=lambda call: call.q_BPAQ.new_empty(call.q_BPAQ.shape),
    values=_values,
    implementations={"cpp": "native"},
)
