"""Weights of layers, packed for the ops (`ops.pack_weights`) and packed again after they changed."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.model.layers import DecoderBlock, Dropout, EncoderBlock, FeedForward
from reg4rec.model.linear import Linear, optimizer_steps

__all__ = ["Packed", "PackedWeights", "block_part", "packed_decoder", "packed_encoder"]

Source = nn.Module | nn.Parameter | None
Affine = tuple[Tensor, Tensor]
Part = tuple[list[Affine], list[Affine]]
"""Layers and norms, (weight, bias) each: one part for `ops.pack_weights`."""
Block = TypeVar("Block", EncoderBlock, DecoderBlock)
EPSILON = 1e-5
"""The epsilon of the layer norms in csrc/packed.h."""


class Packed(NamedTuple):
    """Packed weights, and their layout (`ops.EncoderShape` or `ops.DecoderShape`)."""

    weights_Y: Tensor
    shape: Any


class _Cached(NamedTuple):
    sources: tuple[Source, ...]
    dtype: torch.dtype
    modules: list[nn.Module]
    weights: list[nn.Parameter]
    held: list[Tensor]
    """keeps the weights' memory alive, so that no other tensor can get its addresses and pass for an old weight"""
    state: tuple[object, ...]
    packed: Packed

    def serves(self, sources: tuple[Source, ...], dtype: torch.dtype) -> bool:
        is_same = self.dtype == dtype and _same(self.sources, sources)
        return is_same and self.state == _state(self.modules, self.weights)


class PackedWeights:
    """A cache of what `pack` returns for some modules and parameters: their packed weights, or None if it cannot.

    A write through `weight.data` goes unnoticed.
    """

    def __init__(self, pack: Callable[..., Packed | None]) -> None:
        self._pack = pack
        self._cached: _Cached | None = None

    def of(self, *sources: Source) -> Packed | None:
        """The packed weights of these modules and parameters, or None if torch's layers must run instead.

        bfloat16 under an autocast to bfloat16 if the C++ kernels multiply it fast here, float32 without autocast. None
        on a GPU, with dropout, in other dtypes, under other autocasts, outside inference mode, or if a layer has hooks,
        parametrizations or another type.
        """
        # alignment samples and learns outside inference mode: both then run torch's layers and see the same numbers
        if not torch.is_inference_mode_enabled() or not ops.uses_cpp():
            return None
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        if dtype != torch.float32 and not (dtype == torch.bfloat16 and ops.cpp_multiplies_bf16()):
            return None
        cached = self._cached
        # comparing states at each call is cheap against packing, and no event reports a write to a parameter
        if cached is None or not cached.serves(sources, dtype):
            self._cached = cached = self._packed(sources, dtype)
        return None if cached is None else cached.packed

    def _packed(self, sources: tuple[Source, ...], dtype: torch.dtype) -> _Cached | None:
        packed = self._pack(dtype, *sources)
        if packed is None:
            return None
        modules = [module for source in sources if isinstance(source, nn.Module) for module in source.modules()]
        weights = [weight for module in modules for weight in module.parameters(recurse=False)]
        weights += [source for source in sources if isinstance(source, nn.Parameter)]
        held = [weight.detach() for weight in weights]
        return _Cached(sources, dtype, modules, weights, held, _state(modules, weights), packed)


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _state(modules: Sequence[nn.Module], weights: Sequence[nn.Parameter]) -> tuple[object, ...]:
    """A value that differs after a change of the modules or the weights."""
    return (
        optimizer_steps(),
        [id(part) for module in modules for part in (*module._modules.values(), *module._parameters.values())],
        [
            (type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("eps"))
            for m in modules
        ],
        [(weight.data_ptr(), weight._version) for weight in weights],
    )


def packed_encoder(dtype: torch.dtype, encoder: nn.ModuleList, *to_memory: nn.Module | None) -> Packed | None:
    """The weights for `reg4rec.ops.encode_histories`: the encoder's, and the layers `to_memory` of the decoder.

    None if the op cannot do the same as the modules.
    """
    if (blocks := _blocks_of(EncoderBlock, encoder)) is None:
        return None
    readers = [reader for reader in to_memory if reader is not None]
    own = all(map(_has_own_weights, [*readers, *(part for block in blocks for part in chain(*block.parts()))]))
    if not own or not readers or len(readers) < len(to_memory):
        return None
    weights, biases = zip(*map(_affine, readers), strict=True)
    parts = [*map(block_part, blocks), ([(torch.cat(weights), torch.cat(biases))], [])]
    dim, shape = biases[0].numel() // 2, ops.EncoderShape(len(blocks), len(blocks[0].ffn.up.bias), 2 * len(readers))
    return _fitting(parts, dim, dtype, shape)


def packed_decoder(
    dtype: torch.dtype,
    decoder: nn.ModuleList,
    norm_path: nn.Module,
    tokens_MKD: nn.Parameter,
    refine: nn.Module | None,
    category_head: nn.Module | None,
) -> Packed | None:
    """The weights for `reg4rec.ops.decoder_step`: the decoder blocks', the norm before them and the heads after them.

    None if the op cannot do the same as the modules.
    """
    if (blocks := _blocks_of(DecoderBlock, decoder)) is None or not _is_own(tokens_MKD):
        return None
    heads = [head for head in (refine, category_head) if head is not None]
    if not all(map(_has_own_weights, [norm_path, *heads, *(part for b in blocks for part in chain(*b.parts()))])):
        return None
    # the op has no layer for token logits: the embeddings become one, with a bias of zeros
    rows = tokens_MKD.flatten(0, 1)
    before, behind = ([] if head is None else [_affine(head)] for head in (refine, category_head))
    ends = [*before, (rows, rows.new_zeros(len(rows))), *behind], [_affine(norm_path)]
    num_categories = len(behind[0][1]) if behind else 0
    dim, ffn_dim = rows.shape[1], len(blocks[0].ffn.up.bias)
    shape = ops.DecoderShape(len(blocks), ffn_dim, len(rows), num_categories, bool(before))
    return _fitting([*map(block_part, blocks), ends], dim, dtype, shape)


def _fitting(
    parts: list[Part], dim: int, dtype: torch.dtype, shape: ops.EncoderShape | ops.DecoderShape
) -> Packed | None:
    """The packed parts; None if a layer has another shape than the op expects."""
    for (layers, norms), (layer_shapes, _) in zip(parts, shape.part_shapes(dim), strict=True):
        if [tuple(weight.shape) for weight, _ in layers] != list(layer_shapes) or any(len(n[0]) != dim for n in norms):
            return None
    return Packed(ops.pack_weights(parts, dtype), shape)


def block_part(block: EncoderBlock | DecoderBlock) -> Part:
    """The layers and the norms of a block, as (weight, bias) pairs."""
    layers, norms = block.parts()
    return list(map(_affine, layers)), list(map(_affine, norms))


def _blocks_of(kind: type[Block], blocks: nn.ModuleList) -> list[Block] | None:
    """The blocks, at least one; None unless each is exactly of class `kind`, without hooks and dropout."""
    found = [block for block in blocks if type(block) is kind]
    plain = all(
        type(b.ffn) is FeedForward and type(b.dropout) is Dropout and all(map(_is_plain, b.modules())) for b in found
    )
    return found if found and plain and len(found) == len(blocks) else None


def _affine(part: nn.Module) -> Affine:
    return part.get_parameter("weight"), part.get_parameter("bias")


def _is_plain(module: nn.Module) -> bool:
    return not (module.training or module._forward_hooks or module._forward_pre_hooks)


def _has_own_weights(part: nn.Module) -> bool:
    """Whether a layer's result depends only on its weight and bias, and the C++ kernels support both."""
    own = part._parameters
    is_known = type(part) in (Linear, nn.Linear, nn.LayerNorm) and list(own) == ["weight", "bias"]
    is_known = is_known and (type(part) is not nn.LayerNorm or part.eps == EPSILON)
    return is_known and _is_plain(part) and all(map(_is_own, own.values()))


def _is_own(weight: Tensor | None) -> bool:
    """Whether a weight is a float32 parameter on the CPU whose changes can be noticed."""
    # FSDP2's sharded parameters have another type; tensors made in inference mode have no version
    if type(weight) is not nn.Parameter or weight.is_inference():
        return False
    return not weight.is_cuda and weight.dtype == torch.float32
