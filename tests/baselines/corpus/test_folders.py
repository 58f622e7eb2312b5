"""Corpora: which frames count, which a step sees, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from baselines.corpus.painted import make_corpus
from PIL import Image

from manvatar.baselines.bilayer.pairs import PairBatches
from manvatar.baselines.corpus.folders import load_frame, open_corpus
from manvatar.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_corpus(tmp_path)


def test_a_frame_counts_where_all_three_files_are(root: Path) -> None:
    assert [len(video) for video in open_corpus(root).videos] == [4, 4, 4]  # two sequences each
    (root / "segs/train/id1/video1/00000/000001.png").unlink()
    (root / "keypoints/train/id2/video2/00000/000001.npy").unlink()
    assert [len(video) for video in open_corpus(root).videos] == [4, 3, 3]


def test_a_frame_as_tensors(root: Path) -> None:
    name = open_corpus(root).videos[0][2]
    photo, matte, keypoints = load_frame(root, name, 20)
    assert photo.shape == (3, 20, 20) and matte.shape == (1, 20, 20) and keypoints.shape == (136,)
    points = np.load(root / "keypoints" / f"{name}.npy")
    assert keypoints[:2].tolist() == pytest.approx((points[0] / 40 * 2 - 1).tolist(), abs=1e-6)
    assert matte[0, 10, 10] == 1 and matte[0, 0, 0] == 0
    assert photo[:, 0, 0].max() < -0.9 and photo[:, 10, 10].max() > -0.5


def test_every_video_once_a_round_and_its_frames_evenly(root: Path) -> None:
    batches = PairBatches(open_corpus(root), 32, people=3)
    pairs = [batches.draw(number, 2)[1] for number in range(3 * 40)]
    for start in range(0, len(pairs), 3):
        assert len({Path(source).parts[1] for source, _ in pairs[start : start + 3]}) == 3
    assert all(Path(source).parts[1:3] == Path(target).parts[1:3] for source, target in pairs)
    seen = [source for source, _ in pairs if "id0" in source]
    counts = [seen.count(name) for name in sorted(set(seen))]
    assert len(counts) == 4 and min(counts) >= 4
    assert sum(source != target for source, target in pairs) > 60


def test_processes_share_one_batch(root: Path) -> None:
    corpus = open_corpus(root)
    whole = PairBatches(corpus, 32, people=4)[7]
    parts = [PairBatches(corpus, 32, 4, process, 2)[7] for process in range(2)]
    for name, value in vars(whole).items():
        assert torch.equal(value, torch.cat([getattr(part, name) for part in parts])), name
    assert not torch.equal(whole.source_photos, PairBatches(corpus, 32, people=4)[8].source_photos)
    other = PairBatches(corpus, 32, 4, seed=1)[7]
    assert not torch.equal(whole.target_photos, other.target_photos)


def test_broken_corpora_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks imgs/train"):
        open_corpus(tmp_path / "nowhere")
    with pytest.raises(UserError, match="lacks imgs/test"):
        open_corpus(root, "test")
    name = open_corpus(root).videos[0][0]
    Image.new("RGB", (8, 8)).save(root / "segs" / f"{name}.png")
    with pytest.raises(UserError, match="one channel"):
        load_frame(root, name, 16)
    Image.new("L", (8, 8)).save(root / "segs" / f"{name}.png")
    np.save(root / "keypoints" / f"{name}.npy", np.zeros((5, 2)))
    with pytest.raises(UserError, match="68 rows"):
        load_frame(root, name, 16)
    (root / "imgs" / f"{name}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="cannot read the frame"):
        load_frame(root, name, 16)
    for path in (root / "imgs").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match="no video of two frames"):
        open_corpus(root)
