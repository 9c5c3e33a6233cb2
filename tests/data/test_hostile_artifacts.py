"""Artifacts with false headers, types and sizes are refused before they cost memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from reg4rec.data import Dataset, synthetic_shop
from reg4rec.errors import InputError
from reg4rec.model import ModelConfig, Reg4RecModel
from reg4rec.storage import read_header, read_json, read_tensors, write_json, write_tensors
from tests.artifacts import reseal


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_shop(num_users=20, num_items=15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "not readable JSON"),
        (b"9" * 10_000, "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b"[1]", "contains a list"),
    ],
)
def test_hostile_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "x.json")


def test_a_header_is_short_and_of_a_known_version(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 27)
    with pytest.raises(InputError, match="no header of reg4rec is that long"):
        read_json(tmp_path / "x.json")
    for version, message in ((True, "whole number"), (9, "newer reg4rec"), (1, "make it again")):
        write_json(tmp_path / "x.json", {"format": "f", "version": version})
        with pytest.raises(InputError, match=message):
            read_header(tmp_path / "x.json", "f", 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (58).to_bytes(8, "little") + b'{"x":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}    ' + b"\0" * 4,
        (63).to_bytes(8, "little") + b'{"x":{"dtype":"F32","shape":[9999999],"data_offsets":[0,4]}}   ' + b"\0" * 4,
    ],
)
def test_hostile_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"card": 5},
        {"name": None},
        {"category_level": "3"},
        {"category_level": -1},
        {"split": {"kind": "x"}},
        {"split": 1},
    ],
)
def test_a_dataset_header_of_wrong_types_is_refused(tmp_path: Path, data: Dataset, change: dict[str, Any]) -> None:
    data.save(tmp_path / "set")
    reseal(tmp_path / "set" / "dataset.json", change)
    with pytest.raises(InputError):
        Dataset.load(tmp_path / "set")


@pytest.mark.parametrize(
    "table",
    [
        {"user_id": [1], "item_rows": ["a"]},
        {"user_id": [1], "item_rows": [["a"]]},
        {"user_id": [1], "item_rows": [[None]]},
        {"user_id": [1], "item_rows": [None]},
        {"user_id": [1], "item_rows": [[2**40]]},
        {"user_id": [1], "item_rows": [[0, 1]], "times": [[1]]},
        {"user_id": [1], "item_rows": [[0, 1]], "times": ["x"]},
        {"user_id": [None], "item_rows": [[0]]},
    ],
)
def test_sequences_of_wrong_types_are_refused(tmp_path: Path, data: Dataset, table: dict[str, Any]) -> None:
    data.save(tmp_path / "set")
    pq.write_table(pa.table(table), tmp_path / "set" / "sequences.parquet")
    reseal(tmp_path / "set" / "dataset.json")
    with pytest.raises(InputError):
        Dataset.load(tmp_path / "set")


def test_matrices_of_another_kind_in_a_folder_are_refused(tmp_path: Path, data: Dataset) -> None:
    data.with_vectors({"image": np.ones((15, 2))}).save(tmp_path / "set")
    write_tensors(tmp_path / "set" / "vectors.safetensors", {"image": torch.ones(15, 2, dtype=torch.float64)})
    reseal(tmp_path / "set" / "dataset.json")
    with pytest.raises(InputError, match="stored as float32"):
        Dataset.load(tmp_path / "set")


@pytest.mark.parametrize(
    "change",
    [
        {"num_blocks": 10**9},
        {"dim": 10**9},
        {"ffn_dim": 2**62},
        {"dim": "64"},
        {"num_items": 10**12},
        {"num_items": "15"},
        {"num_codebooks": 2.5},
        {"history_layout": ["pooled"]},
        {"more": 1},
    ],
)
def test_a_model_of_false_sizes_takes_no_memory(tmp_path: Path, change: dict[str, Any]) -> None:
    Reg4RecModel(ModelConfig(2, 4, 3, dim=8, num_heads=2, ffn_dim=8, num_blocks=1)).save_pretrained(tmp_path)
    header = read_json(tmp_path / "model.json")
    reseal(tmp_path / "model.json", {"config": header["config"] | change})
    with pytest.raises(InputError):
        Reg4RecModel.from_pretrained(tmp_path)


def test_columns_of_one_name_are_refused(tmp_path: Path, data: Dataset) -> None:
    data.save(tmp_path / "set")
    twice = pa.table([pa.array([1]), pa.array([1]), pa.array([[0]])], names=["user_id", "user_id", "item_rows"])
    pq.write_table(twice, tmp_path / "set" / "sequences.parquet")
    reseal(tmp_path / "set" / "dataset.json")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        Dataset.load(tmp_path / "set")
