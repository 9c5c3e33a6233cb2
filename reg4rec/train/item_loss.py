"""The item-level loss: a softmax over all items, estimated from a sample of them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reg4rec import distributed

__all__ = ["ItemSampler", "draw_negatives", "item_loss", "sampled_softmax_loss"]


class ItemSampler(NamedTuple):
    """Draws items in proportion to weights; a draw takes log I steps. In float32 rare items of a large catalog would
    never be drawn: their part of the cumulative sum is lost."""

    probability_I: Tensor
    cumulative_I: Tensor

    @classmethod
    def of(cls, weights_I: Tensor) -> "ItemSampler":
        cumulative_I = weights_I.double().cumsum(0)
        return cls(weights_I / cumulative_I[-1].to(weights_I.dtype), cumulative_I / cumulative_I[-1])

    def draw(self, count: int) -> Tensor:
        """Items (X = count), drawn with replacement."""
        device = self.cumulative_I.device
        generator = distributed.shared_generator(device)
        uniform_X = torch.rand(count, dtype=torch.float64, device=device, generator=generator)
        return torch.searchsorted(self.cumulative_I, uniform_X, right=True)


def draw_negatives(sampler: ItemSampler, count: int) -> tuple[Tensor, Tensor]:
    """negatives_X (X = count), drawn with replacement, and the expected count of each."""
    negatives_X = sampler.draw(count)
    return negatives_X, count * sampler.probability_I[negatives_X]


def sampled_softmax_loss(
    states_TD: Tensor, items_ID: Tensor, targets_T: Tensor, negatives_X: Tensor, expected_X: Tensor
) -> Tensor:
    """loss_T: cross-entropy of each row's target against the sampled negatives, which all rows share.

    `expected_X`: the expected count of each negative in the sample. Dividing by it makes the denominator an unbiased
    estimate of the full softmax's (exact if `negatives_X` has every item once and `expected_X` is 1). A negative that
    is the target of a row is left out of that row.
    """
    logits_TX = states_TD @ items_ID[negatives_X].T - expected_X.log()
    logits_TX = logits_TX.masked_fill(negatives_X == targets_T[:, None], -torch.inf)
    target_T = (states_TD * items_ID[targets_T]).sum(-1)
    return torch.cat([target_T[:, None], logits_TX], dim=1).logsumexp(1) - target_T


def item_loss(
    embed: Callable[[Tensor], Tensor],
    repeat_bias: Tensor,
    states_BLD: Tensor,
    items_BL: Tensor,
    negatives_X: Tensor,
    expected_X: Tensor,
    weight_BL: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of all items in the windows (padding -1), each predicted by the state of the items before it.

    `embed` returns the vectors (T, D) of item rows (T). The denominator has the target; every item of the history, with
    the repeat bias; and a sample of the other items, weighted as in `sampled_softmax_loss`. The history here is the
    window before the item, while ranking gives the bias to all items of a user. `weight_BL` multiplies the items'
    losses before the mean (`reg4rec.train.windows.target_weights`). Ours, D11: docs/results.md.
    """
    filled_BL = items_BL >= 0
    # a single lookup: every lookup costs a gradient as large as the table
    rows = torch.cat([items_BL.clamp(min=0).flatten(), negatives_X])
    vectors = embed(rows)
    vectors_BLD, negatives_XD = vectors[: items_BL.numel()].view_as(states_BLD), vectors[items_BL.numel() :]
    same_BLL = items_BL[:, :, None] == items_BL[:, None, :]
    earlier_LL = torch.ones_like(same_BLL[0]).tril(-1)
    repeated_BL = (same_BLL & earlier_LL).any(2)

    logits_BLL = states_BLD @ vectors_BLD.mT
    target_T = (logits_BLL.diagonal(dim1=1, dim2=2) + repeat_bias * repeated_BL)[filled_BL]
    # an item that is twice in the history counts once; the target, if in the history, is counted by target_T
    counted_BLL = earlier_LL & ~repeated_BL[:, None, :] & ~same_BLL
    history_TL = (logits_BLL + repeat_bias).masked_fill(~counted_BLL, -torch.inf)[filled_BL]

    logits_TX = states_BLD[filled_BL] @ negatives_XD.T - expected_X.log()
    met_BLX = (items_BL[:, :, None] == negatives_X).cumsum(1) > 0
    logits_TX = logits_TX.masked_fill(met_BLX[filled_BL], -torch.inf)
    losses_T = torch.cat([target_T[:, None], history_TL, logits_TX], dim=1).logsumexp(1) - target_T
    return distributed.mean(losses_T if weight_BL is None else losses_T * weight_BL[filled_BL])
