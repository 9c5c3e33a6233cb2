"""L_MPQ against a loop over items and experts, and the forms of orthogonality on matrices whose value is known."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from reg4rec.tokenizer import MPQ
from reg4rec.tokenizer.config import OrthogonalityForm
from reg4rec.tokenizer.losses import (
    autoencoder_loss,
    codeword_cosine,
    latent_cosine,
    latent_covariance,
    mpq_loss,
    orthogonality,
    weight_overlap,
)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def expert(mpq: MPQ, v_V: Tensor, r: int) -> Tensor:
    hidden_H = gelu(v_V @ mpq.expert_in_MVH[r] + mpq.expert_in_bias_M1H[r, 0])
    return hidden_H @ mpq.expert_out_MHE[r] + mpq.expert_out_bias_M1E[r, 0]


def decode(mpq: MPQ, q_E: Tensor) -> Tensor:
    hidden_H = gelu(q_E @ mpq.decoder_in_EH + mpq.decoder_in_bias_H)
    return hidden_H @ mpq.decoder_out_HV + mpq.decoder_out_bias_V


def slow_loss(mpq: MPQ, vectors_BV: Tensor, orthogonality_weight: float, commitment: float) -> Tensor:
    """D2 as written, one item and one expert at a time."""
    total = vectors_BV.new_zeros(())
    for v_V in vectors_BV:
        gate_M = torch.exp(v_V @ mpq.gate_VM + mpq.gate_bias_M)
        gate_M = gate_M / gate_M.sum()
        q_E = vectors_BV.new_zeros(mpq.codebooks_MKE.shape[2])
        for r, book_KE in enumerate(mpq.codebooks_MKE):
            e_E = expert(mpq, v_V, r)
            z_E = book_KE[((e_E - book_KE) ** 2).sum(1).argmin()]
            q_E = q_E + gate_M[r] * (e_E + (z_E - e_E).detach())
            total = total + ((e_E.detach() - z_E) ** 2).sum() + commitment * ((e_E - z_E.detach()) ** 2).sum()
        total = total + ((v_V - decode(mpq, q_E)) ** 2).sum()
    return total / len(vectors_BV) + orthogonality_weight * weight_overlap(mpq)


def test_loss_and_gradients_equal_the_slow_loop(mpq64: MPQ) -> None:
    vectors_BV = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fast = mpq_loss(mpq64, vectors_BV, "weight", 0.005, 0.25)["loss"]
    slow = slow_loss(mpq64, vectors_BV, 0.005, 0.25)
    torch.testing.assert_close(fast, slow)
    names = [name for name, _ in mpq64.named_parameters()]
    pairs = zip(
        torch.autograd.grad(fast, list(mpq64.parameters())),
        torch.autograd.grad(slow, list(mpq64.parameters())),
        strict=True,
    )
    for name, (found, expected) in zip(names, pairs, strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11), name


def test_terms_add_up(mpq64: MPQ) -> None:
    vectors_BV = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = mpq_loss(mpq64, vectors_BV, "decorrelation", 0.7, 0.25)
    torch.testing.assert_close(t["loss"], t["reconstruction"] + 1.25 * t["codebook"] + 0.7 * t["orthogonality"])


def test_codewords_move_only_by_the_codebook_term(mpq64: MPQ) -> None:
    vectors_BV = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = mpq_loss(mpq64, vectors_BV, "weight", 0.0, 0.25)
    (through_reconstruction,) = torch.autograd.grad(
        t["reconstruction"], [mpq64.codebooks_MKE], retain_graph=True, allow_unused=True
    )
    assert through_reconstruction is None or not through_reconstruction.any()
    (whole,) = torch.autograd.grad(t["loss"], [mpq64.codebooks_MKE])
    assert whole.any()


def test_autoencoder_ignores_the_codebooks(mpq64: MPQ) -> None:
    vectors_BV = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = autoencoder_loss(mpq64, vectors_BV, "weight", 0.1)["loss"]
    with torch.no_grad():
        mpq64.codebooks_MKE.mul_(100)
    torch.testing.assert_close(autoencoder_loss(mpq64, vectors_BV, "weight", 0.1)["loss"], before, rtol=0, atol=0)


def test_weight_overlap_of_copies_and_of_disjoint_experts(mpq64: MPQ) -> None:
    with torch.no_grad():
        for weights in (mpq64.expert_in_MVH, mpq64.expert_out_MHE):
            weights.copy_(weights[:1].clone().expand_as(weights) * torch.tensor([1.0, 2.0, 5.0]).view(3, 1, 1))
    # copies of any length: all six cosines off the diagonal are 1
    torch.testing.assert_close(weight_overlap(mpq64), torch.tensor(6.0, dtype=torch.float64))
    with torch.no_grad():
        for r in range(3):
            mpq64.expert_in_MVH[r].zero_()
            mpq64.expert_out_MHE[r].zero_()
            mpq64.expert_in_MVH[r, r, r] = 4.0
    torch.testing.assert_close(weight_overlap(mpq64), torch.tensor(0.0, dtype=torch.float64))


def test_latent_cosine_by_hand() -> None:
    # item 1: orthogonal; item 2: 45 degrees, squared cosine 1/2
    latents_BME = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[2.0, 0.0], [1.0, 1.0]]])
    assert float(latent_cosine(latents_BME)) == pytest.approx(0.25)


def test_codeword_cosine_equals_the_pairwise_mean() -> None:
    books_MKE = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    unit_MKE = books_MKE / books_MKE.norm(dim=2, keepdim=True)
    pairs = [(unit_MKE[a] @ unit_MKE[b].T).square().mean() for a in range(3) for b in range(3) if a != b]
    torch.testing.assert_close(codeword_cosine(books_MKE), torch.stack(pairs).mean())


def test_latent_covariance_of_copies_rotations_and_independent_experts() -> None:
    latents_BE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    copies = torch.stack([latents_BE, 3 * latents_BE + 5], dim=1)
    rotated = torch.stack([latents_BE, latents_BE @ rotation], dim=1)
    assert float(latent_covariance(copies)) == pytest.approx(1, abs=1e-5)
    assert float(latent_covariance(rotated)) == pytest.approx(1, abs=1e-5)
    assert float(latent_cosine(rotated)) == pytest.approx(0, abs=1e-6)
    product = torch.tensor([1.0, -1.0, -1.0, 1.0]).unsqueeze(1)
    independent = torch.stack([latents_BE, torch.cat([product, -product], dim=1)], dim=1)
    assert float(latent_covariance(independent)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("form", get_args(OrthogonalityForm))
def test_a_single_expert_has_nothing_to_be_orthogonal_to(form: OrthogonalityForm) -> None:
    mpq = MPQ(5, 1, 4, 2, 6, torch.Generator().manual_seed(0))
    assert float(orthogonality(mpq, torch.ones(3, 1, 2), form)) == 0
