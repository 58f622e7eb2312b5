"""From a driver to a video file: what the commands share that animate pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from manvatar.driving import parse_background
from manvatar.errors import UserError
from manvatar.mark import draw_visible_mark
from manvatar.tracking import load_track, track_clip
from manvatar.types import FaceModel, Track
from manvatar.video import open_clip, writer

_AT_ONCE = 4  # frames; more costs memory and gains nothing on two cores
PAINTED = "painted"  # a background as the network has drawn it


def known_landmarks(name: str) -> str:
    """``name`` where it is a detector of photos.

    Raises:
        UserError: it is none.
    """
    if name not in ("auto", "mediapipe", "face-alignment"):
        raise UserError(f"--landmarks {name} is not known; give auto, mediapipe or face-alignment")
    return name


def background_color(text: str) -> Float[Tensor, "3"] | None:
    """A colour in [0, 1], or None for ``painted``.

    Raises:
        UserError: it is neither.
    """
    color = None if text == PAINTED else parse_background(text)
    if color is None and text != PAINTED:
        raise UserError("videos cannot be transparent; give white, black, R,G,B or painted as --background")
    return color


def driver_track(path: Path, face_model: FaceModel, landmarks: str) -> Track:
    """The track of a driver, from its file or made from the video."""
    if path.suffix.lower() == ".safetensors":
        return load_track(path)
    return track_clip(open_clip(path), face_model, landmarks=landmarks).track


@torch.no_grad()
def pictures(
    network: Callable[[Tensor], tuple[Tensor, Tensor]],
    keypoints: Float[Tensor, "frames 136"],
    background: Float[Tensor, "3"] | None,
    device: torch.device,
    progress: bool = True,
) -> Iterator[UInt8[Tensor, "size size 3"]]:
    """The frames, one at a time.

    Args:
        background: colour in [0, 1] that the mask leaves free; None = whatever the network has painted there.
    """
    count = len(keypoints)
    spare = -count % _AT_ONCE  # as many each time: a compiled network would be compiled again for another number
    full = torch.cat([keypoints, keypoints[-1:].expand(spare, -1)])
    with tqdm(total=count, desc="frames", unit="frame", disable=not progress) as bar:
        for start in range(0, count, _AT_ONCE):
            image, mask = network(full[start : start + _AT_ONCE].to(device))
            color = (image.clamp(-1, 1) + 1) / 2
            if background is not None:
                color = color * mask + background.to(device)[:, None, None] * (1 - mask)
            for one in (color.permute(0, 2, 3, 1) * 255).round().to("cpu", torch.uint8)[: count - start]:
                yield one
                bar.update()


def write_pictures(path: Path, images: Iterator[UInt8[Tensor, "size size 3"]], rate_hz: float, mark: bool) -> None:
    """A video marked as synthetic: in its metadata, and with ``mark`` in the corner of every frame.

    Raises:
        UserError: the path cannot be written to or is no name of a video.
    """
    first = next(images)
    with writer(path, rate_hz, (first.shape[1], first.shape[0]), synthetic=True) as video:
        for image in (first, *images) if not mark else map(draw_visible_mark, (first, *images)):
            video.write(image)
