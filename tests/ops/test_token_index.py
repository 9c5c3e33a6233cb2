"""The index over items: its lists, and that a changed index equals one built from scratch."""

from itertools import product

import pytest
import torch
from torch import Tensor

from reg4rec.kernels.token_index import TokenIndex, pair_slot


def assert_same(found: TokenIndex, expected: TokenIndex) -> None:
    for ours, theirs in zip(found[1:], expected[1:], strict=True):  # codes of removed items stay
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def random_codes(num_items: int, num_codebooks: int, codebook_size: int, seed: int = 0) -> Tensor:
    return torch.randint(codebook_size, (num_items, num_codebooks), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("some", [None, torch.tensor([40, 3, 7, 8, 22])])
def test_lists_hold_the_items_of_their_tokens_in_order(some: Tensor | None) -> None:
    codes_IM = random_codes(50, 4, 5)
    index = TokenIndex.build(codes_IM, 5, some, pairs=True)
    rows = range(50) if some is None else sorted(some.tolist())
    for r in range(4):
        for i in range(5):
            first, last = index.offsets[r * 5 + i], index.offsets[r * 5 + i + 1]
            assert index.postings[first:last].tolist() == [row for row in rows if codes_IM[row, r] == i]
            assert index.counts_MK[r, i] == last - first
            for s in range(r + 1, 4):
                for j in range(5):
                    slot = pair_slot(4, 5, r, s) + i * 5 + j
                    first, last = index.pair_offsets[slot], index.pair_offsets[slot + 1]
                    both = [row for row in rows if codes_IM[row, r] == i and codes_IM[row, s] == j]
                    assert index.pair_postings[first:last].tolist() == both
    assert len(index.pair_postings) == 6 * len(rows)


def test_pairs_are_listed_where_their_lists_hold_an_item_on_average() -> None:
    assert TokenIndex.build(random_codes(25, 3, 5), 5).lists_pairs
    assert not TokenIndex.build(random_codes(24, 3, 5), 5).lists_pairs
    assert not TokenIndex.build(random_codes(30, 9, 5), 5).lists_pairs
    assert not TokenIndex.build(random_codes(30, 1, 5), 5).lists_pairs
    assert TokenIndex.build(random_codes(30, 8, 5), 5).lists_pairs


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("kept", "num_codebooks", "codebook_size"), [(40, 4, 5), (0, 3, 4), (1, 1, 2), (59, 2, 64)])
def test_a_changed_index_is_the_one_built_from_scratch(
    pairs: bool, kept: int, num_codebooks: int, codebook_size: int
) -> None:
    codes_IM = random_codes(60, num_codebooks, codebook_size)
    new_T = torch.arange(kept, 60).flip(0)
    whole, smaller = (TokenIndex.build(codes_IM[:n], codebook_size, pairs=pairs) for n in (60, kept))
    assert_same(smaller.with_items(codes_IM, new_T), whole)
    assert_same(whole.without_items(new_T), smaller)

    middle = torch.tensor([5, 0, 33])
    without = whole.without_items(middle)
    others = torch.tensor([row for row in range(60) if row not in middle])
    assert_same(without, TokenIndex.build(codes_IM, codebook_size, others, pairs))
    assert_same(without.with_items(codes_IM, middle), whole)


@pytest.mark.parametrize("num_used", [1, 2, 3, 4])
def test_items_with_tokens_are_those_that_carry_them_all(num_used: int) -> None:
    codes_IM = random_codes(300, 4, 6)
    used_PM = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)).argsort(1) < num_used
    tokens_PM = torch.where(used_PM, random_codes(50, 4, 6, seed=2), -1)
    expected = ((tokens_PM[:, None] < 0) | (tokens_PM[:, None] == codes_IM)).all(2).nonzero().tolist()
    for pairs in (False, True):
        path_T, item_T = TokenIndex.build(codes_IM, 6, pairs=pairs).items_with_tokens(tokens_PM)
        assert sorted(zip(path_T.tolist(), item_T.tolist(), strict=True)) == [(n, i) for n, i in expected]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("fewest", [1, 2, 3, 4])
@pytest.mark.parametrize("num_used", [1, 3, 4])
def test_items_sharing_tokens_are_each_found_once_with_how_many_they_share(
    num_used: int, fewest: int, pairs: bool
) -> None:
    codes_IM = random_codes(300, 4, 6)
    used_PM = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)).argsort(1) < num_used
    tokens_PM = torch.where(used_PM, random_codes(50, 4, 6, seed=2), -1)
    shared_PI = (tokens_PM[:, None] == codes_IM).sum(2)
    fewest_P = torch.full((50,), fewest).index_fill_(0, torch.tensor([7]), min(fewest, 2))
    expected = (shared_PI >= fewest_P[:, None]).nonzero().tolist()
    path_T, item_T, shared_T = TokenIndex.build(codes_IM, 6, pairs=pairs).items_sharing_tokens(tokens_PM, fewest_P)
    assert path_T.tolist() == sorted(path_T.tolist())
    assert sorted(zip(path_T.tolist(), item_T.tolist(), strict=True)) == [(n, i) for n, i in expected]
    assert shared_T.tolist() == shared_PI[path_T, item_T].tolist()


@pytest.mark.parametrize("pairs", [False, True])
def test_admissible_tokens_are_those_of_the_items_that_fit(pairs: bool) -> None:
    draw = torch.Generator().manual_seed(5)
    codes_IM = torch.randint(6, (40, 3), generator=draw)
    index = TokenIndex.build(codes_IM, 6, torch.arange(0, 40, 2), pairs)
    paths = codes_IM[:12, None].repeat(1, 4, 1)  # those of odd items may lead nowhere
    for length in range(4):
        for row in range(12):
            paths[row, length, torch.randperm(3, generator=draw)[length:]] = -1
    found = index.admissible_tokens(paths, torch.ones(12, 4, dtype=torch.bool))
    for row, length in product(range(12), range(4)):
        path = paths[row, length].tolist()
        fitting = [i for i in range(0, 40, 2) if all(t in (-1, int(c)) for t, c in zip(path, codes_IM[i], strict=True))]
        expected = torch.zeros(3, 6, dtype=torch.bool)
        for item in fitting:
            expected[range(3), codes_IM[item]] = True
        expected[[at for at, token in enumerate(path) if token >= 0]] = False
        assert torch.equal(found[row, length], expected)
