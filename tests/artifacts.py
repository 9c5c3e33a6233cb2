"""Artifacts that are whole by their checksums, and yet hold what no writer of ours would put there."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reg4rec.data import Dataset
from reg4rec.data.events import Kinds
from reg4rec.model import Reg4RecModel
from reg4rec.storage import write_header


def reseal(path: Path, changes: dict[str, Any] | None = None, without: Sequence[str] = ()) -> None:
    """Write a header again, with other entries and the checksums of the files as they are now."""
    header = json.loads(path.read_text()) | (changes or {})
    kept = {name: value for name, value in header.items() if name not in without}
    write_header(path, kept, [name for name in header["files"] if (path.parent / name).exists()])


def of_any_items(model: Reg4RecModel) -> Reg4RecModel:
    """The model, its weights shared, as if made by hand: for tokens and items that it was not trained on."""
    model = copy.copy(model)
    model.catalog = None
    return model


def of_kinds(data: Dataset, kinds: Kinds) -> Dataset:
    """The same users, interactions and items, of these kinds."""
    return Dataset.build(data.name, data.user_ids, data.sequences, data.items, times=data.times, kinds=kinds)
