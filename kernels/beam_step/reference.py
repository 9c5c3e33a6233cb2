"""Eager PyTorch definition of one step of the beam search over unordered tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..token_index import TokenIndex

__all__ = ["BeamStep", "Results", "beam_step_reference", "empty_results", "prune_paths"]

Results = tuple[Tensor, Tensor, Tensor, Tensor]
GRID = 1.5 * 2.0**18
"""Adding and subtracting it rounds to multiples of 2^-34, so that scores that differ only by the order of sums tie."""


class BeamStep(NamedTuple):
    """A call of `beam_step`."""

    logits_BPMK: Tensor
    scores_BP: Tensor
    tokens_BPM: Tensor
    js_BP: Tensor | None
    token_index: TokenIndex
    num_beams: int
    num_spares: int
    threshold: float | None = None
    exclude_BX: Tensor | None = None
    renormalize: bool = False


def empty_results(call: BeamStep) -> Results:
    """(parent_BP, token_BP, scores_BP, fallback_B), not yet written to"""
    like, batch, width = call.tokens_BPM, call.tokens_BPM.shape[0], call.num_beams + call.num_spares
    scores_BP = like.new_empty(batch, width, dtype=torch.float32)
    fallback_B = like.new_empty(batch, dtype=torch.bool)
    return like.new_empty(batch, width), like.new_empty(batch, width), scores_BP, fallback_B


def beam_step_reference(call: BeamStep) -> Results:
    logits_BPMK, scores_BP, tokens_BPM, js_BP, index, num_beams, num_spares, threshold, exclude_BX, renormalize = call
    num_codebooks, codebook_size = logits_BPMK.shape[2:]
    kept_BP, fallback_B = prune_paths(scores_BP, js_BP, num_beams, threshold)
    open_BPMK = index.admissible_tokens(tokens_BPM, kept_BP, exclude_BX)
    counted_BPMK = logits_BPMK.masked_fill(~open_BPMK, -torch.inf) if renormalize else logits_BPMK
    children = scores_BP.double()[..., None, None] + counted_BPMK.double().log_softmax(-1)
    children = children + GRID - GRID
    children = torch.where(open_BPMK & (children > -torch.inf), children, -torch.inf).flatten(1)  # NaN is no child

    # a set of t tokens has at most t parents, so this many children contain `width` different sets
    width = num_beams + num_spares
    num_ranked = min(width * num_codebooks, children.shape[1])
    scores_BT, flat_BT = top_children(children, num_ranked)
    parent_BT, token_BT = flat_BT // (num_codebooks * codebook_size), flat_BT % (num_codebooks * codebook_size)
    tokens_BTM = tokens_BPM.gather(1, parent_BT[..., None].expand(-1, -1, num_codebooks)).clone()
    tokens_BTM.scatter_(2, (token_BT // codebook_size)[..., None], (token_BT % codebook_size)[..., None])
    keep_BT = (scores_BT > -torch.inf) & ~repeats_better(tokens_BTM, codebook_size)

    order = keep_BT.int().sort(dim=1, descending=True, stable=True).indices[:, :width]
    valid = keep_BT.gather(1, order)

    def best(values_BT: Tensor, fill: float) -> Tensor:
        taken = values_BT.gather(1, order).masked_fill(~valid, fill)
        return torch.nn.functional.pad(taken, (0, width - order.shape[1]), value=fill)

    return best(parent_BT, -1), best(token_BT, -1), best(scores_BT, -torch.inf).float(), fallback_B


def prune_paths(
    scores_BP: Tensor, js_BP: Tensor | None, num_beams: int, threshold: float | None
) -> tuple[Tensor, Tensor]:
    """The paths that CORP keeps: JS <= threshold, the best `num_beams` of them by score (ties: lowest path).

    A user without such a path keeps the least divergent living one (NaN last) and is flagged.
    Returns kept_BP (bool) and fallback_B (bool). Paths of score -inf are dead.
    """
    kept_BP = scores_BP > -torch.inf
    fallback_B = torch.zeros(scores_BP.shape[0], dtype=torch.bool, device=scores_BP.device)
    if js_BP is not None and threshold is not None and scores_BP.shape[1]:
        consistent_BP = kept_BP & (js_BP <= threshold)
        fallback_B = kept_BP.any(1) & ~consistent_BP.any(1)
        # a stable sort, since torch.min takes the first of equal values only on some devices
        js_BP = js_BP.nan_to_num(torch.finfo(js_BP.dtype).max).masked_fill(~kept_BP, torch.inf)
        least = js_BP.sort(dim=1, stable=True).indices[:, :1]
        rescued_BP = torch.zeros_like(kept_BP).scatter_(1, least, fallback_B[:, None])
        kept_BP = consistent_BP | rescued_BP
    order = scores_BP.masked_fill(~kept_BP, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    return kept_BP & torch.zeros_like(kept_BP).scatter_(1, order[:, :num_beams], True), fallback_B


def top_children(scores_BT: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row, best first, equal scores by lowest position (which torch.topk does not promise)."""
    last = scores_BT.topk(k, dim=1).values[:, -1:] if k else scores_BT[:, :0]
    above, level = scores_BT > last, scores_BT == last
    taken = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
    position_BX = taken.nonzero()[:, 1].view(scores_BT.shape[0], k)
    order = scores_BT.gather(1, position_BX).sort(dim=1, descending=True, stable=True)
    return order.values, position_BX.gather(1, order.indices)


def repeats_better(tokens_BTM: Tensor, codebook_size: int) -> Tensor:
    """Which rows, sorted best first, have the same token set as a better one."""
    shift = torch.arange(tokens_BTM.shape[2], device=tokens_BTM.device) * codebook_size
    mixed = _mix(torch.where(tokens_BTM >= 0, tokens_BTM + shift + 1, 0))
    order = mixed.sum(-1).sort(dim=1, stable=True).indices
    sorted_BTM = tokens_BTM.gather(1, order[..., None].expand_as(tokens_BTM))
    repeated = (sorted_BTM[:, 1:] == sorted_BTM[:, :-1]).all(-1)
    repeated = torch.nn.functional.pad(repeated, (1, 0), value=False)
    return torch.zeros_like(repeated).scatter_(1, order, repeated)


def _mix(x: Tensor) -> Tensor:
    """Spread small integers over 64 bits (the multiplications wrap), so that different sets have different sums."""
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return x ^ (x >> 31)
