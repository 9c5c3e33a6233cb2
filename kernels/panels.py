"""The weights of transformer blocks in one tensor, as the vector code reads them (csrc/panels.h)."""

from collections.abc import Sequence

import torch

__all__ = ["Affine", "Shapes", "num_weights", "pack", "unpack"]

PANEL = 32
"""Outputs whose weights lie side by side, input by input."""

Affine = tuple[torch.Tensor, torch.Tensor]
"""Weight (outputs, inputs) and bias of a linear layer, or gain and bias of a norm."""

Shapes = Sequence[tuple[int, int]]
"""Outputs and inputs of the layers of a block."""


def pack(layers: Sequence[Affine], norms: Sequence[Affine]) -> torch.Tensor:
    """weights_N of a block: a copy of its layers' and its norms', without gradient."""
    parts = []
    for weight_OI, bias_O in layers:
        missing = -len(bias_O) % PANEL
        filled_OI = torch.nn.functional.pad(weight_OI.detach(), (0, 0, 0, missing))
        parts += [filled_OI.unflatten(0, (-1, PANEL)).mT.flatten()]
        parts += [torch.nn.functional.pad(bias_O.detach(), (0, missing))]
    return torch.cat([*parts, *(part.detach() for norm in norms for part in norm)])


def unpack(weights_N: torch.Tensor, shapes: Shapes, num_norms: int, dim: int) -> tuple[list[Affine], list[Affine]]:
    """The layers of these shapes, and the norms of width dim, that `pack` took."""
    layers, at = [], 0
    for num_out, num_in in shapes:
        end = at + _whole(num_out) * num_in
        weight_OI = weights_N[at:end].view(-1, num_in, PANEL).mT.flatten(0, 1)[:num_out]
        layers.append((weight_OI, weights_N[end : end + num_out]))
        at = end + _whole(num_out)
    norms_2E = weights_N[at:].view(num_norms, 2, dim)
    return layers, [(gain_E, bias_E) for gain_E, bias_E in norms_2E]


def num_weights(shapes: Shapes, num_norms: int, dim: int) -> int:
    """N, for a block of these layers and norms."""
    return sum(_whole(num_out) * (num_in + 1) for num_out, num_in in shapes) + 2 * num_norms * dim


def _whole(size: int) -> int:
    return -(-size // PANEL) * PANEL
