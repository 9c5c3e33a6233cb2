"""The batch job over a Ray cluster: the same rows as in one process, also when a worker is killed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reg4rec.batch.cluster import recommend_on_cluster
from reg4rec.batch.job import recommend_to_folder
from reg4rec.batch.users import UserFiles
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender

SECONDS = 150
"""a test waits at most this long for the cluster"""


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users for 40 parts; one row cannot be used."""
    rng = np.random.default_rng(0)
    lists: list[Any] = [[f"item{i}" for i in rng.integers(0, 60, rng.integers(0, 30))] for _ in range(2000)]
    lists[777] = None
    path = tmp_path_factory.mktemp("users") / "users.parquet"
    pq.write_table(pa.table({"items": pa.array(lists, pa.list_(pa.string()))}), path, row_group_size=300)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing and two workers of one CPU each, like two machines."""
    pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        yield cluster
        cluster.shutdown()


def recommend(cluster: Any, saved: Path, users: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "reg4rec.cli", "recommend", "--model", str(saved), "--input", str(users)]
    command += ["--output", str(out), "--users-in-part", "50", "--device", "cpu", "--engine", "ray"]
    command += ["--address", cluster.address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def recommended(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in sorted(out.glob("part-*.parquet"))])


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_makes_the_rows_of_one_process(
    cluster: Any, recommender: Recommender, saved: Path, users: Path, tmp_path: Path
) -> None:
    none = recommend(cluster, saved, users, tmp_path / "none")
    _, said = none.communicate(timeout=SECONDS)
    assert none.returncode == 2
    assert "the Ray cluster has 0 CPUs, an actor needs 1" in said

    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    process, out = recommend(cluster, saved, users, tmp_path / "out"), tmp_path / "out"
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None and not list(out.glob("part-*.parquet")):
        time.sleep(0.02)
    assert len(list(out.glob("part-*.parquet"))) < 40
    cluster.remove_node(workers[0], allow_graceful=False)
    said, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert "1,999 users" in said

    recommend_to_folder(recommender, users, tmp_path / "one", users_in_part=50, progress=False)
    found, expected = recommended(out), recommended(tmp_path / "one")
    assert found.drop("score").equals(expected.drop("score"))
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-4)
    rejected = [pl.read_parquet(folder / "rejected.parquet") for folder in (out, tmp_path / "one")]
    assert rejected[0].rows() == rejected[1].rows() == [(777, 777, "items is null")]


def test_a_part_is_read_out_of_the_row_groups_that_hold_it(recommender: Recommender, users: Path) -> None:
    file = UserFiles(users, [users], recommender.items)
    for number, expected in enumerate(file.parts(170)):
        part = file.part(number * 170, 170)
        assert (part.first_row, part.num_rows) == (expected.first_row, expected.num_rows)
        assert part.users.equals(expected.users)
        assert part.rejected.equals(expected.rejected)
        np.testing.assert_array_equal(part.histories.items, expected.histories.items)
        np.testing.assert_array_equal(part.histories.offsets, expected.histories.offsets)


def test_without_ray_the_extra_is_named(
    saved: Path, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"ray is not installed; pip install 'reg4rec\[ray\]'"):
        recommend_on_cluster(saved, users, tmp_path / "out")
    assert not (tmp_path / "out").exists()
