"""Drive an avatar by the names of its expressions: a smile, an open jaw, a blink; one after another, into a video.

    python examples/02_render_expressions.py out/me/avatar.mav --out expressions.mp4

The same from files of coefficients: ``python -m manvatar.render --help``.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import tyro

from manvatar import Avatar
from manvatar.driving import write_sequence

SHOWN = {
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "open jaw": ("jawOpen",),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
}


def ramp(avatar: Avatar, names: tuple[str, ...], frames: int) -> torch.Tensor:
    """(frames, E): the named expressions from rest to the most the avatar saw in training, and back."""
    missing = [name for name in names if name not in avatar.expression_names]
    if missing:
        raise SystemExit(f"this avatar has no {', '.join(missing)}; it has {', '.join(avatar.expression_names)}")
    rest, (_, most) = avatar.neutral, avatar.expression_range
    rise = (1 - torch.cos(torch.linspace(0, 2 * math.pi, frames))) / 2
    expression = rest.repeat(frames, 1)
    for name in names:
        index = avatar.expression_names.index(name)
        expression[:, index] = torch.lerp(rest[index], most[index], rise)
    return expression


def main(
    avatar_file: tyro.conf.Positional[Path], out: Path = Path("expressions.mp4"), frames: int = 30, size: int = 256
) -> None:
    """Args: ``out`` may also be a folder, for PNG images; ``frames`` is for each expression."""
    avatar = Avatar.load(avatar_file)
    expression = torch.cat([ramp(avatar, names, frames) for names in SHOWN.values()])
    labels = tuple(title for title in SHOWN for _ in range(frames))
    poses = avatar.head_pose.expand(len(expression), 4, 4)
    write_sequence(out, avatar, expression, poses, size_px=size, background=torch.ones(3), labels=labels)
    print(f"{out}: {', '.join(SHOWN)}")


if __name__ == "__main__":
    tyro.cli(main)
