"""RQ-VAE, residual and product k-means behind the tokenizer's interface, and the collision token."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from reg4rec.data import Dataset
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.loop import Validation
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer
from reg4rec.tokenizer.collisions import collision_token
from reg4rec.tokenizer.config import Kind
from reg4rec.tokenizer.health import bucket_sizes
from reg4rec.tokenizer.kinds import build_quantizer
from reg4rec.tokenizer.losses import residual_loss
from reg4rec.tokenizer.product import ProductQuantizer, balanced_rotation, fit_product
from reg4rec.tokenizer.residual import ResidualQuantizer
from reg4rec.tokenizer.stage import TokenizerStage
from tests.artifacts import reseal

FITTED = [kind for kind in get_args(Kind) if kind != "given"]
BASELINES = [kind for kind in FITTED if kind != "mpq"]


@pytest.fixture(scope="session")
def deeper(small: TokenizerConfig) -> TokenizerConfig:
    """What three layers need to learn in a few steps."""
    return replace(small, hidden_dim=64, epochs=16, autoencoder_epochs=6, learning_rate=1e-2)


@pytest.fixture(scope="session", params=BASELINES)
def fitted(request: pytest.FixtureRequest, shop: Dataset, deeper: TokenizerConfig) -> Tokenizer:
    return fit_tokenizer(shop, deeper, Run(progress=False), kind=request.param)


@pytest.fixture
def by_hand() -> ResidualQuantizer:
    books_MKE = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    return ResidualQuantizer(nn.Identity(), nn.Identity(), books_MKE)


def rq_vae64() -> ResidualQuantizer:
    config = TokenizerConfig(kind="rq-vae", num_codebooks=3, codebook_size=4, codeword_dim=2, hidden_dim=8)
    quantizer = build_quantizer(config, 5, torch.Generator().manual_seed(0)).double()
    assert isinstance(quantizer, ResidualQuantizer)
    with torch.no_grad():
        quantizer.codebooks_MKE.normal_(generator=torch.Generator().manual_seed(1))
    return quantizer


def test_residual_codes_by_hand(by_hand: ResidualQuantizer) -> None:
    vectors_BV = torch.tensor([[5.0, 0.5], [0.25, 0.875]])
    assert by_hand.latents(vectors_BV).tolist() == [[[5.0, 0.5], [1.0, 0.5]], [[0.25, 0.875]] * 2]
    ids_BM, mixed_BE = by_hand.encode(vectors_BV)
    assert ids_BM.tolist() == [[1, 0], [0, 1]]
    assert by_hand.decode(mixed_BE).tolist() == [[5.0, 0.0], [0.0, 1.0]]


def test_wanted_gives_the_whole_error_of_another_codeword(by_hand: ResidualQuantizer) -> None:
    """If other codebooks keep their codewords, changing one costs the error of the new sum."""
    vectors_BV, ids_BM = torch.tensor([[5.0, 0.5]]), torch.tensor([[1, 0]])
    wanted_BME = by_hand.latents_given(vectors_BV, ids_BM)
    assert wanted_BME.tolist() == [[[4.0, 0.5], [1.0, 0.5]]]
    for m, other in ((0, [[0, 0]]), (1, [[1, 1]])):
        changed = by_hand.mix(torch.tensor(other), vectors_BV)
        missed = (vectors_BV - changed).square().sum()
        assert missed == (wanted_BME[0, m] - by_hand.codebooks_MKE[m, other[0][m]]).square().sum()


@torch.no_grad()
def test_residual_loss_equals_a_slow_loop() -> None:
    quantizer = rq_vae64()
    vectors_BV = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    terms = residual_loss(quantizer, vectors_BV, True, 0.25)
    reconstruction = codebook = 0.0
    for v_V in vectors_BV:
        left_E = quantizer.encoder(v_V)
        sum_E = torch.zeros_like(left_E)
        for book_KE in quantizer.codebooks_MKE:
            z_E = book_KE[(left_E - book_KE).square().sum(1).argmin()]
            codebook += float((left_E - z_E).square().sum()) / 7
            left_E, sum_E = left_E - z_E, sum_E + z_E
        reconstruction += float((v_V - quantizer.decoder(sum_E)).square().sum()) / 7
    assert float(terms["reconstruction"]) == pytest.approx(reconstruction)
    assert float(terms["codebook"]) == pytest.approx(codebook)
    assert float(terms["loss"]) == pytest.approx(reconstruction + 1.25 * codebook)


def test_the_gradient_passes_straight_through_to_the_encoder() -> None:
    quantizer = rq_vae64()
    vectors_BV = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    terms = residual_loss(quantizer, vectors_BV, True, 0.25)
    found = torch.autograd.grad(terms["reconstruction"], list(quantizer.encoder.parameters()), retain_graph=True)
    mixed_BE = quantizer.encode(vectors_BV)[1].detach().requires_grad_()
    error = (vectors_BV - quantizer.decoder(mixed_BE)).square().sum(1).mean()
    (at_sum_BE,) = torch.autograd.grad(error, [mixed_BE])
    expected = torch.autograd.grad(quantizer.encoder(vectors_BV), list(quantizer.encoder.parameters()), at_sum_BE)
    torch.testing.assert_close(found, expected)
    (books,) = torch.autograd.grad(terms["reconstruction"], [quantizer.codebooks_MKE], allow_unused=True)
    assert books is None


def correlated(num_items: int = 400, dim: int = 10) -> Tensor:
    """Vectors whose first dimensions carry nearly all variance, and are correlated."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(1, 0.05, dim)
    base = torch.randn(num_items, dim, generator=generator) * scale
    base[:, 1] = base[:, 0] + 0.1 * base[:, 1]
    return base


def squared_error(quantizer: ProductQuantizer, vectors_IV: Tensor) -> float:
    return float((vectors_IV - quantizer.decode(quantizer.encode(vectors_IV)[1])).square().sum())


def test_opq_is_orthogonal_and_better_than_product_kmeans() -> None:
    vectors_IV = correlated()
    quantizer = ProductQuantizer(10, 3, 16)
    fit_product(quantizer, vectors_IV, seed=0)
    rotation = quantizer.rotation_VV
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(10), atol=1e-5, rtol=0)
    plain = sum(
        KMeans(16, n_init=3, random_state=0).fit(vectors_IV[:, inside_V].numpy()).inertia_
        for inside_V in quantizer.block_MV
    )
    assert squared_error(quantizer, vectors_IV) < 0.8 * plain


def test_learning_the_rotation_lowers_the_error_of_the_principal_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_IV = correlated()
    start, learned = ProductQuantizer(10, 3, 16), ProductQuantizer(10, 3, 16)
    fit_product(learned, vectors_IV, seed=0)
    monkeypatch.setattr("reg4rec.tokenizer.product.ROTATIONS", 0)
    fit_product(start, vectors_IV, seed=0)
    assert squared_error(learned, vectors_IV) < squared_error(start, vectors_IV)


def test_the_rotation_starts_with_blocks_of_equal_weight() -> None:
    """Variances 16, 8, 4, 2 go to two blocks as (16, 2) and (8, 4)."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    vectors_XV = signs * torch.tensor([16.0, 8.0, 4.0, 2.0]).sqrt()
    variances = (vectors_XV @ balanced_rotation(vectors_XV, [2, 2])).var(0, correction=0)
    torch.testing.assert_close(variances, torch.tensor([16.0, 2.0, 8.0, 4.0]), rtol=1e-4, atol=0)


def test_blocks_cover_every_dimension_once() -> None:
    assert ProductQuantizer(11, 4, 2).block_MV.sum(0).tolist() == [1] * 11
    with pytest.raises(InputError, match="width 3 cannot be split into 4"):
        ProductQuantizer(3, 4, 2)


def test_collision_token_by_hand() -> None:
    codes_IM = torch.tensor([[1, 2], [3, 4], [1, 2], [2, 1], [1, 2], [3, 4]], dtype=torch.int32)
    assert collision_token(codes_IM, 16).tolist() == [[0], [0], [1], [0], [2], [1]]
    assert collision_token(codes_IM, 2).tolist() == [[0], [0], [1], [0], [0], [1]]


def test_every_kind_is_healthy_and_says_what_it_was_fitted_on(fitted: Tokenizer, shop: Dataset) -> None:
    assert fitted.codes_IM.shape == (shop.num_items, 3)
    assert min(fitted.health.usage) > 0.9
    assert fitted.health.collision_rate < 0.05
    assert fitted.health.relative_error < 0.8
    assert fitted.card == {"dataset": shop.card["fingerprint"], "part": "train", "seed": 0}
    assert "usage" in fitted.describe()
    assert "gate" not in fitted.describe()


def test_items_of_one_bucket_are_the_same_to_a_path(fitted: Tokenizer) -> None:
    """Codewords simply add up, so that popularity alone orders a bucket."""
    torch.testing.assert_close(fitted.path_cosines(), torch.ones(fitted.num_items))


def test_unmoved_items_encode_to_their_tokens(fitted: Tokenizer, shop: Dataset) -> None:
    moved = (fitted.encode(fitted.views.vectors_IV) != fitted.codes_IM).any(1).double().mean()
    assert float(moved) == pytest.approx(fitted.health.moved_rate)
    assert fitted.encode_items(shop.items.table.slice(0, 5)).shape == (5, 3)


def test_what_is_loaded_equals_what_was_saved(fitted: Tokenizer, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "tokenizer")
    loaded = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    assert (loaded.config, loaded.health, loaded.card) == (fitted.config, fitted.health, fitted.card)
    assert torch.equal(loaded.codes_IM, fitted.codes_IM)
    assert torch.equal(loaded.quantized_IE, fitted.quantized_IE)
    vectors_IV = fitted.views.vectors_IV
    assert torch.equal(loaded.encode(vectors_IV), fitted.encode(vectors_IV))
    (tmp_path / "tokenizer" / f"{fitted.config.kind}.safetensors").unlink()
    with pytest.raises(InputError, match=f"{fitted.config.kind}.safetensors is missing"):
        Tokenizer.from_pretrained(tmp_path / "tokenizer")


def test_the_same_seed_gives_the_same_tokens(fitted: Tokenizer, shop: Dataset) -> None:
    again = fit_tokenizer(shop, fitted.config, Run(progress=False))
    assert torch.equal(again.codes_IM, fitted.codes_IM)
    other = fit_tokenizer(shop, fitted.config, Run(seed=1, progress=False))
    assert not torch.equal(other.codes_IM, fitted.codes_IM)


def test_a_folder_from_before_there_were_kinds_is_mpq(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    header = json.loads((tmp_path / "tokenizer.json").read_text())
    del header["config"]["kind"], header["config"]["collision_token"]
    reseal(tmp_path / "tokenizer.json", header)
    assert Tokenizer.from_pretrained(tmp_path).config == tokenizer.config


def test_a_folder_is_that_of_one_kind_and_its_settings(shop: Dataset, deeper: TokenizerConfig, tmp_path: Path) -> None:
    by_kmeans, trained = replace(deeper, kind="product-k-means"), replace(deeper, kind="rq-vae")
    first = fit_tokenizer(shop, by_kmeans, Run(tmp_path, progress=False))
    assert torch.equal(fit_tokenizer(shop, by_kmeans, Run(tmp_path, progress=False)).codes_IM, first.codes_IM)
    for other, seed in ((trained, 0), (by_kmeans, 1)):
        with pytest.raises(InputError, match="holds a run with other settings"):
            fit_tokenizer(shop, other, Run(tmp_path, seed, progress=False))
    assert Tokenizer.from_pretrained(tmp_path / "tokenizer").config == by_kmeans
    fit_tokenizer(shop, trained, Run(tmp_path, resume=False, progress=False))
    with pytest.raises(InputError, match="holds a run with other settings"):
        fit_tokenizer(shop, by_kmeans, Run(tmp_path, progress=False))


def test_a_collapse_leaves_no_tokens_of_other_settings(shop: Dataset, deeper: TokenizerConfig, tmp_path: Path) -> None:
    by_kmeans = replace(deeper, kind="product-k-means")
    fit_tokenizer(shop, by_kmeans, Run(tmp_path, progress=False))
    strict = replace(by_kmeans, floors=replace(by_kmeans.floors, max_relative_error=0.0))
    with pytest.raises(TokenizerCollapseError):
        fit_tokenizer(shop, strict, Run(tmp_path, resume=False, progress=False))
    assert json.loads((tmp_path / "config.json").read_text())["floors"]["max_relative_error"] == 0.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "failure.json"]


def test_an_unknown_kind_is_refused_with_those_that_there_are(shop: Dataset) -> None:
    with pytest.raises(InputError, match=r"kind is 'vq'.*product-k-means"):
        fit_tokenizer(shop, run=Run(progress=False), kind="vq")


@pytest.mark.parametrize("kind", FITTED)
def test_the_collision_token_makes_every_item_unique(
    kind: Kind, shop: Dataset, deeper: TokenizerConfig, tmp_path: Path
) -> None:
    config = replace(deeper, kind=kind, num_codebooks=2, separate_collisions=False, collision_token=True)
    fitted = fit_tokenizer(shop, config, Run(progress=False))
    assert fitted.codes_IM.shape == (shop.num_items, 3)
    assert torch.equal(fitted.codes_IM[:, :2], fitted.encode(fitted.views.vectors_IV))
    assert fitted.health.collision_rate > 0.1
    assert bucket_sizes(fitted.codes_IM.numpy()).max() == 1
    assert "2 tokens each of 16 codewords, and a collision token" in fitted.describe()
    fitted.save_pretrained(tmp_path)
    assert torch.equal(Tokenizer.from_pretrained(tmp_path).codes_IM, fitted.codes_IM)


def test_a_killed_rq_vae_resumes_to_the_same_bits(
    shop: Dataset, deeper: TokenizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(deeper, kind="rq-vae", epochs=10)
    whole = TokenizerStage.end_epoch

    def killed(self: TokenizerStage, epoch: int) -> Validation:
        if epoch == 8:
            raise KeyboardInterrupt
        return whole(self, epoch)

    monkeypatch.setattr(TokenizerStage, "end_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_tokenizer(shop, config, Run(tmp_path, progress=False))
    monkeypatch.undo()
    resumed = fit_tokenizer(shop, config, Run(tmp_path, progress=False))
    straight = fit_tokenizer(shop, config, Run(progress=False))
    pairs = zip(resumed.quantizer.state_dict().values(), straight.quantizer.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(resumed.codes_IM, straight.codes_IM)
