"""The kinds of quantizers: construction, and fitting of those that need only k-means."""

import torch
from torch import Tensor, nn

from reg4rec.tokenizer.codebooks import cluster_centers
from reg4rec.tokenizer.config import TokenizerConfig
from reg4rec.tokenizer.given import GivenCodes
from reg4rec.tokenizer.mpq import MPQ
from reg4rec.tokenizer.product import ProductQuantizer, fit_product
from reg4rec.tokenizer.quantizer import Quantizer
from reg4rec.tokenizer.residual import ResidualQuantizer, autoencoder_layers, fill_codebooks
from reg4rec.tokenizer.stage import sampled_items

__all__ = ["TRAINED", "build_quantizer", "fit_by_kmeans"]

TRAINED = ("mpq", "rq-vae")
"""kinds that are trained by the training loop"""


def build_quantizer(config: TokenizerConfig, vector_dim: int, generator: torch.Generator | None = None) -> Quantizer:
    """A new quantizer of the configured kind and sizes, in evaluation mode."""
    M, K, E, H = config.num_codebooks, config.codebook_size, config.codeword_dim, config.hidden_dim
    if config.kind == "mpq":
        return MPQ(vector_dim, M, K, E, H, generator=generator).eval()
    if config.kind == "given":
        return GivenCodes(vector_dim, M, K).eval()
    if config.kind == "product-k-means":
        return ProductQuantizer(vector_dim, M, K).eval()
    if config.kind == "residual-k-means":
        return ResidualQuantizer(nn.Identity(), nn.Identity(), torch.zeros(M, K, vector_dim)).eval()
    widths = (vector_dim, H, max(1, H // 2), max(1, H // 4), E)
    encoder, decoder = (autoencoder_layers(w, generator) for w in (widths, widths[::-1]))
    return ResidualQuantizer(encoder, decoder, torch.zeros(M, K, E)).eval()


@torch.no_grad()
def fit_by_kmeans(quantizer: Quantizer, vectors_IV: Tensor, seed: int) -> None:
    """Fit the codebooks of a residual or product quantizer to item vectors, in place."""
    size = quantizer.codebooks_MKE.shape[1]
    vectors_XV = sampled_items(vectors_IV, size, torch.Generator().manual_seed(seed))
    if isinstance(quantizer, ResidualQuantizer):
        fill_codebooks(quantizer, vectors_XV, lambda points_XE: cluster_centers(points_XE, size, seed))
    elif isinstance(quantizer, ProductQuantizer):
        fit_product(quantizer, vectors_XV, seed)
