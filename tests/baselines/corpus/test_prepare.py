"""A corpus from videos, and the two commands on it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from baselines.bilayer.tiny_training import CONFIG
from baselines.corpus.painted import make_corpus
from landmarks.faces import face_clip

from manvatar.baselines.bilayer.model import BilayerConfig
from manvatar.baselines.bilayer.official import checkpoint_files
from manvatar.baselines.bilayer.training import CorpusConfig
from manvatar.baselines.corpus import prepare as module
from manvatar.baselines.corpus.folders import load_frame, open_corpus
from manvatar.baselines.corpus.prepare import prepare, sequence_name, still_crop
from manvatar.bilayer import main
from manvatar.video import writer


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a face that wanders, one without a face."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "id1/abc").mkdir(parents=True)
    face_clip(folder / "id1/abc/00003.mp4", [[(1.0, (200.0 + 8 * k, 150.0))] for k in range(6)])
    with writer(folder / "nobody.mp4", 25.0, (64, 64), synthetic=True) as video:
        for _ in range(3):
            video.write(torch.full((64, 64, 3), 90, dtype=torch.uint8))
    return folder


def test_names_of_sequences() -> None:
    assert sequence_name(Path("a.mp4")) == Path("a/a/00000")
    assert sequence_name(Path("id/a.mp4")) == Path("id/a/00000")
    assert sequence_name(Path("id/abc/00001.mp4")) == Path("id/abc/00001")
    assert sequence_name(Path("dev/mp4/id/abc/00001.mp4")) == Path("dev_mp4_id/abc/00001")


def test_the_crop_stands_still_and_holds_the_face() -> None:
    face = torch.rand(68, 2) * 100
    points = torch.stack([face + 200 + torch.tensor([3.0 * k, 0.0]) for k in range(20)])
    crop = still_crop(points)
    assert (crop.keypoints(points).abs() < 1).all()
    assert still_crop(points[:1]).side_px + 40 < crop.side_px < still_crop(points[:1]).side_px + 60


def test_a_corpus_from_videos(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-o", str(tmp_path), "--size", "64", "--every", "2"]
    assert main(["prepare", str(videos), *options]) == 0
    printed = capsys.readouterr()
    assert "1 videos, 3 frames" in printed.out and "left out nobody.mp4" in printed.err
    found = open_corpus(tmp_path)
    assert found.videos == (tuple(f"train/id1/abc/00003/{k:06d}" for k in (0, 2, 4)),)
    points = [np.load(tmp_path / "keypoints" / f"{name}.npy") for name in found.videos[0]]
    assert all(p.shape == (68, 2) and p.min() > 0 and p.max() < 64 for p in points)
    assert points[2][:, 0].mean() - points[0][:, 0].mean() > 2  # it moves within the crop
    _, matte, keypoints = load_frame(tmp_path, found.videos[0][0], 64)
    nose = ((keypoints.reshape(68, 2)[30] + 1) * 32).int().tolist()
    assert matte[0, nose[1], nose[0]] > 0.9 and 0.2 < matte.mean() < 0.95
    stamp = (tmp_path / "imgs" / f"{found.videos[0][0]}.jpg").stat().st_mtime_ns
    assert main(["prepare", str(videos), *options]) == 0  # again: nothing to do
    assert (tmp_path / "imgs" / f"{found.videos[0][0]}.jpg").stat().st_mtime_ns == stamp


def test_an_interrupted_video_is_done_again(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(clip: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "frames", broken)
        prepare(videos / "id1", tmp_path, size_px=32, show_progress=False)
    assert prepare(videos / "id1", tmp_path, size_px=32, show_progress=False).frames == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nowhere", "-o", "x"], "nowhere holds no video"),
        (["prepare", "{videos}/nobody.mp4", "-o", "{out}"], "no video of .* could be used"),
        (["prepare", "{videos}", "-o", "{out}", "--every", "0"], "--every 0"),
        (["prepare", "{videos}", "-o", "{out}", "--size", "4"], "--size 4 is out of range"),
        (["train", "{videos}", "-o", "{out}"], "lacks imgs/train"),
        (["train", "{videos}", "-o", "{out}", "--people", "0"], "must be positive"),
        (["train", "{videos}", "-o", "{out}", "--stage", "enhancer", "--init", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_mistakes(
    videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    filled = [text.format(videos=videos, out=tmp_path / "out") for text in arguments]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("manvatar.bilayer.BilayerConfig", lambda **_: CONFIG.model)
        assert main(filled) == 2
    error = capfd.readouterr().err
    assert re.search(message, error) and "Traceback" not in error


def test_training_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sizes are tiny here; everything else is as a user has it."""
    root, out = make_corpus(tmp_path / "corpus"), tmp_path / "run"
    monkeypatch.setattr("manvatar.bilayer.BilayerConfig", lambda **sizes: _tiny(sizes))
    monkeypatch.setattr("manvatar.bilayer.CorpusConfig", partial(CorpusConfig, statistics_batches=2))
    options = ["-o", str(out), "--people", "2", "--save-every", "1", "--workers", "0", "--device", "cpu"]
    assert main(["train", str(root), *options, "--iterations", "1"]) == 0
    assert "iteration 1" in capfd.readouterr().out
    assert main(["train", str(root), *options, "--iterations", "2"]) == 2
    assert "--resume" in capfd.readouterr().err
    assert main(["train", str(root), *options, "--iterations", "2", "--resume"]) == 0
    files = checkpoint_files(out / "weights")
    assert len(files) == 6 and files["texture_enhancer"].name == "2_texture_enhancer.pth"
    more = ["--stage", "enhancer", "--init", str(out / "weights"), "--iterations", "1"]
    assert main(["train", str(root), *options, *more, "-o", str(tmp_path / "enhancer")]) == 0


def _tiny(sizes: dict[str, int]) -> BilayerConfig:
    assert sizes == {"width": 32, "max_width": 256}
    return CONFIG.model
