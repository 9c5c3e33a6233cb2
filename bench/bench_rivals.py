"""The ops beside what one would use without them, in groups `<op>/<size>/rivals`; results are asserted after it.

faiss is no dependency: its rows are skipped where it is not installed (`pip install faiss-cpu`).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reg4rec import ops
from reg4rec.kernels.machine import machine_problem, native_problem
from tests.ops.cases import inputs

needs_extension = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")

SEARCHES = {"64q-1M-M4-K256": (64, 1_000_000, 4, 256, 50), "8q-100k-M4-K256": (8, 100_000, 4, 256, 20)}
LINEARS = {"512x256x512": (512, 256, 512), "4096x4096x4096": (4096, 4096, 4096)}
ENTROPIES = {"T8192-M4-K256-D256": (8192, 4, 256, 256)}
QUANTIZERS = {"N4096-M4-K256-E64": (4096, 4, 256, 64), "N4096-M8-K1024-E128": (4096, 8, 1024, 128)}


def _faiss() -> Any:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def _on(backend: str, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    def run() -> Any:
        with ops.use_backend(backend):
            return function(*args)

    return run


def _product_search(queries_BV: Tensor, words_MKE: Tensor, codes_IM: Tensor, k: int) -> Callable[[], Any]:
    """faiss on the same codes: its tables are the inner products of the queries and the codewords."""
    faiss = _faiss()
    index = faiss.IndexPQ(queries_BV.shape[1], len(words_MKE), 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(words_MKE.flatten().numpy(), index.pq.centroids)
    faiss.copy_array_to_vector(codes_IM.to(torch.uint8).flatten().numpy(), index.codes)
    index.ntotal, index.is_trained = len(codes_IM), True
    return lambda: tuple(map(torch.from_numpy, index.search(queries_BV.numpy(), k)))


@needs_extension
@pytest.mark.parametrize("rival", ["cpp", "eager", "faiss IndexPQ"])
@pytest.mark.parametrize("size", SEARCHES)
def bench_item_topk(benchmark: Any, size: str, rival: str, environment: dict[str, Any]) -> None:
    users, items, books, codes, k = SEARCHES[size]
    g = torch.Generator().manual_seed(0)
    queries_BME, words_MKE = torch.randn(users, books, 8, generator=g), torch.randn(books, codes, 8, generator=g)
    codes_IM = torch.randint(codes, (items, books), generator=g, dtype=torch.int32)
    table_BMK = torch.einsum("bme,mke->bmk", queries_BME, words_MKE)
    if rival == "faiss IndexPQ":
        run = _product_search(queries_BME.flatten(1), words_MKE, codes_IM, k)
    else:
        run = _on(rival, ops.item_topk, table_BMK, codes_IM, k)
    benchmark.group = f"item_topk/{size}/rivals"
    benchmark.extra_info.update(environment)
    scores_BN, items_BN = benchmark(run)
    expected_BN, order_BN = _on("eager", ops.item_topk, table_BMK, codes_IM, k)()
    torch.testing.assert_close(scores_BN, expected_BN)
    assert rival == "faiss IndexPQ" or torch.equal(items_BN, order_BN)


def _nearest_by_cdist(latents_BME: Tensor, codebooks_MKE: Tensor) -> Tensor:
    return torch.cdist(latents_BME.transpose(0, 1), codebooks_MKE).argmin(-1).T


def _nearest_by_product(latents_BME: Tensor, codebooks_MKE: Tensor) -> Tensor:
    half_M1K = 0.5 * codebooks_MKE.square().sum(-1).unsqueeze(1)
    return torch.baddbmm(half_M1K, latents_BME.transpose(0, 1), codebooks_MKE.mT, alpha=-1).argmin(-1).T


def _nearest_by_faiss(latents_BME: Tensor, codebooks_MKE: Tensor) -> Tensor:
    faiss = _faiss()
    columns = []
    for book, words_KE in enumerate(codebooks_MKE):
        index = faiss.IndexFlatL2(words_KE.shape[1])
        index.add(words_KE.numpy())
        columns.append(torch.from_numpy(index.search(latents_BME[:, book].contiguous().numpy(), 1)[1][:, 0]))
    return torch.stack(columns, 1)


def _mixed(nearest: Callable[[Tensor, Tensor], Tensor], args: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    latents_BME, codebooks_MKE, gate_BM = args
    ids_BM = nearest(latents_BME, codebooks_MKE)
    mixed_BE = torch.zeros(len(ids_BM), codebooks_MKE.shape[2])
    for book, words_KE in enumerate(codebooks_MKE):
        mixed_BE += gate_BM[:, book, None] * words_KE[ids_BM[:, book]]
    return ids_BM, mixed_BE


RIVALS = {"cdist": _nearest_by_cdist, "baddbmm": _nearest_by_product, "faiss IndexFlatL2": _nearest_by_faiss}


@needs_extension
@pytest.mark.parametrize("rival", ["cpp", "eager", *RIVALS])
@pytest.mark.parametrize("size", QUANTIZERS)
def bench_mpq_quantize(benchmark: Any, size: str, rival: str, environment: dict[str, Any]) -> None:
    rows, books, codes, width = QUANTIZERS[size]
    g = torch.Generator().manual_seed(0)
    args = (
        torch.randn(rows, books, width, generator=g),
        torch.randn(books, codes, width, generator=g),
        torch.rand(rows, books, generator=g),
    )
    benchmark.group = f"mpq_quantize/{size}/rivals"
    benchmark.extra_info.update(environment, flops=2 * rows * books * codes * width)
    run = _on(rival, ops.mpq_quantize, *args) if rival in ("cpp", "eager") else lambda: _mixed(RIVALS[rival], args)
    ids_BM, mixed_BE = benchmark(run)
    expected_BM, expected_BE = _on("eager", ops.mpq_quantize, *args)()
    if rival == "cpp":
        assert torch.equal(ids_BM, expected_BM)
        torch.testing.assert_close(mixed_BE, expected_BE)
    else:  # without fp64 a near-tie may go the other way
        assert (ids_BM == expected_BM).float().mean() > 0.999


def _step(rival: str, op: Callable[..., Tensor], args: tuple[Any, ...], num_wanted: int, device: str) -> Any:
    """Forward and backward towards the first arguments; `rival` is a backend, or `op` is none of ours."""
    if rival == "triton" and (problem := machine_problem(rival)) is not None:
        pytest.skip(problem)
    args = tuple(a.to(device) if isinstance(a, Tensor) else a for a in args)
    wanted = [a.requires_grad_() for a in args[:num_wanted]]

    def run() -> tuple[Tensor, ...]:
        output = op(*args)
        found = (output.detach(), *torch.autograd.grad(output.sum(), wanted))
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return _on(rival, run) if rival in ("triton", "eager") else run


@pytest.mark.parametrize("rival", ["triton", "eager", "bf16 F.linear"])
@pytest.mark.parametrize("size", LINEARS)
def bench_fp8_linear(benchmark: Any, size: str, rival: str, device: str, environment: dict[str, Any]) -> None:
    """On a GPU, eager is `torch._scaled_mm` with its cast."""
    rows, out, width = LINEARS[size]
    if device == "cpu" and rows * out * width > 1 << 30:
        pytest.skip("a size for GPUs")
    args = inputs("fp8_linear", (rows, out, width), torch.bfloat16)
    op = F.linear if rival == "bf16 F.linear" else ops.fp8_linear
    benchmark.group = f"fp8_linear+backward/{size}/{device}/rivals"
    benchmark.extra_info.update(environment, flops=6 * rows * out * width)
    found = benchmark(_step(rival, op, args, 3, device))
    for one, exact in zip(found, _step("F.linear", F.linear, args, 3, device)(), strict=True):
        noise = (one - exact).float().square().sum().clamp_min(1e-30)
        assert 10 * torch.log10(exact.float().square().sum() / noise) >= 18


def _entropy_of_logits(hidden_TD: Tensor, weight_MKD: Tensor, ids_TM: Tensor, open_TM: Tensor, among: None) -> Tensor:
    logits_TMK = torch.einsum("td,mkd->tmk", hidden_TD, weight_MKD)
    loss_TM = F.cross_entropy(logits_TMK.flatten(0, 1).float(), ids_TM.flatten(), reduction="none").view(ids_TM.shape)
    return (loss_TM * open_TM).sum(1) / open_TM.sum(1).clamp_min(1)


@pytest.mark.parametrize("rival", ["triton", "eager", "logits, F.cross_entropy"])
@pytest.mark.parametrize("size", ENTROPIES)
def bench_token_cross_entropy(benchmark: Any, size: str, rival: str, device: str, environment: dict[str, Any]) -> None:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    args = inputs("token_cross_entropy", ENTROPIES[size], dtype)
    op = _entropy_of_logits if rival == "logits, F.cross_entropy" else ops.token_cross_entropy
    benchmark.group = f"token_cross_entropy+backward/{size}/{device}/rivals"
    benchmark.extra_info.update(environment)
    found = benchmark(_step(rival, op, args, 2, device))
    for one, other in zip(found, _step("eager", ops.token_cross_entropy, args, 2, device)(), strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=scale * (0.02 if device == "cuda" else 1e-5))
