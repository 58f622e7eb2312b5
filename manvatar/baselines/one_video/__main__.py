"""``python -m manvatar.baselines.one_video``: a 2D avatar and expression coefficients to a video or images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from manvatar.baselines.one_video.avatar import PortraitAvatar
from manvatar.cli import Output, Positional, run
from manvatar.driving import (
    Coefficients,
    Poses,
    limited,
    output_kind,
    parse_background,
    read_coefficients,
    read_poses,
    resampled,
    write_sequence,
)
from manvatar.errors import UserError

_DEFAULT_RATE_HZ = 25.0


def drive(
    avatar: Positional[Path],
    coefficients: Path,
    out: Output,
    poses: Path | None = None,
    relative: bool = False,
    size: int | None = None,
    frame_rate: float | None = None,
    background: str = "white",
    margin: float = 0.2,
    no_visible_mark: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Render an avatar that fit --model bilayer or fewshot has made, with given expressions and head poses.

    The driver may be somebody else: expression and pose move the landmarks of the avatar's own face, so that the shape
    of the driver's face does not come through. Whatever is written says in its metadata that it is synthetic.

    Args:
        avatar: the avatar file (.mav).
        coefficients: expression coefficients or a track, as for manvatar render.
        out: a video (.mp4, .mov, .mkv), a .png for a single frame, or a folder for PNG images.
        poses: head poses or a track, as for manvatar render; without it the head keeps its mean pose.
        relative: take the driver's first frame as their neutral face: only the changes from it count.
        size: side of the images in pixels, scaled from the network's own; without it that.
        frame_rate: frames per second; without it the rate that the file states, or 25.
        background: white, black, transparent (PNG only), or R,G,B from 0 to 255; an avatar of fewshot has white.
        margin: how far coefficients may leave the range seen in training, as a part of that range; inf = no limit.
        no_visible_mark: leave out the small word in the corner of videos.
        device: auto takes the GPU where there is one.
    """
    if frame_rate is not None and not 0 < frame_rate <= 1000:
        raise UserError(f"--frame-rate {frame_rate:g} is out of range; give frames per second, at most 1000")
    if size is not None and not 8 <= size <= 4096:
        raise UserError(f"--size {size} is out of range; give 8 to 4096 pixels")
    color = parse_background(background)
    loaded = PortraitAvatar.load(avatar, device)
    driven = read_coefficients(coefficients, loaded.expression_names)
    posed = None if poses is None else read_poses(poses, loaded.head_pose)
    expression, cam_from_head, rate_hz = _in_step(driven, posed, loaded.head_pose, frame_rate)
    if relative:
        expression = expression - expression[:1]
    expression = limited(expression, *loaded.expression_range, margin)
    output_kind(out, len(expression), color is None)  # a wrong name is told before any work is done
    write_sequence(
        out,
        loaded,
        expression,
        cam_from_head,
        frame_rate_hz=rate_hz,
        size_px=size,
        background=color,
        visible_mark=not no_visible_mark,
        progress="render",
    )


def _in_step(
    driven: Coefficients, posed: Poses | None, default_pose: Float[Tensor, "4 4"], frame_rate: float | None
) -> tuple[Float[Tensor, "frames expression"], Float[Tensor, "frames 4 4"], float]:
    """Expressions and poses at one rate; one of either lasts as long as the other."""
    rates = [frame_rate, driven.frame_rate_hz, posed and posed.frame_rate_hz, _DEFAULT_RATE_HZ]
    rate_hz = next(rate for rate in rates if rate)
    values = [driven.expression, default_pose[None] if posed is None else posed.cam_from_head]
    stated = [driven.frame_rate_hz, None if posed is None else posed.frame_rate_hz]
    pairs = zip(values, stated, strict=True)
    values = [value if rate is None else resampled(value, rate, rate_hz) for value, rate in pairs]
    counts = [len(value) for value in values]
    if min(counts) > 1 and abs(counts[0] - counts[1]) > 1:  # resampling may round to lengths that differ by one
        raise UserError(f"there are {counts[0]} frames of coefficients but {counts[1]} of poses; give equally many")
    frames = max(counts) if min(counts) == 1 else min(counts)
    expression, poses = (v.expand(frames, *v.shape[1:]) if len(v) == 1 else v[:frames] for v in values)
    return expression, poses, rate_hz


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return run(drive, argv)


if __name__ == "__main__":
    raise SystemExit(main())
