"""Sources of tables: a table in memory, a file, a folder of parts, or a pattern of files."""

import glob
from pathlib import Path
from typing import Any

from reg4rec.data.lines import file_kind
from reg4rec.errors import InputError

__all__ = ["is_table_source", "part_files"]


def part_files(path: Path) -> list[Path]:
    """The file itself, the files in a folder (such as Spark's parts), or those that match a pattern (part-*.csv).

    In a folder, hidden files and names that begin with "_" are left out. Sorted by name; InputError for no files or
    files of several kinds.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if not _is_hidden(file.relative_to(path))]
    elif glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        raise InputError(f"there is no file {path}")
    files = sorted(file for file in found if file.is_file())
    kinds = sorted({file_kind(file) for file in files})
    if len(kinds) != 1:
        held = f"files that end in {', '.join(kinds)}" if kinds else "no files"
        raise InputError(f"{path} has {held}; its parts must be tables of one kind")
    return files


def is_table_source(source: Any) -> bool:
    """Whether `read_interactions` takes `source`: a table, a file, a pattern, or a folder of Parquet files only.

    Other folders are for `load_dataset`, which recognizes datasets by their files.
    """
    if not isinstance(source, str | Path):
        return True
    path = Path(source)
    if not path.is_dir():
        return path.is_file() or glob.has_magic(str(path))
    files = [file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path))]
    return bool(files) and all(file_kind(file) == ".parquet" for file in files)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
