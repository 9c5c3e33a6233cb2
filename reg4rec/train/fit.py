"""From a dataset and its tokens to a recommender that is ready to use."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from reg4rec.data import Dataset
from reg4rec.infer import Recommender, SearchConfig
from reg4rec.settings import override
from reg4rec.storage import write_json
from reg4rec.tokenizer import Tokenizer
from reg4rec.train.calibration import calibrate
from reg4rec.train.config import PretrainConfig
from reg4rec.train.pretrain import pretrain
from reg4rec.train.recipes import RECIPES, RecipeName

__all__ = ["fit_recommender"]


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

    With `out`, `calibration.json` lists the settings tried and `recommender/` holds the result. A model trained on the
    validation items too has nothing left to choose by: `search` gives it what an earlier fit has chosen.
    """
    config = override(config or RECIPES[recipe].pretrain, overrides)
    model = pretrain(data, tokenizer, config, out, resume, seed, device, progress)
    popularity_I = data.item_counts(config.part)
    recommender = Recommender(
        model, tokenizer, data.items, popularity_I, trained_on=config.part, device=device
    ).with_search(**config.search)
    tried: list[dict[str, Any]] = []
    if search is not None:
        recommender = recommender.with_search(**asdict(search))
    elif config.part == "train":
        recommender, tried = calibrate(recommender, data, max_users=config.validation_users, seed=seed)
    if out is not None:
        write_json(Path(out) / "calibration.json", {"chosen": asdict(recommender.config), "tried": tried})
        recommender.save_pretrained(Path(out) / "recommender")
    return recommender
