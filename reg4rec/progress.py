"""Progress of long tasks on standard error: lines of the logger `reg4rec`, and bars.

    logging.getLogger("reg4rec").setLevel("WARNING")     # hide them

Where standard error is not a terminal, a long task prints a line every few seconds instead of a bar.

Lines have the level INFO. The logger has its own handler, so that notebooks show them; you can replace it.
"""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

__all__ = ["Bar", "bar", "counted", "quiet", "say"]

T = TypeVar("T")
LOGGER = logging.getLogger("reg4rec")
INTERVAL = 5.0
"""A running task prints a line after this number of seconds without one."""


class _Handler(logging.Handler):
    """Writes to the current `sys.stderr`, which tests and notebooks replace."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


if not LOGGER.handlers:
    LOGGER.addHandler(_Handler())
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def say(line: str) -> None:
    """Log a line about a running task."""
    _Lines.said = time.monotonic()
    LOGGER.info(line)


class Bar(Protocol):
    """A progress bar: `update` counts what is done, `set_postfix` shows values beside it."""

    def update(self, n: int = 1, /) -> Any: ...

    def set_postfix(self, values: Mapping[str, Any], /) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class _Lines:
    """A bar without a terminal: prints a line for all running tasks if none was printed for INTERVAL seconds.

    The clock runs on over tasks that follow each other without a pause, so a series of short tasks prints lines too.
    """

    said = 0.0
    """time of the last line, or of the first task after a pause"""
    busy = -INTERVAL
    """time of the last start, update or end of a task"""
    running: ClassVar[list["_Lines"]] = []
    """the running tasks, outermost first"""

    def __init__(self, label: str, total: int, initial: int, unit: str):
        self.label, self.total, self.done, self.initial, self.unit = label, total, initial, initial, unit
        self.values = ""

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        if self.began - _Lines.busy >= INTERVAL:
            _Lines.said = self.began
        self.running.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.running.remove(self)
        _Lines.busy = time.monotonic()

    def update(self, n: int = 1, /) -> None:
        self.done += n
        _Lines.busy = time.monotonic()
        if _Lines.busy - _Lines.said >= INTERVAL:
            say(", ".join(task.line(_Lines.busy) for task in self.running))

    def set_postfix(self, values: Mapping[str, Any], /) -> None:
        self.values = "".join(f", {name} {value}" for name, value in values.items())

    def line(self, now: float) -> str:
        """The progress of the task at time `now`, and the estimated seconds left."""
        made = self.done - self.initial
        left = f", {round((now - self.began) / made * (self.total - self.done))} s left" if made else ""
        return f"{self.label}: {self.done:,} of {self.total:,}{self.unit}{left}{self.values}"


def bar(label: str, total: int, initial: int = 0, show: bool = True, unit: str = "") -> Bar:
    """A progress bar with the remaining time on a terminal or in a notebook, removed at the end; elsewhere lines.

    In a group of processes only the first one shows it.
    """
    with warnings.catch_warnings():  # a notebook without ipywidgets gets bars of text, which is no fault
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm  # here, so that commands without a bar start faster

    shown = show and LOGGER.isEnabledFor(logging.INFO) and os.environ.get("RANK", "0") == "0"
    found = tqdm(
        total=total, initial=initial, desc=label, disable=None if shown else True, leave=False, unit=unit or "it"
    )
    return _Lines(label, total, initial, unit) if shown and found.disable else found


def counted(batches: Sequence[T], label: str) -> Iterator[T]:
    """Yield the batches, with a progress bar."""
    with bar(label, len(batches)) as done:
        for batch in batches:
            yield batch
            done.update()


@contextlib.contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Hide lines and bars within the block if `wanted`."""
    before = LOGGER.level
    if wanted:
        LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(before)
