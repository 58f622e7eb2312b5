"""The figures that the README promises, on whole clips: a quarter of an hour, so only with ``-m slow``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manvatar.demo import main as demo
from manvatar.fit import main as fit

pytestmark = pytest.mark.slow


def _scores(video: Path, out: Path) -> dict:
    assert fit([str(video), "-o", str(out)]) == 0
    for name in ("avatar.mav", "preview.mp4", "novel.mp4", "contact.png"):
        assert (out / name).stat().st_size > 1000, name
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize(
    ("clip", "frame_db", "head_db"),
    [("address_1280x720", 32.0, 30.2), ("beard_1080x1920", 31.9, 28.7), ("wavy_1080x1920", 28.2, 26.6)],
)
def test_real_clip(shared_data: Path, tmp_path: Path, clip: str, frame_db: float, head_db: float) -> None:
    scores = _scores(shared_data / "clips" / f"{clip}.mp4", tmp_path / "out")
    assert scores["frame"]["psnr_db"] > frame_db
    assert scores["frame"]["psnr_db"] > scores["nearest_frame"]["frame"]["psnr_db"] + 8
    assert scores["head"]["psnr_db"] > head_db
    assert scores["peak_memory_bytes"] < 4e9


def test_demo(tmp_path: Path) -> None:
    assert demo(["-o", str(tmp_path / "clip.mp4")]) == 0
    scores = _scores(tmp_path / "clip.mp4", tmp_path / "out")
    assert scores["frame"]["psnr_db"] > 29.5
    assert scores["frame"]["psnr_db"] > scores["nearest_frame"]["frame"]["psnr_db"] + 8
