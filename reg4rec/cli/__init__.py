"""The command line `reg4rec`: what a process does around its command, before anything large is imported."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = ["main"]

AGAIN = "run the same command again to go on from the last checkpoint"
UNHEARD = 10.0
"""Seconds of computing after which a command that goes on was not stopped."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit 2 with one sentence on a mistake of the user or where memory or threads end.

    Exit 130 when interrupted, 143 when terminated; what was begun is then put away as after any error.
    """
    stopped_by: list[int] = []
    try:
        with _stopping(stopped_by):
            from reg4rec.cli.answer import run

            run(arguments)
    except BaseException as error:
        if stopped_by or isinstance(error, KeyboardInterrupt):  # some libraries make another error of it
            number = signal.Signals(stopped_by[0] if stopped_by else signal.SIGINT)
            word = "interrupted" if number == signal.SIGINT else "terminated"
            _leave(f"{word}; {AGAIN}", 128 + number)
        if (missing := _exhausted(error)) is not None:
            _leave(missing, 2)
        raise


@contextlib.contextmanager
def _stopping(stopped_by: list[int]) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise KeyboardInterrupt; a second one ends the process.

    Python swallows what is raised in a destructor, so it is raised again until the block ends.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        stopped_by.append(number)
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, UNHEARD, UNHEARD)
        raise KeyboardInterrupt

    def once_more(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGVTALRM: once_more}
    before = {number: signal.getsignal(number) for number in handlers}
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    except ValueError:  # only the main thread may
        before = {}
    try:
        yield
    finally:
        if before:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        for number, handler in before.items():  # type: ignore[assignment]
            signal.signal(number, handler)


def _exhausted(error: BaseException) -> str | None:
    """A sentence for the end of memory or of threads, by whichever library it is told."""
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in text and "alloc" in text):
        return "memory ran out; give this process more, or ask for less at a time (batch size, dimensions, users)"
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "the system allows no further thread; raise its limit (ulimit -u, -v), or set OMP_NUM_THREADS=1"
    return None


def _leave(sentence: str, status: int) -> None:
    print(f"reg4rec: {sentence}", file=sys.stderr)
    sys.exit(status)
