"""What a long work says while it goes on: lines of the logger `reg4rec`, and bars, both on standard error.

    logging.getLogger("reg4rec").setLevel("WARNING")     # leave them out

Lines have the level INFO. The logger writes by itself, so that a notebook shows them; its handler can be replaced.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm.auto import tqdm

__all__ = ["bar", "counted", "quiet", "say"]

T = TypeVar("T")
LOGGER = logging.getLogger("reg4rec")


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
    LOGGER.info(line)


def bar(label: str, total: int, initial: int = 0, show: bool = True, **options: Any) -> "tqdm[Any]":
    """A bar with the remaining time, on a terminal or in a notebook alone; it goes when it is done."""
    from tqdm.auto import tqdm  # here, so that machines that only recommend need not have it

    hidden = None if show and LOGGER.isEnabledFor(logging.INFO) else True
    return tqdm(total=total, initial=initial, desc=label, disable=hidden, leave=False, **options)


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
