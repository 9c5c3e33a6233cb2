"""Time and memory by catalog size: the constants of docs/scale.md, `python -m bench.scale`, one thread."""

import multiprocessing
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import psutil
import pyarrow as pa
import torch

from bench.bench_recommend import BEAMS, CATEGORIES, CODEBOOKS, CODES, HISTORY, skewed_codes
from reg4rec.data import ItemCatalog, ItemViews, Sequences, ViewConfig
from reg4rec.model import Reg4RecModel
from reg4rec.model.config import sized
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer, TokenizerConfig
from reg4rec.tokenizer.kinds import build_quantizer

USERS, ROUNDS, VECTOR_DIM = 64, 5, 256


def build(num_items: int) -> Recommender:
    """A recommender of size `small` with random weights: only times and memory mean something."""
    torch.manual_seed(0)
    model = Reg4RecModel(sized("small", CODEBOOKS, CODES, CATEGORIES, renormalize=True, num_items=num_items))
    config = TokenizerConfig("mpq", CODEBOOKS, CODES, codeword_dim=64)
    views = ItemViews(ViewConfig(), np.zeros((num_items, 8), dtype=np.float32), None, {}, {})
    quantized_IE = torch.randn(num_items, config.codeword_dim)
    health = cast("Any", None)  # nothing here looks at it
    tokenizer = Tokenizer(config, build_quantizer(config, 8), views, skewed_codes(num_items), quantized_IE, health)
    items = ItemCatalog.from_table(pa.table({"item_id": np.arange(num_items)}))
    return Recommender(model, tokenizer, items, device="cpu", num_beams=BEAMS, prune_threshold=None)


def bytes_per_item(recommender: Recommender) -> dict[str, float]:
    """Bytes for each item, by part; the parts that do not grow with the catalog are under 1 % at a million items."""
    live = recommender.live
    tensors: dict[str, list[torch.Tensor]] = {
        "residuals of the item score, float32": [recommender.model.residual_ID],
        "codes of the model, int64": [recommender.codes_IM],
        "codes of the tokenizer, int32": [recommender.tokenizer.codes_IM],
        "codewords of the tokenizer, float32": [recommender.tokenizer.quantized_IE],
        "vectors of exact ranking, float32": [recommender.scan.vectors.rows_ID],
        "their copy in 8 bits": list(recommender.scan.vectors[1:5]),
        "index": list(recommender.index),
        "orders, popularity, removed": [live.rank_I, live.cosine_I, live.popularity_I, live.removed_I],
    }
    return {name: sum(x.nbytes for x in held) / len(recommender.items) for name, held in tensors.items()}


def milliseconds_per_user(recommender: Recommender) -> float:
    rng = np.random.default_rng(0)
    sequences = Sequences.from_lists(rng.integers(0, len(recommender.items), (USERS, HISTORY)).tolist())
    return 1000 / USERS * median(timed(lambda: list(recommender.search(sequences, 10, True))))


def microseconds_to_encode() -> float:
    """Time to encode an item of `VECTOR_DIM` numbers: its latents and its nearest codewords."""
    quantizer = build_quantizer(TokenizerConfig("mpq", CODEBOOKS, CODES, codeword_dim=64), VECTOR_DIM)
    vectors_BV = torch.randn(16384, VECTOR_DIM)
    with torch.inference_mode():
        return 1e6 / len(vectors_BV) * median(timed(lambda: quantizer.encode(vectors_BV)))


def timed(work: Any) -> list[float]:
    work()
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return seconds


def hold_model(folder: str, ready: Any, done: Any) -> None:
    torch.set_num_threads(1)
    before = psutil.Process().memory_full_info()
    model = Reg4RecModel.from_pretrained(folder)
    model.residual_ID.sum()
    ready.wait()
    after = psutil.Process().memory_full_info()
    print(f"  each of two processes: {(after.uss - before.uss) / 1e6:.0f} MB unshared, "
          f"{(after.pss - before.pss) / 1e6:.0f} MB with its half of the shared memory", flush=True)  # fmt: skip
    done.wait()


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, load {psutil.getloadavg()[0]:.1f}; process time, median of {ROUNDS} rounds")
    print(f"encode, {VECTOR_DIM} numbers: {microseconds_to_encode():.1f} us an item")
    context = multiprocessing.get_context("spawn")
    for num_items in (100_000, 1_000_000, 4_000_000):
        recommender = build(num_items)
        print(f"{num_items:,} items: {milliseconds_per_user(recommender):.2f} ms a user, {USERS} at once")
        for name, count in bytes_per_item(recommender).items():
            print(f"  {name}: {count:.1f} bytes an item")
        if num_items > 1_000_000:
            continue
        with tempfile.TemporaryDirectory() as folder:
            recommender.model.save_pretrained(folder)
            size = (Path(folder) / "model.safetensors").stat().st_size
            print(f"  model file {size / 1e6:.0f} MB, read by two processes")
            ready, done = context.Barrier(2), context.Barrier(2)
            processes = [context.Process(target=hold_model, args=(folder, ready, done)) for _ in range(2)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()


if __name__ == "__main__":
    main()
