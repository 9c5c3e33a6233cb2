"""`path_attention`: each path of a search attends to its own steps, whose keys and values stay where they were made."""

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import gather_paths, path_attention_reference

__all__ = ["gather_paths", "path_attention"]


def path_attention(
    q_BPHD: torch.Tensor, keys_BTRHD: torch.Tensor, values_BTRHD: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    """mixed_BPHD: softmax over the S steps of each path of q . k / sqrt(D), applied to their values, head by head.

    Step s of path p has its keys and values in row rows_BPS[b, p, s] of step s: of the path itself or the one that it
    descends from, so that nothing moves when paths are replaced by their children. S is at most T; what stands in
    later steps and other rows is not read. Rows must lie within 0..R - 1, which is not checked. Sums are float32
    (float64 for float64), the result has the dtype of q_BPHD. Without gradient. B and P may be 0, S may not.
    ValueError for a wrong dtype, device or shape.

    Paper: decoding, ours: the decoder's cache is indexed by path, never copied.
    """
    return OP(q_BPHD, keys_BTRHD, values_BTRHD, rows_BPS)


def _check(q_BPHD: torch.Tensor, keys_BTRHD: torch.Tensor, values_BTRHD: torch.Tensor, rows_BPS: torch.Tensor) -> tuple:
    floats = {"q_BPHD": q_BPHD, "keys_BTRHD": keys_BTRHD, "values_BTRHD": values_BTRHD}
    sizes = bind("path_attention", floats, {"rows_BPS": rows_BPS}, integer_dtypes=(torch.int64,))
    if not 1 <= sizes["S"] <= sizes["T"]:
        raise ValueError(f"path_attention: rows_BPS names {sizes['S']} steps, 1 to {sizes['T']} are there")
    return q_BPHD, keys_BTRHD, values_BTRHD, rows_BPS


def _fake(
    q_BPHD: torch.Tensor, keys_BTRHD: torch.Tensor, values_BTRHD: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    return q_BPHD.new_empty(q_BPHD.shape)


OP = Op(
    "path_attention",
    "(Tensor q_BPHD, Tensor keys_BTRHD, Tensor values_BTRHD, Tensor rows_BPS) -> Tensor",
    check=_check,
    reference=path_attention_reference,
    fake=_fake,
    implementations={"cpp": "native"},
)
