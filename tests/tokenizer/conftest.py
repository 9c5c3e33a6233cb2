import pytest
import torch

from reg4rec.data import Dataset, ViewConfig, synthetic_shop
from reg4rec.run import Run
from reg4rec.tokenizer import MPQ, Tokenizer, TokenizerConfig, fit_tokenizer

SMALL = TokenizerConfig(
    kind="mpq",
    num_codebooks=3,
    codebook_size=16,
    codeword_dim=8,
    hidden_dim=32,
    epochs=8,
    autoencoder_epochs=2,
    views=ViewConfig(text_dim=24, collaborative_dim=8),
)


@pytest.fixture(scope="session")
def shop() -> Dataset:
    return synthetic_shop(num_users=150, num_items=200, seed=1)


@pytest.fixture(scope="session")
def small() -> TokenizerConfig:
    return SMALL


@pytest.fixture(scope="session")
def tokenizer(shop: Dataset) -> Tokenizer:
    return fit_tokenizer(shop, SMALL, Run(progress=False))


@pytest.fixture
def mpq64() -> MPQ:
    """A random MPQ in float64: V=5, M=3, K=4, E=2, H=6."""
    generator = torch.Generator().manual_seed(3)
    mpq = MPQ(5, 3, 4, 2, 6, generator).double()
    with torch.no_grad():
        for parameter in mpq.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return mpq
