"""Beam search over item tokens: CRSS chooses the order, CORP drops paths that contradict themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from reg4rec import ops
from reg4rec.model import Memory, PathCache, Reg4RecModel, search_step
from reg4rec.search.config import SearchConfig, SearchOrder

__all__ = ["CORP_REGION", "Living", "Paths", "corp", "search", "step_indexes"]

CORP_REGION = "reg4rec.corp"
"""The name under which `torch.profiler` reports CORP's divergences and masks outside of `beam_step`."""


class Paths(NamedTuple):
    """The surviving paths of each user, best first; a missing path has score -inf and tokens -1.

    tokens_BWM: the token of each codebook, -1 where none was decoded. order_BWM: the codebook of each step, then -1.
    scores_BW: sum of the tokens' log-probabilities. categories_BWM: the most probable category after each step, -1 if
    it was not computed: without a category head, and after the last step if CORP is off (only CORP needs that one).
    confidences_BWM: the probability of each step's token when it was chosen, -1 where there was no step.
    first_log_probs_BMK: log-probabilities of all tokens before the first step. pruned_B: paths that CORP dropped.
    fallbacks_B: steps at which no path was consistent and the least divergent one was kept.
    """

    tokens_BWM: Tensor
    order_BWM: Tensor
    scores_BW: Tensor
    categories_BWM: Tensor
    confidences_BWM: Tensor
    first_log_probs_BMK: Tensor
    pruned_B: Tensor
    fallbacks_B: Tensor


class Living(NamedTuple):
    """The paths of each user after a step, before CORP prunes them; a missing path has score -inf.

    Fields as in `Paths`, for the S steps so far. js_BP: the Jensen-Shannon divergence (nats) of the last two category
    distributions; None if there are fewer than two or CORP is off.
    """

    tokens_BPM: Tensor
    order_BPS: Tensor
    scores_BP: Tensor
    categories_BPS: Tensor
    confidences_BPS: Tensor
    js_BP: Tensor | None


def corp(model: Reg4RecModel, config: SearchConfig) -> tuple[float | None, int]:
    """CORP's threshold (nats) and number of spares; None and 0 if CORP is off or the model has no categories."""
    on = config.prune_threshold is not None and model.category_head is not None
    return (config.prune_threshold, config.num_spares) if on else (None, 0)


@torch.inference_mode()
def search(
    model: Reg4RecModel,
    memory: Memory,
    indexes: Sequence[ops.TokenIndex],
    config: SearchConfig,
    exclude_BX: Tensor | None = None,
    trace: list[Living] | None = None,
) -> Paths:
    """Decode the best `num_beams` token sets of existing items for each encoded history (`reg4rec.model.remember`).

    indexes: one for each step, from `step_indexes`. With CUDA kernels nothing here waits for the GPU.

    Each step takes, over all unused codebooks, the tokens of highest probability within their own codebook (CRSS),
    merges paths that have the same token set, and drops paths whose category distribution jumped (CORP; not in a model
    without categories). Items in exclude_BX (rows, padded with -1) are never reached. `trace` receives the paths after
    each step.
    Paper: CRSS, figure and stated, D5; CORP, stated, D10.
    """
    threshold, spares = corp(model, config)
    num_steps = min(config.num_steps or model.config.num_codebooks, model.config.num_codebooks)
    # CORP also compares the categories before and after the last token, which takes one more decoder step
    num_decoded = num_steps + (threshold is not None)
    cache = PathCache.empty(memory, 1, num_decoded, config.num_beams + spares)
    beam = _Beam.begin(model, memory, cache)
    for step, step_index in enumerate(indexes[:num_steps], start=1):
        seen = step_index.codes_IM.shape[1]
        # CORP prunes here: the op drops paths whose js_BP is above the threshold before it chooses their children
        parent_BP, token_BP, scores_BP, fallback_B = ops.beam_step(
            beam.logits_BPMK[:, :, :seen], beam.scores_BP, beam.tokens_BPM[:, :, :seen], beam.js_BP, step_index,
            config.num_beams, spares, threshold, exclude_BX, model.config.renormalize,
        )  # fmt: skip
        beam.count(threshold, fallback_B)
        # a user with too few paths has parents and tokens of -1: decode a copy instead, so that shapes stay fixed
        parent_BP = parent_BP.clamp(min=0)
        beam.grow(parent_BP, token_BP.clamp(min=0), scores_BP)
        if step < num_steps or threshold is not None:
            beam.decode(model, memory, parent_BP, threshold, step == num_steps)
        if trace is not None:
            trace.append(beam.living())
    return beam.finish(config.num_beams, threshold)


@dataclass
class _Beam:
    """The living paths of a batch of users; a missing path is a copy of another one with score -inf.

    Per step, in that step's row order: fed_SBP, the tokens (r * K + j); scores_SBP, the paths' scores after the step,
    with one entry more for the start; categories_SBP, the most probable categories, as far as they were computed.
    `cache.rows_BPS` maps a path to its row at each step.
    """

    first_log_probs_BMK: Tensor
    logits_BPMK: Tensor
    cache: PathCache
    tokens_BPM: Tensor
    fed_SBP: list[Tensor]
    scores_SBP: list[Tensor]
    categories_SBP: list[Tensor]
    category_logits_BPC: Tensor | None
    js_BP: Tensor | None
    pruned_B: Tensor
    fallbacks_B: Tensor

    @classmethod
    def begin(cls, model: Reg4RecModel, memory: Memory, cache: PathCache) -> "_Beam":
        logits_BPMK, _, cache = search_step(model, memory, None, 0, cache)
        logits_BPMK = logits_BPMK.float()
        batch, _, num_codebooks, _ = logits_BPMK.shape
        device = logits_BPMK.device
        zeros_B = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(
            first_log_probs_BMK=logits_BPMK[:, 0].log_softmax(-1),
            logits_BPMK=logits_BPMK,
            cache=cache,
            tokens_BPM=torch.full((batch, 1, num_codebooks), -1, device=device),
            fed_SBP=[],
            scores_SBP=[torch.zeros(batch, 1, device=device)],
            categories_SBP=[],
            category_logits_BPC=None,
            js_BP=None,
            pruned_B=zeros_B,
            fallbacks_B=zeros_B.clone(),
        )

    @property
    def scores_BP(self) -> Tensor:  # noqa: N802
        return self.scores_SBP[-1]

    def count(self, threshold: float | None, fallback_B: Tensor) -> None:
        if threshold is not None and self.js_BP is not None:
            divergent_BP = (self.scores_BP > -torch.inf) & (self.js_BP > threshold)
            self.pruned_B = self.pruned_B + divergent_BP.sum(1) - fallback_B.long()
            self.fallbacks_B = self.fallbacks_B + fallback_B.long()

    def grow(self, parent_BP: Tensor, token_BP: Tensor, scores_BP: Tensor) -> None:
        """Replace the paths by children: path p continues parent_BP[:, p] with token_BP[:, p]."""
        _, _, num_codebooks, codebook_size = self.logits_BPMK.shape
        tokens_BPM = self.tokens_BPM.gather(1, parent_BP[..., None].expand(-1, -1, num_codebooks))
        token_BP1 = token_BP[..., None]
        self.tokens_BPM = tokens_BPM.scatter(2, token_BP1 // codebook_size, token_BP1 % codebook_size)
        self.fed_SBP.append(token_BP)
        self.scores_SBP.append(scores_BP)
        self.cache = self.cache.of_paths(parent_BP)

    def decode(
        self, model: Reg4RecModel, memory: Memory, parent_BP: Tensor, threshold: float | None, is_last: bool
    ) -> None:
        """Feed the chosen tokens; computes the next step's logits, categories and the divergences that CORP checks."""
        step = len(self.fed_SBP)
        logits_BPMK, logits_BPC, self.cache = search_step(
            model, memory, self.fed_SBP[-1], step, self.cache, with_logits=not is_last
        )
        if not is_last:
            self.logits_BPMK = logits_BPMK.float()
        if logits_BPC is not None:
            self.categories_SBP.append(logits_BPC.argmax(-1))
            if threshold is not None and self.category_logits_BPC is not None:
                with record_function(CORP_REGION):
                    before_BPC = _take(self.category_logits_BPC, parent_BP)
                    self.js_BP = _divergence(before_BPC, logits_BPC, threshold)
            self.category_logits_BPC = logits_BPC

    def living(self) -> Living:
        order_BPS, categories_BPS, confidences_BPS = self._steps_of(self._rows())
        return Living(self.tokens_BPM, order_BPS, self.scores_BP, categories_BPS, confidences_BPS, self.js_BP)

    def _rows(self) -> Tensor:
        """rows_BPS: the row of each living path at every step."""
        begun_BPS = self.cache.rows_BPS
        own_BP1 = torch.arange(begun_BPS.shape[1], device=begun_BPS.device)[:, None].expand_as(begun_BPS[..., :1])
        return torch.cat([begun_BPS[..., 1:], own_BP1], dim=2)[..., : len(self.fed_SBP)]

    def _steps_of(self, rows_BPS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codebook, category (-1 for none) and confidence of each step, for paths given by their rows."""
        order_BPS = torch.stack(self.fed_SBP, dim=2).gather(1, rows_BPS) // self.logits_BPMK.shape[-1]
        scores_BPS = torch.stack(self.scores_SBP[1:], dim=2).gather(1, rows_BPS)
        confidences_BPS = scores_BPS.diff(dim=2, prepend=scores_BPS.new_zeros(1).expand_as(scores_BPS[..., :1])).exp()
        categories_BPS = torch.full_like(order_BPS, -1)
        if self.categories_SBP:
            known = slice(len(self.categories_SBP))
            categories_BPS[..., known] = torch.stack(self.categories_SBP, dim=2).gather(1, rows_BPS[..., known])
        return order_BPS, categories_BPS, confidences_BPS

    def finish(self, num_beams: int, threshold: float | None) -> Paths:
        """Let CORP prune after the last tokens too, and return the best `num_beams` paths."""
        with record_function(CORP_REGION):
            kept_BP, fallback_B = ops.prune_paths(self.scores_BP, self.js_BP, num_beams, threshold)
            self.count(threshold, fallback_B)
            scores_BP = self.scores_BP.masked_fill(~kept_BP, -torch.inf)
        order_BW = scores_BP.sort(dim=1, descending=True, stable=True).indices[:, :num_beams]
        scores_BW = scores_BP.gather(1, order_BW)
        dead = (scores_BW == -torch.inf)[..., None]
        missing = self.tokens_BPM.shape[-1] - len(self.fed_SBP)
        order_BWM, categories_BWM, confidences_BWM = (
            torch.nn.functional.pad(values_BWS.masked_fill(dead, -1), (0, missing), value=-1)
            for values_BWS in self._steps_of(_take(self._rows(), order_BW))
        )
        return Paths(
            _take(self.tokens_BPM, order_BW).masked_fill(dead, -1),
            order_BWM,
            scores_BW,
            categories_BWM,
            confidences_BWM,
            self.first_log_probs_BMK,
            self.pruned_B,
            self.fallbacks_B,
        )


def step_indexes(index: ops.TokenIndex, order: SearchOrder) -> list[ops.TokenIndex]:
    """The index that each step of a search reads. In fixed order, step t's index has only the first t codebooks.

    A search in fixed order is thus a search of the trie of the items' token sequences.
    """
    num_codebooks, codebook_size = index.counts_MK.shape
    if order == "confidence":
        return [index] * num_codebooks
    # every listed item has one token of the first codebook, so the lists of that codebook name each item once
    rows = index.postings[: index.offsets[codebook_size]]
    return [ops.TokenIndex.build(index.codes_IM[:, :m], codebook_size, rows) for m in range(1, num_codebooks + 1)]


def _take(x: Tensor, rows_BP: Tensor) -> Tensor:
    """x[b, rows[b, p]] for x (B, P0, ...)."""
    first_B1 = torch.arange(0, len(x) * x.shape[1], x.shape[1], device=x.device)[:, None]
    # index_select copies whole rows, in half the time of indexing by two tensors
    return x.flatten(0, 1).index_select(0, (first_B1 + rows_BP).flatten()).unflatten(0, rows_BP.shape)


def _divergence(before_BPC: Tensor, after_BPC: Tensor, threshold: float) -> Tensor:
    """js_BP (nats), on the same side of the threshold as the op's decision."""
    # near the threshold the op decides in float64, while later steps only see the float32 divergence
    js_T, keep_T = ops.js_divergence(before_BPC.flatten(0, 1), after_BPC.flatten(0, 1), threshold)
    just_above = torch.nextafter(js_T.new_full((), threshold), js_T.new_ones(()))
    return torch.where(keep_T, js_T.clamp(max=threshold), js_T.maximum(just_above)).view(before_BPC.shape[:2])
