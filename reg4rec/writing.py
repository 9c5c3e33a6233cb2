"""How files and folders take shape: beside their destination, whole, on the disk before they get its name.

A killed process or a power cut leaves the old one or the new one. The writer holds a lock on its temporary folder, so
that the next one can tell what a killed one left, and removes it.
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
except ImportError:  # Windows, where nothing is locked and nothing swept
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
"""Of Linux: names are relative to the present folder (AT_FDCWD); two names change places (RENAME_EXCHANGE)."""


def is_temporary(path: Path) -> bool:
    """Whether a name is one under which something is, or was, to be written."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.(tmp|old)", path.name) is not None


def _temporary_beside(path: Path, kind: str = "tmp") -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} cannot be written: {path.parent} is not a folder; choose another place") from None


@contextlib.contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
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
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Make a folder that is filled file by file, and keep other processes of this kind out of it until the block ends.

    InputError where one is at work there. Where the system cannot lock a folder, all are let in.
    """
    try:
        with disk_errors_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        where = "of that name is there" if isinstance(error, FileExistsError) else "is in its way"
        raise InputError(f"{folder} was to become a folder, but a file {where}; choose another name") from None
    lock = _lock(folder)
    if lock is None:
        raise InputError(f"another process is writing to {folder}; wait until it has ended, or choose another folder")
    try:
        yield
    finally:
        lock()


def _lock(folder: Path) -> Callable[[], None] | None:
    """Lock a folder and return what unlocks it; None where another process holds it.

    Where the system cannot lock, as on some network file systems, the lock is a pretense.
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
    """Remove what killed writers of that name, or of any, left in a folder; what a living process writes stays.

    A folder that was to be replaced and lost its name gets it back.
    """
    if fcntl is None or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = [folder / entry.name for entry in entries if is_temporary(Path(entry.name))]
    for leftover in found:
        place = folder / leftover.name[1 : -len(".12345678.tmp")]
        if name not in ("", place.name) or leftover.is_symlink():
            continue
        with contextlib.suppress(OSError):  # another process sweeps too, or it is another user's
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
def _workshop(path: Path) -> Iterator[Path]:
    """An empty, locked, temporary folder beside `path`, which goes if it still has its name at the end."""
    _make_parent(path)
    sweep(path.parent, path.name)
    while True:
        folder = _temporary_beside(path)
        folder.mkdir()
        unlock = _lock(folder)
        if unlock is not None and folder.is_dir():  # else another process took it for a killed one's
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        unlock()


@contextlib.contextmanager
def atomic_folder(path: str | Path, mark: str, also: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without an error.

    It replaces a folder of its kind: one that holds the file `mark` and no others than the new one has or the patterns
    `also` allow. InputError for a folder with anything else in it, which stays unchanged.
    """
    path = Path(path).resolve()
    check_place(path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{path} was to become a folder, but a file of that name is there; remove it or choose another name"
        )
    with disk_errors_explained(path), _workshop(path) as fresh:
        yield fresh
        check_replaceable(path, mark, [*also, *(entry.name for entry in fresh.iterdir())])
        _flush_all(fresh)
        _put(fresh, path)


def check_place(path: Path) -> None:
    """InputError for a folder that nothing may replace: the root, the present folder and those that hold it."""
    path = path.resolve()
    if path == Path.cwd() or path in Path.cwd().parents or path == path.parent:
        raise InputError(f"{path} is where you are, or holds it; give the name of a folder in it")


def check_own(path: Path, own: Sequence[str]) -> None:
    """InputError for a folder that is no place for results: see `check_place`, or full of other files than `own`.

    Where one file that the patterns `own` allow is there, those beside it are the user's and stay.
    """
    check_place(path)
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None:
        raise InputError(f"{path} was to become a folder, but {file} is a file; choose another name")
    names = sorted(entry.name for entry in path.iterdir() if not is_temporary(entry)) if path.is_dir() else []
    if names and not any(fnmatch(name, pattern) for name in names for pattern in own):
        raise InputError(f"{path} holds other files ({', '.join(names[:3])}); choose a new folder, or one of this kind")


def check_replaceable(path: Path, mark: str, own: Sequence[str]) -> None:
    """InputError for a folder that holds anything but `mark` and what the patterns `own` allow."""
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
    """Give a folder its name, and its temporary name to the one that had it."""
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
    """Let two names change places in one step, where the system and its file system can."""
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
    """Wait until a file, or the names in a folder, are on the disk; a file system that cannot tell is believed."""
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
            f"{path} was to become a file, but a folder of that name is there; remove it or choose another name"
        )
    with disk_errors_explained(path), _workshop(path) as folder:
        fresh = folder / path.name
        yield fresh
        part_of_folder = any(map(is_temporary, path.parents))  # which reaches the disk as a whole
        if not part_of_folder:
            _flush(fresh)
        os.replace(fresh, path)
        if not part_of_folder:
            _flush(path.parent)
