import numpy as np
import torch

from reg4rec.tokenizer.codebooks import squared_distances
from reg4rec.tokenizer.collisions import separate_collisions
from reg4rec.tokenizer.health import bucket_sizes


def nearest(latents_IME: torch.Tensor, books_MKE: torch.Tensor) -> torch.Tensor:
    return torch.cdist(latents_IME.transpose(0, 1), books_MKE).argmin(2).T


def separated(ids_IM: torch.Tensor, latents_IME: torch.Tensor, books_MKE: torch.Tensor) -> torch.Tensor:
    error_I = squared_distances(latents_IME, books_MKE, ids_IM).sum(1)
    return separate_collisions(ids_IM, error_I, lambda rows_X: latents_IME[rows_X], books_MKE)


def test_bucket_sizes_by_hand() -> None:
    codes_IM = np.array([[1, 2], [3, 4], [1, 2], [2, 1], [1, 2]], dtype=np.int32)
    assert bucket_sizes(codes_IM).tolist() == [3, 1, 3, 1, 3]


def test_the_nearest_item_keeps_its_tokens_and_the_other_makes_the_cheapest_move() -> None:
    books_MKE = torch.tensor([[[0.0], [10.0]], [[0.0], [4.0]]])
    latents_IME = torch.tensor([[[1.0], [1.5]], [[0.1], [0.1]]])
    ids_IM = torch.zeros(2, 2, dtype=torch.int64)
    # item 0 is worse represented; moving it costs 80 in codebook 0 and 4 in codebook 1
    assert separated(ids_IM, latents_IME, books_MKE).tolist() == [[0, 1], [0, 0]]
    assert ids_IM.tolist() == [[0, 0], [0, 0]]


def test_a_taken_set_is_passed_over() -> None:
    books_MKE = torch.tensor([[[0.0], [10.0]], [[0.0], [4.0]]])
    latents_IME = torch.tensor([[[1.0], [1.5]], [[0.1], [0.1]], [[0.0], [4.0]]])
    ids_IM = nearest(latents_IME, books_MKE)
    assert separated(ids_IM, latents_IME, books_MKE).tolist() == [[1, 0], [0, 0], [0, 1]]


def test_two_codebooks_change_when_no_single_change_is_free() -> None:
    books_MKE = torch.tensor([[[0.0], [10.0]], [[0.0], [4.0]]])
    latents_IME = torch.tensor([[[1.0], [1.5]], [[0.1], [0.1]], [[0.0], [4.0]], [[10.0], [0.0]]])
    ids_IM = nearest(latents_IME, books_MKE)
    assert separated(ids_IM, latents_IME, books_MKE)[0].tolist() == [1, 1]


def test_a_full_space_keeps_its_buckets() -> None:
    books_MKE = torch.tensor([[[0.0], [1.0]]])
    latents_IME = torch.tensor([0.0, 0.1, 0.2, 0.9, 1.0]).view(5, 1, 1)
    codes_IM = separated(nearest(latents_IME, books_MKE), latents_IME, books_MKE)
    assert codes_IM.tolist() == [[0], [0], [0], [1], [1]]


def test_random_items_end_up_with_unique_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    books_MKE = torch.randn(3, 8, 2, generator=generator)
    latents_IME = torch.randn(300, 3, 2, generator=generator)
    ids_IM = nearest(latents_IME, books_MKE)
    codes_IM = separated(ids_IM, latents_IME, books_MKE)
    before, after = bucket_sizes(ids_IM.numpy()), bucket_sizes(codes_IM.numpy())
    assert (before > 1).mean() > 0.3
    assert (after > 1).mean() < 0.1
    moved = (codes_IM != ids_IM).any(1).numpy()
    assert not moved[before == 1].any()
    assert (codes_IM != ids_IM).sum(1).max() <= 2


def test_equal_vectors_are_separated_too_and_the_lowest_item_keeps_its_tokens() -> None:
    books_MKE = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0))
    latents_IME = torch.zeros(5, 2, 2)
    ids_IM = nearest(latents_IME, books_MKE)
    codes_IM = separated(ids_IM, latents_IME, books_MKE)
    assert torch.equal(codes_IM[0], ids_IM[0])
    assert bucket_sizes(codes_IM.numpy()).max() == 1
