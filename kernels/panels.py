"""The weights of a transformer packed into one tensor, in the order in which C++ reads them (csrc/packed.h).

Vector code computes PANEL outputs at once and walks the inputs: so a panel keeps the weights of one input side by side,
and reading them is one pass through memory.
"""

import functools
from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from .dispatch import cpp_multiplies_bf16

__all__ = ["Affine", "Part", "Shapes", "affine", "num_weights", "pack_weights", "unpack_weights", "weights_objection"]

PANEL = 32
"""Outputs per panel. Weights are stored input-major within a panel; bfloat16 interleaves two inputs and pads them to a
multiple of PANEL."""

Affine = tuple[torch.Tensor, torch.Tensor]
"""Weight (outputs, inputs) and bias of a linear layer, or gain and bias of a norm."""

Part = tuple[Sequence[Affine], Sequence[Affine]]
"""Layers and norms that belong together, for instance those of a block."""

Shapes = tuple[Sequence[tuple[int, int]], int]
"""(outputs, inputs) of each layer of a part, and its number of norms."""


class ModelShape(Hashable, Protocol):
    """The shape of an encoder or decoder, which defines the order of its packed weights."""

    def part_shapes(self, dim: int) -> Sequence[Shapes]: ...


def pack_weights(parts: Sequence[Part], dtype: torch.dtype) -> torch.Tensor:
    """weights_Y: a copy of all parts one after another, without gradient; the layers' weights are in `dtype`.

    Of each part come its layers, each as weight and bias, then its norms, each as gain and bias. With bfloat16 weights,
    biases and norms stay float32: the bits of each number fill two places of weights_Y.
    """
    packed = []
    for layers, norms in parts:
        for weight_OD, bias_O in layers:
            num_out, num_in = weight_OD.shape
            missing = 0, _padded_inputs(num_in, dtype) - num_in, 0, _padded(num_out) - num_out
            padded_OD = torch.nn.functional.pad(weight_OD.detach().to(dtype), missing)
            panels = padded_OD.view(-1, PANEL, padded_OD.shape[1] // _places(dtype), _places(dtype))
            bias = _float32_bits(torch.nn.functional.pad(bias_O, missing[2:]), dtype)
            packed += [panels.transpose(1, 2).flatten(), bias]
        packed += [_float32_bits(numbers, dtype) for norm in norms for numbers in norm]
    return torch.cat(packed)


def unpack_weights(weights_Y: torch.Tensor, shapes: Sequence[Shapes], dim: int, computed: torch.dtype) -> list[Part]:
    """The parts that `pack_weights` packed, given their shapes and the width `dim` of the norms.

    Weights keep the dtype of weights_Y; biases and norms come in the dtype `computed`.
    """
    dtype, rest_Y = weights_Y.dtype, weights_Y
    parts: list[Part] = []
    for layer_shapes, num_norms in shapes:
        layers = []
        for num_out, num_in in layer_shapes:
            rows, columns = _padded(num_out), _padded_inputs(num_in, dtype)
            sizes = rows * columns, rows * _places(dtype)
            weights, bias, rest_Y = rest_Y.tensor_split((sizes[0], sum(sizes)))
            panels = weights.view(-1, columns // _places(dtype), PANEL, _places(dtype))
            weight_OD = panels.transpose(1, 2).reshape(rows, columns)[:num_out, :num_in]
            layers.append((weight_OD, _from_bits(bias).to(computed)[:num_out]))
        norms, rest_Y = rest_Y.tensor_split((2 * num_norms * dim * _places(dtype),))
        parts.append((layers, [(gain, bias) for gain, bias in _from_bits(norms).to(computed).view(num_norms, 2, dim)]))
    return parts


def affine(x: torch.Tensor, layer: Affine) -> torch.Tensor:
    """The layer's output (..., outputs) in x's dtype; bfloat16 weights round x to bfloat16, sums stay in x's dtype."""
    weight_OD, bias_O = layer
    return torch.nn.functional.linear(x.to(weight_OD.dtype).to(x.dtype), weight_OD.to(x.dtype), bias_O)


def num_weights(shape: ModelShape, dim: int, dtype: torch.dtype) -> int:
    """Y, the size of the packed weights, for a model of this shape with norms of width dim."""
    # cached, because every call of an op asks for it; a symbolic size is no key of a cache
    is_known = type(dim) is int and not torch.compiler.is_compiling()
    return (_cached_size if is_known else _cached_size.__wrapped__)(shape, dim, dtype)


@functools.lru_cache(maxsize=None, typed=True)  # shapes of two types may be equal tuples
def _cached_size(shape: ModelShape, dim: int, dtype: torch.dtype) -> int:
    sizes = [
        sum(_padded(num_out) * (_padded_inputs(num_in, dtype) + _places(dtype)) for num_out, num_in in layer_shapes)
        + 2 * num_norms * dim * _places(dtype)
        for layer_shapes, num_norms in shape.part_shapes(dim)
    ]
    return sum(sizes)


def weights_objection(weights_Y: torch.Tensor) -> str | None:
    """Why C++ cannot use these packed weights, or None."""
    if weights_Y.dtype == torch.bfloat16 and not cpp_multiplies_bf16():
        return "products of bfloat16 take AMX or AVX512-BF16, which this machine lacks or REG4REC_ISA leaves unused"
    return None


def _padded(size: int) -> int:
    """The size rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


def _padded_inputs(num_in: int, dtype: torch.dtype) -> int:
    return _padded(num_in) if dtype == torch.bfloat16 else num_in


def _places(dtype: torch.dtype) -> int:
    """How many numbers of weights_Y a bias or norm entry takes; also how many inputs a panel interleaves."""
    return 2 if dtype == torch.bfloat16 else 1


def _float32_bits(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x as float32 numbers whose bits are viewed as bfloat16; unchanged for other weights."""
    return x.detach().float().view(dtype) if dtype == torch.bfloat16 else x.detach()


def _from_bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.float32) if x.dtype == torch.bfloat16 else x
