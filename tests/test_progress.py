"""Progress messages of long work if standard error is no terminal."""

from types import SimpleNamespace

import pytest

from reg4rec import progress
from reg4rec.progress import bar, counted, quiet, say


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test moves; it starts an hour after the last work."""
    clock = SimpleNamespace(now=progress._Lines.busy + 3600)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_long_work_says_how_far_it_is_and_a_short_one_nothing(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in counted(range(4), "short"):
        clock.now += 1
    clock.now += 60
    with bar("long", 3000, 1000, unit=" users") as done:
        for _ in range(20):
            clock.now += 1
            done.set_postfix({"loss": "0.5"})
            done.update(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"long: {n:,} of 3,000 users, {s} s left, loss 0.5" for n, s in ((1500, 15), (2000, 10), (2500, 5), (3000, 0))
    ]


def test_short_works_that_follow_each_other_are_not_silent(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("settings", 3) as tried:
        for _ in range(3):
            for _ in counted(range(2), "ranking"):
                clock.now += 2
            tried.update()
        say("done")
        clock.now += 4.9
        tried.update(0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "settings: 1 of 3, 12 s left, ranking: 1 of 2, 2 s left",
        "settings: 2 of 3, 6 s left, ranking: 2 of 2, 0 s left",
        "done",
    ]


def test_quiet_other_processes_and_what_need_not_be_shown_say_nothing(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(show: bool = True) -> None:
        with bar("long", 2, show=show) as done:
            clock.now += 9
            done.update()

    with quiet(True):
        work()
    work(show=False)
    monkeypatch.setenv("RANK", "1")
    work()
    assert capsys.readouterr().err == ""
