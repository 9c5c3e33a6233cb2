"""`beam_step` in CUDA: a block per path finds its best children, then a block per user the best of all its paths."""

import torch

from .. import cuda
from . import native
from .reference import BeamStep, Results, empty_results

__all__ = ["objection", "run"]

_PATH_BLOCK, _USER_BLOCK = 128, 256
_MOST_CODEBOOKS = 32


def objection(call: BeamStep) -> str | None:
    if (problem := native.objection(call)) is not None:
        return problem
    _, num_paths, num_codebooks, codebook_size = call.logits_BPMK.shape
    width = call.num_beams + call.num_spares
    if num_codebooks > _MOST_CODEBOOKS:
        return f"it takes {_MOST_CODEBOOKS} codebooks at most, these are {num_codebooks}"
    needed = max(_path_bytes(num_codebooks, codebook_size, width), _user_bytes(num_paths, num_codebooks, width))
    if needed > (most := cuda.shared_bytes(call.logits_BPMK.device)):
        return f"it needs {needed} bytes of shared memory for {width} children, there are {most}"
    return None


def run(call: BeamStep) -> Results:
    batch, num_paths, num_codebooks, codebook_size = call.logits_BPMK.shape
    results, width, device = empty_results(call), call.num_beams + call.num_spares, call.logits_BPMK.device
    fields, pack = native.fields(call, results), cuda.packer("beam_step")
    fields["children"] = call.tokens_BPM.new_empty(batch, num_paths, width, 2)
    entry = "path_bf16" if call.logits_BPMK.dtype == torch.bfloat16 else "path_f32"
    packed = pack(**fields, kept=width, capacity=cuda.capacity_of_best(width, _PATH_BLOCK))
    shared = _path_bytes(num_codebooks, codebook_size, width)
    cuda.launch("beam_step", entry, batch * num_paths, _PATH_BLOCK, packed, device, shared)
    num_ranked = _num_ranked(num_paths, num_codebooks, width)
    packed = pack(**fields, kept=num_ranked, capacity=cuda.capacity_of_best(num_ranked, _USER_BLOCK))
    shared = _user_bytes(num_paths, num_codebooks, width)
    cuda.launch("beam_step", "user", batch, _USER_BLOCK, packed, device, shared)
    return results


def _num_ranked(num_paths: int, num_codebooks: int, width: int) -> int:
    """How many children contain `width` different sets: a set has at most one parent per token, and per path."""
    return width * min(num_codebooks, num_paths)


def _path_bytes(num_codebooks: int, codebook_size: int, width: int) -> int:
    """Shared memory of `path`: children of 16 bytes, and a bit for each token."""
    return 16 * cuda.capacity_of_best(width, _PATH_BLOCK) + 4 * num_codebooks * -(-codebook_size // 32)


def _user_bytes(num_paths: int, num_codebooks: int, width: int) -> int:
    """Shared memory of `user`: children of 16 bytes, and 12 more for those that are ranked."""
    num_ranked = _num_ranked(num_paths, num_codebooks, width)
    return 16 * cuda.capacity_of_best(num_ranked, _USER_BLOCK) + 12 * num_ranked
