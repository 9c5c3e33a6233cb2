"""Reading and writing artifacts: JSON and safetensors, never pickle, with checksums.

Every artifact folder has one JSON header with `format`, `version`, the sha256 of its `files` and of itself;
`reg4rec.writing` writes it atomically.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reg4rec.errors import InputError
from reg4rec.writing import atomic_file

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = [
    "check_file",
    "entries",
    "new_header",
    "read_header",
    "read_json",
    "read_tensors",
    "sha256_of",
    "tensor_difference",
    "to_json",
    "weights_wanted",
    "write_header",
    "write_json",
    "write_tensors",
]


MAX_JSON_BYTES = 1 << 26
"""Size limit of a header; ours have a few kilobytes."""


def to_json(value: Mapping[str, Any]) -> str:
    """`value` as indented JSON; numpy and torch scalars and arrays become numbers and lists, paths strings."""

    def plain(x: Any) -> Any:
        if hasattr(x, "tolist"):
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
    """The object in a JSON file; InputError if it is missing, longer than `most_bytes`, or not one JSON object."""
    path = Path(path)
    try:
        if path.stat().st_size > most_bytes:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; no header of reg4rec is that long")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {path.parent} the right folder?") from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} contains a {type(value).__name__} where a JSON object was expected")
    return value


def new_header(format: str, version: int, **facts: Any) -> dict[str, Any]:
    """The JSON header of an artifact; `write_header` adds the checksums."""
    return {"format": format, "version": version, "files": {}, **facts}


def write_header(path: str | Path, header: Mapping[str, Any], files: Sequence[str] = ()) -> None:
    """Write a header with the sha256 of `files` (names in its folder) and of itself.

    Name each file in one header only; for a subfolder that has a header, name that header instead of its files.
    """
    path = Path(path)
    value = json.loads(to_json({**header, "files": {name: sha256_of(path.parent / name) for name in sorted(files)}}))
    value.pop("sha256", None)
    write_json(path, {**value, "sha256": _sha256_of_json(value)})


def read_header(
    path: str | Path,
    format: str,
    version: int,
    most_bytes: int = MAX_JSON_BYTES,
    verify: bool = True,
    later: Sequence[str] = (),
) -> dict[str, Any]:
    """The JSON header of an artifact; InputError for another format or version, or a wrong checksum.

    `verify=False` skips the checksums. The files `later` are not checked here; use `check_file`.
    """
    path = Path(path)
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
    files, own = header.get("files"), header.pop("sha256", None)
    if not isinstance(files, dict) or (verify and own is None):
        raise InputError(f"{path} has no checksums; make it again with this reg4rec")
    if verify and own != _sha256_of_json(header):
        raise InputError(f"{path} was changed after it was saved; copy the folder again, or make it again")
    for name, expected in files.items() if verify else ():
        if name not in later:
            check_file(path.parent / name, expected)
    return header


def entries(header: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a header except format, version and checksums."""
    return {name: value for name, value in header.items() if name not in new_header("", 0)}


def check_file(path: Path, sha256: str) -> None:
    """InputError if a file cannot be read or does not have that checksum."""
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {path.parent} the right folder?") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    if found != sha256:
        raise InputError(
            f"{path} is not the file that was saved with this folder (another sha256); "
            "copy the whole folder again, or make it again"
        )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_json(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_tensors(path: str | Path, tensors: "Mapping[str, torch.Tensor | npt.NDArray[Any]]") -> None:
    """Write named tensors or arrays as safetensors (contiguous copies on the CPU; shared memory is stored twice)."""
    import torch  # here, so that commands without tensors start without PyTorch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_file(path) as fresh:
        copies = {name: torch.as_tensor(t).detach().cpu().contiguous().clone() for name, t in tensors.items()}
        fresh.touch()
        mode = fresh.stat().st_mode  # safetensors makes files readable by the owner only
        try:
            save_file(copies, fresh)
        except SafetensorError as error:  # it hides the errno of a full disk
            raise OSError(errno.ENOSPC, str(error)) from None
        fresh.chmod(mode)


def read_tensors(path: str | Path) -> "dict[str, torch.Tensor]":
    """The tensors of a safetensors file, on the CPU; InputError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        if Path(path).exists():
            raise InputError(f"{path} may not be read by this user; ask its owner for permission") from None
        raise InputError(f"{path} is missing; is {Path(path).parent} the right folder?") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None


def tensor_difference(found: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, torch.Tensor]") -> str | None:
    """A sentence on the first tensor that is missing, unknown or has another shape or dtype; None if all match."""
    for name in sorted(found.keys() | wanted.keys()):
        one, other = (
            None if tensor is None else (tuple(tensor.shape), tensor.dtype)
            for tensor in (found.get(name), wanted.get(name))
        )
        if one != other:
            return f"{name} is {one} where {other} was expected"
    return None


def weights_wanted(build: "Callable[[], torch.nn.Module]") -> "dict[str, torch.Tensor]":
    """The state dictionary of the module that `build` makes, without memory for its weights and without filling them.

    `build` may not compute with its weights: for tensors without memory, PyTorch would import its compiler (150 MB).
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            changes_in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
            return (args[0] if args else kwargs["tensor"]) if changes_in_place else func(*args, **kwargs)

    with torch.device("meta"), Unfilled():
        return build().state_dict()
