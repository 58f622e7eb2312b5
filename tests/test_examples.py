"""The examples run and make what they say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import imageio.v3 as iio
import numpy as np
import pytest
from small_fit import PRESET, SmallFit

import manvatar.reconstruction
from manvatar import Avatar
from manvatar.driving import read_coefficients
from manvatar.tracking import load_track
from manvatar.video import open_clip

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


def example(number: int) -> ModuleType:
    (path,) = [path for path in EXAMPLES if path.name.startswith(f"{number:02d}_")]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_they_are_short_and_say_how_to_run_them(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 60 and f"python examples/{path.name}" in text


def test_all_have_a_test() -> None:
    assert [path.name[:2] for path in EXAMPLES] == ["01", "02", "03", "04", "05"]


def test_fit_a_video(
    small_fit: SmallFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(manvatar.reconstruction, "write_novel", lambda *_, **__: None)  # takes long
    preset = tmp_path / "brief.toml"
    preset.write_text(re.sub(r"iterations = \d+", "iterations = 5", PRESET, count=1))
    example(1).main(small_fit.video, tmp_path / "out", preset=str(preset), size=64)
    output = capsys.readouterr().out
    assert "frames it has never seen" in output and "jawOpen" in output
    assert iio.imread(tmp_path / "out" / "neutral.png").shape == (128, 128, 4)
    assert (tmp_path / "out" / "avatar.mav").is_file()


def test_render_expressions(small_fit: SmallFit, tmp_path: Path) -> None:
    module = example(2)
    module.main(small_fit.out / "avatar.mav", tmp_path / "e.mp4", frames=3, size=64)
    clip = open_clip(tmp_path / "e.mp4")
    assert clip.frame_count == 9 and clip.size_px == (64, 64)

    module.main(small_fit.out / "avatar.mav", tmp_path / "images", frames=3, size=128)
    shown = [iio.imread(path).astype(int) for path in sorted((tmp_path / "images").iterdir())]
    assert len(shown) == 9
    for start in (0, 3, 6):
        assert (shown[start] == shown[start + 2]).all()  # from rest to rest
        assert np.abs(shown[start + 1] - shown[start]).max() > 3

    avatar = Avatar.load(small_fit.out / "avatar.mav", "cpu")
    ramp = module.ramp(avatar, ("jawOpen",), 5)
    index = avatar.expression_names.index("jawOpen")
    assert ramp[2, index] == avatar.expression_range[1][index] and ramp[0, index] == avatar.neutral[index]
    assert (ramp.diff(dim=0) != 0).any(0).sum() == 1
    with pytest.raises(SystemExit, match="this avatar has no earWiggle"):
        module.ramp(avatar, ("earWiggle",), 5)


def test_turn_the_head(small_fit: SmallFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example(3).main(small_fit.out / "avatar.mav", tmp_path, degrees=10, frames=4, size=64)
    strip = iio.imread(tmp_path / "strip.png")
    assert strip.shape == (64, 320, 4) and all(strip[:, 64 * i : 64 * i + 64, 3].mean() > 40 for i in range(5))
    assert np.abs(strip[:, :64].astype(int) - strip[:, 256:]).mean() > 5  # two sides
    assert open_clip(tmp_path / "turn.mp4").frame_count == 4
    near, far = map(float, re.findall(r"(\d\.\d+) (?:to|m)", capsys.readouterr().out))
    assert 0.3 < near < far < 1.0  # the truth is 0.5 to 0.7


def test_track_only(small_fit: SmallFit, tmp_path: Path) -> None:
    example(4).main(small_fit.video, tmp_path)
    track = load_track(tmp_path / "track.safetensors")
    read = read_coefficients(tmp_path / "expressions.csv", track.expression_names)  # as the render command reads it
    np.testing.assert_allclose(read.expression, track.expression, atol=1e-4)
    picture = iio.imread(tmp_path / "curves.png")
    assert picture.shape == (360, 900, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5 and 0.8 < (picture > 250).all(-1).mean() < 0.99


def test_your_own_field(tmp_path: Path) -> None:
    example(5).main(tmp_path / "balls.png", size=40)
    picture = iio.imread(tmp_path / "balls.png").astype(int)
    assert picture.shape == (40, 200, 4)
    blue = (picture[..., 2] > picture[..., 0] + 50) & (picture[..., 3] > 128)
    red = (picture[..., 0] > picture[..., 2] + 50) & (picture[..., 3] > 128)
    sizes = [int(blue[:, 40 * i : 40 * i + 40].sum()) for i in range(5)]
    assert sizes == sorted(sizes) and sizes[4] > 8 * sizes[1] / 2 > 0  # grows with its expression
    assert all(red[:, 40 * i : 40 * i + 40].sum() > 60 for i in range(5))
