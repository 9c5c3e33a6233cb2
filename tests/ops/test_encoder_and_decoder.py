"""encoder_memory and decoder_step: the layers of the model, in any split, on every instruction set, in bfloat16 too."""

from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.kernels.decoder_step.native import objection
from reg4rec.kernels.machine import native_problem
from reg4rec.kernels.panels import affine, unpack_weights
from reg4rec.model.layers import DecoderBlock, EncoderBlock, Rotary
from reg4rec.model.packed import block_part
from tests.isa import selected_isa
from tests.ops.cases import as_tuple, doubled, in_bf16, inputs

Block = TypeVar("Block", EncoderBlock, DecoderBlock)
Args = tuple[Any, ...]
needs_extension = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")
NAMES = ["encoder_memory", "decoder_step"]
SIZES = {"encoder_memory": (3, 21, 2, 4, 32, 100), "decoder_step": (4, 23, 2, 4, 32, 3, 37, 100, 70, 40)}
ODD = {"encoder_memory": (3, 9, 2, 3, 10, 37), "decoder_step": (2, 5, 2, 3, 7, 3, 5, 37, 65, 3)}
BATCHED = {"encoder_memory": (0, 4, 5), "decoder_step": (1, 4, 5, 6, 7, 8)}
KEPT = 5
"""Where the arguments of decoder_step have what it writes to."""


def drawn(kind: type[Block]) -> list[Block]:
    """Two blocks, with every bias and gain drawn too: those of fresh layers would hide a mistake."""
    blocks = [kind(12, 3, 20, 0.1).double().eval() for _ in range(2)]
    for block in blocks:
        draw(block)
    return blocks


def draw(module: nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def layer(num_out: int) -> nn.Linear:
    made = nn.Linear(12, num_out).double()
    draw(made)
    return made


@torch.no_grad()
def test_the_encoder_is_that_of_the_model() -> None:
    blocks, readers = drawn(EncoderBlock), drawn(DecoderBlock)
    x_BJD, number_J = torch.randn(2, 6, 12, dtype=torch.float64), torch.tensor([0, 1, 1, 2, 2, 3])
    rotary = Rotary(4).double()
    turn_J, turn_BJ = rotary(number_J), rotary(number_J - torch.tensor([[3], [4]]))
    visible_JJ = number_J[None, :] <= number_J[:, None]
    weight, bias = (torch.cat([getattr(r.cross_kv, name) for r in readers]) for name in ("weight", "bias"))
    weights_Y = ops.pack_weights([*map(block_part, blocks), ([(weight, bias)], [])], torch.float64)
    cos_JQ, sin_JQ, turn_cos_BJQ, turn_sin_BJQ = (turn.squeeze(-2).double() for turn in (*turn_J, *turn_BJ))
    y_BJD, memory_BJZAQ = ops.encoder_memory(
        x_BJD, visible_JJ.sum(1), cos_JQ, sin_JQ, turn_cos_BJQ, turn_sin_BJQ, weights_Y, ops.EncoderShape(2, 20, 4)
    )
    for block in blocks:
        x_BJD = block(x_BJD, turn_J, visible_JJ)
    torch.testing.assert_close(y_BJD, x_BJD)
    kept = [part for reader in readers for part in reader.memory(x_BJD, turn_BJ)]
    torch.testing.assert_close(memory_BJZAQ.permute(2, 0, 3, 1, 4), torch.stack(kept))


@torch.no_grad()
@pytest.mark.parametrize("refines", [False, True])
@pytest.mark.parametrize("num_categories", [0, 5])
def test_the_decoder_is_that_of_the_model(refines: bool, num_categories: int) -> None:
    blocks, norm, refine = drawn(DecoderBlock), nn.LayerNorm(12).double(), layer(12)
    tokens, categories = layer(8), layer(num_categories) if num_categories else None
    draw(norm)
    *_, kept, rows_BPS, memory, visible_BJ, _, _ = inputs(
        "decoder_step", (2, 5, 2, 3, 4, 2, 6, 20, 8, 5), torch.float64
    )
    table, position, states = (torch.randn(n, 12, dtype=torch.float64) for n in (8, 1, 2))
    row_BP = torch.randint(8, (2, 5))
    heads = [head for head in (refine if refines else None, tokens, categories) if head is not None]
    ends = [(head.weight, head.bias) for head in heads], [(norm.weight, norm.bias)]
    weights_Y = ops.pack_weights([*map(block_part, blocks), ends], torch.float64)
    shape, written = ops.DecoderShape(2, 20, 8, num_categories, refines), kept.clone()
    logits, of_categories = ops.decoder_step(
        *(table, row_BP, 1.5, position[0], states, written, rows_BPS, memory, visible_BJ, weights_Y, shape)
    )
    x_BPD = norm(1.5 * table[row_BP] + position)
    path_BPS = torch.cat([rows_BPS, torch.arange(5)[:, None].expand(2, 5, 1)], dim=2)
    for i, block in enumerate(blocks):
        seen = memory[:, 2 * i], memory[:, 2 * i + 1]
        x_BPD = block.step(x_BPD, kept[:, :, :, 2 * i : 2 * i + 2], path_BPS, seen, visible_BJ[:, None, None])
    state_BPD = states[:, None] + refine(x_BPD) if refines else x_BPD
    torch.testing.assert_close(logits, tokens(state_BPD))
    torch.testing.assert_close(written, kept)  # where `step` writes what a step makes
    if categories is None:
        assert of_categories.shape == (2, 5, 0)
    else:
        torch.testing.assert_close(of_categories, categories(state_BPD))


def run(name: str, args: Args, backend: str = "cpp") -> tuple[Tensor, ...]:
    """The results, and what decoder_step wrote; the arguments stay as they are."""
    fresh = tuple(a.clone() if name == "decoder_step" and at == KEPT else a for at, a in enumerate(args))
    with ops.use_backend(backend):
        found = as_tuple(getattr(ops, name)(*fresh))
    return (*found, fresh[KEPT]) if name == "decoder_step" else found


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["whole", "odd"])
@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set(isa: str, name: str, sizes: dict[str, tuple[int, ...]]) -> None:
    """Odd widths leave channels over that no vector holds."""
    args = inputs(name, sizes[name])
    for one, exact in zip(run(name, args), run(name, doubled(args), "eager"), strict=True):
        assert (one.double() - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["whole", "odd"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_in_bfloat16(name: str, sizes: dict[str, tuple[int, ...]]) -> None:
    """Between tiles and definition a value may be rounded the other way, here and there."""
    args = inputs(name, sizes[name])
    with selected_isa("amx"):
        found = run(name, in_bf16(name, args))
    plain = run(name, args, "eager")
    for one, exact, full in zip(found, run(name, in_bf16(name, args), "eager"), plain, strict=True):
        torch.testing.assert_close(one, exact, rtol=2**-7, atol=float(2**-7 * exact.abs().max()))
        assert (one - exact).abs().mean() < 0.1 * (one - full).abs().mean()


@needs_extension
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_takes_tiles(name: str) -> None:
    args = in_bf16(name, inputs(name, ODD[name]))
    with selected_isa("base"):
        choice = ops.which(name, *args)
    assert choice.backend == "eager"
    assert "products of bfloat16 take AMX's matrix tiles" in choice.reasons["cpp"]


def test_packed_weights_come_back() -> None:
    layers, norms = (
        [(torch.randn(7, 5), torch.randn(7)), (torch.randn(33, 64), torch.randn(33))],
        [(torch.randn(6), torch.randn(6))],
    )
    for dtype in (torch.float32, torch.bfloat16):
        weights_Y = ops.pack_weights([(layers, norms), (layers[:1], [])], dtype)
        shapes: Any = [([(7, 5), (33, 64)], 1), ([(7, 5)], 0)]
        (found, found_norms), (last, none) = unpack_weights(weights_Y, shapes, 6, torch.float32)
        for (weight, bias), (one, other) in zip([*layers, layers[0]], [*found, *last], strict=True):
            assert torch.equal(one, weight.to(dtype))
            assert torch.equal(other, bias)
        assert all(map(torch.equal, found_norms[0], norms[0]))
        assert none == []
    x = torch.randn(4, 5)
    rounded = x.bfloat16().float() @ found[0][0].float().T + found[0][1]
    torch.testing.assert_close(affine(x, found[0]), rounded)


def some_of(name: str, args: Args, rows: slice) -> Args:
    return tuple(a[rows] if at in BATCHED[name] else a for at, a in enumerate(args))


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_neither_threads_nor_neighbors_change_a_bit(name: str, dtype: torch.dtype) -> None:
    args, before = inputs(name, SIZES[name]), torch.get_num_threads()
    if dtype == torch.bfloat16:
        args = in_bf16(name, args)
    with selected_isa("amx" if dtype == torch.bfloat16 else ""):
        whole = run(name, args)
        try:
            for threads in (1, 2, 7):
                torch.set_num_threads(threads)
                assert all(map(torch.equal, run(name, args), whole))
        finally:
            torch.set_num_threads(before)
        for user in range(3):
            alone = run(name, some_of(name, args, slice(user, user + 1)))
            assert all(torch.equal(one[0], other[user]) for one, other in zip(alone, whole, strict=True))


@needs_extension
def test_no_path_changes_a_bit_of_another() -> None:
    args = inputs("decoder_step", SIZES["decoder_step"])
    whole = run("decoder_step", args)
    for paths in (slice(0, 1), slice(2, 19)):
        some = tuple(a[:, paths] if at in (1, 6) else a for at, a in enumerate(args))
        found = run("decoder_step", some)
        assert all(torch.equal(one, other[:, paths]) for one, other in zip(found[:2], whole[:2], strict=True))
        num_paths = some[1].shape[1]
        assert torch.equal(found[2][:, 3, :num_paths], whole[2][:, 3, paths])


@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_what_is_hidden_or_not_named_is_not_read(backend: str) -> None:
    if backend == "cpp" and native_problem() is not None:
        pytest.skip("needs the extension")
    args = inputs("decoder_step", SIZES["decoder_step"])
    kept, rows_BPS, memory, visible_BJ = args[5:9]
    hidden_B1J1 = ~visible_BJ[:, None, :, None]
    assert hidden_B1J1.any()
    named = torch.zeros(kept.shape[:3], dtype=torch.bool)
    for step in range(rows_BPS.shape[2]):
        named[:, step].scatter_(1, rows_BPS[:, :, step], True)
    whole = run("decoder_step", args, backend)
    spoiled = kept.masked_fill(~named[..., None, None, None], torch.nan)
    other = *args[:5], spoiled, rows_BPS, memory.masked_fill(hidden_B1J1[:, None], torch.nan), *args[8:]
    found = run("decoder_step", other, backend)
    assert all(map(torch.equal, whole[:2], found[:2]))
    num_paths = rows_BPS.shape[1]
    assert torch.equal(whole[2][:, 3, :num_paths], found[2][:, 3, :num_paths])
    elsewhere = torch.ones_like(named)
    elsewhere[:, 3, :num_paths] = False
    assert torch.equal(found[2][elsewhere].nan_to_num(), spoiled[elsewhere].nan_to_num())


@needs_extension
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_with_its_user(name: str) -> None:
    args = list(inputs(name, SIZES[name]))
    whole = run(name, tuple(args))
    poisoned = BATCHED[name][0] if name == "encoder_memory" else 7
    args[poisoned] = args[poisoned].clone()
    args[poisoned][1, 0, 0] = torch.nan
    for one, same in zip(run(name, tuple(args)), whole, strict=True):
        assert one[1].isnan().any()
        assert torch.equal(one[[0, 2]], same[[0, 2]])


@needs_extension
def test_without_logits_the_rest_is_the_same() -> None:
    args = inputs("decoder_step", SIZES["decoder_step"])
    for backend in ("cpp", "eager"):
        (logits, *rest), (nothing, *same) = (run("decoder_step", (*args, on), backend) for on in (True, False))
        assert logits.shape == (4, 23, 70)
        assert nothing.shape == (4, 23, 0)
        assert all(map(torch.equal, rest, same))


def changed(args: Args, at: int, value: Any) -> Args:
    return *args[:at], value, *args[at + 1 :]


def test_what_they_do_not_take() -> None:
    encoder, decoder = (inputs(name, SIZES[name]) for name in NAMES)
    assert objection(*decoder[:10]) is None
    assert "it computes float32, this is torch.float64" in str(objection(decoder[0].double()))
    refused: list[tuple[str, Args, str]] = [
        ("encoder_memory", tuple(a[..., :31] if at in (2, 3, 4, 5) else a for at, a in enumerate(encoder)), "'Q': 31"),
        ("encoder_memory", changed(encoder, 7, ops.EncoderShape(0, 100, 4)), "1 or more of everything in the shape"),
        ("encoder_memory", changed(encoder, 7, ops.EncoderShape(2, 100, 3)), "keys and values in pairs"),
        ("encoder_memory", changed(encoder, 0, encoder[0][..., :0]), "an even Q > 0, D > 0"),
        ("encoder_memory", changed(encoder, 7, ops.EncoderShape(2, 300, 4)), "numbers where .* were expected"),
        (
            "decoder_step",
            changed(decoder, 10, ops.DecoderShape(2, 300, 70, 40, True)),
            "numbers where .* were expected",
        ),
        ("decoder_step", changed(decoder, 10, ops.DecoderShape(2, 100, 70, -1, True)), "0 or more categories"),
        ("decoder_step", changed(decoder, 10, ops.DecoderShape(2, 100, 0, 40, True)), "1 or more blocks"),
        ("decoder_step", changed(decoder, 10, ops.DecoderShape(1, 100, 70, 40, True)), "Z = 2 x blocks"),
        ("decoder_step", changed(decoder, 6, torch.zeros(4, 23, 5, dtype=torch.int64)), "without room for step 5"),
        ("decoder_step", changed(decoder, 5, decoder[5][:, :, :22]), "5 steps of 22 rows, .* of 23 paths"),
    ]
    for name, args, message in refused:
        with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
            getattr(ops, name)(*args)
