"""Tokenizers, which give every item one token from each of M codebooks: the paper's MPQ and others to compare."""

from reg4rec.tokenizer.config import Floors, TokenizerConfig, suggested_codebook_size
from reg4rec.tokenizer.fit import fit_tokenizer
from reg4rec.tokenizer.health import Health
from reg4rec.tokenizer.mpq import MPQ
from reg4rec.tokenizer.naming import TokenNames
from reg4rec.tokenizer.tokenizer import Tokenizer

__all__ = [
    "MPQ",
    "Floors",
    "Health",
    "TokenNames",
    "Tokenizer",
    "TokenizerConfig",
    "fit_tokenizer",
    "suggested_codebook_size",
]
