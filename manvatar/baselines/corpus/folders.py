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
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from manvatar.baselines.stickman import KEYPOINTS
from manvatar.errors import UserError

KINDS = {"imgs": ".jpg", "keypoints": ".npy", "segs": ".png"}
_STEP = math.sqrt(5)  # irrational: the frames of a video are visited evenly, without a pattern


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


class FrameDraws(Dataset):
    """Which frames each step sees; item k of a subclass is this process's share of the batch of step k.

    Args:
        people: in a batch, over all processes.
        process, processes: which share.

    Raises:
        UserError: the batch cannot be shared evenly.
    """

    def __init__(
        self, corpus: Corpus, size_px: int, people: int, process: int = 0, processes: int = 1, seed: int = 0
    ) -> None:
        if people % processes:
            raise UserError(f"a batch of {people} cannot be shared by {processes} processes; give a multiple")
        self.corpus, self.size_px, self.people, self.seed = corpus, size_px, people, seed
        self.share = range(process * (people // processes), (process + 1) * (people // processes))

    def draw(self, number: int, frames: int) -> tuple[int, tuple[str, ...]]:
        """The video of the ``number``-th draw since the start of training, and names of so many of its frames.

        A video with fewer frames than that shows some of them twice.
        """
        count = len(self.corpus.videos)
        round_number, place = divmod(number, count)  # each video once a round
        chosen = int(np.random.default_rng([self.seed, round_number]).permutation(count)[place])
        video = self.corpus.videos[chosen]
        start = np.random.default_rng([self.seed, 1 << 32, chosen]).random()
        first = frames * round_number
        rows = [round(((start + _STEP * draw) % 1) * (len(video) - 1)) for draw in range(first, first + frames)]
        return chosen, tuple(video[row] for row in rows)


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
