"""``python -m manvatar.render``: an avatar and expression coefficients to a video or images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from manvatar.baselines.one_video import load_avatar
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
from manvatar.ops import keep_freed_memory

_DEFAULT_RATE_HZ = 25.0
_LARGEST_PX = 8192


def render(
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
    """Render an avatar with given expression coefficients and head poses.

    Whatever is written says in its metadata that it is synthetic.

    Args:
        avatar: the avatar file (.mav).
        coefficients: .npz, .csv or .json with an array "expression" (frames, coefficients) or named coefficients, in
            standard deviations; or a track (.safetensors); or ARKit blendshapes, such as a CSV of Live Link Face.
        out: a video (.mp4, .mov, .mkv), a .png for a single frame, or a folder for PNG images.
        poses: head poses (.npz, .csv, .json): "cam_from_head" (frames, 4, 4), or "rotation_vector" with or without
            "translation_m", or "yaw_rad", "pitch_rad", "roll_rad"; or a track. Without it the head keeps its mean pose.
        relative: the first frame of the coefficients is the driver's neutral face: only the changes from it count. For
            drivers who are not the person of the avatar.
        size: side of the images in pixels; without it the size of the training images.
        frame_rate: frames per second. Coefficients that state their own rate are resampled to it; without it their own
            rate, or 25.
        background: white, black, transparent (PNG only), or R,G,B from 0 to 255.
        margin: how far coefficients may leave the range seen in training, as a part of that range; inf = no limit.
        no_visible_mark: leave out the small word in the corner of videos.
        device: auto takes the GPU where there is one.
    """
    if size is not None and not 8 <= size <= _LARGEST_PX:
        raise UserError(f"--size {size} is out of range; give 8 to {_LARGEST_PX} pixels")
    if frame_rate is not None and not 0 < frame_rate <= 1000:
        raise UserError(f"--frame-rate {frame_rate:g} is out of range; give frames per second, at most 1000")
    color = parse_background(background)
    keep_freed_memory()
    loaded = load_avatar(avatar, device)
    driven = read_coefficients(coefficients, loaded.expression_names, loaded.arkit)
    posed = None if poses is None else read_poses(poses, loaded.head_pose)
    expression, cam_from_head, rate_hz = _together(driven, posed, loaded.head_pose, frame_rate)
    if relative:
        expression = loaded.neutral + expression - expression[:1]
    lower, upper = loaded.expression_range
    expression, given = limited(expression, lower, upper, margin), expression
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
    if changed := _names_changed(loaded.expression_names, given, expression, upper - lower):
        print(f"kept near the range seen in training (--margin inf switches this off): {', '.join(changed)}")


def _together(
    driven: Coefficients, posed: Poses | None, default_pose: Float[Tensor, "4 4"], frame_rate: float | None
) -> tuple[Float[Tensor, "frames expression"], Float[Tensor, "frames 4 4"], float]:
    """Expressions and poses at one rate, equally many."""
    stated = driven.frame_rate_hz or (None if posed is None else posed.frame_rate_hz)
    rate_hz = frame_rate or stated or _DEFAULT_RATE_HZ
    expression = driven.expression
    if driven.frame_rate_hz is not None:
        expression = resampled(expression, driven.frame_rate_hz, rate_hz)
    if posed is None:
        return expression, default_pose.expand(len(expression), 4, 4), rate_hz
    poses = posed.cam_from_head
    if posed.frame_rate_hz is not None:
        poses = resampled(poses, posed.frame_rate_hz, rate_hz)
    frames = max(len(expression), len(poses))
    if len(expression) == 1:
        expression = expression.expand(frames, -1)
    if len(poses) == 1:
        poses = poses.expand(frames, 4, 4)
    # Resampling two lists of equal duration may round to lengths that differ by one frame.
    frames = min(len(expression), len(poses))
    if abs(len(expression) - len(poses)) > 1:
        raise UserError(
            f"there are {len(expression)} frames of coefficients but {len(poses)} of poses; "
            "give equally many, or a single pose"
        )
    return expression[:frames], poses[:frames], rate_hz


def _names_changed(
    names: tuple[str, ...], given: Tensor, kept: Tensor, width: Float[Tensor, "expression"]
) -> list[str]:
    """Coefficients that the limit has moved by more than a twentieth of their range."""
    moved = (given - kept).abs().amax(0)
    return [name for name, far in zip(names, (moved > 0.05 * width.clamp_min(1e-6)).tolist(), strict=True) if far]


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return run(render, argv)


if __name__ == "__main__":
    raise SystemExit(main())
