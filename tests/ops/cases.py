"""One case per op: how its inputs are made, its sizes in tests and benches, and its exact results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map_only

from reg4rec import ops
from reg4rec.kernels.fp8_linear.reference import E4M3, Operand
from reg4rec.kernels.panels import Shapes, unpack_weights
from reg4rec.kernels.score_topk.reference import allowed_mask

Sizes = tuple[int, ...]
Make = Callable[[Sizes, torch.dtype, Generator], tuple[Any, ...]]

F32, BF16 = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class Case:
    """`truth` computes the result in fp64; `gradients` are the positions of the arguments that receive one, `batched`
    of those whose first axis is the batch; `surrogate` has the gradients of a straight-through op by plain autograd;
    `units` bounds the error of a GPU's matrix units at each place of the result."""

    make: Make
    sizes: tuple[Sizes, ...]
    bench: dict[str, Sizes]
    dtypes: tuple[torch.dtype, ...] = (F32, BF16)
    gradients: Sizes = ()
    batched: Sizes = ()
    truth: Callable[..., Any] | None = None
    surrogate: Callable[..., Tensor] | None = None
    units: Callable[..., Tensor] | None = None


def inputs(name: str, sizes: Sizes, dtype: torch.dtype = F32, seed: int = 0) -> tuple[Any, ...]:
    """The arguments of the public function `ops.<name>`."""
    return CASES[name].make(sizes, dtype, Generator().manual_seed(seed))


def moved(args: tuple[Any, ...], device: str) -> tuple[Any, ...]:
    """The arguments on the device, including the tensors of an index or a weight."""
    there: tuple[Any, ...] = tree_map_only(Tensor, lambda tensor: tensor.to(device), args)
    return there


def as_tuple(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def truth(name: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The result in fp64: by the case's own definition, else by the eager one on float64 arguments."""
    special = CASES[name].truth
    if special is not None:
        return as_tuple(special(*args))
    with ops.use_backend("eager"):
        return as_tuple(getattr(ops, name)(*doubled(args)))


def doubled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with their floats in fp64."""
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def in_bf16(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A call of `encode_histories` or `decoder_step` with its weights in bfloat16."""
    at = {"encode_histories": 5, "decoder_step": 9}[name]
    dim, shape = args[0].shape[-1], args[at + 1]
    weights_Y = ops.pack_weights(unpack_weights(args[at], shape.part_shapes(dim), dim, F32), BF16)
    return *args[:at], weights_Y, *args[at + 1 :]


def _normal(shape: Sizes, dtype: torch.dtype, g: Generator) -> Tensor:
    return torch.randn(shape, generator=g).to(dtype)


def _integers(high: int, shape: Sizes, g: Generator) -> Tensor:
    return torch.randint(max(high, 1), shape, generator=g)


def _js(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    p_logits_TC = 2 * _normal(sizes, torch.float32, g)
    distance_T1 = torch.rand(sizes[0], 1, generator=g)
    return p_logits_TC.to(dtype), (p_logits_TC + distance_T1 * _normal(sizes, torch.float32, g)).to(dtype), 0.06


def _mpq(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    rows, books, codes, width = sizes
    gate_BM = torch.rand(rows, books, generator=g).softmax(1).to(dtype)
    return _normal((rows, books, width), dtype, g), _normal((books, codes, width), dtype, g), gate_BM


def _mpq_surrogate(latents_BME: Tensor, codebooks_MKE: Tensor, gate_BM: Tensor) -> Tensor:
    distance_MBK = torch.cdist(latents_BME.transpose(0, 1), codebooks_MKE)
    selected = [book_KE[id_B] for book_KE, id_B in zip(codebooks_MKE, distance_MBK.argmin(-1), strict=True)]
    selected_BME = torch.stack(selected, 1)
    return (gate_BM.unsqueeze(2) * (latents_BME + selected_BME - latents_BME.detach())).sum(1)


def _fused(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    rows, books, codes, width, hidden = sizes
    _, codebooks_MKE, gate_BM = _mpq((rows, books, codes, width), dtype, g)
    weight_MEH = (_normal((books, width, hidden), torch.float32, g) / hidden**0.5).to(dtype)
    return (
        _normal((rows, books, hidden), dtype, g),
        weight_MEH,
        _normal((books, width), dtype, g),
        codebooks_MKE,
        gate_BM,
    )


def _fused_surrogate(
    hidden_BMH: Tensor, weight_MEH: Tensor, bias_ME: Tensor, codebooks_MKE: Tensor, gate_BM: Tensor
) -> Tensor:
    latents_BME = torch.einsum("bmh,meh->bme", hidden_BMH, weight_MEH) + bias_ME
    return _mpq_surrogate(latents_BME, codebooks_MKE, gate_BM)


def _beam(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    batch, paths, books, codes, items = sizes
    codes_IM = _integers(codes, (items, books), g)
    known_BPM = codes_IM[_integers(items, (batch, paths), g)]
    used_BPM = torch.arange(books) == _integers(books, (batch, paths, 1), g)
    return (
        _normal((batch, paths, books, codes), dtype, g),
        -torch.rand(batch, paths, generator=g),
        torch.where(used_BPM, known_BPM, -1),
        0.1 * torch.rand(batch, paths, generator=g),
        ops.TokenIndex.build(codes_IM, codes),
        max(1, paths - 2),
        2,
        0.09,
        _integers(items, (batch, 3), g),
        codes % 2 == 1,
    )


def _topk(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    batch, books, codes, items, k = sizes
    log_probs_BMK = (3 * _normal((batch, books, codes), torch.float32, g)).log_softmax(-1).to(dtype)
    return log_probs_BMK, _integers(codes, (items, books), g).int(), k, _integers(items + 1, (batch, 4), g) - 1


def _topk_truth(log_probs_BMK: Tensor, ids_IM: Tensor, k: int, exclude_BX: Tensor) -> tuple[Tensor, Tensor]:
    scores_BI = torch.zeros(len(log_probs_BMK), len(ids_IM), dtype=torch.float64)
    for book, id_I in enumerate(ids_IM.T.long()):
        scores_BI += log_probs_BMK[:, book].double()[:, id_I]
    scores_BI = torch.cat([scores_BI, scores_BI.new_full((len(scores_BI), k + 1), -torch.inf)], 1)
    scores_BI.scatter_(1, torch.where(exclude_BX < 0, len(ids_IM) + k, exclude_BX), -torch.inf)
    best = scores_BI.sort(dim=1, descending=True, stable=True)
    scores_BN, items_BN = best.values[:, :k], best.indices[:, :k]
    return scores_BN, items_BN.masked_fill(scores_BN == -torch.inf, -1)


def _paths(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    users, paths, heads, width, steps = sizes
    kept = (users, steps + 1, paths + 2, heads, width)
    rows_BPS = _integers(paths + 2, (users, paths, steps), g)
    return _normal((users, paths, heads, width), dtype, g), _normal(kept, dtype, g), _normal(kept, dtype, g), rows_BPS


def _weights(shapes: Sequence[Shapes], dim: int, dtype: torch.dtype, g: Generator) -> Tensor:
    """Packed weights, with every bias and gain drawn too."""
    parts = []
    for layer_shapes, num_norms in shapes:
        layers = [(_normal(shape, dtype, g) * shape[1] ** -0.5, _normal(shape[:1], dtype, g)) for shape in layer_shapes]
        norms = [(1 + _normal((dim,), dtype, g) / 4, _normal((dim,), dtype, g)) for _ in range(num_norms)]
        parts.append((layers, norms))
    return ops.pack_weights(parts, dtype)


def history_lengths(users: int, longest: int) -> list[int]:
    """Lengths of histories: the longest, then 0, 1, 2, ..."""
    return [(user - 1) % (longest + 1) for user in range(users)]


def _encoder(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    users, longest, slots_per_item, blocks, heads, width, ffn_dim, with_memory = sizes
    dim, shape, lengths = heads * width, ops.EncoderShape(blocks, ffn_dim, 2 * blocks), history_lengths(users, longest)
    turn_TQ = torch.rand(longest + 2, width // 2, generator=g).repeat(1, 2).to(dtype)
    return (
        _normal((users + slots_per_item * sum(lengths), dim), dtype, g),
        torch.tensor(lengths, dtype=torch.int64),
        slots_per_item,
        *(turn_TQ.cos(), turn_TQ.sin()),
        _weights(shape.part_shapes(dim), dim, dtype, g),
        shape,
        with_memory > 0,
    )


def _decoder(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    users, paths, blocks, heads, width, steps, slots, ffn_dim, tokens, categories = sizes
    dim, both = heads * width, 2 * blocks
    shape = ops.DecoderShape(blocks, ffn_dim, tokens, categories, refines=users % 2 == 0)
    return (
        _normal((tokens, dim), dtype, g),
        _integers(tokens, (users, paths), g),
        dim**0.5,
        _normal((dim,), dtype, g),
        _normal((users, dim), dtype, g),
        _normal((users, steps + 2, paths + 2, both, heads, width), dtype, g),
        _integers(paths + 2, (users, paths, steps), g),
        _normal((users, both, heads, slots, width), dtype, g),
        torch.rand(users, slots, generator=g).argsort(1) <= _integers(slots, (users, 1), g),
        _weights(shape.part_shapes(dim), dim, dtype, g),
        shape,
    )


def _path_topk(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    """Items with few different codes, so that several paths lead to one item; without scores of items if width is 0."""
    users, paths, books, codes, items, width, k = sizes
    codes_IM = _integers(codes, (items, books), g)
    tokens_BWM = codes_IM[_integers(items, (users, paths), g)] if items else _integers(codes, (users, paths, books), g)
    decoded = torch.rand(users, paths, books, generator=g).argsort(2) < 1 + _integers(books, (users, paths, 1), g)
    scores_BW = _normal((users, paths), dtype, g).sort(1, descending=True).values
    scores_BW = scores_BW.masked_fill(torch.rand(users, paths, generator=g) < 0.2, -torch.inf)
    rows = _integers(items, (users, 5), g) if items else torch.zeros(users, 5, dtype=torch.int64)
    scoring = ops.ItemScoring(
        _normal((users, books, codes), dtype, g),
        _normal((users, width), dtype, g),
        _normal((items, width), dtype, g) * (torch.rand(items, 1, generator=g) < 0.5),
        rows.masked_fill(rows % 3 == 0, -1),
        torch.tensor(-2.0, dtype=dtype),
    )
    index = ops.TokenIndex.build(codes_IM, codes, pairs=paths % 2 == 0)
    return (
        tokens_BWM.masked_fill(~decoded, -1),
        scores_BW,
        index,
        torch.randperm(items, generator=g),
        k,
        rows.masked_fill(rows % 2 == 0, -1) if books > 1 else None,
        scoring if width else None,
    )


def _score_topk(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    """`masks`: the number of masks of allowed items, 0 for none; with several there are also two columns of codes."""
    users, items, width, k, masks = sizes
    allowed = torch.rand(masks, items, generator=g) < 0.7
    codes = ops.CodeTables(_integers(5, (items, 2), g).int(), _normal((users, 2, 5), dtype, g))
    return (
        _normal((users, width), dtype, g),
        ops.ItemVectors.build(_normal((items, width), dtype, g)),
        k,
        ops.allowed_words(allowed) if masks else None,
        _integers(items + 1, (users, 6), g) - 1 if masks or k < 5 else None,
        -0.5 if masks > 1 else None,
        codes if masks > 1 else None,
    )


def _score_truth(
    states_BD: Tensor,
    items: ops.ItemVectors,
    k: int,
    allowed: Tensor | None,
    seen_BL: Tensor | None,
    seen_bias: float | None,
    codes: ops.CodeTables | None,
) -> tuple[Tensor, Tensor]:
    users, num_items = len(states_BD), len(items.rows_ID)
    scores_BI = states_BD.double() @ items.rows_ID.double().T
    if codes is not None:
        for t, code_I in enumerate(codes.codes_IT.T.long()):
            scores_BI += codes.tables_BTK[:, t].double()[:, code_I]
    scores_BI = torch.cat([scores_BI, scores_BI.new_full((users, k + 1), -torch.inf)], 1)
    if seen_BL is not None:
        seen_BI = torch.zeros_like(scores_BI).scatter_(1, torch.where(seen_BL < 0, num_items + k, seen_BL), 1)
        scores_BI = scores_BI + torch.where(seen_BI > 0, -torch.inf if seen_bias is None else seen_bias, 0)
    if allowed is not None:
        scores_BI[:, :num_items][~allowed_mask(allowed, num_items).expand(users, -1)] = -torch.inf
    best = scores_BI.sort(dim=1, descending=True, stable=True)
    scores_BN, rows_BN = best.values[:, :k], best.indices[:, :k]
    return scores_BN, rows_BN.masked_fill(scores_BN == -torch.inf, -1)


def _fp8(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    rows, out, width, rowwise = sizes
    scaling = "rowwise" if rowwise else "tensorwise"
    return _normal((rows, width), dtype, g), _normal((out, width), dtype, g), _normal((out,), dtype, g), scaling


def exact(operand: Operand) -> Tensor:
    return operand.values.double() * operand.scale.double()


def fp8_units(left: Operand, right: Operand) -> Tensor:
    """How far a GPU may be from left @ right.T: its fp8 units keep 13 bits below the leading one of a sum."""
    return 2.0**-12 * (exact(left).abs() @ exact(right).abs().T)


def _fp8_operands(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor, scaling: str) -> tuple[Operand, Operand]:
    return ops.fp8_quantize(x_TD, E4M3, scaling == "rowwise"), ops.fp8_quantize(weight_OD, E4M3, scaling == "rowwise")


def _fp8_truth(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor, scaling: str) -> Tensor:
    left, right = _fp8_operands(x_TD, weight_OD, bias_O, scaling)
    return exact(left) @ exact(right).T + bias_O.double()


def _tce(sizes: Sizes, dtype: torch.dtype, g: Generator) -> tuple[Any, ...]:
    rows, books, codes, width = sizes
    rank_TM = torch.rand(rows, books, generator=g).argsort(1)
    open_TM = rank_TM >= _integers(books + 1, (rows, 1), g)
    weight_MKD = (_normal((books, codes, width), torch.float32, g) / width**0.5).to(dtype)
    ids_TM = _integers(codes, (rows, books), g)
    among_TMK = torch.rand(rows, books, codes, generator=g) < 0.5 if codes % 2 else None
    if among_TMK is not None:
        among_TMK.scatter_(2, ids_TM[..., None], True)
    return _normal((rows, width), dtype, g), weight_MKD, ids_TM, open_TM, among_TMK


CASES: dict[str, Case] = {
    "js_divergence": Case(
        make=_js,
        sizes=((0, 5), (1, 1), (3, 7), (13, 17), (65, 300), (4, 1025)),
        bench={"1280x300": (1280, 300), "16384x1000": (16_384, 1000)},
        batched=(0, 1),
    ),
    "mpq_quantize": Case(
        make=_mpq,
        sizes=((0, 2, 3, 4), (1, 1, 1, 1), (7, 3, 13, 5), (65, 4, 257, 17), (33, 32, 65, 8), (5, 2, 70, 130)),
        bench={"N4096-M4-K256-E64": (4096, 4, 256, 64), "N4096-M8-K1024-E128": (4096, 8, 1024, 128)},
        gradients=(0, 2),
        batched=(0, 2),
        surrogate=_mpq_surrogate,
    ),
    "mpq_quantize_fused": Case(
        make=_fused,
        sizes=((0, 2, 3, 4, 5), (1, 1, 1, 1, 1), (7, 3, 13, 5, 11), (65, 4, 33, 17, 31)),
        bench={
            "N4096-M4-K256-E64-H128": (4096, 4, 256, 64, 128),
            "N4096-M8-K1024-E128-H256": (4096, 8, 1024, 128, 256),
        },
        gradients=(0, 1, 2, 4),
        batched=(0, 4),
        surrogate=_fused_surrogate,
    ),
    "beam_step": Case(
        make=_beam,
        sizes=((1, 1, 1, 1, 1), (2, 3, 3, 7, 30), (3, 7, 4, 17, 200), (0, 3, 2, 5, 9), (2, 0, 2, 5, 9)),
        bench={"64x20-M4-K256-I10k": (64, 24, 4, 256, 10_000), "64x50-M4-K256-I100k": (64, 54, 4, 256, 100_000)},
        batched=(0, 1, 2, 3, 8),
    ),
    "item_topk": Case(
        make=_topk,
        sizes=(
            *((0, 2, 3, 5, 2), (1, 1, 1, 1, 1), (17, 3, 5, 37, 9), (3, 2, 5, 0, 4), (2, 3, 7, 5, 9)),
            *((3, 4, 257, 1031, 20), (9, 4, 17, 2049, 20), (11, 32, 3, 1025, 7), (2, 2, 4096, 503, 30)),
        ),
        bench={
            "8q-100k-M4-K256": (8, 4, 256, 100_000, 20),
            "64q-1M-M4-K256": (64, 4, 256, 1_000_000, 50),
            "256q-12k-M1-K12k": (256, 1, 12_101, 12_101, 50),
        },
        batched=(0, 3),
        truth=_topk_truth,
    ),
    "path_attention": Case(
        make=_paths,
        sizes=((0, 3, 2, 4, 2), (1, 1, 1, 1, 1), (3, 5, 2, 7, 4), (2, 7, 4, 32, 5), (5, 3, 3, 35, 17), (2, 0, 2, 4, 3)),
        bench={"64x20-H4-D32-S4": (64, 20, 4, 32, 4), "8x256-H4-D32-S16": (8, 256, 4, 32, 16)},
        batched=(0, 1, 2, 3),
    ),
    "path_topk": Case(
        make=_path_topk,
        sizes=(
            *((0, 3, 2, 4, 7, 3, 2), (1, 1, 1, 1, 1, 0, 1), (5, 7, 3, 5, 60, 9, 10), (3, 0, 2, 3, 5, 2, 4)),
            *((4, 50, 2, 6, 300, 128, 10), (3, 20, 4, 3, 200, 0, 25), (2, 9, 2, 3, 0, 4, 3), (6, 31, 3, 4, 97, 17, 5)),
        ),
        bench={
            "1x50-12k": (1, 50, 2, 128, 12_000, 128, 10),
            "64x50-12k": (64, 50, 2, 128, 12_000, 128, 10),
            "64x50-1M": (64, 50, 2, 1024, 1_000_000, 128, 10),
        },
        dtypes=(F32,),
    ),
    "score_topk": Case(
        make=_score_topk,
        sizes=(
            *((0, 9, 4, 3, 1), (1, 1, 1, 1, 0), (7, 130, 9, 10, 1), (3, 0, 5, 4, 0), (2, 40, 4, 50, 1)),
            *((5, 1031, 128, 20, 5), (9, 97, 31, 7, 9), (70, 400, 64, 3, 0)),
        ),
        bench={
            "1q-12k-D128": (1, 12_101, 128, 10, 0),
            "512q-12k-D128": (512, 12_101, 128, 10, 0),
            "1q-1M-D128": (1, 1_000_000, 128, 10, 0),
            "64q-1M-D128": (64, 1_000_000, 128, 10, 0),
        },
        dtypes=(F32,),
        batched=(0, 4),
        truth=_score_truth,
    ),
    "encode_histories": Case(
        make=_encoder,
        sizes=(
            *(
                (0, 3, 1, 1, 2, 4, 5, 1),
                (1, 0, 1, 1, 1, 2, 1, 1),
                (3, 6, 2, 2, 2, 6, 33, 1),
                (2, 20, 1, 2, 4, 32, 512, 1),
            ),
            *(
                (7, 5, 3, 1, 3, 10, 65, 1),
                (1, 35, 2, 1, 2, 40, 31, 1),
                (0, 3, 1, 2, 2, 4, 5, 0),
                (9, 8, 1, 2, 4, 32, 100, 0),
            ),
            *((4, 3, 4, 1, 3, 10, 37, 0), (1, 1, 1, 3, 1, 2, 1, 0)),
        ),
        bench={
            "1x8-2x128-F512": (1, 8, 1, 2, 4, 32, 512, 0),
            "512x9-2x128-F512": (512, 18, 1, 2, 4, 32, 512, 0),
            "512x9-2x128-F512-memory": (512, 18, 1, 2, 4, 32, 512, 1),
        },
        dtypes=(F32,),
    ),
    "decoder_step": Case(
        make=_decoder,
        sizes=(
            *((0, 3, 1, 2, 4, 2, 3, 5, 7, 2), (1, 1, 1, 1, 1, 0, 1, 1, 1, 0), (3, 5, 2, 2, 7, 4, 6, 33, 50, 3)),
            *((2, 27, 2, 4, 32, 3, 21, 512, 128, 32), (2, 0, 1, 2, 4, 3, 5, 7, 9, 1)),
            *((5, 1, 3, 3, 11, 1, 37, 65, 32, 40), (1, 70, 1, 2, 40, 2, 3, 31, 65, 17), (8, 4, 1, 1, 3, 1, 2, 3, 4, 0)),
        ),
        bench={
            "1x20-2x128-F512-S3-L21": (1, 20, 2, 4, 32, 3, 21, 512, 1024, 200),
            "64x20-2x128-F512-S3-L21": (64, 20, 2, 4, 32, 3, 21, 512, 1024, 200),
        },
        dtypes=(F32,),
        batched=(1, 4, 5, 6, 7, 8),
    ),
    "fp8_linear": Case(
        make=_fp8,
        sizes=tuple((*sizes, r) for sizes in ((0, 16, 32), (1, 16, 16), (17, 48, 32), (37, 32, 80)) for r in (0, 1)),
        bench={
            "512x256x512": (512, 256, 512, 0),
            "8192x2048x512": (8192, 2048, 512, 0),
            "8192x2048x512-rowwise": (8192, 2048, 512, 1),
        },
        gradients=(0, 1, 2),
        truth=_fp8_truth,
        units=lambda *args: fp8_units(*_fp8_operands(*args)),
    ),
    "token_cross_entropy": Case(
        make=_tce,
        sizes=((0, 2, 3, 4), (1, 1, 1, 1), (7, 3, 13, 5), (67, 3, 130, 17), (65, 2, 65, 67)),
        bench={"T4000-M4-K256-D128": (4000, 4, 256, 128), "T8192-M4-K1024-D256": (8192, 4, 1024, 256)},
        gradients=(0, 1),
        batched=(0, 2, 3, 4),
    ),
}
