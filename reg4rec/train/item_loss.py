"""The item-level loss: a softmax over whole items, estimated from a sample of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from reg4rec import distributed

__all__ = ["draw_negatives", "item_loss", "sampled_softmax_loss"]


def draw_negatives(weights_I: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """negatives_X (X = count) drawn in proportion to the weights, with replacement, and how often each is expected."""
    probability_I = weights_I / weights_I.sum()
    generator = distributed.alike(weights_I.device)
    negatives_X = torch.multinomial(probability_I, count, replacement=True, generator=generator)
    return negatives_X, count * probability_I[negatives_X]


def sampled_softmax_loss(
    states_TD: Tensor, items_ID: Tensor, targets_T: Tensor, negatives_X: Tensor, expected_X: Tensor
) -> Tensor:
    """loss_T: cross-entropy of the targets among themselves and the sampled negatives, which all rows share.

    `expected_X` is how often each negative is expected in such a sample. Dividing by it makes the denominator an
    unbiased estimate of the full softmax's; with every item once in `negatives_X` and 1 expected it is the full one.
    A negative that is a row's target does not count for that row.
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
    """Mean cross-entropy of each item of the windows (padding -1) after state l, which has read the first l items.

    `embed` gives the vectors (T, D) of item rows (T). The denominator holds the target, every item of the history
    exactly, with the repeat bias, and the sampled rest of the catalog, weighted as in `sampled_softmax_loss`. The
    history is the window before the item; ranking gives the bias to all that a user has met. With `weight_BL` each
    item's loss is multiplied by its own before the mean (`reg4rec.train.windows.target_weights`). Ours, D11:
    docs/results.md.
    """
    filled_BL = items_BL >= 0
    # one lookup: each costs a gradient as large as the table
    rows = torch.cat([items_BL.clamp(min=0).flatten(), negatives_X])
    vectors = embed(rows)
    vectors_BLD, negatives_XD = vectors[: items_BL.numel()].view_as(states_BLD), vectors[items_BL.numel() :]
    same_BLL = items_BL[:, :, None] == items_BL[:, None, :]
    earlier_LL = torch.ones_like(same_BLL[0]).tril(-1)
    repeated_BL = (same_BLL & earlier_LL).any(2)

    logits_BLL = states_BLD @ vectors_BLD.mT
    target_T = (logits_BLL.diagonal(dim1=1, dim2=2) + repeat_bias * repeated_BL)[filled_BL]
    # an item that stands twice in the history counts once, the target in it not at all
    counted_BLL = earlier_LL & ~repeated_BL[:, None, :] & ~same_BLL
    history_TL = (logits_BLL + repeat_bias).masked_fill(~counted_BLL, -torch.inf)[filled_BL]

    logits_TX = states_BLD[filled_BL] @ negatives_XD.T - expected_X.log()
    met_BLX = (items_BL[:, :, None] == negatives_X).cumsum(1) > 0
    logits_TX = logits_TX.masked_fill(met_BLX[filled_BL], -torch.inf)
    losses_T = torch.cat([target_T[:, None], history_TL, logits_TX], dim=1).logsumexp(1) - target_T
    return distributed.mean(losses_T if weight_BL is None else losses_T * weight_BL[filled_BL])
