"""AdamW, and for large tables an update that touches only the rows that a batch has used."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["RowAdamW", "state_like"]


class RowAdamW(torch.optim.AdamW):
    """AdamW; but parameters of groups with `rows` are tables (I, D), of which a step updates the gradient's rows only.

    A table has one second moment for each row, the mean over its weights, and no first moment: 12 bytes a row where
    AdamW has 8 for each weight. The cost of a step does not grow with the table. When a row is used again, its moment
    and its weight decay catch up with the steps in between (`v beta2^n`, `w exp(-decay)`); until then it is read
    without that decay. `settle` applies the decay to all rows.
    Ours; moments by row: Shazeer and Stern 2018; AdamW: Loshchilov and Hutter 2019.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any):
        super().__init__([{"rows": False, **group} for group in groups], **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        gradients = {table: table.grad for _, table in self._tables() if table.grad is not None}
        for table in gradients:
            table.grad = None  # AdamW skips it
        super().step(closure)
        for group, table in self._tables():
            if (gradient := gradients.get(table)) is not None:
                self._step_rows(table, gradient, group)
                table.grad = gradient

    @torch.no_grad()
    def settle(self) -> None:
        """Apply the weight decay that rows of tables have missed; call it before the weights are read as a whole."""
        for _, table in self._tables():
            if state := self.state[table]:
                table.mul_((state["decayed_I"] - state["decay"]).exp_()[:, None])
                state["decayed_I"].zero_()
                state["decay"].zero_()

    def _tables(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        return ((group, table) for group in self.param_groups if group["rows"] for table in group["params"])

    def _step_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state |= {name: torch.zeros_like(tensor) for name, tensor in _row_state_like(table).items()}
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            row_T, gradient_TD = gradient.indices()[0], gradient.values()
        else:
            row_T, gradient_TD = torch.arange(len(table), device=table.device), gradient
        state["step"] += 1
        state["decay"] -= math.log1p(-group["lr"] * group["weight_decay"])
        step, beta, decay = float(state["step"]), group["betas"][1], state["decay"]
        missed_T = step - state["last_I"][row_T]
        second_T = state["second_I"][row_T] * beta**missed_T + (1 - beta) * gradient_TD.square().mean(1)
        rate_T = group["lr"] / ((second_T / (1 - beta**step)).sqrt() + group["eps"])
        kept_T = (state["decayed_I"][row_T] - decay).exp()
        table.index_copy_(0, row_T, table[row_T] * kept_T[:, None] - rate_T[:, None] * gradient_TD)
        state["second_I"][row_T], state["last_I"][row_T] = second_T, step
        state["decayed_I"][row_T] = decay


def state_like(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Tensors with the shapes and dtypes of a parameter's state, but for `step`, whose dtype may differ."""
    group = next(group for group in optimizer.param_groups if any(parameter is own for own in group["params"]))
    if group.get("rows"):
        return _row_state_like(parameter)
    return {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}


def _row_state_like(table: Tensor) -> dict[str, Tensor]:
    """last_I: the step of a row's last update. decay: the sum of -log(1 - rate * weight decay) over all steps since
    `settle`; decayed_I: how much of it each row has had. All are floats, which `load_state_dict` would turn them into.
    """
    row_I, scalar = torch.zeros(1, device=table.device).expand(len(table)), torch.zeros(())
    return {"step": scalar, "decay": scalar, "second_I": row_I, "last_I": row_I, "decayed_I": row_I}
