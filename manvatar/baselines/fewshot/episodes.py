"""What a step of meta-training sees: some frames of each of some people's videos, and one more of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.baselines.corpus.folders import Corpus, FrameDraws, load_frame
from manvatar.baselines.stickman import draw_stickman


@dataclass(frozen=True)
class Episode:
    """K frames of each of V videos, and one more of each."""

    images: Float[Tensor, "videos frames 3 size size"]
    stickmen: Float[Tensor, "videos frames 3 size size"]
    target: Float[Tensor, "videos 3 size size"]
    target_stickman: Float[Tensor, "videos 3 size size"]
    video: Int[Tensor, "videos"]  # which of the training videos each is

    def __post_init__(self) -> None:
        if self.images.shape[1] < 1:
            raise ValueError("Episode: each video needs a frame to learn from")

    def to(self, device: torch.device | str) -> Episode:
        return Episode(*(value.to(device, non_blocking=True) for value in vars(self).values()))


def on_white(photo: Float[Tensor, "*images 3 size size"], matte: Float[Tensor, "*images 1 size size"]) -> Tensor:
    """A photo in [-1, 1] before white. The model has no mask, so its pictures have the background it was shown."""
    return (photo - 1) * matte + 1


class EpisodeBatches(FrameDraws):
    """Item k is this process's share of the episode of step k; heads are before white.

    Args:
        frames: K, of each video, besides the one that is asked for.
        others: see :class:`FrameDraws`.
    """

    def __init__(self, corpus: Corpus, size_px: int, people: int, frames: int, *others: int) -> None:
        super().__init__(corpus, size_px, people, *others)
        self.frames = frames

    def __getitem__(self, step: int) -> Episode:
        videos, people = [], []
        for place in self.share:
            video, names = self.draw(step * self.people + place, self.frames + 1)
            loaded = [load_frame(self.corpus.root, name, self.size_px) for name in names]
            photos, mattes, keypoints = (torch.stack(parts) for parts in zip(*loaded, strict=True))
            people.append((on_white(photos, mattes), draw_stickman(keypoints, self.size_px, "fewshot")))
            videos.append(video)
        images, stickmen = (torch.stack(parts) for parts in zip(*people, strict=True))
        return Episode(images[:, :-1], stickmen[:, :-1], images[:, -1], stickmen[:, -1], torch.tensor(videos))
