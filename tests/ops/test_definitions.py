"""The eager definitions against the plainest PyTorch with the same meaning, written independently."""

import math

import pytest
import torch
from torch.nn import functional as F

from reg4rec import ops
from tests.ops.cases import inputs

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def eager() -> object:
    with ops.use_backend("eager"):
        yield


def test_js_divergence_is_the_mean_of_two_kl_divergences() -> None:
    p_logits_TC, q_logits_TC, _ = inputs("js_divergence", (31, 17), DOUBLE)
    p, q = p_logits_TC.softmax(1), q_logits_TC.softmax(1)
    middle = ((p + q) / 2).log()
    expected = 0.5 * ((p * (p.log() - middle)).sum(1) + (q * (q.log() - middle)).sum(1))
    torch.testing.assert_close(ops.js_divergence(p_logits_TC, q_logits_TC), expected)


def test_js_divergence_of_disjoint_rows_is_ln_2() -> None:
    p = torch.tensor([[0.0, -math.inf, -math.inf]])
    q = torch.tensor([[-math.inf, 1.0, 1.0]])
    assert ops.js_divergence(p, q).item() == pytest.approx(math.log(2), abs=1e-7)


def test_mpq_quantize_takes_the_nearest_codeword() -> None:
    latents_BME, codebooks_MKE, gate_BM = inputs("mpq_quantize", (301, 3, 64, 8), DOUBLE)
    ids_BM, mixed_BE = ops.mpq_quantize(latents_BME.float(), codebooks_MKE.float(), gate_BM.float())
    distance_MBK = torch.cdist(latents_BME.float().double().transpose(0, 1), codebooks_MKE.float().double())
    assert torch.equal(ids_BM, distance_MBK.argmin(-1).T)
    selected_BME = codebooks_MKE[torch.arange(3), ids_BM]
    torch.testing.assert_close(mixed_BE.double(), (gate_BM.unsqueeze(2) * selected_BME).sum(1), rtol=1e-5, atol=1e-6)


def test_mpq_quantize_ties_go_to_the_lowest_index() -> None:
    codebook_KE = torch.tensor([[9.0, 9.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [-1.0, 2.0]])
    ids_BM, mixed_BE = ops.mpq_quantize(torch.tensor([[[0.0, 0.0]], [[2.0, 1.0]]]), codebook_KE.unsqueeze(0))
    assert ids_BM.tolist() == [[1], [2]]
    assert mixed_BE.tolist() == [[1.0, 2.0], [2.0, 1.0]]


def test_mpq_quantize_distinguishes_codewords_that_float32_products_cannot() -> None:
    latents_BME = torch.full((64, 1, 32), 100.0)
    codebooks_MKE = torch.full((1, 8, 32), 100.0)
    codebooks_MKE[0, :, 0] += torch.tensor([6, 5, 4, 3, 1, 2, 7, 8]) * 1e-4
    assert (ops.mpq_quantize(latents_BME, codebooks_MKE)[0] == 4).all()


def test_mpq_quantize_fused_is_the_projection_then_mpq_quantize() -> None:
    hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM = inputs("mpq_quantize_fused", (301, 3, 64, 8, 12), DOUBLE)
    latents_BME = torch.einsum("bmh,meh->bme", hidden_BMH, weight_MEH) + bias_ME
    expected = ops.mpq_quantize(latents_BME, codebooks_MKE, gate_BM)
    torch.testing.assert_close(
        ops.mpq_quantize_fused(hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM), expected
    )


def test_item_topk_orders_ties_by_item_and_pads() -> None:
    log_probs_BMK = torch.tensor([[[-1.0, -2.0, -math.inf]]])
    ids_IM = torch.tensor([[1], [0], [1], [2], [0], [0]])
    scores_BN, items_BN = ops.item_topk(log_probs_BMK, ids_IM, 6, torch.tensor([[4, -1]]))
    assert items_BN.tolist() == [[1, 5, 0, 2, -1, -1]]
    assert scores_BN.tolist() == [[-1.0, -1.0, -2.0, -2.0, -math.inf, -math.inf]]


def test_item_topk_in_tiles_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    args = inputs("item_topk", (3, 4, 17, 997, 20))
    whole = ops.item_topk(*args)
    monkeypatch.setattr("reg4rec.kernels.item_topk.reference._TILE", 100)
    for one, other in zip(ops.item_topk(*args), whole, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("codewords", [31, 32], ids=["among some tokens", "among all tokens"])
def test_token_cross_entropy_is_the_mean_over_open_codebooks(monkeypatch: pytest.MonkeyPatch, codewords: int) -> None:
    monkeypatch.setattr("reg4rec.kernels.token_cross_entropy.reference._TILE", 100)
    hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK = inputs("token_cross_entropy", (97, 4, codewords, 9), DOUBLE)
    wanted = [hidden_TD.requires_grad_(), weight_MKD.requires_grad_()]
    found_T = ops.token_cross_entropy(hidden_TD, weight_MKD, ids_TM.masked_fill(~open_TM, -1), open_TM, among_TMK)
    logits_XK = torch.einsum("td,mkd->tmk", hidden_TD, weight_MKD).flatten(0, 1)
    if among_TMK is not None:
        logits_XK = logits_XK.masked_fill(~among_TMK.flatten(0, 1), -torch.inf)
    loss_TM = F.cross_entropy(logits_XK, ids_TM.flatten(), reduction="none").view(ids_TM.shape)
    expected_T = (loss_TM * open_TM).sum(1) / open_TM.sum(1).clamp_min(1)
    torch.testing.assert_close(found_T, expected_T)
    weight_T = torch.randn_like(expected_T)
    found = torch.autograd.grad((found_T * weight_T).sum(), wanted)
    torch.testing.assert_close(found, torch.autograd.grad((expected_T * weight_T).sum(), wanted))


@pytest.mark.parametrize("rowwise", [0, 1])
def test_fp8_linear_is_the_scaled_product_of_torch(rowwise: int) -> None:
    x_TD, weight_OD, bias_O, scaling = inputs("fp8_linear", (17, 48, 32, rowwise))
    x8, weight8 = (ops.fp8_quantize(t, torch.float8_e4m3fn, bool(rowwise)) for t in (x_TD, weight_OD))
    expected_TO = torch._scaled_mm(
        x8.values, weight8.values.T, scale_a=x8.scale, scale_b=weight8.scale.T, out_dtype=x_TD.dtype
    )
    torch.testing.assert_close(ops.fp8_linear(x_TD, weight_OD, bias_O, scaling), expected_TO + bias_O)


@pytest.mark.parametrize("rowwise", [0, 1])
@pytest.mark.parametrize("rows", [16, 37])
def test_fp8_linear_and_its_gradients_stay_above_18_decibels(rows: int, rowwise: int) -> None:
    x_TD, weight_OD, bias_O, scaling = inputs("fp8_linear", (rows, 48, 64, rowwise))
    wanted = [a.requires_grad_() for a in (x_TD, weight_OD, bias_O)]
    found_TO, exact_TO = ops.fp8_linear(x_TD, weight_OD, bias_O, scaling), F.linear(x_TD, weight_OD, bias_O)
    grad_TO = torch.randn_like(exact_TO)
    pairs = [(found_TO, exact_TO)]
    pairs += zip(
        torch.autograd.grad(found_TO, wanted, grad_TO), torch.autograd.grad(exact_TO, wanted, grad_TO), strict=True
    )
    for found, exact in pairs:
        noise = (found - exact).square().sum().clamp_min(1e-30)
        assert 10 * torch.log10(exact.square().sum() / noise) >= 18


def test_fp8_linear_refuses_sizes_that_are_no_multiple_of_16() -> None:
    with pytest.raises(ValueError, match="fp8_linear: D must be a multiple of 16, found 24"):
        ops.fp8_linear(torch.zeros(4, 24), torch.zeros(16, 24))


def test_path_attention_is_attention_on_the_rows_that_a_path_names() -> None:
    q_BPAQ, keys_BTRAQ, values_BTRAQ, rows_BPS = inputs("path_attention", (3, 5, 2, 7, 4), DOUBLE)
    mixed_BPAQ = ops.path_attention(q_BPAQ, keys_BTRAQ, values_BTRAQ, rows_BPS)
    for b, p in [(b, p) for b in range(3) for p in range(5)]:
        rows = rows_BPS[b, p].tolist()
        keys_ASQ, values_ASQ = (
            torch.stack([x[b, s, r] for s, r in enumerate(rows)], dim=1) for x in (keys_BTRAQ, values_BTRAQ)
        )
        expected_A1Q = F.scaled_dot_product_attention(q_BPAQ[b, p][:, None], keys_ASQ, values_ASQ)
        torch.testing.assert_close(mixed_BPAQ[b, p], expected_A1Q[:, 0])
