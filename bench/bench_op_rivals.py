"""Alternatives to the ops from other libraries, in the groups of `bench_ops.py`; results are checked against eager.

faiss is not a dependency: without it (`pip install "reg4rec[bench]"`) its rows are skipped.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, layer_norm, linear

from bench.bench_ops import Args, arguments, expected, long_if, num_bytes, operations
from bench.conftest import Timed
from reg4rec import ops
from reg4rec.kernels.panels import Affine, Part, unpack_weights
from reg4rec.model.layers import DecoderBlock, EncoderBlock
from tests.ops.cases import CASES, in_bf16

Block = TypeVar("Block", EncoderBlock, DecoderBlock)
Call = Callable[[], Any]
Right = tuple[Tensor, ...]


def faiss_with_our_threads() -> Any:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def index_pq(table_BMK: Tensor, codes_IM: Tensor, k: int, exclude_BX: Tensor) -> Call:
    """User b's query is the unit vector b in every subspace, so its inner products with the codewords are its table."""
    faiss = faiss_with_our_threads()
    users, books, _ = table_BMK.shape
    index = faiss.IndexPQ(users * books, books, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(table_BMK.permute(1, 2, 0).flatten().numpy(), index.pq.centroids)
    faiss.copy_array_to_vector(codes_IM.to(torch.uint8).flatten().numpy(), index.codes)
    index.ntotal, index.is_trained = len(codes_IM), True
    queries = torch.eye(users).repeat(1, books).numpy()
    return lambda: tuple(map(torch.from_numpy, index.search(queries, k + exclude_BX.shape[1])))


def cdist(latents_BME: Tensor, codebooks_MKE: Tensor, gate_BM: Tensor) -> Call:
    return lambda: _mixed(torch.cdist(latents_BME.transpose(0, 1), codebooks_MKE).argmin(-1).T, codebooks_MKE, gate_BM)


def baddbmm(latents_BME: Tensor, codebooks_MKE: Tensor, gate_BM: Tensor) -> Call:
    def nearest() -> Tensor:
        half_M1K = 0.5 * codebooks_MKE.square().sum(-1).unsqueeze(1)
        return torch.baddbmm(half_M1K, latents_BME.transpose(0, 1), codebooks_MKE.mT, alpha=-1).argmin(-1).T

    return lambda: _mixed(nearest(), codebooks_MKE, gate_BM)


def index_flat(latents_BME: Tensor, codebooks_MKE: Tensor, gate_BM: Tensor) -> Call:
    faiss = faiss_with_our_threads()
    indexes = [faiss.IndexFlatL2(codebooks_MKE.shape[2]) for _ in codebooks_MKE]
    for index, words_KE in zip(indexes, codebooks_MKE, strict=True):
        index.add(words_KE.numpy())

    def nearest() -> Tensor:
        rows_MBE = latents_BME.transpose(0, 1).contiguous().numpy()
        found = [index.search(rows_BE, 1)[1] for index, rows_BE in zip(indexes, rows_MBE, strict=True)]
        return torch.cat([torch.from_numpy(ids_B1) for ids_B1 in found], 1)

    return lambda: _mixed(nearest(), codebooks_MKE, gate_BM)


def _mixed(ids_BM: Tensor, codebooks_MKE: Tensor, gate_BM: Tensor) -> tuple[Tensor, Tensor]:
    mixed_BE = torch.zeros(len(ids_BM), codebooks_MKE.shape[2], device=ids_BM.device)
    for book, words_KE in enumerate(codebooks_MKE):
        mixed_BE += gate_BM[:, book, None] * words_KE[ids_BM[:, book]]
    return ids_BM, mixed_BE


def scaled_mm(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor, scaling: str) -> Call:
    def run() -> Tensor:
        x8, weight8 = (ops.fp8_quantize(one, torch.float8_e4m3fn, scaling == "rowwise") for one in (x_TD, weight_OD))
        # bfloat16: not every version of torch returns float32 for scales per row
        y_TO = torch._scaled_mm(
            x8.values, weight8.values.T, scale_a=x8.scale, scale_b=weight8.scale.T, out_dtype=torch.bfloat16
        )
        return y_TO + bias_O

    return run


def linear_fp32(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor, _: str) -> Call:
    return lambda: linear(x_TD, weight_OD, bias_O)


def linear_bf16(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor, _: str) -> Call:
    x_TD, weight_OD, bias_O = (t.bfloat16() for t in (x_TD, weight_OD, bias_O))
    return lambda: linear(x_TD, weight_OD, bias_O)


def whole_logits(hidden_TD: Tensor, weight_MKD: Tensor, ids_TM: Tensor, open_TM: Tensor, _: None) -> Call:
    def run() -> Tensor:
        logits_TMK = (hidden_TD @ weight_MKD.flatten(0, 1).T).unflatten(1, weight_MKD.shape[:2])
        loss_TM = cross_entropy(logits_TMK.flatten(0, 1), ids_TM.flatten(), reduction="none").view(ids_TM.shape)
        return (loss_TM * open_TM).sum(1) / open_TM.sum(1).clamp_min(1)

    return run


def encoder_layers(
    x_XD: Tensor,
    length_B: Tensor,
    slots_per_item: int,
    cos_TQ: Tensor,
    sin_TQ: Tensor,
    weights_Y: Tensor,
    shape: ops.EncoderShape,
    with_memory: bool,
) -> Call:
    """The encoder by torch's layers on padded histories, one slot for each item; only the states are checked."""
    dim, num_heads = x_XD.shape[1], x_XD.shape[1] // cos_TQ.shape[1]
    *parts, ((to_memory,), _) = unpack_weights(weights_Y, shape.part_shapes(dim), dim, x_XD.dtype)
    blocks = [_loaded(EncoderBlock(dim, num_heads, shape.ffn_dim, 0.0), part) for part in parts]
    readers = [DecoderBlock(dim, num_heads, shape.ffn_dim, 0.0) for _ in range(shape.num_both // 2)]
    for reader, weight, bias in zip(readers, *(t.chunk(len(readers)) for t in to_memory), strict=True):
        _fill(reader.cross_kv, (weight, bias))
    x_BJD = torch.nn.utils.rnn.pad_sequence(x_XD.split((1 + length_B).tolist()), batch_first=True)
    number_J = torch.arange(x_BJD.shape[1])
    turn_J = cos_TQ[number_J, None], sin_TQ[number_J, None]
    ahead_BJ = (1 + length_B[:, None] - number_J).clamp_min(0)
    turn_BJ = cos_TQ[ahead_BJ, None], -sin_TQ[ahead_BJ, None]

    @torch.inference_mode()
    def run() -> tuple[Tensor, ...]:
        y_BJD = x_BJD
        for block in blocks:
            y_BJD = block(y_BJD, turn_J, number_J <= number_J[:, None])
        kept = [kept for reader in readers for kept in reader.memory(y_BJD, turn_BJ)] if with_memory else []
        return y_BJD[torch.arange(len(y_BJD)), length_B], *kept

    return run


def decoder_layers(
    inputs_XD: Tensor,
    row_BP: Tensor,
    scale: float,
    position_D: Tensor,
    states_BD: Tensor,
    kept_BTRZAQ: Tensor,
    rows_BPS: Tensor,
    memory_BZAJQ: Tensor,
    visible_BJ: Tensor,
    weights_Y: Tensor,
    shape: ops.DecoderShape,
) -> Call:
    dim, num_heads = inputs_XD.shape[1], memory_BZAJQ.shape[2]
    *parts, (heads, (norm_input,)) = unpack_weights(weights_Y, shape.part_shapes(dim), dim, inputs_XD.dtype)
    blocks = [_loaded(DecoderBlock(dim, num_heads, shape.ffn_dim, 0.0), part) for part in parts]
    own_BP1 = torch.arange(row_BP.shape[1])[:, None].expand(*row_BP.shape, 1)
    path_BPS, kept = torch.cat([rows_BPS, own_BP1], dim=2), kept_BTRZAQ.clone()
    memory = memory_BZAJQ.transpose(0, 1).contiguous()

    @torch.inference_mode()
    def run() -> list[Tensor]:
        x_BPD = layer_norm(embedding(row_BP, inputs_XD) * scale + position_D, (dim,), *norm_input)
        for i, block in enumerate(blocks):
            seen = memory[2 * i], memory[2 * i + 1]
            x_BPD = block.step(x_BPD, kept[:, :, :, 2 * i : 2 * i + 2], path_BPS, seen, visible_BJ[:, None, None])
        if shape.refines:
            x_BPD = states_BD[:, None] + linear(x_BPD, *heads[0])
        return [linear(x_BPD, *head) for head in heads[shape.refines :]]

    return run


def encoder_in_bf16(*args: Any) -> Call:
    return _in_bf16("encode_histories", args)


def decoder_in_bf16(*args: Any) -> Call:
    return _in_bf16("decoder_step", args)


def _in_bf16(name: str, args: Args) -> Call:
    if not ops.cpp_multiplies_bf16():
        pytest.skip("needs AMX or AVX512-BF16")
    in_half = in_bf16(name, args)
    return torch.inference_mode()(lambda: getattr(ops, name)(*in_half))


def _loaded(block: Block, part: Part) -> Block:
    for module, affine in zip(chain(*block.parts()), chain(*part), strict=True):
        _fill(module, affine)
    return block.eval()


def _fill(module: torch.nn.Module, affine: Affine) -> None:
    module.weight, module.bias = (torch.nn.Parameter(numbers.clone()) for numbers in affine)


def _nearly_all_equal(found: Any, right: Right, _: Args) -> None:
    """Nearly all equal: without fp64, near ties may be decided differently."""
    assert (found[0] == right[0]).float().mean() > 0.999


def _same_scores(found: Any, right: Right, args: Args) -> None:
    """The same scores. The rival returns more items, since it cannot exclude any itself."""
    scores_BX, items_BX = found
    gone_BX = (items_BX[:, :, None] == args[3][:, None]).any(2)
    kept_BN = scores_BX.masked_fill(gone_BX, -torch.inf).sort(1, descending=True).values[:, : args[2]]
    torch.testing.assert_close(kept_BN, right[0])


def _close_to_fp8(found: Any, right: Right, _: Args) -> None:
    """Two ways of rounding the factors, each with a relative error of at most 2^-4, differ by no more than that."""
    assert (found.float() - right[0]).norm() < 2**-4 * right[0].norm()


def _close_to_bf16(found: Any, right: Right, _: Args) -> None:
    assert (found[0] - right[0]).norm() < 2**-6 * right[0].norm()


def _same_first(found: Any, right: Right, _: Args) -> None:
    torch.testing.assert_close(found[0] if isinstance(found, tuple | list) else found, right[0])


RIVALS: dict[str, tuple[str, Callable[..., Call], Callable[[Any, Right, Args], None]]] = {
    "faiss IndexPQ": ("item_topk", index_pq, _same_scores),
    "cdist": ("mpq_quantize", cdist, _nearly_all_equal),
    "baddbmm": ("mpq_quantize", baddbmm, _nearly_all_equal),
    "faiss IndexFlatL2": ("mpq_quantize", index_flat, _nearly_all_equal),
    "torch._scaled_mm": ("fp8_linear", scaled_mm, _close_to_fp8),
    "linear fp32": ("fp8_linear", linear_fp32, _close_to_fp8),
    "linear bf16": ("fp8_linear", linear_bf16, _close_to_fp8),
    "torch layers of the encoder": ("encode_histories", encoder_layers, _same_first),
    "torch layers of the decoder": ("decoder_step", decoder_layers, _same_first),
    "encoder, weights in bfloat16": ("encode_histories", encoder_in_bf16, _close_to_bf16),
    "decoder, weights in bfloat16": ("decoder_step", decoder_in_bf16, _close_to_bf16),
    "whole logits": ("token_cross_entropy", whole_logits, _same_first),
}
"""Name -> the op, the function that prepares the call, the function that checks the result."""

VARIANTS = [
    pytest.param(rival, size, id=f"{rival}-{size}", marks=long_if(size, rival))
    for rival, (name, _, _) in RIVALS.items()
    for size in CASES[name].bench
]


@pytest.mark.parametrize(("rival", "size"), VARIANTS)
def bench_rival(timed: Timed, rival: str, size: str, device: str) -> None:
    name, prepare, check = RIVALS[rival]
    sizes = CASES[name].bench[size]
    if rival.startswith("faiss") and device == "cuda":
        pytest.skip("faiss-cpu searches on the CPU")
    if rival == "faiss IndexPQ" and sizes[2] > 256:
        pytest.skip("its codes have 8 bits")
    if rival == "torch._scaled_mm" and device == "cpu":
        pytest.skip("on the CPU torch multiplies fp8 in a plain loop, which takes seconds")
    args, right = arguments(name, size, device), expected(name, size, device)
    moved, work = num_bytes(args, right), operations(name, sizes)
    check(timed(prepare(*args), f"{name}/{size}/{device}", rival, moved, work, device), right, args)
