"""A path to any given item: its own tokens, at each step the one to which the model gives the highest probability."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.model import Memory, PathCache, Reg4RecModel, search_step
from reg4rec.search.beam import Paths

__all__ = ["Reasons", "joined", "paths_to_items"]


class Reasons(NamedTuple):
    """A path for each item of each user, and how much its category distribution changes from step to step.

    js_BNS: Jensen-Shannon divergence (nats) between the category distributions after steps s + 1 and s + 2, s from 0;
    S is 0 in models without categories.
    """

    paths: Paths
    js_BNS: Tensor


def joined(parts: Sequence[Reasons]) -> Reasons:
    """The reasons of all parts, concatenated over users."""
    paths = (torch.cat(fields) for fields in zip(*(part.paths for part in parts), strict=True))
    return Reasons(Paths(*paths), torch.cat([part.js_BNS for part in parts]))


@torch.inference_mode()
def paths_to_items(model: Reg4RecModel, memory: Memory, index: ops.TokenIndex, items_BN: Tensor) -> Reasons:
    """All tokens of each item (rows, -1 for none) in the order of the model's confidence.

    `index` lists these items and all others that could be recommended. Confidences, categories and scores are those
    that a search (`reg4rec.search.beam`) would give the same path.
    Paper: CRSS, ours: along the tokens of a known item.
    """
    num_users, num_items = items_BN.shape
    num_codebooks, codebook_size = index.counts_MK.shape
    codes_BNM = index.codes_IM[items_BN.clamp(min=0)].long()
    own_BN = torch.arange(num_items, device=items_BN.device).expand(num_users, -1)
    tokens_BNM = torch.full_like(codes_BNM, -1)
    live_BN = items_BN >= 0
    logits, _, cache = search_step(model, memory, None, 0, PathCache.empty(memory, 1, num_codebooks + 1, num_items))
    first_BMK = logits[:, 0].float().log_softmax(-1)
    logits, cache = logits.expand(-1, num_items, -1, -1), cache.of_paths(torch.zeros_like(own_BN))
    chosen, categories, divergences, before = [], [], [], None
    for step in range(1, num_codebooks + 1):
        logits_BNMK = logits.float()
        if model.config.renormalize:
            logits_BNMK = logits_BNMK.masked_fill(~index.admissible_tokens(tokens_BNM, live_BN), -torch.inf)
        sure_BNM = logits_BNMK.log_softmax(-1).gather(3, codes_BNM[..., None]).squeeze(3)
        best = sure_BNM.masked_fill(tokens_BNM >= 0, -torch.inf).max(2, keepdim=True)
        tokens_BNM = tokens_BNM.scatter(2, best.indices, codes_BNM.gather(2, best.indices))
        token_BN = (best.indices * codebook_size + codes_BNM.gather(2, best.indices)).squeeze(2)
        chosen.append((best.indices.squeeze(2), best.values.squeeze(2)))
        logits, after, cache = search_step(model, memory, token_BN, step, cache, with_logits=step < num_codebooks)
        cache = cache.of_paths(own_BN)
        if after is not None:
            categories.append(after.argmax(-1))
            if before is not None:
                divergences.append(ops.js_divergence(before.flatten(0, 1), after.flatten(0, 1)).view(live_BN.shape))
            before = after
    order_BNM, sure_BNM = (torch.stack(parts, 2) for parts in zip(*chosen, strict=True))
    categories_BNM = torch.stack(categories, 2) if categories else torch.full_like(order_BNM, -1)
    js_BNS = torch.stack(divergences, 2) if divergences else sure_BNM[..., :0]
    none_BN1 = ~live_BN[..., None]
    zeros_B = torch.zeros(num_users, dtype=torch.int64, device=items_BN.device)
    paths = Paths(
        tokens_BNM.masked_fill(none_BN1, -1),
        order_BNM.masked_fill(none_BN1, -1),
        sure_BNM.sum(2).masked_fill(~live_BN, -torch.inf),
        categories_BNM.masked_fill(none_BN1, -1),
        sure_BNM.exp().masked_fill(none_BN1, -1),
        first_BMK,
        zeros_B,
        zeros_B,
    )
    return Reasons(paths, js_BNS)
