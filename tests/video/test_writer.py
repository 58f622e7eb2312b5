"""Written videos: read back the same, padded where needed, marked as synthetic, never half-written."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video.small_videos import numbered_image, read_number

from manvatar.errors import UserError
from manvatar.video import frames, open_clip, writer


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with writer(path, 30.0, (96, 64), synthetic=True) as video:
        for i in range(10):
            video.write(torch.from_numpy(numbered_image(i)))
        assert video.frame_count == 10
    clip = open_clip(path)
    assert (clip.size_px, clip.frame_count) == ((96, 64), 10)
    assert clip.frame_rate_hz == pytest.approx(30)
    assert [read_number(frame.image.numpy()) for frame in frames(clip)] == list(range(10))


def test_colours_survive(tmp_path: Path) -> None:
    colors = np.array([(200, 30, 30), (30, 180, 40), (40, 50, 210), (255, 255, 255), (225, 180, 150), (0, 0, 0)])
    image = np.repeat(np.repeat(colors[None].astype(np.uint8), 32, 1), 64, 0)
    path = tmp_path / "colours.mp4"
    with writer(path, 25.0, image.shape[1::-1], synthetic=False, quality=5) as video:
        video.write(image)
    (got,) = frames(open_clip(path))
    assert np.abs(got.image[32, 16::32].numpy().astype(int) - colors).max() <= 4


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with writer(path, 25.0, (33, 21), synthetic=True) as video:
        video.write(np.full((21, 33, 3), 90, np.uint8))
    clip = open_clip(path)
    assert clip.size_px == (34, 22)
    (frame,) = frames(clip)
    assert (frame.image.int() - 90).abs().max() <= 3  # the padding repeats the edge


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_says_that_it_is_synthetic(tmp_path: Path, suffix: str) -> None:
    for synthetic in (True, False):
        path = tmp_path / f"{synthetic}{suffix}"
        with writer(path, 25.0, (32, 32), synthetic=synthetic) as video:
            video.write(np.zeros((32, 32, 3), np.uint8))
        with av.open(str(path)) as container:
            comments = {key.lower(): value for key, value in container.metadata.items()}
        assert ("rendered by software" in comments.get("comment", "")) == synthetic


def test_index_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with writer(path, 25.0, (32, 32), synthetic=True) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(RuntimeError, match="stop"), writer(path, 25.0, (32, 32), synthetic=True) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError("stop")
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_input(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="ends in .mp4, .mov or .mkv"),
        writer(tmp_path / "out.gif", 25.0, (32, 32), synthetic=True),
    ):
        pass
    with (
        pytest.raises(UserError, match="no frame was written"),
        writer(tmp_path / "out.mp4", 25.0, (32, 32), synthetic=True),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"expected \(32, 32, 3\) uint8, got \(16, 32, 3\)"),
        writer(tmp_path / "out.mp4", 25.0, (32, 32), synthetic=True) as video,
    ):
        video.write(np.zeros((16, 32, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
