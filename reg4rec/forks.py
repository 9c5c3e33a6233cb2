"""What a forked child of this process can still do: the threads of its parent's libraries did not come with it.

The C++ thread pool of reg4rec starts afresh in a child. PyTorch's OpenMP does not, and would wait for ever for threads
that are not there: so a child computes with one thread. Polars' pool, once started, cannot be saved at all.
"""

import os
import re
import sys
from pathlib import Path

from reg4rec.errors import InputError

__all__ = ["check_polars"]


class _Polars:
    """Of this process: whether polars' threads run at a fork, and whether they ran in a process it was forked from."""

    run = False
    lost = False


def _before() -> None:
    _Polars.run = "polars" in sys.modules and _runs("polars")


def _runs(pool: str) -> bool:
    """Whether threads of that name are there; believed of them where the system does not tell."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return True
    names = []
    for task in tasks.iterdir():
        try:
            names.append((task / "comm").read_text())
        except OSError:  # it has just ended
            continue
    return any(re.match(rf"{pool}-\d", name) for name in names)


def _in_child() -> None:
    _Polars.lost = _Polars.lost or _Polars.run
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before, after_in_child=_in_child)


def check_polars() -> None:
    """InputError in a process that was forked while polars' threads ran: without them polars would wait for ever."""
    if _Polars.lost:
        raise InputError(
            "this process was forked from one that had used polars, whose threads do not survive that; start processes "
            'by spawn or forkserver, read data before they fork, and ask for recommendations as Arrow (to="arrow")'
        )
