"""A content hash of columns, arrays and settings."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["fingerprint"]


def fingerprint(
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
    arrays: Mapping[str, npt.NDArray[Any]],
    settings: Mapping[str, Any],
) -> str:
    """The sha256 of columns, arrays and settings, in the order given.

    It depends on names, types and values only, not on chunks, the width of offsets or the memory behind nulls, so it is
    the same after saving and loading.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, column in columns.items():
        digest.update(f"\ncolumn {name} {len(column)}\n".encode())
        for piece in _pieces(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column):
            digest.update(piece)
    for name, array in arrays.items():
        digest.update(f"\narray {name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _pieces(array: pa.Array) -> Iterable[Any]:
    """The bytes of a column: the null mask, then the values; nested values as lengths and content."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield from _pieces(array.dictionary_decode())
        return
    if array.null_count:
        yield np.packbits(np.asarray(array.is_valid())).data
    if pa.types.is_null(kind):
        return
    if pa.types.is_struct(kind):
        for field, values in zip(kind, array.flatten(), strict=True):
            yield f"field {field.name}\n".encode()
            yield from _pieces(values)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype=np.int64).data
        yield from _pieces(array.flatten())
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield f"{kind}\n".encode()
        yield np.ascontiguousarray(pc.fill_null(array, pa.scalar(0).cast(kind))).data
    else:
        yield from _text_pieces(array)


def _text_pieces(array: pa.Array) -> Iterable[Any]:
    """Lengths and bytes of texts; dates, decimals and other types as text."""
    try:
        text = pc.fill_null(array.cast(pa.large_string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        text = pa.array([repr(value) for value in array.to_pylist()], pa.large_string())
    offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    yield np.diff(offsets).data
    if len(text) and text.buffers()[2] is not None:
        yield memoryview(text.buffers()[2])[offsets[0] : offsets[-1]]
