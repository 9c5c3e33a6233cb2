"""What CUDA graphs need from a search (nothing waits, few shapes), on the CPU; on a GPU, that they repeat it."""

from dataclasses import replace
from itertools import product
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reg4rec import ops
from reg4rec.data import ItemCatalog, ItemViews, Sequences, ViewConfig
from reg4rec.errors import InputError
from reg4rec.model import Batch, HistoryLayout, ModelConfig, Reg4RecModel, padded, remember
from reg4rec.recommend import DType, Recommender
from reg4rec.search import SearchConfig, SearchOrder, graphs, search, step_indexes
from reg4rec.search.engine import SearchEngine
from reg4rec.search.graphs import Found, bucketed
from reg4rec.tokenizer import Tokenizer, TokenizerConfig
from reg4rec.tokenizer.kinds import build_quantizer

M, K, C, I, LONGEST, MOST_USERS = 3, 16, 7, 300, 12, 24  # noqa: E741
CORP = SearchConfig(6, 2, 0.06)
CONFIGS = [CORP, SearchConfig(6, 2, None), SearchConfig(6, 2, 0.06, order="fixed", num_steps=2)]
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a CUDA graph cannot be captured without"),
]


def random_model(num_items: int = I, layout: HistoryLayout = "pooled") -> Reg4RecModel:
    sizes = ModelConfig(M, K, C, dim=32, num_heads=2, ffn_dim=64, num_blocks=2, max_history=LONGEST)
    return Reg4RecModel(replace(sizes, history_layout=layout, renormalize=True, num_items=num_items)).eval()


def random_recommender(device: str, dtype: DType = "float32") -> Recommender:
    """Untrained, with scores of items and categories; needs neither polars nor scikit-learn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = random_model()
        config = TokenizerConfig("mpq", M, K)
        codes_IM, quantized_IE = torch.randint(0, K, (I, M)).int(), torch.randn(I, config.codeword_dim)
        quantizer = build_quantizer(config, 8)
    views = ItemViews(ViewConfig(), np.zeros((I, 8), dtype=np.float32), None, {}, {})
    health = cast("Any", None)  # not used here
    tokenizer = Tokenizer(config, quantizer, views, codes_IM, quantized_IE, health)
    items = ItemCatalog.from_table(pa.table({"item_id": np.arange(I)}))
    return Recommender(model, tokenizer, items, device=device, dtype=dtype, num_beams=6, num_spares=2)


@pytest.fixture(scope="module")
def engine() -> SearchEngine:
    return random_recommender("cpu").engine


def histories(num_users: int, longest: int) -> Sequences:
    """One of `longest` items, others of fewer or none."""
    rng = np.random.default_rng([num_users, longest])
    lengths = [longest, *rng.integers(0, longest + 1, num_users - 1)]
    return Sequences.from_lists([rng.integers(0, I, length).tolist() for length in lengths])


def batch_of(sequences: Sequences) -> Batch:
    newest = sequences.last(LONGEST)
    return Batch(padded(newest, 0), torch.from_numpy(newest.lengths), padded(sequences, -1))


class NothingFromTheHost(TorchDispatchMode):
    """Refuses tensors made of Python numbers: on a GPU these are copied there, which waits for it.

    On fake tensors an op whose result depends on values raises by itself.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            raise AssertionError("a tensor is made of Python numbers")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("threshold", [None, 0.06])
@pytest.mark.parametrize(("layout", "num_items"), [("pooled", I), ("flat", 0)])
@pytest.mark.parametrize("order", ["confidence", "fixed"])
def test_encoder_and_search_need_no_value_on_the_host(
    order: SearchOrder, layout: HistoryLayout, num_items: int, threshold: float | None
) -> None:
    """With torch's layers, as on a GPU; in C++ the encoder packs histories by their lengths, which the host knows."""
    whole = step_indexes(ops.TokenIndex.build(torch.randint(0, K, (I, M)), K), order)
    config = SearchConfig(6, 2, threshold, order)
    with FakeTensorMode() as fake, torch.inference_mode(), ops.use_backend("eager"):
        model = random_model(num_items, layout)
        indexes = [ops.TokenIndex(*map(fake.from_tensor, index)) for index in whole]
        codes_IM, item_BL = torch.zeros(I, M, dtype=torch.int64), torch.zeros(4, 5, dtype=torch.int64)
        with NothingFromTheHost():
            memory = remember(model, codes_IM[item_BL], item_BL[:, 0], item_BL)
            paths = search(model, memory, indexes, config, item_BL)
    assert paths.tokens_BWM.shape == (4, 6, M)


def test_a_value_on_the_host_would_be_noticed() -> None:
    with FakeTensorMode(), NothingFromTheHost():
        x_T = torch.zeros(3)
        with pytest.raises(DataDependentOutputException):
            x_T.sum().item()
        with pytest.raises(DynamicOutputShapeException):
            x_T[x_T > 0]
        with pytest.raises(AssertionError, match="Python numbers"):
            x_T.new_tensor(1.0)


def check_same(found: Found, expected: Found) -> int:
    """Equal wherever neighboring scores differ by more than 1e-4; returns how many paths that are."""
    torch.testing.assert_close(found.state_BD, expected.state_BD, atol=1e-4, rtol=0)
    ours, theirs = found.paths, expected.paths
    torch.testing.assert_close(ours.scores_BW, theirs.scores_BW, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.first_log_probs_BMK, theirs.first_log_probs_BMK, atol=1e-4, rtol=0)
    far_BW = theirs.scores_BW.diff() < -1e-4
    clear_BW = torch.nn.functional.pad(far_BW, (1, 0), value=True) & torch.nn.functional.pad(far_BW, (0, 1))
    for name in ("tokens_BWM", "order_BWM", "categories_BWM"):
        assert torch.equal(getattr(ours, name)[clear_BW], getattr(theirs, name)[clear_BW])
    assert torch.equal(ours.pruned_B, theirs.pruned_B)
    assert torch.equal(ours.fallbacks_B, theirs.fallbacks_B)
    return int(clear_BW.sum())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("num_users", [1, 2, 3, 5, 17])
def test_a_batch_filled_up_to_its_bucket_finds_the_same(
    engine: SearchEngine, num_users: int, config: SearchConfig
) -> None:
    compared = 0
    for longest in [*range(1, LONGEST + 1), 2 * LONGEST + 1]:
        batch = batch_of(histories(num_users, longest))
        filled = bucketed(batch, MOST_USERS, LONGEST)
        compared += check_same(engine.plain(filled, config).first(num_users), engine.plain(batch, config))
    assert compared > 30 * num_users


def test_buckets_are_few_and_hold_what_they_were_given() -> None:
    shapes = set()
    for num_users, longest in product(range(1, MOST_USERS + 1), range(4 * LONGEST + 1)):
        batch = batch_of(histories(num_users, longest))
        item_BL, length_B, exclude_BX = bucketed(batch, MOST_USERS, LONGEST)
        assert exclude_BX is not None
        assert batch.exclude_BX is not None
        assert torch.equal(item_BL[:num_users, : batch.item_BL.shape[1]], batch.item_BL)
        assert torch.equal(length_B[:num_users], batch.length_B)
        assert not length_B[num_users:].any()
        assert torch.equal(exclude_BX[:num_users, :longest], batch.exclude_BX)
        assert (exclude_BX >= 0).sum() == (batch.exclude_BX >= 0).sum()
        shapes.add((*item_BL.shape, exclude_BX.shape[1]))
    users, lengths, widths = (set(sizes) for sizes in zip(*shapes, strict=True))
    assert users == {1, 2, 4, 8, 16, MOST_USERS}
    assert lengths == {3, 6, 9, LONGEST}
    assert widths == {3, 6, 9, LONGEST, 4 * LONGEST}
    assert len(shapes) == len(users) * len(widths)
    assert bucketed(batch._replace(exclude_BX=None), MOST_USERS, LONGEST).exclude_BX is None


def test_the_reason_for_no_graph_is_named() -> None:
    recommender = random_recommender("cpu")
    engine, config = recommender.engine, recommender.config
    one_off = SearchEngine(engine.model, engine.codes_IM, engine.index, engine.dtype, one_off=True)
    if not torch.cuda.is_available():
        assert engine.graph_objection(config) == "the recommender is on the cpu, a CUDA graph needs a GPU"
    assert "keeps only its result" in str(engine.graph_objection(config, []))
    assert "chosen for this call" in str(one_off.graph_objection(config))
    with ops.use_backend("eager"):
        assert "the backend eager was asked for" in str(engine.graph_objection(config))
    engine.model.train()
    assert "training mode" in str(engine.graph_objection(config))


def test_categories_that_the_catalog_lacks_are_refused() -> None:
    with pytest.raises(InputError, match=r"the model predicts category \d+, the catalog has 0; use the items and the"):
        random_recommender("cpu").recommend([[1, 2, 3]], k=3, return_paths=True)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
def test_graphs_are_those_of_the_present_model_and_items(device: str) -> None:
    recommender = random_recommender(device)
    engine = recommender.engine
    assert recommender.with_search(num_beams=9).engine is recommender.engine is engine
    assert engine.indexes("fixed") is engine.indexes("fixed")
    other = recommender.with_model(random_model())
    assert other.engine is not engine
    other.remove_items([3])
    assert other.engine.index is other.index
    assert recommender.engine is engine
    recommender.remove_items([5])
    assert recommender.engine is not engine
    engine = recommender.engine
    recommender.model.load_state_dict(random_model().state_dict())
    assert recommender.engine is engine
    recommender.model.load_state_dict(random_model().to(device).state_dict(), assign=True)  # these have other addresses
    assert (recommender.engine is engine) == (device == "cpu")  # without graphs no address is kept


def plain_in_bucket(engine: SearchEngine, batch: Batch, config: SearchConfig) -> Found:
    """The search that a graph repeats."""
    filled = bucketed(batch, engine.users_at_once(config), LONGEST)
    return engine.plain(filled.to(engine.device), config).first(len(batch.item_BL))


def check_equal(found: Found, expected: Found) -> None:
    for ours, theirs in zip((found.state_BD, *found.paths), (expected.state_BD, *expected.paths), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
class TestOneSearchOnGpu:
    pytestmark = on_gpu

    def test_a_replay_repeats_the_search_bit_for_bit(self, dtype: DType, config: SearchConfig) -> None:
        engine = random_recommender("cuda", dtype).engine
        assert engine.graph_objection(config) is None
        results = []
        for num_users, longest in [(1, 4), (3, 4), (5, 12), (8, 12), (17, 30), (32, 12), (5, 11), (1, 3), (17, 28)]:
            batch = batch_of(histories(num_users, longest))
            results.append((engine.run(batch, config), plain_in_bucket(engine, batch, config)))
        for found, expected in results:  # later replays left earlier results alone
            check_equal(found, expected)

    def test_nothing_is_captured_again_within_a_bucket(self, dtype: DType, config: SearchConfig) -> None:
        engine = random_recommender("cuda", dtype).engine
        for num_users, longest in product((5, 6, 7, 8, 5), (10, 11, 12)):
            engine.run(batch_of(histories(num_users, longest)), config)
        assert engine.graphs.num_captured == 1
        more = batch_of(histories(9, 12))
        engine.run(more, config)
        engine.run(more._replace(exclude_BX=None), config)
        assert engine.graphs.num_captured == 3

    def test_the_search_does_not_wait(self, dtype: DType, config: SearchConfig) -> None:
        engine = random_recommender("cuda", dtype).engine
        batch = batch_of(histories(5, 12)).to(engine.device)
        engine.plain(batch, config)  # loads kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            engine.plain(batch, config)
        finally:
            torch.cuda.set_sync_debug_mode("default")


class TestGraphsOnGpu:
    pytestmark = on_gpu

    def test_the_least_recently_used_graph_goes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
        engine = random_recommender("cuda").engine
        for num_users, num_captured in [(1, 1), (2, 2), (1, 2), (4, 3), (1, 3), (2, 4)]:  # 2 goes for 4, 4 for 2
            batch = batch_of(histories(num_users, 12))
            check_equal(engine.run(batch, CORP), plain_in_bucket(engine, batch, CORP))
            assert engine.graphs.num_captured == num_captured

    def test_recommendations_follow_the_items(self) -> None:
        recommender, users = random_recommender("cuda"), histories(8, 12)
        first = recommender.rank(users, 10, True)
        assert recommender.engine.graphs.num_captured == 1
        gone = np.unique(first[:, 0])
        recommender.remove_items(gone.tolist())
        assert not np.isin(recommender.rank(users, 10, True), gone).any()
        recommender.add_items(pa.table({"item_id": gone.astype(np.int64)}))
        assert np.array_equal(recommender.rank(users, 10, True), first)

    def test_a_graph_reads_the_present_weights(self) -> None:
        engine, batch = random_recommender("cuda", "bfloat16").engine, batch_of(histories(8, 12))
        before = engine.run(batch, CORP)
        with torch.no_grad():
            engine.model.tokens_MKD.mul_(-1)
        after = engine.run(batch, CORP)
        assert engine.graphs.num_captured == 1
        assert not torch.equal(before.paths.scores_BW, after.paths.scores_BW)
        check_equal(after, plain_in_bucket(engine, batch, CORP))

    def test_an_autocast_around_changes_nothing(self) -> None:
        """Autocast keeps the weights that it has cast until the outermost one ends."""
        engine, batch = random_recommender("cuda", "bfloat16").engine, batch_of(histories(8, 12))
        with torch.autocast("cuda", torch.bfloat16):
            engine.plain(batch.to(engine.device), CORP)
            engine.run(batch, CORP)
        torch.full((1 << 24,), torch.nan, device="cuda")
        check_equal(engine.run(batch, CORP), plain_in_bucket(engine, batch, CORP))

    def test_a_search_too_wide_for_the_kernel_has_no_graph(self) -> None:
        engine = random_recommender("cuda").engine
        assert "beam_step runs on eager: it needs" in str(engine.graph_objection(SearchConfig(num_beams=8192)))
