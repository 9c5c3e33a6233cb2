"""TIGER on the shop: unique tokens, a search that equals scoring every item, learning, files, resume."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from reg4rec.baselines import Tiger, TigerConfig
from reg4rec.data import Sequences, ViewConfig
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, Ranker, evaluate
from reg4rec.loop import LoopConfig, Validation
from reg4rec.model import decode_step, encoded_histories
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.train.losses import path_losses
from reg4rec.train.pretrain import PretrainStage


def small_config(epochs: int) -> TigerConfig:
    config = TigerConfig()
    tokens = replace(
        config.tokenizer,
        codebook_size=8,
        codeword_dim=8,
        hidden_dim=64,
        epochs=24,
        autoencoder_epochs=8,
        batch_size=16,
        learning_rate=1e-2,
        views=ViewConfig(text_dim=24, collaborative_dim=0),
    )
    loop = LoopConfig(epochs=epochs, learning_rate=4e-3, log_every=1000)
    return TigerConfig(tokens, replace(config.pretrain, size="tiny", batch_targets=512, validation_users=50, loop=loop))


@pytest.fixture(scope="session")
def tiger(shop: SyntheticShop) -> Tiger:
    return Tiger.fit(shop, small_config(8), Run(device="cpu", progress=False))


@pytest.fixture(scope="session")
def histories(shop: SyntheticShop) -> Sequences:
    return shop.part("train").take(np.arange(5))


def item_scores(recommender: Recommender, histories: Sequences) -> Tensor:
    """scores_BI: every item's tokens, fed to the model one by one."""
    model, codes_IM = recommender.model, recommender.codes_IM
    num_users, (num_items, num_codebooks) = len(histories), codes_IM.shape
    memory = encoded_histories(recommender.model, recommender.codes_IM, histories)
    state, cache = decode_step(model, memory, None, 0, None)
    state = state.expand(num_users, num_items, -1)
    cache = cache.of_paths(torch.zeros(len(histories), num_items, dtype=torch.int64))
    scores_BI = torch.zeros(num_users, num_items)
    for m in range(num_codebooks):
        log_probs_BIK = model.token_logits(state)[:, :, m].log_softmax(-1)
        code_BI1 = codes_IM[:, m].expand(num_users, -1)[..., None]
        scores_BI += log_probs_BIK.gather(2, code_BI1)[..., 0]
        token_BI = m * model.config.codebook_size + code_BI1[..., 0]
        state, cache = decode_step(model, memory, token_BI, m + 1, cache)
    return scores_BI


def test_every_item_has_a_unique_token_sequence(tiger: Tiger, shop: SyntheticShop) -> None:
    codes_IM = tiger.recommender.tokenizer.codes_IM
    assert codes_IM.shape == (shop.num_items, 4)
    assert len(codes_IM.unique(dim=0)) == shop.num_items
    assert tiger.recommender.tokenizer.health.collision_rate > 0


def test_there_is_no_category_head_and_every_path_is_in_order(tiger: Tiger, histories: Sequences) -> None:
    assert tiger.recommender.model.category_head is None
    assert not tiger.recommender.model.scores_items
    for results in tiger.recommender.search(histories, 10, False):
        living = results.paths.scores_BW > -torch.inf
        assert (results.paths.order_BWM[living] == torch.arange(4)).all()
        assert (results.ranking.source_BN == 0).all()


@torch.no_grad()
def test_the_search_equals_scoring_every_item(tiger: Tiger, histories: Sequences, shop: SyntheticShop) -> None:
    """With as many beams as items nothing is lost on the way down the trie."""
    scores_BI = item_scores(tiger.recommender, histories)
    expected = scores_BI.sort(descending=True)
    wide = tiger.recommender.with_search(num_beams=shop.num_items)
    (results,) = wide.search(histories, shop.num_items, False)
    torch.testing.assert_close(results.ranking.scores_BN, expected.values)
    assert torch.equal(results.ranking.items_BN, expected.indices)


@torch.no_grad()
def test_seen_items_and_items_that_are_no_candidates_are_out_of_reach(
    tiger: Tiger, histories: Sequences, shop: SyntheticShop
) -> None:
    scores_BI = item_scores(tiger.recommender, histories)
    allowed = np.arange(0, shop.num_items, 3, dtype=np.int32)
    open_BI = torch.zeros_like(scores_BI, dtype=torch.bool)
    open_BI[:, torch.from_numpy(allowed).long()] = True
    for b in range(len(histories)):
        open_BI[b, torch.from_numpy(histories[b]).long()] = False
    expected = scores_BI.masked_fill(~open_BI, -torch.inf).topk(5).indices
    wide = tiger.recommender.with_search(num_beams=shop.num_items)
    some = wide.only(shop.items.ids.take(pa.array(allowed)).to_pylist())
    assert np.array_equal(some.rank(histories, 5, True), expected)


def test_it_beats_popularity(tiger: Tiger, shop: SyntheticShop) -> None:
    assert isinstance(tiger, Ranker)
    report = evaluate([Popularity.fit(shop), tiger], shop, "test", ks=(5,), max_users=300)
    popular, ours = (row.metrics["recall@5"] for row in report.rows)
    assert ours > 1.5 * popular


def test_what_is_loaded_ranks_as_what_was_saved(tiger: Tiger, histories: Sequences, tmp_path: Path) -> None:
    tiger.save_pretrained(tmp_path / "tiger")
    loaded = Tiger.from_pretrained(tmp_path / "tiger", device="cpu")
    assert (loaded.name, loaded.trained_on) == ("tiger", "train")
    assert loaded.recommender.config == tiger.recommender.config
    assert np.array_equal(loaded.rank(histories, 10, True), tiger.rank(histories, 10, True))


def test_a_recommender_of_free_order_is_no_tiger(tiger: Tiger, tmp_path: Path) -> None:
    tiger.recommender.with_search(order="confidence").save_pretrained(tmp_path / "recommender")
    with pytest.raises(InputError, match="without a fixed search order"):
        Tiger.from_pretrained(tmp_path / "recommender", device="cpu")


def test_a_killed_fit_resumes_to_the_same_bits(
    shop: SyntheticShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(out: Path | None) -> Tiger:
        return Tiger.fit(shop, small_config(2), Run(out, device="cpu", progress=False))

    whole: Callable[[PretrainStage, int], Validation] = PretrainStage.end_epoch

    def killed(self: PretrainStage, epoch: int) -> Validation:
        if epoch == 1:
            raise KeyboardInterrupt
        return whole(self, epoch)

    monkeypatch.setattr(PretrainStage, "end_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    assert not (tmp_path / "model" / "recommender").exists()
    monkeypatch.undo()
    resumed, straight = fit(tmp_path).recommender, fit(None).recommender
    assert torch.equal(resumed.codes_IM, straight.codes_IM)
    states = zip(resumed.model.state_dict().values(), straight.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert (
        Tiger.from_pretrained(tmp_path / "model" / "recommender", device="cpu").recommender.tokenizer.config.kind
        == "rq-vae"
    )


@torch.no_grad()
def test_the_loss_of_a_step_is_that_of_the_next_token_alone(tiger: Tiger, shop: SyntheticShop) -> None:
    model, codes_IM = tiger.recommender.model, tiger.recommender.codes_IM
    item_BL = torch.from_numpy(shop.part("train")[0]).long()[None, :3]
    codes_BLM = codes_IM[item_BL]
    order_BLM = torch.arange(4).expand_as(codes_BLM)
    memory_BJD, number_J = model.encode(codes_BLM[:, :-1])
    states_BLSD = model.decode_on(memory_BJD, number_J, codes_BLM, order_BLM, torch.arange(codes_BLM.shape[1]))
    loss = path_losses(model, states_BLSD[0], codes_BLM[0], order_BLM[0], torch.zeros_like(item_BL[0]), "next")
    logits_BLSMK = model.token_logits(states_BLSD)
    terms = [-logits_BLSMK[0, item, m, m].log_softmax(-1)[codes_BLM[0, item, m]] for item in range(3) for m in range(4)]
    torch.testing.assert_close(loss["token_loss"], torch.stack(terms).mean())
    assert list(loss) == ["token_loss"]


def test_what_makes_it_tiger_cannot_be_changed() -> None:
    for change in ({"order": "random"}, {"targets": "open"}, {"category_weight": 0.5}):
        with pytest.raises(InputError, match="TIGER is trained with order 'fixed'"):
            TigerConfig(pretrain=replace(TigerConfig().pretrain, **change))
