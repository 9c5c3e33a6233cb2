"""Whole fits on a small shop: determinism, resume, collapse, wrong settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reg4rec.data import Dataset
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.loop import Validation
from reg4rec.run import Run
from reg4rec.tokenizer import MPQ, Floors, Tokenizer, TokenizerConfig, fit_tokenizer, suggested_codebook_size
from reg4rec.tokenizer.stage import TokenizerStage


def same_bits(a: Tokenizer, b: Tokenizer) -> bool:
    states = zip(a.quantizer.state_dict().values(), b.quantizer.state_dict().values(), strict=True)
    tokens = torch.equal(a.codes_IM, b.codes_IM) and torch.equal(a.quantized_IE, b.quantized_IE)
    return tokens and all(torch.equal(x, y) for x, y in states) and a.health == b.health


def test_tokens_are_healthy_and_of_the_right_shape(tokenizer: Tokenizer, shop: Dataset) -> None:
    assert tokenizer.codes_IM.shape == (shop.num_items, 3)
    assert tokenizer.codes_IM.dtype == torch.int32
    assert tokenizer.quantized_IE.shape == (shop.num_items, 8)
    assert min(tokenizer.health.usage) > 0.95
    assert tokenizer.health.collision_rate < 0.03
    assert tokenizer.health.max_similarity < 0.5
    assert tokenizer.health.relative_error < 0.95
    assert set(tokenizer.card) == {"dataset", "part", "seed"}


def test_tokens_follow_the_facets_of_the_shop(tokenizer: Tokenizer, shop: Dataset) -> None:
    """Items with more facets in common share more tokens."""
    facets_IX = shop.facets_IX  # type: ignore[attr-defined]
    a, b = np.triu_indices(shop.num_items, 1)
    facets = (facets_IX[a] == facets_IX[b]).sum(1)
    codes_IM = tokenizer.codes_IM.numpy()
    shared = (codes_IM[a] == codes_IM[b]).sum(1)
    assert shared[facets >= 3].mean() > 3 * shared[facets == 0].mean()


def test_the_same_seed_gives_the_same_bits(tokenizer: Tokenizer, shop: Dataset, small: TokenizerConfig) -> None:
    assert same_bits(tokenizer, fit_tokenizer(shop, small, Run(progress=False)))
    assert not same_bits(tokenizer, fit_tokenizer(shop, small, Run(seed=1, progress=False)))


@pytest.mark.parametrize("killed_in", [0, 1, 4])
def test_a_killed_fit_resumes_to_the_same_bits(
    killed_in: int,
    tokenizer: Tokenizer,
    shop: Dataset,
    small: TokenizerConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = TokenizerStage.end_epoch

    def killed(self: TokenizerStage, epoch: int) -> Validation:
        if epoch == killed_in:
            raise KeyboardInterrupt
        return whole(self, epoch)

    monkeypatch.setattr(TokenizerStage, "end_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_tokenizer(shop, small, Run(tmp_path / "run", progress=False))
    assert not (tmp_path / "run" / "tokenizer").exists()
    monkeypatch.undo()
    resumed = fit_tokenizer(shop, small, Run(tmp_path / "run", progress=False))
    assert same_bits(tokenizer, resumed)
    assert same_bits(tokenizer, Tokenizer.from_pretrained(tmp_path / "run" / "tokenizer"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    health = [row for row in rows if "usage" in row]
    assert [row["epoch"] for row in health] == list(range(1, 8))
    assert {"collision_rate", "similarity", "gate_max", "relative_error", "revived"} <= health[-1].keys()


def test_a_folder_of_other_settings_is_not_resumed(shop: Dataset, small: TokenizerConfig, tmp_path: Path) -> None:
    short = replace(small, epochs=2, autoencoder_epochs=1)
    fit_tokenizer(shop, short, Run(tmp_path, progress=False))
    with pytest.raises(InputError, match="seed"):
        fit_tokenizer(shop, short, Run(tmp_path, seed=5, progress=False))
    fit_tokenizer(shop, short, Run(tmp_path, seed=5, resume=False, progress=False))


def test_codebooks_can_start_without_an_autoencoder(shop: Dataset, small: TokenizerConfig) -> None:
    fitted = fit_tokenizer(shop, small, Run(progress=False), epochs=3, autoencoder_epochs=0)
    assert min(fitted.health.usage) > 0.95


def test_without_separation_every_item_has_its_nearest_codewords(shop: Dataset, small: TokenizerConfig) -> None:
    fitted = fit_tokenizer(shop, small, Run(progress=False), separate_collisions=False)
    assert torch.equal(fitted.codes_IM, fitted.encode(fitted.views.vectors_IV))
    assert fitted.health.moved_rate == 0
    assert fitted.health.collision_rate == fitted.health.collision_rate_nearest > 0


def test_a_decoder_that_ignores_the_tokens_stops_the_run(shop: Dataset, small: TokenizerConfig) -> None:
    """A learning rate a hundred times too high: all items come back as the same vector."""
    with pytest.raises(TokenizerCollapseError, match=r"epoch .*same vector.*lower learning_rate"):
        fit_tokenizer(shop, small, Run(progress=False), learning_rate=0.3, epochs=20, orthogonality_weight=0.0)


def test_copies_stop_the_run(
    shop: Dataset, small: TokenizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts that start as copies stay copies without decorrelation, and the run stops half-way without tokens."""

    def start_as_copies(self: TokenizerStage, mpq: MPQ, *args: Any) -> None:
        with torch.no_grad():
            for weights in (mpq.expert_in_MVH, mpq.expert_out_MHE):
                weights.copy_(weights[:1].clone().expand_as(weights))
        whole(self, mpq, *args)

    whole = TokenizerStage.__init__
    monkeypatch.setattr(TokenizerStage, "__init__", start_as_copies)
    floors = Floors(max_similarity=0.4)
    with pytest.raises(TokenizerCollapseError, match=r"epoch 4: two codebooks are copies.*decorrelation"):
        fit_tokenizer(shop, small, Run(tmp_path, progress=False), orthogonality_weight=0.0, floors=floors)
    assert not (tmp_path / "tokenizer").exists()


def test_more_codewords_than_items_is_refused_with_a_better_size(shop: Dataset) -> None:
    with pytest.raises(InputError, match=r"codebook_size is 256 for 200 items.*codebook_size=16"):
        fit_tokenizer(shop, run=Run(progress=False))


@pytest.mark.parametrize(("items", "size"), [(1, 2), (16, 2), (200, 16), (1682, 128), (12101, 256), (10**7, 256)])
def test_suggested_codebook_size(items: int, size: int) -> None:
    assert suggested_codebook_size(items) == size


@pytest.mark.parametrize(
    ("items", "steps"), [(1, 1), (15, 1), (40, 2), (200, 12), (1682, 12), (12101, 12), (12289, 13)]
)
def test_batches_are_even_and_every_item_comes_once(items: int, steps: int) -> None:
    mpq = MPQ(2, 1, 2, 2, 2)
    stage = TokenizerStage(mpq, torch.zeros(items, 2), TokenizerConfig(batch_size=1024), {}, 0)
    rows = [rows_B for rows_B, _ in stage.batches(3)]
    assert len(rows) == steps
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert torch.cat(rows).sort().values.tolist() == list(range(items))
    assert [quantizing for _, quantizing in stage.batches(9) + stage.batches(10)] == [False] * steps + [True] * steps


def test_an_unknown_setting_is_named(shop: Dataset) -> None:
    with pytest.raises(InputError, match=r"codebok_size.*codebook_size"):
        fit_tokenizer(shop, codebok_size=16)


@pytest.mark.parametrize(
    "wrong",
    [{"num_codebooks": 0}, {"commitment": -1.0}, {"autoencoder_epochs": 40}, {"learning_rate": 0.0}],
)
def test_wrong_settings_are_named(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        TokenizerConfig(**wrong)
