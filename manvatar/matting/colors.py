"""Colour models of one clip: what its skin, hair and clothes look like. Colours are sRGB in [0, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import conv1d

_BINS = 24  # of each channel
_SMOOTHING = (0.03, 0.11, 0.22, 0.28, 0.22, 0.11, 0.03)
_UNSEEN = 0.02  # share of every model's mass spread evenly over all colours
_NOISE = 0.04  # added to channels before their ratios are taken, so that dark pixels have a calm hue


def color_index(colors: Float[Tensor, "*pixels 3"]) -> Int[Tensor, "*pixels"]:
    """Bin of each colour."""
    level = (colors * _BINS).long().clamp(0, _BINS - 1)
    return (level[..., 0] * _BINS + level[..., 1]) * _BINS + level[..., 2]


def density(colors: Float[Tensor, "pixels 3"]) -> Float[Tensor, "bins"]:
    """Probability of every colour bin, from examples; neighbouring colours support each other."""
    counts = torch.bincount(color_index(colors), minlength=_BINS**3).float()
    kernel = torch.tensor(_SMOOTHING)[None, None]
    cube = counts.reshape(_BINS, _BINS, _BINS)
    for _ in range(3):  # along each axis in turn; three rotations restore the order
        cube = conv1d(cube.reshape(-1, 1, _BINS), kernel, padding=3).reshape(_BINS, _BINS, _BINS).permute(2, 0, 1)
    flat = cube.reshape(-1)
    return (1 - _UNSEEN) * flat / flat.sum().clamp(min=1e-9) + _UNSEEN / len(flat)


def skin_density(colors: Float[Tensor, "pixels 3"]) -> Float[Tensor, "bins"]:
    """As :func:`density`, for skin: it keeps its hue, but a neck lies in the shadow of the face above it.

    Args:
        colors: examples from the face; eyes, brows and a beard among them do no harm while most are skin.
    """
    hue, brightness = _hue(colors), colors.mean(-1)
    skin = _is_typical(hue, brightness)
    hue, brightness = hue[skin], brightness[skin]
    middle, spread = hue.mean(0), torch.cov(hue.T) if len(hue) > 2 else torch.zeros(2, 2)
    # Shadow and reflected light shift the hue a little, so the face's own spread is not the whole of it.
    precision = torch.linalg.inv(2 * spread + 0.06**2 * torch.eye(2))
    centers = _bin_centers()
    offset = _hue(centers) - middle
    squared = torch.einsum("ni,ij,nj->n", offset, precision, offset)
    lightness = centers.mean(-1) / brightness.median()
    possible = torch.sigmoid((lightness - 0.3) / 0.04) * torch.sigmoid((1.5 - lightness) / 0.1)
    smooth = torch.exp(-0.5 * squared) * possible
    return 0.5 * density(colors[skin]) + 0.5 * smooth / smooth.sum().clamp(min=1e-9)


def _hue(colors: Float[Tensor, "pixels 3"]) -> Float[Tensor, "pixels 2"]:
    """Log ratios of the channels: what shading leaves as it is."""
    r, g, b = (colors + _NOISE).log().unbind(-1)
    return torch.stack([r - g, g - b], -1)


def _is_typical(hue: Float[Tensor, "pixels 2"], brightness: Float[Tensor, "pixels"]) -> Bool[Tensor, "pixels"]:
    """Not an eye, lip, brow or hair: near the median hue, and not much darker than the median."""
    offset = (hue - hue.median(0).values).abs()
    scale = offset.median(0).values.clamp(min=0.01)
    return (offset < 3 * scale).all(-1) & (brightness > 0.6 * brightness.median())


def _bin_centers() -> Float[Tensor, "bins 3"]:
    level = (torch.arange(_BINS) + 0.5) / _BINS
    return torch.cartesian_prod(level, level, level)
