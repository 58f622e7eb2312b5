"""The discriminator of the bi-layer model: is a patch of an image real, given the landmarks it should show?"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from manvatar.baselines.bilayer.blocks import BatchNorm, Images, ResidualBlock, activate

SCORE_SIZE_PX = 8


class Discriminator(nn.Module):
    """Image and landmark drawing -> 8x8 scores, one for each patch, and the features that feature matching compares.

    Batch norms see what one call brings: real and generated images belong into the same call while training.

    Args:
        width, max_width: channels at the full size, and the most.
        blocks: residual blocks; those beyond the smallest size keep it.
    """

    def __init__(self, width: int = 64, max_width: int = 512, image_size_px: int = 256, blocks: int = 6) -> None:
        super().__init__()
        down = int(math.log2(image_size_px // SCORE_SIZE_PX))
        widths = [min(width * 2**step, max_width) for step in range(down + 1)]
        widths += widths[-1:] * (blocks - down)
        self.first = nn.Conv2d(6, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b, "down" if i < down else "none", normed=True)
            for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        )
        self.last_norm = BatchNorm(widths[-1])
        self.head = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, images: Images, stickmen: Images) -> tuple[Images, list[Tensor]]:
        """Scores, (images, 1, 8, 8), unbounded, and one feature map for each block; inputs are in [-1, 1]."""
        h = self.first(torch.cat([images, stickmen], 1))
        features = []
        for block in self.blocks:
            h, inner = block(h)
            features.append(inner)
        return self.head(activate(self.last_norm(h))), features
