"""The network of SASRec: a causal transformer over items."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg4rec.model.layers import EncoderBlock, Rotary

__all__ = ["SASRecNetwork"]


class SASRecNetwork(nn.Module):
    """States of a history, whose inner products with the item embeddings (tied to the input) score the next item.

    Positions enter attention by rotation, so that only distances count; a start slot stands before the first item.
    """

    def __init__(self, num_items: int, dim: int, num_blocks: int, num_heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.items_ID = nn.Parameter(torch.empty(num_items, dim).normal_(std=dim**-0.5))
        self.start = nn.Parameter(torch.empty(dim).normal_())
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(dim, num_heads, ffn_dim, dropout) for _ in range(num_blocks))
        self.rotary = Rotary(dim // num_heads)

    def forward(self, items_BL: Tensor) -> Tensor:
        """States (B, L + 1, D): state l has read the first l items. Padding stands at the end, as any row."""
        embedded_BLD = F.embedding(items_BL, self.items_ID) * self.items_ID.shape[1] ** 0.5
        x_BJD = torch.cat([self.start.expand(len(items_BL), 1, -1), embedded_BLD], dim=1)
        x_BJD = self.dropout(self.norm(x_BJD))
        number_J = torch.arange(x_BJD.shape[1], device=x_BJD.device)
        turn_J, visible_JJ = self.rotary(number_J), number_J <= number_J[:, None]
        for block in self.blocks:
            x_BJD = block(x_BJD, turn_J, visible_JJ)
        return x_BJD
