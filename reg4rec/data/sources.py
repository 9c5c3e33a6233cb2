"""Where a table comes from: a table in memory, a file, a folder of parts, or a pattern of files."""

import glob
from pathlib import Path
from typing import Any

from reg4rec.data.lines import file_kind
from reg4rec.errors import InputError

__all__ = ["is_table_source", "part_files"]


def part_files(path: Path) -> list[Path]:
    """The file itself, the files of a folder (parts as Spark writes them), or those of a pattern such as part-*.csv.

    Hidden files and those that begin with "_" are left out; the others are sorted by name.
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
        held = f"files that end in {', '.join(kinds)}" if kinds else "no file"
        raise InputError(f"{path} holds {held}; its parts must be tables of one kind")
    return files


def is_table_source(source: Any) -> bool:
    """Whether it is for `read_interactions`: a table, a file, a pattern of files, or a folder of nothing but Parquet.

    A folder of other files is for `load_dataset`, which knows datasets by their files.
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
