"""Row-by-row updates of a table: against a slow computation in float64, and against AdamW where both must agree."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reg4rec.data.shop import SyntheticShop
from reg4rec.distributed import clip_grad_norm
from reg4rec.evaluation import evaluate
from reg4rec.loop import LoopConfig, make_optimizer
from reg4rec.model import Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain

ITEMS, D = 9, 4
CONFIG = LoopConfig(learning_rate=0.02, weight_decay=0.3)


class Table(nn.Module):
    """Rows of a table and a matrix; the loss multiplies them with fixed numbers."""

    def __init__(self, by_row: bool = True):
        super().__init__()
        self.row_tables = ("rows_ID",) if by_row else ()
        self.rows_ID, self.matrix_DD = nn.Parameter(torch.randn(ITEMS, D)), nn.Parameter(torch.randn(D, D))

    def loss(self, row_T: Tensor, weight_TD: Tensor) -> Tensor:
        rows_TD = nn.functional.embedding(row_T, self.rows_ID, sparse=bool(self.row_tables))
        return (rows_TD @ self.matrix_DD * weight_TD).sum()


def batches(count: int, rows: int = 5) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randint(ITEMS - 2, (rows,), generator=draw), torch.randn(rows, D, generator=draw)) for _ in range(count)
    ]


def trained(module: Table, steps: int, settled: bool = True) -> Table:
    optimizer = make_optimizer(module, CONFIG)
    for row_T, weight_TD in batches(steps):
        optimizer.zero_grad()
        module.loss(row_T, weight_TD).backward()
        optimizer.step()
    if settled:
        optimizer.settle()
    return module


@pytest.fixture
def table() -> Table:
    torch.manual_seed(0)
    return Table()


def test_rows_are_updated_as_by_a_slow_loop_over_all_steps(table: Table) -> None:
    rows_ID = table.rows_ID.detach().double().clone()
    second_I, matrices = torch.zeros(ITEMS).double(), []
    reference = make_optimizer(table, CONFIG)
    for step, (row_T, weight_TD) in enumerate(batches(30), start=1):
        matrices.append(table.matrix_DD.detach().double().clone())
        reference.zero_grad()
        table.loss(row_T, weight_TD).backward()
        reference.step()
        gradient_ID = torch.zeros(ITEMS, D).double()
        gradient_ID.index_add_(0, row_T, weight_TD.double() @ matrices[-1].T)
        rows_ID *= 1 - 0.02 * 0.3
        second_I = 0.999 * second_I + 0.001 * gradient_ID.square().mean(1)
        for row in row_T.unique().tolist():
            rows_ID[row] -= 0.02 * gradient_ID[row] / ((second_I[row] / (1 - 0.999**step)).sqrt() + 1e-8)
    reference.settle()
    torch.testing.assert_close(table.rows_ID.double(), rows_ID, rtol=1e-4, atol=1e-5)


def test_other_weights_are_updated_as_by_adamw(table: Table) -> None:
    torch.manual_seed(0)
    dense = Table(by_row=False)
    row_T, weight_TD = batches(1)[0]
    for module in (table, dense):
        optimizer = make_optimizer(module, CONFIG)
        for _ in range(5):
            optimizer.zero_grad()
            module.loss(row_T, weight_TD.where(torch.tensor(False), 1.0)).backward()
            module.rows_ID.grad = None
            optimizer.step()
    assert torch.equal(table.matrix_DD, dense.matrix_DD)


def test_a_row_that_no_batch_uses_only_decays(table: Table) -> None:
    before_ID = table.rows_ID.detach().clone()
    trained(table, 20, settled=False)
    assert torch.equal(table.rows_ID[ITEMS - 2 :], before_ID[ITEMS - 2 :])
    torch.manual_seed(0)
    settled = trained(Table(), 20)
    torch.testing.assert_close(settled.rows_ID[ITEMS - 2 :], before_ID[ITEMS - 2 :] * (1 - 0.02 * 0.3) ** 20)


def test_a_dense_gradient_updates_every_row(table: Table) -> None:
    optimizer, before_ID = make_optimizer(table, CONFIG), table.rows_ID.detach().clone()
    table.rows_ID.square().sum().backward()
    optimizer.step()
    assert bool((table.rows_ID != before_ID).all())


def test_sparse_gradients_are_clipped_by_the_norm_of_all_gradients(table: Table) -> None:
    torch.manual_seed(0)
    dense = Table(by_row=False)
    row_T, weight_TD = batches(1, rows=12)[0]
    for module in (table, dense):
        module.loss(row_T, weight_TD).backward()
        clip_grad_norm(module, 0.5)
    assert table.rows_ID.grad is not None
    assert dense.rows_ID.grad is not None
    torch.testing.assert_close(table.rows_ID.grad.to_dense(), dense.rows_ID.grad)
    torch.testing.assert_close(table.matrix_DD.grad, dense.matrix_DD.grad)
    norm = torch.cat([p.grad.flatten() for p in dense.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)


def test_a_table_has_twelve_bytes_of_state_for_each_row(table: Table) -> None:
    optimizer = make_optimizer(table, CONFIG)
    table.loss(*batches(1)[0]).backward()
    optimizer.step()
    sizes = [t.nbytes for t in optimizer.state[table.rows_ID].values() if t.dim() > 0]
    assert sum(sizes) == 12 * ITEMS


@pytest.fixture
def by_row(model_config: PretrainConfig) -> PretrainConfig:
    """The settings of `model`, with residuals by row and weight decay."""
    return replace(model_config, rows_from=1, loop=replace(model_config.loop, weight_decay=0.1))


@pytest.mark.slow
def test_a_model_trained_by_rows_recommends_as_well(
    shop: SyntheticShop, tokenizer: Tokenizer, model: Reg4RecModel, by_row: PretrainConfig, tmp_path: Path
) -> None:
    by_rows = pretrain(shop, tokenizer, by_row, Run(tmp_path, device="cpu", progress=False))
    assert by_rows.row_tables == ()
    assert by_rows.residual_ID.abs().max() > 0.01
    recommenders = [Recommender(m, tokenizer, shop.items, device="cpu") for m in (by_rows, model)]
    found, usual = (row.metrics["ndcg@10"] for row in evaluate(recommenders, shop).rows)
    assert found > 0.9 * usual


def test_a_run_by_rows_resumes_to_the_same_bits(
    shop: SyntheticShop, tokenizer: Tokenizer, by_row: PretrainConfig, tmp_path: Path
) -> None:
    def fit(folder: Path) -> Reg4RecModel:
        run = Run(folder, device="cpu", progress=False)
        return pretrain(shop, tokenizer, by_row, run, epochs=2, decoded_fraction=0.2, checkpoint_seconds=0.0)

    whole = fit(tmp_path / "whole")
    killed = tmp_path / "killed"
    steps: list[int] = []
    step = torch.optim.AdamW.step

    class KilledError(Exception):
        pass

    def counted(self: torch.optim.AdamW, *rest: object) -> object:
        steps.append(1)
        if len(steps) == 5:
            raise KilledError
        return step(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted)
        with pytest.raises(KilledError):
            fit(killed)
    resumed = fit(killed)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
