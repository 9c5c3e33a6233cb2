"""The command line `reg4rec`: what a process does around its command, before anything large is imported."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = ["main"]

AGAIN = "run the same command again to go on from the last checkpoint"


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
    """Within the block SIGINT and SIGTERM raise KeyboardInterrupt once; a second one ends the process."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopped_by.append(number)
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, stop)
    except ValueError:  # only the main thread may
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
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
