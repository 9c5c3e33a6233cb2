"""The whole pipeline from data to a recommender, and the settings of its stages: read this file first.

Items become tokens, a model learns to decode them, validation sets up the search, and rewards can align the paths.
`paper` is written in full below; `default` recommends best and is written as its difference from `paper`.
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
from reg4rec.settings import changed_by, check_same_recipe, differences, override
from reg4rec.storage import new_header, read_header, read_json, to_json, write_header
from reg4rec.tokenizer import TokenizerConfig, fit_tokenizer, suggested_codebook_size
from reg4rec.train import PretrainConfig, fit_recommender
from reg4rec.writing import atomic_file, check_own

__all__ = ["RECIPES", "Recipe", "RecipeName", "fit", "fit_and_evaluate", "read_settings_file", "recipe_named"]

FORMAT, VERSION = "reg4rec-fit", 1

RecipeName = Literal["default", "paper"]


@dataclass(frozen=True)
class Recipe:
    """The settings of all stages; InputError if they belong to different recipes."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    align: AlignConfig = field(default_factory=AlignConfig)

    def __post_init__(self) -> None:
        for later in (self.pretrain, self.align):
            check_same_recipe(self.tokenizer.recipe, later.recipe)

    def fit(
        self, data: Dataset, run: Run = Run(), aligned: bool = False, search: SearchConfig | None = None
    ) -> Recommender:
        """Fit a recommender on `data`; the stages write to tokenizer/, model/ and (if `aligned`) aligned/ in `run.out`.

        A killed fit resumes from its last checkpoint, and finished stages are not fitted again. `search` replaces the
        settings that validation would choose, except after alignment. All stages learn from `pretrain.part` of `data`.
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
        """This recipe with some settings changed, by name: `change(pretrain={"epochs": 5, "size": "tiny"})`.

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
        kind="mpq",  # M experts with one codebook each, one gate, one shared decoder
        num_codebooks=4,
        codebook_size=256,
        codeword_dim=192,
        hidden_dim=256,
        orthogonality="decorrelation",  # ours: ranking by paths alone needs tokens with little redundancy (D2)
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
        history_layout="pooled",  # ours: an epoch takes two thirds of a flat history's time, with equal Recall (D14)
        max_history=20,
        dropout=0.1,
        score_items=False,  # items are ranked only by the paths that lead to them
        order="random",
        targets="open",  # every step predicts the tokens of all unused codebooks (D4)
        crss_fraction=0.15,  # the last epochs feed tokens in order of the model's confidence (D4)
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
        # Recall@10 of all validation users, Beauty: .1274, with decorrelated codebooks .1192 (seed 0)
        orthogonality="weight",
    ),
    replace(
        PAPER.pretrain,
        recipe="default",
        # paths find the items, item scores order them: Beauty, validation, .1365 with and .0670 without
        score_items=True,
        # Beauty, validation, paths of four tokens: .1225 with and .1165 without; no difference for paths of two
        renormalize=True,
        # the item scores learn from every target in one pass, so a quarter of the targets is enough for the tokens
        decoded_fraction=0.25,
        # the item score loss is the main one; not measured separately
        category_weight=0.5,
        # CRSS order in the last epochs: .0845 with and .0870 without
        crss_fraction=0.0,
        # with pooled histories an epoch costs little more for 50 items than for 20; not measured separately
        max_history=50,
        # the item scores overfit sooner than paths do; not measured separately
        dropout=0.3,
        loop=LoopConfig(epochs=12, learning_rate=2e-3, weight_decay=0.1, patience=3),
    ),
    replace(
        PAPER.align,
        recipe="default",
        # half the learning rate over three epochs, ten times the KL weight: +1.7 % on Beauty, +1.0 % on Toys
        kl_weight=1.0,
        loop=LoopConfig(epochs=3, learning_rate=5e-5, patience=2),
    ),
)

RECIPES: dict[RecipeName, Recipe] = {"default": DEFAULT, "paper": PAPER}
"""docs/results.md has the tables behind the numbers above."""


def read_settings_file(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file; InputError if it is not a mapping of names."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML or JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{path} must be a mapping of settings, found {type(found).__name__}")
    return found


def recipe_named(name: str) -> Recipe:
    """The recipe called `name`; for an unknown name InputError lists the known ones."""
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
    """Fit and evaluate a recommender: prepare data, tokenize, pre-train, set up the search, and align if `aligned`.

        rec = reg4rec.fit("clicks.csv", "items.csv", out="runs/shop", reading={"user": "customer"})

    data: a dataset, a folder or name for `load_dataset`, or interactions (a file, a folder of Parquet parts, a
    DataFrame); for interactions, `items` is the table of items and `reading` has arguments of `read_interactions`.
    recipe: one given by name gets codebooks that fit the catalog (about items / 8 codewords, at most 256).
    out: receives data/, a folder per stage, recommender/, and metrics.json: Recall and NDCG on the test items, also of
    popularity. The same call again resumes a killed one. `progress` shows epochs and metrics on standard error.
    InputError for unreadable data, or if `out` holds a fit of other data or settings.
    """
    if not isinstance(data, Dataset):
        data = _read(data, items, reading or {})
    elif items is not None or reading:
        raise InputError("items and reading belong to a file of interactions, and data is a dataset; leave them out")
    recommender, report = fit_and_evaluate(data, recipe, Run(out, seed, device, resume, progress), aligned)
    if progress and distributed.is_first():
        say(report.table())
    return recommender


def _read(data: Any, items: Any, reading: Mapping[str, Any]) -> Dataset:
    if is_table_source(data):
        return read_interactions(data, items, **reading)
    if items is not None or reading:
        raise InputError(f"items and reading belong to a file of interactions, but {str(data)!r} is not one")
    return load_dataset(data)


def fit_and_evaluate(
    data: Dataset, recipe: RecipeName | Recipe, run: Run = Run(), aligned: bool = False
) -> tuple[Recommender, Report]:
    """`fit` for a dataset: the recommender and its report, which are saved in the run folder."""
    if not isinstance(recipe, Recipe):
        recipe = recipe_named(recipe).sized_for(data.num_items)
    if run.folder is not None:
        _open(run.folder, data, {**asdict(recipe), "aligned": aligned, "seed": run.seed}, run.resume)
    recommender = recipe.fit(data, run, aligned)
    report = evaluate([Popularity.fit(data, recommender.trained_on), recommender], data)
    recommender.card = recommender.card | {
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
    """Create or reopen the folder of this fit, with its data; InputError if it holds something else."""
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
    distributed.barrier()  # until all processes have checked
    if path.exists() and not resume:
        _start_over(folder)
    if distributed.is_first():
        write_header(path, new_header(FORMAT, VERSION, **wanted))
        if _fingerprint(folder / "data") != data.card["fingerprint"]:  # a killed fit may have left other data
            data.save(folder / "data")
    distributed.barrier()


def _fingerprint(folder: Path) -> str | None:
    """The fingerprint of the dataset in a folder; None without one."""
    path = folder / "dataset.json"
    fingerprint: str | None = read_json(path).get("card", {}).get("fingerprint") if path.exists() else None
    return fingerprint


def _start_over(folder: Path) -> None:
    """Remove the results of an earlier fit before its settings are replaced; other files stay."""
    for stage in ("tokenizer", "model", "aligned"):
        if (folder / stage / "config.json").exists():
            open_folder(folder / stage, read_settings(folder / stage), resume=False)
    if distributed.is_first():
        (folder / "metrics.json").unlink(missing_ok=True)
    distributed.barrier()
