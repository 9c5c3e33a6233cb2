"""`beam_step` in C++: log-softmax in float64 vectors, users spread over torch's number of threads."""

from typing import Any

import torch

from ..call import native_op
from .reference import BeamStep, Results, empty_results

__all__ = ["fields", "objection", "run"]


def objection(call: BeamStep) -> str | None:
    if call.logits_BPMK.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16 logits, these are {call.logits_BPMK.dtype}"
    for name, tensor in (("scores_BP", call.scores_BP), ("js_BP", call.js_BP)):
        if tensor is not None and tensor.dtype != torch.float32:
            return f"it reads float32, {name} is {tensor.dtype}"
    if not all(part.is_contiguous() for part in call.token_index):
        return "it reads a contiguous index, as TokenIndex.build makes it"
    return None


def run(call: BeamStep) -> Results:
    results = empty_results(call)
    native_op("beam_step")(**fields(call, results), children=None, kept=0, capacity=0)
    return results


def fields(call: BeamStep, results: Results) -> dict[str, Any]:
    """The fields of the struct that C++ and CUDA take."""
    index, (batch, num_paths, num_codebooks, codebook_size) = call.token_index, call.logits_BPMK.shape
    parent_BP, token_BP, scores_BP, fallback_B = results
    return {
        "batch": batch,
        "num_paths": num_paths,
        "num_codebooks": num_codebooks,
        "codebook_size": codebook_size,
        "num_items": index.codes_IM.shape[0],
        "num_excluded": 0 if call.exclude_BX is None else call.exclude_BX.shape[1],
        "num_beams": call.num_beams,
        "width": call.num_beams + call.num_spares,
        "logits": call.logits_BPMK,
        "scores": call.scores_BP,
        "tokens": call.tokens_BPM,
        "js": None if call.threshold is None else call.js_BP,
        "threshold": call.threshold or 0.0,
        "exclude": call.exclude_BX,
        "renormalize": call.renormalize,
        "codes": index.codes_IM,
        "offsets": index.offsets,
        "postings": index.postings,
        "counts": index.counts_MK,
        "pair_offsets": index.pair_offsets,
        "pair_postings": index.pair_postings,
        "parent": parent_BP,
        "token": token_BP,
        "best_scores": scores_BP,
        "fallback": fallback_B,
    }
