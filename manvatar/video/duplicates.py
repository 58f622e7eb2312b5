"""Finding frames that only repeat the frame before them (a lower frame rate stretched to a higher one)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor


class DuplicateFinder:
    """Fed every frame of a clip in order, says at the end which ones repeat their predecessor.

    A repeat differs from its predecessor by coding noise only: little in itself, and little against the motion around
    it. Both are asked of the most changed block of the picture, so a still background does not hide a moving face.

    Args:
        noise_levels: the most that coding noise changes a block, grey levels of 255.
        ratio: and as a share of the upper quartile of the changes around the frame.
        neighbourhood: frames on either side that count as around.
    """

    def __init__(self, noise_levels: float = 2.0, ratio: float = 0.2, neighbourhood: int = 6) -> None:
        self.noise_levels, self.ratio, self.neighbourhood = noise_levels, ratio, neighbourhood
        self._previous: Tensor | None = None
        self._change: list[float] = []

    def add(self, image: Tensor) -> None:
        """Take the next frame: (height, width, 3) uint8, any size, the same for all."""
        stride = max(1, max(image.shape[:2]) // 256)
        luma = image[::stride, ::stride, 1].float()  # green carries most of the luma
        if self._previous is None:
            self._change.append(float("inf"))
        else:
            blocks = torch.nn.functional.avg_pool2d((luma - self._previous).abs()[None], 8)[0]
            self._change.append(float(blocks.max()))
        self._previous = luma

    def join(self, later: DuplicateFinder, first: int) -> None:
        """Go on with what another finder has seen: the frame before frame ``first``, and the frames from there on."""
        missing = [float("inf")] * (first - len(self._change))
        self._change = self._change[:first] + missing + later._change[1:]
        self._previous = later._previous

    def changes(self) -> np.ndarray:
        """(frames,) mean change of the most changed block against the frame before, grey levels; the first is inf."""
        return np.array(self._change)

    def duplicate(self) -> Bool[Tensor, "frames"]:
        """True for frames that repeat the frame before them."""
        change = self.changes()
        count, reach = len(change), self.neighbourhood
        result = np.zeros(count, bool)
        for i in range(1, count):
            around = change[max(1, i - reach) : i + reach + 1]
            # The upper quartile stays a real change even where every other frame is a repeat.
            limit = min(self.noise_levels, self.ratio * float(np.quantile(around, 0.75)))
            result[i] = change[i] == 0 or change[i] < limit
        return torch.from_numpy(result)
