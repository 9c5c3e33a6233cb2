"""`fp8_linear` in Triton: one pass writes fp8 along the summed axis, then tiles fetched by TMA are multiplied."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ..machine import interpreted
from ..triton_parts import cast, dot, on_device
from .reference import E4M3, Fp8Linear, Fp8LinearBackward, MakeFp8Weight, Operand

__all__ = [
    "QUANTIZE_TILES",
    "multiply",
    "objection",
    "product_kernel",
    "product_tiles",
    "quantize",
    "quantize_kernel",
    "run",
]

QUANTIZE_TILES = {"BLOCK_T": 64, "BLOCK_D": 64, "num_warps": 4}
_MULTIPROCESSORS = 132
"""Of an H100 or H200."""


@triton.jit
def load_scale(largest_ptr, ok, HIGHEST: tl.constexpr):
    """The factor that turns fp8 back; NaN if the tensor or row has a NaN or inf."""
    largest = tl.load(largest_ptr, mask=ok, other=0.0).to(tl.float32)
    scale = tl.where(largest > 0, tl.div_rn(largest, HIGHEST), 1.0)
    return tl.where(largest < float("inf"), scale, float("nan"))


@triton.jit(do_not_specialize=["num_rows"])
def quantize_kernel(
    x_ptr,
    row_largest_ptr,
    column_largest_ptr,
    rows_ptr,
    columns_ptr,
    stride_xt,
    stride_xd,
    stride_rt,
    stride_ld,
    stride_cd,
    num_rows,
    width,
    HIGHEST: tl.constexpr,
    DTYPE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """x / scale in fp8 as rows (T, D), as columns (D, T), or both; columns are padded with zeros to their stride.

    The stride of a scale is 0 if all rows or columns share it.
    """
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    ok_TD = (t < num_rows)[:, None] & (d < width)
    x_TD = tl.load(x_ptr + t[:, None] * stride_xt + d * stride_xd, mask=ok_TD, other=0.0).to(tl.float32)
    if rows_ptr is not None:
        scale_T = load_scale(row_largest_ptr + t * stride_rt, t < num_rows, HIGHEST)
        x8_TD = cast(tl.div_rn(x_TD, scale_T[:, None]), DTYPE, INTERPRETED)
        tl.store(rows_ptr + t[:, None] * width + d, x8_TD, mask=ok_TD)
    if columns_ptr is not None:
        scale_D = load_scale(column_largest_ptr + d * stride_ld, d < width, HIGHEST)
        x8_TD = cast(tl.div_rn(x_TD, scale_D[None, :]), DTYPE, INTERPRETED)
        ok_DT = (d < width)[:, None] & (t < stride_cd)
        tl.store(columns_ptr + d[:, None] * stride_cd + t, tl.trans(x8_TD), mask=ok_DT)


@triton.jit(do_not_specialize=["num_rows", "depth"])
def product_kernel(
    a_desc,
    b_desc,
    y_desc,
    a_largest_ptr,
    b_largest_ptr,
    bias_ptr,
    stride_a,
    stride_b,
    stride_bias,
    num_rows,
    num_columns,
    depth,
    A_HIGHEST: tl.constexpr,
    B_HIGHEST: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A tile of y_TO = a_TD @ b_OD.T, times the scales, plus bias_O."""
    # tiles that run at the same time share rows of both operands in the L2
    tile_a, tile_b = tl.swizzle2d(tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1), 8)
    start_a, start_b = tile_a * BLOCK_A, tile_b * BLOCK_B
    y_TO = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
    for start_d in range(0, depth, BLOCK_D):
        a_TD = a_desc.load([start_a, start_d])
        b_OD = b_desc.load([start_b, start_d])
        # matrix units keep few bits of an fp8 sum, so each tile is added outside of them
        y_TO += dot(a_TD, b_OD.T, INTERPRETED)
    a, b = start_a + tl.arange(0, BLOCK_A), start_b + tl.arange(0, BLOCK_B)
    a_scale_T = load_scale(a_largest_ptr + a * stride_a, a < num_rows, A_HIGHEST)
    b_scale_O = load_scale(b_largest_ptr + b * stride_b, b < num_columns, B_HIGHEST)
    y_TO *= a_scale_T[:, None] * b_scale_O[None, :]
    if bias_ptr is not None:
        y_TO += tl.load(bias_ptr + b * stride_bias, mask=b < num_columns, other=0.0).to(tl.float32)
    y_desc.store([start_a, start_b], cast(y_TO, y_desc.dtype, INTERPRETED))


def objection(call: Fp8Linear | Fp8LinearBackward | MakeFp8Weight) -> str | None:
    if not interpreted() and torch.cuda.get_device_capability(call[0].device) < (9, 0):
        return "it multiplies on fp8 matrix units, and needs a GPU of compute capability 9.0 or higher"
    return None


def run(call: Fp8Linear) -> torch.Tensor:
    x_TD, weight_OD, bias_O, scaling, weight8 = call
    rowwise = scaling == "rowwise"
    if len(x_TD) == 0:
        return x_TD.new_empty(0, len(weight_OD))
    with on_device(x_TD):
        (x8_TD,) = quantize(x_TD, E4M3, rowwise, rows=True)
        weight8_OD = Operand(*weight8[:2]) if weight8 else quantize(weight_OD, E4M3, rowwise, rows=True)[0]
        return multiply(x8_TD, weight8_OD, x_TD.dtype, bias_O)


def quantize(
    x_TD: torch.Tensor, dtype: torch.dtype, rowwise: bool, *, rows: bool = False, columns: bool = False
) -> tuple[Operand, ...]:
    """The tensor in fp8 as rows (T, D), as columns (D, T), or both in one pass; T is not 0."""
    num_rows, width = x_TD.shape
    row_largest = column_largest = None if rowwise else _largest(x_TD, None)
    if rowwise and rows:
        row_largest = _largest(x_TD, 1)
    if rowwise and columns:
        column_largest = _largest(x_TD, 0)
    rows_TD = torch.empty(num_rows, width, dtype=dtype, device=x_TD.device) if rows else None
    stride = triton.cdiv(num_rows, 16) * 16
    columns_DT = torch.empty(width, stride, dtype=dtype, device=x_TD.device) if columns else None
    block_t, block_d = QUANTIZE_TILES["BLOCK_T"], QUANTIZE_TILES["BLOCK_D"]
    quantize_kernel[(triton.cdiv(num_rows, block_t), triton.cdiv(width, block_d))](
        *(x_TD, row_largest, column_largest, rows_TD, columns_DT),
        *(*x_TD.stride(), int(rowwise), int(rowwise), stride, num_rows, width),
        HIGHEST=torch.finfo(dtype).max,
        DTYPE=tl.float8e4nv if dtype == E4M3 else tl.float8e5,
        INTERPRETED=interpreted(),
        **QUANTIZE_TILES,
    )
    operands = []
    if rows_TD is not None and row_largest is not None:
        operands.append(Operand(rows_TD, row_largest))
    if columns_DT is not None and column_largest is not None:
        operands.append(Operand(columns_DT[:, :num_rows], column_largest))
    return tuple(operands)


def _largest(x_TD: torch.Tensor, axis: int | None) -> torch.Tensor:
    """The largest magnitude of all, (1, 1), or along an axis, (T, 1) or (D, 1)."""
    return torch.linalg.vector_norm(x_TD, torch.inf, axis, keepdim=True).view(-1, 1)


def multiply(a: Operand, b: Operand, dtype: torch.dtype, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """y_TO = a_TD @ b_OD.T in `dtype`; 128 terms at a time are added in float32."""
    (num_rows, depth), num_columns = a.values.shape, len(b.values)
    y_TO = torch.empty(num_rows, num_columns, dtype=dtype, device=a.values.device)
    tiles = product_tiles(num_rows, num_columns)
    block_a, block_b, block_d = tiles["BLOCK_A"], tiles["BLOCK_B"], tiles["BLOCK_D"]
    strides = [0 if len(operand.largest) == 1 else 1 for operand in (a, b)]
    product_kernel[(triton.cdiv(num_rows, block_a), triton.cdiv(num_columns, block_b))](
        TensorDescriptor.from_tensor(a.values, [block_a, block_d]),
        TensorDescriptor.from_tensor(b.values, [block_b, block_d]),
        TensorDescriptor.from_tensor(y_TO, [block_a, block_b]),
        *(a.largest, b.largest, bias_O, *strides, 1 if bias_O is None else bias_O.stride(0)),
        *(num_rows, num_columns, depth),
        A_HIGHEST=torch.finfo(a.values.dtype).max,
        B_HIGHEST=torch.finfo(b.values.dtype).max,
        INTERPRETED=interpreted(),
        **tiles,
    )
    return y_TO


def product_tiles(num_rows: int, num_columns: int) -> dict[str, int]:
    """Large tiles if there are enough of them to fill a GPU, else small ones."""
    if triton.cdiv(num_rows, 128) * triton.cdiv(num_columns, 128) >= _MULTIPROCESSORS:
        return {"BLOCK_A": 128, "BLOCK_B": 128, "BLOCK_D": 128, "num_warps": 8, "num_stages": 4}
    return {"BLOCK_A": 64, "BLOCK_B": 64, "BLOCK_D": 128, "num_warps": 4, "num_stages": 4}
