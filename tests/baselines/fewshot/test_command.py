"""``python -m manvatar.fewshot`` as a user types it; networks are tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from baselines.corpus.painted import make_corpus
from baselines.fewshot.tiny_training import TINY
from PIL import Image
from skimage import data

from manvatar.baselines.fewshot.person import FewShotPerson
from manvatar.baselines.photo import prepare_photo, read_picture
from manvatar.face_models import load
from manvatar.fewshot import main
from manvatar.tracking import save_track
from manvatar.video import frames, open_clip, writer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo and its mirror image, a driver of five frames, and weights of a run of two episodes."""
    where = tmp_path_factory.mktemp("fewshot")
    root = make_corpus(where / "corpus")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("manvatar.fewshot.FewShotConfig", lambda width, most: TINY)
        options = ["--people", "2", "--frames", "1", "--workers", "0", "--device", "cpu", "--iterations", "2"]
        assert main(["train", str(root), "-o", str(where / "run"), *options]) == 0
        assert main(["train", str(root), "-o", str(where / "run"), *options]) == 2  # there is one already
        assert main(["train", str(root), "-o", str(where / "run"), *options, "--resume"]) == 0
    (where / "photos").mkdir()
    Image.fromarray(data.astronaut()).save(where / "photos/a.png")
    Image.fromarray(data.astronaut()[:, ::-1].copy()).save(where / "photos/b.png")
    Image.fromarray(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()).save(where / "nobody.png")
    track = prepare_photo(read_picture(where / "photos/a.png"), load("builtin"), 32).track
    expression = track.expression.repeat(5, 1)
    expression[:, 0] += torch.linspace(0, 3, 5)
    driver = replace(
        track,
        expression=expression,
        cam_from_head=track.cam_from_head.repeat(5, 1, 1),
        residual_px=track.residual_px.repeat(5),
        valid=track.valid.repeat(5),
    )
    save_track(driver, where / "driver.safetensors")
    return where


def _finetune(folder: Path, *photos: str, out: str = "person", options: tuple[str, ...] = ()) -> int:
    paths = [str(folder / photo) for photo in photos]
    more = ["--weights", str(folder / "run"), "-o", str(folder / out), "--device", "cpu", *options]
    return main(["finetune", *paths, *more])


def test_pictures_become_a_person_that_a_track_drives(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--iterations", "40", "--learning-rate", "2e-3")
    assert _finetune(folder, "photos", "nobody.png", options=options) == 0
    said = capfd.readouterr()
    assert "2 pictures" in said.out and "left out picture 3: no face" in said.err
    first, last = (float(word.rstrip("\n")) for word in said.out.split("content loss ")[1].split(" -> "))
    assert last < 0.7 * first
    assert sorted(path.name for path in (folder / "person").iterdir()) == ["head.safetensors", "track.safetensors"]
    out = folder / "out.mp4"
    options = ["-o", str(out), "--no-visible-mark", "--device", "cpu"]
    assert main(["animate", str(folder / "person"), "--drive", str(folder / "driver.safetensors"), *options]) == 0
    clip = open_clip(out)
    assert (clip.frame_count, clip.size_px) == (5, (32, 32))
    assert torch.stack([frame.image for frame in frames(clip)]).float().std((1, 2, 3)).min() > 5
    with av.open(str(out)) as opened:
        assert opened.metadata["comment"].startswith("Synthetic")


def test_frames_of_a_video_serve_too(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with writer(folder / "clip.mp4", 25.0, (512, 512), synthetic=False) as video:
        for _ in range(6):
            video.write(torch.from_numpy(data.astronaut()))
    assert _finetune(folder, "clip.mp4", out="other", options=("--frames", "3", "--iterations", "1")) == 0
    assert "3 pictures" in capfd.readouterr().out
    person = FewShotPerson.load(folder / "other")
    image, mask = person.network()(torch.zeros(2, 136))
    assert image.shape == (2, 3, 32, 32) and mask.min() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{folder}", "-o", "{folder}/x"], "lacks imgs/train"),
        (["train", "{folder}/corpus", "-o", "{folder}/x", "--frames", "0"], "must be positive"),
        (["finetune", "{folder}/photos", "--weights", "{folder}/photos", "-o", "{folder}/x"], "no such file"),
        (["finetune", "{folder}/nobody.png", "--weights", "{folder}/run", "-o", "{folder}/x"], "no picture could be"),
        (["finetune", "{folder}/corpus", "--weights", "{folder}/run", "-o", "{folder}/x"], "holds no picture"),
        (["animate", "{folder}/run", "--drive", "{folder}/driver.safetensors", "-o", "{folder}/x.mp4"], "finetune"),
    ],
)
def test_mistakes(folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main([text.format(folder=folder) for text in arguments]) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error


def test_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and "finetune" in capsys.readouterr().out
    assert main([]) == 2 and "animate" in capsys.readouterr().err
