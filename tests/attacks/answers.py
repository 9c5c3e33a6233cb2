"""Ask one recommender from many threads and from forked children at once: everyone gets the same answer."""

import functools
import random
import threading
from collections import Counter
from typing import Any

import torch

from reg4rec.recommend import Recommender
from tests.attacks.workload import Material, child

__all__ = ["attack"]

THREADS = 8
QUESTIONS = 40


def _questions(ids: list[Any], draw: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "histories": [draw.sample(ids, draw.randint(0, 9)) for _ in range(draw.randint(1, 12))],
            "k": draw.randint(1, 12),
            "filter_seen": draw.random() < 0.5,
            "return_paths": draw.random() < 0.3,
        }
        for _ in range(QUESTIONS)
    ]


def attack(material: Material, calls: int, forks: int, seed: int = 0) -> dict[str, Any]:
    """Eight threads make the calls, half of them by paths, while forked children ask the same."""
    torch.set_num_threads(1)  # like a forked child: with more threads, path scores differ in the last bits
    recommender = Recommender.from_pretrained(material.folder / "model" / "recommender", device="cpu")
    both = recommender, recommender.with_search(retriever="paths")
    questions = _questions(recommender.items.ids.to_pylist(), random.Random(seed))
    expected = [[one.recommend(**question) for question in questions] for one in both]
    faults: list[str] = []
    done = Counter[str]()

    def ask(kind: str, draw: random.Random, count: int) -> None:
        for _ in range(count):
            way, number = draw.randrange(2), draw.randrange(QUESTIONS)
            if not both[way].recommend(**questions[number]).equals(expected[way][number]):
                faults.append(f"{kind}: question {number} of {('exact', 'paths')[way]} got another answer")
            done[kind] += 1

    def child_asks(draw: random.Random) -> None:
        ask("children", draw, 5)
        assert not faults, faults

    threads = [
        threading.Thread(target=ask, args=("threads", random.Random(f"{seed} {n}"), calls // THREADS))
        for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for number in range(forks):
        ended = child(functools.partial(child_asks, random.Random(f"{seed} fork {number}")), patience=60)
        if ended.status != 0:
            faults.append(f"a forked child ended with {ended.status}: {ended.said[-2000:]}")
    for thread in threads:
        thread.join()
    return {"calls_by_threads": done["threads"], "forked_children": forks, "faults": faults}
