"""Atomic writing: files and folders are written beside their destination, flushed to disk, then renamed.

After a kill or a power cut either the old or the new version exists. A writer locks its temporary folder, so that the
next writer can recognize and remove the leftovers of a killed one.
"""

import contextlib
import ctypes
import errno
import functools
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from reg4rec.errors import InputError

try:
    import fcntl
except ImportError:  # on Windows nothing is locked or swept
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "atomic_file",
    "atomic_folder",
    "check_own",
    "check_place",
    "check_replaceable",
    "disk_errors_explained",
    "exclusive_folder",
    "is_temporary",
    "sweep",
]

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG}
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
HERE, EXCHANGE = -100, 2
"""Linux constants: AT_FDCWD (paths are relative to the current folder) and RENAME_EXCHANGE (swap two names)."""


def is_temporary(path: Path) -> bool:
    """Whether a name is one of our temporary names."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.(tmp|old)", path.name) is not None


def _temporary_beside(path: Path, kind: str = "tmp") -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} cannot be written: {path.parent} is not a folder; choose another path") from None


@contextlib.contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk or missing permission into an InputError that names `path`."""
    try:
        yield
    except _UnwritableError as error:  # it names a temporary file inside `path`
        raise _UnwritableError(path, error.reason) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise _UnwritableError(path, error.strerror or str(error)) from None


class _UnwritableError(InputError):
    def __init__(self, path: Path, reason: str):
        super().__init__(
            f"{path} cannot be written: {reason}; what was there is unchanged, free some space or choose another path"
        )
        self.reason = reason


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Make a folder that is filled file by file, and lock it until the block ends.

    InputError if another process holds the lock. A system that cannot lock a folder admits every process.
    """
    try:
        with disk_errors_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        where = "of that name exists" if isinstance(error, FileExistsError) else "is in its path"
        raise InputError(f"{folder} cannot be made, because a file {where}; choose another name") from None
    lock = _lock(folder)
    if lock is None:
        raise InputError(f"another process is writing to {folder}; wait until it has ended, or choose another folder")
    try:
        yield
    finally:
        lock()


def _lock(folder: Path) -> Callable[[], None] | None:
    """Lock a folder and return a function that unlocks it; None if another process has locked it.

    On systems that cannot lock, such as some network file systems, nothing is locked.
    """
    if fcntl is None:
        return lambda: None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass
    return functools.partial(os.close, descriptor)


def sweep(folder: Path, name: str = "") -> None:
    """Remove leftovers of killed writers of `name` ("": of any name) from a folder; those of live processes stay.

    A folder that was renamed for its replacement, which never came, gets its name back.
    """
    if fcntl is None or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = [folder / entry.name for entry in entries if is_temporary(Path(entry.name))]
    for leftover in found:
        place = folder / leftover.name[1 : -len(".12345678.tmp")]
        if name not in ("", place.name) or leftover.is_symlink():
            continue
        with contextlib.suppress(OSError):  # another process sweeps too, or the leftover belongs to another user
            unlock = _lock(leftover)
            if unlock is None:
                continue
            if leftover.is_file():
                leftover.unlink()
            elif leftover.suffix == ".old" and not place.exists():
                leftover.rename(place)
            else:
                shutil.rmtree(leftover, ignore_errors=True)
            unlock()


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty, locked temporary folder beside `path`; it is removed afterwards unless it was renamed."""
    _make_parent(path)
    sweep(path.parent, path.name)
    while True:
        folder = _temporary_beside(path)
        folder.mkdir()
        unlock = _lock(folder)
        if unlock is not None and folder.is_dir():  # else another process swept it before it was locked
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        unlock()


@contextlib.contextmanager
def atomic_folder(path: str | Path, mark: str, also: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without an error.

    It replaces an earlier folder of its kind: one with the file `mark` and otherwise only names that the new folder has
    or the patterns `also` allow. InputError for a folder with anything else in it, which stays unchanged.
    """
    path = Path(path).resolve()
    check_place(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} cannot be made, because a file of that name exists; remove it or choose another name")
    with disk_errors_explained(path), _temporary_folder(path) as fresh:
        yield fresh
        check_replaceable(path, mark, [*also, *(entry.name for entry in fresh.iterdir())])
        _flush_all(fresh)
        _put(fresh, path)


def check_place(path: Path) -> None:
    """InputError for a folder that must not be replaced: the root, the current folder and its parents."""
    path = path.resolve()
    if path == Path.cwd() or path in Path.cwd().parents or path == path.parent:
        raise InputError(f"{path} is the current folder or contains it; name a subfolder")


def check_own(path: Path, own: Sequence[str]) -> None:
    """InputError for a folder that cannot take results: see `check_place`, or one with files but none of `own`.

    `own` are patterns. If one of them matches, the other files are the user's and stay.
    """
    check_place(path)
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None:
        raise InputError(f"{path} cannot be made, because {file} is a file; choose another name")
    names = sorted(entry.name for entry in path.iterdir() if not is_temporary(entry)) if path.is_dir() else []
    if names and not any(fnmatch(name, pattern) for name in names for pattern in own):
        raise InputError(f"{path} holds other files ({', '.join(names[:3])}); choose a new folder")


def check_replaceable(path: Path, mark: str, own: Sequence[str]) -> None:
    """InputError for a folder with files besides `mark` and those that the patterns `own` allow."""
    check_place(path)
    if not path.is_dir():
        return
    names = sorted(entry.name for entry in path.iterdir() if not is_temporary(entry))
    foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in (mark, *own))]
    if foreign or (names and mark not in names):
        raise InputError(
            f"{path} holds other files ({', '.join((foreign or names)[:3])}), which would be lost; choose a new folder"
        )


def _put(fresh: Path, path: Path) -> None:
    """Rename the folder `fresh` to `path`; an earlier `path` is swapped out or removed."""
    if not path.exists():
        fresh.rename(path)
    elif not _exchanged(fresh, path):
        retired, unlock = _temporary_beside(path, "old"), _lock(path)
        path.rename(retired)
        try:
            fresh.rename(path)
        except BaseException:
            retired.rename(path)
            raise
        finally:
            if unlock is not None:
                unlock()
        shutil.rmtree(retired, ignore_errors=True)
    _flush(path.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two names atomically; False if the system or its file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    if rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk; does nothing on file systems without fsync."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _flush_all(folder: Path) -> None:
    for below, _, files in os.walk(folder):
        for name in files:
            _flush(Path(below, name))
        _flush(Path(below))


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block ends without an error."""
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} cannot be written, because a folder of that name exists; remove it or choose another name"
        )
    with disk_errors_explained(path), _temporary_folder(path) as folder:
        fresh = folder / path.name
        yield fresh
        part_of_folder = any(map(is_temporary, path.parents))  # which is flushed as a whole
        if not part_of_folder:
            _flush(fresh)
        os.replace(fresh, path)
        if not part_of_folder:
            _flush(path.parent)
