"""Dense refinement: patches, skin, the photometric term against numerical slopes, and what it does to poses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from manvatar.benchmark.track_truth import band_limited
from manvatar.geometry import inverse_rigid, project, rotation_from_vector, transform, vector_from_rotation
from manvatar.synthesis import make_clip
from manvatar.tracking import TrackerConfig, track_clip
from manvatar.tracking.patches import Patches, cut_patches, local_contrast
from manvatar.tracking.photometric import Photometric
from manvatar.tracking.problem import State
from manvatar.tracking.skin import Skin, skin_of
from manvatar.types import Camera, FaceModel, Track
from manvatar.video import open_clip

FRAMES = 4


def _smooth_noise(frames: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(frames, 1, size // 6, size // 6, generator=generator)
    return functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)[:, 0]


@pytest.fixture(scope="module")
def skin(builtin: FaceModel) -> Skin:
    return skin_of(builtin, torch.zeros(len(builtin.identity_basis_m)), 400)


@pytest.fixture(scope="module")
def state(builtin: FaceModel) -> State:
    generator = torch.Generator().manual_seed(3)
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    turn = 0.15 * torch.randn(FRAMES, 3, generator=generator, dtype=torch.float64)
    expression = 0.5 * torch.randn(FRAMES, len(builtin.expression_names), generator=generator, dtype=torch.float64)
    shift = torch.tensor([0.0, 0.0, 0.6]).double() + 0.005 * torch.randn(FRAMES, 3, generator=generator).double()
    focal = torch.tensor(math.log(400.0), dtype=torch.float64)
    return State(rotation_from_vector(turn) @ facing, shift, expression, torch.zeros(1, 3).double(), focal)


def _term(skin: Skin, contrast: torch.Tensor) -> Photometric:
    size = contrast.shape[-1]
    camera = Camera(torch.tensor([400.0, 400.0]), torch.tensor([size / 2, size / 2]), (size, size))
    patches = Patches(contrast, torch.zeros(len(contrast), 2), torch.ones(2), camera)
    return Photometric.start(patches, skin, torch.arange(len(contrast)), 0.5)


@pytest.fixture(scope="module")
def term(skin: Skin, state: State) -> Photometric:
    """Another picture in every frame: residuals are large, and outliers are among them."""
    return _term(skin, _smooth_noise(FRAMES, 192, 1)).seen(state).learnt(state)


def _still(state: State, frames: int) -> State:
    """The first frame, again and again."""
    return state.select(torch.zeros(frames, dtype=torch.long))


def test_gradient_is_half_the_slope_of_the_energy(term: Photometric, state: State) -> None:
    _, gradient = term.linearise(state, pose_only=False)
    # Bilinear pictures have kinks at pixel borders, so slopes are compared over many directions and not one by one.
    generator = torch.Generator().manual_seed(0)
    predicted, measured = [], []
    for _ in range(60):
        step = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        step[:, :3] *= 1e-3
        step[:, 3:6] *= 3e-4
        step[:, 6:] *= 3e-2
        ahead, behind = (term.energy(state.moved(sign * step / 4, None)) for sign in (0.5, -0.5))
        predicted.append((2 * gradient * step).sum(1))
        measured.append(4 * (ahead - behind))
    one, two = torch.stack(predicted).flatten(), torch.stack(measured).flatten()
    assert float(torch.corrcoef(torch.stack([one, two]))[0, 1]) > 0.97
    assert 0.8 < float((one * two).sum() / (one * one).sum()) < 1.2


def test_pose_only_is_a_part_of_the_whole(term: Photometric, state: State) -> None:
    matrix, gradient = term.linearise(state, pose_only=False)
    pose_matrix, pose_gradient = term.linearise(state, pose_only=True)
    torch.testing.assert_close(pose_matrix, matrix[:, :6, :6], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(pose_gradient, gradient[:, :6], rtol=1e-4, atol=1e-3)


def test_frames_do_not_depend_on_each_other(term: Photometric, state: State) -> None:
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(term.select(rows).energy(state.select(rows)), term.energy(state)[rows])


def test_strength_scales_everything(term: Photometric, state: State) -> None:
    strong = dataclasses.replace(term, strength=1.5)
    torch.testing.assert_close(strong.energy(state), 3 * term.energy(state))
    one, three = (x.linearise(state, pose_only=True)[0] for x in (term, strong))
    torch.testing.assert_close(three, 3 * one, rtol=1e-4, atol=1e-2)


def test_a_face_that_looks_the_same_in_every_frame_costs_nothing(skin: Skin, state: State) -> None:
    still = _still(state, FRAMES)
    term = _term(skin, _smooth_noise(1, 192, 1).expand(FRAMES, -1, -1)).seen(still).learnt(still)
    assert float(term.energy(still).max()) < 1e-3
    away = still.moved(torch.full((FRAMES, 6), 0.01).double(), None)
    assert float(term.energy(away).min()) > 10


def test_an_outlier_frame_does_not_change_the_look(skin: Skin, state: State) -> None:
    still = _still(state, 9)
    contrast = _smooth_noise(1, 192, 1).repeat(9, 1, 1)
    clean = _term(skin, contrast).seen(still).learnt(still)
    contrast = contrast.clone()
    contrast[4] = 5.0
    dirty = _term(skin, contrast).seen(still).learnt(still)
    seen = clean.sd.isfinite()
    torch.testing.assert_close(dirty.look[seen], clean.look[seen], rtol=0, atol=0.02)


def test_points_that_face_away_do_not_count(skin: Skin, state: State, term: Photometric) -> None:
    turned = rotation_from_vector(torch.tensor([[0.0, math.radians(70), 0.0]]).double())
    side = dataclasses.replace(state, rotation=turned @ state.rotation)
    weight = term.seen(side).weight
    seen_before, seen_after = (term.seen(s).weight.gt(0).float().mean() for s in (state, side))
    assert float(seen_after) < 0.75 * float(seen_before)
    normals = skin.normals @ side.rotation[0].float().T
    assert float(weight[0][normals[:, 2] > 0.3].max()) == 0  # z of the camera runs away from it


def test_contrast_does_not_see_slow_changes_of_light() -> None:
    picture = 100 + 40 * _smooth_noise(1, 96, 2).clamp(-1.5, 1.5)
    light = torch.linspace(0.8, 1.1, 96)
    one, two = local_contrast(picture), local_contrast(picture * light)
    assert float((one - two).abs().mean()) < 0.1 * float(one.abs().mean())
    assert float(local_contrast(torch.full((1, 64, 64), 130.0)).abs().max()) < 1e-3


def test_skin_lies_on_the_front_of_the_face(builtin: FaceModel) -> None:
    identity = torch.randn(len(builtin.identity_basis_m), generator=torch.Generator().manual_seed(1))
    skin = skin_of(builtin, identity, 500)
    vertices = builtin.vertices_m(identity, torch.zeros(len(builtin.expression_names)))
    assert float(torch.cdist(skin.points_m, vertices).amin(1).max()) < 0.006
    torch.testing.assert_close(skin.normals.norm(dim=1), torch.ones(500))
    assert float((skin.normals[:, 2] > 0).float().mean()) > 0.98
    assert torch.equal(skin.points_m, skin_of(builtin, identity, 500).points_m)
    expression = torch.randn(2, len(builtin.expression_names), generator=torch.Generator().manual_seed(2))
    moved = skin.moved_m(expression)
    expected = skin.points_m + torch.einsum("fe,enc->fnc", expression, skin.expression_basis_m)
    torch.testing.assert_close(moved, expected)


# ---------------------------------------------------------------------------------------------------- on a whole clip


@pytest.fixture(scope="module")
def clip_and_truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Track]:
    path = tmp_path_factory.mktemp("dense") / "clip.mp4"
    return path, make_clip(path, frames=80, size_px=320, seed=5)


def test_patches_hold_the_face_where_the_camera_says(clip_and_truth: tuple[Path, Track], builtin: FaceModel) -> None:
    path, truth = clip_and_truth
    skin = skin_of(builtin, truth.identity, 300)
    patches = cut_patches(open_clip(path), truth, skin.points_m)
    count, height, width = patches.contrast.shape
    assert count == 80 and height < 320 and width < 320
    posed = transform(truth.cam_from_head, skin.points_m.expand(80, -1, -1))
    inside = posed[..., :2] / posed[..., 2:] * patches.focal_px() + patches.center_px(torch.arange(80))[:, None]
    assert float(inside.min()) > 4 and bool((inside < torch.tensor([width - 4.0, height - 4.0])).all())
    expected = project(truth.camera, posed) * patches.scale - patches.corner_px[:, None]
    torch.testing.assert_close(inside, expected, rtol=1e-5, atol=1e-3)


def _turn_error_deg(track: Track, truth: Track) -> torch.Tensor:
    """(3,) deviation of the rotation's error over the clip; a constant error is only another head frame."""
    relative = inverse_rigid(truth.cam_from_head.double()) @ track.cam_from_head.double()
    return torch.rad2deg(vector_from_rotation(relative[:, :3, :3])).std(0)


def test_refinement_finds_the_true_turns(clip_and_truth: tuple[Path, Track], builtin: FaceModel) -> None:
    """From landmarks that are wrong as detectors are: possible in each frame, wandering slowly over the clip."""
    from manvatar.tracking.refine import refined
    from manvatar.tracking.tracker import fit_landmarks
    from manvatar.types import Landmarks

    path, truth = clip_and_truth
    mean, identity, expression = builtin.landmark_bases("mediapipe478")
    points = mean + torch.einsum("i,inc->nc", truth.identity, identity)
    points = points + torch.einsum("fe,enc->fnc", truth.expression, expression)
    wander = band_limited(80, 3, 4.0, torch.Generator().manual_seed(0)).float() * torch.tensor([0.03, 0.03, 0.01])
    wrong = truth.cam_from_head.clone()
    wrong[:, :3, :3] = rotation_from_vector(wander) @ wrong[:, :3, :3]
    pixels = project(truth.camera, transform(wrong, points))
    landmarks = Landmarks(pixels, torch.ones(80, 478), torch.ones(80, dtype=torch.bool), "mediapipe478")
    focal = float(truth.camera.focal_px[0])
    fitted = fit_landmarks(landmarks, builtin, (320, 320), 25.0, focal_px=focal)
    skin = skin_of(builtin, fitted.identity().float(), 1500)
    patches = cut_patches(open_clip(path), fitted.track(), skin.points_m)
    better = fitted.refined_to(refined(fitted.fit, fitted.state, patches, skin)).track()
    before, after = _turn_error_deg(fitted.track(), truth), _turn_error_deg(better, truth)
    assert float(before.norm()) > 0.9
    assert float(after.norm()) < 0.75 * float(before.norm()), (before, after)


def test_refinement_can_be_switched_off(clip_and_truth: tuple[Path, Track], builtin: FaceModel) -> None:
    clip = open_clip(clip_and_truth[0], 0.0, 0.6)
    plain = track_clip(clip, builtin, config=TrackerConfig(dense=False), show_progress=False).track
    dense = track_clip(clip, builtin, show_progress=False).track
    assert plain.valid.all() and dense.valid.all()
    assert float((plain.cam_from_head - dense.cam_from_head).abs().max()) > 1e-4
    assert float((plain.cam_from_head[:, :3, 3] - dense.cam_from_head[:, :3, 3]).abs().max()) < 0.03
