"""`beam_step`: one step of beam search over unordered tokens, constrained to items that exist."""

import torch

from ..checks import bind, check_count, within
from ..dispatch import Op
from ..token_index import TokenIndex, bind_index, check_index
from .reference import BeamStep, beam_step_reference, empty_results, prune_paths

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
    """(parent_BP, token_BP, scores_BP, fallback_B): the best children of the paths, all with different token sets.

    tokens_BPM holds each path's token per codebook, -1 if unused; scores_BP the sum of their log-probabilities, -inf or
    NaN for a dead path. Living paths are kept if JS <= threshold (NaN counts as the largest), at most the num_beams
    best. A user with none left keeps the least divergent path and is flagged in fallback_B. Without js_BP or threshold
    every path passes.

    A child adds a token (r, j), written r * K + j, of an unused codebook r, such that some indexed item outside
    exclude_BX (padded with -1) carries all of its tokens. Its score adds the log softmax of logits[r] at j, over all
    tokens of the codebook, or with `renormalize` over those that the path may take. Of children with equal token sets
    the best remains. Children are sorted by score, best first, rounded to 2^-34; ties go to the lowest parent, then
    the lowest token; missing children have parent and token -1 and score -inf. A token with logit -inf is never chosen,
    nor is any token of a codebook whose softmax reads NaN or +inf. Integers are int64, scores float32, without
    gradient. ValueError for a wrong dtype, device, shape or count, on the CPU also for tokens outside -1..K-1, rows
    outside -1..I-1, and an index whose parts do not match.

    Paper: CRSS, stated (merging: ours, D5) and CORP, stated (spares: ours, D10); constrained decoding: ours, D11
    """
    limit = None if threshold is None else float(threshold)
    paths = logits_BPMK, scores_BP, tokens_BPM, js_BP
    return OP(BeamStep(*paths, index, num_beams, num_spares, limit, exclude_BX, renormalize))


def _check(call: BeamStep) -> None:
    sizes = bind("beam_step", {"logits_BPMK": call.logits_BPMK})
    device = call.logits_BPMK.device
    for name, tensor in (("scores_BP", call.scores_BP), ("js_BP", call.js_BP)):
        bind("beam_step", {name: tensor}, sizes=sizes, device=device)
    tokens = {"tokens_BPM": call.tokens_BPM, "exclude_BX": call.exclude_BX}
    bind("beam_step", {}, tokens, integer_dtypes=(torch.int64,), sizes=sizes, device=device)
    bind_index("beam_step", call.token_index, sizes, device)
    check_count("beam_step", "num_beams", call.num_beams, 1)
    check_count("beam_step", "num_spares", call.num_spares, 0)


def _values(call: BeamStep) -> None:
    check_index("beam_step", call.token_index)
    within("beam_step", "tokens_BPM", call.tokens_BPM, -1, call.token_index.counts_MK.shape[1] - 1)
    within("beam_step", "exclude_BX", call.exclude_BX, -1, len(call.token_index.codes_IM) - 1)


OP = Op(
    "beam_step",
    BeamStep,
    4,
    check=_check,
    reference=beam_step_reference,
    fake=empty_results,
    values=_values,
    implementations={"cuda": "native_cuda", "cpp": "native"},
)
