"""encode_histories and decoder_step: the model's layers, in any split, on every instruction set, in bfloat16 too."""

import contextlib
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.kernels.decoder_step.native import objection
from reg4rec.kernels.decoder_step.reference import DecoderStep
from reg4rec.kernels.machine import native_problem
from reg4rec.kernels.panels import affine, unpack_weights
from reg4rec.model.layers import DecoderBlock, EncoderBlock, Rotary
from reg4rec.model.packed import block_part
from tests.isa import BF16_ISAS, selected_bf16, selected_isa
from tests.ops.cases import as_tuple, doubled, in_bf16, inputs

Block = TypeVar("Block", EncoderBlock, DecoderBlock)
Args = tuple[Any, ...]
needs_extension = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")
NAMES = ["encode_histories", "decoder_step"]
SIZES = {"encode_histories": (5, 20, 1, 2, 4, 32, 100, 1), "decoder_step": (4, 23, 2, 4, 32, 3, 37, 100, 70, 40)}
ODD = {"encode_histories": (4, 3, 3, 2, 3, 10, 37, 1), "decoder_step": (2, 5, 2, 3, 7, 3, 5, 37, 65, 3)}
BATCHED = (1, 4, 5, 6, 7, 8)
"""Positions of the arguments of decoder_step with one row per user."""
KEPT = 5
"""The position of the argument that decoder_step writes to."""


def drawn(kind: type[Block]) -> list[Block]:
    """Two blocks with random biases and gains, since those of new layers would hide a mistake."""
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
@pytest.mark.parametrize("slots_per_item", [1, 3])
def test_the_encoder_is_that_of_the_model(slots_per_item: int) -> None:
    blocks, readers, lengths = drawn(EncoderBlock), drawn(DecoderBlock), [2, 0, 5]
    rotary = Rotary(4).double()
    x_XD = torch.randn(3 + slots_per_item * sum(lengths), 12, dtype=torch.float64)
    weight, bias = (torch.cat([getattr(r.cross_kv, name) for r in readers]) for name in ("weight", "bias"))
    weights_Y = ops.pack_weights([*map(block_part, blocks), ([(weight, bias)], [])], torch.float64)
    cos_TQ, sin_TQ = (turn.squeeze(-2).double() for turn in rotary(torch.arange(7)))
    args = x_XD, torch.tensor(lengths), slots_per_item, cos_TQ, sin_TQ, weights_Y, ops.EncoderShape(2, 20, 4)
    states_BD, memory_XZAQ = ops.encode_histories(*args)
    assert torch.equal(ops.encode_histories(*args, False)[0], states_BD)
    sizes = [1 + slots_per_item * length for length in lengths]
    parts = zip(lengths, x_XD.split(sizes), states_BD, memory_XZAQ.split(sizes), strict=True)
    for length, x_JD, state_D, memory_JZAQ in parts:
        x_1JD = x_JD[None]
        number_J = torch.tensor([0, *(n for n in range(1, length + 1) for _ in range(slots_per_item))])
        visible_JJ, turn_J = number_J[None, :] <= number_J[:, None], rotary(number_J)
        for block in blocks:
            x_1JD = block(x_1JD, turn_J, visible_JJ)
        torch.testing.assert_close(state_D, x_1JD[0, -1])
        kept = [part[0] for reader in readers for part in reader.memory(x_1JD, rotary(number_J - length - 1))]
        torch.testing.assert_close(memory_JZAQ.permute(1, 2, 0, 3), torch.stack(kept))


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
    torch.testing.assert_close(written, kept)  # where `step` writes its keys and values
    if categories is None:
        assert of_categories.shape == (2, 5, 0)
    else:
        torch.testing.assert_close(of_categories, categories(state_BPD))


def run(name: str, args: Args, backend: str = "cpp") -> tuple[Tensor, ...]:
    """The results, and the cache that decoder_step wrote; the arguments stay unchanged."""
    fresh = tuple(a.clone() if name == "decoder_step" and at == KEPT else a for at, a in enumerate(args))
    with ops.use_backend(backend):
        found = as_tuple(getattr(ops, name)(*fresh))
    return (*found, fresh[KEPT]) if name == "decoder_step" else found


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["whole", "odd"])
@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set(isa: str, name: str, sizes: dict[str, tuple[int, ...]]) -> None:
    """Odd widths leave channels that do not fill a vector."""
    args = inputs(name, sizes[name])
    for one, exact in zip(run(name, args), run(name, doubled(args), "eager"), strict=True):
        assert (one.double() - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["whole", "odd"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("isa", BF16_ISAS)
def test_weights_in_bfloat16(isa: str, name: str, sizes: dict[str, tuple[int, ...]]) -> None:
    """C++ and the definition may round some values differently."""
    args = inputs(name, sizes[name])
    with selected_bf16(isa):
        found = run(name, in_bf16(name, args))
    plain = run(name, args, "eager")
    for one, exact, full in zip(found, run(name, in_bf16(name, args), "eager"), plain, strict=True):
        torch.testing.assert_close(one, exact, rtol=2**-7, atol=float(2**-7 * exact.abs().max()))
        assert (one - exact).abs().mean() < 0.1 * (one - full).abs().mean()


@needs_extension
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_takes_products_of_it(name: str) -> None:
    args = in_bf16(name, inputs(name, ODD[name]))
    with selected_isa("base"):
        choice = ops.which(name, *args)
    assert choice.backend == "eager"
    assert "products of bfloat16 take AMX or AVX512-BF16" in choice.reasons["cpp"]


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


def firsts(args: Args) -> list[int]:
    """Where the slots of each user begin in a call of encode_histories, and where the last one's end."""
    return [0, *(1 + args[1] * args[2]).cumsum(0).tolist()]


def some_of(name: str, args: Args, users: slice) -> Args:
    """The same call for some users."""
    if name == "decoder_step":
        return tuple(a[users] if at in BATCHED else a for at, a in enumerate(args))
    at = firsts(args)
    return args[0][at[users.start] : at[users.stop]], args[1][users], *args[2:]


def by_user(name: str, args: Args, found: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """What a call returns, for each user."""
    if name == "decoder_step":
        return list(zip(*found, strict=True))
    ends = firsts(args)[1:-1]
    return list(zip(found[0], found[1].tensor_split(ends), strict=True))


@needs_extension
@pytest.mark.parametrize("isa", ["", *BF16_ISAS])
@pytest.mark.parametrize("name", NAMES)
def test_neither_threads_nor_neighbors_change_a_bit(name: str, isa: str) -> None:
    args, before = inputs(name, SIZES[name]), torch.get_num_threads()
    with selected_bf16(isa) if isa else contextlib.nullcontext():
        if isa:
            args = in_bf16(name, args)
        whole = run(name, args)
        try:
            for threads in (1, 2, 7):
                torch.set_num_threads(threads)
                assert all(map(torch.equal, run(name, args), whole))
        finally:
            torch.set_num_threads(before)
        users = by_user(name, args, whole)
        for begin, end in ((0, 1), (1, 2), (2, 4), (1, 4), (3, 4)):
            some = some_of(name, args, slice(begin, end))
            for one, other in zip(by_user(name, some, run(name, some)), users[begin:end], strict=True):
                assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["whole", "odd"])
def test_states_are_the_same_without_memory(isa: str, sizes: dict[str, tuple[int, ...]]) -> None:
    *args, _ = inputs("encode_histories", sizes["encode_histories"])
    states_BD, _ = run("encode_histories", (*args, True))
    same_BD, nothing = run("encode_histories", (*args, False))
    assert torch.equal(states_BD, same_BD)
    assert nothing.shape == (len(args[0]), 0, args[0].shape[1] // args[3].shape[1], args[3].shape[1])


@needs_extension
@pytest.mark.parametrize("isa", BF16_ISAS)
def test_states_in_bfloat16_are_the_same_without_memory(isa: str) -> None:
    for sizes in (SIZES, ODD):
        with selected_bf16(isa):
            *args, _ = in_bf16("encode_histories", inputs("encode_histories", sizes["encode_histories"]))
            found = [run("encode_histories", (*args, with_memory))[0] for with_memory in (True, False)]
        assert torch.equal(*found)


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
def test_hidden_slots_and_unnamed_rows_are_not_read(backend: str) -> None:
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
    whole, poisoned = run(name, tuple(args)), 0 if name == "encode_histories" else 7
    args[poisoned] = args[poisoned].clone()
    args[poisoned][firsts(tuple(args))[2] if name == "encode_histories" else (2, 0, 0)] = torch.nan
    users = by_user(name, tuple(args), run(name, tuple(args)))
    for user, (found, same) in enumerate(zip(users, by_user(name, tuple(args), whole), strict=True)):
        for one, other in zip(found, same, strict=True):
            assert one.isnan().any() if user == 2 else torch.equal(one, other)


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


def test_wrong_arguments_are_refused() -> None:
    encoder, decoder = (inputs(name, SIZES[name]) for name in NAMES)
    call = DecoderStep(*decoder)
    assert objection(call) is None
    assert "it computes float32, this is torch.float64" in str(
        objection(call._replace(inputs_XD=call.inputs_XD.double()))
    )

    def without_a_channel(args: Args) -> Args:
        return tuple(a[..., :31] if at in (3, 4) else a for at, a in enumerate(args))

    refused: list[tuple[str, Args, str]] = [
        ("encode_histories", without_a_channel(encoder), "'Q': 31"),
        ("encode_histories", changed(encoder, 2, 0), "1 or more slots per item"),
        ("encode_histories", changed(encoder, 6, ops.EncoderShape(0, 100, 4)), "every number of the shape 1 or more"),
        ("encode_histories", changed(encoder, 6, ops.EncoderShape(2, 100, 3)), "an even num_both"),
        ("encode_histories", changed(encoder, 0, encoder[0][..., :0]), "an even Q > 0, D > 0"),
        ("encode_histories", changed(encoder, 6, ops.EncoderShape(2, 300, 4)), "numbers where .* were expected"),
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


@needs_extension
def test_lengths_that_do_not_fit_are_refused() -> None:
    encoder = inputs("encode_histories", SIZES["encode_histories"])
    for lengths, with_memory, message in (
        ([20, 0, 1, 2, 4], True, "x_XD must have 32 slots by these lengths, found 31"),
        ([21, 0, 1, 1, 3], True, "length_B must lie in 0..20, found 0..21"),
        ([22, 0, 1, 0, 3], False, "length_B must lie in 0..21, found 0..22"),
        ([21, 0, 1, 2, -1], False, "length_B must lie in 0..21, found -1..21"),
    ):
        args = changed(changed(encoder, 1, torch.tensor(lengths)), 7, with_memory)
        with pytest.raises(ValueError, match=f"encode_histories: {message}"), ops.use_backend("cpp"):
            ops.encode_histories(*args)
    longest = changed(changed(encoder, 1, torch.tensor([21, 0, 1, 1, 3])), 7, False)
    assert ops.encode_histories(*longest)[0].isfinite().all()
