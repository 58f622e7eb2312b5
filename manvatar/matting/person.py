"""The matte of a person: MediaPipe's selfie segmentation, sharpened along the edges of the image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from manvatar.landmarks.litert import LiteNetwork
from manvatar.matting.filters import box_mean, guided_coefficients, resized
from manvatar.models import ensure

_FILTER_PX = 128  # the guided filter's own resolution; more costs much and shows little


class PersonMatte:
    """Alpha of the person in the frames of one clip, given in order.

    The network sees its part of the image at 256 x 256 and wants to see head and shoulders. Its output is steadied over
    time where the image does not move, and follows the image's own edges, hair included, through a guided filter
    wherever the network is not sure. About 10 ms for 512 x 512 pixels on one core.

    Args:
        view_px: (left, top, right, bottom) of the part of the images to look at, the same for all; beyond it alpha is
            0. None = all of the image.
        steadiness: share of the previous matte that a motionless pixel keeps, [0, 1).
        radius: of the guided filter, in 128ths of the image.
        epsilon: its flatness, as in ``guided_coefficients``; smaller follows fainter edges.
    """

    def __init__(
        self,
        view_px: tuple[int, int, int, int] | None = None,
        *,
        steadiness: float = 0.6,
        radius: int = 3,
        epsilon: float = 2e-4,
    ) -> None:
        self._network = LiteNetwork(ensure("selfie_segmentation"))
        self._view_px = view_px
        self._steadiness, self._radius, self._epsilon = steadiness, radius, epsilon
        self._previous: tuple[Tensor, Tensor] | None = None

    def reset(self) -> None:
        """Forget the previous frame; call it before another clip or after a jump."""
        self._previous = None

    def __call__(self, image: Tensor) -> Float[Tensor, "height width"]:
        """
        Args:
            image: (height, width, 3), uint8 or float32 in [0, 1].

        Returns:
            Alpha in [0, 1], float32, of the same size.
        """
        return self.sharpened(image, self.rough(image))

    def rough(self, image: Tensor) -> Float[Tensor, "4 small small"]:
        """The first half of a call, for frames in order: what is looked at, in colour, and its alpha."""
        seen = shrunk(image[self._inside(image)], self._network.input_size)
        (probability,) = self._network(seen.permute(1, 2, 0).contiguous().numpy()).values()
        guide = resized(seen, (_FILTER_PX, _FILTER_PX))
        alpha = resized(torch.from_numpy(probability[..., 0])[None], (_FILTER_PX, _FILTER_PX))
        return torch.cat([guide, self._steadied(alpha[0], guide)[None]])

    def sharpened(self, image: Tensor, rough: Float[Tensor, "4 small small"]) -> Float[Tensor, "height width"]:
        """The second half, which knows nothing of other frames and may run in a thread of its own."""
        if self._view_px is None:
            return self._along_edges(image, rough[:3], rough[3])
        inside = self._inside(image)
        alpha = torch.zeros(image.shape[:2])
        alpha[inside] = self._along_edges(image[inside], rough[:3], rough[3])
        return alpha

    def _inside(self, image: Tensor) -> tuple[slice, slice]:
        left, top, right, bottom = self._view_px or (0, 0, image.shape[1], image.shape[0])
        return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))

    def _along_edges(
        self, image: Tensor, guide: Float[Tensor, "3 small small"], rough: Float[Tensor, "small small"]
    ) -> Float[Tensor, "height width"]:
        coefficients = guided_coefficients(guide, rough, self._radius, self._epsilon)
        # Dark hair before a dark background fools the colour model: there, and deep inside and far outside, the
        # network decides.
        inside = (box_mean(rough[None], 1) - 0.85) / 0.13
        outside = (box_mean(rough[None], 2) - 0.02) / 0.12
        trust = ((coefficients[4:] - 0.6) / 0.25).clamp(0, 1)
        slopes, constant = coefficients[:3] * trust, torch.lerp(rough[None], coefficients[3:4], trust)
        planes = torch.cat([slopes, constant, inside.clamp(0, 1), outside.clamp(0, 1)])
        full = as_planes(image)
        model = resized(planes, full.shape[1:])
        alpha = torch.addcmul(model[3], model[0], full[0]).addcmul_(model[1], full[1]).addcmul_(model[2], full[2])
        alpha.sub_(0.1).div_(0.8)  # nearly background is background, nearly person is person
        return torch.minimum(torch.maximum(alpha, model[4], out=alpha), model[5], out=alpha).clamp_(0, 1)

    def _steadied(self, alpha: Tensor, image: Tensor) -> Tensor:
        if self._previous is not None:
            # Where the image has not changed by more than about two grey levels, nor should the matte.
            moved = box_mean((image - self._previous[1]).abs().amax(0, keepdim=True), 2)[0]
            still = torch.exp(-((moved / 0.008) ** 2))
            alpha = torch.lerp(alpha, self._previous[0], self._steadiness * still)
        self._previous = (alpha, image)
        return alpha


def as_planes(image: Tensor) -> Float[Tensor, "3 height width"]:
    """(height, width, 3) uint8 or float in [0, 1] as (3, height, width) float32 in [0, 1]."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image of shape (height, width, 3), got {tuple(image.shape)}")
    planes = image.permute(2, 0, 1)
    return planes.float() / 255 if planes.dtype == torch.uint8 else planes.float()


def shrunk(image: Tensor, size: tuple[int, int]) -> Float[Tensor, "3 small_height small_width"]:
    """``as_planes`` of an image at another (height, width); bytes are averaged as bytes, which is much faster."""
    if image.dtype != torch.uint8 or size[0] > image.shape[0] or size[1] > image.shape[1]:
        return resized(as_planes(image), size)
    planes = image.permute(2, 0, 1)[None]
    small = interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    return small.contiguous().float().div_(255)
