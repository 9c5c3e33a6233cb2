"""`beam_step` in C++: log-softmax in float64 vectors, users spread over torch's number of threads."""

import torch

__all__ = ["objection", "run", "view"]


def objection(
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
    *rest: object,
) -> str | None:
    if logits_BPMK.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16 logits, these are {logits_BPMK.dtype}"
    for name, tensor in (("scores_BP", scores_BP), ("js_BP", js_BP)):
        if tensor is not None and tensor.dtype != torch.float32:
            return f"it reads float32, {name} is {tensor.dtype}"
    if not all(
        tensor.is_contiguous() for tensor in (codes_IM, offsets, postings, counts_MK, pair_offsets, pair_postings)
    ):
        return "it reads a contiguous index, as TokenIndex.build makes it"
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
    from ... import _C

    shape = (logits_BPMK.shape[0], num_beams + num_spares)
    parent_BP, token_BP = tokens_BPM.new_empty(shape), tokens_BPM.new_empty(shape)
    best_scores_BP, fallback_B = scores_BP.new_empty(shape), scores_BP.new_empty(shape[0], dtype=torch.bool)
    _C.beam_step_cpu(
        *((*logits_BPMK.shape, len(codes_IM)), num_beams, num_beams + num_spares),
        *(view(logits_BPMK, 4), logits_BPMK.dtype == torch.bfloat16, view(scores_BP, 2), view(tokens_BPM, 3)),
        *(view(None if threshold is None else js_BP, 2), 0.0 if threshold is None else threshold),
        *(0 if exclude_BX is None else exclude_BX.shape[1], view(exclude_BX, 2), renormalize),
        tuple(part.data_ptr() for part in (codes_IM, offsets, postings, pair_offsets, pair_postings)),
        counts_MK.data_ptr(),
        *(parent_BP.data_ptr(), token_BP.data_ptr(), best_scores_BP.data_ptr(), fallback_B.data_ptr()),
        torch.get_num_threads(),
    )
    return parent_BP, token_BP, best_scores_BP, fallback_B


def view(tensor: torch.Tensor | None, rank: int) -> tuple[int, ...]:
    """A tensor's address and strides, zeros for none."""
    return (0,) * (1 + rank) if tensor is None else (tensor.data_ptr(), *tensor.stride())
