"""encoder_blocks and decoder_blocks: the layers of the model, in any split, on every instruction set."""

from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.decoder_blocks.native import objection
from reg4rec.kernels.machine import native_problem
from reg4rec.model.layers import DecoderBlock, EncoderBlock, Rotary, packed_block
from tests.ops.cases import as_tuple, inputs, truth

Block = TypeVar("Block", EncoderBlock, DecoderBlock)
needs_extension = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")
NAMES = ["encoder_blocks", "decoder_blocks"]
SIZES = {"encoder_blocks": (3, 21, 2, 4, 32, 100), "decoder_blocks": (3, 23, 2, 4, 32, 3, 37, 100)}


def drawn(kind: type[Block]) -> tuple[list[Block], Tensor]:
    """Two blocks and weights_YN, with every bias and gain drawn too: those of fresh layers would hide a mistake."""
    blocks = [kind(12, 3, 20, 0.1).double().eval() for _ in range(2)]
    for parameter in (parameter for block in blocks for parameter in block.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return blocks, torch.stack([packed_block(block) for block in blocks])


@torch.no_grad()
def test_the_encoder_is_that_of_the_model() -> None:
    blocks, weights_YN = drawn(EncoderBlock)
    x_BSE, number_S = torch.randn(2, 6, 12, dtype=torch.float64), torch.tensor([0, 1, 1, 2, 2, 3])
    cos_S1D, sin_S1D = (x.double() for x in Rotary(4)(number_S))
    visible_SS = number_S[None, :] <= number_S[:, None]
    found = ops.encoder_blocks(x_BSE, visible_SS.sum(1), cos_S1D[:, 0], sin_S1D[:, 0], weights_YN, 20)
    for block in blocks:
        x_BSE = block(x_BSE, (cos_S1D, sin_S1D), visible_SS)
    torch.testing.assert_close(found, x_BSE)


@torch.no_grad()
def test_the_decoder_is_that_of_the_model() -> None:
    blocks, weights_YN = drawn(DecoderBlock)
    _, kept, rows_BPS, memory, visible_BL, *_ = inputs("decoder_blocks", (2, 5, 2, 3, 4, 2, 6, 20), torch.float64)
    x_BPE = torch.randn(2, 5, 12, dtype=torch.float64)
    found, made = ops.decoder_blocks(x_BPE, kept, rows_BPS, memory, visible_BL, weights_YN, 20)
    path_BPS = torch.cat([rows_BPS, torch.arange(5)[:, None].expand(2, 5, 1)], dim=2)
    for i, block in enumerate(blocks):
        seen = memory[:, 2 * i], memory[:, 2 * i + 1]
        x_BPE = block.step(x_BPE, kept[:, :, :, 2 * i : 2 * i + 2], path_BPS, seen, visible_BL[:, None, None])
    torch.testing.assert_close(found, x_BPE)
    torch.testing.assert_close(made, kept[:, 2, :5])  # where `step` writes what a step makes


ODD = {"encoder_blocks": (3, 9, 2, 3, 10, 37), "decoder_blocks": (3, 5, 2, 3, 7, 3, 5, 37)}


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["whole", "odd"])
@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set(isa: str, name: str, sizes: dict[str, tuple[int, ...]]) -> None:
    """Odd widths leave channels over that no vector holds."""
    args = inputs(name, sizes[name])
    with ops.use_backend("cpp"):
        found = as_tuple(getattr(ops, name)(*args))
    for one, exact in zip(found, truth(name, args), strict=True):
        assert (one.double() - exact).abs().max() < 1e-4 * exact.abs().max()


@needs_extension
@pytest.mark.parametrize("name", NAMES)
def test_neither_threads_nor_neighbors_change_a_bit(name: str) -> None:
    args, before = inputs(name, SIZES[name]), torch.get_num_threads()
    num_batched = {"encoder_blocks": 1, "decoder_blocks": 5}[name]

    def run(rows: slice) -> tuple[Tensor, ...]:
        with ops.use_backend("cpp"):
            return as_tuple(getattr(ops, name)(*(a[rows] for a in args[:num_batched]), *args[num_batched:]))

    whole = run(slice(None))
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, run(slice(None)), whole))
    finally:
        torch.set_num_threads(before)
    for user in range(3):
        alone = run(slice(user, user + 1))
        assert all(torch.equal(one[0], other[user]) for one, other in zip(alone, whole, strict=True))


@needs_extension
def test_no_path_changes_a_bit_of_another() -> None:
    x_BPE, kept, rows_BPS, *rest = inputs("decoder_blocks", SIZES["decoder_blocks"])
    with ops.use_backend("cpp"):
        whole = ops.decoder_blocks(x_BPE, kept, rows_BPS, *rest)
        for paths in (slice(0, 1), slice(2, 19)):
            some = ops.decoder_blocks(x_BPE[:, paths], kept, rows_BPS[:, paths], *rest)
            assert all(torch.equal(one, other[:, paths]) for one, other in zip(some, whole, strict=True))


@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_what_is_hidden_or_not_named_is_not_read(backend: str) -> None:
    if backend == "cpp" and native_problem() is not None:
        pytest.skip("needs the extension")
    x_BPE, kept, rows_BPS, memory, visible_BL, *rest = inputs("decoder_blocks", SIZES["decoder_blocks"])
    hidden_B1L1 = ~visible_BL[:, None, :, None]
    assert hidden_B1L1.any()
    named = torch.zeros(kept.shape[:3], dtype=torch.bool)
    for step in range(rows_BPS.shape[2]):
        named[:, step].scatter_(1, rows_BPS[:, :, step], True)
    with ops.use_backend(backend):
        whole = ops.decoder_blocks(x_BPE, kept, rows_BPS, memory, visible_BL, *rest)
        memory = memory.masked_fill(hidden_B1L1[:, None], 1e9)
        kept[~named] = torch.nan
        other = ops.decoder_blocks(x_BPE, kept, rows_BPS, memory, visible_BL, *rest)
    assert all(map(torch.equal, whole, other))


@needs_extension
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_with_its_user(name: str) -> None:
    x, *rest = inputs(name, SIZES[name])
    with ops.use_backend("cpp"):
        whole = as_tuple(getattr(ops, name)(x, *rest))
        x[1, 0, 0] = torch.nan
        other = as_tuple(getattr(ops, name)(x, *rest))
    for one, same in zip(other, whole, strict=True):
        assert one[1, 0].isnan().any()
        assert torch.equal(one[[0, 2]], same[[0, 2]])


def changed(args: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return *args[:at], value, *args[at + 1 :]


def test_what_they_do_not_take() -> None:
    encoder, decoder = (inputs(name, SIZES[name]) for name in NAMES)
    assert objection(decoder[0]) is None
    assert "it computes float32, this is torch.float64" in str(objection(decoder[0].double()))
    odd = changed(changed(encoder, 2, encoder[2][:, :31]), 3, encoder[3][:, :31])
    with pytest.raises(
        ValueError, match=r"encoder_blocks: Y > 0, an even D > 0 and E > 0 .* were expected, found .*'D': 31"
    ):
        ops.encoder_blocks(*odd)
    with pytest.raises(ValueError, match=r"encoder_blocks: Y > 0"):
        ops.encoder_blocks(*changed(encoder, 4, encoder[4][:0]))
    with pytest.raises(ValueError, match=r"encoder_blocks: Y > 0"):
        ops.encoder_blocks(*changed(encoder, 0, encoder[0][..., :0]))
    with pytest.raises(ValueError, match=r"encoder_blocks: weights_YN has .* numbers a block where .* were expected"):
        ops.encoder_blocks(*changed(encoder, 5, 300))
    with pytest.raises(ValueError, match=r"decoder_blocks: weights_YN has .* numbers a block where .* were expected"):
        ops.decoder_blocks(*changed(decoder, 6, 300))
    with pytest.raises(ValueError, match=r"decoder_blocks: rows_BPS names 5 steps, 4 are there"):
        ops.decoder_blocks(*changed(decoder, 2, torch.zeros(3, 23, 5, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"decoder_blocks: E = H x D > 0 and Z = 2 Y > 0 were expected"):
        ops.decoder_blocks(*changed(decoder, 5, decoder[5][:1]))
    headless = [changed(decoder, 0, decoder[0][..., :0]), decoder[1][:, :, :, :, :0], decoder[3][:, :, :0]]
    with pytest.raises(ValueError, match=r"decoder_blocks: E = H x D > 0"):
        ops.decoder_blocks(*changed(changed(headless[0], 1, headless[1]), 3, headless[2]))
