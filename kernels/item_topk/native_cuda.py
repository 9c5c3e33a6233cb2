"""`item_topk` in CUDA: a block per range of items and few users finds their best, then a block per user merges them."""

import torch

from .. import cuda

__all__ = ["objection", "run"]

_BLOCK = 128
_USERS = 4  # kUsersAtOnce of item_topk.cuh
_BLOCKS_WANTED = 1024  # keep a large GPU busy
_SMALLEST_RANGE = 2048


def objection(log_probs_BMK: torch.Tensor, ids_IM: torch.Tensor, k: int, exclude_BX: torch.Tensor | None) -> str | None:
    if (needed := _best_bytes(k)) > cuda.SHARED_BYTES:
        return f"it needs {needed} bytes of shared memory for {k} items, there are {cuda.SHARED_BYTES}"
    return None


def run(
    log_probs_BMK: torch.Tensor, ids_IM: torch.Tensor, k: int, exclude_BX: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    floats_BMK, device = log_probs_BMK.float(), log_probs_BMK.device
    (num_users, num_books, num_codes), num_items = floats_BMK.shape, len(ids_IM)
    scores_BN = torch.empty(num_users, k, dtype=torch.float32, device=device)
    items_BN = torch.empty(num_users, k, dtype=torch.int64, device=device)
    if k == 0:
        return scores_BN, items_BN
    if exclude_BX is None:
        exclude_BX = ids_IM.new_empty(num_users, 0)
    with_tables = _USERS * (_best_bytes(k) + 4 * num_books * num_codes)
    users, entry, shared = (_USERS, "tables", with_tables)
    if with_tables > cuda.SHARED_BYTES:
        users, entry, shared = (1, "direct", _best_bytes(k))
    groups = -(-num_users // users)
    num_ranges = max(1, min(_BLOCKS_WANTED // max(1, groups), num_items // _SMALLEST_RANGE))
    keys_BTN = items_BN.new_empty(num_users, num_ranges, k)
    arguments: tuple[cuda.Argument, ...] = (
        *(floats_BMK.data_ptr(), *floats_BMK.stride()),
        *(ids_IM.data_ptr(), *ids_IM.stride(), ids_IM.element_size()),
        *(exclude_BX.data_ptr(), *exclude_BX.stride(), exclude_BX.element_size(), exclude_BX.shape[1]),
        *(num_users, num_books, num_codes, num_items, num_ranges, -(-num_items // num_ranges)),
        *(k, cuda.capacity_of_best(k, _BLOCK), keys_BTN, scores_BN, items_BN),
    )
    cuda.launch("item_topk", entry, groups * num_ranges, _BLOCK, arguments, device, shared)
    cuda.launch("item_topk", "merge", num_users, _BLOCK, arguments, device, _best_bytes(k))
    return scores_BN, items_BN


def _best_bytes(k: int) -> int:
    return 8 * cuda.capacity_of_best(k, _BLOCK)
