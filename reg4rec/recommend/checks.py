"""Checks that the model, the tokens and the items of a recommender fit together, and of arguments."""

import torch

from reg4rec.data import ItemCatalog
from reg4rec.errors import InputError
from reg4rec.model import Reg4RecModel
from reg4rec.tokenizer import Tokenizer

__all__ = ["check_fit", "check_number", "chosen_dtype"]


def check_fit(model: Reg4RecModel, tokenizer: Tokenizer, items: ItemCatalog) -> None:
    """InputError unless a model, a tokenizer and a catalog have the same items and codebooks."""
    num_items, num_codebooks = tokenizer.codes_IM.shape
    if num_items != len(items):
        raise InputError(f"the tokenizer was fitted on {num_items} items, the catalog has {len(items)}")
    shape = (num_codebooks, tokenizer.config.codebook_size)
    if shape != (model.config.num_codebooks, model.config.codebook_size):
        raise InputError(
            f"the model was trained for {model.config.num_codebooks} codebooks of {model.config.codebook_size} "
            f"codewords, the tokenizer has {shape[0]} of {shape[1]}"
        )
    if model.config.num_items not in (0, num_items):
        raise InputError(f"the model scores {model.config.num_items} items, the catalog has {num_items}")
    if model.catalog not in (None, tokenizer.catalog_fingerprint(items)):
        raise InputError(
            "the model was trained with other tokens, other items or the same items in another order; "
            "use the tokenizer and the catalog of its training"
        )


def chosen_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 on a GPU and float32 on a CPU. InputError for other names."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in ("float32", "bfloat16"):
        raise InputError(f"dtype must be auto, float32 or bfloat16, found {name!r}")
    return torch.float32 if name == "float32" else torch.bfloat16


def check_number(k: int) -> None:
    """InputError unless `k` is at least 1."""
    if k < 1:
        raise InputError(f"k is the number of items to recommend and must be at least 1, found {k}")
