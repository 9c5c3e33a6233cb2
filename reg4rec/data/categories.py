"""Category paths from the forms found in files and tables."""

import ast
import html
import io
import json
import tokenize
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.lines import whole_characters
from reg4rec.errors import InputError

__all__ = ["MISSING", "category_paths", "text_path"]

MISSING = frozenset({"", "nan", "NaN", "NAN", "null", "NULL", "Null", "none", "None", "NONE", "<NA>"})
"""Texts that programs write for a missing value."""

BLANK = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER, tokenize.ENCODING, tokenize.INDENT, tokenize.DEDENT)


def category_paths(column: pa.ChunkedArray | pa.Array, where: str) -> pa.Array:
    """One path per item, null if missing: a list, the first of several lists, or text as `text_path` reads it.

    Whole numbers become names. InputError, beginning with `where`, for other types.
    """
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _is_list(values.type) and _is_list(values.type.value_type):
        values = pa.array([paths[0] if paths else None for paths in values.to_pylist()])
    kind = values.type.value_type if _is_list(values.type) else values.type
    if pa.types.is_floating(kind) and not _is_list(values.type):
        whole = values.cast(pa.int64(), safe=False)
        if pc.all(pc.equal(whole.cast(kind), values)).as_py() is not False:
            values, kind = whole, pa.int64()
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InputError(f"{where} is {values.type}; categories must be text, whole numbers or lists of them")
    if _is_list(values.type):
        return _without_entities(values.cast(pa.list_(pa.string())))
    named = values.cast(pa.string()).dictionary_encode()
    texts = named.dictionary.to_pylist()
    if found := next((text for text in texts if text.lstrip().startswith("[{")), None):
        raise InputError(
            f"{where} has lists of objects, such as {found[:60]}; categories must be names or lists of names"
        )
    return pa.array([text_path(text) for text in texts], pa.list_(pa.string())).take(named.indices)


def text_path(text: str) -> list[str]:
    """The path in a text: `A > B`, `A|B`, a list as written by Python, JSON or numpy, or else a single name."""
    if text.strip() in MISSING:
        return []
    listed = _listed(text.strip())
    pieces = html.unescape(text).replace(">", "|").split("|") if listed is None else map(html.unescape, listed)
    return [name for name in (piece.strip() for piece in pieces) if name not in MISSING]


def _listed(text: str) -> list[str] | None:
    """The names in the text of a list (of the first of nested lists); None if it is not a list."""
    if not (text.startswith(("[", "(")) and text.endswith(("]", ")"))):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _literal(text)
    while isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or not all(one is None or type(one) in (str, int, float) for one in value):
        return None
    return [str(whole_characters(one)) for one in value if one is not None]


def _literal(text: str) -> Any:
    """A list as written by Python or numpy; numpy omits commas, so adjacent strings are not concatenated."""
    found: list[Any] = []
    open_lists: list[list[Any]] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in BLANK or token.string == ",":
                continue
            if token.string in ("[", "("):
                fresh: list[Any] = []
                (open_lists[-1] if open_lists else found).append(fresh)
                open_lists.append(fresh)
            elif token.string in ("]", ")"):
                open_lists.pop()
            elif token.type in (tokenize.STRING, tokenize.NUMBER):
                open_lists[-1].append(ast.literal_eval(token.string))
            elif token.string in ("None", "nan", "null"):
                open_lists[-1].append(None)
            else:
                return None
    except (tokenize.TokenError, SyntaxError, ValueError, IndexError):
        return None
    return found[0] if len(found) == 1 and not open_lists else None


def _without_entities(paths: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring(paths.flatten(), "&")).as_py():
        return paths
    rows = [path and [name and html.unescape(name) for name in path] for path in paths.to_pylist()]
    return pa.array(rows, pa.list_(pa.string()))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
