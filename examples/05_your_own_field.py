"""Render a field of your own: anything that says density and colour at a point can be volume-rendered.

    python examples/05_your_own_field.py --out balls.png

``manvatar.rendering`` knows nothing of the fields this project trains; it takes any ``manvatar.types.Field``.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

from manvatar.avatars import rgba8, save_image
from manvatar.geometry import rigid, rotation_from_vector
from manvatar.rendering import MarchConfig, OccupancyGrid, render_image
from manvatar.types import Box, Camera, FieldAtExpressions, FieldValues


class TwoBalls:
    """A soft red ball, and a blue one beside it whose radius is the only "expression", in centimetres."""

    def at(self, expression: torch.Tensor, cam_from_head: torch.Tensor | None = None) -> FieldAtExpressions:
        """What is done once a frame; the result is asked once for every sample."""
        radius_m = expression[:, 0] / 100

        def values(points_m: torch.Tensor, directions: torch.Tensor, frame: torch.Tensor) -> FieldValues:
            red = torch.sigmoid((0.04 - (points_m + torch.tensor([0.04, 0, 0])).norm(dim=1)) / 0.002)
            blue = torch.sigmoid((radius_m[frame] - (points_m - torch.tensor([0.05, 0, 0])).norm(dim=1)) / 0.001)
            facing = -directions[:, 2:]  # brighter towards the viewer, to show that colour may depend on direction
            rgb = red[:, None] * torch.tensor([0.9, 0.2, 0.1]) + blue[:, None] * torch.tensor([0.1, 0.3, 0.9])
            return FieldValues(60 * red + 400 * blue, (rgb / (red + blue + 1e-6)[:, None] * facing).clamp(0, 1))

        return values


def main(out: Path = Path("balls.png"), size: int = 160) -> None:
    """Args: ``out`` is a PNG image; ``size`` the side of each of its five pictures."""
    field, radii_cm = TwoBalls(), torch.tensor([[0.5], [1.5], [2.5], [3.5], [4.5]])
    box = Box(torch.full((3,), -0.1), torch.full((3,), 0.1))
    occupancy = OccupancyGrid(box, cell_m=0.005)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):  # looks where the field is empty, so that no samples are taken there
        occupancy.update(field, radii_cm, generator)

    camera = Camera(torch.full((2,), 2.0 * size), torch.full((2,), size / 2), (size, size))
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    pictures = []
    for radius_cm, yaw in zip(radii_cm, torch.linspace(-0.6, 0.6, 5), strict=True):
        turn = facing @ rotation_from_vector(torch.stack([torch.zeros(()), yaw, torch.zeros(())]))
        pose = rigid(turn, torch.tensor([0.0, 0.0, 0.5]))
        pictures.append(rgba8(render_image(field, occupancy, camera, pose, radius_cm, MarchConfig(step_m=0.002))))
    save_image(out, torch.cat(pictures, 1))
    print(f"{out}: {float(occupancy.occupied(4.0).float().mean()):.0%} of the cells hold something")


if __name__ == "__main__":
    tyro.cli(main)
