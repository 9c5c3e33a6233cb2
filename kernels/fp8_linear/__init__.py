"""`fp8_linear`: a linear layer whose three products run in fp8."""

from typing import Any, get_args

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import (
    E4M3,
    Fp8Linear,
    Fp8LinearBackward,
    Fp8Weight,
    MakeFp8Weight,
    Scaling,
    fp8_linear_backward_reference,
    fp8_linear_reference,
    fp8_quantize,
    fp8_weight_reference,
)

__all__ = ["Fp8Weight", "Scaling", "fp8_linear", "fp8_quantize", "fp8_weight"]

_DTYPES = (torch.float32, torch.bfloat16)


def fp8_linear(
    x_TD: torch.Tensor,
    weight_OD: torch.Tensor,
    bias_O: torch.Tensor | None = None,
    scaling: Scaling = "tensorwise",
    weight8: Fp8Weight | None = None,
) -> torch.Tensor:
    """y_TO = x @ weight.T + bias with fp8 operands: e4m3 for x and weight, e5m2 for gradients.

    The forward and both backward products have the dtype of x, which weight and bias share (float32 or bfloat16). The
    CPU sums in float32. A GPU sums 128 terms on units that keep about 13 bits below the leading one of the largest, and
    adds these sums in float32: expect errors of up to 2^-12 times the sum of the terms' magnitudes. D and O must be
    multiples of 16; T may be any number, also 0. ValueError for a wrong dtype, device or shape.

    `scaling` tensorwise: one scale per operand; that of x comes from the whole batch, so a split batch gives slightly
    different numbers, and NaN or inf in x or weight spreads to every row. rowwise: in each product, one scale per index
    of an operand's axis that is not summed (forward: per row of x and of weight); a row of y depends on its row of x
    alone, NaN or inf in x spreads to its row of y, in weight to its column.

    `weight8`: the result of `fp8_weight` for the same weight and scaling, used by forward and backward; without it each
    quantizes the weight again.

    Paper: LADQ, stated (formats: ours, D12)
    """
    return OP(Fp8Linear(x_TD, weight_OD, bias_O, scaling, weight8))


def fp8_weight(weight_OD: torch.Tensor, scaling: Scaling = "tensorwise") -> Fp8Weight:
    """The weight in fp8 for `fp8_linear`, valid until the weight changes; without gradient. ValueError as there."""
    return Fp8Weight(*WEIGHT(MakeFp8Weight(weight_OD, scaling)))


def _check(call: Fp8Linear) -> None:
    floats = {"x_TD": call.x_TD, "weight_OD": call.weight_OD, "bias_O": call.bias_O}
    sizes, scaling, weight8 = bind("fp8_linear", floats, float_dtypes=_DTYPES), call.scaling, call.weight8
    _check_shared("fp8_linear", sizes, scaling)
    if weight8 is None:
        return
    values = {name: tensor for name, tensor in weight8._asdict().items() if "8_" in name}
    bind("fp8_linear", values, float_dtypes=(E4M3,), sizes=sizes, device=call.x_TD.device)
    wanted = [(sizes[letter] if scaling == "rowwise" else 1, 1) for letter in "OD"]
    found = [tuple(weight8.rows_largest.shape), tuple(weight8.columns_largest.shape)]
    if found != wanted:
        raise ValueError(
            f"fp8_linear: weight8 has scales of shapes {found} where scaling {scaling!r} has {wanted}; "
            f"make it by fp8_weight(weight_OD, {scaling!r})"
        )


def _check_weight(call: MakeFp8Weight) -> None:
    sizes = bind("fp8_weight", {"weight_OD": call.weight_OD}, float_dtypes=_DTYPES)
    _check_shared("fp8_weight", sizes, call.scaling)


def _check_shared(op: str, sizes: dict[str, int], scaling: Scaling) -> None:
    for letter in "DO":
        if sizes[letter] % 16 or sizes[letter] == 0:
            raise ValueError(f"{op}: {letter} must be a multiple of 16, found {sizes[letter]}")
    if scaling not in get_args(Scaling):
        raise ValueError(f"{op}: scaling must be one of {', '.join(get_args(Scaling))}, found {scaling!r}")


def _save(ctx: Any, call: Fp8Linear, output: torch.Tensor) -> None:
    ctx.scaling, ctx.has_bias = call.scaling, call.bias_O is not None
    ctx.save_for_backward(call.x_TD, call.weight_OD, *(call.weight8 or (None,) * 4)[2:])


def _backward(ctx: Any, grad_TO: torch.Tensor) -> dict[str, torch.Tensor | None]:
    x_TD, weight_OD, *columns8 = ctx.saved_tensors
    x_grad_TD, weight_grad_OD = BACKWARD.library(grad_TO, x_TD, weight_OD, ctx.scaling, *columns8)
    return {"x_TD": x_grad_TD, "weight_OD": weight_grad_OD, "bias_O": grad_TO.sum(0) if ctx.has_bias else None}


def _weight_fake(call: MakeFp8Weight) -> tuple[torch.Tensor, ...]:
    weight_OD, (out, width) = call.weight_OD, call.weight_OD.shape
    rows, columns = (weight_OD.new_empty(shape, dtype=E4M3) for shape in ((out, width), (width, out)))
    largest = (weight_OD.new_empty(size if call.scaling == "rowwise" else 1, 1) for size in (out, width))
    return rows, next(largest), columns, next(largest)


OP = Op(
    "fp8_linear",
    Fp8Linear,
    1,
    check=_check,
    reference=fp8_linear_reference,
    fake=lambda call: call.x_TD.new_empty(call.x_TD.shape[0], call.weight_OD.shape[0]),
    implementations={"triton": "triton_kernel"},
    save=_save,
    backward=_backward,
)
BACKWARD = Op(
    "fp8_linear_backward",
    Fp8LinearBackward,
    2,
    reference=fp8_linear_backward_reference,
    fake=lambda call: (call.x_TD.new_empty(call.x_TD.shape), call.weight_OD.new_empty(call.weight_OD.shape)),
    implementations={"triton": "triton_backward"},
)
WEIGHT = Op(
    "fp8_weight",
    MakeFp8Weight,
    4,
    check=_check_weight,
    reference=fp8_weight_reference,
    fake=_weight_fake,
    implementations={"triton": "triton_weight"},
)
