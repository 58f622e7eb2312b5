"""Fields whose images are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manvatar.types import Box, Camera, FieldAtExpressions, FieldValues

BOX = Box(torch.tensor([-0.12, -0.10, -0.11]), torch.tensor([0.10, 0.12, 0.09]))


@dataclass(frozen=True)
class Ball:
    """Constant density and colour; the first coefficient grows its radius, in centimetres."""

    center_m: tuple[float, float, float] = (-0.01, 0.02, -0.01)
    radius_m: float = 0.05
    density_per_m: float = 30.0
    rgb: tuple[float, float, float] = (0.9, 0.5, 0.2)

    def at(self, expression: Tensor, cam_from_head: Tensor | None = None) -> FieldAtExpressions:
        radius_m = self.radius_m + 0.01 * expression[:, 0]

        def values(points_m: Tensor, directions: Tensor, frame: Tensor) -> FieldValues:
            inside = (points_m - points_m.new_tensor(self.center_m)).norm(dim=-1) < radius_m[frame]
            return FieldValues(
                self.density_per_m * inside.to(points_m), points_m.new_tensor(self.rgb).expand_as(points_m)
            )

        return values

    def chord_m(self, origins_m: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Where each ray enters the ball, and how long it stays in it."""
        to_center = origins_m.new_tensor(self.center_m) - origins_m
        along = (to_center * directions).sum(-1)
        squared = self.radius_m**2 - (to_center.square().sum(-1) - along.square())
        half = squared.clamp_min(0).sqrt()
        return along - half, 2 * half

    def opacity(self, chord_m: Tensor) -> Tensor:
        return 1 - (-self.density_per_m * chord_m).exp()

    def depth_m(self, entry_m: Tensor, chord_m: Tensor) -> Tensor:
        """The integral of distance times weight: t0 (1 - e^-u) + (1 - e^-u (1 + u)) / sigma with u = sigma chord."""
        u = self.density_per_m * chord_m
        return entry_m * self.opacity(chord_m) + (1 - (-u).exp() * (1 + u)) / self.density_per_m


class Cloud(torch.nn.Module):
    """A Gaussian blob whose colour varies smoothly with place and viewing direction; float64 for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_per_m = torch.nn.Parameter(torch.tensor(40.0, dtype=torch.float64))
        self.center_m = torch.nn.Parameter(torch.tensor([0.01, 0.0, -0.02], dtype=torch.float64))
        self.color = torch.nn.Parameter(torch.randn(6, 3, dtype=torch.float64))

    def at(self, expression: Tensor, cam_from_head: Tensor | None = None) -> FieldAtExpressions:
        def values(points_m: Tensor, directions: Tensor, frame: Tensor) -> FieldValues:
            shift = points_m - self.center_m - 0.01 * expression[frame]
            density = self.peak_per_m * (-shift.square().sum(-1) / (2 * 0.03**2)).exp()
            return FieldValues(density, torch.sigmoid(torch.cat([points_m * 10, directions], -1) @ self.color))

        return values


def camera(size_px: int = 32) -> Camera:
    return Camera(
        torch.tensor([1.9 * size_px, 2.0 * size_px]), torch.tensor([0.55, 0.45]) * size_px, (size_px, size_px)
    )


def pose(yaw_rad: float = 0.0, distance_m: float = 0.5) -> Tensor:
    """The head in front of the camera, upright; turned about its own y axis."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    turn = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    matrix = torch.eye(4)
    matrix[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ turn
    matrix[2, 3] = distance_m
    return matrix
