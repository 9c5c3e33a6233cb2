"""Attention and blocks of the encoder and the decoder: add and norm after each sub-layer (paper, framework figure).

Positions are item numbers, not token numbers. They enter attention as rotations, so only the distance between two
items matters and a history may start at any position.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg4rec import ops
from reg4rec.model.linear import Linear

__all__ = ["DecoderBlock", "Dropout", "EncoderBlock", "FeedForward", "Rotary"]

Parts = tuple[list[nn.Module], list[nn.Module]]
"""The linear layers and the norms of a block."""

ROTARY_BASE = 1000.0
MOST_BLOCKS = 65_535
"""CUDA's limit for the second and third dimension of a grid, over which fused attention spreads the batch."""


class Rotary(nn.Module):
    """Rotates pairs of channels by an angle proportional to the position (Su et al. 2021)."""

    frequencies: Tensor

    def __init__(self, head_dim: int):
        super().__init__()
        frequencies = ROTARY_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self._table = frequencies[:0], frequencies, frequencies

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (..., 1, head_dim) for integer positions (...): one angle for all heads."""
        angles = positions[..., None].float() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(-2)
        return angles.cos(), angles.sin()

    def table(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, head_dim) of positions 0, 1, ..., at least `num_positions` of them; they are cached.

        The cache notices new frequencies, but not a write into the present ones.
        """
        made_of, cos_TQ, sin_TQ = self._table
        if made_of is not self.frequencies or len(cos_TQ) < num_positions:
            num_positions = max(64, 1 << (num_positions - 1).bit_length())
            cos_TQ, sin_TQ = (x.squeeze(-2) for x in self(torch.arange(num_positions, device=self.frequencies.device)))
            self._table = self.frequencies, cos_TQ, sin_TQ
        return cos_TQ, sin_TQ


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Apply `Rotary`'s cosines and sines to x (..., heads, head_dim)."""
    cos, sin = turn
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """Attention (..., t, head_dim) of queries (..., t, head_dim) over X keys and values (..., X, head_dim).

    visible: which keys a query may see, broadcast against (..., t, X), at least one for each query; None means all.
    """
    if q.is_cuda:
        flat_q, flat_k, flat_v = (x.flatten(0, -4) for x in (q, k, v))  # fused kernels take four dimensions
        return _attend_fused(flat_q, flat_k, flat_v, visible).unflatten(0, q.shape[:-3])
    # torch's fused CPU kernel is slower for rows this few and short (docs/precision.md)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return (scores if visible is None else scores.masked_fill(~visible, -torch.inf)).softmax(-1) @ v


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """`attend` by a fused kernel, on tensors of four dimensions."""
    if visible is not None or len(q) <= MOST_BLOCKS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    parts = zip(*(x.split(MOST_BLOCKS) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


def attend_gathered(q_BPAQ: Tensor, keys_BTRAQ: Tensor, values_BTRAQ: Tensor, rows_BPS: Tensor) -> Tensor:
    """`reg4rec.ops.path_attention`, computed by `attend` on a copy of the keys and values in the paths' rows."""
    k, v = (ops.gather_paths(x, rows_BPS).transpose(2, 3) for x in (keys_BTRAQ, values_BTRAQ))
    return attend(q_BPAQ[:, :, :, None], k, v, None).squeeze(3)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(..., D) -> (..., heads, D / heads)."""
    return x.unflatten(-1, (num_heads, -1))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, but on the CPU one 64-bit random number decides four elements: a quarter of torch's time."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.is_cuda:
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= round((self.p - 0.5) * 2**16)
        return x * (kept.to(x.dtype) / (1 - self.p))


class FeedForward(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, dim: int, ffn_dim: int):
        super().__init__()
        self.up, self.down = Linear(dim, ffn_dim), Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # not in place while training: LADQ may read the gradient of the output of `up`
        return self.down(F.relu(self.up(x), inplace=not torch.is_grad_enabled()))


class EncoderBlock(nn.Module):
    """Self-attention, add & norm, FFN, add & norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.out = Linear(dim, 3 * dim), Linear(dim, dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def parts(self) -> Parts:
        """Layers and norms in the order of `reg4rec.ops.encode_histories`."""
        return [self.qkv, self.out, self.ffn.up, self.ffn.down], [self.norm_attention, self.norm_ffn]

    def forward(self, x_BJD: Tensor, turn_J: tuple[Tensor, Tensor], visible_JJ: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BJD).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        q, k = rotate(q, turn_J), rotate(k, turn_J)
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), visible_JJ)
        x_BJD = self.norm_attention(x_BJD + self.dropout(self.out(mixed.transpose(1, 2).flatten(2))))
        return self.norm_ffn(x_BJD + self.dropout(self.ffn(x_BJD)))


class DecoderBlock(nn.Module):
    """Causal self-attention inside a path, cross-attention on the encoder's output, FFN, each with add & norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.out = Linear(dim, 3 * dim), Linear(dim, dim)
        self.cross_q, self.cross_out = Linear(dim, dim), Linear(dim, dim)
        self.cross_kv = Linear(dim, 2 * dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.norm_self, self.norm_cross, self.norm_ffn = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def parts(self) -> Parts:
        """Layers and norms in the order of `reg4rec.ops.decoder_step`."""
        layers: list[nn.Module] = [self.qkv, self.out, self.cross_q, self.cross_out, self.ffn.up, self.ffn.down]
        return layers, [self.norm_self, self.norm_cross, self.norm_ffn]

    def memory(self, memory_BJD: Tensor, turn_J: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, J, head_dim) of the encoder's output, computed once for each user."""
        k, v = self.cross_kv(memory_BJD).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        k = rotate(k, turn_J).to(v.dtype)  # otherwise autocast would cast the keys at every step of a search
        return k.transpose(1, 2), v.transpose(1, 2)

    def forward(
        self,
        x_BTSD: Tensor,
        memory: tuple[Tensor, Tensor],
        turn: tuple[Tensor, Tensor] | None,
        visible: Tensor,
    ) -> Tensor:
        """New states of T whole paths (or training targets) for each user, S positions each.

        turn: the rotation of the paths' item position, broadcast against (B, T, S, heads, head_dim); None if the
        memory's keys are already rotated relative to it. visible: which of the J memory slots a path may see,
        broadcast against (B, heads, T * S, J).
        """
        q, k, v = (x.transpose(2, 3) for x in self._queries_keys_values(x_BTSD))
        earlier = torch.ones(q.shape[3], q.shape[3], dtype=torch.bool, device=q.device).tril()
        return self._read(x_BTSD, attend(q, k, v, earlier).transpose(2, 3), memory, turn, visible)

    def step(
        self,
        x_BPD: Tensor,
        kept_BTR2AQ: Tensor,
        rows_BPS: Tensor,
        memory: tuple[Tensor, Tensor],
        visible: Tensor,
    ) -> Tensor:
        """New states of P paths for each user, at one more position.

        kept_BTR2AQ: keys and values of this block; the call writes those of the new position into it. rows_BPS: as in
        `reg4rec.ops.path_attention`, with the new position's rows last. memory: its keys are rotated relative to the
        next item. Computes no gradient.
        """
        q_BPAQ, *own = self._queries_keys_values(x_BPD)
        keys, values = kept_BTR2AQ.unbind(3)
        q_BPAQ = q_BPAQ.to(keys.dtype)  # under autocast they differ if the ops, which write float32, made the memory
        for kept_BTRAQ, own_BPAQ in zip((keys, values), own, strict=True):
            kept_BTRAQ[:, rows_BPS.shape[2] - 1, : x_BPD.shape[1]] = own_BPAQ
        # the op has no CUDA kernel; on a GPU torch's fused attention is used
        look_back = attend_gathered if q_BPAQ.is_cuda else ops.path_attention
        mixed_BPAQ = look_back(q_BPAQ, keys, values, rows_BPS)
        return self._read(x_BPD[:, :, None], mixed_BPAQ[:, :, None], memory, None, visible)[:, :, 0]

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., heads, head_dim) each."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)

    def _read(
        self,
        x_BTSD: Tensor,
        mixed: Tensor,
        memory: tuple[Tensor, Tensor],
        turn: tuple[Tensor, Tensor] | None,
        visible: Tensor,
    ) -> Tensor:
        """The rest of the block after the self-attention, whose output is `mixed` (B, T, S, heads, head_dim)."""
        x_BTSD = self.norm_self(x_BTSD + self.dropout(self.out(mixed.flatten(3))))
        cross = split_heads(self.cross_q(x_BTSD), self.num_heads)
        cross = cross if turn is None else rotate(cross, turn)
        seen = attend(cross.flatten(1, 2).transpose(1, 2), *memory, visible)
        seen = seen.transpose(1, 2).flatten(2).view_as(x_BTSD)
        x_BTSD = self.norm_cross(x_BTSD + self.dropout(self.cross_out(seen)))
        return self.norm_ffn(x_BTSD + self.dropout(self.ffn(x_BTSD)))
