"""RPG on the shop: its loss and its ranking against plain loops, learning, files, resume."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reg4rec.baselines import Rpg, RpgConfig
from reg4rec.baselines import rpg as module_of_rpg
from reg4rec.baselines.rpg import _Stage
from reg4rec.data import Sequences, ViewConfig
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.loop import LoopConfig
from reg4rec.run import Run
from reg4rec.train.windows import Batch
from tests.artifacts import reseal

CONFIG = RpgConfig(
    dim=32,
    num_blocks=1,
    ffn_dim=64,
    dropout=0.1,
    batch_targets=512,
    validation_users=200,
    temperature=0.3,
    loop=LoopConfig(epochs=6, learning_rate=1e-2, log_every=1, checkpoint_seconds=0),
    tokenizer=replace(
        RpgConfig().tokenizer, num_codebooks=6, codebook_size=8, views=ViewConfig(text_dim=24, collaborative_dim=0)
    ),
)


class Killed(BaseException):
    """Stands for anything that ends a run from outside."""


def fit(shop: SyntheticShop, out: Path | None = None, seed: int = 0, **overrides: Any) -> Rpg:
    return Rpg.fit(shop, CONFIG, Run(out, seed, device="cpu", progress=False), **overrides)


@pytest.fixture(scope="module")
def rpg(shop: SyntheticShop) -> Rpg:
    return fit(shop)


def same_bits(a: Rpg, b: Rpg) -> bool:
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def token_log_probs(rpg: Rpg, history: list[int]) -> list[torch.Tensor]:
    """Log-probabilities of every codebook's tokens, head by head."""
    network, dim = rpg.network, CONFIG.dim
    state_D = network(torch.tensor([history], dtype=torch.int64))[0, -1]
    found = []
    for m, tokens_KD in enumerate(network.tokens_MKD):
        own = slice(m * dim, (m + 1) * dim)
        head_D = network.heads.weight[own] @ state_D + network.heads.bias[own]
        head_D = state_D + head_D * torch.sigmoid(head_D)
        cosines_K = torch.cosine_similarity(head_D[None], tokens_KD)
        found.append((cosines_K / CONFIG.temperature).log_softmax(0))
    return found


def test_an_item_is_the_mean_of_its_tokens(rpg: Rpg) -> None:
    network = rpg.network
    expected = [network.tokens_MKD[m, code] for m, code in enumerate(network.codes_IM[7].tolist())]
    torch.testing.assert_close(network.embed(torch.tensor(7)), torch.stack(expected).mean(0))


def test_the_loss_is_the_mean_over_codebooks_of_each_tokens_own(shop: SyntheticShop, rpg: Rpg) -> None:
    windows = [[4, 7, 4, 9], [1, 2], [5]]
    items_BL = torch.full((3, 4), -1)
    losses = []
    for row, window in enumerate(windows):
        items_BL[row, : len(window)] = torch.tensor(window)
        for place, target in enumerate(window):
            log_probs = token_log_probs(rpg, window[:place])
            codes = rpg.network.codes_IM[target].tolist()
            losses += [-log_probs_K[code] for log_probs_K, code in zip(log_probs, codes, strict=True)]
    torch.testing.assert_close(_Stage(rpg, shop, 0).loss(Batch(items_BL))["loss"], torch.stack(losses).mean())


def test_all_items_are_ranked_by_the_sum_over_their_tokens(
    shop: SyntheticShop, rpg: Rpg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_rpg, "USERS_AT_ONCE", 7)
    histories, num_items = shop.part("train").take(np.arange(20)), shop.num_items
    open_BN, closed_BN = (rpg.rank(histories, num_items + 1, filtered) for filtered in (False, True))
    assert open_BN.dtype == np.int32
    for row in range(20):
        log_probs = token_log_probs(rpg, histories[row].tolist())
        scores_I = torch.stack([p_K[rpg.network.codes_IM[:, m]] for m, p_K in enumerate(log_probs)]).sum(0)
        for ranked_N, seen in ((open_BN[row], []), (closed_BN[row], histories[row])):
            left = np.setdiff1d(range(num_items), seen)
            assert sorted(ranked_N[: len(left)]) == left.tolist()
            assert set(ranked_N[len(left) :]) == {-1}
            found_T = scores_I[torch.from_numpy(ranked_N[: len(left)]).long()]
            assert bool((found_T.diff() < 1e-5).all())


def test_ties_go_to_the_lowest_row_and_only_the_newest_items_are_read(rpg: Rpg) -> None:
    flat = Rpg(rpg.network.__class__(torch.zeros_like(rpg.network.codes_IM), CONFIG), rpg.items, CONFIG, "cpu")
    assert flat.rank(Sequences.from_lists([[1, 3], []]), 4, True).tolist() == [[0, 2, 4, 5], [0, 1, 2, 3]]
    assert flat.rank(Sequences.from_lists([]), 3, True).shape == (0, 3)
    short = Rpg(rpg.network, rpg.items, replace(CONFIG, max_history=2), "cpu")
    ranked = short.rank(Sequences.from_lists([[9, 8, 2, 3], [2, 3]]), 10, False)
    assert ranked[0].tolist() == ranked[1].tolist()


def test_the_shop_is_learned(shop: SyntheticShop, rpg: Rpg) -> None:
    popular, learned = (row.metrics for row in evaluate([Popularity.fit(shop), rpg], shop, protocol="filtered").rows)
    assert learned["ndcg@10"] > 1.5 * popular["ndcg@10"]


def test_a_saved_model_comes_back(rpg: Rpg, tmp_path: Path) -> None:
    rpg.save_pretrained(tmp_path / "saved")
    loaded = Rpg.from_pretrained(tmp_path / "saved", "cpu")
    assert loaded.config == rpg.config
    assert same_bits(loaded, rpg)
    histories = Sequences.from_lists([[3, 9], []])
    assert np.array_equal(loaded.rank(histories, 9, True), rpg.rank(histories, 9, True))
    header = json.loads((tmp_path / "saved" / "rpg.json").read_text())
    header["config"]["dim"] = 16
    reseal(tmp_path / "saved" / "rpg.json", header)
    with pytest.raises(InputError, match="does not contain a complete RPG"):
        Rpg.from_pretrained(tmp_path / "saved")


def test_a_killed_fit_goes_on_to_the_same_bits(
    shop: SyntheticShop, rpg: Rpg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_loss, steps = _Stage.loss, 0

    def loss_until_killed(stage: _Stage, batch: Batch) -> dict[str, torch.Tensor]:
        nonlocal steps
        if steps == 30:
            raise Killed
        steps += 1
        return whole_loss(stage, batch)

    monkeypatch.setattr(_Stage, "loss", loss_until_killed)
    with pytest.raises(Killed):
        fit(shop, tmp_path)
    monkeypatch.undo()
    assert same_bits(fit(shop, tmp_path), rpg)
    with pytest.raises(InputError, match="other settings"):
        fit(shop, tmp_path, dim=16)


def test_a_final_fit_sees_the_validation_items(shop: SyntheticShop, tmp_path: Path) -> None:
    final = fit(shop, tmp_path, part="train+validation", epochs=1)
    assert final.trained_on == "train+validation"
    assert "validation" not in (tmp_path / "model" / "metrics.jsonl").read_text()
    assert json.loads((tmp_path / "tokenizer" / "config.json").read_text())["part"] == "train+validation"


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 7}, {"num_blocks": 0}, {"num_heads": 3}, {"dropout": 1.0}, {"temperature": 0.0}, {"part": "all"}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="num_heads" if "dim" in wrong else next(iter(wrong))):
        RpgConfig(**wrong)
