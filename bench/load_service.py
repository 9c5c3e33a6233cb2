"""Load on `examples/service.py` from another process: latency, requests a second, errors, memory.

    python -m bench.load_service --model runs/shop/recommender --requests 20000 --clients 16

Three requests in eight have a filter, reasons or another k. Meanwhile items come and go, and the model is exchanged
for itself.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import reg4rec

SERVICE = Path(__file__).parents[1] / "examples" / "service.py"


class Client:
    """A connection that stays open."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self.connection.request(method, path, None if body is None else json.dumps(body))
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


def tried(client: Client, method: str, path: str, body: Any, items: int | None = None) -> list[str]:
    """A sentence on what went wrong with a request, or nothing. `items`: how many the answer must have."""
    try:
        status, answer = client.send(method, path, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        client.connection.close()
        return [f"{path}: {error!r}"]
    is_right = status == 200 and (items is None or len(answer["items"]) == items)
    return [] if is_right else [f"{path} {status}: {str(answer)[:200]}"]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The port and the process of a service that is ready; it is terminated at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVICE), str(folder), "--port", str(port)])
    try:
        for _ in range(1200):
            try:
                Client(port).send("GET", "/health")
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"the service ended with {process.returncode}") from None
                time.sleep(0.1)
        else:
            raise RuntimeError("the service was not ready after two minutes")
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def load(port: int, pid: int, ids: list[Any], folder: Path, requests: int, clients: int) -> dict[str, Any]:
    """Send the requests and return what was measured; the process is `pid`."""
    taken: list[float] = []
    failed: list[str] = []
    changes: list[str] = []
    lock, left = threading.Lock(), iter(range(requests))
    draw = np.random.default_rng(0)
    wishes: list[dict[str, Any]] = [*[{}] * 5, {"k": 25}, {"exclude": ids[:3]}, {"reasons": True, "k": 5}]
    histories = [[ids[i] for i in draw.integers(0, len(ids), draw.integers(0, 12))] for _ in range(256)]

    def work() -> None:
        client = Client(port)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            body: dict[str, Any] = {"history": histories[number % len(histories)]}
            body |= wishes[number % len(wishes)]
            began = time.perf_counter()
            problem = tried(client, "POST", "/recommend", body, body.get("k", 10))
            seconds = time.perf_counter() - began
            with lock:
                taken.append(seconds)
                failed.extend(problem)

    def change() -> None:
        client = Client(port)
        while any(thread.is_alive() for thread in threads):
            for method, path, body in (
                ("DELETE", "/items", ids[-5:]),
                ("POST", "/items", [{"item_id": i, "title": "back again"} for i in ids[-5:]]),
                ("POST", "/model", {"folder": str(folder)}),
            ):
                failed.extend(tried(client, method, path, body))
                changes.append(path)
            time.sleep(0.5)

    process = psutil.Process(pid)
    threads = [threading.Thread(target=work) for _ in range(clients)]
    changing = threading.Thread(target=change)
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    changing.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append(process.memory_info().rss / 2**20)
        time.sleep(0.2)
    seconds = time.perf_counter() - began
    changing.join()
    percentiles = statistics.quantiles(taken, n=100)
    tenths = np.array_split(memory, 10)
    return {
        "requests": len(taken),
        "changes": len(changes),
        "errors": len(failed),
        "first_errors": failed[:3],
        "requests_per_second": len(taken) / seconds,
        "p50_ms": 1e3 * percentiles[49],
        "p99_ms": 1e3 * percentiles[98],
        "mib_by_tenth": [round(part.max()) for part in tenths if len(part)],
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--requests", type=int, default=20_000)
    options.add_argument("--clients", type=int, default=16)
    chosen = options.parse_args()
    ids = reg4rec.Recommender.from_pretrained(chosen.model).items.ids.to_pylist()
    with serving(chosen.model) as (port, process):
        found = load(port, process.pid, ids, chosen.model, chosen.requests, chosen.clients)
    print(json.dumps({**found, "items": len(ids), "clients": chosen.clients, "cores": os.cpu_count()}, indent=2))


if __name__ == "__main__":
    main()
