"""L_MPQ (reconstruction, codebook, commitment and orthogonality terms) and the RQ-VAE's loss (without the last)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from reg4rec import distributed, ops
from reg4rec.tokenizer.config import OrthogonalityForm, TokenizerConfig
from reg4rec.tokenizer.mpq import MPQ
from reg4rec.tokenizer.quantizer import Quantizer
from reg4rec.tokenizer.residual import ResidualQuantizer

__all__ = ["autoencoder_loss", "mpq_loss", "orthogonality", "residual_loss", "tokenizer_loss"]


def tokenizer_loss(
    quantizer: Quantizer, vectors_BV: Tensor, config: TokenizerConfig, quantizing: bool
) -> dict[str, Tensor]:
    """The loss of a batch and its terms for any trained quantizer; without `quantizing`, the autoencoder's loss."""
    c = config
    if isinstance(quantizer, ResidualQuantizer):
        return residual_loss(quantizer, vectors_BV, quantizing, c.commitment)
    assert isinstance(quantizer, MPQ)
    if quantizing:
        return mpq_loss(quantizer, vectors_BV, c.orthogonality, c.orthogonality_strength, c.commitment)
    return autoencoder_loss(quantizer, vectors_BV, c.orthogonality, c.orthogonality_strength)


def mpq_loss(
    mpq: MPQ, vectors_BV: Tensor, form: OrthogonalityForm, orthogonality_weight: float, commitment: float
) -> dict[str, Tensor]:
    """L_MPQ of a batch as `loss`, and its terms; squared errors are summed over dimensions, averaged over items.

    loss = reconstruction + (1 + commitment) codebook + lambda orthogonality. The codebook and commitment terms have
    equal values, but gradients for codewords and experts respectively.
    Paper: MPQ, stated (terms: ours, D2)
    """
    latents_BME = mpq.latents(vectors_BV)
    ids_BM, mixed_BE = ops.mpq_quantize(latents_BME, mpq.codebooks_MKE, mpq.gate(vectors_BV))
    codewords_BME = mpq.select(ids_BM)
    reconstruction = _squared_error(vectors_BV, mpq.decode(mixed_BE))
    codebook = _squared_error(latents_BME.detach(), codewords_BME)
    pull = _squared_error(latents_BME, codewords_BME.detach())
    penalty = orthogonality(mpq, latents_BME, form)
    loss = reconstruction + codebook + commitment * pull + orthogonality_weight * penalty
    return {"loss": loss, "reconstruction": reconstruction, "codebook": codebook, "orthogonality": penalty}


def autoencoder_loss(
    mpq: MPQ, vectors_BV: Tensor, form: OrthogonalityForm, orthogonality_weight: float
) -> dict[str, Tensor]:
    """L_MPQ without codebooks: decodes the gated sum of the latents.

    Paper: MPQ, ours, D2
    """
    latents_BME = mpq.latents(vectors_BV)
    mixed_BE = (mpq.gate(vectors_BV).unsqueeze(2) * latents_BME).sum(1)
    reconstruction = _squared_error(vectors_BV, mpq.decode(mixed_BE))
    penalty = orthogonality(mpq, latents_BME, form)
    loss = reconstruction + orthogonality_weight * penalty
    return {"loss": loss, "reconstruction": reconstruction, "orthogonality": penalty}


def residual_loss(
    quantizer: ResidualQuantizer, vectors_BV: Tensor, quantizing: bool, commitment: float
) -> dict[str, Tensor]:
    """The RQ-VAE's loss of a batch and its terms; without `quantizing`, the autoencoder's loss.

    Paper: Rajput et al. 2023 (TIGER), section 3.1
    """
    if not quantizing:
        reconstruction = _squared_error(vectors_BV, quantizer.decode(quantizer.encoder(vectors_BV)))
        return {"loss": reconstruction, "reconstruction": reconstruction}
    latents_BME = quantizer.latents(vectors_BV)
    codewords_BME = quantizer.select(ops.mpq_quantize(latents_BME, quantizer.codebooks_MKE)[0])
    whole_BE = latents_BME[:, 0]
    straight_BE = whole_BE + (codewords_BME.sum(1) - whole_BE).detach()
    reconstruction = _squared_error(vectors_BV, quantizer.decode(straight_BE))
    codebook = _squared_error(latents_BME.detach(), codewords_BME)
    pull = _squared_error(latents_BME, codewords_BME.detach())
    loss = reconstruction + codebook + commitment * pull
    return {"loss": loss, "reconstruction": reconstruction, "codebook": codebook}


def orthogonality(mpq: MPQ, latents_BME: Tensor, form: OrthogonalityForm) -> Tensor:
    """L_orth, a scalar: 0 for independent experts, and for a single one.

    Paper: MPQ, stated (forms: ours, D2)
    """
    if len(mpq.codebooks_MKE) == 1:
        return latents_BME.new_zeros(())
    if form == "weight":
        return weight_overlap(mpq)
    if form == "latent":
        return latent_cosine(latents_BME)
    if form == "codeword":
        return codeword_cosine(mpq.codebooks_MKE)
    return latent_covariance(latents_BME)


def weight_overlap(mpq: MPQ) -> Tensor:
    """||W W^T - I||_F^2, where row r of W has all weights of expert r's layers, flattened and normalized."""
    weights = [mpq.expert_in_MVH.flatten(1), mpq.expert_out_MHE.flatten(1)]
    rows_MX = F.normalize(torch.cat(weights, dim=1), dim=1)
    return (rows_MX @ rows_MX.T - torch.eye(len(rows_MX), device=rows_MX.device)).square().sum()


def latent_cosine(latents_BME: Tensor) -> Tensor:
    """The mean squared cosine of the latents of two experts for the same item."""
    unit_BME = F.normalize(latents_BME, dim=2)
    cosine_BMM = unit_BME @ unit_BME.mT
    return _mean_off_diagonal(distributed.mean(cosine_BMM.square(), 0))


def codeword_cosine(codebooks_MKE: Tensor) -> Tensor:
    """The mean squared cosine of codewords of two codebooks, computed from E x E instead of K x K products."""
    unit_MKE = F.normalize(codebooks_MKE, dim=2)
    gram_MX = (unit_MKE.mT @ unit_MKE).flatten(1)
    return _mean_off_diagonal(gram_MX @ gram_MX.T) / codebooks_MKE.shape[1] ** 2


def latent_covariance(latents_BME: Tensor) -> Tensor:
    """The mean squared cross-covariance of two experts' latents over the batch, per latent dimension.

    Latents are scaled to a mean variance of 1 per expert. Isotropic copies give 1 under any rotation; `latent_cosine`
    misses rotated copies, although they have the same tokens.
    """
    num_items, num_experts, dim = latents_BME.shape
    centered_BME = latents_BME - distributed.mean(latents_BME, 0)
    scale_M1 = distributed.mean(centered_BME.square(), (0, 2)).add(1e-12).rsqrt().unsqueeze(1)
    flat_BX = (centered_BME * scale_M1).flatten(1)
    covariance_XX = distributed.ratio(flat_BX.T @ flat_BX, torch.tensor(num_items, device=flat_BX.device))
    covariance_MEME = covariance_XX.view(num_experts, dim, num_experts, dim)
    return _mean_off_diagonal(covariance_MEME.square().sum((1, 3))) / dim


def _mean_off_diagonal(values_MM: Tensor) -> Tensor:
    pairs = len(values_MM) * (len(values_MM) - 1)
    return (values_MM.sum() - values_MM.diagonal().sum()) / pairs


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    return distributed.mean((a - b).square().flatten(1).sum(1))
