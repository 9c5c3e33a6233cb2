"""From a dataset and its tokens to a recommender that is ready to use."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy.typing as npt

from reg4rec import distributed
from reg4rec.data import Dataset
from reg4rec.data.fingerprint import fingerprint
from reg4rec.infer import Recommender, SearchConfig
from reg4rec.model import Reg4RecModel
from reg4rec.settings import override
from reg4rec.storage import read_json, write_json
from reg4rec.tokenizer import Tokenizer
from reg4rec.train.calibration import calibrate
from reg4rec.train.config import PretrainConfig
from reg4rec.train.pretrain import pretrain
from reg4rec.train.recipes import RecipeName, recipe_named

__all__ = ["calibrated", "fit_recommender", "weights_of"]


def fit_recommender(
    data: Dataset,
    tokenizer: Tokenizer,
    config: PretrainConfig | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    search: SearchConfig | None = None,
    recipe: RecipeName = "default",
    **overrides: Any,
) -> Recommender:
    """Pre-train (see `pretrain`), put the parts together, and let validation set up the search.

    With `out`, `calibration.json` lists the settings tried and `recommender/` holds the result; with `resume`, settings
    that were chosen there for the same weights are taken over. A model trained on the validation items too has nothing
    left to choose by: `search` gives it what an earlier fit has chosen.
    """
    config = override(config or recipe_named(recipe).pretrain, overrides)
    model = pretrain(data, tokenizer, config, out, resume, seed, device, progress)
    popularity_I = data.item_counts(config.part)
    settings = config.search if search is None else asdict(search)
    recommender = Recommender(
        model, tokenizer, data.items, popularity_I, trained_on=config.part, device=device, **settings
    )
    if search is None and config.part == "train":
        kept = None if out is None else Path(out) / "calibration.json"
        recommender = calibrated(recommender, data, config.validation_users, seed, kept, resume)
    if out is not None and distributed.is_first():
        recommender.save_pretrained(Path(out) / "recommender")
    return recommender


def calibrated(
    recommender: Recommender, data: Dataset, max_users: int, seed: int, kept: Path | None, resume: bool
) -> Recommender:
    """The recommender as `calibrate` sets it up; with `resume`, a record in `kept` of the same weights is taken over.

    `kept` is the file in which the settings tried are written; None keeps no record.
    """
    choices = [field.name for field in fields(SearchConfig)]
    basis = fingerprint({}, weights_of(recommender.model), {"users": max_users, "seed": seed, "choices": choices})
    known = read_json(kept) if kept is not None and resume and kept.exists() else {}
    if known.get("basis") == basis:
        return recommender.with_search(**asdict(SearchConfig.from_json(known["chosen"])))
    recommender, tried = calibrate(recommender, data, max_users=max_users, seed=seed)
    if kept is not None and distributed.is_first():
        write_json(kept, {"basis": basis, "chosen": asdict(recommender.config), "tried": tried})
    return recommender


def weights_of(model: Reg4RecModel) -> dict[str, npt.NDArray[Any]]:
    """The parameters by name, as `reg4rec.data.fingerprint` takes them."""
    return {name: weight.cpu().numpy() for name, weight in model.state_dict().items()}
