"""Whole recommendations by reg4rec and by other libraries: the same 12,101 items, users, threads and run.

All recommend 10 unseen items to users with 8 seen items. Weights are random; sizes are those of `small`. Scans rank
items for the states of our own encoder; a T5 of our sizes reads 4 tokens for each item and decodes with 20 beams;
implicit is fitted to random interactions. `pip install "reg4rec[bench]"` installs all rivals; missing ones are skipped.
"""

import copy
from collections.abc import Callable
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import t5
from bench.bench_op_rivals import faiss_with_our_threads
from bench.bench_recommend import BEAMS, CODEBOOKS, CODES, ITEMS, recommender_of
from bench.conftest import Timed, long
from reg4rec import ops
from reg4rec.data import Sequences
from reg4rec.model import last_states
from reg4rec.recommend import Recommender
from reg4rec.recommend.exported import export_encoder

ASKED, HISTORY, DIM = 10, 8, 128
NEAR_TIE = 1e-4
RESIDUAL_SHARE = 0.3
"""Fraction of an item vector's squared length that is the residual's, as in trained models."""

Scan = Callable[[Tensor, Tensor], Tensor]
"""(states_BD, seen_BL) -> the best items that were not seen, best first"""
Rank = Callable[[], Tensor]


@cache
@torch.inference_mode(False)
def recommender() -> Recommender:
    """A recommender with random weights, not made in inference mode: such weights could not be packed."""
    plain = recommender_of(CODEBOOKS)
    found = plain.with_model(copy.deepcopy(plain.model))
    std = (RESIDUAL_SHARE / (1 - RESIDUAL_SHARE) / DIM) ** 0.5  # the sum of the tokens has length 1
    torch.nn.init.normal_(found.model.residual_ID, std=std, generator=torch.Generator().manual_seed(0))
    return found


@cache
def item_vectors(num_items: int) -> Tensor:
    if num_items != ITEMS:
        return torch.randn(num_items, DIM, generator=torch.Generator().manual_seed(0)) / DIM**0.5
    with torch.no_grad():
        return recommender().model.embed_items(recommender().codes_IM, torch.arange(ITEMS))


@cache
def histories(users: int, num_items: int = ITEMS) -> Tensor:
    """seen_BL: item rows, oldest first, no item twice."""
    rng = np.random.default_rng(users)
    return torch.from_numpy(np.stack([rng.choice(num_items, HISTORY, replace=False) for _ in range(users)]))


@cache
def sequences(users: int) -> Sequences:
    return Sequences.from_lists(histories(users).tolist())


@torch.inference_mode()
def encode(users: int) -> Tensor:
    """The encoder states of the users, computed as by the retriever `exact`."""
    ours, length_B = recommender(), torch.full((users,), HISTORY)
    return last_states(ours.model, histories(users).flatten(), length_B, ours.codes_IM, item_vectors(ITEMS))


@cache
def states(users: int) -> Tensor:
    return encode(users)


def unseen(items_BX: Tensor, seen_BL: Tensor) -> Tensor:
    """The first unseen items (B, ASKED) of lists that contain at most HISTORY seen ones."""
    seen_BX = (items_BX[:, :, None] == seen_BL[:, None]).any(2)
    return items_BX.gather(1, seen_BX.byte().argsort(dim=1, stable=True)[:, :ASKED])


def torch_scan(vectors_ID: Tensor, dtype: torch.dtype) -> Scan:
    vectors_ID = vectors_ID.to(dtype)

    @torch.inference_mode()
    def scan(states_BD: Tensor, seen_BL: Tensor) -> Tensor:
        scores_BI = states_BD.to(dtype) @ vectors_ID.T
        return scores_BI.scatter_(1, seen_BL, -torch.inf).topk(ASKED).indices

    return scan


def faiss_scan(vectors_ID: Tensor) -> Scan:
    index = faiss_with_our_threads().IndexFlatIP(vectors_ID.shape[1])
    index.add(vectors_ID.numpy())

    def scan(states_BD: Tensor, seen_BL: Tensor) -> Tensor:
        _, items_BX = index.search(states_BD.numpy(), ASKED + HISTORY)
        return unseen(torch.from_numpy(items_BX), seen_BL)

    return scan


def our_scan(vectors_ID: Tensor) -> Scan:
    vectors = ops.ItemVectors.build(vectors_ID)
    return lambda states_BD, seen_BL: ops.score_topk(states_BD, vectors, ASKED, seen_BL=seen_BL)[1]


SCANS: dict[str, Callable[[Tensor], Scan]] = {
    "torch float32": partial(torch_scan, dtype=torch.float32),
    "torch bfloat16": partial(torch_scan, dtype=torch.bfloat16),
    "faiss IndexFlatIP": faiss_scan,
}


@cache
def prepared_scan(how: str, num_items: int) -> Scan:
    prepare = our_scan if how == "score_topk" else SCANS[how]
    return prepare(item_vectors(num_items))


def right_items(states_BD: Tensor, vectors_ID: Tensor, seen_BL: Tensor) -> Tensor:
    """The answer of a scan in float64, some users and items at a time."""
    found = []
    for some_bD, seen_bL in zip(states_BD.double().split(64), seen_BL.split(64), strict=True):
        parts = vectors_ID.split(1 << 16)
        scores_bI = torch.cat([some_bD @ some_TD.double().T for some_TD in parts], dim=1)
        found.append(scores_bI.scatter_(1, seen_bL, -torch.inf).topk(ASKED).indices)
    return torch.cat(found)


def assert_unseen(items_BN: Tensor, seen_BL: Tensor, num_items: int = ITEMS) -> None:
    """Every user has ten existing, different, unseen items."""
    assert items_BN.shape == (len(seen_BL), ASKED)
    assert ((items_BN >= 0) & (items_BN < num_items)).all()
    assert (items_BN.sort(1).values.diff() > 0).all()
    assert not (items_BN[:, :, None] == seen_BL[:, None]).any()


def assert_best(items_BN: Tensor, states_BD: Tensor, vectors_ID: Tensor, seen_BL: Tensor) -> None:
    """The items are those of a scan in float64, except for near ties."""
    assert_unseen(items_BN, seen_BL, len(vectors_ID))
    right_BN = right_items(states_BD, vectors_ID, seen_BL)
    found_BN, best_BN = (
        (states_BD.double()[:, None] * vectors_ID[rows_BN].double()).sum(2) for rows_BN in (items_BN, right_BN)
    )
    torch.testing.assert_close(found_BN, best_BN, rtol=0, atol=NEAR_TIE)


def assert_mostly_best(items_BN: Tensor, states_BD: Tensor, vectors_ID: Tensor, seen_BL: Tensor) -> None:
    """Most items are right: 8-bit scores confuse a few items near the tenth place."""
    assert_unseen(items_BN, seen_BL, len(vectors_ID))
    right_BN = right_items(states_BD, vectors_ID, seen_BL)
    assert (items_BN[:, :, None] == right_BN[:, None]).any(2).double().mean() > 0.8


def assert_scan(how: str, *args: Tensor) -> None:
    (assert_mostly_best if how.endswith("bfloat16") else assert_best)(*args)


SIZES = [(ITEMS, 1), (ITEMS, 64), (ITEMS, 512), (100_000, 1), (100_000, 64), *long((1_000_000, 1), (1_000_000, 64))]


@pytest.mark.parametrize("how", ["score_topk", *SCANS])
@pytest.mark.parametrize(("num_items", "users"), SIZES)
def bench_scan(timed: Timed, num_items: int, users: int, how: str) -> None:
    """Only the ranking, from given encoder states."""
    vectors_ID, states_BD, seen_BL = item_vectors(num_items), states(users), histories(users, num_items)
    scan, moved = prepared_scan(how, num_items), vectors_ID.nbytes + states_BD.nbytes
    group = f"scan {num_items:,} items/users={users}/cpu"
    found_BN = timed(lambda: scan(states_BD, seen_BL), group, how, moved, 2 * users * vectors_ID.numel())
    assert_scan(how, found_BN, states_BD, vectors_ID, seen_BL)


@cache
def exported_encoder() -> Any:
    """The file of `export_encoder` in ONNX Runtime."""
    pytest.importorskip("onnxscript")
    with TemporaryDirectory() as folder:
        export_encoder(recommender(), folder)
        return t5.session_of(f"{folder}/encoder.onnx")


def onnx_encode(users: int) -> Tensor:
    (states_BD,) = exported_encoder().run(None, {"item_rows": histories(users).numpy()})
    return torch.from_numpy(states_BD)


@pytest.mark.parametrize("how", ["reg4rec", "ONNX Runtime"])
@pytest.mark.parametrize("users", [1, 64, 512])
def bench_encode(timed: Timed, users: int, how: str) -> None:
    """Only the encoder, which runs before every scan."""
    run = partial(encode if how == "reg4rec" else onnx_encode, users)
    states_BD = timed(run, f"encode/users={users}/cpu", how, 0, 0)
    torch.testing.assert_close(states_BD, encode(users), rtol=0, atol=1e-5)


def ours(users: int, retriever: str) -> Rank:
    chosen = recommender().with_search(retriever=retriever)
    return lambda: torch.from_numpy(chosen.rank(sequences(users), ASKED, True)).long()


def encode_and_scan(users: int, how: str) -> Rank:
    scan, seen_BL = prepared_scan(how, ITEMS), histories(users)
    return lambda: scan(encode(users), seen_BL)


@cache
def item_tokens() -> Tensor:
    return recommender().codes_IM + torch.arange(CODEBOOKS) * CODES


@cache
def beams_in_torch() -> t5.TrieBeams:
    children_XK, item_T = t5.trie(recommender().codes_IM.numpy(), CODES)
    return t5.TrieBeams(t5.random_t5(CODEBOOKS * CODES), children_XK, item_T, CODEBOOKS, BEAMS).eval()


def torch_beams(users: int) -> Rank:
    model, seen_BL = beams_in_torch(), histories(users)

    @torch.inference_mode()
    def rank() -> Tensor:
        items_BW, _ = model(item_tokens()[seen_BL].flatten(1))
        return unseen(items_BW, seen_BL)

    return rank


def onnx_beams(users: int) -> Rank:
    session, seen_BL = t5.onnx_session(beams_in_torch(), HISTORY * CODEBOOKS), histories(users)

    def rank() -> Tensor:
        items_BW, _ = session.run(None, {"tokens": item_tokens()[seen_BL].flatten(1).numpy()})
        return unseen(torch.from_numpy(items_BW), seen_BL)

    return rank


def ctranslate2_beams(users: int, compute_type: str) -> Rank:
    """Its beams cannot be restricted to a trie: the four decoded tokens may belong to no item."""
    translator = t5.translator(t5.random_t5(CODEBOOKS * CODES), compute_type)
    words = [[str(token) for token in tokens] for tokens in item_tokens().tolist()]
    asked = {"beam_size": BEAMS, "num_hypotheses": ASKED}
    asked |= dict.fromkeys(("min_decoding_length", "max_decoding_length"), CODEBOOKS)

    def rank() -> Tensor:
        read = [[word for item in seen for word in words[item]] for seen in histories(users).tolist()]
        found = translator.translate_batch(read, **asked)
        return torch.tensor([[list(map(int, path)) for path in user.hypotheses] for user in found])

    return rank


def transformers_beams(users: int) -> Rank:
    """As the code of many papers does it (slowly): a Python function returns the next tokens for every beam."""
    model, seen_BL = t5.random_t5(CODEBOOKS * CODES), histories(users)
    follow: dict[tuple[int, ...], list[int]] = {}
    item_of = {tuple(path): item for item, path in enumerate(item_tokens().tolist())}
    for path in sorted(item_of):
        for step, token in enumerate(path):
            allowed = follow.setdefault(path[:step], [])
            if token not in allowed[-1:]:
                allowed.append(token)

    def rank() -> Tensor:
        read_BT = item_tokens()[seen_BL].flatten(1)
        found = model.generate(
            read_BT, attention_mask=torch.ones_like(read_BT), num_beams=BEAMS, num_return_sequences=BEAMS,
            max_new_tokens=CODEBOOKS, min_new_tokens=CODEBOOKS, do_sample=False,
            prefix_allowed_tokens_fn=lambda _, path: follow[tuple(path[1:].tolist())],
        )  # fmt: skip
        items = [item_of[tuple(path)] for path in found[:, 1 : 1 + CODEBOOKS].tolist()]
        return unseen(torch.tensor(items).view(users, BEAMS), seen_BL)

    return rank


@cache
def interactions() -> Any:
    """Random interactions, with as many users and clicks as Beauty."""
    sparse = pytest.importorskip("scipy.sparse")
    rng, clicks = np.random.default_rng(0), 198_502
    at = rng.integers(0, 22_363, clicks), (ITEMS * rng.random(clicks) ** 2).astype(np.int64)
    return sparse.csr_matrix((np.ones(clicks, dtype=np.float32), at), shape=(22_363, ITEMS))


def implicit_model(users: int, kind: str) -> Rank:
    """The users are new to the model: ALS solves for their factors, item-kNN adds up the neighbors of their items."""
    implicit, sparse = pytest.importorskip("implicit"), pytest.importorskip("scipy.sparse")
    pools = pytest.importorskip("threadpoolctl").ThreadpoolController()
    threads, seen_BL = torch.get_num_threads(), histories(users)
    asked: dict[str, Any] = {"N": ASKED, "filter_already_liked_items": True}
    with pools.limit(limits=1, user_api="blas"):  # implicit has its own threads
        if kind == "ALS":
            model = implicit.als.AlternatingLeastSquares(DIM, iterations=1, random_state=0, num_threads=threads)
            asked["recalculate_user"] = True
        else:
            model = implicit.nearest_neighbours.CosineRecommender(num_threads=threads)
        model.fit(interactions(), show_progress=False)

    def rank() -> Tensor:
        ones, begin = np.ones(seen_BL.numel(), dtype=np.float32), np.arange(0, seen_BL.numel() + 1, HISTORY)
        clicks = sparse.csr_matrix((ones, seen_BL.numpy().ravel(), begin), shape=(users, ITEMS))
        with pools.limit(limits=1, user_api="blas"):
            items_BN, _ = model.recommend(np.arange(users), clicks, **asked)
        return torch.from_numpy(items_BN).long()

    return rank


RANKERS: dict[str, Callable[..., Rank]] = {
    "exact": partial(ours, retriever="exact"),
    "paths": partial(ours, retriever="paths"),
    **{how: partial(encode_and_scan, how=how) for how in SCANS},
    "implicit ALS": partial(implicit_model, kind="ALS"),
    "implicit item-kNN": partial(implicit_model, kind="item-kNN"),
    "T5 in torch": torch_beams,
    "T5 in ONNX Runtime": onnx_beams,
    "T5 in CTranslate2 float32, no trie": partial(ctranslate2_beams, compute_type="float32"),
    "T5 in CTranslate2 int8, no trie": partial(ctranslate2_beams, compute_type="int8"),
    "T5 in transformers, prefix function": transformers_beams,
}


def _takes_long(how: str, users: int) -> bool:
    return how.startswith("T5") and users > (1 if how.endswith("prefix function") else 64)


CASES = [
    pytest.param(how, users, id=f"{how}-{users}", marks=[pytest.mark.long] if _takes_long(how, users) else [])
    for users in (1, 64, 512)
    for how in RANKERS
]


@pytest.mark.parametrize(("how", "users"), CASES)
def bench_recommend(timed: Timed, how: str, users: int) -> None:
    """A whole recommendation, from item rows to item rows."""
    rank = RANKERS[how](users)
    found = timed(rank, f"recommend {ITEMS:,} items/users={users}/cpu", how, 0, 0)
    seen_BL = histories(users)
    if how == "exact" or how in SCANS:
        assert_scan(how, found, encode(users), item_vectors(ITEMS), seen_BL)
    elif how.endswith("no trie"):
        assert found.shape == (users, ASKED, CODEBOOKS)
    else:
        assert_unseen(found, seen_BL)
    if how == "T5 in ONNX Runtime":
        assert (found == torch_beams(users)()).double().mean() > 0.99
