"""Text files, plain or gzip: their content, their lines, and a record of unreadable lines."""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from reg4rec.errors import InputError

__all__ = [
    "BadLines",
    "file_kind",
    "first_line",
    "is_utf8",
    "numbered_lines",
    "parse_json",
    "read_text",
    "whole_characters",
    "whole_text",
]

SHOWN = 5
BYTE_ORDER_MARK = codecs.BOM_UTF8
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
UNPACKED_SURELY = 256 << 20
UNPACKED_RATIO = 200
"""A gzip file may unpack to 256 MiB, or to 200 times its size if that is more; for log files 5 to 50 times is usual."""
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
UTF8_REMEDY = "save the file as UTF-8, for example by `iconv -f latin1 -t utf-8`"


@dataclass
class BadLines:
    """Problems found while reading files.

    `count` unreadable lines were left out, `first` describes some of them; InputError above `limit`. `nameless` has the
    number of rows without an id by column, `other_kinds` the number of rows of each kind without a weight, `hints`
    sentences about unused columns.
    """

    limit: int = 10
    count: int = 0
    first: list[str] = field(default_factory=list)
    nameless: dict[str, int] = field(default_factory=dict)
    other_kinds: dict[str, int] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise InputError(f"max_malformed is {self.limit}; give 0 or more")

    def add(self, path: Path, number: int, problem: str) -> None:
        """Count an unreadable line (numbered from 1); InputError above the limit."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{path.name} line {number} {problem}")
        if self.count > self.limit:
            remedy = UTF8_REMEDY if all("UTF-8" in line for line in self.first) else "fix the file"
            raise InputError(
                f"{path} has more than {self.limit} malformed lines: {'; '.join(self.first)}; {remedy}, or raise "
                "max_malformed to leave them out"
            )


def file_kind(path: Path) -> str:
    """The suffix that decides how a file is read: ".csv" for "clicks.csv" and for "clicks.csv.gz"."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


class _Unpacked(io.RawIOBase):
    """The content of a gzip file; InputError if it unpacks to an implausible size."""

    def __init__(self, path: Path):
        self.path, self.size, self.file = path, 0, gzip.open(path)  # noqa: SIM115
        self.limit = max(UNPACKED_SURELY, UNPACKED_RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.size += count
        if self.size > self.limit:
            raise InputError(
                f"{self.path} unpacks to more than {self.limit >> 20} MiB, over {UNPACKED_RATIO} times its size; "
                "if you expect that, unpack it yourself (gunzip) and give the plain file"
            )
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked if it ends in .gz; InputError if it cannot be read or is truncated."""
    try:
        packed = path.suffix.lower() == ".gz"
        with io.BufferedReader(_Unpacked(path), 1 << 20) if packed else path.open("rb") as file:
            yield file
    except GZIP_ERRORS as error:
        raise InputError(f"{path} is not a complete gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path) -> bytes:
    """The content of a file, unpacked if it ends in .gz, without a byte order mark; InputError if it is truncated."""
    with _opened(path) as file:
        return file.read().removeprefix(BYTE_ORDER_MARK)


def whole_text(path: Path) -> bytes:
    """`read_text`, with line feeds as line ends; UTF-16 with a byte order mark becomes UTF-8."""
    content = read_text(path)
    if content.startswith(UTF16_MARKS):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeError:
            raise InputError(f"{path} starts with a UTF-16 mark but is not UTF-16; {UTF8_REMEDY}") from None
    return content if b"\n" in content else content.replace(b"\r", b"\n")


def first_line(path: Path) -> bytes:
    """The first line of a file."""
    with _opened(path) as file:
        return file.readline().removeprefix(BYTE_ORDER_MARK)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-empty lines of a file with their numbers (from 1), without reading it whole."""
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if stripped := line.strip():
                yield number, stripped.removeprefix(BYTE_ORDER_MARK) if number == 1 else stripped


def is_utf8(text: bytes) -> bool:
    """Whether the bytes are valid UTF-8."""
    try:
        text.decode()
        return True
    except UnicodeDecodeError:
        return False


def parse_json(line: bytes) -> Any:
    """The value of a JSON line (NaN is allowed); None if it is not valid JSON.

    Lone surrogates (a text cut within an emoji) become U+FFFD.
    """
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return whole_characters(value) if b"\\u" in line else value


def whole_characters(value: Any) -> Any:
    """The value with lone surrogates in its texts replaced by U+FFFD."""
    if isinstance(value, str):
        return HALF_CHARACTER.sub("\ufffd", value)
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(one) for key, one in value.items()}
    return [whole_characters(one) for one in value] if isinstance(value, list | tuple) else value
