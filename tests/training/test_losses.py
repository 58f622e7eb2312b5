"""Terms of the loss against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from manvatar.training.losses import charbonnier, total_variation


def test_charbonnier_is_quadratic_below_and_linear_above() -> None:
    target = torch.zeros(1, 3, dtype=torch.float64)
    assert charbonnier(target, target, 0.01) == 0
    small, large = (float(charbonnier(target + d, target, 0.01)) for d in (1e-4, 0.5))
    assert small == pytest.approx(1e-8 / 0.02, rel=1e-4)
    assert large == pytest.approx(math.sqrt(0.25 + 1e-4) - 0.01)


def test_charbonnier_has_a_gradient_where_nothing_differs() -> None:
    rgb = torch.full((4, 3), 0.5, requires_grad=True)
    charbonnier(rgb, rgb.detach(), 0.01).backward()
    assert (rgb.grad == 0).all()


def test_total_variation_by_loops() -> None:
    grid = torch.randn(2, 3, 4, 5, 2, dtype=torch.float64)
    means = []
    for axis in (1, 2, 3):
        pairs = []
        for index in range(grid.shape[axis] - 1):
            pairs.append((grid.select(axis, index + 1) - grid.select(axis, index)).square())
        means.append(torch.stack(pairs).mean())
    torch.testing.assert_close(total_variation(grid), sum(means))
    assert total_variation(torch.ones(1, 2, 2, 2, 1)) == 0
