"""The fit command as a user types it: what it makes, what it refuses, and how it goes on after a crash."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from small_fit import ITERATIONS, SmallFit

import manvatar.preparation
import manvatar.reconstruction
from manvatar import Avatar
from manvatar.errors import UserError
from manvatar.fit import main
from manvatar.geometry import vector_from_rotation
from manvatar.tracking import load_track
from manvatar.video import frames, open_clip, writer

PROMISED = ["avatar.mav", "contact.png", "novel.mp4", "preview.mp4", "scores.json", "track.safetensors"]
PROMISED += ["track_report.png"]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def psnr_db(folder: Path) -> float:
    return json.loads((folder / "scores.json").read_text())["frame"]["psnr_db"]


def test_all_that_is_promised_is_there_and_nothing_else(small_fit: SmallFit) -> None:
    assert names(small_fit.out) == PROMISED
    contact = iio.imread(small_fit.out / "contact.png")
    assert contact.ndim == 3 and contact.std() > 10
    trust = iio.imread(small_fit.out / "track_report.png")
    assert trust.shape[1] > 500 and trust.std() > 10
    preview, novel = open_clip(small_fit.out / "preview.mp4"), open_clip(small_fit.out / "novel.mp4")
    assert preview.frame_count == 3 and preview.size_px[0] > preview.size_px[1]  # truth beside render
    assert novel.frame_count == 12 * 36


def test_scores(small_fit: SmallFit) -> None:
    """Better than the best training frame, although it has been trained for seconds only."""
    table = json.loads((small_fit.out / "scores.json").read_text())
    assert table["version"] == 1 and table["frames"] == 3 and table["size_px"] == [64, 64]
    for region in ("frame", "head", "mouth", "eyes"):
        assert 10 < table[region]["psnr_db"] < 60 and 0 < table[region]["ssim"] < 1
        assert table[region]["lpips_alex"] is None
    assert table["frame"]["psnr_db"] > 20
    assert table["frame"]["psnr_db"] > table["nearest_frame"]["frame"]["psnr_db"] + 1
    seconds = table["seconds"]
    assert all(seconds[part] > 0 for part in ("track", "train", "score", "total"))
    assert seconds["total"] > seconds["track"] + seconds["train"]
    assert 2e8 < table["peak_memory_bytes"] < 4e9
    assert (table["device"], table["seed"], table["iterations"]) == ("cpu", 0, ITERATIONS)


def test_the_avatar_says_what_it_is(small_fit: SmallFit) -> None:
    avatar = Avatar.load(small_fit.out / "avatar.mav", "cpu")
    header = avatar.header
    assert header.training["iterations"] == ITERATIONS and header.training["held_out_frames"] == [21, 22, 23]
    assert header.scores["frame"]["psnr_db"] == psnr_db(small_fit.out)
    assert header.camera_size_px == (64, 64) and header.face_model == small_fit.truth.face_model
    assert header.provenance["synthetic"] is True and len(avatar.expression_names) == 36


def test_the_avatar_shows_the_head(small_fit: SmallFit) -> None:
    avatar = Avatar.load(small_fit.out / "avatar.mav", "cpu")
    image = avatar.render(avatar.neutral).numpy()
    alpha = image[..., 3] / 255
    assert 0.15 < alpha.mean() < 0.8 and alpha[20:44, 20:44].mean() > 0.95 and alpha[:3].mean() < 0.2
    face = image[24:44, 24:40, :3].reshape(-1, 3).mean(0)
    assert face[0] > face[2] + 15  # skin


def test_the_track_follows_the_truth(small_fit: SmallFit) -> None:
    track = load_track(small_fit.out / "track.safetensors")
    assert track.frame_count == 24 and track.valid.all() and track.frame_rate_hz == pytest.approx(5)
    turned = track.cam_from_head[:, :3, :3] @ small_fit.truth.cam_from_head[:, :3, :3].mT
    relative = turned @ turned[:1].mT  # a constant difference is a matter of what is called straight ahead
    angle = vector_from_rotation(relative.double()).norm(dim=1)
    assert float(angle.max()) < math.radians(6)


def test_held_out_frames_are_what_the_preview_shows(small_fit: SmallFit) -> None:
    shown = [frame.image.float() for frame in frames(open_clip(small_fit.out / "preview.mp4"))]
    halves = [image[:, : image.shape[1] // 2] - image[:, image.shape[1] // 2 :] for image in shown]
    assert all(5 < float(h.square().mean().sqrt()) < 60 for h in halves)  # alike, and not the same picture twice


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs that cannot be used."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.mp4").write_text("not a video")
    (folder / "model.npz").write_bytes(b"PK not really")
    np.savez(folder / "other.npz", something=np.zeros(3))
    (folder / "broken.toml").write_text("[training\n")
    (folder / "unknown.toml").write_text("[training]\niteratons = 3\n")
    (folder / "points.txt").write_text("1 2 3")
    with writer(folder / "noface.mp4", 25.0, (96, 96), synthetic=True) as video:
        for level in range(10):
            video.write(torch.full((96, 96, 3), 100 + level, dtype=torch.uint8))
    return folder


BAD_INPUT = [
    (["none.mp4"], "no such file"),
    (["text.mp4"], "is not a video"),
    (["."], "is a folder, not a video"),
    (["noface.mp4"], "no face was found in any frame"),
    (["CLIP", "--end", "1"], "only 5 usable frames are left to train on"),
    (["CLIP", "--start", "99"], "no frame between 99 s and its end"),
    (["CLIP", "--face-model", "none.h5"], "there is no face model none.h5"),
    (["CLIP", "--face-model", "model.npz"], "is not a face model this version reads"),
    (["CLIP", "--face-model", "other.npz"], "is not a face model this version reads"),
    (["CLIP", "--landmarks", "none.csv"], "no such landmark file"),
    (["CLIP", "--landmarks", "points.txt"], "is not one of .npz, .csv, .json"),
    (["CLIP", "--size", "100"], "--size 100 is not possible; give a multiple of 8"),
    (["CLIP", "--size", "32"], "--size 32 is not possible"),
    (["CLIP", "--preset", "fats"], "there is no preset 'fats'"),
    (["CLIP", "--preset", "broken.toml"], "broken.toml is not valid TOML"),
    (["CLIP", "--preset", "unknown.toml"], "unknown key 'iteratons'"),
    (["CLIP", "--holdout", "-1"], "--holdout -1 is not possible"),
    (["CLIP", "--holdout", "nan"], "--holdout nan is not possible"),
    (["CLIP", "--holdout", "20"], "only 4 usable frames are left to train on (of 24, 20 held out)"),
    (["CLIP", "--max-seconds", "0"], "--max-seconds 0 is not possible"),
    (["CLIP", "--max-seconds", "nan"], "--max-seconds nan is not possible"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT, ids=[" ".join(case[0]) for case in BAD_INPUT])
def test_bad_input_is_one_sentence(
    small_fit: SmallFit,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(files)
    (tmp_path / "avatar.mav").write_text("an earlier one")
    typed = [str(small_fit.video) if argument == "CLIP" else argument for argument in arguments]
    assert main([*typed, "-o", str(tmp_path)]) == 2
    output = capfd.readouterr()
    errors = [line for line in output.err.replace("\r", "\n").splitlines() if "error" in line]
    assert len(errors) == 1 and errors[0].startswith("manvatar fit: error: ") and message in errors[0]
    assert "Traceback" not in output.err and output.out == ""
    assert names(tmp_path) == ["avatar.mav"] and (tmp_path / "avatar.mav").read_text() == "an earlier one"


@pytest.mark.parametrize("flag", [["--device", "tpu"], ["--size", "large"], ["--no-such-flag"], []])
def test_wrong_usage(flag: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*(["clip.mp4", "-o", str(tmp_path / "out")] if flag else []), *flag]) == 2
    error = capfd.readouterr().err
    assert "manvatar fit --help" in error and "Traceback" not in error and not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(small_fit: SmallFit, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(small_fit.arguments(tmp_path / "out", "--device", "cuda")) == 2
    assert "--device" in capfd.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written(
    small_fit: SmallFit, tmp_path: Path, capfd: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(small_fit.arguments(tmp_path / out)) == 2
    error = capfd.readouterr().err
    assert error.startswith("manvatar fit: error: cannot ") and error.count("\n") == 1 and "another output" in error
    assert names(tmp_path) == ["file"]


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "manvatar.fit", "none.mp4", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": _ROOT}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("manvatar fit: error: no such file: none.mp4") and done.stderr.count("\n") == 1
    assert names(tmp_path) == []


# --------------------------------------------------------------------------------------------------------- resuming

_ROOT = str(Path(__file__).resolve().parents[1])

# The command, which leaves a checkpoint at one iteration and is killed, as by kill -9, at a later one.
KILLED = """
import os, signal, sys
import torch
import manvatar.reconstruction as reconstruction
from manvatar.fit import main

torch.set_num_threads(int(sys.argv[1]))

def saving(checkpoint, run_id, preview):
    def after_iteration(trainer):
        if trainer.progress.iteration == 120:
            reconstruction.save_checkpoint(trainer, checkpoint, run_id)
        if trainer.progress.iteration == 130:
            os.kill(os.getpid(), signal.SIGKILL)
    return after_iteration

reconstruction._saving = saving
main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def killed(small_fit: SmallFit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that was killed while it was training, with an avatar of an earlier run in it."""
    out = tmp_path_factory.mktemp("killed")
    (out / "avatar.mav").write_text("an earlier one")
    command = [sys.executable, "-c", KILLED, str(torch.get_num_threads()), *small_fit.arguments(out)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": _ROOT}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return out


@pytest.fixture
def no_tour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the tour of all expressions, which takes as long as the rest."""
    monkeypatch.setattr(manvatar.reconstruction, "write_novel", lambda *_, **__: None)


def copied(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "out"))


def test_a_killed_run_has_touched_nothing(killed: Path) -> None:
    assert (killed / "avatar.mav").read_text() == "an earlier one"
    assert [name for name in names(killed) if not name.startswith("work")] == ["avatar.mav"]


def test_resuming_equals_not_stopping(small_fit: SmallFit, killed: Path, tmp_path: Path, no_tour: None) -> None:
    out = copied(killed, tmp_path)
    (out / "work" / "thesis.txt").write_text("somebody else's")
    tracked_at = (out / "work" / "track.safetensors").stat().st_mtime_ns
    assert main(small_fit.arguments(out, "--resume")) == 0
    assert names(out) == [*(name for name in PROMISED if name != "novel.mp4"), "work", "work/thesis.txt"]
    assert (out / "track.safetensors").stat().st_mtime_ns == tracked_at  # it was not made again
    resumed, whole = (Avatar.load(folder / "avatar.mav", "cpu") for folder in (out, small_fit.out))
    assert resumed.header.training["iterations"] == ITERATIONS
    assert psnr_db(out) == pytest.approx(psnr_db(small_fit.out), abs=0.2)
    state, expected = resumed.field.state_dict(), whole.field.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def stop_at_tracking(*_: object, **__: object) -> None:
    raise UserError("it starts from the beginning")


@pytest.mark.parametrize("flags", [["--resume", "--seed", "5"], []], ids=["of other settings", "not asked for"])
def test_what_is_not_resumed_is_made_again(
    small_fit: SmallFit,
    killed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    flags: list[str],
) -> None:
    monkeypatch.setattr(manvatar.preparation, "track_clip", stop_at_tracking)
    assert main(small_fit.arguments(copied(killed, tmp_path), *flags)) == 2
    assert "it starts from the beginning" in capfd.readouterr().err


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoint.safetensors", cut),
        ("dataset.safetensors", cut),
        ("images.rgba", cut),
        ("images.rgba", Path.unlink),
        ("track.safetensors", cut),
    ],
)
def test_a_damaged_run_is_not_resumed(
    small_fit: SmallFit,
    killed: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    out = copied(killed, tmp_path)
    damage(out / "work" / name)
    assert main(small_fit.arguments(out, "--resume")) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1 and name in errors[0]
    assert (out / "avatar.mav").read_text() == "an earlier one"
