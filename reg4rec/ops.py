"""All accelerated ops with their argument types, and the choice of a backend.

An op runs on the first of cuda, triton, cpp, eager that supports the call. `which` shows the choice and the reasons;
`use_backend` or the environment variable REG4REC_BACKEND (read when this module is imported) forces a backend.
"""

from typing import Any

from .kernels.beam_step import beam_step, prune_paths
from .kernels.decoder_step import DecoderShape, decoder_step
from .kernels.dispatch import (
    BACKENDS,
    BackendError,
    Choice,
    all_ops,
    cpp_multiplies_bf16,
    forced_backend,
    status,
    use_backend,
    uses_cpp,
)
from .kernels.encode_histories import EncoderShape, encode_histories
from .kernels.fp8_linear import Fp8Weight, Scaling, fp8_linear, fp8_quantize, fp8_weight
from .kernels.item_topk import item_topk
from .kernels.js_divergence import js_divergence
from .kernels.mpq_quantize import mpq_quantize
from .kernels.mpq_quantize_fused import mpq_quantize_fused
from .kernels.panels import pack_weights
from .kernels.path_attention import gather_paths, path_attention
from .kernels.path_topk import ItemScoring, path_topk
from .kernels.score_topk import CodeTables, ItemVectors, allowed_words, score_topk
from .kernels.sorting import first_of_each, lexsort
from .kernels.token_cross_entropy import token_cross_entropy
from .kernels.token_index import TokenIndex

__all__ = [
    "BACKENDS",
    "BackendError",
    "Choice",
    "CodeTables",
    "DecoderShape",
    "EncoderShape",
    "Fp8Weight",
    "ItemScoring",
    "ItemVectors",
    "Scaling",
    "TokenIndex",
    "allowed_words",
    "beam_step",
    "cpp_multiplies_bf16",
    "decoder_step",
    "encode_histories",
    "first_of_each",
    "forced_backend",
    "fp8_linear",
    "fp8_quantize",
    "fp8_weight",
    "gather_paths",
    "item_topk",
    "js_divergence",
    "lexsort",
    "mpq_quantize",
    "mpq_quantize_fused",
    "pack_weights",
    "path_attention",
    "path_topk",
    "prune_paths",
    "score_topk",
    "status",
    "token_cross_entropy",
    "use_backend",
    "uses_cpp",
    "which",
]


def which(name: str, *args: Any) -> Choice:
    """The backend on which the op `name` would run with these arguments, and each backend's reason.

    ValueError for an unknown op or invalid arguments.
    """
    ops = all_ops()
    if name not in ops:
        raise ValueError(f"there is no op {name!r}; the ops are {', '.join(ops)}")
    return ops[name].which(*args)
