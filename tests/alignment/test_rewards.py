"""The rewards give what the paper's worked examples say, and what their definitions say for any path."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reg4rec.alignment.rewards import (
    category_hit,
    future_weights,
    global_path,
    matched_tokens,
    order_reward,
    step_consistency,
    step_hit,
)

TARGET = torch.tensor([1, 2, 3])  # t0_1, t1_2, t2_3


@pytest.mark.parametrize(("tokens", "hits"), [((1, 20, 3), 2), ((10, 2, 30), 1)])
def test_step_hits_of_the_papers_examples(tokens: tuple[int, ...], hits: int) -> None:
    matched = matched_tokens(torch.tensor(tokens), TARGET)
    assert matched == hits
    assert step_hit(matched, 3) == pytest.approx(hits / 3)


@pytest.mark.parametrize(("categories", "hits"), [((30, 30, 27), 1), ((27, 30, 27), 2)])
def test_category_hits_of_the_papers_examples(categories: tuple[int, ...], hits: int) -> None:
    assert category_hit(torch.tensor(categories), torch.tensor(27)) == pytest.approx(hits / 3)


@pytest.mark.parametrize(("js", "pairs"), [((0.0, 0.05), 2), ((0.3, 0.0), 1)])  # c30 c30 c30, and c27 c30 c30
def test_step_consistency_of_the_papers_examples(js: tuple[float, ...], pairs: int) -> None:
    assert step_consistency(torch.tensor(js), 0.06) == pytest.approx(pairs / 2)


@pytest.mark.parametrize(("tokens", "reward"), [((1, 2, 3), 1), ((20, 20, 20), 0)])
def test_global_path_of_the_papers_examples(tokens: tuple[int, ...], reward: float) -> None:
    assert global_path(matched_tokens(torch.tensor(tokens), TARGET), 3) == reward


@pytest.mark.parametrize(
    ("num_steps", "rewards"),
    [
        (1, [0, 1]),
        (2, [0, 0.5, 1]),
        (3, [0, 0, 2 / 3, 1]),
        (4, [0, 0, 0, 0.75, 1]),
        (6, [0, 0, 0, 0, 4 / 6, 5 / 6, 1]),
    ],
)
def test_global_path_pays_in_part_within_the_relaxed_rule(num_steps: int, rewards: list[float]) -> None:
    assert global_path(torch.arange(num_steps + 1), num_steps).tolist() == pytest.approx(rewards)


def test_a_token_that_was_not_decoded_matches_nothing() -> None:
    assert matched_tokens(torch.tensor([-1, 2, -1]), torch.tensor([-1, 2, 3])) == 1


def test_an_item_without_category_is_not_hit() -> None:
    assert category_hit(torch.tensor([-1, -1]), torch.tensor(-1)) == 0


def test_a_single_step_is_consistent_with_nothing() -> None:
    assert step_consistency(torch.zeros(5, 0), 0.06).tolist() == [0] * 5


def test_future_weights_of_the_paper() -> None:
    filled_BF = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0]])
    weights = future_weights(filled_BF, 0.8)
    assert weights[0].tolist() == pytest.approx([1 / 2.44, 0.8 / 2.44, 0.64 / 2.44])
    assert weights[1].tolist() == pytest.approx([1 / 1.8, 0.8 / 1.8, 0])
    assert weights[2].tolist() == [1, 0, 0]


def test_the_order_is_rewarded_by_what_a_draw_would_earn() -> None:
    torch.manual_seed(0)
    scores_BN, hit_BN = torch.randn(2, 5), torch.tensor([[0.3, 0, 0.5, 0, 9.0], [0, 1.0, 9, 9, 9]])
    found_BN = torch.tensor([[True, True, True, True, False], [True, True, False, False, False]])
    drawn_BT = torch.multinomial(scores_BN.masked_fill(~found_BN, -torch.inf).softmax(1), 40_000, replacement=True)
    earned_B = hit_BN.gather(1, drawn_BT).mean(1)
    torch.testing.assert_close(order_reward(scores_BN, hit_BN, found_BN).exp(), earned_B, atol=0.01, rtol=0)


@pytest.mark.parametrize("found", [True, False])
def test_a_user_without_found_future_items_has_no_order_reward(found: bool) -> None:
    scores_BN = torch.zeros(1, 3, requires_grad=True)
    reward_B = order_reward(scores_BN, torch.zeros(1, 3), torch.full((1, 3), found))
    reward_B.sum().backward()
    assert reward_B.tolist() == [0]
    assert not scores_BN.grad.any()  # type: ignore[union-attr]


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_rewards_lie_between_0_and_1(tokens: list[int], target: list[int]) -> None:
    matched = matched_tokens(torch.tensor(tokens), torch.tensor(target[: len(tokens)]))
    decoded = max(1, sum(token >= 0 for token in tokens))
    for reward in (step_hit(matched, decoded), global_path(matched, decoded)):
        assert 0 <= float(reward) <= 1
