"""Recommending in processes that were started from one that has recommended before."""

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 300
COMMON = """
import multiprocessing, os, sys, threading
import reg4rec, torch

folder = sys.argv[1]
HISTORIES = {user: [f"item{user}", "item7"] for user in range(40)}


def table(recommender):
    pieces = [recommender.with_search(retriever=name).recommend(HISTORIES, k=5) for name in ("exact", "paths")]
    return [piece.to_pydict() for piece in pieces]


def in_child(connection, recommender=None):
    connection.send(table(recommender or reg4rec.Recommender.from_pretrained(folder, device="cpu")))
    connection.close()


def answer_of(way, context, *recommender):
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(theirs, *recommender), daemon=True)
    child.start()
    assert ours.poll(60), f"no answer of a child started by {way}"
    return ours.recv()


def main():
    recommender = reg4rec.Recommender.from_pretrained(folder, device="cpu")
    expected = table(recommender)
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # PyTorch's own threads have work
    for way in ("fork", "forkserver", "spawn"):
        context = multiprocessing.get_context(way)
        same(answer_of(way, context, *([recommender] if way == "fork" else [])), expected)
    for _ in range(3):  # as gunicorn --preload: load, warm up, fork workers, which fork again
        fork(lambda: fork(lambda: same(table(recommender), expected)))
    same(table(recommender), expected)
    recommender.recommend(HISTORIES, k=5, to="polars")
    import polars as pl
    pl.DataFrame({"a": range(3_000_000)}).group_by("a").len()  # starts its threads
    fork(lambda: recommender.recommend(HISTORIES, k=5, to="polars"))
    print("answered")


def same(found, expected):
    for one, other in zip(found, expected):  # scores of paths may differ in the last bit where a child has one thread
        assert one["item_id"] == other["item_id"]
        assert max(abs(a - b) for a, b in zip(one["score"], other["score"])) < 1e-4


def fork(work):
    child = os.fork()
    if child == 0:
        threading.Timer(60, os._exit, [9]).start()
        try:
            work()
        except reg4rec.InputError as error:
            print(error, flush=True)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child did not answer"


if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_of_a_process_that_has_recommended_answers(saved: Path, tmp_path: Path, threads: int) -> None:
    (tmp_path / "child.py").write_text(COMMON)
    done = subprocess.run(
        [sys.executable, "child.py", str(saved)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    sentence, answered = done.stdout.splitlines()[-2:]
    assert sentence.startswith("this process was forked from one that had used polars")
    assert answered == "answered"
