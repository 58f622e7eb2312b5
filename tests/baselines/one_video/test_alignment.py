"""The smooth map that brings landmarks onto others."""

from __future__ import annotations

import torch
from torch import Tensor

from manvatar.baselines.bilayer.generators import identity_grid
from manvatar.baselines.one_video.alignment import aligning_affine, aligning_grid, inverse_affine


def points(seed: int = 0, count: int = 68) -> Tensor:
    return torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed)) - 0.5


def applied(affine: Tensor, at: Tensor) -> Tensor:
    return at @ affine[:, :, :2].mT + affine[:, None, :, 2]


def test_an_affine_image_is_brought_back_exactly() -> None:
    targets = points()[:1]
    turn, shift = torch.tensor([[0.9, -0.2], [0.1, 1.1]]), torch.tensor([0.05, -0.1])
    moved = (targets @ turn.T + shift).expand(2, -1, -1)
    affine = aligning_affine(moved, targets)
    torch.testing.assert_close(applied(affine, moved), targets.expand(2, -1, -1), atol=1e-5, rtol=0)
    grid = aligning_grid(moved, targets, 32)
    wanted = applied(affine, identity_grid(32)[0].view(1, -1, 2).expand(2, -1, -1)).view(2, 32, 32, 2)
    torch.testing.assert_close(grid, wanted, atol=1e-5, rtol=0)  # nothing is left to spread


def test_least_squares() -> None:
    """As the solver of torch finds it."""
    here, targets = points(1), points(2)
    ones = torch.cat([here, torch.ones(2, 68, 1)], -1)
    torch.testing.assert_close(
        aligning_affine(here, targets), torch.linalg.lstsq(ones, targets).solution.mT, atol=1e-4, rtol=0
    )


def test_the_map_back() -> None:
    affine = aligning_affine(points(1), points(1) * 1.3 + 0.1)
    at = points(3)
    torch.testing.assert_close(applied(inverse_affine(affine), applied(affine, at)), at, atol=1e-5, rtol=0)


def test_one_point_that_moves_takes_its_surroundings_along() -> None:
    """Most of the way at the point itself, none of it far away."""
    line = torch.linspace(-0.8, 0.8, 9)
    here = torch.cartesian_prod(line, line)[None]
    middle = int((here[0].norm(dim=1)).argmin())
    targets = here.clone()
    targets[0, middle] += torch.tensor([0.1, 0.0])
    moved = aligning_grid(here, targets, 64) - identity_grid(64)
    assert 0.05 < moved[0, 32, 32, 0] < 0.1
    assert moved[0, :8].abs().max() < 0.005


def test_it_is_differentiable_and_the_same_every_time() -> None:
    here = points(1).requires_grad_()
    grids = [aligning_grid(here, points(2), 32) for _ in range(2)]
    assert torch.equal(*grids)
    grids[0].square().sum().backward()
    assert here.grad.abs().sum() > 0
