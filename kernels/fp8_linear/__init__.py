"""`fp8_linear`: a linear layer whose three products run in fp8."""

from typing import Any, Literal, NamedTuple, get_args

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import (
    E4M3,
    fp8_linear_backward_reference,
    fp8_linear_reference,
    fp8_quantize,
    fp8_weight_reference,
)

__all__ = ["Fp8Weight", "Scaling", "fp8_linear", "fp8_quantize", "fp8_weight"]

Scaling = Literal["tensorwise", "rowwise"]
_DTYPES = (torch.float32, torch.bfloat16)


class Fp8Weight(NamedTuple):
    """A weight in e4m3 for the forward and for the backward product, each with the magnitudes that were largest."""

    rows8_OD: torch.Tensor
    rows_largest: torch.Tensor
    columns8_DO: torch.Tensor
    columns_largest: torch.Tensor


def fp8_linear(
    x_TD: torch.Tensor,
    weight_OD: torch.Tensor,
    bias_O: torch.Tensor | None = None,
    scaling: Scaling = "tensorwise",
    weight8: Fp8Weight | None = None,
) -> torch.Tensor:
    """y_TO = x @ weight.T + bias with fp8 operands: e4m3 for x and weight, e5m2 for gradients.

    Forward and both backward products come back in the dtype of x, which weight and bias share (float32 or bfloat16).
    They are summed in float32 on the CPU. A GPU adds 128 terms at a time in float32, each 128 on units that keep about
    13 bits below the leading one of the largest: expect errors of up to 2^-12 times the sum of the terms' magnitudes.
    D and O must be multiples of 16; T is free, may be 0, and is padded inside. ValueError for a wrong dtype, device or
    shape.

    `scaling` tensorwise: one scale per operand; that of x comes from the whole batch, so a split batch gives slightly
    other numbers, and NaN or inf in x or weight spreads to every row. rowwise: one scale per row of each operand of
    each product, which is along the axis that is not summed (forward: per row of x and of weight); a row of y depends
    on its row of x alone, NaN or inf in x spreads to its row, in weight to its column of y.

    `weight8` is what `fp8_weight` made of the same weight with the same scaling, which forward and backward then take
    for it; without it each quantizes the weight again.

    Paper: LADQ, stated (formats: ours, D12)
    """
    return OP(x_TD, weight_OD, bias_O, scaling, weight8)


def fp8_weight(weight_OD: torch.Tensor, scaling: Scaling = "tensorwise") -> Fp8Weight:
    """The weight as `fp8_linear` multiplies it, to be used until the weight changes; gives no gradient.

    ValueError as `fp8_linear`.
    """
    return Fp8Weight(*WEIGHT(weight_OD, scaling))


def _check(
    x_TD: torch.Tensor,
    weight_OD: torch.Tensor,
    bias_O: torch.Tensor | None = None,
    scaling: Scaling = "tensorwise",
    weight8: Fp8Weight | None = None,
) -> tuple:
    sizes = bind("fp8_linear", {"x_TD": x_TD, "weight_OD": weight_OD, "bias_O": bias_O}, float_dtypes=_DTYPES)
    rowwise = _check_shared("fp8_linear", sizes, scaling)
    if weight8 is None:
        return x_TD, weight_OD, bias_O, rowwise, *(None for _ in Fp8Weight._fields)
    values = {name: tensor for name, tensor in weight8._asdict().items() if "8_" in name}
    bind("fp8_linear", values, float_dtypes=(E4M3,), sizes=sizes, device=x_TD.device)
    wanted = [(sizes[letter] if rowwise else 1, 1) for letter in "OD"]
    found = [tuple(weight8.rows_largest.shape), tuple(weight8.columns_largest.shape)]
    if found != wanted:
        raise ValueError(
            f"fp8_linear: weight8 has scales of shapes {found} where scaling {scaling!r} has {wanted}; "
            f"make it by fp8_weight(weight_OD, {scaling!r})"
        )
    return x_TD, weight_OD, bias_O, rowwise, *weight8


def _check_weight(weight_OD: torch.Tensor, scaling: Scaling = "tensorwise") -> tuple:
    sizes = bind("fp8_weight", {"weight_OD": weight_OD}, float_dtypes=_DTYPES)
    return weight_OD, _check_shared("fp8_weight", sizes, scaling)


def _check_shared(op: str, sizes: dict[str, int], scaling: Scaling) -> bool:
    """Whether scales are per row."""
    for letter in "DO":
        if sizes[letter] % 16 or sizes[letter] == 0:
            raise ValueError(f"{op}: {letter} must be a multiple of 16, found {sizes[letter]}")
    if scaling not in get_args(Scaling):
        raise ValueError(f"{op}: scaling must be one of {', '.join(get_args(Scaling))}, found {scaling!r}")
    return scaling == "rowwise"


def _fake(
    x_TD: torch.Tensor,
    weight_OD: torch.Tensor,
    bias_O: torch.Tensor | None,
    rowwise: bool,
    *weight8: torch.Tensor | None,
) -> torch.Tensor:
    return x_TD.new_empty(x_TD.shape[0], weight_OD.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x_TD, weight_OD, bias_O, ctx.rowwise, _, _, *columns8 = inputs
    ctx.save_for_backward(x_TD, weight_OD, *columns8)
    ctx.has_bias = bias_O is not None


def _backward(ctx: Any, grad_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x_TD, weight_OD, *columns8 = ctx.saved_tensors
    grads = BACKWARD.library(grad_TO, x_TD, weight_OD, ctx.rowwise, *columns8)
    return (*grads, grad_TO.sum(0) if ctx.has_bias else None, *(None for _ in ("rowwise", *Fp8Weight._fields)))


def _backward_fake(
    grad_TO: torch.Tensor, x_TD: torch.Tensor, weight_OD: torch.Tensor, rowwise: bool, *columns8: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    return x_TD.new_empty(x_TD.shape), weight_OD.new_empty(weight_OD.shape)


def _weight_fake(weight_OD: torch.Tensor, rowwise: bool) -> tuple[torch.Tensor, ...]:
    out, width = weight_OD.shape
    rows, columns = (weight_OD.new_empty(shape, dtype=E4M3) for shape in ((out, width), (width, out)))
    largest = (weight_OD.new_empty(size if rowwise else 1, 1) for size in (out, width))
    return rows, next(largest), columns, next(largest)


OP = Op(
    "fp8_linear",
    "(Tensor x_TD, Tensor weight_OD, Tensor? bias_O, bool rowwise, Tensor? rows8_OD, Tensor? rows_largest,"
    " Tensor? columns8_DO, Tensor? columns_largest) -> Tensor",
    check=_check,
    reference=fp8_linear_reference,
    fake=_fake,
    implementations={"triton": "triton_kernel"},
    save=_save,
    backward=_backward,
)
BACKWARD = Op(
    "fp8_linear_backward",
    "(Tensor grad_TO, Tensor x_TD, Tensor weight_OD, bool rowwise, Tensor? columns8_DO, Tensor? columns_largest)"
    " -> (Tensor, Tensor)",
    check=lambda *flat: flat,
    reference=fp8_linear_backward_reference,
    fake=_backward_fake,
    implementations={"triton": "triton_backward"},
)
WEIGHT = Op(
    "fp8_weight",
    "(Tensor weight_OD, bool rowwise) -> (Tensor, Tensor, Tensor, Tensor)",
    check=_check_weight,
    reference=fp8_weight_reference,
    fake=_weight_fake,
    implementations={"triton": "triton_weight"},
)
