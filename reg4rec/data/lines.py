"""Text files, plain or gzip: their content, their lines, and the lines that cannot be read."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reg4rec.errors import InputError

__all__ = ["BadLines", "file_kind", "numbered_lines", "read_text", "readable_json", "readable_rows"]

SHOWN = 5
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclass
class BadLines:
    """Lines left out because they cannot be read: counted, the first ones shown; InputError above `limit`."""

    limit: int = 10
    count: int = 0
    first: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise InputError(f"max_malformed is {self.limit}; give 0 or more")

    def add(self, path: Path, number: int, problem: str) -> None:
        """Count a line, numbered from 1."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{path.name} line {number} {problem}")
        if self.count > self.limit:
            raise InputError(
                f"{path} has more than {self.limit} malformed lines: {'; '.join(self.first)}; mend the file, or raise "
                "max_malformed to leave them out"
            )


def file_kind(path: Path) -> str:
    """The ending that tells how a file is read: ".csv" of "clicks.csv" and of "clicks.csv.gz"."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_text(path: Path) -> bytes:
    """The content of a file, unpacked if it ends in .gz, without a byte order mark; InputError if it is cut short."""
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except GZIP_ERRORS as error:
        raise InputError(f"{path} is no whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return content.removeprefix(BYTE_ORDER_MARK)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, read piece by piece; empty ones are left out."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if stripped := line.strip():
                    yield number, stripped.removeprefix(BYTE_ORDER_MARK) if number == 1 else stripped
    except GZIP_ERRORS as error:
        raise InputError(f"{path} is no whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def readable_rows(path: Path, content: bytes, separator: str, quoted: bool, bad: BadLines) -> bytes:
    """The lines that have as many fields as the header; a record that spans lines is malformed here."""
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE

    def fields(line: bytes) -> int:
        return len(next(csv.reader([line.decode()], delimiter=separator, quoting=quoting, strict=True)))

    lines = content.splitlines()
    try:
        width = fields(lines[0])
    except (IndexError, StopIteration, UnicodeDecodeError, csv.Error):
        raise InputError(f"{path} cannot be read: it has no header line of column names in UTF-8; write one") from None

    def problem(line: bytes) -> str | None:
        try:
            found = fields(line)
        except csv.Error as error:
            return f"is no row ({error})"
        return None if found == width else f"has {found} fields where {width} were expected"

    return lines[0] + b"\n" + _without(path, lines[1:], 2, problem, bad)


def readable_json(path: Path, content: bytes, bad: BadLines) -> bytes:
    """The lines that hold one JSON object each."""

    def problem(line: bytes) -> str | None:
        return None if isinstance(parse_json(line), dict) else "is no JSON object"

    return _without(path, content.splitlines(), 1, problem, bad)


def parse_json(line: bytes) -> Any:
    """The value of a JSON line; None where it is not valid JSON (NaN is not)."""
    try:
        return json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _without(
    path: Path, lines: list[bytes], start: int, problem: Callable[[bytes], str | None], bad: BadLines
) -> bytes:
    kept = []
    for number, line in enumerate(lines, start):
        if not line.strip():
            continue
        try:
            found = problem(line)
        except UnicodeDecodeError:
            found = "is not UTF-8"
        if found is None:
            kept.append(line)
        else:
            bad.add(path, number, found)
    return b"\n".join(kept) + b"\n"
