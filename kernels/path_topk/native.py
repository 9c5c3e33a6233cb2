"""`path_topk` in C++: users spread over torch's number of threads, scores in float64 vectors."""

import torch

from ..beam_step.native import view

__all__ = ["objection", "run"]


def objection(
    _: torch.Tensor,
    scores_BW: torch.Tensor,
    codes_IM: torch.Tensor,
    offsets: torch.Tensor,
    postings: torch.Tensor,
    counts_MK: torch.Tensor,
    pair_offsets: torch.Tensor,
    pair_postings: torch.Tensor,
    rank_I: torch.Tensor,
    k: int,
    exclude_BX: torch.Tensor | None,
    logits_BMK: torch.Tensor | None,
    *rest: object,
) -> str | None:
    for name, tensor in (("scores_BW", scores_BW), ("scoring.logits_BMK", logits_BMK)):
        if tensor is not None and tensor.dtype != torch.float32:
            return f"it reads float32, {name} is {tensor.dtype}"
    if not all(tensor.is_contiguous() for tensor in (codes_IM, offsets, postings, pair_offsets, pair_postings)):
        return "it reads a contiguous index, as TokenIndex.build makes it"
    return None


def run(
    tokens_BWM: torch.Tensor,
    scores_BW: torch.Tensor,
    codes_IM: torch.Tensor,
    offsets: torch.Tensor,
    postings: torch.Tensor,
    counts_MK: torch.Tensor,
    pair_offsets: torch.Tensor,
    pair_postings: torch.Tensor,
    rank_I: torch.Tensor,
    k: int,
    exclude_BX: torch.Tensor | None,
    logits_BMK: torch.Tensor | None,
    states_BD: torch.Tensor | None,
    residual_ID: torch.Tensor | None,
    repeated_BL: torch.Tensor | None,
    repeat_bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from ... import _C

    batch = len(tokens_BWM)
    best_BN, items_BN, path_BN = scores_BW.new_empty(batch, k), rank_I.new_empty(batch, k), rank_I.new_empty(batch, k)
    rank_I = rank_I.contiguous()
    dense = [None if x is None else x.contiguous() for x in (logits_BMK, states_BD, residual_ID)]
    logits, states, residual = (0 if x is None else x.data_ptr() for x in dense)
    shape = batch, tokens_BWM.shape[1], len(codes_IM), k
    _C.path_topk_cpu(
        *(shape, tuple(counts_MK.shape), view(tokens_BWM, 3), view(scores_BW, 2)),
        tuple(part.data_ptr() for part in (codes_IM, offsets, postings, pair_offsets, pair_postings)),
        *(rank_I.data_ptr(), view(exclude_BX, 2), 0 if exclude_BX is None else exclude_BX.shape[1]),
        *(logits, states, 0 if states_BD is None else states_BD.shape[1], residual),
        *(view(repeated_BL, 2), 0 if repeated_BL is None else repeated_BL.shape[1]),
        0.0 if repeat_bias is None else float(repeat_bias),
        *(best_BN.data_ptr(), items_BN.data_ptr(), path_BN.data_ptr()),
        torch.get_num_threads(),
    )
    return best_BN, items_BN, path_BN
