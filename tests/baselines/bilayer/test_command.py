"""``python -m manvatar.bilayer`` as a user types it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from baselines.bilayer.tiny_model import tiny_model
from PIL import Image
from skimage import data

from manvatar.baselines.bilayer.model import add_spectral_norm
from manvatar.baselines.bilayer.official import save_official
from manvatar.baselines.bilayer.onnx_export import OnnxFrames
from manvatar.baselines.photo import prepare_photo, read_picture
from manvatar.bilayer import main
from manvatar.face_models import load
from manvatar.tracking import save_track
from manvatar.types import Track
from manvatar.video import frames, open_clip, writer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny model, a photo, its track as a driver of six frames, and a video that shows it."""
    where = tmp_path_factory.mktemp("bilayer")
    torch.manual_seed(0)
    model = tiny_model()
    add_spectral_norm(model)
    save_official(where / "weights", model.eval())
    Image.fromarray(data.astronaut()).save(where / "photo.png")
    track = prepare_photo(read_picture(where / "photo.png"), load("builtin"), 32).track
    save_track(_repeated(track, 6), where / "driver.safetensors")
    with writer(where / "driver.mp4", 25.0, (512, 512), synthetic=False) as video:
        for _ in range(4):
            video.write(torch.from_numpy(data.astronaut()))
    return where


def _repeated(track: Track, count: int) -> Track:
    expression = track.expression.repeat(count, 1)
    expression[:, 0] += torch.linspace(0, 3, count)
    return replace(
        track,
        expression=expression,
        cam_from_head=track.cam_from_head.repeat(count, 1, 1),
        residual_px=track.residual_px.repeat(count),
        valid=track.valid.repeat(count),
    )


def _run(folder: Path, verb: str, out: str, *more: str) -> int:
    return main([verb, str(folder / "photo.png"), "--weights", str(folder / "weights"), "-o", str(folder / out), *more])


def _drive(folder: Path, out: str, *more: str, driver: str = "driver.safetensors") -> int:
    return _run(folder, "animate", out, "--drive", str(folder / driver), *more)


def test_a_track_drives_a_photo(folder: Path) -> None:
    assert _drive(folder, "out.mp4", "--no-visible-mark", "--device", "cpu") == 0
    clip = open_clip(folder / "out.mp4")
    assert (clip.frame_count, clip.size_px) == (6, (32, 32))
    images = torch.stack([frame.image for frame in frames(clip)]).float()
    assert images.std((1, 2, 3)).min() > 5
    with av.open(str(folder / "out.mp4")) as opened:
        assert opened.metadata["comment"].startswith("Synthetic")


def test_a_video_drives_a_photo(folder: Path) -> None:
    assert _drive(folder, "video.mp4", "--background", "black", "--motion", "absolute", driver="driver.mp4") == 0
    assert open_clip(folder / "video.mp4").frame_count == 4


def test_half_precision_no_steps_and_painted_background(folder: Path) -> None:
    options = ["--precision", "bfloat16", "--steps", "0", "--background", "painted", "--old-sampling"]
    assert _drive(folder, "half.mkv", *options) == 0
    assert open_clip(folder / "half.mkv").frame_count == 6


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("x.mp4", ["--steps", "-1"], "--steps -1 is out of range"),
        ("x.mp4", ["--background", "transparent"], "cannot be transparent"),
        ("x.mp4", ["--landmarks", "eyes"], "--landmarks eyes is not known"),
        ("x.mp4", ["--face-model", "nowhere.h5"], "nowhere.h5"),
        ("x.gif", [], "x.gif"),
    ],
)
def test_mistakes(folder: Path, capfd: pytest.CaptureFixture[str], out: str, options: list[str], message: str) -> None:
    assert _drive(folder, out, *options) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error and not (folder / out).exists()


def test_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and "animate" in capsys.readouterr().out
    assert main([]) == 2 and main(["dance"]) == 2
    assert "export-onnx" in capsys.readouterr().err


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install manvatar[onnx]",
)
def test_a_photo_as_onnx(folder: Path) -> None:
    assert _run(folder, "export-onnx", "person.onnx") == 0
    image, mask = OnnxFrames(folder / "person.onnx")(torch.zeros(2, 136))
    assert image.shape == (2, 3, 32, 32) and mask.shape == (2, 1, 32, 32) and image.std() > 0.05


def test_onnx_files_are_called_so(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(folder, "export-onnx", "person.txt") == 2
    assert "ends in .onnx" in capfd.readouterr().err
