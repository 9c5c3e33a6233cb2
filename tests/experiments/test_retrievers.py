"""The study of retrievers: the exact list is the recommender's, and theta has its effect."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.experiments import retrievers
from reg4rec.model import Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer


def test_rows_are_what_the_recommender_ranks(exact: Recommender, shop: SyntheticShop, tmp_path: Path) -> None:
    found = retrievers([exact, exact], shop, out=tmp_path, thetas=(0.0, 0.02, 1.0), max_users=150)
    rows = {row.way: row for row in found.rows}
    assert list(rows) == ["paths", "exact", "theta 0", "theta 0.02", "theta 1"]
    for split in ("validation", "test"):
        for way in ("paths", "exact"):
            report = evaluate(exact.with_search(retriever=way), shop, split, ks=(10, 50), max_users=150)
            metrics = report.rows[0].metrics
            assert rows[way].metrics[split]["Recall@10"] == pytest.approx(metrics["recall@10"])
            assert rows[way].metrics[split]["NDCG@10"] == pytest.approx(metrics["ndcg@10"])
        # no path moves by more than 1 nat, which is above ln 2; all paths move by more than 0
        assert rows["theta 1"].metrics[split] == rows["theta 0"].metrics[split] == rows["exact"].metrics[split]
        assert rows["exact"].beyond_exact[split]["Recall@10"] == (0, 0, 0)
    mean, low, high = rows["paths"].beyond_exact["test"]["NDCG@10"]
    assert low <= mean <= high
    assert mean == pytest.approx(rows["paths"].metrics["test"]["NDCG@10"] - rows["exact"].metrics["test"]["NDCG@10"])

    users, targets = shop.targets("test")
    drawn = np.sort(np.random.default_rng(0).choice(len(users), 150, replace=False))
    histories, hits = shop.part("train+validation").take(users[drawn]), []
    ranked_BN = exact.rank(histories, 50, False)
    moved_BN = exact.reasons(histories, torch.from_numpy(ranked_BN).long()).js_BNS.amax(2)
    for target, items, moved in zip(targets[drawn], ranked_BN, moved_BN, strict=True):
        kept = [item for item, js in zip(items, moved, strict=True) if js <= 0.02]
        gone = [item for item, js in zip(items, moved, strict=True) if js > 0.02]
        hits.append(target in [*kept, *gone][:10])
    assert rows["theta 0.02"].metrics["test"]["Recall@10"] == pytest.approx(np.mean(hits))

    assert json.loads((tmp_path / "retrievers.json").read_text())["users"] == {"validation": 150, "test": 150}
    page = (tmp_path / "retrievers.md").read_text()
    assert page.count("| theta 0.02 |") == 2
    assert "Means over 2 fits of the same data" in page


def test_models_of_tokens_alone_are_refused(
    exact: Recommender, token_model: Reg4RecModel, tokenizer: Tokenizer, shop: SyntheticShop, tmp_path: Path
) -> None:
    tokens_alone = Recommender(token_model, tokenizer, shop.items, device="cpu")
    with pytest.raises(InputError, match="a model without item scores has one retriever"):
        retrievers([exact, tokens_alone], shop, out=tmp_path)
