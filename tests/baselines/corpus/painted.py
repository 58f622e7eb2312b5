"""A corpus of painted frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_corpus(root: Path, people: int = 3, frames: int = 4, size_px: int = 40) -> Path:
    """Every person a colour; keypoints move the painted square."""
    for person in range(people):
        rng = np.random.default_rng(person)
        color = rng.integers(60, 255, 3)
        for frame in range(frames):
            name = f"train/id{person}/video{person}/{frame // 3:05d}/{frame:06d}"
            image = np.zeros((size_px, size_px, 3), np.uint8)
            left = 4 + 3 * frame
            image[8:30, left : left + 20] = color
            paths = {kind: root / kind / name for kind in ("imgs", "keypoints", "segs")}
            for path in paths.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(f"{paths['imgs']}.jpg", quality=95)
            Image.fromarray((image.any(2) * 255).astype(np.uint8)).save(f"{paths['segs']}.png")
            points = rng.random((68, 2)) * 18 + [left, 9]
            np.save(f"{paths['keypoints']}.npy", points)
    return root
