"""`path_attention`: each path of a search attends to its own steps, whose keys and values stay where they were made."""

import torch

from ..checks import bind, within
from ..dispatch import Op
from .reference import PathAttention, gather_paths, path_attention_reference

__all__ = ["gather_paths", "path_attention"]


def path_attention(
    q_BPAQ: torch.Tensor, keys_BTRAQ: torch.Tensor, values_BTRAQ: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    """mixed_BPAQ: softmax over the S steps of each path of q . k / sqrt(Q), applied to their values, head by head.

    Step s of path p has its keys and values in row rows_BPS[b, p, s] of step s: of the path itself or the one that it
    descends from, so that nothing moves when paths are replaced by their children. S is at most T; what is in
    later steps and other rows is not read. Sums are float32 (float64 for float64), the result has the dtype of q_BPAQ.
    Without gradient. B and P may be 0, S may not. ValueError for a wrong dtype, device or shape, on the CPU also for
    rows that are not 0..R-1. Numbers that are not finite, or 1e15 and more, count as NaN.

    Paper: decoding, ours: the decoder's cache is indexed by path, never copied.
    """
    return OP(PathAttention(q_BPAQ, keys_BTRAQ, values_BTRAQ, rows_BPS))


def _check(call: PathAttention) -> None:
    floats = {"q_BPAQ": call.q_BPAQ, "keys_BTRAQ": call.keys_BTRAQ, "values_BTRAQ": call.values_BTRAQ}
    sizes = bind("path_attention", floats, {"rows_BPS": call.rows_BPS}, integer_dtypes=(torch.int64,))
    if not 1 <= sizes["S"] <= sizes["T"]:
        raise ValueError(f"path_attention: rows_BPS names {sizes['S']} steps, 1 to {sizes['T']} are there")


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
