"""What a training step of the bi-layer model sees: a source and a target frame of some people's videos."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.baselines.corpus.folders import FrameDraws, load_frame
from manvatar.baselines.stickman import draw_stickman


@dataclass(frozen=True)
class Pairs:
    """A batch: a source and a target frame of each person's video."""

    source_photos: Float[Tensor, "people 3 size size"]  # RGB in [-1, 1]
    source_stickmen: Float[Tensor, "people 3 size size"]
    source_mattes: Float[Tensor, "people 1 size size"]  # [0, 1]
    source_keypoints: Float[Tensor, "people 136"]
    target_photos: Float[Tensor, "people 3 size size"]
    target_stickmen: Float[Tensor, "people 3 size size"]
    target_mattes: Float[Tensor, "people 1 size size"]
    target_keypoints: Float[Tensor, "people 136"]

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(*(value.to(device, non_blocking=True) for value in vars(self).values()))


class PairBatches(FrameDraws):
    """Item k is this process's share of the batch of step k."""

    def __getitem__(self, step: int) -> Pairs:
        drawn = [self.draw(step * self.people + place, 2)[1] for place in self.share]
        values = []
        for side in (0, 1):
            frames = [load_frame(self.corpus.root, names[side], self.size_px) for names in drawn]
            photos, mattes, keypoints = (torch.stack(parts) for parts in zip(*frames, strict=True))
            values += [photos, draw_stickman(keypoints, self.size_px), mattes, keypoints]
        return Pairs(*values)
