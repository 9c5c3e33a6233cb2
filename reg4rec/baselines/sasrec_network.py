"""The network of SASRec: a causal transformer over items."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg4rec.data import Sequences
from reg4rec.model import padded
from reg4rec.model.layers import EncoderBlock, Rotary
from reg4rec.model.transformer import REPEAT_SCALE

__all__ = ["CausalNetwork", "SASRecNetwork"]


class CausalNetwork(nn.Module):
    """Computes the states of a history; a subclass embeds the items.

    Attention uses rotary positions, so only distances matter. A learned start vector precedes the first item.
    """

    def add_layers(self, dim: int, num_blocks: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        """Create all layers except the embeddings, which a subclass must create first (order of random draws)."""
        self.start = nn.Parameter(torch.empty(dim).normal_())
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(dim, num_heads, ffn_dim, dropout) for _ in range(num_blocks))
        self.rotary = Rotary(dim // num_heads)

    def embed(self, items: Tensor) -> Tensor:
        """Vectors (..., D) of item rows (...)."""
        raise NotImplementedError

    def forward(self, items_BL: Tensor) -> Tensor:
        """States (B, L + 1, D): state l has read the first l items. Padding is at the end, with any item row."""
        embedded_BLD = self.embed(items_BL) * len(self.start) ** 0.5
        x_BJD = torch.cat([self.start.expand(len(items_BL), 1, -1), embedded_BLD], dim=1)
        x_BJD = self.dropout(self.norm(x_BJD))
        number_J = torch.arange(x_BJD.shape[1], device=x_BJD.device)
        turn_J, visible_JJ = self.rotary(number_J), number_J <= number_J[:, None]
        for block in self.blocks:
            x_BJD = block(x_BJD, turn_J, visible_JJ)
        return x_BJD

    def states_after(self, histories: Sequences) -> Tensor:
        """The states (B, D) after whole histories."""
        device = self.start.device
        states_BJD = self(padded(histories, 0).to(device))
        last_B = torch.from_numpy(histories.lengths).to(device)
        return states_BJD[torch.arange(len(histories), device=device), last_B]


class SASRecNetwork(CausalNetwork):
    """Scores the next item by the inner product of the state and the item embedding (tied to the input).

    With `views_IV` an item's embedding is its own vector plus a learned projection of its view, until `fold` adds the
    two. With `repeat_bias` a learned constant is added to the scores of items in the history.
    """

    views_IV: Tensor

    def __init__(
        self,
        num_items: int,
        dim: int,
        num_blocks: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        views_IV: Tensor | None = None,
        repeat_bias: bool = False,
    ):
        super().__init__()
        self.items_ID = nn.Parameter(torch.empty(num_items, dim).normal_(std=dim**-0.5))
        self.add_layers(dim, num_blocks, num_heads, ffn_dim, dropout)
        self.projection: nn.Module | None = None
        if views_IV is not None:
            # not in checkpoints, because it is recomputed from the data
            self.register_buffer("views_IV", views_IV, persistent=False)
            self.projection = nn.Linear(views_IV.shape[1], dim, bias=False)
        self.repeat = nn.Parameter(torch.zeros(())) if repeat_bias else None

    @property
    def repeat_bias(self) -> Tensor | None:
        """The bias of the scores of items in the history; None if it is not learned."""
        return None if self.repeat is None else REPEAT_SCALE * self.repeat

    def embed(self, items: Tensor) -> Tensor:
        own = F.embedding(items, self.items_ID)
        return own if self.projection is None else own + self.projection(self.views_IV[items])

    def item_vectors(self) -> Tensor:
        """The embeddings (I, D) of all items."""
        if self.projection is None:
            return self.items_ID
        return self.items_ID + self.projection(self.views_IV)

    @torch.no_grad()
    def fold(self) -> None:
        """Add the projected views to the items' own vectors and drop them; the scores do not change."""
        if self.projection is not None:
            self.items_ID.copy_(self.item_vectors())
            self.projection = None
            del self.views_IV
