"""The targets of the attacks: every command that writes, on a small shop, and every kind of folder that they write."""

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from reg4rec.cli import main
from reg4rec.data import synthetic_shop
from reg4rec.writing import is_temporary

__all__ = ["TASKS", "Ended", "Material", "Task", "child", "contents", "litter", "scratch"]

CLOCK = re.compile(r"second|latency|_ms$|^sha256$|^files$|resumed|^time")
"""JSON entries that depend on the clock, or on files that do."""
SHAPE = "--size tiny --max-history 12 --validation-users 20"
TOKENS = (
    "--num-codebooks 3 --codebook-size 8 --hidden-dim 16 --codeword-dim 8 --epochs 3 --autoencoder-epochs 1 "
    "--text-dim 8 --collaborative-dim 4"
)


@dataclass(frozen=True)
class Material:
    """Inputs of the commands, and finished results of each stage for those that need them."""

    folder: Path

    @classmethod
    @contextlib.contextmanager
    def made(cls) -> Iterator["Material"]:
        """All material, in a temporary folder."""
        _import_all()
        with tempfile.TemporaryDirectory(prefix="reg4rec-attacks-") as name:
            material = cls(Path(name))
            material._write_inputs()
            for words in (
                "data prepare {m}/clicks.csv --items {m}/items.csv --categories category --out {m}/data",
                f"tokenize --data {{m}}/data --out {{m}}/tokens {TOKENS}",
                f"tokenize --data {{m}}/data --out {{m}}/tokens-b --seed 1 {TOKENS}",
                f"pretrain --data {{m}}/data --tokens {{m}}/tokens/tokenizer --out {{m}}/model {SHAPE} --epochs 2",
                f"pretrain --data {{m}}/data --tokens {{m}}/tokens-b/tokenizer --out {{m}}/model-b {SHAPE} --epochs 2",
                "compare --data {m}/data --out {m}/compare --methods popularity sasrec --seeds 0 --sasrec.dim 16 "
                "--sasrec.ffn-dim 16 --sasrec.loop.epochs 1",
            ):
                ended = child(functools.partial(main, words.format(m=name).split()))
                assert ended.status == 0, f"{words}\n{ended.said}"
            yield material

    def _write_inputs(self) -> None:
        shop = synthetic_shop(num_users=60, num_items=24, num_facets=2, seed=0)
        ids = shop.items.ids.to_pylist()
        rows = [f"user{u},{ids[i]},{n}" for u in range(60) for n, i in enumerate(shop.sequences[u])]
        (self.folder / "clicks.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
        titles = zip(ids, shop.items.table["title"].to_pylist(), strict=True)
        described = [f"{item},{title},{'AB'[n % 2]} > {'xyz'[n % 3]}" for n, (item, title) in enumerate(titles)]
        (self.folder / "items.csv").write_text("\n".join(["item_id,title,category", *described]) + "\n")
        histories = [[ids[i] for i in shop.sequences[u][: u % 9]] for u in range(60)]
        users = pa.table({"user_id": [f"user{u}" for u in range(60)], "items": histories})
        pq.write_table(users, self.folder / "users.parquet")


@dataclass(frozen=True)
class Task:
    """A command to attack, with places for the material `{m}` and the result `{o}`."""

    words: str
    replaces: bool = False
    """whether it replaces the result of an earlier run, which must be whole at every moment"""

    def run(self, material: Material, out: Path) -> None:
        main(self.words.format(m=material.folder, o=out).split())


def _import_all() -> None:
    """Import what commands import late; PyTorch's optimizers alone take seconds."""
    for name in ("polars", "tqdm.auto", "sklearn.feature_extraction.text", "sklearn.cluster", "matplotlib.pyplot"):
        importlib.import_module(name)
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()


TASKS = {
    "prepare": Task("data prepare {m}/clicks.csv --items {m}/items.csv --categories category --out {o}/data"),
    "prepare again": Task(
        "data prepare {m}/clicks.csv --items {m}/items.csv --categories category --out {o}/data", replaces=True
    ),
    "tokenize": Task(f"tokenize --data {{m}}/data --out {{o}}/tokens {TOKENS}"),
    "pretrain": Task(
        f"pretrain --data {{m}}/data --tokens {{m}}/tokens/tokenizer --out {{o}}/model {SHAPE} --epochs 3 "
        "--checkpoint-seconds 0"
    ),
    "align": Task(
        "align --model {m}/model/recommender --data {m}/data --out {o}/aligned --epochs 1 --batch-users 32 "
        "--validation-users 20 --checkpoint-seconds 0"
    ),
    "fit": Task(
        "fit --data {m}/clicks.csv --items {m}/items.csv --categories category --out {o}/fit --size tiny --epochs 1"
    ),
    "recommend": Task(
        "recommend --model {m}/model/recommender --input {m}/users.parquet --output {o}/recs -k 5 --users-in-part 8"
    ),
    "evaluate": Task("evaluate --model {m}/model/recommender --data {m}/data --out {o}/metrics.json"),
    "explain": Task("explain --model {m}/model/recommender --data {m}/data --user user7 --html {o}/page.html"),
    "compare": Task(
        "compare --data {m}/data --out {o}/compare --methods popularity sasrec --seeds 0 --sasrec.dim 16 "
        "--sasrec.ffn-dim 16 --sasrec.loop.epochs 1"
    ),
    "study": Task(
        "study retrievers --models {m}/model/recommender --data {m}/data --out {o}/study --thetas 0.5 --max-users 20"
    ),
    "report": Task("report {m}/compare --out {o}/report.html"),
}


@dataclass(frozen=True)
class Ended:
    """How a child ended: its status (negative: by a signal; None: it hung and was killed) and its output."""

    status: int | None
    said: str


def child(work: Callable[[], None], killed_after: float | None = None, patience: float = 120.0) -> Ended:
    """Do some work in a forked process, which has imported everything; it can be killed after some seconds."""
    descriptor, name = tempfile.mkstemp(prefix="reg4rec-said-")
    said = Path(name)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            for stream in (1, 2):
                os.dup2(descriptor, stream)
            sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(stream, "wb")) for stream in (1, 2))
            try:
                work()
                status = 0
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(descriptor)
    try:
        return Ended(_wait(process, killed_after, patience), said.read_text(errors="replace"))
    finally:
        said.unlink()


def _wait(process: int, killed_after: float | None, patience: float) -> int | None:
    expired: list[bool] = []

    def kill(*_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(process, signal.SIGKILL)
            expired.append(True)

    old = signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, patience if killed_after is None else max(1e-4, killed_after))
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    return None if expired and killed_after is None else status


def contents(out: Path) -> dict[str, str]:
    """A digest of every file of a result, without times, checkpoints and logs."""
    found = {}
    for path in sorted(out.rglob("*")):
        place = str(path.relative_to(out))
        if not path.is_file() or "checkpoints/" in place or path.name == "metrics.jsonl":
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
        found[place] = hashlib.sha256(content).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if not CLOCK.search(name)}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def litter(out: Path) -> list[str]:
    """Files left under temporary names."""
    return [str(path.relative_to(out)) for path in out.rglob("*") if is_temporary(path) or path.name.startswith(".tmp")]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary empty folder."""
    folder = Path(tempfile.mkdtemp(prefix="reg4rec-attacked-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
