"""Rendering a sequence of frames into a video, a folder of images, or one image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from manvatar.avatars import Avatar, draw_text, draw_visible_mark, fitted_camera, rgba8, save_image
from manvatar.driving.sweep import sweep
from manvatar.errors import UserError
from manvatar.files import make_folder
from manvatar.video import writer

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0)}


def parse_background(text: str) -> Float[Tensor, "3"] | None:
    """A colour in [0, 1] from ``white``, ``black`` or ``R,G,B`` (0-255 each); None for ``transparent``.

    Raises:
        UserError: none of these.
    """
    if text == "transparent":
        return None
    color = _COLORS.get(text)
    if color is None and re.fullmatch(r"\s*\d{1,3}(\s*,\s*\d{1,3}){2}\s*", text):
        color = tuple(int(part) for part in text.split(","))
    if color is None or max(color) > 255:
        raise UserError(f"--background cannot be {text!r}; give white, black, transparent or R,G,B from 0 to 255")
    return torch.tensor(color, dtype=torch.float32) / 255


def render_frames(
    avatar: Avatar,
    expression: Float[Tensor, "frames expression"],
    cam_from_head: Float[Tensor, "frames 4 4"],
    *,
    size_px: int | tuple[int, int] | None = None,
    background: Float[Tensor, "3"] | None = None,
    progress: str | None = None,
) -> Iterator[UInt8[Tensor, "height width channels"]]:
    """Images of a sequence, one at a time, seen by the avatar's default camera: RGB, or straight RGBA without a
    ``background``."""
    pairs = zip(expression, cam_from_head, strict=True)
    for one, pose in tqdm(pairs, total=len(expression), desc=progress, disable=progress is None, unit="frame"):
        rendering = avatar.rendering(one, pose, size_px=size_px, background=background)
        if background is None:
            yield rgba8(rendering)
        else:
            yield (rendering.rgb.clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def output_kind(out: Path, frames: int, transparent: bool) -> str:
    """What ``out`` asks for: "video", "image" or "folder".

    Raises:
        UserError: the name has an ending that is not written, or one that does not fit what is rendered.
    """
    suffix = out.suffix.lower()
    if out.is_dir() or not suffix:
        return "folder"
    if suffix in VIDEO_SUFFIXES:
        if transparent:
            raise UserError(f"{out.name} cannot be transparent; give a folder for PNG images or another --background")
        return "video"
    if suffix == ".png":
        if frames > 1:
            raise UserError(f"{frames} frames do not fit into {out.name}; give a folder or a name that ends in .mp4")
        return "image"
    raise UserError(f"cannot write {out.name}; give a name ending in {', '.join(VIDEO_SUFFIXES)}, .png, or a folder")


def write_sequence(
    out: str | Path,
    avatar: Avatar,
    expression: Float[Tensor, "frames expression"],
    cam_from_head: Float[Tensor, "frames 4 4"],
    *,
    frame_rate_hz: float = 25.0,
    size_px: int | tuple[int, int] | None = None,
    background: Float[Tensor, "3"] | None = None,
    visible_mark: bool = True,
    labels: tuple[str, ...] | None = None,
    progress: str | None = None,
) -> None:
    """Render a sequence to ``out``: a video, one PNG, or a folder of PNGs ``frame_00000.png``, ...

    Args:
        background: None = transparent (images only).
        visible_mark: a small word in the corner of each frame of a video. The mark in the file's metadata is always
            there.
        labels: text drawn on each frame of a video.

    Raises:
        UserError: ``out`` has an ending that is not written, or cannot be written to.
    """
    out = Path(out)
    kind = output_kind(out, len(expression), background is None)
    images = render_frames(avatar, expression, cam_from_head, size_px=size_px, background=background, progress=progress)
    if kind == "video":
        camera = avatar.camera if size_px is None else fitted_camera(avatar.camera, size_px)
        with writer(out, frame_rate_hz, camera.size_px, synthetic=True) as video:
            for index, image in enumerate(images):
                image = image if labels is None else draw_text(image, labels[index])
                video.write(draw_visible_mark(image) if visible_mark else image)
        return
    folder = make_folder(out if kind == "folder" else out.parent)
    for index, image in enumerate(images):
        save_image(folder / f"frame_{index:05d}.png" if kind == "folder" else out, image)


def write_novel(
    path: str | Path,
    avatar: Avatar,
    *,
    frames_per_expression: int = 12,
    yaw_rad: float = math.radians(20),
    pitch_rad: float = math.radians(8),
    frame_rate_hz: float = 15.0,
    size_px: int | tuple[int, int] | None = None,
    visible_mark: bool = True,
    progress: str | None = "novel views",
) -> None:
    """``novel.mp4``: the tour of :func:`manvatar.driving.sweep`, with the name and value of each coefficient."""
    tour = sweep(avatar, frames_per_expression, yaw_rad, pitch_rad)
    write_sequence(
        path,
        avatar,
        tour.expression,
        tour.cam_from_head,
        frame_rate_hz=frame_rate_hz,
        size_px=size_px,
        background=torch.ones(3),
        visible_mark=visible_mark,
        labels=tour.labels,
        progress=progress,
    )
