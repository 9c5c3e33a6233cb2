"""`mpq_quantize_fused`: `mpq_quantize` with the experts' last projection inside."""

import torch

from ..checks import bind
from ..dispatch import Op
from ..mpq_quantize import check_codebooks
from .reference import (
    MpqQuantizeFused,
    mpq_quantize_fused_backward,
    mpq_quantize_fused_reference,
    mpq_quantize_fused_save,
)

__all__ = ["mpq_quantize_fused"]


def mpq_quantize_fused(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE) of `mpq_quantize` for the latents hidden @ weight.T + bias of each codebook.

    Ties, NaN, dtypes, empty input and straight-through gradients are those of `mpq_quantize`; hidden, weight and bias
    receive the gradient of the latents. Distances too close for float32 are compared with latents computed in fp64.
    ValueError for a wrong dtype, device or shape.

    Paper: MPQ, stated
    """
    return OP(MpqQuantizeFused(hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM))


def _check(call: MpqQuantizeFused) -> None:
    check_codebooks("mpq_quantize_fused", bind("mpq_quantize_fused", call._asdict()))


def _fake(call: MpqQuantizeFused) -> tuple[torch.Tensor, torch.Tensor]:
    rows, books, _ = call.hidden_BMH.shape
    return call.hidden_BMH.new_empty(rows, books, dtype=torch.int64), call.hidden_BMH.new_empty(
        rows, call.bias_ME.shape[1]
    )


OP = Op(
    "mpq_quantize_fused",
    MpqQuantizeFused,
    2,
    check=_check,
    reference=mpq_quantize_fused_reference,
    fake=_fake,
    implementations={"triton": "triton_kernel", "cpp": "native"},
    save=mpq_quantize_fused_save,
    backward=mpq_quantize_fused_backward,
)
