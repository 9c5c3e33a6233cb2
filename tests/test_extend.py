"""What users add without a fork: tokens, rewards, losses, rankers, training loops; how results look in a notebook."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import reg4rec
from reg4rec.alignment import RewardedPaths
from reg4rec.cli import main
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer
from reg4rec.train.windows import Batch

EXTEND = Path(__file__).parents[1] / "examples" / "extend.py"
TINY: dict[str, Any] = {"size": "tiny", "epochs": 1, "validation_users": 50}


def test_the_example_ranks_as_the_library_does(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXTEND))
    report = example["main"](users=80, epochs=1)
    assert [row.name for row in report.rows] == ["popularity", "reg4rec", "nearest by numpy", "own loop"]
    assert "nearest by numpy" in capsys.readouterr().out


def test_a_retriever_of_ones_own_ranks_as_the_library_does(exact: Recommender, shop: SyntheticShop) -> None:
    nearest, histories = runpy.run_path(str(EXTEND))["Nearest"](exact), shop.part("train").take(range(40))
    for filter_seen in (True, False):
        assert np.array_equal(nearest.rank(histories, 10, filter_seen), exact.rank(histories, 10, filter_seen))


def test_a_reader_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    data = runpy.run_path(str(EXTEND))["read_baskets"](["ann;1;bread,milk", "bob;2;milk"])
    assert (data.num_users, data.num_items, len(data.sequences.items)) == (2, 2, 3)


def test_vectors_give_the_scores_of_the_recommender(exact: Recommender) -> None:
    ids = exact.items.ids.to_pylist()
    history = ids[:5]
    scores_I = exact.user_vectors([history])[0] @ exact.item_vectors().T
    scores_I[:5] = -np.inf
    table = exact.recommend([history], k=3)
    assert table["item_id"].to_pylist() == [ids[i] for i in np.argsort(-scores_I)[:3]]
    np.testing.assert_allclose(table["score"].to_numpy(), np.sort(scores_I)[::-1][:3], rtol=1e-5)
    assert exact.user_vectors([]).shape == (0, exact.model.config.dim)
    exact.item_vectors()[:] = 0  # a copy: the recommender does not change
    assert exact.recommend([history], k=3).equals(table)


@pytest.fixture(scope="module")
def given(shop: SyntheticShop) -> Tokenizer:
    codes_IM = np.random.default_rng(0).integers(0, 6, (shop.num_items, 3))
    return Tokenizer.from_codes(codes_IM, shop, codebook_size=8)


def test_codes_from_elsewhere_are_kept_and_saved(given: Tokenizer, shop: SyntheticShop, tmp_path: Path) -> None:
    expected = np.random.default_rng(0).integers(0, 6, (shop.num_items, 3))
    assert given.codes_IM.tolist() == expected.tolist()
    given.save_pretrained(tmp_path / "tokens")
    loaded = Tokenizer.from_pretrained(tmp_path / "tokens")
    assert loaded.config == given.config
    assert torch.equal(loaded.codes_IM, given.codes_IM)
    assert torch.equal(loaded.quantizer.codebooks_MKE, given.quantizer.codebooks_MKE)


def test_a_codeword_is_the_mean_of_its_items_and_new_items_take_the_nearest(given: Tokenizer) -> None:
    vectors_IV = torch.from_numpy(given.views.vectors_IV)
    means_KV = given.quantizer.codebooks_MKE[1]
    torch.testing.assert_close(means_KV[4], vectors_IV[given.codes_IM[:, 1] == 4].mean(0))
    everything_IM = given.encode(torch.cat([vectors_IV, vectors_IV.mean(0, keepdim=True)]))
    assert everything_IM.max() < 6  # no item has the codes 6 and 7
    assert given.encode(means_KV[4][None])[0, 1] == 4


@pytest.mark.parametrize(
    ("codes", "size", "sentence"),
    [
        (np.zeros((3, 2), int), None, "a row for each of the .* items"),
        (np.zeros(0), None, "found shape"),
        (np.full(2, 0.5), None, "whole numbers; found float64"),
        (np.full(2, -1), None, "found -1..-1"),
        (np.full(2, 9), 8, r"lie in 0..7; found 9..9"),
        (np.full(2, 10**11), None, "number the codes of each column from 0"),
    ],
)
def test_codes_that_do_not_fit_are_refused(shop: SyntheticShop, codes: Any, size: int | None, sentence: str) -> None:
    each = np.tile(codes, (shop.num_items, 1)) if codes.shape == (2,) else codes
    with pytest.raises(InputError, match=sentence):
        Tokenizer.from_codes(each, shop, size)


def test_given_codes_are_not_fitted(shop: SyntheticShop) -> None:
    with pytest.raises(InputError, match=r"Tokenizer\.from_codes"):
        reg4rec.fit_tokenizer(shop, kind="given", codebook_size=8)


class Halved(reg4rec.PretrainStage):
    name = "halved"

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        losses = super().loss(batch)
        return losses | {"loss": losses["loss"] / 2, "whole": losses["loss"].detach()}


def test_a_loss_of_ones_own_is_trained_and_logged_and_resumes_by_its_name(
    given: Tokenizer, shop: SyntheticShop, tmp_path: Path
) -> None:
    run = reg4rec.Run(tmp_path, progress=False)
    rec = reg4rec.fit_recommender(shop, given, run=run, stage=Halved, **TINY)
    assert rec.recommend([[]], k=3).num_rows == 3
    assert '"whole"' in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="variation differ"):
        reg4rec.fit_recommender(shop, given, run=run, **TINY)


def test_a_stage_of_ones_own_needs_another_name(given: Tokenizer, shop: SyntheticShop) -> None:
    class Unnamed(reg4rec.PretrainStage):
        pass

    with pytest.raises(InputError, match="Unnamed is named 'pretrain'"):
        reg4rec.pretrain(shop, given, stage=Unnamed, **TINY)


@pytest.fixture(scope="module")
def fitted(given: Tokenizer, shop: SyntheticShop) -> Recommender:
    return reg4rec.fit_recommender(shop, given, run=reg4rec.Run(progress=False), **TINY)


def test_a_reward_of_ones_own_sees_the_paths_and_is_logged(
    fitted: Recommender, shop: SyntheticShop, tmp_path: Path
) -> None:
    seen: list[RewardedPaths] = []

    def first_token(paths: RewardedPaths) -> torch.Tensor:
        seen.append(paths)
        return (paths.tokens_BGM[:, :, 0] == 1).float()

    settings: dict[str, Any] = {"epochs": 1, "validation_users": 50}
    run = reg4rec.Run(tmp_path, progress=False)
    kept = reg4rec.align(
        fitted, shop, run=run, own_rewards={"first": (2.0, first_token)}, accepted_loss=1.0, **settings
    )
    assert kept.fingerprint() != fitted.fingerprint()
    assert '"reward_first"' in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    paths = seen[0]
    assert paths.tokens_BGM.shape == (*paths.valid_BG.shape, 3)
    assert len(paths.histories) == len(paths.futures_BF) == len(paths.valid_BG)
    torch.testing.assert_close(paths.weights_BF.sum(1), torch.ones(len(paths.futures_BF)))
    with pytest.raises(InputError, match="own_rewards"):
        reg4rec.align(fitted, shop, run=run, own_rewards={"first": (1.0, first_token)}, accepted_loss=1.0, **settings)


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"step_hit": (1.0, lambda paths: paths.valid_BG.float())}, "other than step_hit"),
        ({"mine": (0.0, lambda paths: paths.valid_BG.float())}, "weight above 0"),
        ({"mine": (1.0, None)}, "function"),
        ({"mine": lambda paths: paths.valid_BG.float()}, "function"),
        ({"mine": (float("inf"), lambda paths: paths.valid_BG.float())}, "weight above 0"),
        ({"order": (1.0, lambda paths: paths.valid_BG.float())}, "other than"),
        ({"mine": (1.0, lambda paths: paths.valid_BG[:, 0])}, "tensor of shape"),
        ({"mine": (1.0, lambda paths: 2 * paths.valid_BG.float())}, r"0\.\.1.*found 0|0\.\.1.*found 2"),
        ({"mine": (1.0, lambda paths: paths.valid_BG / 0 * 0)}, r"0\.\.1"),
    ],
)
def test_rewards_that_cannot_be_used_are_refused(
    fitted: Recommender, shop: SyntheticShop, own: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        reg4rec.align(fitted, shop, run=reg4rec.Run(progress=False), own_rewards=own, epochs=1, validation_users=50)


def test_results_are_short_in_a_notebook(fitted: Recommender, shop: SyntheticShop, given: Tokenizer) -> None:
    report = reg4rec.evaluate([reg4rec.Popularity.fit(shop), fitted], shop, max_users=20)
    explained = reg4rec.explain(fitted, shop.items.ids.take([0, 1]).to_pylist(), k=2)
    for value, word in (
        (shop, f"{shop.num_items} items"),
        (given, "3 tokens each of 8"),
        (fitted, "retriever 'exact'"),
        (report, "ndcg@10: popularity ."),
        (explained, "2 items"),
    ):
        assert word in repr(value)
        assert len(repr(value)) < 200
        assert "\n" not in repr(value)
    shop_html, fitted_html = shop._repr_html_(), fitted._repr_html_()
    assert "leave-one-out, 1,000 validation and 1,000 test targets" in shop_html
    assert str(shop.items.table["title"][0]) in shop_html
    card = {"dataset": "<shop>", "metrics": {"recall@10": 0.25}}
    described = fitted.with_search()
    described.card = card
    assert "<tr><th>dataset<td>&lt;shop&gt;</tr>" in described._repr_html_()
    assert "recall@10 0.2500" in described._repr_html_()
    assert "&lt;" not in fitted_html
    assert "<pre>" in report._repr_html_()
    assert "<pre>" in given._repr_html_()
    assert 'srcdoc="&lt;!DOCTYPE' in explained._repr_html_()


def test_the_model_is_called_like_any_module(fitted: Recommender) -> None:
    codes_IM, rows_BL = fitted.codes_IM.long(), torch.tensor([[0, 1, 2]])
    states_BJD = fitted.model(codes_IM[rows_BL], rows_BL)
    assert states_BJD.shape == (1, 4, fitted.model.config.dim)
    ids = fitted.items.ids.take([0, 1, 2]).to_pylist()
    user_D = fitted.user_vectors([ids])[0]
    np.testing.assert_allclose(states_BJD[0, -1].detach().numpy(), user_D, rtol=1e-4, atol=1e-5)


def test_a_method_of_ones_own_is_a_row_of_the_comparison(shop: SyntheticShop, tmp_path: Path) -> None:
    fitted_on: list[tuple[str, int]] = []

    def newest(data: reg4rec.Dataset, part: Any, seed: int) -> reg4rec.Ranker:
        fitted_on.append((part, seed))
        return reg4rec.Popularity.fit(data, part)

    asked: dict[str, Any] = {"methods": ("popularity",), "protocols": ("filtered", "final"), "seeds": (3,)}
    found = reg4rec.compare(shop, out=tmp_path, device="cpu", own={"mine": newest}, **asked)
    assert fitted_on == [("train", 3), ("train+validation", 3)]
    values = {(row.protocol, row.method): row.metrics for row in found.rows}
    for protocol in ("filtered", "final"):
        assert values[protocol, "mine"] == values[protocol, "popularity"]
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert "| mine" in text
    assert "Recall@10 over popularity" in text
    reg4rec.compare(shop, out=tmp_path, device="cpu", own={"mine": newest}, **asked)
    assert len(fitted_on) == 2  # results are found again by the name
    for name in ("popularity", "a/b"):
        with pytest.raises(InputError, match="choose a name"):
            reg4rec.compare(shop, out=tmp_path, device="cpu", own={name: newest}, **asked)


def test_vectors_are_exported_for_another_index(exact: Recommender, shop: SyntheticShop, tmp_path: Path) -> None:
    ids = exact.items.ids.to_pylist()
    chosen = exact.with_search(retriever="exact")
    chosen.remove_items(ids[:1])
    chosen.save_pretrained(tmp_path / "model")
    shop.save(tmp_path / "data")
    out = tmp_path / "vectors"
    main(["export", "--model", str(tmp_path / "model"), "--output", str(out), "--data", str(tmp_path / "data")])
    items, users = (pq.read_table(out / f"{name}.parquet") for name in ("items", "users"))
    assert items["item_id"].to_pylist() == ids[1:]
    assert users["user_id"].equals(pa.chunked_array([shop.user_ids]))
    for name, table in (("items", items), ("users", users)):
        assert np.array_equal(np.load(out / f"{name}.npy"), np.array(table["vector"].to_pylist(), dtype=np.float32))
    history = shop.items.ids.take(shop.sequences[7]).to_pylist()
    scores_I = np.load(out / "items.npy") @ np.load(out / "users.npy")[7]
    scores_I[[ids.index(i) - 1 for i in history if i != ids[0]]] = -np.inf
    best = [ids[1:][row] for row in np.argsort(-scores_I)[:5]]
    assert chosen.recommend([history], k=5)["item_id"].to_pylist() == best
