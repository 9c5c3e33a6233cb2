"""From a dataset and its tokens to a recommender that is ready for use."""

from dataclasses import asdict, fields
from typing import Any

import numpy.typing as npt

from reg4rec import __version__, distributed
from reg4rec.data import Dataset
from reg4rec.data.fingerprint import fingerprint
from reg4rec.evaluation import ProtocolName
from reg4rec.model import Reg4RecModel
from reg4rec.progress import quiet
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.search import SearchConfig
from reg4rec.settings import override
from reg4rec.storage import new_header, read_header, write_header
from reg4rec.tokenizer import Tokenizer
from reg4rec.train.calibration import calibrate
from reg4rec.train.config import PretrainConfig
from reg4rec.train.pretrain import PretrainStage, pretrain

__all__ = ["calibrated", "fit_recommender", "weights_of"]

FORMAT, VERSION = "reg4rec-calibration", 1
CALIBRATION_USERS = 2000
"""Most users on whom each search setting is tried."""


def fit_recommender(
    data: Dataset,
    tokenizer: Tokenizer,
    config: PretrainConfig | None = None,
    run: Run = Run(),
    search: SearchConfig | None = None,
    stage: type[PretrainStage] | None = None,
    **overrides: Any,
) -> Recommender:
    """Pre-train a model (see `pretrain`) and return a recommender whose search settings validation chose.

    In the folder `run.out`, `calibration.json` lists the settings tried and `recommender/` contains the result; with
    `run.resume`, settings in that file are used again if the weights are the same. With `search`, no validation chooses
    settings; nor if the model was trained on the validation items too. `stage`: see `pretrain`.
    """
    config = override(config or PretrainConfig(), overrides)
    model = pretrain(data, tokenizer, config, run, stage)
    popularity_I = data.item_counts(config.part)
    settings = config.search if search is None else asdict(search)
    recommender = Recommender(
        model, tokenizer, data.items, popularity_I, trained_on=config.part, device=run.device, **settings
    )
    recommender.card = {"reg4rec": __version__, "dataset": data.name, "fingerprint": data.card["fingerprint"]}
    if search is None and config.part == "train":
        recommender = calibrated(recommender, data, config.protocol, config.validation_users, run)
    if run.folder is not None and distributed.is_first():
        recommender.save_pretrained(run.folder / "recommender")
    return recommender


def calibrated(
    recommender: Recommender, data: Dataset, protocol: ProtocolName, validation_users: int | None, run: Run
) -> Recommender:
    """The recommender with the settings that `calibrate` chooses; writes `calibration.json` into the run folder.

    Settings are measured under `protocol` on at most `validation_users` users. With `run.resume`, the choice in that
    file is used again if it was made for the same weights.
    """
    max_users = min(validation_users or CALIBRATION_USERS, CALIBRATION_USERS)
    kept = None if run.folder is None else run.folder / "calibration.json"
    choices = [field.name for field in fields(SearchConfig)]
    asked = {"users": max_users, "seed": run.seed, "protocol": protocol, "choices": choices}
    basis = fingerprint({}, weights_of(recommender.model), asked)
    known = read_header(kept, FORMAT, VERSION) if kept is not None and run.resume and kept.exists() else {}
    if known.get("basis") == basis:
        return recommender.with_search(**asdict(SearchConfig.from_json(known["chosen"])))
    with quiet(not run.progress):
        recommender, tried = calibrate(recommender, data, max_users=max_users, seed=run.seed, protocol=protocol)
    if kept is not None and distributed.is_first():
        header = new_header(FORMAT, VERSION, basis=basis, chosen=asdict(recommender.config), tried=tried)
        write_header(kept, header)
    return recommender


def weights_of(model: Reg4RecModel) -> dict[str, npt.NDArray[Any]]:
    """The weights by name, for `reg4rec.data.fingerprint`."""
    return {name: weight.cpu().numpy() for name, weight in model.state_dict().items()}
