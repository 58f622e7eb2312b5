"""A bi-layer model small enough for tests, with statistics and weights that make every part matter."""

from __future__ import annotations

import torch

from manvatar.baselines.bilayer.blocks import BatchNorm
from manvatar.baselines.bilayer.model import BilayerConfig, BilayerModel

TINY = BilayerConfig(
    image_size_px=32,
    width=4,
    max_width=16,
    texture_width=8,
    texture_max_width=32,
    embedder_width=8,
    embedder_max_width=32,
    enhancer_width=4,
    enhancer_max_width=8,
    enhancer_flat=2,
    discriminator_width=4,
    discriminator_max_width=8,
    discriminator_blocks=3,
)


def tiny_model(config: BilayerConfig = TINY, enhancer: bool = True) -> BilayerModel:
    """In eval mode; batch norms hold random statistics."""
    model = BilayerModel(config, enhancer)
    randomise_norms(model)
    return model.eval()


def randomise_norms(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, BatchNorm):
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.02, 0.1)
                if norm.affine:
                    norm.weight.uniform_(0.5, 1.5)
                    norm.bias.normal_(0, 0.2)


def tiny_inputs(images: int = 1, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photos, drawings, keypoints."""
    shapes = (images, 3, 32, 32), (images, 3, 32, 32), (images, 136)
    photos, stickmen, keypoints = (torch.rand(shape, dtype=dtype) * 2 - 1 for shape in shapes)
    return photos, stickmen, keypoints
