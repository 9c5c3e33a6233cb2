"""The weights of a transformer in one tensor, as the vector code reads them (csrc/panels.h, csrc/packed.h)."""

import functools
from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from .dispatch import cpp_multiplies_bf16

__all__ = ["Affine", "Part", "Shapes", "affine", "num_weights", "pack_weights", "unpack_weights", "weights_objection"]

PANEL = 32
"""Outputs whose weights lie side by side, input by input, in bfloat16 by pairs of inputs; these then come in multiples
of it too."""

Affine = tuple[torch.Tensor, torch.Tensor]
"""Weight (outputs, inputs) and bias of a linear layer, or gain and bias of a norm."""

Part = tuple[Sequence[Affine], Sequence[Affine]]
"""The layers and the norms of a block, say."""

Shapes = tuple[Sequence[tuple[int, int]], int]
"""Outputs and inputs of the layers of a part, and how many norms it has."""


class ModelShape(Hashable, Protocol):
    """What the shape of an encoder or decoder says of its packed weights."""

    def part_shapes(self, dim: int) -> Sequence[Shapes]: ...


def pack_weights(parts: Sequence[Part], dtype: torch.dtype) -> torch.Tensor:
    """weights_Y: a copy of the parts, of the layers' weights in that dtype, without gradient.

    A part, a block say, is the weight and bias of each of its layers, and the gain and bias of each of its norms. In
    bfloat16 biases and norms are float32 still, each number in two places.
    """
    packed = []
    for layers, norms in parts:
        for weight_OD, bias_O in layers:
            num_out, num_in = weight_OD.shape
            missing = 0, _stored(num_in, dtype) - num_in, 0, _whole(num_out) - num_out
            filled_OD = torch.nn.functional.pad(weight_OD.detach().to(dtype), missing)
            panels = filled_OD.view(-1, PANEL, filled_OD.shape[1] // _places(dtype), _places(dtype))
            packed += [panels.transpose(1, 2).flatten(), _kept(torch.nn.functional.pad(bias_O, missing[2:]), dtype)]
        packed += [_kept(numbers, dtype) for norm in norms for numbers in norm]
    return torch.cat(packed)


def unpack_weights(weights_Y: torch.Tensor, shapes: Sequence[Shapes], dim: int, computed: torch.dtype) -> list[Part]:
    """The parts of these shapes, with norms of width dim, that `pack_weights` took.

    Weights are in their own dtype, biases and norms in the one that is computed in.
    """
    dtype, rest_Y = weights_Y.dtype, weights_Y
    parts: list[Part] = []
    for layer_shapes, num_norms in shapes:
        layers = []
        for num_out, num_in in layer_shapes:
            sizes = _whole(num_out) * _stored(num_in, dtype), _whole(num_out) * _places(dtype)
            weights, bias, rest_Y = rest_Y.tensor_split((sizes[0], sum(sizes)))
            panels = weights.view(-1, _stored(num_in, dtype) // _places(dtype), PANEL, _places(dtype))
            weight_OD = panels.transpose(1, 2).reshape(_whole(num_out), _stored(num_in, dtype))[:num_out, :num_in]
            layers.append((weight_OD, _restored(bias).to(computed)[:num_out]))
        norms, rest_Y = rest_Y.tensor_split((2 * num_norms * dim * _places(dtype),))
        parts.append((layers, [(gain, bias) for gain, bias in _restored(norms).to(computed).view(num_norms, 2, dim)]))
    return parts


def affine(x: torch.Tensor, layer: Affine) -> torch.Tensor:
    """What a layer makes of x (..., inputs): with bfloat16 weights, of x rounded to that, summed up in x's dtype."""
    weight_OD, bias_O = layer
    return torch.nn.functional.linear(x.to(weight_OD.dtype).to(x.dtype), weight_OD.to(x.dtype), bias_O)


def num_weights(shape: ModelShape, dim: int, dtype: torch.dtype) -> int:
    """Y, for a model of this shape with norms of width dim."""
    # it is asked for at every call, which takes microseconds; a symbolic size cannot be looked up
    is_known = type(dim) is int and not torch.compiler.is_compiling()
    return (_remembered if is_known else _remembered.__wrapped__)(shape, dim, dtype)


@functools.lru_cache(maxsize=None, typed=True)  # shapes of two types may be equal tuples
def _remembered(shape: ModelShape, dim: int, dtype: torch.dtype) -> int:
    sizes = [
        sum(_whole(num_out) * (_stored(num_in, dtype) + _places(dtype)) for num_out, num_in in layer_shapes)
        + 2 * num_norms * dim * _places(dtype)
        for layer_shapes, num_norms in shape.part_shapes(dim)
    ]
    return sum(sizes)


def weights_objection(weights_Y: torch.Tensor) -> str | None:
    """Why C++ does not take packed weights, or None."""
    if weights_Y.dtype == torch.bfloat16 and not cpp_multiplies_bf16():
        return "products of bfloat16 take AMX or AVX512-BF16, which this machine lacks or REG4REC_ISA leaves unused"
    return None


def _whole(size: int) -> int:
    return -(-size // PANEL) * PANEL


def _stored(num_in: int, dtype: torch.dtype) -> int:
    """Inputs with those that fill up a panel."""
    return _whole(num_in) if dtype == torch.bfloat16 else num_in


def _places(dtype: torch.dtype) -> int:
    """What a number that is no weight takes, and inputs of an output that lie side by side."""
    return 2 if dtype == torch.bfloat16 else 1


def _kept(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.detach().float().view(dtype) if dtype == torch.bfloat16 else x.detach()


def _restored(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.float32) if x.dtype == torch.bfloat16 else x
