"""The definition of `score_topk` in PyTorch, and the items that it scores."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import Checked, bind, has_values
from ..folding import exact_dot
from ..sorting import lexsort

__all__ = [
    "CodeTables",
    "ItemVectors",
    "ScoreTopk",
    "allowed_words",
    "bind_vectors",
    "check_vectors",
    "empty_results",
    "exact_dot",
    "score_topk_reference",
]

PANEL = 32
"""Items per panel of the 8-bit copy; a panel has four channels of each item, then the next four (csrc/score_topk.h)."""
CHANNELS = 4
LARGEST_CODE, OFFSET = 127, 128
"""Codes -127..127 are stored without a sign, as code + 128."""
SCORES_AT_ONCE, ROWS_AT_ONCE, BUILT_AT_ONCE = 1 << 24, 1 << 16, 1 << 11

_checked = Checked()


class ItemVectors(NamedTuple):
    """The vectors of a catalog's items, and an 8-bit copy that rules most of them out.

    rows_ID: float32. panels_X: uint8, the codes of the copy. scales_I: the factor of an item's codes. errors_I: an
    upper bound on the length of vector minus copy. norms_I: an upper bound on the length of the copy. largest: the
    length of the longest vector.
    """

    rows_ID: Tensor
    panels_X: Tensor
    scales_I: Tensor
    errors_I: Tensor
    norms_I: Tensor
    largest: float

    @classmethod
    def build(cls, rows_ID: Tensor) -> "ItemVectors":
        """From float32 vectors, which are kept unchanged; ValueError for numbers that are not finite."""
        if rows_ID.dtype != torch.float32 or rows_ID.ndim != 2 or not rows_ID.shape[1]:
            raise ValueError(f"item vectors are float32 (items, width), found {rows_ID.dtype} {tuple(rows_ID.shape)}")
        parts = [_quantized(some_TD) for some_TD in rows_ID.split(BUILT_AT_ONCE)] or [_quantized(rows_ID)]
        panels, scales, errors, norms, lengths = map(torch.cat, zip(*parts, strict=True))
        largest = float(lengths.max()) if len(lengths) else 0.0
        if not largest < torch.inf:
            raise ValueError("item vectors hold numbers that are not finite; take weights of an earlier checkpoint")
        return cls(rows_ID, panels, scales, errors, norms, largest)._trusted()

    def extended(self, rows_TD: Tensor) -> "ItemVectors":
        """With further items after the last one."""
        whole = len(self.rows_ID) // PANEL * PANEL  # a panel that is not full is made again
        rows_ID = torch.cat([self.rows_ID, rows_TD])
        tail = ItemVectors.build(rows_ID[whole:])
        size = panel_bytes(whole, rows_ID.shape[1])
        panels_X, scales_I, errors_I, norms_I = (
            torch.cat([mine[:kept], theirs])
            for mine, theirs, kept in zip(self[1:5], tail[1:5], (size, whole, whole, whole), strict=True)
        )
        largest = max(self.largest, tail.largest)
        return self._taken_over(ItemVectors(rows_ID, panels_X, scales_I, errors_I, norms_I, largest))

    def stored(self) -> dict[str, Tensor]:
        """The tensors that `restored` takes, by name."""
        return {**dict(zip(self._fields, self[:5], strict=False)), "largest": torch.tensor([self.largest]).double()}

    @classmethod
    def restored(cls, stored: dict[str, Tensor]) -> "ItemVectors":
        """The vectors saved by `stored`; KeyError or ValueError if a name, dtype or shape is wrong."""
        vectors = cls._make([*(stored[name] for name in cls._fields[:5]), float(stored["largest"])])
        count, width = vectors.rows_ID.shape
        expected = {
            "panels_X": (torch.uint8, (panel_bytes(count, width),)),
            **dict.fromkeys(("scales_I", "errors_I", "norms_I"), (torch.float32, (count,))),
            "rows_ID": (torch.float32, (count, width)),
        }
        for name, (dtype, shape) in expected.items():
            found = getattr(vectors, name)
            if (found.dtype, tuple(found.shape)) != (dtype, shape):
                raise ValueError(f"{name}: {dtype} {shape} expected, {found.dtype} {tuple(found.shape)} found")
        return vectors._trusted()

    def are(self, row_T: Tensor, vectors_TD: Tensor) -> bool:
        """Whether these rows hold these vectors and the 8-bit copies of them."""
        panels, *numbers = _quantized(vectors_TD)
        fours = panels.view(-1, panel_bytes(PANEL, vectors_TD.shape[1]) // (PANEL * CHANNELS), PANEL, CHANNELS)
        kept = self.panels_X.view(-1, *fours.shape[1:])[row_T // PANEL, :, row_T % PANEL]
        copies_are = torch.equal(kept, fours.transpose(1, 2).flatten(0, 1)[: len(row_T)])
        same = (torch.equal(mine[row_T], theirs) for mine, theirs in zip(self[2:5], numbers, strict=False))
        return torch.equal(self.rows_ID[row_T], vectors_TD) and copies_are and all(same)

    def to(self, device: torch.device) -> "ItemVectors":
        return self._taken_over(ItemVectors._make([*(part.to(device) for part in self[:5]), self.largest]))

    def _trusted(self) -> "ItemVectors":
        _checked.add(self[:5], self.largest)
        return self

    def _taken_over(self, made: "ItemVectors") -> "ItemVectors":
        """`made`, which was derived from these vectors: marked as checked if they are."""
        return made._trusted() if _checked.has(self[:5], self.largest) else made

    @property
    def copy_bytes(self) -> int:
        """Bytes of the copy with its scales and bounds, without the vectors themselves."""
        return sum(part.nbytes for part in self[1:5])


class CodeTables(NamedTuple):
    """T more columns of item codes, and for each user and column a table with the score of each code.

    codes_IT: int32, 0 to K - 1. tables_BTK: float32.
    """

    codes_IT: Tensor
    tables_BTK: Tensor


class ScoreTopk(NamedTuple):
    """A call of `score_topk`."""

    states_BD: Tensor
    items: ItemVectors
    k: int
    allowed: Tensor | None = None
    seen_BL: Tensor | None = None
    seen_bias: float | None = None
    codes: CodeTables | None = None


def empty_results(call: ScoreTopk) -> tuple[Tensor, Tensor]:
    """(scores_BN, rows_BN), not yet written to"""
    like, batch, k = call.states_BD, call.states_BD.shape[0], call.k
    return like.new_empty(batch, k, dtype=torch.float64), like.new_empty(batch, k, dtype=torch.int64)


def bind_vectors(op: str, items: ItemVectors, sizes: dict[str, int], device: torch.device) -> None:
    """`checks.bind` for an op's items, and `check_vectors` if they have values."""
    known = not torch.compiler.is_compiling() and _checked.has(items[:5], items.largest)
    if known and items.rows_ID.device == device:
        own = zip("ID", items.rows_ID.shape, strict=True)
        if all(sizes.setdefault(letter, size) == size for letter, size in own):
            return
    floats = {f"items.{name}": getattr(items, name) for name in ("rows_ID", "scales_I", "errors_I", "norms_I")}
    bind(op, floats, float_dtypes=(torch.float32,), sizes=sizes, device=device)
    wanted = {"X": panel_bytes(sizes["I"], sizes["D"])}
    bind(op, {}, {"items.panels_X": items.panels_X}, integer_dtypes=(torch.uint8,), sizes=wanted, device=device)
    if has_values(items.rows_ID):
        check_vectors(op, items)


def check_vectors(op: str, items: ItemVectors) -> None:
    """ValueError for items on the CPU that `ItemVectors.build` would not have made; checks them once."""
    if _checked.has(items[:5], items.largest) or not items.rows_ID.is_cpu:
        return
    right = ItemVectors.build(items.rows_ID)
    for name, found, expected in zip(items._fields, items[:5], right[:5], strict=False):
        # the last bit of a length depends on the strides
        if not torch.allclose(found, expected, 1e-6 if found.is_floating_point() else 0, 0):
            raise ValueError(f"{op}: items.{name} does not belong to its rows_ID; take items of ItemVectors.build")
    if not math.isclose(items.largest, right.largest):
        raise ValueError(f"{op}: items.largest must be {right.largest}, the longest of rows_ID, found {items.largest}")
    _checked.add(items[:5], items.largest)


def panel_bytes(num_items: int, width: int) -> int:
    """The size of `ItemVectors.panels_X`: items are padded to whole panels, channels to multiples of four."""
    return (num_items + -num_items % PANEL) * (width + -width % CHANNELS)


def _quantized(rows_TD: Tensor) -> tuple[Tensor, ...]:
    """(panels, scales, errors, norms, lengths) of some items, with bounds rounded up."""
    count, width = rows_TD.shape
    scale_T = rows_TD.abs().amax(1) / LARGEST_CODE
    wide_TD, wide_T1 = rows_TD.double(), scale_T.double()[:, None]
    code_TD = torch.where(wide_T1 > 0, wide_TD / wide_T1, 0.0).round().clamp(-LARGEST_CODE, LARGEST_CODE)
    error_T = torch.linalg.vector_norm(wide_TD - code_TD * wide_T1, dim=1)
    norm_T = torch.linalg.vector_norm(code_TD * wide_T1, dim=1)
    filled = torch.nn.functional.pad(code_TD + OFFSET, (0, -width % CHANNELS, 0, -count % PANEL), value=OFFSET)
    panels = filled.to(torch.uint8).view(-1, PANEL, filled.shape[1] // CHANNELS, CHANNELS).transpose(1, 2)
    return panels.flatten(), scale_T, _above(error_T), _above(norm_T), torch.linalg.vector_norm(wide_TD, dim=1)


def _above(x: Tensor) -> Tensor:
    """An upper bound in float32, which also covers the rounding of the sums."""
    return torch.nextafter((x * (1 + 1e-9)).float(), torch.tensor(torch.inf, device=x.device))


def allowed_words(allowed_TI: Tensor) -> Tensor:
    """A mask (T, I) as `score_topk` takes it: int32 (T, ceil(I / 32)), one bit per item, lowest bit first."""
    filled = torch.nn.functional.pad(allowed_TI, (0, -allowed_TI.shape[1] % PANEL)).unflatten(1, (-1, PANEL))
    bits = torch.arange(PANEL, device=allowed_TI.device)
    words = (filled.long() << bits).sum(2)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def allowed_mask(words_TX: Tensor, num_items: int) -> Tensor:
    """The mask (T, I) of `allowed_words`."""
    bits = torch.arange(PANEL, device=words_TX.device)
    return (words_TX[..., None] >> bits & 1).bool().flatten(1)[:, :num_items]


def score_topk_reference(call: ScoreTopk) -> tuple[Tensor, Tensor]:
    """(scores_BN, rows_BN): a float32 product and a bound on its error select candidates, which are scored exactly."""
    batch, (rows_ID, *_), k = len(call.states_BD), call.items, call.k
    scores_BN = call.states_BD.new_full((batch, k), -torch.inf, dtype=torch.float64)
    rows_BN = torch.full((batch, k), -1, dtype=torch.int64, device=scores_BN.device)
    if k and len(rows_ID):
        for user_b in torch.arange(batch, device=scores_BN.device).split(max(1, SCORES_AT_ONCE // len(rows_ID))):
            _score_some(call, user_b, scores_BN, rows_BN)
    return scores_BN, rows_BN


def _score_some(call: ScoreTopk, user_b: Tensor, scores_BN: Tensor, rows_BN: Tensor) -> None:
    """Write the best items of the users `user_b` into scores_BN and rows_BN."""
    num_items = len(call.items.rows_ID)
    open_bI = torch.ones(len(user_b), num_items, dtype=torch.bool, device=user_b.device)
    if call.allowed is not None:
        open_bI &= allowed_mask(call.allowed if len(call.allowed) == 1 else call.allowed[user_b], num_items)
    seen_bI = torch.zeros_like(open_bI)
    if call.seen_BL is not None:
        seen_bL = call.seen_BL[user_b]
        place_T, slot_T = (seen_bL >= 0).nonzero(as_tuple=True)
        seen_bI[place_T, seen_bL[place_T, slot_T]] = True
    candidate_bI = _may_be_best(call, user_b, open_bI & ~seen_bI)
    if call.seen_bias is not None:
        candidate_bI |= open_bI & seen_bI
    place_T, item_T = candidate_bI.nonzero(as_tuple=True)
    pieces = zip(user_b[place_T].split(ROWS_AT_ONCE), item_T.split(ROWS_AT_ONCE), strict=True)
    score_T = torch.cat([_exact_scores(call, user_t, item_t) for user_t, item_t in pieces])
    if call.seen_bias is not None:
        score_T = torch.where(seen_bI[place_T, item_T], score_T + call.seen_bias, score_T)
    place_T, item_T, score_T = (x[score_T > -torch.inf] for x in (place_T, item_T, score_T))
    order = lexsort(item_T, -score_T, place_T)
    begin_b = torch.searchsorted(place_T[order], torch.arange(len(user_b), device=user_b.device))
    rank_T = torch.arange(len(order), device=user_b.device) - begin_b[place_T[order]]
    order, rank_T = order[rank_T < call.k], rank_T[rank_T < call.k]
    at = user_b[place_T[order]], rank_T
    scores_BN[at], rows_BN[at] = score_T[order], item_T[order]


def _may_be_best(call: ScoreTopk, user_b: Tensor, open_bI: Tensor) -> Tensor:
    """Which open items may be among a user's best k: those whose upper bound reaches the k-th best lower bound."""
    rows_ID = call.items.rows_ID
    states_bD = call.states_BD[user_b]
    scores_bI = states_bD @ rows_ID.T
    size_bI = states_bD.double().norm(dim=1).float()[:, None] * call.items.rows_ID.norm(dim=1)
    if call.codes is not None:
        for table_BK, code_I in zip(call.codes.tables_BTK.unbind(1), call.codes.codes_IT.T.long(), strict=True):
            own_bI = table_BK[user_b][:, code_I]
            scores_bI, size_bI = scores_bI + own_bI, size_bI + own_bI.abs()
    # at a precision below "highest", torch rounds the operands to bfloat16 at worst
    unit = 2.0**-23 * (rows_ID.shape[1] + 8) if torch.get_float32_matmul_precision() == "highest" else 2.0**-6
    bound_bI = unit * size_bI + 2.0**-120
    certain_bI = torch.where(scores_bI.isfinite() & open_bI, scores_bI - bound_bI, -torch.inf)
    kth_b1 = certain_bI.topk(min(call.k, certain_bI.shape[1]), dim=1).values[:, -1:]
    return open_bI & ~(scores_bI + bound_bI < kth_b1)


def _exact_scores(call: ScoreTopk, user_T: Tensor, item_T: Tensor) -> Tensor:
    score_T = exact_dot(call.states_BD[user_T], call.items.rows_ID[item_T])
    if call.codes is not None:
        for table_BK, code_I in zip(call.codes.tables_BTK.unbind(1), call.codes.codes_IT.T, strict=True):
            score_T = score_T + table_BK[user_T, code_I[item_T].long()].double()
    return score_T
