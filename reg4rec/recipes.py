"""The road from data to a recommender, and the settings of every stage on it: read this file first.

Items become tokens, a model learns to decode them, validation sets up the search, and rewards may align the paths.
`paper` is written in full below; `default` is what recommends best, written as its difference.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from reg4rec import distributed
from reg4rec.alignment import AlignConfig, align
from reg4rec.checkpoints import open_folder, read_settings
from reg4rec.data import Dataset, load_dataset, read_interactions
from reg4rec.data.sources import is_table_source
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, Report, evaluate
from reg4rec.loop import LoopConfig
from reg4rec.progress import say
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.search import SearchConfig
from reg4rec.settings import changed_by, check_same_recipe, differences, override, read_settings_file
from reg4rec.storage import new_header, read_header, read_json, to_json, write_header
from reg4rec.tokenizer import TokenizerConfig, fit_tokenizer, suggested_codebook_size
from reg4rec.train import PretrainConfig, fit_recommender
from reg4rec.writing import atomic_file, check_own

__all__ = ["RECIPES", "Recipe", "RecipeName", "fit", "fit_and_evaluate", "recipe_named"]

FORMAT, VERSION = "reg4rec-fit", 1

RecipeName = Literal["default", "paper"]


@dataclass(frozen=True)
class Recipe:
    """The settings of all stages, which belong together; InputError for stages of different recipes."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    align: AlignConfig = field(default_factory=AlignConfig)

    def __post_init__(self) -> None:
        for later in (self.pretrain, self.align):
            check_same_recipe(self.tokenizer.recipe, later.recipe)

    def fit(
        self, data: Dataset, run: Run = Run(), aligned: bool = False, search: SearchConfig | None = None
    ) -> Recommender:
        """A recommender of `data`; each stage writes into a folder of `run.out`: tokenizer/, model/, perhaps aligned/.

        A killed fit goes on from its last checkpoint, and a finished stage is not fitted again. `search` replaces what
        validation would choose; alignment chooses again. All stages learn from `pretrain.part` of the data.
        """
        tokenizer = fit_tokenizer(data, self.tokenizer, run.stage("tokenizer"), self.pretrain.part)
        recommender = fit_recommender(data, tokenizer, self.pretrain, run.stage("model"), search)
        return align(recommender, data, self.align, run.stage("aligned")) if aligned else recommender

    def save(self, path: str | Path) -> None:
        """Write all settings as a YAML file, which `changed_by_file` and `reg4rec fit --config` read."""
        with atomic_file(path) as fresh:
            fresh.write_text(yaml.safe_dump(json.loads(to_json(asdict(self))), sort_keys=False), encoding="utf-8")

    def changed_by_file(self, path: str | Path) -> "Recipe":
        """This recipe with the settings in a YAML or JSON file, which may name all of them or a few.

        InputError for unknown settings and for values of another type.
        """
        return changed_by(self, read_settings_file(path))

    def sized_for(self, num_items: int) -> "Recipe":
        """This recipe with codebooks that fit a catalog: about items / 8 codewords, at most 256."""
        return self.change(tokenizer={"codebook_size": suggested_codebook_size(num_items)})

    def change(
        self,
        tokenizer: Mapping[str, Any] | None = None,
        pretrain: Mapping[str, Any] | None = None,
        align: Mapping[str, Any] | None = None,
    ) -> "Recipe":
        """This recipe with other values of some settings, by name: `change(pretrain={"epochs": 5, "size": "tiny"})`.

        InputError for a setting that a stage does not have.
        """
        return Recipe(
            override(self.tokenizer, dict(tokenizer or {})),
            override(self.pretrain, dict(pretrain or {})),
            override(self.align, dict(align or {})),
        )


PAPER = Recipe(
    TokenizerConfig(
        recipe="paper",
        kind="mpq",  # M experts with a codebook each, one gate, one shared decoder
        num_codebooks=4,
        codebook_size=256,
        codeword_dim=192,
        hidden_dim=256,
        orthogonality="decorrelation",  # ours: paths that rank alone need tokens that repeat one another little (D2)
        commitment=0.25,
        separate_collisions=True,  # ours (D3)
        epochs=40,
        autoencoder_epochs=10,
        batch_size=256,
        learning_rate=3e-3,
    ),
    PretrainConfig(
        recipe="paper",
        size="small",
        history_layout="pooled",  # ours: an epoch takes two thirds of the time of a flat history, Recall is level (D14)
        max_history=20,
        dropout=0.1,
        score_items=False,  # items are ranked by the paths that lead to them, and by nothing else
        order="random",
        targets="open",  # every step predicts the tokens of all codebooks that are still open (D4)
        crss_fraction=0.15,  # the last epochs feed tokens in the order that the model is surest of (D4)
        renormalize=False,
        category_weight=0.2,
        decoded_fraction=1.0,
        batch_targets=512,
        num_beams=75,
        loop=LoopConfig(epochs=14, learning_rate=2e-3, weight_decay=0.1, patience=3),
    ),
    AlignConfig(
        recipe="paper",
        group_size=8,
        window=3,
        decay=0.8,
        order_weight=1.0,  # ours: the one reward that helps (D7)
        consistency_threshold=0.06,
        clip=0.2,
        kl_weight=0.1,
        anchor_weight=0.5,
        loop=LoopConfig(epochs=1, learning_rate=1e-4),
    ),
)

DEFAULT = Recipe(
    replace(
        PAPER.tokenizer,
        recipe="default",
        # Recall@10 of all validation users against decorrelated codebooks: Beauty .1274 and .1192 (seed 0)
        orthogonality="weight",
    ),
    replace(
        PAPER.pretrain,
        recipe="default",
        # paths find the items, a score of whole items orders them: Beauty, validation, .1365 with and .0670 without
        score_items=True,
        # Beauty, validation, paths of four tokens: .1225 with and .1165 without; paths of two are level
        renormalize=True,
        # the item scores learn from every target in one pass, so a quarter of the targets is enough for the tokens
        decoded_fraction=0.25,
        # the loss of the item scores is the main one; not measured apart
        category_weight=0.5,
        # tokens in the model's own order at the end: .0845 after and .0870 before, so it is left out
        crss_fraction=0.0,
        # an epoch over pooled histories costs little more with 50 items than with 20; not measured apart
        max_history=50,
        # the item scores overfit sooner than paths do; not measured apart
        dropout=0.3,
        loop=LoopConfig(epochs=12, learning_rate=2e-3, weight_decay=0.1, patience=3),
    ),
    replace(
        PAPER.align,
        recipe="default",
        # five times smaller steps over three epochs, close to what pre-training gave: +1.7 % on Beauty, +1.0 % on Toys
        kl_weight=1.0,
        loop=LoopConfig(epochs=3, learning_rate=5e-5, patience=2),
    ),
)

RECIPES: dict[RecipeName, Recipe] = {"default": DEFAULT, "paper": PAPER}
"""docs/results.md has the tables behind the figures above."""


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; InputError with the known names for any other."""
    if name not in get_args(RecipeName):
        raise InputError(f"recipe is {name!r}; it must be one of {', '.join(get_args(RecipeName))}")
    return RECIPES[name]  # type: ignore[index]


def fit(
    data: Any,
    items: Any = None,
    *,
    out: str | Path | None = None,
    recipe: RecipeName | Recipe = "default",
    aligned: bool = False,
    reading: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = True,
    progress: bool = True,
) -> Recommender:
    """From files to an evaluated recommender: prepare, tokenize, pre-train, set up the search, and align if asked.

        rec = reg4rec.fit("clicks.csv", "items.csv", out="runs/shop", reading={"user": "customer"})

    data: a dataset, a folder or a name that `load_dataset` knows, or interactions (a file, a folder of Parquet parts, a
    DataFrame), which `items` describes and `reading` says how to read (arguments of `read_interactions`). A recipe
    given by its name gets codebooks that fit the catalog: about items / 8 codewords, at most 256. `out` receives data/,
    a folder a stage, recommender/ and metrics.json, the Recall and NDCG of the test items beside popularity's; the same
    call again goes on where a killed one stopped. `progress` shows each epoch and the figures on standard error.
    InputError for unreadable data, and where `out` holds a fit of other data or settings.
    """
    if not isinstance(data, Dataset):
        data = _read(data, items, reading or {})
    elif items is not None or reading:
        raise InputError("items and reading belong to a file of interactions; data is a dataset already")
    recommender, report = fit_and_evaluate(data, recipe, Run(out, seed, device, resume, progress), aligned)
    if progress and distributed.is_first():
        say(report.table())
    return recommender


def _read(data: Any, items: Any, reading: Mapping[str, Any]) -> Dataset:
    if is_table_source(data):
        return read_interactions(data, items, **reading)
    if items is not None or reading:
        raise InputError(f"items and reading belong to a file of interactions, and {str(data)!r} is none")
    return load_dataset(data)


def fit_and_evaluate(
    data: Dataset, recipe: RecipeName | Recipe, run: Run = Run(), aligned: bool = False
) -> tuple[Recommender, Report]:
    """`fit` of a dataset, and the report that it writes."""
    if not isinstance(recipe, Recipe):
        recipe = recipe_named(recipe).sized_for(data.num_items)
    if run.folder is not None:
        _open(run.folder, data, {**asdict(recipe), "aligned": aligned, "seed": run.seed}, run.resume)
    recommender = recipe.fit(data, run, aligned)
    report = evaluate([Popularity.fit(data, recommender.trained_on), recommender], data)
    recommender.card |= {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "measured": f"{report.card['split']}, {report.card['protocol']} protocol",
        "metrics": report.rows[1].metrics,
    }
    if run.folder is not None and distributed.is_first():
        recommender.save_pretrained(run.folder / "recommender")
        report.save(run.folder / "metrics.json")
        recipe.save(run.folder / "recipe.yaml")
    return recommender, report


def _open(folder: Path, data: Dataset, settings: dict[str, Any], resume: bool) -> None:
    """Make `folder` the one of this fit, with its data; InputError if it holds something else."""
    path = folder / "fit.json"
    wanted = json.loads(to_json({"dataset": data.card["fingerprint"], **settings}))
    check_own(folder, ["fit.json"])
    found = read_header(path, FORMAT, VERSION) if path.exists() else wanted
    differing = [name for key, value in wanted.items() for name in differences(key, found.get(key), value)]
    if differing and resume:
        raise InputError(
            f"{folder} holds a fit with other {', '.join(differing)}; choose another folder, the same data and "
            "settings, or start over with resume off"
        )
    distributed.barrier()  # all have looked
    if path.exists() and not resume:
        _start_over(folder)
    if distributed.is_first():
        write_header(path, new_header(FORMAT, VERSION, **wanted))
        if _fingerprint(folder / "data") != data.card["fingerprint"]:  # a killed fit may have left another's
            data.save(folder / "data")
    distributed.barrier()


def _fingerprint(folder: Path) -> str | None:
    """Of the dataset that is saved in a folder, if one is."""
    path = folder / "dataset.json"
    fingerprint: str | None = read_json(path).get("card", {}).get("fingerprint") if path.exists() else None
    return fingerprint


def _start_over(folder: Path) -> None:
    """Remove what an earlier fit made, before its settings are replaced; what others put there stays."""
    for stage in ("tokenizer", "model", "aligned"):
        if (folder / stage / "config.json").exists():
            open_folder(folder / stage, read_settings(folder / stage), resume=False)
    if distributed.is_first():
        (folder / "metrics.json").unlink(missing_ok=True)
    distributed.barrier()
