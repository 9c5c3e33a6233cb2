"""What a long work says while it goes on: lines of the logger `reg4rec`, and bars, both on standard error.

    logging.getLogger("reg4rec").setLevel("WARNING")     # leave them out

Where standard error is no terminal, a long work says a line every few seconds in place of a bar.

Lines have the level INFO. The logger writes by itself, so that a notebook shows them; its handler can be replaced.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

__all__ = ["Bar", "bar", "counted", "quiet", "say"]

T = TypeVar("T")
LOGGER = logging.getLogger("reg4rec")
INTERVAL = 5.0
"""Seconds without a line after which a work that goes on says one."""


class _Handler(logging.Handler):
    """Writes to what is standard error at the moment, which tests and notebooks exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


if not LOGGER.handlers:
    LOGGER.addHandler(_Handler())
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def say(line: str) -> None:
    """A line about a work that goes on."""
    _Lines.said = time.monotonic()
    LOGGER.info(line)


class Bar(Protocol):
    """The progress of a loop: how much it has done, and values to show with it."""

    def update(self, n: int = 1, /) -> Any: ...

    def set_postfix(self, values: Mapping[str, Any], /) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class _Lines:
    """A bar where there is no terminal: a line, together with the works around it, where none came for INTERVAL.

    Works that follow each other without a pause count as one, so that many short ones are not silent either.
    """

    said = 0.0
    """when the last line was said, or a work began after a pause"""
    busy = -INTERVAL
    """when a work was last heard of"""
    works: ClassVar[list["_Lines"]] = []
    """those that go on, the outermost first"""

    def __init__(self, label: str, total: int, initial: int, unit: str):
        self.label, self.total, self.done, self.initial, self.unit = label, total, initial, initial, unit
        self.values = ""

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        if self.began - _Lines.busy >= INTERVAL:
            _Lines.said = self.began
        self.works.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.works.remove(self)
        _Lines.busy = time.monotonic()

    def update(self, n: int = 1, /) -> None:
        self.done += n
        _Lines.busy = time.monotonic()
        if _Lines.busy - _Lines.said >= INTERVAL:
            say(", ".join(work.line(_Lines.busy) for work in self.works))

    def set_postfix(self, values: Mapping[str, Any], /) -> None:
        self.values = "".join(f", {name} {value}" for name, value in values.items())

    def line(self, now: float) -> str:
        """How far the work is at that moment, and how long the rest will take."""
        made = self.done - self.initial
        left = f", {round((now - self.began) / made * (self.total - self.done))} s left" if made else ""
        return f"{self.label}: {self.done:,} of {self.total:,}{self.unit}{left}{self.values}"


def bar(label: str, total: int, initial: int = 0, show: bool = True, unit: str = "") -> Bar:
    """A bar with the remaining time on a terminal or in a notebook, gone when it is done; elsewhere lines now and then.

    Of a group of processes only the first one shows it.
    """
    from tqdm.auto import tqdm  # here, so that what shows no bar starts without it

    shown = show and LOGGER.isEnabledFor(logging.INFO) and os.environ.get("RANK", "0") == "0"
    found = tqdm(
        total=total, initial=initial, desc=label, disable=None if shown else True, leave=False, unit=unit or "it"
    )
    return _Lines(label, total, initial, unit) if shown and found.disable else found


def counted(batches: Sequence[T], label: str) -> Iterator[T]:
    """The batches one after the other, with a bar."""
    with bar(label, len(batches)) as done:
        for batch in batches:
            yield batch
            done.update()


@contextlib.contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Within the block no lines and bars are shown, if that is wanted."""
    before = LOGGER.level
    if wanted:
        LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(before)
