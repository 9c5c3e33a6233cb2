"""How artifacts are written and read: whole folders, never half ones; JSON and safetensors, never pickle.

Every artifact folder carries one JSON header with its `format` and `version`. A folder or file is written under a
temporary name beside its destination and renamed when complete, so a killed process leaves the old one or none.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reg4rec.errors import InputError

__all__ = ["atomic_file", "atomic_folder", "read_header", "read_json", "read_tensors", "write_json", "write_tensors"]


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} cannot be written: {path.parent} is not a folder; choose another place") from None


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without an error, replacing what was there."""
    path = Path(path)
    _make_parent(path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{path} was to become a folder, but a file of that name is there; remove it or choose another name"
        )
    fresh, retired = _temporary_beside(path), _temporary_beside(path)
    fresh.mkdir()
    try:
        yield fresh
        if path.exists():
            path.rename(retired)
        fresh.rename(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if retired.exists() and not path.exists():
            retired.rename(path)
        raise
    shutil.rmtree(retired, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block ends without an error."""
    path = Path(path)
    _make_parent(path)
    if path.is_dir():
        raise InputError(
            f"{path} was to become a file, but a folder of that name is there; remove it or choose another name"
        )
    fresh = _temporary_beside(path)
    try:
        yield fresh
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write `value` as readable JSON; numpy and torch scalars and arrays become numbers and lists."""

    def plain(x: Any) -> Any:
        if isinstance(x, np.generic | np.ndarray | torch.Tensor):
            return x.tolist()
        if isinstance(x, Path):
            return str(x)
        raise TypeError(f"{type(x).__name__} has no JSON form")

    with atomic_file(path) as fresh:
        fresh.write_text(json.dumps(value, indent=2, default=plain, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; InputError if the file is missing or is not one JSON object."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {path.parent} the folder that was meant?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__} where a JSON object was expected")
    return value


def read_header(path: str | Path, format: str, version: int) -> dict[str, Any]:
    """The JSON header of an artifact: `format` must match, `version` must not be newer than ours."""
    header = read_json(path)
    if header.get("format") != format:
        raise InputError(f"{path} has format {header.get('format')!r} where {format!r} was expected")
    found = header.get("version")
    if not isinstance(found, int) or found < 1:
        raise InputError(f"{path} has version {found!r} where a whole number from 1 to {version} was expected")
    if found > version:
        raise InputError(f"{path} has version {found}, this reg4rec reads up to {version}; install a newer reg4rec")
    return header


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors (contiguous copies on the CPU; aliases are stored twice)."""
    with atomic_file(path) as fresh:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, fresh)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU; InputError if it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {Path(path).parent} the folder that was meant?") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None
