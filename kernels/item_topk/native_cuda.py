"""`item_topk` in CUDA: each block finds a few users' best items in a range, then a block per user merges them."""

import torch

from .. import cuda
from .native import fields
from .reference import ItemTopk, empty_results

__all__ = ["objection", "run"]

_BLOCK = 128
_USERS = 4  # kUsersAtOnce of item_topk.cuh
_BLOCKS_WANTED = 1024  # keep a large GPU busy
_SMALLEST_RANGE = 2048


def objection(call: ItemTopk) -> str | None:
    if (needed := _best_bytes(call.k)) > (most := cuda.shared_bytes(call.log_probs_BMK.device)):
        return f"it needs {needed} bytes of shared memory for {call.k} items, there are {most}"
    return None


def run(call: ItemTopk) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs_BMK, num_items, k = call.log_probs_BMK.float(), len(call.ids_IM), call.k
    num_users, num_books, num_codes = log_probs_BMK.shape
    scores_BN, items_BN = empty_results(call)
    if k == 0:
        return scores_BN, items_BN
    with_tables = _USERS * (_best_bytes(k) + 4 * num_books * num_codes)
    users, entry, shared = (_USERS, "tables", with_tables)
    if with_tables > cuda.shared_bytes(items_BN.device):
        users, entry, shared = (1, "direct", _best_bytes(k))
    groups = -(-num_users // users)
    num_ranges = max(1, min(_BLOCKS_WANTED // max(1, groups), num_items // _SMALLEST_RANGE))
    keys_BTN = items_BN.new_empty(num_users, num_ranges, k)
    packed = cuda.packer("item_topk")(
        **fields(call, log_probs_BMK, (scores_BN, items_BN)),
        num_ranges=num_ranges,
        range_size=-(-num_items // num_ranges),
        capacity=cuda.capacity_of_best(k, _BLOCK),
        keys=keys_BTN,
    )
    cuda.launch("item_topk", entry, groups * num_ranges, _BLOCK, packed, items_BN.device, shared)
    cuda.launch("item_topk", "merge", num_users, _BLOCK, packed, items_BN.device, _best_bytes(k))
    return scores_BN, items_BN


def _best_bytes(k: int) -> int:
    return 8 * cuda.capacity_of_best(k, _BLOCK)
