"""What most tests share: a shop whose best recommendation is known, its tokens, and a model trained on it once."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reg4rec.data import ItemCatalog, ViewConfig, synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.loop import LoopConfig
from reg4rec.model import Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer
from reg4rec.train import PretrainConfig, pretrain
from tests.artifacts import of_any_items


@pytest.fixture(scope="session")
def shop() -> SyntheticShop:
    return synthetic_shop(num_users=1000, num_items=60, num_facets=3, seed=0)


@pytest.fixture(scope="session")
def tokenizer(shop: SyntheticShop) -> Tokenizer:
    config = TokenizerConfig(
        orthogonality="decorrelation",
        num_codebooks=3,
        codebook_size=16,
        codeword_dim=8,
        hidden_dim=32,
        epochs=8,
        autoencoder_epochs=2,
        batch_size=64,
        views=ViewConfig(text_dim=24, collaborative_dim=8),
    )
    return fit_tokenizer(shop, config, Run(progress=False))


@pytest.fixture(scope="session")
def model_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the model, which is trained first."""
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="session")
def model_config() -> PretrainConfig:
    """The settings of `model`."""
    return PretrainConfig(
        size="tiny",
        max_history=20,
        decoded_fraction=1.0,
        validation_users=100,
        loop=LoopConfig(epochs=14, learning_rate=4e-3, log_every=1000),
    )


@pytest.fixture(scope="session")
def model(shop: SyntheticShop, tokenizer: Tokenizer, model_config: PretrainConfig, model_run: Path) -> Reg4RecModel:
    """Trained until it clearly knows the shop; treat it as read-only."""
    return pretrain(shop, tokenizer, model_config, Run(model_run, device="cpu", progress=False))


@pytest.fixture(scope="session")
def token_model(shop: SyntheticShop, tokenizer: Tokenizer) -> Reg4RecModel:
    """A model without a score of whole items; knows the shop a little; read-only too."""
    config = PretrainConfig(size="tiny", score_items=False, validation_users=10, loop=LoopConfig(epochs=2))
    return pretrain(shop, tokenizer, config, Run(device="cpu", progress=False))


@pytest.fixture(scope="session")
def exact(shop: SyntheticShop, tokenizer: Tokenizer, model: Reg4RecModel) -> Recommender:
    """The recommender that users get: it ranks items by their own score."""
    return Recommender(model, tokenizer, shop.items, shop.item_counts("train"), device="cpu")


@pytest.fixture(scope="session")
def recommender(exact: Recommender) -> Recommender:
    """The same, but it searches paths, with fewer beams than the shop has items."""
    return exact.with_search(retriever="paths", num_beams=37)


@pytest.fixture(scope="module")
def histories(shop: SyntheticShop) -> dict[str, list[str]]:
    """Thirty users of the shop and one without a history."""
    ids = shop.items.ids.to_pylist()
    return {f"user{u}": [ids[i] for i in shop.sequences[u]] for u in range(30)} | {"new": []}


@pytest.fixture(scope="module")
def saved(recommender: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "recommender"
    recommender.save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "damaged"))


@pytest.fixture
def numbered(recommender: Recommender, model: Reg4RecModel, tokenizer: Tokenizer) -> Recommender:
    """The same recommender of items whose ids are 1000, 1010 and so on."""
    table = recommender.items.table.set_column(0, "item_id", pa.array(np.arange(60) * 10 + 1000))
    catalog, search = ItemCatalog.from_table(table), asdict(recommender.config)
    return Recommender(of_any_items(model), tokenizer, catalog, recommender.live.popularity_I, device="cpu", **search)
