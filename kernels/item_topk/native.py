"""`item_topk` in C++: one pass over the codes for many users, spread over torch's number of threads."""

import torch

from ..checks import within_once

__all__ = ["objection", "run"]


def objection(log_probs_BMK: torch.Tensor, ids_IM: torch.Tensor, k: int, exclude_BX: torch.Tensor | None) -> str | None:
    if log_probs_BMK.shape[2] * log_probs_BMK.stride(2) > 2**31:
        return f"it indexes codes with 32 bits, {log_probs_BMK.shape[2]} codes have stride {log_probs_BMK.stride(2)}"
    return None


def run(
    log_probs_BMK: torch.Tensor, ids_IM: torch.Tensor, k: int, exclude_BX: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    within_once("item_topk", "ids_IM", ids_IM, log_probs_BMK.shape[2] - 1)
    floats_BMK = log_probs_BMK.float()
    num_users = len(floats_BMK)
    if exclude_BX is None:
        exclude_BX = ids_IM.new_empty(num_users, 0)
    scores_BN = torch.empty(num_users, k, dtype=torch.float32, device="cpu")
    items_BN = torch.empty(num_users, k, dtype=torch.int64, device="cpu")
    _C.item_topk_cpu(
        *(floats_BMK.data_ptr(), *floats_BMK.stride()),
        *(ids_IM.data_ptr(), *ids_IM.stride(), ids_IM.element_size()),
        *(exclude_BX.data_ptr(), *exclude_BX.stride(), exclude_BX.element_size()),
        *(*floats_BMK.shape, len(ids_IM), exclude_BX.shape[1], k),
        *(scores_BN.data_ptr(), items_BN.data_ptr(), torch.get_num_threads()),
    )
    return scores_BN, items_BN
