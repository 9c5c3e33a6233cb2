"""A job: what is measured once is read afterwards, and what was killed continues."""

from pathlib import Path

import numpy as np
import pytest

from reg4rec.errors import InputError
from reg4rec.experiments.job import Job


def measured_again() -> int:
    raise AssertionError("a finished fact was measured again")


def killed() -> int:
    raise KeyboardInterrupt


def test_a_fact_is_measured_once_and_a_killed_job_continues(tmp_path: Path) -> None:
    first = Job(tmp_path, "tea", {"leaves": (1, 2)})
    assert first.once("cups", lambda: (3, 4)) == [3, 4]
    with pytest.raises(KeyboardInterrupt):
        first.once("pots", killed)

    def pots() -> int:
        again.keep(rank_B=np.arange(3))
        return 5

    again = Job(tmp_path, "tea", {"leaves": [1, 2]})
    assert again.path == first.path
    assert again.once("cups", measured_again) == [3, 4]
    assert again.once("pots", pots) == 5
    read = Job(tmp_path, "tea", {"leaves": [1, 2]})
    assert (read.once("pots", measured_again), read.ranks["rank_B"].tolist()) == (5, [0, 1, 2])


def test_other_settings_lie_beside_and_changed_ranks_are_noticed(tmp_path: Path) -> None:
    job, other = Job(tmp_path, "tea", {"leaves": 1}), Job(tmp_path, "tea", {"leaves": 2})
    job.keep(rank_B=np.arange(3))
    job.once("cups", lambda: 1)
    assert other.once("cups", lambda: 2) == 2
    (job.path.parent / "ranks.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match=r"ranks\.safetensors is not the file that was saved"):
        Job(tmp_path, "tea", {"leaves": 1}).once("cups", measured_again)
