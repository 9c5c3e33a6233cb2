"""Artifacts whose checksums are right, but whose content none of our writers would produce."""

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
    """Rewrite a header with other entries and the checksums of the present files."""
    header = json.loads(path.read_text()) | (changes or {})
    kept = {name: value for name, value in header.items() if name not in without}
    write_header(path, kept, [name for name in header["files"] if (path.parent / name).exists()])


def of_any_items(model: Reg4RecModel) -> Reg4RecModel:
    """The model with shared weights but no catalog: it accepts tokens and items that it was not trained on."""
    model = copy.copy(model)
    model.catalog = None
    return model


def of_kinds(data: Dataset, kinds: Kinds) -> Dataset:
    """The same users, interactions and items, of these kinds."""
    return Dataset.build(data.name, data.user_ids, data.sequences, data.items, times=data.times, kinds=kinds)
