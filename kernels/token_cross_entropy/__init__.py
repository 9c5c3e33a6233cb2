"""`token_cross_entropy`: how well each row predicts its tokens in the codebooks that are still open."""

from typing import Any

import torch

from ..checks import bind, within
from ..dispatch import Op
from .reference import (
    TokenCrossEntropy,
    TokenCrossEntropyBackward,
    token_cross_entropy_backward_reference,
    token_cross_entropy_reference,
)

__all__ = ["token_cross_entropy"]


def token_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_MKD: torch.Tensor,
    ids_TM: torch.Tensor,
    open_TM: torch.Tensor,
    among_TMK: torch.Tensor | None = None,
) -> torch.Tensor:
    """loss_T: the mean over a row's open codebooks of the cross-entropy, in nats, of hidden @ weight[m].T against ids.

    A row without an open codebook has loss 0; ids are not read where open is False. With `among_TMK` only the tokens
    marked there take part in the softmax; an open id must be one of them, which is not checked. The logits (T, M, K)
    are never held as a whole, forward or backward; closed codebooks cost nothing. hidden and weight share a dtype and
    both receive gradients; loss is float32 (float64 for float64). T may be 0, K may not. ValueError for a wrong dtype,
    device or shape, on the CPU also for open ids outside 0..K-1.

    Paper: pre-training token loss over all remaining target tokens, ours, D4
    """
    return OP(TokenCrossEntropy(hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK))[0]


def _check(call: TokenCrossEntropy) -> None:
    floats = {"hidden_TD": call.hidden_TD, "weight_MKD": call.weight_MKD}
    masks = {"open_TM": call.open_TM, "among_TMK": call.among_TMK}
    sizes = bind("token_cross_entropy", floats, {"ids_TM": call.ids_TM}, masks)
    if sizes["K"] == 0:
        raise ValueError("token_cross_entropy: at least one codeword is needed, found K = 0")


def _values(call: TokenCrossEntropy) -> None:
    if call.ids_TM.is_cpu:
        open_ids_TM = call.ids_TM.masked_fill(~call.open_TM, 0)
        within("token_cross_entropy", "ids_TM", open_ids_TM, 0, call.weight_MKD.shape[1] - 1)


def _fake(call: TokenCrossEntropy) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.float64 if call.hidden_TD.dtype == torch.float64 else torch.float32
    rows, books = call.ids_TM.shape
    return call.hidden_TD.new_empty(rows, dtype=dtype), call.hidden_TD.new_empty(rows, books, dtype=dtype)


def _save(ctx: Any, call: TokenCrossEntropy, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(*call, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_T: torch.Tensor, _: Any) -> dict[str, torch.Tensor]:
    hidden_grad_TD, weight_grad_MKD = BACKWARD.library(grad_T, *ctx.saved_tensors)
    return {"hidden_TD": hidden_grad_TD, "weight_MKD": weight_grad_MKD}


def _backward_fake(call: TokenCrossEntropyBackward) -> tuple[torch.Tensor, torch.Tensor]:
    hidden_TD, weight_MKD, *_ = call.forward
    return hidden_TD.new_empty(hidden_TD.shape), weight_MKD.new_empty(weight_MKD.shape)


OP = Op(
    "token_cross_entropy",
    TokenCrossEntropy,
    2,
    check=_check,
    reference=token_cross_entropy_reference,
    fake=_fake,
    values=_values,
    implementations={"triton": "triton_kernel"},
    save=_save,
    backward=_backward,
)
BACKWARD = Op(
    "token_cross_entropy_backward",
    TokenCrossEntropyBackward,
    2,
    reference=token_cross_entropy_backward_reference,
    fake=_backward_fake,
    implementations={"triton": "triton_backward"},
)
