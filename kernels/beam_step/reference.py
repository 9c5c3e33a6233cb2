"""Eager PyTorch definition of one step of the beam search over unordered tokens."""

import torch
from torch import Tensor

from .index import TokenIndex, listed_items, pair_slot

__all__ = [
    "admissible_tokens",
    "beam_step_reference",
    "is_excluded",
    "items_sharing_tokens",
    "items_with_tokens",
    "prune_paths",
]


def beam_step_reference(
    logits_BPMK: Tensor,
    scores_BP: Tensor,
    tokens_BPM: Tensor,
    js_BP: Tensor | None,
    index: TokenIndex,
    num_beams: int,
    num_spares: int,
    threshold: float | None = None,
    exclude_BX: Tensor | None = None,
    renormalize: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_codebooks, codebook_size = logits_BPMK.shape[2:]
    kept_BP, fallback_B = prune_paths(scores_BP, js_BP, num_beams, threshold)
    open_BPMK = admissible_tokens(tokens_BPM, kept_BP, index, exclude_BX)
    counted_BPMK = logits_BPMK.masked_fill(~open_BPMK, -torch.inf) if renormalize else logits_BPMK
    children = scores_BP.double()[..., None, None] + counted_BPMK.double().log_softmax(-1)
    children = torch.where(open_BPMK & (children > -torch.inf), children, -torch.inf).flatten(1)  # NaN is no child

    # a set of t tokens has at most t parents, so this many children hold all the distinct sets that are asked for
    width = num_beams + num_spares
    num_ranked = min(width * num_codebooks, children.shape[1])
    scores_BR, flat_BR = top_children(children, num_ranked)
    parent_BR, token_BR = flat_BR // (num_codebooks * codebook_size), flat_BR % (num_codebooks * codebook_size)
    tokens_BRM = tokens_BPM.gather(1, parent_BR[..., None].expand(-1, -1, num_codebooks)).clone()
    tokens_BRM.scatter_(2, (token_BR // codebook_size)[..., None], (token_BR % codebook_size)[..., None])
    keep_BR = (scores_BR > -torch.inf) & ~repeats_better(tokens_BRM, codebook_size)

    order = keep_BR.int().sort(dim=1, descending=True, stable=True).indices[:, :width]
    valid = keep_BR.gather(1, order)

    def best(values_BR: Tensor, fill: float) -> Tensor:
        taken = values_BR.gather(1, order).masked_fill(~valid, fill)
        return torch.nn.functional.pad(taken, (0, width - order.shape[1]), value=fill)

    return best(parent_BR, -1), best(token_BR, -1), best(scores_BR, -torch.inf).float(), fallback_B


def prune_paths(
    scores_BP: Tensor, js_BP: Tensor | None, num_beams: int, threshold: float | None
) -> tuple[Tensor, Tensor]:
    """The paths that CORP keeps: JS <= threshold, the best `num_beams` of them by score (ties: lowest path).

    A user of whose living paths none is consistent keeps the least divergent one (NaN last) and is flagged.
    Returns kept_BP (bool) and fallback_B (bool). Paths of score -inf are dead.
    """
    kept_BP = scores_BP > -torch.inf
    fallback_B = torch.zeros(scores_BP.shape[0], dtype=torch.bool, device=scores_BP.device)
    if js_BP is not None and threshold is not None and scores_BP.shape[1]:
        consistent_BP = kept_BP & (js_BP <= threshold)
        fallback_B = kept_BP.any(1) & ~consistent_BP.any(1)
        # torch.min takes the first of equal values only on some devices: an explicit order by (js, path) does not
        js_BP = js_BP.nan_to_num(torch.finfo(js_BP.dtype).max).masked_fill(~kept_BP, torch.inf)
        least = js_BP.sort(dim=1, stable=True).indices[:, :1]
        rescued_BP = torch.zeros_like(kept_BP).scatter_(1, least, fallback_B[:, None])
        kept_BP = consistent_BP | rescued_BP
    order = scores_BP.masked_fill(~kept_BP, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    return kept_BP & torch.zeros_like(kept_BP).scatter_(1, order[:, :num_beams], True), fallback_B


def admissible_tokens(
    tokens_BPM: Tensor, live_BP: Tensor, index: TokenIndex, exclude_BX: Tensor | None = None
) -> Tensor:
    """open_BPMK: the tokens of unused codebooks by which a live path can still become an existing, allowed item."""
    batch, paths, num_codebooks = tokens_BPM.shape
    codebook_size = index.counts_MK.shape[1]
    open_BPMK = torch.zeros(batch, paths, num_codebooks, codebook_size, dtype=torch.bool, device=tokens_BPM.device)
    begun_BP = (tokens_BPM >= 0).any(-1)
    root_B, root_P = (live_BP & ~begun_BP).nonzero(as_tuple=True)
    if len(root_B):
        open_BPMK[root_B, root_P] = _open_at_root(batch, index, exclude_BX)[root_B]
    path_B, path_P = (live_BP & begun_BP).nonzero(as_tuple=True)
    tokens_NM = tokens_BPM[path_B, path_P]
    path_T, item_T = items_with_tokens(tokens_NM, index)
    if exclude_BX is not None:
        allowed = ~is_excluded(path_B[path_T], item_T, index.codes_IM.shape[0], exclude_BX)
        path_T, item_T = path_T[allowed], item_T[allowed]
    rows = (path_B * paths + path_P)[path_T, None] * num_codebooks + torch.arange(num_codebooks, device=path_T.device)
    open_BPMK.view(-1)[rows * codebook_size + index.codes_IM[item_T].long()] = True
    return open_BPMK & (tokens_BPM < 0)[..., None]


def top_children(scores_BR: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row, best first, equal scores by lowest position (which torch.topk does not promise)."""
    last = scores_BR.topk(k, dim=1).values[:, -1:] if k else scores_BR[:, :0]
    above, level = scores_BR > last, scores_BR == last
    taken = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
    position_BK = taken.nonzero()[:, 1].view(scores_BR.shape[0], k)
    order = scores_BR.gather(1, position_BK).sort(dim=1, descending=True, stable=True)
    return order.values, position_BK.gather(1, order.indices)


def repeats_better(tokens_BRM: Tensor, codebook_size: int) -> Tensor:
    """Which rows, given best first, hold the same set of tokens as a better one."""
    shift = torch.arange(tokens_BRM.shape[2], device=tokens_BRM.device) * codebook_size
    mixed = _mix(torch.where(tokens_BRM >= 0, tokens_BRM + shift + 1, 0))
    order = mixed.sum(-1).sort(dim=1, stable=True).indices
    sorted_BRM = tokens_BRM.gather(1, order[..., None].expand_as(tokens_BRM))
    repeated = (sorted_BRM[:, 1:] == sorted_BRM[:, :-1]).all(-1)
    repeated = torch.nn.functional.pad(repeated, (1, 0), value=False)
    return torch.zeros_like(repeated).scatter_(1, order, repeated)


def _mix(x: Tensor) -> Tensor:
    """Spread small integers over 64 bits (the multiplications wrap), so that sums of a few tell sets apart."""
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return x ^ (x >> 31)


def _open_at_root(batch: int, index: TokenIndex, exclude_BX: Tensor | None) -> Tensor:
    """open_BMK before the first token: tokens that more items carry than are excluded."""
    num_codebooks, codebook_size = index.counts_MK.shape
    counts_BR = index.counts_MK.view(1, -1).repeat(batch, 1)
    if exclude_BX is not None and exclude_BX.shape[1]:
        distinct = exclude_BX.sort(dim=1).values
        first = torch.nn.functional.pad(distinct[:, 1:] != distinct[:, :-1], (1, 0), value=True) & (distinct >= 0)
        user_T, slot_T = first.nonzero(as_tuple=True)
        item_T = distinct[user_T, slot_T]
        token_TM = index.codes_IM[item_T].long() + torch.arange(num_codebooks, device=item_T.device) * codebook_size
        indexed_T = listed_items(index)[item_T]
        gone = (user_T[:, None] * counts_BR.shape[1] + token_TM)[indexed_T].reshape(-1)
        counts_BR.view(-1).index_add_(0, gone, torch.full_like(gone, -1, dtype=counts_BR.dtype))
    return (counts_BR > 0).view(batch, num_codebooks, codebook_size)


def items_with_tokens(tokens_NM: Tensor, index: TokenIndex) -> tuple[Tensor, Tensor]:
    """All (path, item) pairs where the item carries every token of the path: its shortest posting list, filtered."""
    slots_NM = _token_slots(tokens_NM, index)
    if index.lists_pairs:
        slots_NC, _ = _pair_slots(tokens_NM, index)
        paired_N1 = (slots_NC >= 0).any(1, keepdim=True)
        alone_T, alone_item_T = _shortest_lists(slots_NM.masked_fill(paired_N1, -1), index.offsets, index.postings)
        pair_T, pair_item_T = _shortest_lists(slots_NC, index.pair_offsets, index.pair_postings)
        path_T, item_T = torch.cat([alone_T, pair_T]), torch.cat([alone_item_T, pair_item_T])
    else:
        path_T, item_T = _shortest_lists(slots_NM, index.offsets, index.postings)
    wanted_TM = tokens_NM[path_T]
    fits_T = ((wanted_TM < 0) | (wanted_TM == index.codes_IM[item_T])).all(1)
    return path_T[fits_T], item_T[fits_T]


def items_sharing_tokens(tokens_NM: Tensor, fewest_N: Tensor, index: TokenIndex) -> tuple[Tensor, Tensor, Tensor]:
    """All (path, item) pairs, by path, that share `fewest_N` (1 or more) of the path's tokens, and how many they share.

    An item that shares f of d tokens carries one of any d - f + 1 of them, so the shortest lists of so many are read.
    With the codebooks in f - 1 groups it carries two of one group, so pairs within groups do where pairs are listed.
    """
    if index.lists_pairs and bool((fewest_N > 1).all()):
        offsets, postings = index.pair_offsets, index.pair_postings
        slots_NX, (left_X, right_X) = _pair_slots(tokens_NM, index)
        num_groups_N1 = fewest_N[:, None] - 1
        read_NX = (slots_NX >= 0) & (left_X % num_groups_N1 == right_X % num_groups_N1)
    else:
        offsets, postings = index.offsets, index.postings
        slots_NX = _token_slots(tokens_NM, index)
        left_X = right_X = torch.arange(slots_NX.shape[1], device=slots_NX.device)
        place_NX = _list_lengths(slots_NX, offsets).sort(dim=1, stable=True).indices.argsort(1)
        read_NX = place_NX < ((tokens_NM >= 0).sum(1) - fewest_N + 1)[:, None]
    path_L, list_L = read_NX.nonzero(as_tuple=True)
    at_T, item_T = _listed(slots_NX[path_L, list_L], offsets, postings)
    path_T = path_L[at_T]
    shared_TM = index.codes_IM[item_T] == tokens_NM[path_T]
    shared_T = shared_TM.sum(1)
    # an item that stands in several of a path's lists is taken from the first
    standing_TX = shared_TM[:, left_X] & shared_TM[:, right_X] & read_NX[path_T]
    first_T = standing_TX.cumsum(1).gather(1, list_L[at_T, None]).squeeze(1) == 1
    taken_T = first_T & (shared_T >= fewest_N[path_T])
    return path_T[taken_T], item_T[taken_T], shared_T[taken_T]


def _token_slots(tokens_NM: Tensor, index: TokenIndex) -> Tensor:
    """slots_NM: the posting lists of a path's tokens, -1 for none."""
    num_codebooks, codebook_size = index.counts_MK.shape
    first_M = torch.arange(num_codebooks, device=tokens_NM.device) * codebook_size
    return (tokens_NM + first_M).masked_fill(tokens_NM < 0, -1)


def _pair_slots(tokens_NM: Tensor, index: TokenIndex) -> tuple[Tensor, Tensor]:
    """slots_NC: the lists of the pairs of a path's tokens, -1 for none, and the codebooks of each pair (2, C)."""
    num_codebooks, codebook_size = index.counts_MK.shape
    books_2C = torch.combinations(torch.arange(num_codebooks, device=tokens_NM.device)).T
    first_C = torch.tensor([pair_slot(num_codebooks, codebook_size, r, s) for r, s in books_2C.T.tolist()])
    left_NC, right_NC = tokens_NM[:, books_2C[0]], tokens_NM[:, books_2C[1]]
    slots_NC = left_NC * codebook_size + right_NC + first_C.to(tokens_NM.device)
    return slots_NC.masked_fill((left_NC < 0) | (right_NC < 0), -1), books_2C


def _shortest_lists(slots_NR: Tensor, offsets: Tensor, postings: Tensor) -> tuple[Tensor, Tensor]:
    """(path, item) of the shortest list of each path among its slots (-1 for none)."""
    shortest_N1 = _list_lengths(slots_NR, offsets).argmin(1, keepdim=True)
    return _listed(slots_NR.gather(1, shortest_N1).squeeze(1), offsets, postings)


def _list_lengths(slots_NR: Tensor, offsets: Tensor) -> Tensor:
    """Items in the list of each slot; beyond any for -1."""
    return (offsets[slots_NR + 1] - offsets[slots_NR]).masked_fill(slots_NR < 0, 2**62)


def _listed(slot_N: Tensor, offsets: Tensor, postings: Tensor) -> tuple[Tensor, Tensor]:
    """(place in slot_N, item) of all items in the lists of some slots, -1 for an empty one."""
    length_N = (offsets[slot_N + 1] - offsets[slot_N]).masked_fill(slot_N < 0, 0)
    place_T = torch.repeat_interleave(length_N)
    begin_N = offsets[slot_N] - (length_N.cumsum(0) - length_N)
    return place_T, postings[torch.arange(len(place_T), device=slot_N.device) + begin_N[place_T]].long()


def is_excluded(user_T: Tensor, item_T: Tensor, num_items: int, exclude_BX: Tensor) -> Tensor:
    """Which (user, item) pairs stand in exclude_BX (item rows, -1 for none)."""
    user_B1 = torch.arange(exclude_BX.shape[0], device=exclude_BX.device)[:, None]
    keys = torch.where(exclude_BX >= 0, user_B1 * num_items + exclude_BX, -1)
    return torch.isin(user_T * num_items + item_T, keys)
