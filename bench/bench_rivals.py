"""The CPU ops beside what one would use without them, in groups `<op>/<size>/rivals`; results are asserted after it.

faiss is no dependency: its rows are skipped where it is not installed (`pip install faiss-cpu`).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.machine import native_problem

pytestmark = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")

SEARCHES = {"64q-1M-M4-K256": (64, 1_000_000, 4, 256, 50), "8q-100k-M4-K256": (8, 100_000, 4, 256, 20)}
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
