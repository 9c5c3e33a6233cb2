"""How artifacts are written and read: whole folders, never half ones; JSON and safetensors, never pickle.

Every artifact folder carries one JSON header with its `format`, `version` and `files`. A folder or file is written
under a temporary name beside its destination and renamed when complete, so a killed process leaves the old one or none.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reg4rec.errors import InputError

__all__ = [
    "atomic_file",
    "atomic_folder",
    "check_replaceable",
    "explained",
    "held",
    "is_temporary",
    "new_header",
    "read_header",
    "read_json",
    "read_tensors",
    "to_json",
    "write_json",
    "write_tensors",
]


MAX_JSON_BYTES = 1 << 26
"""Our headers have some kilobytes; a file beyond this is no header of ours."""
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG}


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a name is one under which something was to be written."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) is not None


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} cannot be written: {path.parent} is not a folder; choose another place") from None


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Answer a full disk or a forbidden place by an InputError that names `path`; every other error passes."""
    try:
        yield
    except _UnwritableError as error:  # of a part of `path`, under its temporary name
        raise _UnwritableError(path, error.reason) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise _UnwritableError(path, error.strerror or str(error)) from None


class _UnwritableError(InputError):
    def __init__(self, path: Path, reason: str):
        super().__init__(
            f"{path} cannot be written: {reason}; what was there is unchanged, free some space or choose another place"
        )
        self.reason = reason


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder that is filled file by file, and keep other processes of this kind out of it until the block ends.

    InputError where one is at work there. Where the system cannot lock a folder, all are let in.
    """
    try:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        where = "of that name is there" if isinstance(error, FileExistsError) else "is in its way"
        raise InputError(f"{folder} was to become a folder, but a file {where}; choose another name") from None
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another process is writing to {folder}; wait until it has ended, or choose another folder"
                ) from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: str | Path, mark: str, also: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without an error.

    It replaces a folder of its kind: one that holds the file `mark` and no others than the new one has or the patterns
    `also` allow. InputError for a folder with anything else in it, which stays as it is.
    """
    path = Path(path).resolve()
    with explained(path), _whole_folder(path, mark, also) as fresh:
        yield fresh


def check_replaceable(path: Path, mark: str, own: Sequence[str]) -> None:
    """InputError for a folder that holds anything but `mark` and what the patterns `own` allow."""
    if path == Path.cwd() or path in Path.cwd().parents:
        raise InputError(f"{path} is where you are; give the name of a folder in it")
    if not path.is_dir():
        return
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in (mark, *own))]
    if foreign or (names and mark not in names):
        raise InputError(
            f"{path} holds other files ({', '.join((foreign or names)[:3])}), which would be lost; choose a new folder"
        )


@contextlib.contextmanager
def _whole_folder(path: Path, mark: str, also: Sequence[str]) -> Iterator[Path]:
    _make_parent(path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{path} was to become a folder, but a file of that name is there; remove it or choose another name"
        )
    fresh, retired = _temporary_beside(path), _temporary_beside(path)
    fresh.mkdir()
    try:
        yield fresh
        check_replaceable(path, mark, [*also, *(entry.name for entry in fresh.iterdir())])
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
    with explained(path), _whole_file(path) as fresh:
        yield fresh


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
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


def to_json(value: Mapping[str, Any]) -> str:
    """`value` as readable JSON; numpy and torch scalars and arrays become numbers and lists, paths their names."""

    def plain(x: Any) -> Any:
        if isinstance(x, np.generic | np.ndarray | torch.Tensor):
            return x.tolist()
        if isinstance(x, Path):
            return str(x)
        raise TypeError(f"{type(x).__name__} has no JSON form")

    return json.dumps(value, indent=2, default=plain, ensure_ascii=False)


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write `to_json(value)`."""
    with atomic_file(path) as fresh:
        fresh.write_text(to_json(value) + "\n", encoding="utf-8")


def read_json(path: str | Path, most_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file; InputError if the file is missing, longer, or is not one JSON object."""
    path = Path(path)
    try:
        if path.stat().st_size > most_bytes:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; no header of reg4rec is that long")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {path.parent} the folder that was meant?") from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__} where a JSON object was expected")
    return value


def new_header(format: str, version: int, **facts: Any) -> dict[str, Any]:
    """The JSON header of an artifact. `files` will hold the checksums of its files by name; it is empty today."""
    return {"format": format, "version": version, "files": {}, **facts}


def read_header(path: str | Path, format: str, version: int, most_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON header of an artifact; InputError for another format or version, and for one without `files`."""
    header = read_json(path, most_bytes)
    if header.get("format") != format:
        raise InputError(f"{path} has format {header.get('format')!r} where {format!r} was expected")
    found = header.get("version")
    if type(found) is not int or found < 1:
        raise InputError(f"{path} has version {found!r} where the whole number {version} was expected")
    if found > version:
        raise InputError(f"{path} has version {found}, this reg4rec reads version {version}; install a newer reg4rec")
    if found < version:
        raise InputError(
            f"{path} has version {found}, this reg4rec reads version {version}; make it again with this reg4rec"
        )
    if not isinstance(header.get("files"), dict):
        raise InputError(f"{path} lacks the list of its files; make it again")
    return header


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors (contiguous copies on the CPU; aliases are stored twice)."""
    with atomic_file(path) as fresh:
        copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        fresh.touch()
        mode = fresh.stat().st_mode  # safetensors lets its owner alone read a file
        try:
            save_file(copies, fresh)
        except SafetensorError as error:  # which hides the errno of a full disk
            raise OSError(errno.ENOSPC, str(error)) from None
        fresh.chmod(mode)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU; InputError if it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        if Path(path).exists():
            raise InputError(f"{path} may not be read by this user; let its owner change that") from None
        raise InputError(f"{path} is missing; is {Path(path).parent} the folder that was meant?") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None
