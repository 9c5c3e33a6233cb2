"""The encoder-decoder: histories of semantic tokens in, distributions over tokens and categories out."""

from reg4rec.model.batches import Batch, padded
from reg4rec.model.config import HistoryLayout, ModelConfig, Size, sized
from reg4rec.model.decoding import (
    Memory,
    PathCache,
    decode_paths,
    decode_step,
    encoded,
    encoded_histories,
    last_states,
    remember,
    search_step,
)
from reg4rec.model.linear import Format, Linear, weights_state
from reg4rec.model.transformer import Reg4RecModel

__all__ = [
    "Batch",
    "Format",
    "HistoryLayout",
    "Linear",
    "Memory",
    "ModelConfig",
    "PathCache",
    "Reg4RecModel",
    "Size",
    "decode_paths",
    "decode_step",
    "encoded",
    "encoded_histories",
    "last_states",
    "padded",
    "remember",
    "search_step",
    "sized",
    "weights_state",
]
