"""Adam for node grids: rows without gradient cost next to nothing, and gradients live in buffers that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from manvatar.ops import adam_scale, on_large_pages, sparse_adam_
from manvatar.training.config import TrainingConfig


def make_optimizer(parameters: dict[str, list[Tensor]], config: TrainingConfig) -> GridAdam:
    """The optimiser of a field's ``parameter_groups()``; groups have a ``name`` and an ``initial_rate``."""
    rates = {"canonical": config.canonical_rate, "motion": config.motion_rate, "mlp": config.mlp_rate}
    groups = [
        {
            "params": members,
            "lr": rates[name],
            "initial_rate": rates[name],
            "name": name,
            "skip_zero_rows": config.adam_skips_nodes and name != "mlp",
        }
        for name, members in parameters.items()
    ]
    return GridAdam(groups, betas=(config.adam_betas[0], config.adam_betas[1]), eps=config.adam_epsilon)


class GridAdam(torch.optim.Optimizer):
    """Adam whose step leaves rows (slices along the last axis) without gradient alone, and clears gradients it used.

    Every parameter has a gradient from the start, zero, and keeps it: ``backward`` adds to it (``sample_warped`` in
    place), ``step`` uses and clears it, so ``zero_grad`` is not needed. State of a parameter: ``step`` (float32, on the
    CPU), ``exp_avg``, ``exp_avg_sq``; the names ``torch.optim.Adam`` uses.

    Args:
        params: parameters or groups. A group may have its own ``lr``, ``betas``, ``eps`` and ``skip_zero_rows``.
        lr: learning rate.
        betas: decay of the first and second moment, in [0, 1).
        eps: >= 0, beside the root of the corrected second moment.
        skip_zero_rows: False for parameters that are no grids: then this is Adam as everywhere.

    Raises:
        RuntimeError: from ``step``, where a parameter is not dense or not float32 or float64.
        UserError: from ``step``, where the native library is not built.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        skip_zero_rows: bool = True,
    ) -> None:
        self._scales: dict[int, Tensor] = {}  # of each group
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "skip_zero_rows": skip_zero_rows})
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = on_large_pages(torch.zeros_like(parameter))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all parameters and clear their gradients. A parameter whose gradient was taken away is left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.count()
        self.update()
        return loss

    def count(self, scales: bool = False) -> None:
        """The part of :meth:`step` that only counts.

        With ``scales`` what changes from step to step is put into tensors beside the parameters, so that an
        :meth:`update` that was recorded as a CUDA graph may be replayed.
        """
        for index, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._state_of(parameter)["step"] += 1
            if not scales or not group["params"]:
                continue
            first = group["params"][0]
            if index not in self._scales:
                self._scales[index] = torch.ones(2, dtype=torch.float64, device=first.device)
            numbers = adam_scale(group["lr"], *group["betas"], int(self.state[first]["step"]))
            for place, value in zip(self._scales[index], numbers, strict=True):
                place.fill_(value)  # a kernel with an argument: nothing is copied from the host's memory

    @torch.no_grad()
    def update(self, scales: bool = False) -> None:
        """The part of :meth:`step` that works, on what :meth:`count` has counted."""
        for index, group in enumerate(self.param_groups):
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                sparse_adam_(
                    parameter,
                    parameter.grad,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    rate=group["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    eps=group["eps"],
                    step=1 if scales else int(state["step"]),
                    skip_zero_rows=group["skip_zero_rows"],
                    scale=self._scales[index] if scales else None,
                )

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Clear the gradients of a ``backward`` that no ``step`` followed; they keep their place by default."""
        super().zero_grad(set_to_none)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = on_large_pages(torch.zeros_like(parameter))
            state["exp_avg_sq"] = on_large_pages(torch.zeros_like(parameter))
        return state
