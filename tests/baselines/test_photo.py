"""A photo made ready: crop as the released model's, matte, landmarks; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from baselines.bilayer.tiny_model import TINY, tiny_model
from PIL import Image
from skimage import data

from manvatar.baselines.bilayer.animation import person_of
from manvatar.baselines.bilayer.fast import accelerated
from manvatar.baselines.photo import Crop, Photo, eroded, prepare_photo, read_picture
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.tracking import landmarks_px


@pytest.fixture(scope="module")
def astronaut() -> Photo:
    return prepare_photo(torch.from_numpy(data.astronaut()), load("builtin"), 64)


def test_the_crop_is_twice_the_face_and_a_little_up() -> None:
    points = torch.full((68, 2), 150.0)
    points[0], points[1] = torch.tensor([100.0, 120.0]), torch.tensor([200.4, 240.6])  # 100.4 wide, 120.6 high
    crop = Crop.around(points)
    assert crop == Crop(150 - 120, 180 - 20 - 120, 240)
    keypoints = crop.keypoints(points[None]).reshape(68, 2)
    torch.testing.assert_close(keypoints[0], torch.tensor([(100 - 30) / 120 - 1, (120 - 40) / 120 - 1]))


def test_the_crop_is_black_beyond_the_picture() -> None:
    picture = Image.fromarray(np.full((50, 50, 3), 200, np.uint8))
    cut = np.array(Crop(-50, 0, 100).cut(picture, 10))
    assert (cut[:4, :4] == 0).all() and (cut[:4, 6:] > 190).all() and (cut[6:] == 0).all()


def test_erosion_takes_the_least_within_a_disc() -> None:
    matte = torch.ones(9, 9)
    matte[4, 4] = 0
    low = eroded(matte)
    assert (low == 0).sum() == 13 and low[4, 6] == 0 and low[6, 6] == 1
    assert torch.equal(eroded(torch.ones(6, 6)), torch.ones(6, 6))  # the border is no edge


def test_a_photo_with_a_face(astronaut: Photo) -> None:
    assert astronaut.image.shape == (1, 3, 64, 64) and astronaut.image.min() >= -1 and astronaut.image.max() <= 1
    assert (astronaut.keypoints.abs() < 1).all()
    eyes = astronaut.keypoints.reshape(68, 2)[36:48].mean(0)
    assert abs(eyes[0]) < 0.2 and -0.5 < eyes[1] < 0.2
    face = astronaut.matte[0, 0, 28:40, 26:38]
    assert face.mean() > 0.95  # the middle of the face belongs to the person
    assert astronaut.stickman.shape == astronaut.image.shape
    fitted = astronaut.crop.keypoints(landmarks_px(astronaut.track, load("builtin"), "ibug68"))
    assert (fitted - astronaut.keypoints).abs().max() < 0.05


def test_the_person_of_a_photo(astronaut: Photo) -> None:
    model = tiny_model(replace(TINY, image_size_px=64, width=8, max_width=32))
    fast = accelerated(model)
    enhanced, plain = person_of(fast, astronaut), person_of(fast, astronaut, steps=0)
    assert enhanced.texture.shape == (1, 3, 64, 64)
    assert not torch.equal(enhanced.texture, plain.texture)
    with torch.no_grad():
        expected = model.person(astronaut.image, astronaut.stickman, astronaut.matte).texture
    torch.testing.assert_close(plain.texture, expected, rtol=1e-3, atol=1e-3)


def test_no_face_and_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no face was found"):
        prepare_photo(torch.full((200, 200, 3), 128, dtype=torch.uint8), load("builtin"))
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot read .*photo.jpg"):
        read_picture(path)
    with pytest.raises(UserError, match="cannot read .*nowhere.png"):
        read_picture(tmp_path / "nowhere.png")


def test_pictures_are_read_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (8, 4, 3)
