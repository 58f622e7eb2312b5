"""From a photo to a person, and from a person to what draws their frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from manvatar.baselines.bilayer.enhancer import STEPS
from manvatar.baselines.bilayer.fast import FrameNetwork
from manvatar.baselines.bilayer.model import BilayerModel, Person
from manvatar.baselines.photo import Photo

Precision = Literal["float32", "bfloat16"]


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
def person_of(model: BilayerModel, photo: Photo, steps: int = STEPS, align_corners: bool = False) -> Person:
    """The person of a photo, their texture enhanced where the model has an enhancer; on the model's device.

    Args:
        model: best the fast form of :func:`manvatar.baselines.bilayer.fast.accelerated`.
    """
    device = next(model.parameters()).device
    image, stickman, matte, keypoints = (
        value.to(device) for value in (photo.image, photo.stickman, photo.matte, photo.keypoints)
    )
    person = model.person(image, stickman, matte)
    if model.texture_enhancer is None or steps == 0:
        return person
    return model.enhanced(person, image, keypoints, steps, align_corners=align_corners)
