"""`beam_step` in CUDA: a block per path finds its best children, then a block per user the best of all its paths."""

import torch

from .. import cuda
from . import native

__all__ = ["objection", "run"]

_PATH_BLOCK, _USER_BLOCK = 128, 256
_MOST_CODEBOOKS = 32


def objection(logits_BPMK: torch.Tensor, *rest: object) -> str | None:
    if (problem := native.objection(logits_BPMK, *rest)) is not None:  # type: ignore[arg-type]
        return problem
    _, num_paths, num_codebooks, codebook_size = logits_BPMK.shape
    width = rest[9] + rest[10]  # type: ignore[operator]
    if num_codebooks > _MOST_CODEBOOKS:
        return f"it takes {_MOST_CODEBOOKS} codebooks at most, these are {num_codebooks}"
    needed = max(_path_bytes(num_codebooks, codebook_size, width), _user_bytes(num_paths, num_codebooks, width))
    if needed > cuda.SHARED_BYTES:
        return f"it needs {needed} bytes of shared memory for {width} children, there are {cuda.SHARED_BYTES}"
    return None


def run(
    logits_BPMK: torch.Tensor,
    scores_BP: torch.Tensor,
    tokens_BPM: torch.Tensor,
    js_BP: torch.Tensor | None,
    codes_IM: torch.Tensor,
    offsets: torch.Tensor,
    postings: torch.Tensor,
    counts_MK: torch.Tensor,
    pair_offsets: torch.Tensor,
    pair_postings: torch.Tensor,
    num_beams: int,
    num_spares: int,
    threshold: float | None,
    exclude_BX: torch.Tensor | None,
    renormalize: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, num_paths, num_codebooks, codebook_size = logits_BPMK.shape
    width, device = num_beams + num_spares, logits_BPMK.device
    parent_BP, token_BP = tokens_BPM.new_empty(batch, width), tokens_BPM.new_empty(batch, width)
    best_scores_BP, fallback_B = scores_BP.new_empty(batch, width), scores_BP.new_empty(batch, dtype=torch.bool)
    children_BPT2 = tokens_BPM.new_empty(batch, num_paths, width, 2)
    arguments: tuple[cuda.Argument, ...] = (
        *(num_paths, num_codebooks, codebook_size),
        *(*native.view(logits_BPMK, 4), *native.view(scores_BP, 2), *native.view(tokens_BPM, 3)),
        *(*native.view(None if threshold is None else js_BP, 2), 0.0 if threshold is None else threshold),
        *(*native.view(exclude_BX, 2), 0 if exclude_BX is None else exclude_BX.shape[1], renormalize),
        *(codes_IM, offsets, postings, counts_MK, pair_offsets, pair_postings, num_beams, width),
        *(children_BPT2, parent_BP, token_BP, best_scores_BP, fallback_B),
    )
    entry = "path_bf16" if logits_BPMK.dtype == torch.bfloat16 else "path_f32"
    kept = (width, cuda.capacity_of_best(width, _PATH_BLOCK))
    shared = _path_bytes(num_codebooks, codebook_size, width)
    cuda.launch("beam_step", entry, batch * num_paths, _PATH_BLOCK, (*arguments, *kept), device, shared)
    num_ranked = _num_ranked(num_paths, num_codebooks, width)
    kept = (num_ranked, cuda.capacity_of_best(num_ranked, _USER_BLOCK))
    shared = _user_bytes(num_paths, num_codebooks, width)
    cuda.launch("beam_step", "user", batch, _USER_BLOCK, (*arguments, *kept), device, shared)
    return parent_BP, token_BP, best_scores_BP, fallback_B


def _num_ranked(num_paths: int, num_codebooks: int, width: int) -> int:
    """Children that hold `width` sets: one set has at most as many parents as tokens, or as there are paths."""
    return width * min(num_codebooks, num_paths)


def _path_bytes(num_codebooks: int, codebook_size: int, width: int) -> int:
    """Children of 16 bytes, and a bit for each token."""
    return 16 * cuda.capacity_of_best(width, _PATH_BLOCK) + 4 * num_codebooks * -(-codebook_size // 32)


def _user_bytes(num_paths: int, num_codebooks: int, width: int) -> int:
    """Children of 16 bytes, and 12 more for those that are ranked."""
    num_ranked = _num_ranked(num_paths, num_codebooks, width)
    return 16 * cuda.capacity_of_best(num_ranked, _USER_BLOCK) + 12 * num_ranked
