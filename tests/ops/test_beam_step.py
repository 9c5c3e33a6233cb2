"""beam_step against an exhaustive search in plain Python over sets of tokens."""

import math

import pytest
import torch

from reg4rec import ops
from reg4rec.kernels.beam_step.reference import BeamStep, beam_step_reference

NEVER = -math.inf


def beam_step(*args):
    return beam_step_reference(BeamStep(*args))


def exhaustive_step(logits, scores, tokens, js, codes, allowed, num_beams, num_spares, threshold, renormalize):
    """One user: the children, best first, as (score, set of (codebook, code)); whether the fallback was taken."""
    live = [p for p in range(len(scores)) if scores[p] > NEVER]
    kept = [p for p in live if threshold is None or js is None or js[p] <= threshold]
    fallback = bool(live) and not kept
    if fallback:
        kept = [min(live, key=lambda p: (js[p], p))]
    kept = sorted(kept, key=lambda p: (-scores[p], p))[:num_beams]
    best: dict[frozenset, tuple[float, int, int]] = {}
    for p in kept:
        held = {(r, int(j)) for r, j in enumerate(tokens[p]) if j >= 0}
        log_probs = logits.double().log_softmax(-1)[p]
        if renormalize:
            within = [i for i in allowed if held <= {(r, int(j)) for r, j in enumerate(codes[i])}]
            open_MK = torch.zeros(log_probs.shape, dtype=torch.bool)
            for r in range(len(log_probs)):
                open_MK[r, [codes[i][r] for i in within]] = True
            log_probs = logits[p].double().masked_fill(~open_MK, NEVER).log_softmax(-1)
        for item in allowed:
            carried = {(r, int(j)) for r, j in enumerate(codes[item])}
            if held <= carried:
                for r, j in carried - held:
                    child = frozenset(held | {(r, j)})
                    found = (-float(scores[p]) - float(log_probs[r, j]), p, r * log_probs.shape[1] + j)
                    best[child] = min(best.get(child, found), found)
    ranked = [(-best[child][0], child) for child in sorted(best, key=lambda child: best[child])]
    return ranked[: num_beams + num_spares], fallback


def random_case(seed, batch=5, num_items=40, num_codebooks=3, codebook_size=5, num_beams=4, num_spares=2):
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, codebook_size, (num_items, num_codebooks), generator=draw)
    exclude = torch.randint(-1, num_items, (batch, 7), generator=draw)
    return draw, codes, exclude, (batch, num_codebooks, codebook_size, num_beams, num_spares)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [None, 0.05])
@pytest.mark.parametrize("items", [None, torch.arange(0, 40, 3)])
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
def test_whole_search_equals_exhaustive_search(seed, threshold, items, renormalize, pairs):
    draw, codes, exclude, (batch, num_codebooks, codebook_size, num_beams, num_spares) = random_case(seed)
    index = ops.TokenIndex.build(codes, codebook_size, items, pairs)
    rows = range(len(codes)) if items is None else items.tolist()
    scores = torch.zeros(batch, 1)
    tokens = torch.full((batch, 1, num_codebooks), -1)
    js = None
    for _ in range(num_codebooks):
        paths = scores.shape[1]
        logits = torch.randn(batch, paths, num_codebooks, codebook_size, generator=draw)
        parent, token, new_scores, fallback = beam_step(
            logits, scores, tokens, js, index, num_beams, num_spares, threshold, exclude, renormalize
        )
        assert parent.shape == token.shape == new_scores.shape == (batch, num_beams + num_spares)
        new_tokens = torch.full((batch, num_beams + num_spares, num_codebooks), -1)
        for b in range(batch):
            allowed = [i for i in rows if i not in exclude[b].tolist()]
            want, want_fallback = exhaustive_step(
                logits[b], scores[b].tolist(), tokens[b].tolist(), None if js is None else js[b].tolist(),
                codes.tolist(), allowed, num_beams, num_spares, threshold, renormalize,
            )  # fmt: skip
            assert bool(fallback[b]) == want_fallback
            found = []
            for w in range(num_beams + num_spares):
                if token[b, w] < 0:
                    assert new_scores[b, w] == NEVER
                    assert parent[b, w] == -1
                    continue
                new_tokens[b, w] = tokens[b, parent[b, w]]
                r, j = divmod(int(token[b, w]), codebook_size)
                assert new_tokens[b, w, r] == -1
                new_tokens[b, w, r] = j
                held = frozenset((r, int(j)) for r, j in enumerate(new_tokens[b, w]) if j >= 0)
                found.append((float(new_scores[b, w]), held))
            assert [held for _, held in found] == [held for _, held in want]
            assert [s for s, _ in found] == pytest.approx([s for s, _ in want], abs=1e-5)
        scores, tokens = new_scores, new_tokens
        js = torch.rand(scores.shape, generator=draw) * 0.15


def test_equal_scores_go_to_the_lowest_child():
    index = ops.TokenIndex.build(torch.tensor([[0, 0], [1, 1], [2, 2]]), 3)
    parent, token, scores, _ = beam_step(
        torch.zeros(1, 1, 2, 3), torch.zeros(1, 1), torch.full((1, 1, 2), -1), None, index, 2, 0
    )
    assert token.tolist() == [[0, 1]]
    assert parent.tolist() == [[0, 0]]
    assert scores.tolist() == [[pytest.approx(-math.log(3))] * 2]


def test_two_orders_of_one_set_are_merged_and_the_better_one_stays():
    index = ops.TokenIndex.build(torch.tensor([[0, 1]]), 2)
    tokens = torch.tensor([[[0, -1], [-1, 1]]])
    parent, token, scores, _ = beam_step(
        torch.zeros(1, 2, 2, 2), torch.tensor([[-2.0, -1.0]]), tokens, None, index, 2, 0
    )
    assert parent.tolist() == [[1, -1]]
    assert token.tolist() == [[0, -1]]
    assert scores[0, 0] == pytest.approx(-1 + math.log(0.5))


def test_a_user_for_whom_everything_is_excluded_gets_no_path():
    index = ops.TokenIndex.build(torch.tensor([[0, 1], [1, 1]]), 2)
    parent, token, scores, fallback = beam_step(
        torch.zeros(2, 1, 2, 2), torch.zeros(2, 1), torch.full((2, 1, 2), -1), None, index, 3, 0, None,
        torch.tensor([[0, 1, 1], [-1, 0, 0]]),
    )  # fmt: skip
    assert (token[0] == -1).all()
    assert (parent[0] == -1).all()
    assert (scores[0] == NEVER).all()
    assert token[1].tolist()[:2] == [1, 3]
    assert not fallback.any()


def test_prune_keeps_the_least_divergent_when_none_is_consistent():
    kept, fallback = ops.prune_paths(
        torch.tensor([[-1.0, -2.0, NEVER], [-1.0, -2.0, -3.0]]),
        torch.tensor([[0.5, 0.3, 0.0], [0.01, 0.9, 0.02]]), 2, 0.06,
    )  # fmt: skip
    assert kept.tolist() == [[False, True, False], [True, False, True]]
    assert fallback.tolist() == [True, False]


def test_an_empty_batch_and_a_dead_path_are_no_special_case():
    index = ops.TokenIndex.build(torch.tensor([[0, 1]]), 2)
    none = torch.empty(0, 3, 2, dtype=torch.long), torch.empty(0, 3, dtype=torch.bool)
    assert index.admissible_tokens(*none).shape == (0, 3, 2, 2)
    assert not index.admissible_tokens(torch.tensor([[[0, -1]]]), torch.tensor([[False]])).any()


def test_codes_outside_the_codebook_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.2, found 0\.\.3"):
        ops.TokenIndex.build(torch.tensor([[0, 3]]), 3)
