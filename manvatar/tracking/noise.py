"""What the residuals of a first fit say about the detector: how far each landmark strays, and with how many others.

A network that draws the whole face errs alike over whole regions of it, and fit after fit looks good: such points are
not so many witnesses. With the correlation ``rho_nm`` of the residuals of points n and m over a clip, point n shares
its errors with ``d_n = sum_m rho_nm^2`` points (itself one of them), the mean eigenvalue of the correlations as that
point sees it: 1 for errors of its own, 11 to 17 for MediaPipe's attention mesh on three clips. The square of an
estimated correlation is too large by ``(1 - rho^2)^2 / M``; M counts independent samples (Bartlett 1935).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_CLIPPED = 3.0  # standard deviations a residual counts at most, so that outliers do not make correlations
_LONGEST = 100  # frames over which residuals may repeat
_FORGOTTEN = 0.005  # mean squared autocorrelation that is taken for none


def typical_deviation(residual: Float[Tensor, "f n 2"], seen: Bool[Tensor, "f n"]) -> Float[Tensor, "n"]:
    """Standard deviation of each landmark, each axis, from the median length; NaN where it is never seen."""
    median = torch.where(seen, residual.norm(dim=-1), torch.nan).nanmedian(0).values
    # The median length of a 2D normal vector is sqrt(2 ln 2) standard deviations.
    return median / math.sqrt(2 * math.log(2))


def sharing_errors(
    residual: Float[Tensor, "f n 2"], seen: Bool[Tensor, "f n"], deviation: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """With how many landmarks each one shares its errors, itself included; at least 1.

    Args:
        residual: of frames in order, float64, in any unit.
        deviation: of the same residuals (:func:`typical_deviation`).
    """
    most = _CLIPPED * deviation.nan_to_num(0.0)
    length = residual.norm(dim=-1).clamp_min(1e-12)
    clipped = residual * (most / length).clamp(max=1.0)[..., None]
    clipped = torch.where(seen[..., None], clipped, torch.zeros_like(clipped))
    free = clipped - clipped.mean(0)
    unit = free / free.square().mean((0, 2)).sqrt().clamp_min(1e-12)[:, None]
    flat = unit.transpose(1, 2).flatten(0, 1)
    squared = (flat.T @ flat / len(flat)) ** 2
    chance = (1 - squared) ** 2 * _repeats(unit) / len(flat)
    return (squared - chance).sum(1).clamp_min(1.0)


def _repeats(unit: Float[Tensor, "f n 2"]) -> float:
    """How many frames tell as much about a correlation as one would if residuals did not repeat over time."""
    result = 1.0
    for lag in range(1, min(_LONGEST, len(unit) // 3)):
        correlation = (unit[lag:] * unit[:-lag]).mean((0, 2))
        squared = float(correlation.square().mean()) - 1 / (2 * len(unit))
        if squared < _FORGOTTEN:
            break
        result += 2 * squared
    return result
