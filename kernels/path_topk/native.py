"""`path_topk` in C++: users spread over torch's number of threads, scores in float64 vectors."""

import torch

from ..call import dense, native_op
from .reference import PathTopk, empty_results

__all__ = ["objection", "run"]


def objection(call: PathTopk) -> str | None:
    logits_BMK = None if call.scoring is None else call.scoring.logits_BMK
    for name, tensor in (("scores_BW", call.scores_BW), ("scoring.logits_BMK", logits_BMK)):
        if tensor is not None and tensor.dtype != torch.float32:
            return f"it reads float32, {name} is {tensor.dtype}"
    if not all(part.is_contiguous() for part in call.token_index):
        return "it reads a contiguous index, as TokenIndex.build makes it"
    return None


def run(call: PathTopk) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index, results = call.token_index, empty_results(call)
    logits_BMK, states_BD, residual_ID, repeated_BL, repeat_bias = call.scoring or (None,) * 5
    (num_users, num_paths, num_codebooks), (best_BN, items_BN, path_BN) = call.tokens_BWM.shape, results
    native_op("path_topk")(
        num_users=num_users,
        num_paths=num_paths,
        num_codebooks=num_codebooks,
        codebook_size=index.counts_MK.shape[1],
        num_items=index.codes_IM.shape[0],
        k=call.k,
        tokens=call.tokens_BWM,
        scores=call.scores_BW,
        codes=index.codes_IM,
        offsets=index.offsets,
        postings=index.postings,
        pair_offsets=index.pair_offsets,
        pair_postings=index.pair_postings,
        rank=call.rank_I.contiguous(),
        exclude=call.exclude_BX,
        num_excluded=0 if call.exclude_BX is None else call.exclude_BX.shape[1],
        logits=dense(logits_BMK),
        states=dense(states_BD),
        width=0 if states_BD is None else states_BD.shape[1],
        residual=dense(residual_ID),
        repeated=repeated_BL,
        num_repeated=0 if repeated_BL is None else repeated_BL.shape[1],
        repeat_bias=0.0 if repeat_bias is None else float(repeat_bias),
        best_scores=best_BN,
        items=items_BN,
        paths=path_BN,
    )
    return results
