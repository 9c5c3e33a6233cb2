"""Cuts: both sides of a user's training sequence, and never an item that was held back."""

from hypothesis import given
from hypothesis import strategies as st

from reg4rec.alignment.futures import CutBatches
from reg4rec.data import Sequences
from reg4rec.data.shop import SyntheticShop

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=9)


@given(ROWS, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_histories_and_futures_are_neighbors_in_the_sequence(
    rows: list[list[int]], window: int, batch_users: int, seed: int
) -> None:
    batches = CutBatches(Sequences.from_lists(rows), window, batch_users, seed, epoch=0)
    cuts = [cut for i in range(len(batches)) for cut in (batches[i],)]
    assert sum(len(cut.histories) for cut in cuts) == sum(len(row) >= 2 for row in rows)
    for cut in cuts:
        for history, future in zip(
            (cut.histories[b].tolist() for b in range(len(cut.histories))),
            (cut.futures[b].tolist() for b in range(len(cut.futures))),
            strict=True,
        ):
            assert history
            assert 1 <= len(future) <= window
            after = [row[len(history) :] for row in rows if len(row) >= 2 and row[: len(history)] == history]
            assert any(rest[:window] == future for rest in after)


def test_cuts_differ_between_epochs_and_repeat_for_the_same_epoch(shop: SyntheticShop) -> None:
    first, again, other = (CutBatches(shop.part("train"), 3, 64, 0, epoch) for epoch in (0, 0, 1))
    assert first[0].histories.items.tolist() == again[0].histories.items.tolist()
    assert first[0].histories.items.tolist() != other[0].histories.items.tolist()


def test_no_future_holds_a_held_back_item(shop: SyntheticShop) -> None:
    part = shop.part("train")
    last = {tuple(part[b].tolist()) for b in range(len(part))}
    batches = CutBatches(part, 99, 50, 0, 0)
    for i in range(len(batches)):
        cut = batches[i]
        for b in range(len(cut.histories)):
            assert (*cut.histories[b].tolist(), *cut.futures[b].tolist()) in last
    held_back = shop.part("train+validation").lengths - part.lengths
    assert held_back.max() == 1
