"""The compare command as a user types it: one table and one video, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_fit import ITERATIONS, PRESET, SmallFit

from manvatar.baselines.faces import FaceError
from manvatar.baselines.one_video import PortraitAvatar
from manvatar.compare import METHODS, Row, finished_before, main, markdown, remembered
from manvatar.metrics import RegionScore, Scores
from manvatar.reconstruction import Reconstructor
from manvatar.tracking import load_track
from manvatar.video import open_clip

PORTRAIT = """
iterations = 12
images_per_iteration = 4
warmup_iterations = 4
precision = "float32"

[network]
width = 8
max_width = 32
"""


@pytest.fixture(scope="module")
def compared(small_fit: SmallFit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command has filled for all methods."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "portrait.toml").write_text(PORTRAIT)
    (folder / "voxels.toml").write_text(PRESET.replace(f"iterations = {ITERATIONS}", "iterations = 30"))
    assert main(arguments(small_fit, folder)) == 0
    return folder


def arguments(small_fit: SmallFit, folder: Path, *more: str) -> list[str]:
    given = [str(small_fit.video), "-o", str(folder / "out"), "--preset", str(folder / "voxels.toml"), "--size", "64"]
    return [*given, "--portrait-preset", str(folder / "portrait.toml"), "--holdout", "3", *more]


def test_one_table(compared: Path) -> None:
    content = json.loads((compared / "out" / "comparison.json").read_text())
    assert content["version"] == 1 and content["frames"] == 3 and content["size_px"] == [64, 64]
    rows = {row["method"]: row for row in content["rows"]}
    assert list(rows) == [*METHODS, "nearest_frame"]
    for name, row in rows.items():
        assert 5 < row["frame"]["psnr_db"] < 60 and row["frame"]["lpips_alex"] is None and row["csim"] is None
        assert (row["file_bytes"] is None) == (row["frame_ms"] is None) == (name == "nearest_frame")
    for name in METHODS:
        assert rows[name]["file_bytes"] == (compared / "out" / name / "avatar.mav").stat().st_size
        assert 0.1 < rows[name]["frame_ms"] < 5000 and rows[name]["train_s"] > 0
    scores = json.loads((compared / "out" / "bilayer" / "scores.json").read_text())
    assert scores["frame"]["psnr_db"] == pytest.approx(rows["bilayer"]["frame"]["psnr_db"], abs=0.02)
    assert scores["preset"] == "bilayer" and scores["iterations"] == 12
    text = (compared / "out" / "comparison.md").read_text().splitlines()
    assert len(text) == 2 + len(rows) and all(line.count("|") == text[0].count("|") for line in text)


def test_all_hold_out_the_same_frames(compared: Path) -> None:
    avatar = PortraitAvatar.load(compared / "out" / "bilayer" / "avatar.mav", "cpu")
    assert avatar.header.training["held_out_frames"] == [21, 22, 23]
    assert load_track(compared / "out" / "track.safetensors").frame_count == 24
    assert not (compared / "out" / "work").exists()


def test_one_video(compared: Path) -> None:
    clip = open_clip(compared / "out" / "comparison.mp4")
    assert clip.frame_count == 3 and clip.size_px == (4 * 64, 64)


def test_what_is_finished_is_found_again(small_fit: SmallFit, compared: Path) -> None:
    def maker(seed: int) -> Reconstructor:
        return Reconstructor(str(compared / "portrait.toml"), holdout=3.0, size_px=64, seed=seed, model="bilayer")

    clip, folder = open_clip(small_fit.video), compared / "out" / "bilayer"
    avatar, seconds = finished_before(maker(0), clip, folder)
    assert isinstance(avatar, PortraitAvatar) and seconds > 0
    assert finished_before(maker(1), clip, folder) is None
    assert finished_before(maker(0), clip, compared) is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "bilayer,voxels"], "there is no method 'voxels'"),
        (["--methods", "bilayer,bilayer"], "one of them twice"),
        (["--methods", ","], "names no method"),
        (["--size", "96"], "--size 96 is not possible with --model bilayer"),
        (["--csim", "none.pth"], "no such file: none.pth"),
        (["--holdout", "0"], "nothing to compare on"),
    ],
)
def test_bad_input(
    small_fit: SmallFit, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main([str(small_fit.video), "-o", str(tmp_path / "out"), *more]) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error


def row(method: str, psnr_db: float, landmark_px: float | None) -> Row:
    region = RegionScore(psnr_db, 0.5, 0.01)
    scores = Scores(region, region, region, region, (1,), (psnr_db,), (64, 64))
    return Row(method, scores, FaceError(landmark_px, landmark_px, 0.1, 1, 0), 12.0 if landmark_px else None)


def test_the_best_is_bold() -> None:
    text = markdown([row("a", 20.0, 3.0), row("b", 22.0, 2.0), row("c", 21.0, None)])
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:]] for line in text.splitlines()}
    assert cells["b"][0] == "**22.00**" and cells["a"][0] == "20.00"
    landmarks = cells["method"].index("landmarks px")
    assert (cells["a"][landmarks], cells["b"][landmarks], cells["c"][landmarks]) == ("3.00", "**2.00**", "-")


def test_every_frame_is_rendered_once() -> None:
    calls = []

    def renderer(number: int) -> torch.Tensor:
        calls.append(number)
        return torch.full((2, 2, 3), 0.5)

    kept = remembered(renderer)
    assert torch.equal(kept(3), kept(3)) and calls == [3]
    torch.testing.assert_close(kept(3), torch.full((2, 2, 3), 128 / 255))
