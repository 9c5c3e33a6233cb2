"""The entry point of the command line `reg4rec`: signals and exit codes, before anything large is imported."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = ["main"]

AGAIN = "run the same command again to resume from the last checkpoint"
UNHEARD = 10.0
"""CPU seconds after which a command that is still running is interrupted again."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; on a user's mistake or a lack of memory or threads, print one sentence and exit with code 2.

    Exit code 130 if interrupted, 143 if terminated, after the same cleanup as for any error.
    """
    stopped_by: list[int] = []
    try:
        with _stopping(stopped_by):
            from reg4rec.cli.answer import run

            run(arguments)
    except BaseException as error:
        if stopped_by or isinstance(error, KeyboardInterrupt):  # some libraries turn it into another error
            number = signal.Signals(stopped_by[0] if stopped_by else signal.SIGINT)
            word = "interrupted" if number == signal.SIGINT else "terminated"
            _leave(f"{word}; {AGAIN}", 128 + number)
        if (missing := _exhausted(error)) is not None:
            _leave(missing, 2)
        raise


@contextlib.contextmanager
def _stopping(stopped_by: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM within the block; a second signal ends the process.

    Python ignores exceptions raised in a destructor, so the interrupt is raised again until the block ends.
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
    except ValueError:  # only the main thread may set handlers
        before = {}
    try:
        yield
    finally:
        if before:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        for number, handler in before.items():  # type: ignore[assignment]
            signal.signal(number, handler)


def _exhausted(error: BaseException) -> str | None:
    """A sentence if the error is a lack of memory or threads, from any library; None for other errors."""
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in text and "alloc" in text):
        return "out of memory; give this process more, or lower batch size, dimensions or number of users"
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "the system allows no more threads; raise its limit (ulimit -u, -v), or set OMP_NUM_THREADS=1"
    return None


def _leave(sentence: str, status: int) -> None:
    print(f"reg4rec: {sentence}", file=sys.stderr)
    sys.exit(status)
