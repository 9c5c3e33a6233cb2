"""Small files of public datasets, and what reading them must give."""

import gzip
import json
from pathlib import Path
from typing import Any

from reg4rec.data import Dataset


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def histories(dataset: Dataset) -> dict[Any, list[Any]]:
    ids, users = dataset.items.ids.to_pylist(), dataset.user_ids.to_pylist()
    return {user: [ids[i] for i in dataset.sequences[row]] for row, user in enumerate(users)}


REVIEWS = [("A1", "B3", 30), ("A2", "B2", 5), ("A1", "B1", 10), ("A1", "B2", 20)]
EXPECTED = {"A1": ["B1", "B2", "B3"], "A2": ["B2"]}
