"""`mpq_quantize`: the nearest codeword in each of M codebooks, and the gated sum of the selected codewords."""

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import MpqQuantize, empty_results, mpq_quantize_backward, mpq_quantize_reference, mpq_quantize_save

__all__ = ["mpq_quantize"]


def mpq_quantize(
    latents_BME: torch.Tensor, codebooks_MKE: torch.Tensor, gate_BM: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE): ids of the codewords nearest in L2, and mixed = sum over m of gate x selected codeword.

    Without a gate every weight is 1. ids are int64; of equal distances the lowest index wins, and distances too close
    for float32 are compared in fp64, so that ids do not depend on backend or batch. A codeword at a NaN or infinite
    distance is never the nearest; a row without any other gets id 0. mixed has the dtype of the codebooks, which
    latents and gate share; it is summed in float32 (float64 for float64). B may be 0, M, K and E may not.

    Gradients are straight-through: latents receive gate x the gradient of mixed, the gate its inner product with the
    selected codewords, and the codebooks nothing (st(z) = e + sg(z - e)): they learn from their own loss terms.
    ValueError for a wrong dtype, device or shape.

    Paper: MPQ, stated (straight-through gate: ours, D2)
    """
    return OP(MpqQuantize(latents_BME, codebooks_MKE, gate_BM))


def check_codebooks(op: str, sizes: dict[str, int]) -> None:
    for letter, what in (("M", "codebook"), ("K", "codeword"), ("E", "dimension")):
        if sizes[letter] == 0:
            raise ValueError(f"{op}: at least one {what} is needed, found {letter} = 0")


def _check(call: MpqQuantize) -> None:
    check_codebooks("mpq_quantize", bind("mpq_quantize", call._asdict()))


OP = Op(
    "mpq_quantize",
    MpqQuantize,
    2,
    check=_check,
    reference=mpq_quantize_reference,
    fake=empty_results,
    implementations={"triton": "triton_kernel", "cpp": "native"},
    save=mpq_quantize_save,
    backward=mpq_quantize_backward,
)
