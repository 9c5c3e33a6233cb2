"""The exported encoder gives the recommender's user vectors, and with them the same lists, without reg4rec."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch

from reg4rec.cli import main
from reg4rec.data import Sequences
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender
from reg4rec.recommend.exported import export_encoder

pytest.importorskip("onnxscript", reason="needs the extra onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

Rows = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def folder(exact: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("exported")
    exact.save_pretrained(where / "recommender")
    out = str(where / "vectors")
    main(["export", "--model", str(where / "recommender"), "--output", out, "--encoder", "--device", "cpu"])
    return where / "vectors"


def padded_rows(lists: list[list[int]], length: int) -> Rows:
    rows_BL = np.full((len(lists), length), -1, dtype=np.int64)
    for row_L, items in zip(rows_BL, lists, strict=True):
        newest = items[-length:]
        row_L[: len(newest)] = newest
    return rows_BL


def by_onnx(folder: Path, rows_BL: Rows) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    return session.run(["user_vectors"], {"item_rows": rows_BL})[0]


def by_torch(folder: Path, rows_BL: Rows) -> npt.NDArray[np.float32]:
    return torch.export.load(folder / "encoder.pt2").module()(torch.from_numpy(rows_BL)).numpy()


@pytest.mark.parametrize("run", [by_onnx, by_torch])
def test_user_vectors_are_those_of_the_recommender(folder: Path, exact: Recommender, run: Any) -> None:
    ids, longest = exact.items.ids.to_pylist(), exact.model.config.max_history
    draw = np.random.default_rng(0)
    for users, length in ((1, 2), (1, longest), (7, 5), (33, longest), (3, longest)):
        lists = [draw.integers(0, len(ids), draw.integers(0, length + 1)).tolist() for _ in range(users)]
        lists[-1] = []  # a user without a history
        if users == 3:
            lists[0] = draw.integers(0, len(ids), longest + 4).tolist()
        expected = exact.user_vectors([[ids[row] for row in items] for items in lists])
        found = run(folder, padded_rows(lists, length))
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("run", [by_onnx, by_torch])
def test_padding_may_be_anywhere_and_the_newest_items_are_read(folder: Path, exact: Recommender, run: Any) -> None:
    draw = np.random.default_rng(1)
    for users, length in ((1, 1), (4, 1), (9, 6), (33, 20), (5, 21), (3, 70)):
        rows_BL = draw.integers(0, len(exact.items), (users, length))
        rows_BL[draw.random((users, length)) < draw.random((users, 1))] = -1
        expected = exact.states(Sequences.from_lists([row_L[row_L >= 0] for row_L in rows_BL]))
        assert np.abs(run(folder, rows_BL) - expected).max() < 1e-5
    everything_1L = np.arange(len(exact.items))[None]
    expected = exact.states(Sequences.from_lists([everything_1L[0]]))
    assert np.abs(run(folder, everything_1L) - expected).max() < 1e-5
    with pytest.raises(Exception, match=r"out of bounds|invalid index"):
        run(folder, everything_1L + 1)


def test_the_files_alone_give_the_same_lists(folder: Path, exact: Recommender, shop: SyntheticShop) -> None:
    histories = shop.part("train").take(range(60))
    place = {item: row for row, item in enumerate(pq.read_table(folder / "catalog.parquet")["item_id"].to_pylist())}
    lists = [[place[f"item{row}"] for row in histories[user]] for user in range(60)]
    users_BD, items_ID = (
        by_onnx(folder, padded_rows(lists, exact.model.config.max_history)),
        np.load(folder / "items.npy"),
    )
    score_BI = users_BD.astype(np.float64) @ items_ID.astype(np.float64).T
    for score_I, seen in zip(score_BI, lists, strict=True):
        score_I[seen] = -np.inf
    assert np.array_equal(np.argsort(-score_BI, axis=1, kind="stable")[:, :10], exact.rank(histories, 10, True))


def test_what_cannot_be_exported_is_refused(
    recommender: Recommender, exact: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reg4rec.recommend.exported.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="GiB of weights, and an ONNX file holds 2 GiB"):
        export_encoder(exact, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is missing; pip install 'reg4rec\[onnx\]'"):
        export_encoder(exact, tmp_path)
    assert list(tmp_path.iterdir()) == []
