"""A corpus on disk, and which frames a training step sees.

``ROOT/{imgs,keypoints,segs}/{train,test}/PERSON/VIDEO/SEQUENCE/FRAME{.jpg,.npy,.png}``: square crops, keypoints in
their pixels (at least 68 rows of x, y), mattes of one channel. A frame counts where all three are there.

Which frames a step sees follows from its number alone, so an interrupted run goes on with the frames it would have
seen, and any number of processes sees the same batch.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from manvatar.baselines.stickman import KEYPOINTS, draw_stickman
from manvatar.errors import UserError

KINDS = {"imgs": ".jpg", "keypoints": ".npy", "segs": ".png"}
_STEP = math.sqrt(5)  # irrational: the frames of a video are visited evenly, without a pattern


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


@dataclass(frozen=True)
class Corpus:
    """The frames of each video, over all its sequences, as paths below the three folders, without endings."""

    root: Path
    videos: tuple[tuple[str, ...], ...]


def open_corpus(root: str | os.PathLike[str], split: str = "train") -> Corpus:
    """List the videos of a corpus.

    Raises:
        UserError: a folder is missing, or no video has two frames.
    """
    base = Path(root)
    for kind in KINDS:
        if not (base / kind / split).is_dir():
            raise UserError(
                f"{base} lacks {kind}/{split}; make the corpus with: manvatar bilayer prepare VIDEOS -o {base}"
            )
    frames: dict[str, list[str]] = {}
    for path in sorted((base / "imgs" / split).glob(f"*/*/*/*{KINDS['imgs']}")):
        name = str(path.relative_to(base / "imgs").with_suffix(""))
        if all((base / kind / f"{name}{ending}").is_file() for kind, ending in KINDS.items()):
            frames.setdefault(str(Path(name).parent.parent), []).append(name)
    videos = tuple(tuple(names) for names in frames.values() if len(names) > 1)
    if not videos:
        raise UserError(f"{base} has no video of two frames or more with imgs, keypoints and segs in {split}")
    return Corpus(base, videos)


class PairBatches(Dataset):
    """Item k is this process's share of the batch of step k.

    Args:
        people: in a batch, over all processes.
        process, processes: which share.
    """

    def __init__(
        self, corpus: Corpus, size_px: int, people: int, process: int = 0, processes: int = 1, seed: int = 0
    ) -> None:
        if people % processes:
            raise UserError(f"a batch of {people} cannot be shared by {processes} processes; give a multiple")
        self.corpus, self.size_px, self.people, self.seed = corpus, size_px, people, seed
        self.share = range(process * (people // processes), (process + 1) * (people // processes))

    def __getitem__(self, step: int) -> Pairs:
        chosen = [self.pair(step * self.people + place) for place in self.share]
        sides = [[load_frame(self.corpus.root, pair[side], self.size_px) for pair in chosen] for side in (0, 1)]
        values = []
        for frames in sides:
            photos, mattes, keypoints = (torch.stack(parts) for parts in zip(*frames, strict=True))
            values += [photos, draw_stickman(keypoints, self.size_px), mattes, keypoints]
        return Pairs(*values)

    def pair(self, number: int) -> tuple[str, str]:
        """Source and target frame of the ``number``-th draw since the start of training."""
        count = len(self.corpus.videos)
        round_number, place = divmod(number, count)  # each video once a round
        order = np.random.default_rng([self.seed, round_number]).permutation(count)
        video = self.corpus.videos[order[place]]
        start = np.random.default_rng([self.seed, 1 << 32, int(order[place])]).random()
        source, target = (
            round(((start + _STEP * draw) % 1) * (len(video) - 1)) for draw in (2 * round_number, 2 * round_number + 1)
        )
        return video[source], video[target]


def load_frame(root: Path, name: str, size_px: int) -> tuple[Tensor, Tensor, Tensor]:
    """Photo (3, H, W) in [-1, 1], matte (1, H, W) in [0, 1], keypoints (136,) in [-1, 1].

    Raises:
        UserError: a file cannot be read or is not as it should be.
    """
    paths = {kind: root / kind / f"{name}{ending}" for kind, ending in KINDS.items()}
    try:
        with Image.open(paths["imgs"]) as opened:
            width = opened.width
            photo = np.array(opened.convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC))
        with Image.open(paths["segs"]) as opened:
            channels = opened.mode
            matte = np.array(opened.convert("L").resize((size_px, size_px), Image.Resampling.BILINEAR))
        points = np.load(paths["keypoints"], allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"cannot read the frame {name} of {root}: {error}; remove it or prepare it again") from error
    if channels not in ("L", "1", "I;16", "I"):
        raise UserError(f"{paths['segs']} has colours ({channels}); mattes are pictures of one channel")
    if points.ndim != 2 or points.shape[0] < KEYPOINTS or points.shape[1] < 2:
        raise UserError(f"{paths['keypoints']} holds {points.shape}; it should be {KEYPOINTS} rows of x, y in pixels")
    keypoints = torch.from_numpy(points[:KEYPOINTS, :2].astype(np.float32)) / width * 2 - 1
    image = torch.from_numpy(photo).permute(2, 0, 1).float() / 127.5 - 1
    return image, torch.from_numpy(matte)[None].float() / 255, keypoints.flatten()
