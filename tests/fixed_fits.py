"""Fits two small models on fixed data and prints the sha256 of what comes out: a refactor must not change it.

    python tests/fixed_fits.py --out runs/fixed            # prints the hashes
    python tests/fixed_fits.py --out runs/fixed --check    # exit code 1 where they differ from the kept ones
    python tests/fixed_fits.py --out runs/fixed --keep     # keeps them for this processor and these versions

`demo` is `reg4rec demo` with 2 epochs, `paper` that recipe with 2 epochs, both on MovieLens-100K with one thread.
Rounding differs between processors and between versions of the libraries that multiply, so `fixed_fits.json` holds
a set of hashes for each combination that somebody has kept; other machines have nothing to compare with.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch

import reg4rec
from reg4rec.cli.demo import Demo

EPOCHS = 2
USERS, ITEMS = 100, 10
KEPT = Path(__file__).with_suffix(".json")
MULTIPLYING = ("torch", "numpy", "scipy", "scikit-learn")


def sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def hashes(folder: Path, data: reg4rec.Dataset) -> dict[str, str]:
    """Hashes of a saved recommender: its weights, its items' tokens, and its recommendations for some users."""
    recommender = reg4rec.Recommender.from_pretrained(folder, "cpu", "float32")
    weights = sorted(recommender.model.state_dict().items())
    ids, users = data.items.ids.to_pylist(), data.user_ids[:USERS].to_pylist()
    histories = {user: [ids[row] for row in data.sequences[u]] for u, user in enumerate(users)}
    rows = recommender.recommend(histories, ITEMS, to="polars").select("user_id", "rank", "item_id", "score").rows()
    assert len(rows) == USERS * ITEMS
    return {
        "weights": sha256(*(part for name, w in weights for part in (name.encode(), w.contiguous().numpy().tobytes()))),
        "codes": sha256(recommender.tokenizer.codes_IM.contiguous().numpy().tobytes()),
        "recommendations": sha256(*(repr(row).encode() for row in rows)),
    }


def fit_paper(data: reg4rec.Dataset, out: Path) -> Path:
    recipe = reg4rec.RECIPES["paper"].change(tokenizer={"codebook_size": 64}, pretrain={"epochs": EPOCHS})
    recipe.fit(data, reg4rec.Run(out))
    return out / "model" / "recommender"


def processor() -> str:
    """Vendor, family, model, and the instruction set that torch uses."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    found = [re.search(rf"^{name}\s*:\s*(.+)$", facts, re.MULTILINE) for name in ("vendor_id", "cpu family", "model")]
    return " ".join([*(match[1] for match in found if match), torch.backends.cpu.get_cpu_capability()])


def machine() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in MULTIPLYING}
    return {"processor": processor(), "blas": os.environ.get("OPENBLAS_CORETYPE", ""), **versions}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="folder of the fits")
    options.add_argument("--check", action="store_true", help="compare with what is kept for this machine")
    options.add_argument("--keep", action="store_true", help="keep the hashes for this machine")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    Demo(out=chosen.out / "demo", epochs=EPOCHS).run()
    data = reg4rec.load_dataset("ml-100k")
    folders = {"demo": chosen.out / "demo" / "recommender", "paper": fit_paper(data, chosen.out / "paper")}
    found = {name: hashes(folder, data) for name, folder in folders.items()}
    here = machine()
    print(json.dumps({**here, "sha256": found}, indent=2))
    kept: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    known = next((row for row in kept if {**row, "sha256": None} == {**here, "sha256": None}), None)
    if chosen.keep:
        rows = [row for row in kept if row is not known] + [{**here, "sha256": found}]
        KEPT.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if chosen.check and known is None:
        print(f"no hashes are kept for this machine in {KEPT.name}: nothing was compared")
    elif chosen.check and known is not None:
        differing = [f"{n}.{part}" for n in found for part in found[n] if found[n][part] != known["sha256"][n][part]]
        print(f"differs from {KEPT.name}: {', '.join(differing)}" if differing else f"equal to {KEPT.name}")
        sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
