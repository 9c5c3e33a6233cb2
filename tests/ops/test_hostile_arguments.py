"""Arguments that would make C++ read wrong memory: the same ValueError on every backend."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.dispatch import all_ops
from reg4rec.kernels.machine import native_problem
from tests.ops.cases import CASES, as_tuple, inputs

Args = tuple[Any, ...]
BACKENDS = ["eager", pytest.param("cpp", marks=pytest.mark.skipif(native_problem() is not None, reason="no extension"))]
SIZES: dict[str, tuple[int, ...]] = {
    "beam_step": (2, 3, 3, 7, 60),
    "path_topk": (3, 4, 3, 5, 60, 9, 5),
    "item_topk": (2, 3, 7, 20, 5),
    "score_topk": (3, 70, 9, 5, 3),
    "path_attention": (2, 3, 2, 4, 2),
    "encode_histories": (3, 4, 2, 1, 2, 4, 5, 1),
    "decoder_step": (2, 3, 1, 2, 4, 2, 3, 5, 7, 2),
    "token_cross_entropy": (7, 3, 13, 5),
}


def at(place: int, change: Callable[[Any], Any]) -> Callable[[Args], Args]:
    """The arguments with one of them changed."""
    return lambda args: (*args[:place], change(args[place]), *args[place + 1 :])


def part(place: int, **changes: Callable[[Tensor], Any]) -> Callable[[Args], Args]:
    """The arguments with some fields of a record changed."""
    return at(place, lambda record: record._replace(**{n: change(getattr(record, n)) for n, change in changes.items()}))


def one(value: int) -> Callable[[Tensor], Tensor]:
    """The tensor with its last number replaced."""

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x.view(-1)[-1] = value
        return x

    return change


def few(x: Tensor) -> Tensor:
    return x[:2].clone()


def nobody(x: Tensor) -> Tensor:
    return x & (torch.arange(len(x)) != 1)[:, None]


HOSTILE: list[tuple[str, Callable[[Args], Args], str]] = [
    ("beam_step", part(4, offsets=few), "index.offsets_T has 2 numbers where 22 were expected"),
    ("beam_step", part(4, postings=few), "index.offsets must lie in 0..2, found 0..180"),
    ("beam_step", part(4, postings=lambda x: x + 2**30), "index.postings must lie in 0..59, found 1073741824.."),
    ("beam_step", part(4, postings=lambda x: x.flip(0)), "index.postings does not belong to its codes"),
    ("beam_step", part(4, pair_offsets=lambda x: x[:1]), "index.pair_offsets_T has 1 numbers where 0 or 148"),
    ("beam_step", part(4, pair_postings=lambda x: x[:-1]), "index.pair_offsets does not belong|index.pair_postings"),
    ("beam_step", part(4, counts_MK=lambda x: x + 1), "index.counts_MK does not belong to its codes"),
    ("beam_step", part(4, codes_IM=one(7)), "index.codes_IM must lie in 0..6, found 0..7"),
    ("beam_step", part(4, codes_IM=one(-1)), "index.codes_IM must lie in 0..6, found -1.."),
    ("beam_step", at(2, one(7)), "tokens_BPM must lie in -1..6, found -1..7"),
    ("beam_step", at(2, one(2**40)), "tokens_BPM must lie in -1..6, found -1..1099511627776"),
    ("beam_step", at(2, one(-2)), "tokens_BPM must lie in -1..6, found -2.."),
    ("beam_step", at(8, one(60)), "exclude_BX must lie in -1..59, found "),
    ("beam_step", at(8, one(-(2**62))), "exclude_BX must lie in -1..59, found -4611686018427387904.."),
    ("beam_step", at(5, lambda _: 2**62), "num_beams must lie in 1..2147483647"),
    ("beam_step", at(6, lambda _: -1), "num_spares must lie in 0..2147483647, found -1"),
    ("path_topk", at(0, one(2**40)), "tokens_BWM must lie in -1..4, found -1..1099511627776"),
    ("path_topk", part(2, offsets=few), "index.offsets_T has 2 numbers where 16 were expected"),
    ("path_topk", part(2, postings=lambda x: x - 1), "index.postings must lie in 0..59, found -1..58"),
    ("path_topk", at(5, one(60)), "exclude_BX must lie in -1..59"),
    ("path_topk", part(6, repeated_BL=one(2**40)), "scoring.repeated_BL must lie in -1..59"),
    ("path_topk", at(4, lambda _: 2**40), "k must lie in 1..2147483647, found 1099511627776"),
    ("item_topk", at(1, lambda x: x + 10**8), "ids_IM must lie in 0..6, found 10000000"),
    ("item_topk", at(1, one(-1)), "ids_IM must lie in 0..6, found -1..6"),
    ("item_topk", at(3, one(20)), "exclude_BX must lie in -1..19"),
    ("score_topk", at(4, one(70)), "seen_BL must lie in -1..69"),
    ("score_topk", at(4, one(-(2**40))), "seen_BL must lie in -1..69, found -1099511627776.."),
    ("score_topk", part(6, codes_IT=one(5)), "codes.codes_IT must lie in 0..4, found 0..5"),
    ("score_topk", part(6, codes_IT=one(-1)), "codes.codes_IT must lie in 0..4, found -1..4"),
    ("score_topk", at(3, lambda x: x[:, :1]), r"allowed_TX has shape \(3, 1\) where X = 3 was expected"),
    ("score_topk", at(3, lambda x: x[:2]), "allowed has 2 rows where 1 or 3 were expected"),
    ("score_topk", part(1, panels_X=lambda x: x[:-1]), "items.panels_X has shape"),
    ("score_topk", part(1, panels_X=lambda x: x.flip(0)), "items.panels_X does not belong to its rows_ID"),
    ("score_topk", part(1, errors_I=torch.zeros_like), "items.errors_I does not belong to its rows_ID"),
    ("score_topk", part(1, largest=lambda _: 0.0), "items.largest must be "),
    ("path_attention", at(3, one(5)), "rows_BPS must lie in 0..4"),
    ("path_attention", at(3, one(-1)), "rows_BPS must lie in 0..4, found -1.."),
    ("decoder_step", at(1, one(7)), "row_BP must lie in 0..6"),
    ("decoder_step", at(1, one(-1)), "row_BP must lie in 0..6, found -1.."),
    ("decoder_step", at(6, one(2**40)), "rows_BPS must lie in 0..4"),
    ("decoder_step", at(8, nobody), "visible_BJ must show each user a slot, user 1 sees none"),
    ("decoder_step", at(9, lambda x: x * torch.nan), "weights_Y must be finite and below 1e\\+06"),
    ("encode_histories", at(1, one(2**40)), "length_B must lie in 0..4, found 0..1099511627776"),
    ("encode_histories", at(1, one(-1)), "length_B must lie in 0..4, found -1..4"),
    ("encode_histories", at(1, one(2)), "x_XD must have 15 slots by these lengths, found 13"),
    ("encode_histories", at(2, lambda _: 2**62), "slots_per_item must lie in 1..2147483647"),
    ("encode_histories", at(5, lambda x: x * 1e9), "weights_Y must be finite and below 1e\\+06"),
    ("encode_histories", at(6, lambda shape: shape._replace(num_blocks=2**40)), "an even Q > 0"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "change", "message"), HOSTILE)
def test_what_cannot_be_read_is_refused(name: str, change: Callable[[Args], Args], message: str, backend: str) -> None:
    args = change(inputs(name, SIZES[name]))
    with pytest.raises(ValueError, match=f"^{name}: .*({message})"), ops.use_backend(backend):
        getattr(ops, name)(*args)


def test_open_ids_are_refused_and_closed_ones_are_not_read() -> None:
    hidden_TD, weight_MKD, ids_TM, open_TM, _ = inputs("token_cross_entropy", SIZES["token_cross_entropy"])
    with pytest.raises(ValueError, match=r"ids_TM must lie in 0\.\.12, found .*\.\.13"), ops.use_backend("eager"):
        ops.token_cross_entropy(hidden_TD, weight_MKD, torch.where(open_TM, 13, ids_TM), open_TM)
    ops.token_cross_entropy(hidden_TD, weight_MKD, torch.where(open_TM, ids_TM, 13), open_TM)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_that_was_written_to_is_looked_at_again(backend: str) -> None:
    args = inputs("beam_step", SIZES["beam_step"])
    with ops.use_backend(backend):
        ops.beam_step(*args)
        args[4].postings[0] = 2**30
        with pytest.raises(ValueError, match=r"index.postings must lie in 0\.\.59"):
            ops.beam_step(*args)


def test_items_that_cannot_be_indexed_are_refused() -> None:
    codes_IM = torch.tensor([[0, 1], [1, 0], [1, 1]])
    for rows in ([0, 0], [-1], [3]):
        with pytest.raises(ValueError, match=r"items must be distinct and lie in 0\.\.2"):
            ops.TokenIndex.build(codes_IM, 2, torch.tensor(rows))
    index = ops.TokenIndex.build(codes_IM[:2], 2)
    for rows in ([0], [-1]):
        with pytest.raises(ValueError, match="rows_T must be rows of codes_IM that the index does not list"):
            index.with_items(codes_IM, torch.tensor(rows))
    with pytest.raises(ValueError, match="codes_IM must begin with the codes of the index"):
        index.with_items(codes_IM.flip(0), torch.tensor([2]))


READ_BY = {
    "beam_step": "tokens_BPM",
    "path_topk": "tokens_BWM",
    "item_topk": "ids_IM",
    "score_topk": "seen_BL",
    "path_attention": "rows_BPS",
    "decoder_step": "row_BP",
    "encode_histories": "length_B",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", READ_BY)
def test_a_compiled_call_refuses_too(name: str, backend: str) -> None:
    """torch.library gets flat arguments, whose values no check has seen."""
    op = all_ops()[name]
    flat = op.flat(*inputs(name, SIZES[name]))
    names = [argument.name for argument in op.library._opoverload._schema.arguments]
    place = names.index(READ_BY[name])
    with pytest.raises(ValueError, match=f"^{name}: {READ_BY[name]} must lie in"), ops.use_backend(backend):
        op.library(*flat[:place], one(2**30)(flat[place]), *flat[place + 1 :])


def negated(x: Any) -> Any:
    """The same numbers behind torch's negative bit, as `z.conj().imag` has it."""
    return (
        torch.complex(torch.zeros_like(x), -x).conj().imag if isinstance(x, Tensor) and x.dtype == torch.float32 else x
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("fp8_linear", "token_cross_entropy")])
def test_the_negative_bit_changes_nothing(name: str, backend: str) -> None:
    args, kept = inputs(name, CASES[name].sizes[2]), 5 if name == "decoder_step" else None
    with ops.use_backend(backend):
        expected = as_tuple(getattr(ops, name)(*args))
        bits = [a if place == kept else negated(a) for place, a in enumerate(inputs(name, CASES[name].sizes[2]))]
        assert any(a.is_neg() for a in bits if isinstance(a, Tensor))
        for found, right in zip(as_tuple(getattr(ops, name)(*bits)), expected, strict=True):
            assert torch.equal(found, right)


def test_what_an_op_writes_to_has_no_negative_bit() -> None:
    args = list(inputs("decoder_step", SIZES["decoder_step"]))
    args[5] = negated(args[5])
    with pytest.raises(ValueError, match="kept_BTRZAQ has torch's negative bit"):
        ops.decoder_step(*args)


def test_gradients_pass_the_negative_bit() -> None:
    latents_BME, codebooks_MKE, gate_BM = inputs("mpq_quantize", (7, 3, 13, 5))
    latents_BME.requires_grad_()
    ops.mpq_quantize(negated(latents_BME), codebooks_MKE, gate_BM)[1].sum().backward()
    (expected,) = torch.autograd.grad(ops.mpq_quantize(latents_BME, codebooks_MKE, gate_BM)[1].sum(), latents_BME)
    assert torch.equal(latents_BME.grad, expected)


@pytest.mark.parametrize("name", CASES)
def test_other_layouts_are_refused(name: str) -> None:
    """They are refused before a backend is chosen."""
    args = inputs(name, CASES[name].sizes[2])
    layouts = (Tensor.to_sparse, Tensor.to_mkldnn) if args[0].is_floating_point() else (Tensor.to_sparse,)
    for layout in layouts:
        with pytest.raises(ValueError, match=f"^{name}: .* must be a strided tensor"):
            getattr(ops, name)(layout(args[0]), *args[1:])
