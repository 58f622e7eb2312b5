"""Box means and the guided filter against loops over windows."""

from __future__ import annotations

import pytest
import torch

from manvatar.matting.filters import box_mean, guided_coefficients, resized


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_box_mean_against_loops(radius: int) -> None:
    image = torch.rand(2, 9, 12)
    got = box_mean(image, radius)
    for y in range(9):
        for x in range(12):
            window = image[:, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            torch.testing.assert_close(got[:, y, x], window.mean((1, 2)), atol=1e-5, rtol=0)


def test_guided_filter_against_least_squares() -> None:
    """Each window's slopes are the ridge regression of the target on the guide, in double precision."""
    guide, target, radius, epsilon = torch.rand(3, 8, 9), torch.rand(8, 9), 2, 1e-3
    planes = torch.zeros(4, 8, 9, dtype=torch.float64)
    for y in range(8):
        for x in range(9):
            rows = slice(max(0, y - radius), y + radius + 1)
            columns = slice(max(0, x - radius), x + radius + 1)
            colors = guide[:, rows, columns].reshape(3, -1).double()
            values = target[rows, columns].reshape(-1).double()
            centered = colors - colors.mean(1, keepdim=True)
            covariance = centered @ centered.T / colors.shape[1] + epsilon * torch.eye(3, dtype=torch.float64)
            slopes = torch.linalg.solve(covariance, centered @ (values - values.mean()) / colors.shape[1])
            planes[:3, y, x] = slopes
            planes[3, y, x] = values.mean() - slopes @ colors.mean(1)
    expected = box_mean(planes, radius)
    got = guided_coefficients(guide, target, radius, epsilon)
    torch.testing.assert_close(got[:4].double(), expected, atol=2e-3, rtol=1e-3)


def test_guided_filter_follows_the_guide() -> None:
    """A rough mask takes over the sharp edge of the guide, and says that the guide explains it."""
    guide = torch.zeros(3, 64, 64)
    guide[:, :, 30:] = torch.tensor([0.8, 0.5, 0.3])[:, None, None]
    rough = torch.linspace(-3, 4, 64).clamp(0, 1).expand(64, 64).contiguous()  # a soft edge around the same place
    model = guided_coefficients(guide, rough, 6, 1e-4)
    sharp = (model[:3] * guide).sum(0) + model[3]
    assert (sharp[:, 28] < 0.35).all() and (sharp[:, 31] > 0.65).all()
    flat = guided_coefficients(torch.full((3, 64, 64), 0.5), rough, 6, 1e-4)
    assert model[4, 32, 30] > 0.6 > 0.3 > flat[4, 32, 30]
    assert flat[4, 32, 2] > 0.9  # nothing to explain


def test_resized() -> None:
    image = torch.rand(1, 8, 8)
    assert resized(image, (8, 8)) is image
    assert resized(image, (4, 16)).shape == (1, 4, 16)
    torch.testing.assert_close(resized(torch.full((1, 5, 7), 0.3), (11, 3)), torch.full((1, 11, 3), 0.3))
