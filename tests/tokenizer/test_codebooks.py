import torch

from reg4rec.tokenizer.codebooks import cluster_means, kmeans_codebooks, revive_dead, squared_distances


def planted(num_clusters: int, num_books: int, per_cluster: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """centers_MKE far from each other and latents_XME close around them."""
    generator = torch.Generator().manual_seed(0)
    centers_MKE = 20 * torch.randn(num_books, num_clusters, 3, generator=generator)
    noise = 0.05 * torch.randn(num_clusters * per_cluster, num_books, 3, generator=generator)
    return centers_MKE, centers_MKE.repeat_interleave(per_cluster, dim=1).transpose(0, 1) + noise


def test_kmeans_finds_planted_clusters_in_every_codebook() -> None:
    centers_MKE, latents_XME = planted(8, 2)
    found_MKE = kmeans_codebooks(latents_XME, 8, 15, torch.Generator().manual_seed(0))
    assert torch.cdist(centers_MKE, found_MKE).amin(2).max() < 0.1


def test_kmeans_is_deterministic_and_leaves_latents_alone() -> None:
    latents_XME = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
    before = latents_XME.clone()
    first, second = (kmeans_codebooks(latents_XME, 7, 5, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(latents_XME, before)


def test_kmeans_with_as_many_codewords_as_items_represents_each_exactly() -> None:
    latents_XME = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    found_MKE = kmeans_codebooks(latents_XME, 6, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cdist(latents_XME.transpose(0, 1), found_MKE).amin(2), torch.zeros(2, 6))


def test_empty_clusters_keep_their_center() -> None:
    latents_XME = torch.tensor([[[0.0]], [[2.0]]])
    means = cluster_means(latents_XME, torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[[9.0], [7.0]]]))
    assert means.tolist() == [[[1.0], [7.0]]]


def test_dead_codewords_move_to_the_worst_latents() -> None:
    latents_XME = torch.tensor([[[0.0], [0.0]], [[5.0], [1.0]], [[1.0], [9.0]]])
    books_MKE = torch.tensor([[[0.0], [50.0]], [[60.0], [0.0]]])
    ids_XM = torch.tensor([[0, 1], [0, 1], [0, 1]])
    error_XM = squared_distances(latents_XME, books_MKE, ids_XM)
    assert error_XM.tolist() == [[0, 0], [25, 1], [1, 81]]
    assert revive_dead(books_MKE, ids_XM, error_XM, lambda rows_X, m: latents_XME[rows_X, m]) == 2
    assert books_MKE.tolist() == [[[0.0], [5.0]], [[9.0], [0.0]]]


def test_nothing_moves_when_all_codewords_are_used() -> None:
    books_MKE = torch.tensor([[[0.0], [1.0]]])
    before = books_MKE.clone()
    assert revive_dead(books_MKE, torch.tensor([[0], [1]]), torch.ones(2, 1), lambda rows_X, m: rows_X) == 0
    assert torch.equal(books_MKE, before)
