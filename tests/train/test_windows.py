"""Training windows: every item once an epoch, the same for the same seed, batches of bounded size."""

import numpy as np
import pytest

from reg4rec.data import Sequences
from reg4rec.train.windows import WindowBatches, cut_windows

LENGTHS = [0, 1, 4, 5, 6, 0, 17, 40, 5, 2, 11, 23, 10, 1]
WINDOW = 5


@pytest.fixture
def sequences() -> Sequences:
    """Item rows that are all different, so that every one can be followed."""
    rows = np.arange(sum(LENGTHS), dtype=np.int32)
    return Sequences(np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64), rows)


def windows_of(batches: WindowBatches) -> list[list[int]]:
    rows = [row for batch in batches for row in batch.items_BL.tolist()]
    return [[item for item in row if item >= 0] for row in rows]


@pytest.mark.parametrize("batch_targets", [1, 7, 30, 10**6])
@pytest.mark.parametrize("epoch", range(4))
def test_every_item_is_in_one_window(sequences: Sequences, batch_targets: int, epoch: int) -> None:
    windows = windows_of(WindowBatches(sequences, WINDOW, batch_targets, seed=3, epoch=epoch))
    assert sorted(item for window in windows for item in window) == list(range(sum(LENGTHS)))
    owners = sequences.owners()
    for window in windows:
        assert 1 <= len(window) <= WINDOW
        assert window == list(range(window[0], window[0] + len(window)))
        assert len(set(owners[window])) == 1


def test_padding_is_at_the_end(sequences: Sequences) -> None:
    for batch in WindowBatches(sequences, WINDOW, 40, seed=0, epoch=0):
        filled = (batch.items_BL >= 0).long()
        assert (filled.diff(dim=1) <= 0).all()
        assert filled[:, 0].all()
        assert filled[:, -1].any()


@pytest.mark.parametrize("batch_targets", [5, 12, 30])
def test_a_batch_stays_within_its_size(sequences: Sequences, batch_targets: int) -> None:
    sizes = [batch.items_BL.numel() for batch in WindowBatches(sequences, WINDOW, batch_targets, seed=0, epoch=0)]
    assert max(sizes) <= batch_targets
    assert len(sizes) < 2.5 * sum(LENGTHS) / batch_targets + 1  # and is not much smaller than it may be


def test_a_window_larger_than_a_batch_is_a_separate_batch(sequences: Sequences) -> None:
    batches = WindowBatches(sequences, WINDOW, 2, seed=0, epoch=0)
    assert all(len(batch.items_BL) == 1 for batch in batches if batch.items_BL.shape[1] > 1)


def test_same_seed_and_epoch_same_batches(sequences: Sequences) -> None:
    def drawn(seed: int, epoch: int) -> list[list[list[int]]]:
        return [batch.items_BL.tolist() for batch in WindowBatches(sequences, WINDOW, 20, seed, epoch)]

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


def test_cuts_fall_everywhere_over_the_epochs(sequences: Sequences) -> None:
    long_row = LENGTHS.index(40)
    start = int(sequences.offsets[long_row])
    firsts = set()
    for epoch in range(60):
        starts, lengths = cut_windows(sequences, WINDOW, np.random.default_rng((0, epoch)))
        assert lengths.min() >= 1
        firsts.add(int(lengths[starts == start][0]))
    assert firsts == {1, 2, 3, 4, 5}


def test_short_sequences_are_never_cut(sequences: Sequences) -> None:
    for epoch in range(5):
        starts, lengths = cut_windows(sequences, WINDOW, np.random.default_rng(epoch))
        for row, length in enumerate(LENGTHS):
            if 0 < length <= WINDOW:
                assert lengths[starts == sequences.offsets[row]].tolist() == [length]


def test_users_without_items_make_no_batch() -> None:
    assert len(WindowBatches(Sequences.from_lists([[], []]), WINDOW, 20, 0, 0)) == 0
