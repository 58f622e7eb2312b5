"""Turn an avatar's head to both sides and look at it: a strip of transparent pictures, a video, or depth.

    python examples/03_turn_the_head.py out/me/avatar.mav --out turn

A pose is a 4x4 matrix ``cam_from_head`` in metres: OpenCV's camera (x right, y down, z forward), and a head frame with
x to the subject's left, y up, z out of the face.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import tyro

from manvatar import Avatar
from manvatar.avatars import save_image, turned
from manvatar.driving import write_sequence


def main(
    avatar_file: tyro.conf.Positional[Path],
    out: Path = Path("turn"),
    degrees: float = 20.0,
    frames: int = 40,
    size: int = 256,
) -> None:
    """Args: ``out`` is a folder; ``degrees`` to each side: below 40, the back of the head was hardly ever seen."""
    avatar = Avatar.load(avatar_file)

    # Five pictures beside each other, each with straight alpha.
    angles = [math.radians(degrees) * part for part in (-1, -0.5, 0, 0.5, 1)]
    poses = [turned(avatar.head_pose, yaw) for yaw in angles]
    strip = torch.cat([avatar.render(avatar.neutral, pose, size_px=size) for pose in poses], 1)
    save_image(out / "strip.png", strip)

    # A video, left to right and back, with a nod in it.
    time = torch.linspace(0, 2 * math.pi, frames)
    swing = turned(avatar.head_pose.expand(frames, 4, 4), math.radians(degrees) * time.sin(), 0.1 * (2 * time).sin())
    expression = avatar.neutral.expand(frames, -1)
    write_sequence(out / "turn.mp4", avatar, expression, swing, size_px=size, background=torch.ones(3))

    # In floating point, with depth: the distance from the camera, where there is something.
    rendering = avatar.rendering(avatar.neutral, poses[-1])
    distance_m = (rendering.depth_m / rendering.opacity)[rendering.opacity > 0.5]
    print(f"{out}: the head is {distance_m.min():.2f} to {distance_m.max():.2f} m from the camera")


if __name__ == "__main__":
    tyro.cli(main)
