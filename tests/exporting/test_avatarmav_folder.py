"""Dataset folders of AvatarMAV's released code, in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ellipsoid import ellipsoid_dataset, landmarks_head_m
from PIL import Image

from manvatar.dataset import load_dataset
from manvatar.errors import UserError
from manvatar.exporting.avatarmav import Export, folder_config, read_folder, write_folder
from manvatar.fields import PaperFieldConfig
from manvatar.geometry import project, transform
from manvatar.types import Dataset


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return ellipsoid_dataset(frames=14, held_out=2, size_px=64)


@pytest.fixture(scope="module")
def written(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    folder = tmp_path_factory.mktemp("avatarmav") / "somebody"
    points = landmarks_head_m()[36:].expand(14, -1, -1)
    return folder, write_folder(dataset, points, folder)


def test_what_is_in_it(dataset: Dataset, written: tuple[Path, Export]) -> None:
    folder, export = written
    assert export.frames == 12 and export.residual_px.max() < 1.5
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert names == sorted(
        [f"images/{kind}_{index:05d}.jpg" for kind in ("img", "mask") for index in range(12)]
        + [f"params/params_{index:05d}.npz" for index in range(12)]
    )
    with np.load(folder / "params" / "params_00003.npz", allow_pickle=False) as file:
        shapes = {name: (file[name].shape, file[name].dtype) for name in file}
        expression = file["exp_coeff"][0]
    single = np.dtype(np.float32)
    assert shapes == {
        "pose": ((1, 6), single),
        "scale": ((1,), single),
        "exp_coeff": ((1, 64), single),
        "id_coeff": ((1, 80), single),
    }
    np.testing.assert_array_equal(expression[:2], dataset.expression[3].numpy())
    assert (expression[2:] == 0).all()


def test_pictures_survive(dataset: Dataset, written: tuple[Path, Export]) -> None:
    """As JPEG: within a few grey levels on average."""
    image = np.asarray(Image.open(written[0] / "images" / "img_00005.jpg")).astype(float)
    mask = np.asarray(Image.open(written[0] / "images" / "mask_00005.jpg")).astype(float)
    assert image.shape == mask.shape == (64, 64, 3)
    truth = dataset.images[5].numpy()
    assert np.abs(image - truth[..., :3]).mean() < 4 and np.abs(mask - truth[..., 3:]).mean() < 4


def test_back_again(dataset: Dataset, written: tuple[Path, Export], tmp_path: Path) -> None:
    found = read_folder(written[0], tmp_path, "this run", holdout=2.0)
    assert found.train.tolist() == list(range(10)) and found.held_out.tolist() == [10, 11]
    torch.testing.assert_close(found.expression[:, :2], dataset.expression[:12])
    points = landmarks_head_m()[36:].expand(12, -1, -1)
    before = project(dataset.camera, transform(dataset.cam_from_head[:12], points))
    after = project(found.camera, transform(found.cam_from_head, points))
    assert (before - after).norm(dim=-1).square().mean(1).sqrt().max() < 1.5
    assert (found.images[3].int() - dataset.images[3].int()).abs().float().mean() < 5
    again = load_dataset(tmp_path, "this run")
    assert again is not None and torch.equal(again.images, found.images)
    depth_m = found.cam_from_head[:, 2, 3].mean()  # metres are metres there
    assert abs(float(depth_m) - 0.6 * 2500 / 256 / 2.2) < 0.25


def test_their_scale_sets_the_density(written: tuple[Path, Export]) -> None:
    folder, export = written
    config = folder_config(folder, PaperFieldConfig(hidden=64))
    assert config.hidden == 64 and config.density_scale_per_m == pytest.approx(1000 * export.scale, rel=1e-5)


def test_chosen_frames(dataset: Dataset, tmp_path: Path) -> None:
    export = write_folder(dataset, landmarks_head_m()[36:].expand(14, -1, -1), tmp_path, dataset.held_out)
    assert export.frames == 2 and len(list(tmp_path.rglob("img_*"))) == 2
    with pytest.raises(UserError, match="holds frames already"):
        write_folder(dataset, landmarks_head_m()[36:].expand(14, -1, -1), tmp_path)


def spoilt(written: tuple[Path, Export], folder: Path, name: str, content: bytes | None) -> Path:
    """A copy with one file missing or other than it was."""
    for path in written[0].rglob("*.*"):
        copy = folder / path.relative_to(written[0])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("params/params_00004.npz", None, "params_00004.npz is missing"),
        ("params/params_00004.npz", b"nothing", "is not a parameter file"),
        ("images/img_00002.jpg", None, "img_00002.jpg is missing"),
        ("images/img_00002.jpg", b"nothing", "cannot be read as an image"),
    ],
)
def test_what_is_wrong_is_said(
    written: tuple[Path, Export], tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    folder = spoilt(written, tmp_path / "copy", name, content)
    with pytest.raises(UserError, match=message):
        read_folder(folder, tmp_path / "work", "run", holdout=2.0)


def test_a_missing_mask_is_all_head(written: tuple[Path, Export], tmp_path: Path) -> None:
    folder = spoilt(written, tmp_path / "copy", "images/mask_00001.jpg", None)
    found = read_folder(folder, tmp_path / "work", "run", holdout=2.0)
    assert (found.images[1, ..., 3] == 255).all() and not (found.images[0, ..., 3] == 255).all()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no params"):
        read_folder(tmp_path, tmp_path / "work", "run")
