"""From a person and keypoints to a video file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from manvatar.baselines.bilayer.fast import FrameNetwork
from manvatar.baselines.bilayer.model import BilayerModel, Person
from manvatar.mark import draw_visible_mark
from manvatar.video import writer

Precision = Literal["float32", "bfloat16"]
_AT_ONCE = 4  # frames; more costs memory and gains nothing on two cores


def frame_network(
    model: BilayerModel, person: Person, precision: Precision = "float32", compiled: bool = False, **options: bool
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What turns keypoints into image and mask, as fast as asked for.

    Args:
        compiled: through ``torch.compile``: some seconds to start, then faster.
        options: ``align_corners`` of :class:`FrameNetwork`.
    """
    network = FrameNetwork(model.keypoint_embedder, model.inference_generator, person, **options)
    if precision == "bfloat16":
        network.bfloat16()
    return torch.compile(network) if compiled else network


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
