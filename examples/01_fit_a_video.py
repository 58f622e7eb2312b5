"""Make an avatar from a portrait video, and look at it.

    python examples/01_fit_a_video.py video.mp4 --out out/me

A minute or so of one person talking to the camera is enough; the face should be lit and turn a little. No video at
hand? ``python -m manvatar.demo -o clip.mp4`` makes one of a person who does not exist.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from manvatar import Reconstructor
from manvatar.avatars import save_image


def main(
    video: tyro.conf.Positional[Path],
    out: Path = Path("out/mine"),
    preset: str = "fast",
    size: int = 256,
    max_seconds: float | None = None,
) -> None:
    """Args: see ``python -m manvatar.fit --help``; this is what it does."""
    reconstructor = Reconstructor(preset=preset, size_px=size)
    avatar = reconstructor.fit(video, out, max_seconds=max_seconds)  # out/avatar.mav, scores.json, preview.mp4, ...

    scores = avatar.header.scores
    print(f"frames it has never seen: {scores['frame']['psnr_db']:.1f} dB")
    print(f"the most similar training frame instead: {scores['nearest_frame']['frame']['psnr_db']:.1f} dB")

    # An expression is a number for each of these names, in standard deviations of the face model.
    print("expressions:", ", ".join(avatar.expression_names))
    image = avatar.render(avatar.neutral, size_px=2 * size)  # (H, W, 4) uint8, transparent background
    save_image(out / "neutral.png", image)


if __name__ == "__main__":
    tyro.cli(main)
