"""`mpq_quantize_fused`: `mpq_quantize` with the experts' last projection inside."""

import torch

from ..checks import bind
from ..dispatch import Op
from ..mpq_quantize import check_codebooks
from .reference import mpq_quantize_fused_backward, mpq_quantize_fused_reference, mpq_quantize_fused_save

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
    receive the gradient of the latents. Codewords too close to tell apart are compared with latents computed in fp64.
    ValueError for a wrong dtype, device or shape.

    Paper: MPQ, stated
    """
    return OP(hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM)


def _check(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None = None,
) -> tuple:
    sizes = bind(
        "mpq_quantize_fused",
        {
            "hidden_BMH": hidden_BMH,
            "weight_MEH": weight_MEH,
            "bias_ME": bias_ME,
            "codebooks_MKE": codebooks_MKE,
            "gate_BM": gate_BM,
        },
    )
    check_codebooks("mpq_quantize_fused", sizes)
    return hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM


def _fake(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, books, _ = hidden_BMH.shape
    return hidden_BMH.new_empty(rows, books, dtype=torch.int64), hidden_BMH.new_empty(rows, bias_ME.shape[1])


OP = Op(
    "mpq_quantize_fused",
    "(Tensor hidden_BMH, Tensor weight_MEH, Tensor bias_ME, Tensor codebooks_MKE, Tensor? gate_BM) -> (Tensor, Tensor)",
    check=_check,
    reference=mpq_quantize_fused_reference,
    fake=_fake,
    implementations={"triton": "triton_kernel", "cpp": "native"},
    save=mpq_quantize_fused_save,
    backward=mpq_quantize_fused_backward,
)
