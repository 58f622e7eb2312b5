"""Image filters of the mattes: box means and the guided filter. Images are (channels, height, width) tensors."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate


def box_mean(image: Float[Tensor, "channels height width"], radius: int) -> Float[Tensor, "channels height width"]:
    """Mean over the square of side 2 * radius + 1 around every pixel; at the border, over its part in the image.

    As two matrix products, which for images of a hundred pixels are faster than running sums, and more exact.
    """
    down, across = (_means(length, radius).to(image) for length in image.shape[1:])
    return down @ (image @ across.T)


@lru_cache(maxsize=32)
def _means(length: int, radius: int) -> Float[Tensor, "length length"]:
    """The matrix that takes the means along a line of pixels."""
    position = torch.arange(length)
    near = ((position[:, None] - position).abs() <= radius).float()
    return near / near.sum(1, keepdim=True)


def guided_coefficients(
    guide: Float[Tensor, "3 height width"], target: Float[Tensor, "height width"], radius: int, epsilon: float
) -> Float[Tensor, "5 height width"]:
    """The local linear model of He, Sun and Tang (Guided Image Filtering, TPAMI 2013, section 3.5, colour guide).

    Args:
        guide: RGB in [0, 1].
        target: what is to follow the guide's edges.
        radius: of the windows, pixels.
        epsilon: variance of the guide (squared units of it) below which a window counts as flat.

    Returns:
        Three slopes and an intercept at every pixel, averaged over the windows that hold it:
        ``filtered = (slopes * guide).sum(0) + intercept``. To upsample, interpolate them and apply them to a larger
        guide (Fast Guided Filter, He and Sun 2015). The fifth plane is the share of the target's variance that the
        model explains, in [0, 1] (1 where the target is flat): where it is low, the guide's colours say little.
    """
    r, g, b = guide
    products = torch.stack([r * r, r * g, r * b, g * g, g * b, b * b])
    means = box_mean(torch.cat([guide, target[None], target[None] ** 2, guide * target, products]), radius)
    mean, mean_target, mean_square, mean_product, second = means[:3], means[3], means[4], means[5:8], means[8:]
    covariance = mean_product - mean * mean_target
    xx, xy, xz = second[0] - mean[0] ** 2 + epsilon, second[1] - mean[0] * mean[1], second[2] - mean[0] * mean[2]
    yy, yz = second[3] - mean[1] ** 2 + epsilon, second[4] - mean[1] * mean[2]
    zz = second[5] - mean[2] ** 2 + epsilon
    # Inverse of the symmetric 3x3 matrix by cofactors.
    inverse = torch.stack(
        [
            yy * zz - yz * yz,
            xz * yz - xy * zz,
            xy * yz - xz * yy,
            xx * zz - xz * xz,
            xy * xz - xx * yz,
            xx * yy - xy * xy,
        ]
    )
    inverse = inverse / (xx * inverse[0] + xy * inverse[1] + xz * inverse[2])
    cx, cy, cz = covariance
    slopes = torch.stack(
        [
            inverse[0] * cx + inverse[1] * cy + inverse[2] * cz,
            inverse[1] * cx + inverse[3] * cy + inverse[4] * cz,
            inverse[2] * cx + inverse[4] * cy + inverse[5] * cz,
        ]
    )
    intercept = mean_target - (slopes * mean).sum(0)
    flat = 1e-4
    explained = ((slopes * covariance).sum(0) + flat) / ((mean_square - mean_target**2).clamp(min=0) + flat)
    return box_mean(torch.cat([slopes, intercept[None], explained[None].clamp(0, 1)]), radius)


def resized(image: Float[Tensor, "channels height width"], size: tuple[int, int]) -> Tensor:
    """To (height, width): bilinear, with averaging when it gets smaller."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    smaller = size[0] < image.shape[1] or size[1] < image.shape[2]
    return interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=smaller)[0]
