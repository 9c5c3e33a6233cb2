"""`score_topk` against the exact scores of all items: the same rows and bits, whatever the vectors."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.call import native_op
from reg4rec.kernels.machine import native_problem
from reg4rec.kernels.score_topk.reference import PANEL, allowed_mask, exact_dot
from tests.isa import selected_isa
from tests.ops.cases import inputs

BACKENDS = ("eager", pytest.param("cpp", marks=pytest.mark.skipif(native_problem() is not None, reason="no extension")))


@pytest.fixture(params=["base", "avx2", "avx512", "amx"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has, also amx, since this op has code for tiles."""
    with selected_isa(request.param):
        yield request.param


def every_score(states_BD, items, k, allowed=None, seen_BL=None, seen_bias=None, codes=None):
    """The scores of all items, one user after another, straight from the contract."""
    num_items, rows = len(items.rows_ID), []
    for user, state_D in enumerate(states_BD):
        score_I = exact_dot(state_D.expand(num_items, -1), items.rows_ID)
        for t in range(0 if codes is None else codes.codes_IT.shape[1]):
            score_I = score_I + codes.tables_BTK[user, t, codes.codes_IT[:, t].long()].double()
        if seen_BL is not None:
            seen = seen_BL[user][seen_BL[user] >= 0].unique()
            score_I[seen] = -torch.inf if seen_bias is None else score_I[seen] + seen_bias
        if allowed is not None:
            score_I[~allowed_mask(allowed, num_items)[user % len(allowed)]] = -torch.inf
        best = sorted((-s, i) for i, s in enumerate(score_I.tolist()) if s > -math.inf)[:k]
        rows.append([*best, *[(math.inf, -1)] * (k - len(best))])
    found = torch.tensor(rows, dtype=torch.float64).view(len(states_BD), k, 2)
    return -found[..., 0], found[..., 1].long()


def assert_exact(backend: str, *args) -> Tensor:
    expected_BN, order_BN = every_score(*args)
    with ops.use_backend(backend):
        scores_BN, rows_BN = ops.score_topk(*args)
    assert torch.equal(rows_BN, order_BN)
    assert torch.equal(scores_BN, expected_BN)
    return rows_BN


def vectors(seed: int, users: int, items: int, width: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(users, width, generator=g), torch.randn(items, width, generator=g)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 10, 60])
@pytest.mark.parametrize(
    ("users", "items", "width"), [(1, 1, 1), (3, 31, 3), (5, 33, 128), (11, 700, 34), (70, 300, 9), (19, 150, 64)]
)
def test_plain_vectors(isa: str, backend: str, users: int, items: int, width: int, k: int) -> None:
    states_BD, rows_ID = vectors(0, users, items, width)
    assert_exact(backend, states_BD, ops.ItemVectors.build(rows_ID), k)


def hostile(kind: str) -> tuple[Tensor, Tensor]:
    states_BD, rows_ID = vectors(1, 4, 500, 16)
    if kind == "equal":
        rows_ID[:] = rows_ID[0]
    elif kind == "nearly equal":
        rows_ID[:] = rows_ID[0]
        rows_ID[:, 3] = torch.nextafter(rows_ID[:, 3], torch.tensor(9.0)).where(
            torch.arange(500) % 7 == 3, rows_ID[:, 3]
        )
    elif kind == "huge":
        rows_ID *= 1e37
        states_BD *= 1e37
    elif kind == "one huge":
        rows_ID[123] *= 3e37
    elif kind == "tiny":
        rows_ID *= 1e-42
        states_BD *= 1e-30
    elif kind == "zero items":
        rows_ID[::2] = 0
    elif kind == "zero states":
        states_BD[::2] = 0
    elif kind == "both zero":
        rows_ID[:], states_BD[:] = 0, 0
    elif kind == "one channel":
        rows_ID[:, 1:] = 0
        rows_ID[:, 0] = rows_ID[:, 0].round()
    elif kind == "opposite":
        rows_ID = torch.cat([rows_ID[:250], -rows_ID[:250]])
        states_BD = 1e-3 * states_BD + torch.tensor([1e3, *[0.0] * 15])
    elif kind == "of all sizes":
        rows_ID *= 10.0 ** torch.arange(-30, 20, 0.1)[:, None]
    return states_BD, rows_ID


KINDS = ("equal", "nearly equal", "huge", "one huge", "tiny", "zero items", "zero states", "both zero", "one channel")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [*KINDS, "opposite", "of all sizes"])
def test_hostile_vectors(isa: str, backend: str, kind: str) -> None:
    states_BD, rows_ID = hostile(kind)
    items = ops.ItemVectors.build(rows_ID)
    seen_BL = torch.tensor([[0, 1, 2, 2, -1]] * 4)
    for k in (1, 10, 499, 600):
        assert_exact(backend, states_BD, items, k)
        assert_exact(backend, states_BD, items, k, None, seen_BL, 0.25)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_call(data: st.DataObject) -> None:
    users, num_items, width = (data.draw(st.integers(1, most)) for most in (9, 200, 20))
    states_BD, rows_ID = vectors(data.draw(st.integers(0, 99)), users, num_items, width)
    digits = data.draw(st.sampled_from([None, 0, 1]))
    if digits is not None:  # many ties
        states_BD, rows_ID = states_BD.round(decimals=digits), rows_ID.round(decimals=digits)
    g = torch.Generator().manual_seed(users)
    masks = data.draw(st.sampled_from([0, 1, users]))
    share = data.draw(st.sampled_from([0.0, 0.02, 0.7]))
    allowed = ops.allowed_words(torch.rand(masks, num_items, generator=g) < share) if masks else None
    seen_BL = torch.randint(-1, num_items, (users, 5), generator=g) if data.draw(st.booleans()) else None
    codes = None
    if data.draw(st.booleans()):
        codes = ops.CodeTables(
            torch.randint(3, (num_items, 2), generator=g).int(), torch.randn(users, 2, 3, generator=g).round(decimals=1)
        )
        if data.draw(st.booleans()):
            codes.tables_BTK[0, 0, 1] = -torch.inf
    k = data.draw(st.sampled_from([0, 1, 7, 250]))
    bias = data.draw(st.sampled_from([None, -1.5, 0.0, 3.0]))
    for backend in ("eager", *(["cpp"] if native_problem() is None else [])):
        assert_exact(backend, states_BD, ops.ItemVectors.build(rows_ID), k, allowed, seen_BL, bias, codes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_that_are_no_numbers_have_no_items(isa: str, backend: str) -> None:
    states_BD, rows_ID = vectors(2, 3, 90, 8)
    states_BD[0, 3], states_BD[1, 2] = torch.nan, torch.inf
    items = ops.ItemVectors.build(rows_ID)
    rows_BN = assert_exact(backend, states_BD, items, 7)
    assert (rows_BN[0] == -1).all()


def test_everything_excluded_or_nothing_there(isa: str) -> None:
    states_BD, rows_ID = vectors(3, 2, 40, 4)
    for backend in ("eager", "cpp"):
        nobody = ops.allowed_words(torch.zeros(1, 40, dtype=torch.bool))
        assert (assert_exact(backend, states_BD, ops.ItemVectors.build(rows_ID), 5, nobody) == -1).all()
        assert (assert_exact(backend, states_BD, ops.ItemVectors.build(rows_ID[:0]), 5) == -1).all()
        assert assert_exact(backend, states_BD[:0], ops.ItemVectors.build(rows_ID), 5).shape == (0, 5)


@pytest.mark.parametrize(("users", "items"), [(1, 30_011), (3, 30_011), (200, 1000)])
def test_threads_and_splits_give_the_same_bits(users: int, items: int) -> None:
    states_BD, rows_ID = vectors(4, users, items, 16)
    seen_BL = torch.randint(items, (users, 3), generator=torch.Generator().manual_seed(0))
    args, before = (ops.ItemVectors.build(rows_ID), 20, None), torch.get_num_threads()
    whole = ops.score_topk(states_BD, *args, seen_BL, 1.0)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            parts = zip(states_BD.split(70), seen_BL.split(70), strict=True)
            found = [ops.score_topk(states_bD, *args, seen_bL, 1.0) for states_bD, seen_bL in parts]
            for at in (0, 1):
                assert torch.equal(torch.cat([part[at] for part in found]), whole[at])
    finally:
        torch.set_num_threads(before)


def test_the_copy_keeps_within_its_errors() -> None:
    rows_ID = vectors(5, 1, 77, 10)[1] * 10.0 ** torch.arange(-38, 38.5, 1)[:77, None].clamp(max=37)
    items = ops.ItemVectors.build(rows_ID)
    numbers = items.panels_X.view(-1, 3, PANEL, 4).transpose(1, 2).flatten(0, 1).flatten(1)[:77, :10]
    copy_ID = (numbers.double() - 128) * items.scales_I.double()[:, None]
    assert ((rows_ID.double() - copy_ID).norm(dim=1) <= items.errors_I.double()).all()
    assert (copy_ID.norm(dim=1) <= items.norms_I.double()).all()
    assert items.copy_bytes == 3 * PANEL * 12 + 3 * 77 * 4


@pytest.mark.parametrize("first", [0, 31, 32, 50])
def test_extended_items_are_those_built_at_once(first: int) -> None:
    rows_ID = vectors(6, 1, 100, 5)[1]
    grown = ops.ItemVectors.build(rows_ID[:first]).extended(rows_ID[first:])
    whole = ops.ItemVectors.build(rows_ID)
    assert all(torch.equal(one, other) for one, other in zip(grown[:5], whole[:5], strict=True))
    assert grown.largest == whole.largest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": -1}, "k must lie in 0..2147483647, found -1"),
        ({"states_BD": torch.zeros(2, 5)}, "items.rows_ID has shape \\(40, 4\\) where D = 5 was expected"),
        ({"states_BD": torch.zeros(2, 4).double()}, "states_BD must be one of torch.float32"),
        ({"allowed": torch.zeros(1, 2)}, "allowed_TX must be one of torch.int32"),
        ({"allowed": torch.zeros(1, 3, dtype=torch.int32)}, "X = 2 was expected"),
        ({"allowed": torch.zeros(3, 2, dtype=torch.int32)}, "allowed has 3 rows where 1 or 2 were expected"),
        ({"seen_BL": torch.zeros(3, 2, dtype=torch.int64)}, "B = 2 was expected"),
    ],
)
def test_wrong_calls_are_refused(change: dict, message: str) -> None:
    states_BD, rows_ID = vectors(7, 2, 40, 4)
    call = {"states_BD": states_BD, "items": ops.ItemVectors.build(rows_ID), "k": 3, **change}
    with pytest.raises(ValueError, match=message):
        ops.score_topk(**{"allowed": None, "seen_BL": None, **call})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_vectors_that_are_no_numbers_are_refused(bad: float) -> None:
    rows_ID = torch.ones(3, 2)
    rows_ID[1, 0] = bad
    with pytest.raises(ValueError, match="not finite"):
        ops.ItemVectors.build(rows_ID)


@pytest.mark.skipif(native_problem() is not None, reason="no extension")
def test_a_struct_is_filled_by_the_names_of_its_fields() -> None:
    with pytest.raises(TypeError, match=r"score_topk\(\) got an unexpected keyword argument 'num_user'"):
        native_op("score_topk")(num_user=3)
    from reg4rec import _C

    with pytest.raises(ValueError, match="bytes, found 3"):
        _C.call("score_topk", b"abc", 1)
    assert inputs("score_topk", (2, 40, 4, 3, 1))[0].shape == (2, 4)
