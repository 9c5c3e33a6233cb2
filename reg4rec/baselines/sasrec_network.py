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
        x_BSD = torch.cat([self.start.expand(len(items_BL), 1, -1), embedded_BLD], dim=1)
        x_BSD = self.dropout(self.norm(x_BSD))
        number_S = torch.arange(x_BSD.shape[1], device=x_BSD.device)
        turn_S, visible_SS = self.rotary(number_S), number_S <= number_S[:, None]
        for block in self.blocks:
            x_BSD = block(x_BSD, turn_S, visible_SS)
        return x_BSD
