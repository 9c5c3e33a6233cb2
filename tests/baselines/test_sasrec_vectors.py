"""SASRec with item views and a repeat bias: what it learns from, what it ranks by, what it saves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reg4rec.baselines import SASRec, SASRecConfig
from reg4rec.baselines import sasrec as module_of_sasrec
from reg4rec.baselines.sasrec import _build, _Stage
from reg4rec.baselines.sasrec_network import SASRecNetwork
from reg4rec.data import ItemViews, Sequences, ViewConfig
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.loop import LoopConfig
from reg4rec.run import Run
from reg4rec.train.windows import Batch

CONFIG = SASRecConfig(
    dim=32,
    ffn_dim=64,
    dropout=0.1,
    num_negatives=40,
    batch_targets=512,
    validation_users=200,
    item_vectors=True,
    repeat_bias=True,
    views=ViewConfig(text_dim=24, collaborative_dim=8),
    loop=LoopConfig(epochs=3, learning_rate=1e-2, log_every=1, checkpoint_seconds=0),
)


class Killed(BaseException):
    """Stands for anything that ends a run from outside."""


def fit(shop: SyntheticShop, out: Path | None = None, **overrides: Any) -> SASRec:
    return SASRec.fit(shop, CONFIG, Run(out, device="cpu", progress=False), **overrides)


@pytest.fixture(scope="module")
def sasrec(shop: SyntheticShop) -> SASRec:
    return fit(shop)


def unfolded(shop: SyntheticShop, config: SASRecConfig = CONFIG) -> SASRecNetwork:
    """A network as training has it, its bias away from 0."""
    torch.manual_seed(0)
    views = ItemViews.fit(shop, config.views, config.part)
    network = _build(shop.num_items, config, torch.from_numpy(views.vectors_IV)).eval()
    if network.repeat is not None:
        torch.nn.init.constant_(network.repeat, -0.2)
    return network


def test_an_embedding_is_the_items_own_and_a_projection_of_its_view(shop: SyntheticShop) -> None:
    network, vectors_IV = unfolded(shop), torch.from_numpy(ItemViews.fit(shop, CONFIG.views).vectors_IV)
    assert network.projection is not None
    expected_ID = (network.items_ID + network.projection(vectors_IV)).detach()
    rows = torch.tensor([[3, 0], [59, 3]])
    torch.testing.assert_close(network.embed(rows), expected_ID[rows])
    torch.testing.assert_close(network.item_vectors(), expected_ID)
    states_BJD = network(rows)
    assert "views_IV" not in network.state_dict()
    network.fold()
    assert network.projection is None
    torch.testing.assert_close(network.items_ID, expected_ID)
    torch.testing.assert_close(network(rows), states_BJD)


@pytest.mark.parametrize("repeat_bias", [False, True])
def test_the_loss_is_the_softmax_over_the_scores_that_rank(
    shop: SyntheticShop, repeat_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every item once as a negative it is exact."""
    config = replace(CONFIG, repeat_bias=repeat_bias)
    network = unfolded(shop, config)
    stage = _Stage(SASRec(network, shop.items, config, "cpu"), shop, 0)
    every_item = torch.randperm(shop.num_items), torch.ones(shop.num_items)
    monkeypatch.setattr(module_of_sasrec, "draw_negatives", lambda *_: every_item)
    windows = [[4, 7, 4, 9], [1, 2], [5]]
    items_BL = torch.full((3, 4), -1)
    losses = []
    for row, window in enumerate(windows):
        items_BL[row, : len(window)] = torch.tensor(window)
        states_JD = network(torch.tensor([window]))[0]
        for place, target in enumerate(window):
            scores_I = network.item_vectors() @ states_JD[place]
            if network.repeat_bias is not None:
                scores_I[sorted(set(window[:place]))] += network.repeat_bias
            losses.append(F.cross_entropy(scores_I, torch.tensor(target)))
    torch.testing.assert_close(stage.loss(Batch(items_BL))["loss"], torch.stack(losses).mean())


def test_items_of_the_history_rank_by_the_bias(shop: SyntheticShop) -> None:
    network = unfolded(shop)
    ranker, histories = SASRec(network, shop.items, CONFIG, "cpu"), shop.part("train").take(np.arange(30))
    open_BN, closed_BN = (ranker.rank(histories, 60, filtered) for filtered in (False, True))
    for row in range(30):
        with torch.no_grad():
            state_D = network(torch.from_numpy(histories[row].astype(np.int64))[None])[0, -1]
            scores_I = network.item_vectors() @ state_D
        left = [i for i in scores_I.argsort(descending=True).tolist() if i not in histories[row]]
        assert closed_BN[row].tolist() == left + [-1] * (60 - len(left))
        scores_I[np.unique(histories[row])] -= 2.0
        assert open_BN[row].tolist() == scores_I.argsort(descending=True).tolist()


def test_the_bias_learns_that_nobody_buys_twice_and_the_shop_is_learned(shop: SyntheticShop, sasrec: SASRec) -> None:
    assert sasrec.network.repeat_bias is not None
    assert sasrec.network.repeat_bias.item() < -0.5
    popular, learned = (row.metrics for row in evaluate([Popularity.fit(shop), sasrec], shop, ks=(10,)).rows)
    assert learned["ndcg@10"] > 2 * popular["ndcg@10"]


@pytest.mark.parametrize("flags", [{}, {"item_vectors": False}, {"repeat_bias": False}])
def test_a_saved_model_ranks_without_the_views(shop: SyntheticShop, tmp_path: Path, flags: dict[str, Any]) -> None:
    fitted = fit(shop, epochs=1, **flags)
    fitted.save_pretrained(tmp_path / "saved")
    loaded = SASRec.from_pretrained(tmp_path / "saved", "cpu")
    assert loaded.config == fitted.config
    histories = Sequences.from_lists([[3, 9, 3], [], [1]])
    for filter_seen in (False, True):
        assert np.array_equal(loaded.rank(histories, 9, filter_seen), fitted.rank(histories, 9, filter_seen))
    scores = [r.recommend([["item3"]], filter_seen=False, to="polars")["score"].to_list() for r in (loaded, fitted)]
    assert scores[0] == scores[1]


def test_a_killed_fit_goes_on_to_the_same_bits(
    shop: SyntheticShop, sasrec: SASRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_loss, steps = module_of_sasrec.item_loss, 0

    def loss_until_killed(*inputs: Any) -> torch.Tensor:
        nonlocal steps
        if steps == 20:
            raise Killed
        steps += 1
        return whole_loss(*inputs)

    monkeypatch.setattr(module_of_sasrec, "item_loss", loss_until_killed)
    with pytest.raises(Killed):
        fit(shop, tmp_path)
    monkeypatch.undo()
    resumed = fit(shop, tmp_path).network.state_dict()
    assert all(torch.equal(resumed[name], t) for name, t in sasrec.network.state_dict().items())


def test_only_the_part_that_is_learned_from_makes_the_views(
    shop: SyntheticShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    whole_fit = ItemViews.fit

    def fit_and_note(data: Any, config: Any, part: Any, seed: int) -> ItemViews:
        asked.append(part)
        return whole_fit(data, config, part, seed)

    monkeypatch.setattr(ItemViews, "fit", fit_and_note)
    fit(shop, epochs=1)
    fit(shop, epochs=1, part="train+validation")
    assert asked == ["train", "train+validation"]


def test_a_matrix_that_the_data_lacks_is_refused(shop: SyntheticShop) -> None:
    with pytest.raises(InputError, match="no matrix 'images'"):
        fit(shop, views=ViewConfig(matrices=("images",)))
    with pytest.raises(InputError, match="repeat_bias"):
        SASRecConfig(repeat_bias=1)  # type: ignore[arg-type]
