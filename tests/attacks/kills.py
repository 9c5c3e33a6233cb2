"""Kill every command at random moments and at every file operation, fill its disk, run it twice; check what remains.

An uninterrupted run shows the right result. A run that was killed any number of times and restarted must end with the
same result and no litter; a folder that it replaces must be whole at every moment.
"""

import functools
import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.attacks.workload import TASKS, Ended, Material, Task, child, contents, litter, scratch

__all__ = ["Operations", "attack"]

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}
"""Audit events that change a file system, besides `open` for writing."""


class Operations:
    """Counts the file operations of this process, and kills it before the last one allowed."""

    def __init__(self, allowed: int | None):
        self.allowed, self.count = allowed, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES and not (event == "open" and _writes(arguments[1], arguments[2])):
            return
        self.count += 1
        if self.count == self.allowed:
            os.kill(os.getpid(), signal.SIGKILL)


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


class _Attacked:
    """One task, the result of its uninterrupted runs, and the faults found so far."""

    def __init__(self, name: str, task: Task, material: Material, faults: list[str]):
        self.name, self.task, self.material, self.faults = name, task, material, faults
        with scratch() as one, scratch() as other:
            started = time.monotonic()
            first = child(lambda: task.run(material, one))
            self.seconds = time.monotonic() - started
            second = child(lambda: self._counted(other))
            assert first.status == second.status == 0, f"{name}: {first.said}\n{second.said}"
            self.operations = int(re.findall(r"^operations (\d+)$", second.said, re.MULTILINE)[-1])
            whole, again = contents(one), contents(other)
        self.expected = {place: digest for place, digest in whole.items() if again.get(place) == digest}
        unlike = sorted(whole.keys() - self.expected.keys())
        assert not [place for place in unlike if not place.endswith((".md", ".png", ".json"))], unlike
        self.compared = len(self.expected)

    def _counted(self, out: Path) -> None:
        operations = Operations(None)
        sys.addaudithook(operations)
        self.task.run(self.material, out)
        print(f"\noperations {operations.count}")

    def _killed_at(self, out: Path, operation: int) -> None:
        sys.addaudithook(Operations(operation))
        self.task.run(self.material, out)

    def kill(self, draw: random.Random) -> int:
        """Kill it one to three times in one folder and let it finish; returns how often it was killed."""
        kills = 0
        with scratch() as out:
            if self.task.replaces:
                child(lambda: self.task.run(self.material, out))
            for _ in range(draw.randint(1, 3)):
                if draw.random() < 0.5:
                    operation = draw.randint(1, self.operations)
                    how = f"at operation {operation} of {self.operations}"
                    ended = child(functools.partial(self._killed_at, out, operation))
                else:
                    after = draw.uniform(0, self.seconds)
                    how = f"after {after:.3f} s"
                    ended = child(lambda: self.task.run(self.material, out), killed_after=after)
                kills += ended.status == -signal.SIGKILL
                if ended.status not in (0, -signal.SIGKILL):
                    self._fault(how, ended)
                if self.task.replaces:
                    self._compare(f"{how}, before it was run again", out)
            self._finish(f"killed {how}", out)
        return kills

    def fill(self, draw: random.Random) -> None:
        """Let no file grow beyond some bytes, as on a full disk; then lift the limit and run again."""
        limit = int(10 ** draw.uniform(0, 6))

        def starved() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            self.task.run(self.material, out)

        with scratch() as out:
            ended = child(starved)
            if ended.status not in (0, 2) or "Traceback" in ended.said:
                self._fault(f"files of {limit} bytes at most", ended)
            self._finish(f"files of {limit} bytes at most", out)

    def run_twice(self) -> None:
        """Two processes at once in one folder."""
        with scratch() as out:

            def both() -> None:
                other = os.fork()
                status = 1
                try:
                    self.task.run(self.material, out)
                    status = 0
                except SystemExit as error:
                    status = int(error.code or 0)
                if other == 0:
                    sys.stderr.flush()
                    os._exit(status)
                theirs = os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
                if sorted((status, theirs)) not in ([0, 0], [0, 2]):
                    raise AssertionError(f"the processes ended with {status} and {theirs}")

            ended = child(both)
            if ended.status != 0 or "Traceback" in ended.said:
                self._fault("two processes", ended)
            self._finish("two processes", out)

    def stop(self, draw: random.Random) -> None:
        """SIGINT or SIGTERM at a random moment: one sentence, and nothing under a temporary name."""
        number = draw.choice([signal.SIGINT, signal.SIGTERM])
        with scratch() as out:

            def stopped() -> None:
                after = draw.uniform(0, self.seconds)
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
                signal.setitimer(signal.ITIMER_REAL, max(1e-3, after))
                self.task.run(self.material, out)
                signal.setitimer(signal.ITIMER_REAL, 0)

            ended = child(stopped)
            told = ended.status == 128 + number and ended.said.count("reg4rec: ") == 1 and "Traceback" not in ended.said
            # Python reports and ignores an exception in a destructor, so the command goes on
            done = ended.status == 0 and ("Traceback" not in ended.said or "Exception ignored in" in ended.said)
            if not (told or done) or litter(out):
                self._fault(f"{number.name}, litter {litter(out)}", ended)
            self._finish(number.name, out)

    def _finish(self, how: str, out: Path) -> None:
        ended = child(lambda: self.task.run(self.material, out))
        if ended.status != 0:
            self._fault(f"{how}; then it did not finish", ended)
            return
        self._compare(how, out)
        if litter(out):
            self.faults.append(f"{self.name}, {how}: left {litter(out)}")

    def _compare(self, how: str, out: Path) -> None:
        found = contents(out)
        differing = [place for place, digest in self.expected.items() if found.get(place) != digest]
        if differing:
            self.faults.append(f"{self.name}, {how}: {', '.join(differing)} are missing or differ")

    def _fault(self, how: str, ended: Ended) -> None:
        self.faults.append(f"{self.name}, {how}: status {ended.status}: {ended.said[-2000:]}")


def attack(material: Material, kills: int, seed: int = 0, tasks: tuple[str, ...] = tuple(TASKS)) -> dict[str, Any]:
    """Attack all tasks in turn until this number of kills has hit; returns a summary and the faults."""
    draw, counts = random.Random(seed), Counter[str]()
    faults: list[str] = []
    attacked = [_Attacked(name, TASKS[name], material, faults) for name in tasks]
    rounds = 0
    while counts["kills"] < kills:
        one = attacked[rounds % len(attacked)]
        counts["kills"] += one.kill(draw)
        if rounds % 3 == 0:
            one.fill(draw)
            counts["full_disks"] += 1
        if rounds % 3 == 1:
            one.stop(draw)
            counts["interrupts"] += 1
        if rounds % 9 == 2:
            one.run_twice()
            counts["pairs_of_processes"] += 1
        rounds += 1
    operations = {one.name: one.operations for one in attacked}
    compared = {one.name: one.compared for one in attacked}
    return {**counts, "file_operations": operations, "files_compared": compared, "faults": faults}
