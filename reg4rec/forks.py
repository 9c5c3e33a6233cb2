"""Safety after a fork: threads of the parent's libraries do not exist in the child.

The C++ thread pool of reg4rec restarts in a child. PyTorch's OpenMP does not and would wait forever for missing
threads, so a child computes with one thread. Polars' pool cannot be restarted: `check_polars` raises instead.
"""

import os
import re
import sys
from pathlib import Path

from reg4rec.errors import InputError

__all__ = ["check_polars"]


class _Polars:
    """State of polars' threads in this process."""

    run = False
    """whether they ran when this process last forked"""
    lost = False
    """whether they ran in a process that this one was forked from"""


def _before() -> None:
    _Polars.run = "polars" in sys.modules and _runs("polars")


def _runs(pool: str) -> bool:
    """Whether the pool has threads in this process; True where the system does not list threads."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return True
    names = []
    for task in tasks.iterdir():
        try:
            names.append((task / "comm").read_text())
        except OSError:  # the thread has just ended
            continue
    return any(re.match(rf"{pool}-\d", name) for name in names)


def _in_child() -> None:
    _Polars.lost = _Polars.lost or _Polars.run
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # missing on Windows, which cannot fork
    os.register_at_fork(before=_before, after_in_child=_in_child)


def check_polars() -> None:
    """InputError if this process was forked while polars' threads ran: without them polars would wait forever."""
    if _Polars.lost:
        raise InputError(
            "this process was forked from one that had used polars, whose threads do not survive a fork; start "
            'processes by spawn or forkserver, read data before forking, and use recommend(..., to="arrow")'
        )
