"""Rows of separated text with a header line, with tolerance for stray quotation marks.

A field is quoted if it begins with a quotation mark and ends with one right before a separator or the end of a line; it
may contain separators and line ends. Any other quotation mark is text: `12" pipe`, or a title that opens with one. A
quoted field over several lines is text too if each of these lines is a row itself: otherwise a stray mark would swallow
all rows up to the next mark.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reg4rec.data.lines import BadLines, is_utf8
from reg4rec.errors import InputError

__all__ = ["Layout", "read_header", "tidy_rows"]

CHUNK = 8 << 20
LONGEST_FIELD = 1 << 20
SAMPLE = 256 << 10
SELDOM = 0.02
QUOTE, FEED, RETURN = b'"\n\r'
QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"')
ESCAPED = re.compile(rb'"([^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+)"', re.DOTALL)
CHARACTERS = tuple(map(re.compile, (rb"\d", rb"[A-Za-z\x80-\xff]", rb"\s", rb"[^\w\s\x80-\xff]")))
OPEN = "is not a row (a quotation mark is left open)"

Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


class Layout(NamedTuple):
    """The format of a file: separator, column names, whether quotation marks quote, byte offset of the first row."""

    separator: bytes
    names: list[str]
    quoted: bool
    start: int


def read_header(path: Path, content: bytes, separator: str, quoted: bool) -> Layout:
    """The layout from the first line; if that has only ";", tabs or "|", these replace the default `separator`."""
    end = content.find(b"\n") + 1 or len(content)
    try:
        line = content[:end].decode().rstrip("\r\n")
        others = [mark for mark in ",;\t|" if mark in line]
        if quoted and separator not in line and len(others) == 1:
            separator = others[0]
        fields = next(csv.reader([line], delimiter=separator)) if quoted else line.split(separator)
        names = [name.strip() for name in fields]
        if not any(names) or any("\0" in name for name in names):
            raise ValueError
    except (StopIteration, ValueError, csv.Error):
        raise InputError(f"{path} cannot be read: it has no header line of column names in UTF-8; write one") from None
    return Layout(separator.encode(), names, quoted, end)


def tidy_rows(path: Path, content: bytes, layout: Layout, keys: list[int], bad: BadLines) -> tuple[bytes, int]:
    """The rows as standard CSV, and their number; lines that are not rows are counted in `bad`.

    `keys` are the columns of ids and times. A line within a quoted field could be a row if its values there consist of
    the same kinds of characters as those of other rows.
    """
    reader = _Reader(content, layout, keys)
    pieces, kept, inner = [], layout.start, 0
    for number, start, end in _odd_lines(content, layout):
        if start < kept:  # part of a multi-line row
            continue
        pieces.append(content[kept:start])
        kept = end
        if content[start:end].strip():
            problem, row, kept = reader.row(start, end)
            if problem is None:
                pieces.append(_written(row, layout))
                inner += sum(field.count(b"\n") for field in row)
            else:
                bad.add(path, number, problem)
    pieces.append(content[kept:])
    tidy = b"".join(pieces)
    return tidy, tidy.count(b"\n") + (tidy[-1:] not in (b"", b"\n")) - inner


def _written(fields: list[bytes], layout: Layout) -> bytes:
    if layout.quoted:
        fields = [b'"' + field.replace(b'"', b'""') + b'"' if field else b"" for field in fields]
    return layout.separator.join(fields) + b"\n"


def _odd_lines(content: bytes, layout: Layout) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every line that a standard CSV reader would not read as one row of the right width."""
    number, start = 2, layout.start
    while start < len(content):
        feed = content.rfind(b"\n", start, start + CHUNK)
        feed = content.find(b"\n", start) if feed < 0 else feed
        end = feed + 1 or len(content)
        places = np.frombuffer(content, np.uint8, end - start, start)
        ends = np.flatnonzero(places == FEED) + 1
        if feed < 0:
            ends = np.append(ends, end - start)
        starts = np.concatenate([[0], ends[:-1]])
        odd = _are_odd(places, starts, ends, layout)
        odd |= _not_utf8(content[start:end], starts, ends)
        for line in np.flatnonzero(odd):
            yield number + int(line), start + int(starts[line]), start + int(ends[line])
        number, start = number + len(ends), end


def _are_odd(places: npt.NDArray[np.uint8], starts: Places, ends: Places, layout: Layout) -> Bools:
    """Whether each line has a wrong number of fields, or quotation marks other than at the ends of fields."""
    width, separator = len(layout.names), layout.separator[0]
    cuts = np.flatnonzero(places == separator)
    odd = ends - starts <= (2 if width == 1 else 0)  # perhaps an empty line
    quotes = np.flatnonzero(places == QUOTE) if layout.quoted else cuts[:0]
    if len(quotes):
        first = np.searchsorted(quotes, starts)
        line = np.searchsorted(ends, quotes, "right")
        opens = (np.arange(len(quotes)) - first[line]) % 2 == 0
        around = np.concatenate([[FEED], places, [FEED, FEED]])
        before, after, beyond = around[quotes], around[quotes + 2], around[quotes + 3]
        good_open = (before == separator) | (before == FEED) | (before == QUOTE)
        good_close = (after == separator) | (after == FEED) | (after == QUOTE) | ((after == RETURN) & (beyond == FEED))
        odd[line[~np.where(opens, good_open, good_close)]] = True
        odd |= np.bincount(line, minlength=len(ends)) % 2 == 1
        within = np.searchsorted(quotes, cuts) - first[np.searchsorted(ends, cuts, "right")]
        cuts = cuts[within % 2 == 0]
    return odd | (np.diff(np.searchsorted(cuts, ends), prepend=0) != width - 1)


def _not_utf8(chunk: bytes, starts: Places, ends: Places) -> Bools:
    """Whether each line is not UTF-8."""
    if is_utf8(chunk):
        return np.zeros(len(ends), dtype=np.bool_)
    return np.array([not is_utf8(chunk[s:e]) for s, e in zip(starts.tolist(), ends.tolist(), strict=True)])


class _Reader:
    """Reads rows from the lines that `_odd_lines` finds."""

    def __init__(self, content: bytes, layout: Layout, keys: list[int]):
        self.content, self.layout, self.keys = content, layout, keys
        self.width, self.opening = len(layout.names), layout.separator + b'"'

    def row(self, start: int, end: int) -> tuple[str | None, list[bytes], int]:
        """The problem of the row that begins with this line (None if it is fine), its fields, and its end."""
        line = self.content[start:end].rstrip(b"\r\n")
        if not is_utf8(line):
            return "is not UTF-8", [], end
        plain = line.split(self.layout.separator)
        if not self.layout.quoted or not (line[:1] == b'"' or self.opening in line):
            return self._misfit(plain), plain, end
        for pattern in (QUOTED, ESCAPED) if b'\\"' in line else (QUOTED,):
            fields, done = self._fields(start, len(self.content), pattern)
            if len(fields) == self.width and (done <= end or self._is_one(start, done)):
                return self._left_open(fields), fields, done
        alone, _ = self._fields(start, end, QUOTED)
        for fields in (alone, plain):
            if len(fields) == self.width:
                return self._left_open(fields), fields, end
        return self._misfit(alone), [], end

    def _left_open(self, fields: list[bytes]) -> str | None:
        """OPEN if an id or time begins with an unbalanced quotation mark, which is plausible only between tabs."""
        keys = [fields[key] for key in self.keys if self.layout.separator != b"\t"]
        return OPEN if any(key[:1] == b'"' and key.count(b'"') % 2 for key in keys) else None

    def _misfit(self, fields: list[bytes]) -> str | None:
        found = len(fields)
        return None if found == self.width else f"has {found} fields where {self.width} were expected"

    def _fields(self, start: int, limit: int, pattern: re.Pattern[bytes]) -> tuple[list[bytes], int]:
        """The fields of the row at `start`, and the start of the next one; ignores everything from `limit` on."""
        content, separator = self.content, self.layout.separator
        fields, place = [], start
        while True:
            marked = content[place : place + 1] == b'"'
            quoted = pattern.match(content, place, min(limit, place + LONGEST_FIELD)) if marked else None
            if quoted and self._closes(quoted.end(), limit):
                field, stop = _unquoted(quoted[1], pattern), quoted.end()
                stop += content[stop : stop + 1] == b"\r"
            else:
                feed = content.find(b"\n", place, limit)
                feed = limit if feed < 0 else feed
                cut = content.find(separator, place, feed)
                stop = feed if cut < 0 else cut
                field = content[place:stop] if cut >= 0 else content[place:stop].removesuffix(b"\r")
            fields.append(field)
            if stop >= limit or content[stop : stop + 1] != separator:
                return fields, min(stop + 1, limit)
            place = stop + 1

    def _closes(self, end: int, limit: int) -> bool:
        after = self.content[end : min(end + 2, limit)]
        return after[:1] in (b"", b"\n", self.layout.separator) or after in (b"\r\n", b"\r")

    def _is_one(self, start: int, end: int) -> bool:
        """Whether several lines form one row: they are UTF-8, and not every line is a row itself."""
        if not is_utf8(self.content[start:end]):
            return False
        usual = self._usual
        while start < end:
            feed = self.content.find(b"\n", start, end)
            stop = end if feed < 0 else feed + 1
            fields, _ = self._fields(start, stop, QUOTED)
            if len(fields) != self.width:
                return True
            kinds = {key: _kinds(fields[key]) for key in self.keys}
            usual = usual or {key: {kind} for key, kind in kinds.items()}
            if not all(kinds[key] in usual[key] for key in self.keys):
                return True
            start = stop
        return False

    @cached_property
    def _usual(self) -> dict[int, set[tuple[bool, ...]]]:
        """By key column: the combinations of character kinds in its values, from the first lines outside of quotes.

        Empty without such lines.
        """
        first, within = self.layout.start, False
        seen: dict[int, Counter[tuple[bool, ...]]] = {key: Counter() for key in self.keys}
        for line in self.content[first : first + SAMPLE].splitlines(keepends=True)[:-1]:
            fields, _ = self._fields(first, first + len(line), QUOTED)
            first += len(line)
            odd = line.count(b'"') % 2 == 1
            within ^= odd
            if len(fields) == self.width and not within and not odd:
                for key in self.keys:
                    seen[key][_kinds(fields[key])] += 1
        if not any(seen.values()):
            return {}
        return {key: {kind for kind, n in found.items() if n > SELDOM * found.total()} for key, found in seen.items()}


def _unquoted(field: bytes, pattern: re.Pattern[bytes]) -> bytes:
    if pattern is ESCAPED:
        field = re.sub(rb'\\(["\\])', rb"\1", field)
    return field.replace(b'""', b'"')


def _kinds(value: bytes) -> tuple[bool, ...]:
    return tuple(kind.search(value) is not None for kind in CHARACTERS)
