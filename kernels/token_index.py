"""The index over existing items: which of them carry which tokens, and which tokens a path can still take."""

from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import Checked, bind, has_values, within
from .posting_lists import PostingLists

__all__ = ["TokenIndex", "bind_index", "check_index", "pair_slot"]

MOST_PAIRED = 8
"""The most codebooks with which pairs are listed by default: they take 2 M (M - 1) bytes per item."""
LISTS = ("offsets", "postings", "pair_offsets", "pair_postings")

_checked = Checked()


class TokenIndex(NamedTuple):
    """Which items carry which tokens: a posting list of item rows for every token, in large catalogs for every pair.

    codes_IM: int32, the item's token in each codebook. offsets: int64 (M * K + 1,), the posting list of token
    (r, j) is `postings[offsets[r * K + j] : offsets[r * K + j + 1]]`, item rows ascending. postings: int32.
    counts_MK: int32, the length of every list. pair_offsets: int64 (M (M - 1) / 2 * K * K + 1,), pair_postings: int32,
    the same for two tokens (`pair_slot`); both empty where pairs are not listed.

    `build` makes one. Methods take a path as one token per codebook, -1 where it has none yet.
    """

    codes_IM: Tensor
    offsets: Tensor
    postings: Tensor
    counts_MK: Tensor
    pair_offsets: Tensor
    pair_postings: Tensor

    @classmethod
    def build(
        cls, codes_IM: Tensor, codebook_size: int, items: Tensor | None = None, pairs: bool | None = None
    ) -> "TokenIndex":
        """Index all items, or only the rows in `items` (distinct), so that a search never reaches the others.

        `pairs`: whether to list pairs of tokens too. None does so for up to 8 codebooks if a pair's list has at least
        one item on average. ValueError for codes outside 0..codebook_size-1, and for rows that repeat or do not exist.
        """
        num_items, num_codebooks = codes_IM.shape
        if num_items and (int(codes_IM.min()) < 0 or int(codes_IM.max()) >= codebook_size):
            raise ValueError(
                f"codes_IM must lie in 0..{codebook_size - 1}, found {int(codes_IM.min())}..{int(codes_IM.max())}"
            )
        rows = torch.arange(num_items, device=codes_IM.device) if items is None else items.long().sort().values
        if len(rows) and (int(rows[0]) < 0 or int(rows[-1]) >= num_items or not bool((rows.diff() > 0).all())):
            raise ValueError(f"items must be distinct and lie in 0..{num_items - 1}, found {rows.tolist()[:5]}...")
        if pairs is None:
            pairs = cls.pairs_pay(len(rows), num_codebooks, codebook_size)
        codes_MT = codes_IM[rows].int().T.contiguous()
        tokens = PostingLists.build(list(codes_MT), codebook_size, rows)
        keys = [codes_MT[r] * codebook_size + codes_MT[s] for r, s in combinations(range(num_codebooks), 2)]
        if not pairs or not keys:
            nothing = PostingLists(tokens.offsets[:0], tokens.postings[:0])
            return cls._of(codes_IM, codebook_size, tokens, nothing)._trusted()
        return cls._of(codes_IM, codebook_size, tokens, PostingLists.build(keys, codebook_size**2, rows))._trusted()

    @staticmethod
    def pairs_pay(num_items: int, num_codebooks: int, codebook_size: int) -> bool:
        """Whether `build` lists pairs of tokens unless told otherwise: their lists then have an item on average."""
        return num_codebooks <= MOST_PAIRED and num_items >= codebook_size**2

    @classmethod
    def _of(cls, codes_IM: Tensor, codebook_size: int, tokens: PostingLists, pairs: PostingLists) -> "TokenIndex":
        counts_MK = tokens.offsets.diff().int().view(-1, codebook_size)
        return cls(codes_IM.int().contiguous(), *tokens, counts_MK, *pairs)

    def _trusted(self) -> "TokenIndex":
        _checked.add(self)
        return self

    def with_items(self, codes_IM: Tensor, rows_T: Tensor) -> "TokenIndex":
        """The index with the rows `rows_T` (distinct, not in it yet) of `codes_IM`, which begins with its own codes.

        Takes linear time, since it merges lists where `build` sorts. Pairs are listed if they were before.
        """
        size, is_listed = self.counts_MK.shape[1], self.listed_items()
        if not torch.equal(codes_IM[: len(is_listed)].int(), self.codes_IM):
            raise ValueError("codes_IM must begin with the codes of the index")
        if len(rows_T) and (int(rows_T.min()) < 0 or bool(is_listed[rows_T[rows_T < len(is_listed)]].any())):
            raise ValueError("rows_T must be rows of codes_IM that the index does not list")
        added = TokenIndex.build(codes_IM[rows_T], size, pairs=self.lists_pairs)
        tokens = self._tokens.merged(added.offsets, rows_T[added.postings.long()])
        pairs = self._pairs.merged(added.pair_offsets, rows_T[added.pair_postings.long()])
        return self._taken_over(TokenIndex._of(codes_IM, size, tokens, pairs))

    def without_items(self, rows_T: Tensor) -> "TokenIndex":
        """The index without the rows `rows_T` (distinct), in linear time; their codes stay in codes_IM."""
        is_removed_I = torch.zeros(len(self.codes_IM), dtype=torch.bool, device=rows_T.device)
        is_removed_I[rows_T] = True
        tokens, pairs = self._tokens.without(is_removed_I), self._pairs.without(is_removed_I)
        return self._taken_over(TokenIndex._of(self.codes_IM, self.counts_MK.shape[1], tokens, pairs))

    def _taken_over(self, made: "TokenIndex") -> "TokenIndex":
        """`made`, which was derived from this index: marked as checked if this one is."""
        return made._trusted() if _checked.has(self) else made

    def stored(self) -> dict[str, Tensor]:
        """The tensors that `restored` needs besides the codes."""
        return {name: getattr(self, name) for name in LISTS}

    @classmethod
    def restored(cls, stored: dict[str, Tensor], codes_IM: Tensor, codebook_size: int, num_items: int) -> "TokenIndex":
        """The index saved by `stored`, of `num_items` items; KeyError or ValueError if the lists do not fit them."""
        num_codebooks = codes_IM.shape[1]
        num_pairs = num_codebooks * (num_codebooks - 1) // 2
        offsets, postings, pair_offsets, pair_postings = (stored[name] for name in LISTS)
        sizes = {
            "offsets": (num_codebooks * codebook_size + 1, len(offsets)),
            "postings": (num_codebooks * num_items, len(postings)),
            "pair_offsets": (num_pairs * codebook_size**2 + 1, len(pair_offsets)),
            "pair_postings": (num_pairs * num_items, len(pair_postings)),
            "last offset": (len(postings), int(offsets[-1])),
            "last pair_offset": (len(pair_postings), int(pair_offsets[-1])),
        }
        for name, (expected, found) in sizes.items():
            if expected != found:
                raise ValueError(f"{name}: {expected} expected, {found} found")
        for begins, rows in ((offsets, postings), (pair_offsets, pair_postings)):
            if int(begins[0]) != 0 or bool((begins.diff() < 0).any()):
                raise ValueError("offsets must rise from 0")
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(codes_IM):
                raise ValueError(f"rows must lie in 0..{len(codes_IM) - 1}")
        if codes_IM.min() < 0 or codes_IM.max() >= codebook_size:
            raise ValueError(f"codes must lie in 0..{codebook_size - 1}")
        pairs = PostingLists(pair_offsets, pair_postings)
        return cls._of(codes_IM, codebook_size, PostingLists(offsets, postings), pairs)._trusted()

    @property
    def lists_pairs(self) -> bool:
        return len(self.pair_offsets) > 0

    def listed_items(self) -> Tensor:
        """Which items the index lists (I,)."""
        rows = self.postings[: self.offsets[self.counts_MK.shape[1]]]  # every item has one token of the first codebook
        return torch.zeros(len(self.codes_IM), dtype=torch.bool, device=rows.device).index_fill_(0, rows.long(), True)

    def admissible_tokens(self, tokens_BPM: Tensor, live_BP: Tensor, exclude_BX: Tensor | None = None) -> Tensor:
        """open_BPMK: the tokens of unused codebooks with which a live path can still reach an item.

        That is a listed item that is not in the user's row of exclude_BX (padded with -1).
        """
        batch, paths, num_codebooks = tokens_BPM.shape
        codebook_size = self.counts_MK.shape[1]
        open_BPMK = torch.zeros(batch, paths, num_codebooks, codebook_size, dtype=torch.bool, device=tokens_BPM.device)
        num_fed_BP = (tokens_BPM >= 0).sum(-1)
        begun_BP = num_fed_BP > 0
        root_user, root_row = (live_BP & ~begun_BP).nonzero(as_tuple=True)
        if len(root_user):
            open_BPMK[root_user, root_row] = self._open_at_root(batch, exclude_BX)[root_user]
        after_one_BP = live_BP & (num_fed_BP == 1) & (self.lists_pairs and exclude_BX is None)
        if after_one_BP.any():
            open_BPMK[after_one_BP] = self._open_after_one(tokens_BPM[after_one_BP])
        user, row = (live_BP & begun_BP & ~after_one_BP).nonzero(as_tuple=True)
        path_T, item_T = self.items_with_tokens(tokens_BPM[user, row])
        if exclude_BX is not None:
            allowed = ~self.is_excluded(user[path_T], item_T, exclude_BX)
            path_T, item_T = path_T[allowed], item_T[allowed]
        book_M = torch.arange(num_codebooks, device=path_T.device)
        rows_TM = (user * paths + row)[path_T, None] * num_codebooks + book_M
        open_BPMK.view(-1)[rows_TM * codebook_size + self.codes_IM[item_T].long()] = True
        return open_BPMK & (tokens_BPM < 0)[..., None]

    def items_with_tokens(self, tokens_PM: Tensor) -> tuple[Tensor, Tensor]:
        """All (path, item) pairs where the item carries every token of the path; filters the path's shortest list."""
        slots_PM = self._token_slots(tokens_PM)
        if self.lists_pairs:
            # the list of a pair is never longer than those of its tokens, so only paths of one token read the latter
            slots_PX, _ = self._pair_slots(tokens_PM)
            paired_P1 = (slots_PX >= 0).any(1, keepdim=True)
            alone_T, alone_item_T = self._tokens.shortest(slots_PM.masked_fill(paired_P1, -1))
            pair_T, pair_item_T = self._pairs.shortest(slots_PX)
            path_T, item_T = torch.cat([alone_T, pair_T]), torch.cat([alone_item_T, pair_item_T])
        else:
            path_T, item_T = self._tokens.shortest(slots_PM)
        wanted_TM = tokens_PM[path_T]
        fits_T = ((wanted_TM < 0) | (wanted_TM == self.codes_IM[item_T])).all(1)
        return path_T[fits_T], item_T[fits_T]

    def items_sharing_tokens(self, tokens_PM: Tensor, fewest_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All (path, item) pairs, by path, that share `fewest_P` (1 or more) of its tokens, and how many they share.

        An item that shares f of d tokens carries at least one of any d - f + 1 tokens, so the shortest d - f + 1 lists
        are read. If pairs are listed, the codebooks are split into f - 1 groups: two of the f shared tokens are then in
        the same group, so the lists of pairs within groups are enough.
        """
        if self.lists_pairs and bool((fewest_P > 1).all()):
            lists = self._pairs
            slots_PX, (left_X, right_X) = self._pair_slots(tokens_PM)
            num_groups_P1 = fewest_P[:, None] - 1
            read_PX = (slots_PX >= 0) & (left_X % num_groups_P1 == right_X % num_groups_P1)
        else:
            lists = self._tokens
            slots_PX = self._token_slots(tokens_PM)
            left_X = right_X = torch.arange(slots_PX.shape[1], device=slots_PX.device)
            place_PX = lists.lengths(slots_PX, 2**62).sort(dim=1, stable=True).indices.argsort(1)
            read_PX = place_PX < ((tokens_PM >= 0).sum(1) - fewest_P + 1)[:, None]
        asker, slot = read_PX.nonzero(as_tuple=True)
        at_T, item_T = lists.rows(slots_PX[asker, slot])
        path_T = asker[at_T]
        shared_TM = self.codes_IM[item_T] == tokens_PM[path_T]
        shared_T = shared_TM.sum(1)
        # an item that is in several of a path's lists is taken from the first
        found_TX = shared_TM[:, left_X] & shared_TM[:, right_X] & read_PX[path_T]
        first_T = found_TX.cumsum(1).gather(1, slot[at_T, None]).squeeze(1) == 1
        taken_T = first_T & (shared_T >= fewest_P[path_T])
        return path_T[taken_T], item_T[taken_T], shared_T[taken_T]

    def is_excluded(self, user_T: Tensor, item_T: Tensor, exclude_BX: Tensor) -> Tensor:
        """Which items are in their user's row of exclude_BX (items, -1 for none)."""
        num_items = len(self.codes_IM)
        user_B1 = torch.arange(exclude_BX.shape[0], device=exclude_BX.device)[:, None]
        keys = torch.where(exclude_BX >= 0, user_B1 * num_items + exclude_BX, -1)
        return torch.isin(user_T * num_items + item_T, keys.flatten())

    @property
    def _tokens(self) -> PostingLists:
        return PostingLists(self.offsets, self.postings)

    @property
    def _pairs(self) -> PostingLists:
        return PostingLists(self.pair_offsets, self.pair_postings)

    def _token_slots(self, tokens_PM: Tensor) -> Tensor:
        """slots_PM: the numbers of the lists of a path's tokens, -1 where it has no token."""
        num_codebooks, codebook_size = self.counts_MK.shape
        first_M = torch.arange(num_codebooks, device=tokens_PM.device) * codebook_size
        return (tokens_PM + first_M).masked_fill(tokens_PM < 0, -1)

    def _pair_slots(self, tokens_PM: Tensor) -> tuple[Tensor, Tensor]:
        """(slots_PX, books_2X): the numbers of the lists of a path's token pairs, -1 for none, and their codebooks."""
        num_codebooks, codebook_size = self.counts_MK.shape
        books_2X = torch.combinations(torch.arange(num_codebooks, device=tokens_PM.device)).T
        first_X = pair_slot(num_codebooks, codebook_size, *books_2X)
        left_PX, right_PX = tokens_PM[:, books_2X[0]], tokens_PM[:, books_2X[1]]
        slots_PX = left_PX * codebook_size + right_PX + first_X
        return slots_PX.masked_fill((left_PX < 0) | (right_PX < 0), -1), books_2X

    def _open_after_one(self, tokens_TM: Tensor) -> Tensor:
        """open_TMK after one token: those whose list of pairs with it is not empty. A token's own list has I / K items,
        so reading it instead would cost more in larger catalogs."""
        num_codebooks, codebook_size = self.counts_MK.shape
        book_T1 = tokens_TM.argmax(1, keepdim=True)
        code_T11 = tokens_TM.gather(1, book_T1)[..., None]
        other_M, other_K = (torch.arange(size, device=tokens_TM.device) for size in (num_codebooks, codebook_size))
        is_left_TM1 = (book_T1 < other_M)[..., None]
        left_TM, right_TM = torch.minimum(book_T1, other_M), torch.maximum(book_T1, other_M)
        first_TM1 = pair_slot(num_codebooks, codebook_size, left_TM, right_TM).clamp(min=0)[..., None]
        left_TMK, right_TMK = torch.where(is_left_TM1, code_T11, other_K), torch.where(is_left_TM1, other_K, code_T11)
        return self._pairs.lengths(first_TM1 + left_TMK * codebook_size + right_TMK, 0) > 0

    def _open_at_root(self, batch: int, exclude_BX: Tensor | None) -> Tensor:
        """open_BMK before the first token: the tokens that more items carry than the user excludes."""
        num_codebooks, codebook_size = self.counts_MK.shape
        counts = self.counts_MK.reshape(1, -1).repeat(batch, 1)
        if exclude_BX is not None and exclude_BX.shape[1]:
            distinct = exclude_BX.sort(dim=1).values
            first = torch.nn.functional.pad(distinct[:, 1:] != distinct[:, :-1], (1, 0), value=True) & (distinct >= 0)
            user_T, slot_T = first.nonzero(as_tuple=True)
            item_T = distinct[user_T, slot_T]
            token_TM = self.codes_IM[item_T].long() + torch.arange(num_codebooks, device=item_T.device) * codebook_size
            indexed_T = self.listed_items()[item_T]
            gone = (user_T[:, None] * counts.shape[1] + token_TM)[indexed_T].reshape(-1)
            counts.view(-1).index_add_(0, gone, torch.full_like(gone, -1, dtype=counts.dtype))
        return (counts > 0).view(batch, num_codebooks, codebook_size)


def pair_slot(num_codebooks: int, codebook_size: int, r: Any, s: Any) -> Any:
    """The number, or numbers, of the first list of codebooks r < s; (r, i) and (s, j) have the one i K + j later."""
    return (r * (2 * num_codebooks - r - 1) // 2 + s - r - 1) * codebook_size**2


def bind_index(op: str, index: TokenIndex, sizes: dict[str, int], device: torch.device) -> None:
    """`checks.bind` for an op's index, and `check_index` if it has values."""
    if not torch.compiler.is_compiling() and _checked.has(index) and device == index.codes_IM.device:
        own = zip("IMK", (*index.codes_IM.shape, index.counts_MK.shape[1]), strict=True)
        if all(sizes.setdefault(letter, size) == size for letter, size in own):
            return
    codes = {"index.codes_IM": index.codes_IM, "index.counts_MK": index.counts_MK}
    bind(op, {}, codes, integer_dtypes=(torch.int32,), sizes=sizes, device=device)
    num_books, size = sizes["M"], sizes["K"]
    num_pairs = num_books * (num_books - 1) // 2
    offsets = {"index.offsets_T": index.offsets}, {"index.pair_offsets_T": index.pair_offsets}
    lengths = (num_books * size + 1,), (0, num_pairs * size**2 + 1)
    for part, wanted in zip(offsets, lengths, strict=True):
        if (found := bind(op, {}, part, integer_dtypes=(torch.int64,), device=device)["T"]) not in wanted:
            expected = " or ".join(map(str, wanted))
            raise ValueError(f"{op}: {next(iter(part))} has {found} numbers where {expected} were expected")
    for name in ("postings", "pair_postings"):
        bind(op, {}, {f"index.{name}_T": getattr(index, name)}, integer_dtypes=(torch.int32,), device=device)
    if has_values(index.offsets):
        check_index(op, index)


def check_index(op: str, index: TokenIndex) -> None:
    """ValueError for an index on the CPU that `TokenIndex.build` would not have made; checks each index once."""
    if _checked.has(index) or not index.offsets.is_cpu:
        return
    codebook_size = index.counts_MK.shape[1]
    within(op, "index.codes_IM", index.codes_IM, 0, codebook_size - 1)
    within(op, "index.offsets", index.offsets, 0, len(index.postings))
    within(op, "index.postings", index.postings, 0, len(index.codes_IM) - 1)
    rows = index.listed_items().nonzero().squeeze(1)
    right = TokenIndex.build(index.codes_IM, codebook_size, rows, index.lists_pairs)
    for name, found, expected in zip(index._fields, index, right, strict=True):
        if not torch.equal(found, expected):
            raise ValueError(f"{op}: index.{name} does not belong to its codes; take an index of TokenIndex.build")
    _checked.add(index)
