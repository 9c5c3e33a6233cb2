"""Whole recommendations by batch size, backend, dtype, beams and codebooks; the index and a step by catalog size.

The model has the sizes of `small` and random weights: only times and memory mean something. Token frequencies are
skewed like real ones.
"""

import copy
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from bench.conftest import long
from bench.machine import synchronized
from reg4rec import ops
from reg4rec.data import ItemCatalog, ItemViews, Sequences, ViewConfig
from reg4rec.kernels.machine import native_problem
from reg4rec.model import PathCache, Reg4RecModel, encoded_histories, search_step
from reg4rec.model.config import sized
from reg4rec.recommend import Recommender, SearchResults
from reg4rec.search import Paths
from reg4rec.search.engine import precision
from reg4rec.search.ranking import rank_items
from reg4rec.storage import read_tensors, write_tensors
from reg4rec.tokenizer import Tokenizer, TokenizerConfig
from reg4rec.tokenizer.kinds import build_quantizer

ITEMS, CODEBOOKS, CODES, CATEGORIES, HISTORY, BEAMS = 12_101, 4, 256, 46, 20, 20
CATALOGS = {"10k": 10_000, "100k": 100_000, "1M": 1_000_000, "10M": 10_000_000}
SOME_CATALOGS = ["10k", "100k", *long("1M", "10M")]
CHANGED = 1000
HOWS = ("cpp", "cpp bfloat16", "eager")

needs_extension = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")


@cache
def skewed_codes(num_items: int, num_codebooks: int = CODEBOOKS) -> Tensor:
    """codes_IM in which code j of a codebook has a probability proportional to 1 / (j + 8)."""
    g = torch.Generator().manual_seed(0)
    weights_K = 1 / (torch.arange(CODES) + 8.0)
    drawn = torch.multinomial(weights_K, num_items * num_codebooks, replacement=True, generator=g)
    return drawn.view(num_items, num_codebooks).int()


@cache
def whole_index(num_items: int, pairs: bool | None = None) -> ops.TokenIndex:
    return ops.TokenIndex.build(skewed_codes(num_items), CODES, pairs=pairs)


@cache
def recommender_of(num_codebooks: int, device: str = "cpu") -> Recommender:
    torch.manual_seed(0)
    model = Reg4RecModel(sized("small", num_codebooks, CODES, CATEGORIES, renormalize=True, num_items=ITEMS))
    config = TokenizerConfig("mpq", num_codebooks, CODES, codeword_dim=64)
    views = ItemViews(ViewConfig(), np.zeros((ITEMS, 8), dtype=np.float32), None, {"collaborative": 8}, {})
    quantized_IE = torch.randn(ITEMS, config.codeword_dim)
    health = cast("Any", None)  # nothing here looks at it
    codes_IM = skewed_codes(ITEMS, num_codebooks)
    tokenizer = Tokenizer(config, build_quantizer(config, 8), views, codes_IM, quantized_IE, health)
    items = ItemCatalog.from_table(pa.table({"item_id": np.arange(ITEMS)}))
    search: dict[str, Any] = {"retriever": "paths", "num_beams": BEAMS, "prune_threshold": None}
    return Recommender(model, tokenizer, items, device=device, **search)


@pytest.fixture
def recommender() -> Recommender:
    return recommender_of(CODEBOOKS)


def histories(users: int) -> Sequences:
    rng = np.random.default_rng(users)
    return Sequences.from_lists(rng.integers(0, ITEMS, (users, HISTORY)).tolist())


@pytest.mark.parametrize(("users", "how"), [*product((1, 8, 64), HOWS), *product((512,), HOWS[:2])])
def bench_recommend(
    benchmark: Any, recommender: Recommender, users: int, how: str, environment: dict[str, Any]
) -> None:
    backend, _, dtype = how.partition(" ")
    if backend == "cpp" and native_problem() is not None:
        pytest.skip("needs the extension")
    sequences, chosen = histories(users), copy.copy(recommender)
    chosen.dtype = torch.bfloat16 if dtype else torch.float32
    benchmark.group = f"recommend/users={users}/cpu"
    benchmark.extra_info.update(environment, backend=how)
    with ops.use_backend(backend):
        ranked_BN = benchmark(chosen.rank, sequences, 10, True)
    if dtype:
        assert (ranked_BN >= 0).all()
    else:
        assert (ranked_BN == recommender.rank(sequences, 10, True)).all()


@pytest.mark.parametrize("how", ["cuda graph", "cuda", "eager"])
@pytest.mark.parametrize("users", [1, 8, 64, 256])
@pytest.mark.parametrize("threshold", [None, 0.06])
def bench_recommend_on_a_gpu(
    benchmark: Any, users: int, how: str, threshold: float | None, environment: dict[str, Any], device: str
) -> None:
    """In bfloat16: with one graph for encoder and search, with separate launches, and with the eager ops."""
    if device != "cuda":
        pytest.skip("needs a GPU")
    sequences, chosen = histories(users), recommender_of(CODEBOOKS, device).with_search(prune_threshold=threshold)

    def run(how: str) -> list[SearchResults]:
        with ops.use_backend("eager" if how == "eager" else "cuda"):
            return list(chosen.search(sequences, 10, True, trace=[] if how == "cuda" else None))  # no graph is traced

    benchmark.group = f"recommend/users={users}, {'CORP off' if threshold is None else f'theta {threshold}'}/cuda"
    benchmark.extra_info.update(environment, backend=how)
    (results,) = benchmark(synchronized(lambda: run(how), device))
    assert (results.ranking.items_BN >= 0).all()
    (eager,) = run("eager")
    same_BN = results.ranking.items_BN == eager.ranking.items_BN
    assert same_BN.double().mean() > 0.9  # bfloat16 rounds by the shape of a product


@needs_extension
@pytest.mark.parametrize("beams", [10, 20, 64, *long(256)])
@pytest.mark.parametrize("num_codebooks", [4, 8, 16])
def bench_beams(benchmark: Any, num_codebooks: int, beams: int, environment: dict[str, Any]) -> None:
    sequences, chosen = histories(8), recommender_of(num_codebooks).with_search(num_beams=beams)
    benchmark.group = f"recommend/8 users, {num_codebooks} codebooks/cpu"
    benchmark.extra_info.update(environment, backend=f"{beams} beams")
    results = benchmark(lambda: list(chosen.search(sequences, 5, True)))
    assert torch.cat([r.paths.tokens_BWM for r in results]).shape == (8, beams, num_codebooks)
    assert all((r.ranking.items_BN >= 0).all() for r in results)


@pytest.mark.parametrize("threshold", [None, 0.06])
def bench_corp(benchmark: Any, recommender: Recommender, threshold: float | None, environment: dict[str, Any]) -> None:
    """The cost of CORP: spare paths, one more decoding step, and the divergences."""
    sequences, chosen = histories(64), recommender.with_search(prune_threshold=threshold)
    benchmark.group = "recommend with CORP/64 users/cpu"
    benchmark.extra_info.update(environment, backend="off" if threshold is None else f"theta {threshold}")
    (results,) = benchmark(lambda: list(chosen.search(sequences, 10, True)))
    assert (results.ranking.items_BN >= 0).all()
    assert results.paths.categories_BWM[..., -1].ge(0).any() == (threshold is not None)


@pytest.mark.parametrize("users", [1, 8, 64])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def bench_layers_of_a_recommendation(
    benchmark: Any, recommender: Recommender, users: int, dtype: str, environment: dict[str, Any]
) -> None:
    """The encoder and the decoder steps of a search, which every search needs.

    The rest of a recommendation's time goes into choosing, moving and ranking paths.
    """
    sequences, model, chosen = histories(users), recommender.model, copy.copy(recommender)
    chosen.dtype = getattr(torch, dtype)

    @torch.inference_mode()
    def run() -> Tensor:
        with precision(chosen.device, chosen.dtype, users * BEAMS):
            memory = encoded_histories(recommender.model, recommender.codes_IM, sequences)
            *_, begun = search_step(model, memory, None, 0, PathCache.empty(memory, 1, CODEBOOKS, BEAMS))
            cache = begun.of_paths(torch.zeros_like(token_BP))
            for step in range(1, CODEBOOKS):
                logits_BPMK, _, cache = search_step(model, memory, token_BP, step, cache)
            return logits_BPMK

    token_BP = torch.arange(BEAMS).expand(users, BEAMS)
    benchmark.group = f"recommend/users={users}/cpu"
    benchmark.extra_info.update(environment, backend=f"layers alone{'' if dtype == 'float32' else ' bfloat16'}")
    logits_BPMK = benchmark(run)
    assert logits_BPMK.shape == (users, BEAMS, CODEBOOKS, CODES)


@needs_extension
def bench_all_items_by_token_scores(benchmark: Any, recommender: Recommender, environment: dict[str, Any]) -> None:
    """The simple alternative to a search: the best items by the sum of their tokens' first-step log-probabilities."""
    sequences, users = histories(64), 64
    codes_IM = recommender.index.codes_IM

    @torch.inference_mode()
    def run() -> tuple[Tensor, Tensor]:
        memory = encoded_histories(recommender.model, recommender.codes_IM, sequences)
        logits_B1MK, *_ = search_step(recommender.model, memory, None, 0, PathCache.empty(memory, 1))
        return ops.item_topk(logits_B1MK[:, 0].log_softmax(-1), codes_IM, 10)

    benchmark.group = f"recommend/users={users}/cpu"
    benchmark.extra_info.update(environment, backend="token scores of all items")
    scores_BN, items_BN = benchmark(run)
    assert (scores_BN.diff() <= 0).all()
    assert items_BN.shape == (users, 10)


@pytest.mark.parametrize("change", ["build", "load", "add 1,000", "remove 1,000"])
@pytest.mark.parametrize("catalog", SOME_CATALOGS)
def bench_index(benchmark: Any, catalog: str, change: str, environment: dict[str, Any], tmp_path: Path) -> None:
    """Building, loading and changing an index. `load` maps the stored lists and checks them against given codes."""
    num_items = CATALOGS[catalog]
    codes_IM = skewed_codes(num_items)
    new_T = torch.arange(num_items - CHANGED, num_items)
    expected = whole_index(num_items)
    smaller = ops.TokenIndex.build(codes_IM[:-CHANGED], CODES)
    benchmark.group = f"index/items={num_items}/cpu"
    size = sum(t.numel() * t.element_size() for t in expected)
    benchmark.extra_info.update(environment, backend=change, bytes=size)
    if change == "build":
        found = benchmark(ops.TokenIndex.build, codes_IM, CODES)
    elif change == "load":
        if not expected.lists_pairs:
            pytest.skip("an index without pairs is not stored")
        write_tensors(tmp_path / "index.safetensors", expected.stored())
        found = benchmark(
            lambda: ops.TokenIndex.restored(read_tensors(tmp_path / "index.safetensors"), codes_IM, CODES, num_items)
        )
    elif change.startswith("add"):
        found = benchmark(smaller.with_items, codes_IM, new_T)
    else:
        found, expected = benchmark(expected.without_items, new_T), smaller
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[1:], expected[1:], strict=True))


@needs_extension
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("catalog", SOME_CATALOGS)
def bench_step(benchmark: Any, catalog: str, pairs: bool, step: int, environment: dict[str, Any]) -> None:
    """A search step for 64 users whose paths have `step` tokens of random items."""
    codes_IM, index = skewed_codes(CATALOGS[catalog]), whole_index(CATALOGS[catalog], pairs)
    g = torch.Generator().manual_seed(1)
    item_BP = torch.randint(len(codes_IM), (64, BEAMS), generator=g)
    tokens_BPM = codes_IM[item_BP].long()
    tokens_BPM[..., step:] = -1
    logits_BPMK = torch.randn(64, BEAMS, CODEBOOKS, CODES, generator=g)
    scores_BP = torch.randn(64, BEAMS, generator=g)
    benchmark.group = f"step {step} of a search/items={len(codes_IM)}/cpu"
    benchmark.extra_info.update(environment, backend="cpp with pairs" if pairs else "cpp without pairs")
    _, token_BP, best_BP, _ = benchmark(ops.beam_step, logits_BPMK, scores_BP, tokens_BPM, None, index, BEAMS, 0)
    assert ((token_BP >= 0) == (best_BP > -torch.inf)).all()
    assert (token_BP[:, 0] >= 0).all()


@needs_extension
@pytest.mark.parametrize("catalog", SOME_CATALOGS)
def bench_open_places(benchmark: Any, catalog: str, environment: dict[str, Any]) -> None:
    """Ranking for 8 users whose paths all lead to seen items, so that other items must fill their lists.

    Relaxed matches come first, then items by token scores.
    """
    num_items = CATALOGS[catalog]
    codes_IM, index = skewed_codes(num_items), whole_index(num_items)
    g = torch.Generator().manual_seed(2)
    seen_BX = torch.randint(num_items, (8, BEAMS), generator=g)
    tokens_BWM = codes_IM[seen_BX].long()
    scores_BW = -torch.rand(8, BEAMS, generator=g).sort(1).values
    log_probs_BMK = torch.randn(8, CODEBOOKS, CODES, generator=g).log_softmax(-1)
    none = torch.zeros(8, dtype=torch.int64)
    paths = Paths(tokens_BWM, tokens_BWM, scores_BW, tokens_BWM, scores_BW, log_probs_BMK, none, none)
    rank_I, allowed_I = torch.arange(num_items), torch.ones(num_items, dtype=torch.bool)
    benchmark.group = f"open places/items={num_items}/cpu"
    benchmark.extra_info.update(environment, backend="8 users")
    ranking = benchmark(rank_items, paths, index, rank_I, 50, seen_BX, allowed_I)
    assert (ranking.items_BN >= 0).all()
