"""MPQ: parallel autoencoder experts, each with its own codebook, a dense gate and one shared decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg4rec.tokenizer.quantizer import Quantizer

__all__ = ["MPQ"]


class MPQ(Quantizer):
    """Maps an item vector to one codeword from each of M codebooks, and their gated sum back to the vector.

    The experts run together: each of their two layers is one batched product. The gate starts uniform.
    Paper: MPQ, stated + figure, D2
    """

    def __init__(
        self,
        vector_dim: int,
        num_codebooks: int,
        codebook_size: int,
        codeword_dim: int,
        hidden_dim: int,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        M, K, V, H, E = num_codebooks, codebook_size, vector_dim, hidden_dim, codeword_dim
        self.expert_in_MVH = nn.Parameter(_scaled((M, V, H), V, generator))
        self.expert_in_bias_M1H = nn.Parameter(torch.zeros(M, 1, H))
        self.expert_out_MHE = nn.Parameter(_scaled((M, H, E), H, generator))
        self.expert_out_bias_M1E = nn.Parameter(torch.zeros(M, 1, E))
        self.gate_VM = nn.Parameter(torch.zeros(V, M))
        self.gate_bias_M = nn.Parameter(torch.zeros(M))
        self.codebooks_MKE = nn.Parameter(_scaled((M, K, E), E, generator))
        self.decoder_in_EH = nn.Parameter(_scaled((E, H), E, generator))
        self.decoder_in_bias_H = nn.Parameter(torch.zeros(H))
        self.decoder_out_HV = nn.Parameter(_scaled((H, V), H, generator))
        self.decoder_out_bias_V = nn.Parameter(torch.zeros(V))

    def latents(self, vectors_BV: Tensor) -> Tensor:
        """e_BME: each expert's encoding of each vector."""
        hidden_MBH = F.gelu(self.expert_in_bias_M1H + vectors_BV @ self.expert_in_MVH)
        return torch.baddbmm(self.expert_out_bias_M1E, hidden_MBH, self.expert_out_MHE).transpose(0, 1)

    def gate(self, vectors_BV: Tensor) -> Tensor:
        """gate_BM: positive weights of the experts; rows sum to 1."""
        return (vectors_BV @ self.gate_VM + self.gate_bias_M).softmax(-1)

    def decode(self, mixed_BE: Tensor) -> Tensor:
        hidden_BH = F.gelu(mixed_BE @ self.decoder_in_EH + self.decoder_in_bias_H)
        return hidden_BH @ self.decoder_out_HV + self.decoder_out_bias_V


def _scaled(shape: tuple[int, ...], fan_in: int, generator: torch.Generator | None) -> Tensor:
    return torch.empty(shape).normal_(generator=generator).div_(fan_in**0.5)
