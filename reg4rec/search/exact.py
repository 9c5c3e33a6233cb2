"""The retriever `exact`: the model's own score of every item, without a path."""

from typing import Literal

import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.data import Sequences
from reg4rec.errors import InputError
from reg4rec.model import Reg4RecModel, last_states, padded, weights_state
from reg4rec.search.ranking import Ranking, ranked_by_score

__all__ = ["ExactScan", "Retriever", "chosen_retriever", "item_vectors"]

Retriever = Literal["exact", "paths"]
MOST_ITEMS = 2_000_000
"""In larger catalogs scoring all items for a user takes longer than a search of paths."""
ITEMS_AT_ONCE = 1 << 16


def chosen_retriever(asked: Literal["auto", "exact", "paths"], model: Reg4RecModel, num_items: int) -> Retriever:
    """The retriever for a model and its catalog: "auto" is resolved; InputError if the model cannot rank as asked."""
    if asked == "exact" and not model.scores_items:
        raise InputError("retriever 'exact' needs a model that scores items; this model has only paths: use 'paths'")
    if asked != "auto":
        return asked
    return "exact" if model.scores_items and num_items <= MOST_ITEMS else "paths"


@torch.no_grad()
def item_vectors(model: Reg4RecModel, codes_TM: Tensor, row_T: Tensor) -> Tensor:
    """Vectors (T, D), float32, of items with these codes and rows, for the model's item score."""
    parts = zip(codes_TM.split(ITEMS_AT_ONCE), row_T.split(ITEMS_AT_ONCE), strict=True)
    return torch.cat([model.embed_items(codes, rows).float() for codes, rows in parts])


class ExactScan:
    """Ranks all items by the model's item score. It holds item vectors: make a new scan after the weights change.

    `vectors`: item vectors computed before from the same weights, to save the work.
    """

    def __init__(self, model: Reg4RecModel, codes_IM: Tensor, vectors: ops.ItemVectors | None = None):
        self.model, self.codes_IM = model, codes_IM
        # keeps the memory of the weights alive: `weights_state` compares addresses, which new tensors could reuse
        self._held = [model.tokens_MKD.detach(), model.residual_ID.detach()]
        self._state = self._present_state()
        rows_I = torch.arange(len(codes_IM), device=codes_IM.device)
        self.vectors = vectors or ops.ItemVectors.build(item_vectors(model, codes_IM, rows_I))

    def is_current(self, model: Reg4RecModel, codes_IM: Tensor) -> bool:
        """Whether the vectors belong to the model's present weights and these codes."""
        return self.model is model and self.codes_IM is codes_IM and self._state == self._present_state()

    def extended(self, model: Reg4RecModel, codes_IM: Tensor) -> "ExactScan":
        """A scan for the same items and further ones after them; computes only the new items' vectors."""
        first = len(self.codes_IM)
        rows_T = torch.arange(first, len(codes_IM), device=codes_IM.device)
        return ExactScan(model, codes_IM, self.vectors.extended(item_vectors(model, codes_IM[rows_T], rows_T)))

    @torch.inference_mode()
    def rank(self, batch: Sequences, k: int, filter_seen: bool, allowed: Tensor | None) -> Ranking:
        """The best `k` allowed items of each user (`allowed` as in `reg4rec.ops.score_topk`)."""
        # the encoder reads the newest items; the repeat bias and `filter_seen` count the whole history (seen_BL)
        bias = None if filter_seen else float(self.model.repeat_bias)
        seen_BL = padded(batch, -1).to(self.codes_IM.device)
        scores_BN, items_BN = ops.score_topk(self.states(batch), self.vectors, k, allowed, seen_BL, bias)
        return ranked_by_score(scores_BN, items_BN)

    @torch.inference_mode()
    def states(self, batch: Sequences) -> Tensor:
        """The encoder's state (B, D), float32, after the last item of each history."""
        device, newest = self.codes_IM.device, batch.last(self.model.config.max_history)
        item_T, length_B = torch.from_numpy(newest.items).long(), torch.from_numpy(newest.lengths)
        return last_states(
            self.model, item_T.to(device), length_B.to(device), self.codes_IM, self.vectors.rows_ID
        ).float()

    def _present_state(self) -> tuple[object, ...]:
        return self.model.training, *weights_state([self.model.tokens_MKD, self.model.residual_ID])
