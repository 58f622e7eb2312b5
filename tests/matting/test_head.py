"""The head matte on a schematic person whose skin, hair and clothes are known at every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from matting.test_neck import camera, face_points_m, pose

from manvatar.geometry import project, transform
from manvatar.matting import ClipMatte, HeadMatte, HeadSample
from manvatar.matting.neck import generic_cut, neck_coordinates

_SKIN, _HAIR, _SHIRT = (0.78, 0.57, 0.47), (0.2, 0.13, 0.1), (0.15, 0.25, 0.55)
_SIZE = 128


@dataclass(frozen=True)
class Person:
    """What the schematic person looks like."""

    collar: float = -0.3  # height of the clothes' edge, in heights of the chin under the eyes
    shirt: tuple[float, float, float] = _SHIRT
    hair_to: float | None = None  # long hair beside the neck hangs down to this height


def drawn(person: Person, cam_from_head: torch.Tensor, noise: float = 0.01) -> tuple[HeadSample, torch.Tensor]:
    """A frame, and the map of its parts: 0 background, 1 skin, 2 hair, 3 clothes."""
    view, points = camera(_SIZE), face_points_m()
    cut = generic_cut(points)
    where = neck_coordinates(cut, view, cam_from_head, view.size_px)
    height, away = where.height_m / cut.unit_m, where.distance_m / cut.radius_m
    pixels = project(view, transform(cam_from_head, points))
    eyes, chin = pixels[36:48].mean(0), pixels[8]
    unit = float((chin - eyes).norm())
    y, x = torch.meshgrid(torch.arange(_SIZE) + 0.5, torch.arange(_SIZE) + 0.5, indexing="ij")
    offset = (torch.stack([x, y], -1) - eyes) / unit
    down = (chin - eyes) / unit
    along = (offset * down).sum(-1)
    across = offset[..., 0] * down[1] - offset[..., 1] * down[0]
    face = (across / 0.68) ** 2 + ((along - 0.2) / 0.82) ** 2 < 1
    scalp = ((across / 0.85) ** 2 + ((along + 0.15) / 0.95) ** 2 < 1) & ~face & (along < 0.35)
    neck = (height < 0.4) & (away < 1.001)
    part = torch.zeros(_SIZE, _SIZE, dtype=torch.long)
    clothes = (height < person.collar) & (away < 1.0 + 2.2 * (person.collar - height).clamp(0, 1))
    if person.hair_to is not None:
        part[(away > 0.9) & (away < 1.7) & (height > person.hair_to) & (along > -0.3)] = 2
    part[neck] = 1
    part[clothes] = 3
    part[scalp] = 2
    part[face] = 1
    colors = torch.tensor([(0.5, 0.6, 0.5), _SKIN, _HAIR, person.shirt])[part]
    shade = torch.where(neck & ~face, 0.7, 1.0)[..., None]  # the neck lies in shadow
    image = (colors * shade + noise * torch.randn(_SIZE, _SIZE, 3)).clamp(0, 1)
    return HeadSample(image, (part > 0).float(), view, cam_from_head, points), part


def _poses(count: int = 14) -> list[torch.Tensor]:
    t = np.linspace(0, 2 * np.pi, count)
    return [pose(18 * float(np.sin(a)), 6 * float(np.cos(2 * a)), 5 * float(np.sin(3 * a))) for a in t]


def _fitted(person: Person) -> HeadMatte:
    matte = HeadMatte(face_points_m())
    matte.fit(drawn(person, cam_from_head)[0] for cam_from_head in _poses())
    return matte


def _shares(matte: HeadMatte, person: Person) -> dict[str, float]:
    """Mean alpha over each part of the person, over all poses."""
    total = {"face": [], "hair": [], "clothes": []}
    for cam_from_head in _poses():
        sample, part = drawn(person, cam_from_head)
        alpha = matte(sample)
        points = project(sample.camera, transform(cam_from_head, sample.landmarks_m))
        above_mouth = torch.arange(_SIZE)[:, None] < float(points[57, 1])
        total["face"].append(alpha[(part == 1) & above_mouth])
        total["hair"].append(alpha[(part == 2) & above_mouth])
        total["clothes"].append(alpha[part == 3])
    return {name: float(torch.cat(values).mean()) for name, values in total.items()}


@pytest.mark.parametrize("collar", [-0.35, -0.15, 0.05])
def test_clothes_go_and_the_face_stays(collar: float) -> None:
    shares = _shares(_fitted(Person(collar=collar)), Person(collar=collar))
    assert shares["face"] > 0.995
    assert shares["hair"] > 0.95
    assert shares["clothes"] < 0.02


def test_dark_clothes_under_dark_hair() -> None:
    person = Person(collar=-0.2, shirt=(0.19, 0.14, 0.12))
    shares = _shares(_fitted(person), person)
    assert shares["face"] > 0.995 and shares["hair"] > 0.95 and shares["clothes"] < 0.03


def test_clothes_of_the_colour_of_skin_leave_the_generic_cut() -> None:
    person = Person(collar=-0.2, shirt=_SKIN)
    matte = _fitted(person)
    generic = generic_cut(face_points_m())
    assert torch.allclose(matte.cut.height_m, generic.height_m, atol=0.12 * generic.unit_m)
    assert _shares(matte, person)["face"] > 0.995


def test_a_bare_neck_is_cut_at_the_generic_height() -> None:
    person = Person(collar=-0.8)
    matte = _fitted(person)
    generic = generic_cut(face_points_m())
    front = slice(18, 31)  # within 45 degrees of the front
    assert torch.allclose(matte.cut.height_m[front], generic.height_m[front], atol=1e-6)
    sample, part = drawn(person, pose())
    alpha = matte(sample)
    where = neck_coordinates(generic, sample.camera, pose(), sample.camera.size_px)
    height = where.height_m / generic.unit_m
    on_neck = (part == 1) & (where.distance_m < 0.9 * 1.001 * generic.radius_m / 0.9) & (where.angle_rad.abs() < 0.8)
    assert alpha[on_neck & (height > -0.4) & (height < 0)].min() > 0.9
    assert alpha[on_neck & (height < -0.5)].max() < 0.1


def test_long_hair_stays_beside_the_jaw_and_goes_below_it() -> None:
    person = Person(collar=-0.35, hair_to=-0.7)
    matte = _fitted(person)
    sample, part = drawn(person, pose())
    alpha = matte(sample)
    generic = generic_cut(face_points_m())
    height = neck_coordinates(generic, sample.camera, pose(), sample.camera.size_px).height_m / generic.unit_m
    assert alpha[(part == 2) & (height > 0.1)].mean() > 0.95
    assert alpha[(part == 2) & (height < -0.5)].mean() < 0.05


def test_the_generic_cut_works_without_fit() -> None:
    person = Person(collar=-0.5)
    shares = _shares(HeadMatte(face_points_m()), person)
    assert shares["face"] > 0.995 and shares["clothes"] < 0.1


def test_islands_are_removed() -> None:
    matte = _fitted(Person())
    sample, _ = drawn(Person(), pose())
    alpha = sample.person_alpha.clone()
    alpha[4:20, 4:20] = 1  # a picture on the wall
    island = matte(HeadSample(sample.image, alpha, sample.camera, sample.cam_from_head, sample.landmarks_m))
    assert island[4:20, 4:20].max() < 0.01
    assert torch.equal(island[30:, 30:], matte(sample)[30:, 30:])


def test_nothing_of_the_person_gives_nothing() -> None:
    sample, _ = drawn(Person(), pose())
    empty = HeadSample(sample.image, torch.zeros(_SIZE, _SIZE), sample.camera, sample.cam_from_head, sample.landmarks_m)
    matte = HeadMatte(face_points_m())
    matte.fit([empty])
    assert matte(empty).max() == 0


def test_bytes_and_floats_give_the_same() -> None:
    matte = _fitted(Person())
    sample, _ = drawn(Person(), pose())
    as_bytes = (sample.image * 255).round().to(torch.uint8)
    other = HeadSample(as_bytes, sample.person_alpha, sample.camera, sample.cam_from_head, sample.landmarks_m)
    assert (matte(other) - matte(sample)).abs().mean() < 1e-3


def test_wrong_image_shape_is_named() -> None:
    sample, _ = drawn(Person(), pose())
    wrong = HeadSample(
        sample.image[..., :2], sample.person_alpha, sample.camera, sample.cam_from_head, sample.landmarks_m
    )
    with pytest.raises(ValueError, match=r"expected an image of shape \(height, width, 3\), got \(128, 128, 2\)"):
        HeadMatte(face_points_m())(wrong)


def test_clip_matte_views_head_and_shoulders() -> None:
    landmarks = face_points_m().expand(5, -1, -1)
    poses = torch.stack([pose(float(i)) for i in range(5)])
    wide = camera(128)
    far = type(wide)(wide.focal_px / 4, wide.center_px * 4, (512, 512))
    left, top, right, bottom = ClipMatte(landmarks, poses, far)._view_px
    assert 0 < left < 256 < right < 512 and 0 < top < 256 < bottom < 512
    assert 0.8 < (right - left) / (bottom - top) < 1.25
    assert ClipMatte(landmarks, poses, wide)._view_px == (0, 0, 128, 128)
