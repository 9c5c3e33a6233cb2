"""Weights of layers as the ops take them (`reg4rec.kernels.panels`), packed once and again when they have changed."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from reg4rec.kernels.dispatch import multiplies_bf16, native_is_asked_for
from reg4rec.kernels.panels import Affine, Part, pack
from reg4rec.model.layers import DecoderBlock, EncoderBlock
from reg4rec.model.linear import Linear, optimizer_steps

__all__ = ["PackedWeights", "block_part", "packed_decoder", "packed_encoder"]

Source = nn.Module | nn.Parameter | None
Block = TypeVar("Block", EncoderBlock, DecoderBlock)


class _Kept(NamedTuple):
    sources: tuple[Source, ...]
    dtype: torch.dtype
    modules: list[nn.Module]
    weights: list[nn.Parameter]
    held: list[Tensor]
    """the weights' memory, so that no others can take its addresses"""
    state: tuple[object, ...]
    packed: Tensor


class PackedWeights:
    """Weights of some modules and parameters, which `pack` puts together in a dtype, None where torch's must run.

    A write through `weight.data` shows nowhere.
    """

    def __init__(self, pack: Callable[..., Tensor | None]) -> None:
        self._pack = pack
        self._kept: _Kept | None = None

    def of(self, *sources: Source) -> Tensor | None:
        """In inference mode, in bfloat16 under an autocast to it on machines with a fast product of it, else float32.

        None where torch's layers run: on a GPU, with dropout, in other dtypes, under other autocasts. Outside of
        inference mode too, so that what training samples and what it learns from are the same numbers; and where
        something was done to a layer that its weights do not tell: hooks, parametrizations, another kind of layer.
        """
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        is_fast = dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bf16())
        if not torch.is_inference_mode_enabled() or not native_is_asked_for() or not is_fast:
            return None
        kept = self._kept
        if kept is None or kept.dtype != dtype or not _same(kept.sources, sources) or kept.state != _state(*kept[2:4]):
            self._kept = kept = self._packed(sources, dtype)
        return None if kept is None else kept.packed

    def _packed(self, sources: tuple[Source, ...], dtype: torch.dtype) -> _Kept | None:
        packed = self._pack(dtype, *sources)
        if packed is None:
            return None
        modules = [module for source in sources if isinstance(source, nn.Module) for module in source.modules()]
        weights = [weight for module in modules for weight in module.parameters(recurse=False)]
        weights += [source for source in sources if isinstance(source, nn.Parameter)]
        held = [weight.detach() for weight in weights]
        return _Kept(sources, dtype, modules, weights, held, _state(modules, weights), packed)


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _state(modules: Sequence[nn.Module], weights: Sequence[nn.Parameter]) -> tuple[object, ...]:
    """Another one after anything was done to the modules or the weights."""
    return (
        optimizer_steps(),
        [id(part) for module in modules for part in (*module._modules.values(), *module._parameters.values())],
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        [(weight.data_ptr(), weight._version) for weight in weights],
    )


def packed_encoder(dtype: torch.dtype, encoder: nn.ModuleList, decoder: nn.ModuleList) -> Tensor | None:
    """weights_N as `reg4rec.ops.encoder_memory` takes them: an encoder's, and what makes a decoder's memory."""
    blocks, readers = _blocks_of(EncoderBlock, encoder), _blocks_of(DecoderBlock, decoder)
    if blocks is None or readers is None:
        return None
    to_memory: list[nn.Module] = [reader.cross_kv for reader in readers]
    if not all(map(_has_own_weights, [*to_memory, *(part for block in blocks for part in chain(*block.parts()))])):
        return None
    weights, biases = zip(*map(_affine, to_memory), strict=True)
    return pack([*map(block_part, blocks), ([(torch.cat(weights), torch.cat(biases))], [])], dtype)


def packed_decoder(
    dtype: torch.dtype,
    decoder: nn.ModuleList,
    norm_path: nn.Module,
    tokens_MKD: nn.Parameter,
    refine: nn.Module | None,
    category_head: nn.Module | None,
) -> Tensor | None:
    """weights_N as `reg4rec.ops.decoder_step` takes them: a decoder's, and what is around its blocks."""
    if (blocks := _blocks_of(DecoderBlock, decoder)) is None or not _is_own(tokens_MKD):
        return None
    heads = [head for head in (refine, category_head) if head is not None]
    if not all(map(_has_own_weights, [norm_path, *heads, *(part for b in blocks for part in chain(*b.parts()))])):
        return None
    rows = tokens_MKD.flatten(0, 1)
    before, behind = ([] if head is None else [_affine(head)] for head in (refine, category_head))
    ends = [*before, (rows, rows.new_zeros(len(rows))), *behind], [_affine(norm_path)]
    return pack([*map(block_part, blocks), ends], dtype)


def block_part(block: EncoderBlock | DecoderBlock) -> Part:
    """The layers and the norms of a block."""
    layers, norms = block.parts()
    return list(map(_affine, layers)), list(map(_affine, norms))


def _blocks_of(kind: type[Block], blocks: nn.ModuleList) -> list[Block] | None:
    """The blocks, None unless a call of each is what that class says, without dropout."""
    found = [block for block in blocks if type(block) is kind and _is_plain(block)]
    return found if len(found) == len(blocks) else None


def _affine(part: nn.Module) -> Affine:
    return part.get_parameter("weight"), part.get_parameter("bias")


def _is_plain(module: nn.Module) -> bool:
    return not (module.training or module._forward_hooks or module._forward_pre_hooks)


def _has_own_weights(part: nn.Module) -> bool:
    """Whether a layer's result depends on its weight and bias alone, and C++ takes these."""
    own = part._parameters
    is_known = type(part) in (Linear, nn.Linear, nn.LayerNorm) and list(own) == ["weight", "bias"]
    return is_known and _is_plain(part) and all(map(_is_own, own.values()))


def _is_own(weight: Tensor | None) -> bool:
    """FSDP2 cuts parameters, which are of another type then; what is made in inference mode does not tell of writes."""
    if type(weight) is not nn.Parameter or weight.is_inference():
        return False
    return not weight.is_cuda and weight.dtype == torch.float32
