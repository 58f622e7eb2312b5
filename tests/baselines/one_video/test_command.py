"""A 2D avatar is rendered by the command that renders all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from baselines.one_video.small import small_dataset
from baselines.one_video.test_avatar import avatar_of

from manvatar.render import main
from manvatar.video import frames, open_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drive")
    dataset = small_dataset(12, 2)
    avatar_of(dataset).save(folder / "bilayer.mav")
    avatar_of(dataset, "fewshot").save(folder / "fewshot.mav")
    opening = np.linspace(-1, 1, 5)
    np.savez(folder / "open.npz", open=opening, frame_rate_hz=5.0)
    np.savez(folder / "offset.npz", open=opening + 7, frame_rate_hz=5.0)
    np.savez(folder / "turn.npz", yaw_rad=np.linspace(-0.3, 0.3, 9), frame_rate_hz=10.0)
    (folder / "still.json").write_text(json.dumps({"open": [0.5]}))
    return folder


def shown(path: Path) -> torch.Tensor:
    return torch.stack([frame.image for frame in frames(open_clip(path))]).float()


def typed(folder: Path, out: Path, *more: str) -> list[str]:
    return [str(folder / "bilayer.mav"), "-o", str(out), *more]


def test_coefficients_and_poses_in_step(folder: Path, tmp_path: Path) -> None:
    """5 frames at 5 Hz and 9 at 10 Hz last equally long; the poses' rate is not the first that is stated."""
    out = tmp_path / "out.mp4"
    more = ["--coefficients", str(folder / "open.npz"), "--poses", str(folder / "turn.npz"), "--size", "64"]
    assert main(typed(folder, out, *more)) == 0
    clip = open_clip(out)
    assert clip.frame_count == 5 and clip.size_px == (64, 64) and clip.frame_rate_hz == pytest.approx(5)
    assert (shown(out)[0] - shown(out)[-1]).abs().mean() > 0.05


def test_one_expression_lasts_as_long_as_the_poses(folder: Path, tmp_path: Path) -> None:
    more = ["--coefficients", str(folder / "still.json"), "--poses", str(folder / "turn.npz")]
    assert main(typed(folder, tmp_path / "out", *more)) == 0
    assert len(list((tmp_path / "out").glob("frame_*.png"))) == 9


def test_relative_to_the_first_frame(folder: Path, tmp_path: Path) -> None:
    """A driver whose neutral face lies elsewhere drives alike."""
    made = []
    for name in ("open", "offset"):
        out = tmp_path / f"{name}.mp4"
        assert main(typed(folder, out, "--coefficients", str(folder / f"{name}.npz"), "--relative")) == 0
        made.append(shown(out))
    assert torch.equal(*made)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--coefficients", "none.npz"], "no such file"),
        (["--coefficients", "open.npz", "--poses", "open.npz"], "has no head poses"),
        (["--coefficients", "open.npz", "--frame-rate", "0"], "--frame-rate 0 is out of range"),
        (["--coefficients", "open.npz", "--size", "3"], "--size 3 is out of range"),
        (["--coefficients", "open.npz", "--background", "green"], "--background cannot be 'green'"),
        (["--coefficients", "open.npz", "-o", "out.gif"], "cannot write out.gif"),
    ],
)
def test_bad_input(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert main(typed(folder, tmp_path / "out", *more)) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_the_background_of_fewshot_is_its_own(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = [str(folder / "fewshot.mav"), "--coefficients", str(folder / "still.json"), "-o", str(tmp_path / "a.png")]
    assert main([*given, "--background", "black"]) == 2
    assert "its own white background" in capfd.readouterr().err
    assert main(given) == 0 and (tmp_path / "a.png").is_file()
