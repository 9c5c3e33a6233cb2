"""The batch job: every row answered or rejected, parts that survive a kill, and a folder that belongs to one job."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reg4rec.batch import job, manifest
from reg4rec.batch.job import plan_batches, recommend_to_folder
from reg4rec.batch.users import UserFiles
from reg4rec.cli import main
from reg4rec.data import Sequences
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender
from reg4rec.storage import new_header, write_header
from reg4rec.writing import exclusive_folder
from tests.lists import check_lists

TEXTS = pa.list_(pa.string())


def write_users(path: Path, lists: Sequence[list[str] | None], **columns: Any) -> Path:
    pq.write_table(pa.table({**columns, "items": pa.array(lists, TEXTS)}), path, row_group_size=11)
    return path


@pytest.fixture
def users(histories: dict[str, list[str]], tmp_path: Path) -> Path:
    return write_users(tmp_path / "users.parquet", list(histories.values()), user_id=list(histories))


def recommended(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in sorted(out.glob("part-*.parquet"))])


def contents(out: Path) -> dict[str, bytes]:
    """Everything that a job writes, except the times."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "summary.json"}


def test_a_file_of_users_becomes_parts_and_a_summary(
    recommender: Recommender, histories: dict[str, list[str]], users: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = recommend_to_folder(recommender, users, out, k=3, users_in_part=10, progress=False)
    parts = [f"part-{n:05d}.parquet" for n in range(4)]
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", *parts, "rejected.parquet", "summary.json"]
    table = recommended(out)
    check_lists(table, histories, 3, set(recommender.items.ids.to_pylist()))
    expected = recommender.recommend(histories, k=3, to="polars")
    assert table.schema == expected.schema
    assert (table["item_id"] == expected["item_id"]).to_numpy().mean() > 0.95
    assert summary.items() <= json.loads((out / "summary.json").read_text()).items()
    assert (summary["users"], summary["rejected"], summary["recommendations"]) == (31, 0, 93)
    assert sum(summary["sources"].values()) == 93
    assert summary["paths_pruned"] > 0
    assert summary["batch_ms"]["p50"] <= summary["batch_ms"]["p95"] <= summary["batch_ms"]["p99"]
    made = json.loads((out / "manifest.json").read_text())["parts"]
    assert [(part["first_row"], part["rows"], sum(part["batches"])) for part in made] == [
        (0, 10, 10), (10, 10, 10), (20, 10, 10), (30, 1, 1)
    ]  # fmt: skip


def test_paths_and_seen_items_as_asked(recommender: Recommender, users: Path, tmp_path: Path) -> None:
    recommend_to_folder(recommender, users, tmp_path / "out", k=60, filter_seen=False, return_paths=False)
    table = recommended(tmp_path / "out")
    assert table.columns == ["user_id", "rank", "item_id", "score", "source"]
    assert len(table) == 31 * 60


def test_batches_hold_histories_of_similar_length_within_both_limits() -> None:
    lengths = np.random.default_rng(0).integers(0, 200, 500)
    batches = plan_batches(lengths, 32, 1000)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert max(map(len, batches)) == 32
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= 1000
    assert (np.diff(np.concatenate([lengths[rows] for rows in batches])) >= 0).all()
    assert plan_batches(np.array([5000]), 32, 1000)[0].tolist() == [0]
    assert plan_batches(np.empty(0, dtype=np.int64), 32, 1000) == []


def test_rows_that_cannot_be_used_are_rejected_and_the_others_go_on(recommender: Recommender, tmp_path: Path) -> None:
    lists = [["item1"], None, ["item2", None], ["item3"], [], ["item4"], ["gone", "item5"]]
    table = pa.table({"user_id": ["a", "b", "c", None, "e", "f", "g"], "items": pa.array(lists, TEXTS)})
    pq.write_table(table, tmp_path / "users.parquet")
    summary = recommend_to_folder(recommender, tmp_path / "users.parquet", tmp_path / "out", k=2, users_in_part=2)
    assert pl.read_parquet(tmp_path / "out" / "rejected.parquet").rows() == [
        (1, "b", "items is null"),
        (2, "c", "items holds a null"),
        (3, None, "user_id is null"),
    ]
    assert recommended(tmp_path / "out")["user_id"].to_list() == [user for user in "aefg" for _ in range(2)]
    assert (summary["users"], summary["rejected"], summary["unknown_items"]) == (4, 3, 1)


def test_text_that_is_not_utf8_and_ids_of_another_kind_are_rejected(
    recommender: Recommender, numbered: Recommender, tmp_path: Path
) -> None:
    def bytes_as_text(values: list[bytes]) -> pa.Array:
        return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())

    lists = pa.ListArray.from_arrays([0, 1, 2, 3], bytes_as_text([b"item1", b"\xff\xfe", b"item2"]))
    pq.write_table(pa.table({"user_id": bytes_as_text([b"a", b"b", b"\xff"]), "items": lists}), tmp_path / "u.parquet")
    recommend_to_folder(recommender, tmp_path / "u.parquet", tmp_path / "out", k=1)
    rejected = pl.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert rejected["row"].to_list() == [1, 2]
    assert rejected["user_id"].to_list() == ["b", None]
    assert all("UTF8" in reason for reason in rejected["reason"])
    assert recommended(tmp_path / "out")["user_id"].to_list() == ["a"]

    write_users(tmp_path / "text.parquet", [["1000"], [], ["1010", "1020"]])
    pq.write_table(pa.table({"items": [[1], [], [10, 20]]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"items": [[1000.0], [], [1010.5]]}), tmp_path / "fractions.parquet")
    for chosen, name, reason, unknown in (
        (numbered, "text", "item ids are string, but those of the catalog are int64", 3),
        (recommender, "numbers", "item ids are int64, but those of the catalog are string", 3),
        (numbered, "fractions", "Float value 1010.5", 0),
    ):
        out, where = tmp_path / f"{name}-out", tmp_path / f"{name}.parquet"
        with pytest.warns(UserWarning, match="3 of 3") if unknown else contextlib.nullcontext():
            summary = recommend_to_folder(chosen, where, out, k=1, allow_unknown=True)
        found = dict(pl.read_parquet(out / "rejected.parquet").select("row", "reason").rows())
        assert found.keys() == ({0, 2} if unknown else {2})
        assert reason in found[2]
        assert summary["unknown_items"] == unknown
        assert 1 in recommended(out)["user_id"].to_list()


def test_columns_of_categories_are_cut_into_the_same_parts(
    recommender: Recommender, histories: dict[str, list[str]], users: Path, tmp_path: Path
) -> None:
    """Readers end a batch of dictionaries at the end of a row group."""
    categories = pl.DataFrame({"user_id": list(histories), "items": list(histories.values())}).cast(
        {"user_id": pl.Categorical, "items": pl.List(pl.Categorical)}
    )
    path = tmp_path / "categories.parquet"
    pq.write_table(categories.to_arrow(), path, row_group_size=11)
    assert pa.types.is_dictionary(pq.read_schema(path).field("user_id").type)
    for found, expected in zip(*(UserFiles(p, [p], recommender.items).parts(10) for p in (path, users)), strict=True):
        assert (found.first_row, found.num_rows) == (expected.first_row, expected.num_rows)
        assert found.users.to_pylist() == expected.users.to_pylist()
        np.testing.assert_array_equal(found.histories.items, expected.histories.items)
        np.testing.assert_array_equal(found.histories.offsets, expected.histories.offsets)
    for name, read in (("categories", path), ("text", users)):
        recommend_to_folder(recommender, read, tmp_path / name, k=2, users_in_part=10)
    assert recommended(tmp_path / "categories").rows() == recommended(tmp_path / "text").rows()


def test_users_without_ids_are_numbered_by_their_row(recommender: Recommender, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", [["item0"], ["item1"], None, ["item2"]])
    recommend_to_folder(recommender, users, tmp_path / "out", k=1, users_in_part=2)
    assert recommended(tmp_path / "out")["user_id"].to_list() == [0, 1, 3]


@pytest.mark.parametrize("lists", [[], [None, None]], ids=["no rows", "no good rows"])
def test_a_job_with_nothing_to_search_is_no_error(recommender: Recommender, lists: list[Any], tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", lists, user_id=pa.array(["u"] * len(lists), pa.string()))
    summary = recommend_to_folder(recommender, users, tmp_path / "out", k=1)
    assert (summary["users"], summary["rejected"], summary["batch_ms"]) == (0, len(lists), {})
    assert pl.read_parquet(tmp_path / "out" / "rejected.parquet").height == len(lists)


@pytest.mark.slow
def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lists = [[f"item{i}" for i in rng.integers(0, 60, rng.integers(0, 30))] for _ in range(1999)]
    users = write_users(tmp_path / "users.parquet", [*lists[:1234], None, *lists[1234:]])

    def command(out: str) -> list[str]:
        options = ["--input", str(users), "--output", str(tmp_path / out), "--users-in-part", "40", "--device", "cpu"]
        return ["recommend", "--model", str(saved), *options]

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-m", "reg4rec.cli", *command("killed")]
    process = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "killed" / "part-00004.parquet").exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    manifest = json.loads((tmp_path / "killed" / "manifest.json").read_text())
    assert 4 <= len(manifest["parts"]) < 50
    assert not (tmp_path / "killed" / "summary.json").exists()
    (tmp_path / "killed" / "part-00001.parquet").write_bytes(b"half a part")  # as after a power cut

    done = subprocess.run(call, env=environment, check=True, capture_output=True, text=True)
    assert f"{len(manifest['parts']) - 1} of 50 parts were finished before" in done.stdout
    main(command("whole"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 52


def test_a_finished_job_is_left_alone_and_started_over_on_demand(
    recommender: Recommender, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = recommend_to_folder(recommender, users, out, k=2, users_in_part=10)
    before = contents(out)
    searched: list[int] = []
    search = Recommender.search

    def counted(recommender: Recommender, histories: Sequences, *args: Any) -> Any:
        searched.append(len(histories))
        return search(recommender, histories, *args)

    monkeypatch.setattr(Recommender, "search", counted)
    assert recommend_to_folder(recommender, users, out, k=2, users_in_part=10) == first
    assert not searched
    again = recommend_to_folder(recommender, users, out, k=2, users_in_part=10, resume=False)
    assert searched == [10, 10, 10, 1]
    assert again["parts_resumed"] == 0
    assert contents(out) == before
    wider = recommend_to_folder(recommender, users, out, k=2, users_in_part=20, resume=False)
    assert wider["parts"] == len(list(out.glob("part-*.parquet"))) == 2


def test_a_manifest_that_may_not_be_written_after_each_part_is_whole_at_the_end(
    recommender: Recommender, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend_to_folder(recommender, users, tmp_path / "often", k=2, users_in_part=3)
    monkeypatch.setattr(manifest, "MANIFEST_SECONDS", 0.0)
    monkeypatch.setattr(manifest, "MANIFEST_SHARE", 0.0)
    written: list[int] = []
    write = manifest._write_manifest

    def counted(out: Path, what: job.Job, parts: list[dict[str, Any]]) -> None:
        written.append(len(parts))
        write(out, what, parts)

    monkeypatch.setattr(manifest, "_write_manifest", counted)
    recommend_to_folder(recommender, users, tmp_path / "seldom", k=2, users_in_part=3)
    assert written == [0, 1, 11]
    assert contents(tmp_path / "seldom") == contents(tmp_path / "often")


def test_files_beside_the_parts_stay_when_a_job_starts_over(
    recommender: Recommender, users: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".manifest.json.0123abcd.tmp").write_text("{")  # of a job that was killed at once
    recommend_to_folder(recommender, users, out, k=2)
    before = contents(out)
    (out / "_SUCCESS").touch()
    recommend_to_folder(recommender, users, out, k=2, resume=False)
    assert contents(out) == before | {"_SUCCESS": b""}


def test_two_processes_do_not_write_to_one_folder(recommender: Recommender, users: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        exclusive_folder(out),
        pytest.raises(InputError, match=r"another process is writing to .*out; wait until it has ended"),
    ):
        recommend_to_folder(recommender, users, out, k=2)
    assert recommend_to_folder(recommender, users, out, k=2)["users"] == 31


def test_a_folder_of_another_job_or_of_something_else_is_refused(
    recommender: Recommender, users: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recommend_to_folder(recommender, users, out, k=2)
    before = contents(out)
    other_users = write_users(tmp_path / "others.parquet", [["item1"]])
    for what, how in (
        ("input", lambda: recommend_to_folder(recommender, other_users, out, k=2)),
        ("recommender", lambda: recommend_to_folder(recommender.with_search(num_steps=2), users, out, k=2)),
        ("filter_seen, k", lambda: recommend_to_folder(recommender, users, out, k=3, filter_seen=False)),
    ):
        with pytest.raises(InputError, match=rf"another job \({what} differ\).* start over with resume off"):
            how()
    (tmp_path / ".draft.tmp").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(\.draft\.tmp"):
        recommend_to_folder(recommender, users, tmp_path, k=2)
    assert (tmp_path / ".draft.tmp").read_text() == "mine"
    write_header(out / "manifest.json", new_header("reg4rec-recommendations", 4, job={}, parts=[3]))
    with pytest.raises(InputError, match="incomplete or damaged"):
        recommend_to_folder(recommender, users, out, k=2)
    assert {name: data for name, data in contents(out).items() if name != "manifest.json"}.items() <= before.items()


def test_files_that_hold_no_histories_are_refused(
    recommender: Recommender, numbered: Recommender, tmp_path: Path
) -> None:
    path, out = tmp_path / "users.parquet", tmp_path / "out"
    for table, message in (
        (pa.table({"history": [["item1"]]}), r"needs a column 'items', or .*; found \['history'\]"),
        (pa.table({"items": ["item1"]}), "must be a list of item ids"),
        (pa.table({"items": [[{"id": "item1"}]]}), "item ids are int64 in the catalog, struct<id: string> in"),
    ):
        pq.write_table(table, path)
        with pytest.raises(InputError, match=message):
            recommend_to_folder(numbered, path, out)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        recommend_to_folder(recommender, path, out)
    with pytest.raises(InputError, match="users_in_part is 0; it must be 1 or more"):
        recommend_to_folder(recommender, path, out, users_in_part=0)
    assert not out.exists()


def test_a_truncated_file_is_reported_and_finished_parts_stay(
    recommender: Recommender, users: Path, tmp_path: Path
) -> None:
    whole = users.read_bytes()
    group = pq.ParquetFile(users).metadata.row_group(2).column(1)
    begin = group.dictionary_page_offset or group.data_page_offset
    users.write_bytes(whole[:begin] + bytes(group.total_compressed_size) + whole[begin + group.total_compressed_size :])
    with pytest.raises(InputError, match="cannot be read from row 20 on"):
        recommend_to_folder(recommender, users, tmp_path / "out", k=2, users_in_part=10)
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 2
    assert not list((tmp_path / "out").glob(".*"))


def test_a_part_of_another_job_is_named(recommender: Recommender, users: Path, tmp_path: Path) -> None:
    """Whoever reads part-*.parquet would take it for this job's."""
    out = tmp_path / "out"
    recommend_to_folder(recommender, users, out, k=2, users_in_part=10)
    before = contents(out)
    for resume in (True, False):
        (out / "part-00099.parquet").write_bytes(before["part-00001.parquet"])
        if not resume:  # a job that starts over removes every part and writes all again
            recommend_to_folder(recommender, users, out, k=2, users_in_part=10, resume=False)
            break
        with pytest.raises(InputError, match=r"part-00099\.parquet, which this job of 4 parts did not write"):
            recommend_to_folder(recommender, users, out, k=2, users_in_part=10)
    assert contents(out) == before


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_finished_job_whose_summary_is_damaged_is_summed_up_again(
    recommender: Recommender, users: Path, tmp_path: Path, damage: bytes | None
) -> None:
    out = tmp_path / "out"
    first = recommend_to_folder(recommender, users, out, k=2)
    (out / "summary.json").unlink()
    if damage is not None:
        (out / "summary.json").write_bytes(damage)
    again = recommend_to_folder(recommender, users, out, k=2)
    assert {name: again[name] for name in ("users", "recommendations", "sources")} == {
        name: first[name] for name in ("users", "recommendations", "sources")
    }
