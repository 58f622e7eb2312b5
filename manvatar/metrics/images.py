"""How alike two images are: PSNR, SSIM and, where its weights are at hand, LPIPS, over a region of the image.

PSNR and SSIM are scikit-image's with its defaults (SSIM: uniform 7x7 window), data range 1 and channels last. Inside a
region, the squared error is averaged over the region's pixels and SSIM is the mean of the SSIM map there. None of these
is differentiable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from manvatar.errors import UserError
from manvatar.metrics.regions import Region

HIGHEST_PSNR_DB = 100.0  # what equal images count as, so that means stay finite
_SSIM_WINDOW = 7


@dataclass(frozen=True)
class RegionScore:
    """One region of one image, or the mean over images; None where there is nothing to measure or no weights."""

    psnr_db: float | None
    ssim: float | None
    mse: float | None
    lpips_alex: float | None = None
    lpips_vgg: float | None = None


def psnr_db(mse: float) -> float:
    """Peak signal-to-noise ratio of images in [0, 1]; at most :data:`HIGHEST_PSNR_DB`."""
    return HIGHEST_PSNR_DB if mse <= 0 else min(HIGHEST_PSNR_DB, -10 * math.log10(mse))


def ssim_map(
    truth: Float[Tensor, "height width 3"], image: Float[Tensor, "height width 3"]
) -> tuple[float, Float[Tensor, "height width"]] | None:
    """scikit-image's SSIM of two images in [0, 1], and its map averaged over the channels; None below 7 pixels."""
    if min(truth.shape[:2]) < _SSIM_WINDOW:
        return None
    mean, full = structural_similarity(truth.numpy(), image.numpy(), data_range=1.0, channel_axis=-1, full=True)
    return float(mean), torch.from_numpy(np.asarray(full, np.float32).mean(-1))


def compare(
    truth: Float[Tensor, "height width 3"],
    image: Float[Tensor, "height width 3"],
    regions: dict[str, Region | None],
    lpips: tuple[LearnedDistance, ...] = (),
) -> dict[str, RegionScore | None]:
    """Scores of each region; None for a region this image does not have.

    Args:
        truth, image: in [0, 1], not NaN.
    """
    if truth.shape != image.shape:
        raise ValueError(f"compare: truth is {tuple(truth.shape)} but image is {tuple(image.shape)}")
    if not bool(image.isfinite().all()):
        raise ValueError("compare: the image has values that are not finite")
    squared = (truth - image).square().mean(-1)
    similarity = ssim_map(truth, image)
    scores: dict[str, RegionScore | None] = {}
    for name, region in regions.items():
        if region is None:
            scores[name] = None
            continue
        mse = float(squared[region.mask].double().mean())
        ssim = None if similarity is None else _inside(similarity, region)
        learned = {f"lpips_{d.net}": d(truth, image, region) for d in lpips}
        scores[name] = RegionScore(psnr_db(mse), ssim, mse, **learned)
    return scores


def _inside(similarity: tuple[float, Float[Tensor, "height width"]], region: Region) -> float:
    """The whole picture's SSIM is scikit-image's own number, which leaves out the border."""
    mean, full = similarity
    return mean if bool(region.mask.all()) else float(full[region.mask].double().mean())


class LearnedDistance:
    """LPIPS (Zhang et al. 2018) through the ``lpips`` package; nothing is downloaded.

    The package brings its linear weights; those of the backbone are the file the user names: torchvision's
    ``alexnet-owt-*.pth`` or ``vgg16-*.pth`` state dict.

    Raises:
        UserError: the package or the file is missing, or the file holds something else.
    """

    def __init__(self, net: Literal["alex", "vgg"], weights: str | Path) -> None:
        try:
            import lpips
        except ImportError as error:
            raise UserError("LPIPS needs the lpips package; pip install 'manvatar[lpips]'") from error
        self.net = net
        self.model: nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
        _load_backbone(self.model.net, Path(weights))

    @torch.no_grad()
    def __call__(
        self, truth: Float[Tensor, "height width 3"], image: Float[Tensor, "height width 3"], region: Region
    ) -> float:
        """Mean distance over the boxes of the region; pixels outside the region are white in both."""
        outside = ~region.mask[..., None]
        pair = torch.stack([truth.masked_fill(outside, 1.0), image.masked_fill(outside, 1.0)]).permute(0, 3, 1, 2)
        distances = []
        for left, top, right, bottom in region.boxes:
            crop = pair[:, :, top:bottom, left:right]
            # The networks halve the picture five times; small crops are enlarged so that something is left.
            scale = max(1.0, 64 / min(crop.shape[-2:]))
            if scale > 1:
                crop = nn.functional.interpolate(crop, scale_factor=scale, mode="bilinear", align_corners=False)
            distances.append(float(self.model(crop[:1] * 2 - 1, crop[1:] * 2 - 1)))
        return sum(distances) / len(distances)


def _load_backbone(net: nn.Module, path: Path) -> None:
    """Put a torchvision state dict (``features.<n>.*``) into lpips's slices, whose layers keep their numbers."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}; give torchvision's weights of the LPIPS backbone") from error
    except Exception as error:  # torch.load raises whatever its reader met
        raise UserError(f"{path} is not a PyTorch state dict; give torchvision's weights of the backbone") from error
    target = net.state_dict()
    try:
        loaded = {name: state["features." + name.split(".", 1)[1]] for name in target}
        net.load_state_dict(loaded)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} does not hold the weights of this LPIPS backbone; give torchvision's file") from error


def white_composite(rgba: Tensor) -> Float[Tensor, "height width 3"]:
    """An 8-bit image with straight alpha on white, in [0, 1]."""
    rgba = rgba.float() / 255
    return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
