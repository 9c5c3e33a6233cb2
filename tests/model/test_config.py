"""Sizes of the encoder-decoder and the settings that it refuses."""

import math
from dataclasses import asdict

import pytest

from reg4rec.errors import InputError
from reg4rec.model import ModelConfig, Reg4RecModel, Size, sized


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ("tiny", (64, 2, 256, 1)),
        ("small", (128, 4, 512, 2)),
        ("base", (256, 8, 1024, 4)),
        ("large", (1024, 16, 4096, 8)),
    ],
)
def test_named_sizes(size: Size, shape: tuple[int, ...]) -> None:
    config = sized(size, 4, 256, 46, dropout=0.3)
    assert (config.dim, config.num_heads, config.ffn_dim, config.num_blocks) == shape
    assert (config.num_codebooks, config.codebook_size, config.num_categories, config.dropout) == (4, 256, 46, 0.3)


def test_the_encoder_and_the_decoder_have_as_many_blocks() -> None:
    model = Reg4RecModel(ModelConfig(2, 4, 3, dim=8, num_heads=2, ffn_dim=8, num_blocks=3))
    assert len(model.encoder) == len(model.decoder) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 18, "num_heads": 4}, "even multiple of num_heads"),
        ({"dim": 12, "num_heads": 4}, "even multiple of num_heads"),
        ({"dim": 0}, "dim at least 2"),
        ({"num_heads": 0}, "other sizes at least 1"),
        ({"ffn_dim": 0}, "other sizes at least 1"),
        ({"num_codebooks": 0}, "other sizes at least 1"),
        ({"codebook_size": 0}, "other sizes at least 1"),
        ({"num_blocks": 0}, "other sizes at least 1"),
        ({"max_history": 0}, "other sizes at least 1"),
        ({"num_categories": -1}, "num_categories and num_items must be at least 0"),
        ({"num_items": -1}, "num_categories and num_items must be at least 0"),
        ({"dropout": 1.5}, "dropout must be at least 0 and below 1"),
        ({"dropout": math.nan}, "dropout must be at least 0 and below 1"),
        ({"history_layout": "round"}, "history_layout must be one of"),
    ],
)
def test_settings_that_make_no_model_are_refused(change: dict[str, object], message: str) -> None:
    whole = asdict(ModelConfig(3, 4, 2))
    with pytest.raises(InputError, match=message):
        ModelConfig(**{**whole, **change})


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"size must be one of \('tiny', 'small', 'base', 'large'\), found 'huge'"):
        sized("huge", 3, 4, 2)  # type: ignore[arg-type]
