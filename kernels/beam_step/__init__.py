"""`beam_step`: one step of beam search over unordered tokens, constrained to items that exist."""

from typing import Any

import torch

from ..checks import bind, check_count, within
from ..dispatch import Op
from ..token_index import TokenIndex, bind_index, check_index
from .reference import beam_step_reference, prune_paths

__all__ = ["beam_step", "prune_paths"]


def beam_step(
    logits_BPMK: torch.Tensor,
    scores_BP: torch.Tensor,
    tokens_BPM: torch.Tensor,
    js_BP: torch.Tensor | None,
    index: TokenIndex,
    num_beams: int,
    num_spares: int,
    threshold: float | None = None,
    exclude_BX: torch.Tensor | None = None,
    renormalize: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(parent_BP, token_BP, scores_BP, fallback_B): the best children of the paths, no two of one token set.

    tokens_BPM holds each path's token per codebook, -1 where unused; scores_BP are its log-probabilities so far, -inf
    for a dead path. Of the living paths those with JS <= threshold are kept, the best W of them; a user for whom none
    is left keeps the least divergent one and is flagged in fallback_B. Without js_BP or threshold nothing is dropped. A
    child adds a token (r, j), written r * K + j, of an unused codebook r, such that some indexed item that is not in
    exclude_BX (padded with -1) carries all its tokens; its score adds log softmax of logits[r] at j, over all tokens of
    the codebook, or with `renormalize` over those that the path may take. Of children with equal sets the best stays.
    Children come best first by score, rounded to 2^-34, ties by lowest parent and token; missing ones have parent and
    token -1 and score -inf. A path whose score is NaN is dead, a JS of NaN is the largest; tokens of a codebook of
    which the softmax reads NaN or +inf, and those with a logit of -inf, are never chosen. Integers are int64, scores
    float32, without gradient. ValueError for a wrong dtype, device, shape or count, on the CPU also for tokens that are
    not -1..K-1, rows that are not -1..I-1, and an index whose parts do not belong together.

    Paper: CRSS, stated (merging: ours, D5) and CORP, stated (spares: ours, D10); constrained decoding: ours, D11
    """
    return OP(
        logits_BPMK, scores_BP, tokens_BPM, js_BP, index, num_beams, num_spares, threshold, exclude_BX, renormalize
    )


def _check(
    logits_BPMK: torch.Tensor,
    scores_BP: torch.Tensor,
    tokens_BPM: torch.Tensor,
    js_BP: torch.Tensor | None,
    index: TokenIndex,
    num_beams: int,
    num_spares: int,
    threshold: float | None = None,
    exclude_BX: torch.Tensor | None = None,
    renormalize: bool = False,
) -> tuple:
    sizes = bind("beam_step", {"logits_BPMK": logits_BPMK})
    for name, tensor in (("scores_BP", scores_BP), ("js_BP", js_BP)):
        bind("beam_step", {name: tensor}, sizes=sizes, device=logits_BPMK.device)
    tokens = {"tokens_BPM": tokens_BPM, "exclude_BX": exclude_BX}
    bind("beam_step", {}, tokens, integer_dtypes=(torch.int64,), sizes=sizes, device=logits_BPMK.device)
    bind_index("beam_step", index, sizes, logits_BPMK.device)
    check_count("beam_step", "num_beams", num_beams, 1)
    check_count("beam_step", "num_spares", num_spares, 0)
    limit = None if threshold is None else float(threshold)
    return logits_BPMK, scores_BP, tokens_BPM, js_BP, *index, num_beams, num_spares, limit, exclude_BX, renormalize


def _reference(
    logits_BPMK: torch.Tensor,
    scores_BP: torch.Tensor,
    tokens_BPM: torch.Tensor,
    js_BP: torch.Tensor | None,
    codes_IM: torch.Tensor,
    offsets: torch.Tensor,
    postings: torch.Tensor,
    counts_MK: torch.Tensor,
    pair_offsets: torch.Tensor,
    pair_postings: torch.Tensor,
    num_beams: int,
    num_spares: int,
    threshold: float | None,
    exclude_BX: torch.Tensor | None,
    renormalize: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    index = TokenIndex(codes_IM, offsets, postings, counts_MK, pair_offsets, pair_postings)
    return beam_step_reference(
        logits_BPMK, scores_BP, tokens_BPM, js_BP, index, num_beams, num_spares, threshold, exclude_BX, renormalize
    )


def _values(logits_BPMK: torch.Tensor, scores_BP: torch.Tensor, tokens_BPM: torch.Tensor, *rest: Any) -> None:
    index, exclude_BX = TokenIndex(*rest[1:7]), rest[10]
    check_index("beam_step", index)
    within("beam_step", "tokens_BPM", tokens_BPM, -1, index.counts_MK.shape[1] - 1)
    within("beam_step", "exclude_BX", exclude_BX, -1, len(index.codes_IM) - 1)


def _fake(logits_BPMK: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    num_beams, num_spares = rest[9:11]
    shape = (logits_BPMK.shape[0], num_beams + num_spares)  # type: ignore[operator]
    return (
        logits_BPMK.new_empty(shape, dtype=torch.int64),
        logits_BPMK.new_empty(shape, dtype=torch.int64),
        logits_BPMK.new_empty(shape, dtype=torch.float32),
        logits_BPMK.new_empty(shape[:1], dtype=torch.bool),
    )


OP = Op(
    "beam_step",
    "(Tensor logits_BPMK, Tensor scores_BP, Tensor tokens_BPM, Tensor? js_BP, Tensor codes_IM, Tensor offsets,"
    " Tensor postings, Tensor counts_MK, Tensor pair_offsets, Tensor pair_postings, SymInt num_beams,"
    " SymInt num_spares, float? threshold, Tensor? exclude_BX, bool renormalize)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    check=_check,
    reference=_reference,
    fake=_fake,
    values=_values,
    implementations={"cuda": "native_cuda", "cpp": "native"},
)
