"""The builtin head: a sound mesh, working lids and mouth, and a model that fits faces it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from manvatar.face_models import load
from manvatar.face_models.builtin import build_head
from manvatar.face_models.builtin.expressions import FULL_BLINK
from manvatar.face_models.builtin.shape import EYE_CENTRE, EYE_RADIUS, trace
from manvatar.face_models.embedding import similarity
from manvatar.types import FaceModel


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load("builtin")


def _with(model: FaceModel, **coefficients: float) -> np.ndarray:
    """Vertices (V, 3) in mm of the mean with some expression coefficients."""
    expression = torch.zeros(32)
    for name, value in coefficients.items():
        expression[model.expression_names.index(name)] = value
    return model.vertices_m(torch.zeros(80), expression).double().numpy() * 1e3


def test_shape_of_the_model(model: FaceModel) -> None:
    assert len(model.expression_names) == len(set(model.expression_names)) == 32
    assert model.identity_basis_m.shape[0] == 80
    assert 6000 <= len(model.mean_m) <= 15000
    assert model.landmark_bases("ibug68")[0][[36, 39, 42, 45]].mean(0).abs().max() < 1e-5


def test_measures_are_those_of_a_head(model: FaceModel) -> None:
    p = model.landmark_bases("ibug68")[0].numpy() * 1e3

    def between(a: int, b: int) -> float:
        return float(np.linalg.norm(p[a] - p[b]))

    assert between(36, 45) == pytest.approx(89, abs=3)  # outer eye corners
    assert between(39, 42) == pytest.approx(32, abs=2)
    assert between(27, 8) == pytest.approx(118, abs=4)  # sellion to chin
    assert between(48, 54) == pytest.approx(52, abs=2)
    skin = build_head().vertices[build_head().skin.parts["face"]]
    assert np.ptp(skin[:, 0]) == pytest.approx(152, abs=4)


def test_mesh_is_sound(model: FaceModel) -> None:
    triangles = model.triangles.numpy()
    directed = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    # Every directed edge once: no edge has three triangles, and neighbours are wound alike.
    assert len(np.unique(directed, axis=0)) == len(directed)
    assert (triangles[:, 0] != triangles[:, 1]).all() and triangles.max() < len(model.mean_m)
    v = model.mean_m.double().numpy()
    for part in ("left_eyeball", "tongue", "left_ear", "right_ear"):
        mine = (model.vertex_part == model.part_names.index(part)).numpy()
        a, b, c = (v[triangles[mine[triangles].all(1)]][:, k] for k in range(3))
        middle = v[mine].mean(0)
        assert (np.cross(b - a, c - a) * (a - middle)).sum() > 0, part  # encloses a positive volume
    face = (model.vertex_part == 0).numpy()[triangles].all(1)
    a, b, c = (v[triangles[face]][:, k] for k in range(3))
    assert (np.cross(b - a, c - a) * (a + (0, 0.02, 0.07))).sum() > 0


def test_mean_and_symmetric_expressions_are_mirror_symmetric(model: FaceModel) -> None:
    skin = build_head().skin
    width = skin.upper.shape[1]
    mirrored = skin.upper[:, (-np.arange(width)) % width]  # column 0 is the back of the head, its own mirror image
    flip = torch.tensor([-1.0, 1, 1])
    for values in (model.mean_m, *model.expression_basis_m[[model.expression_names.index("jawOpen")]]):
        assert (values[skin.upper.ravel()] - values[mirrored.ravel()] * flip).abs().max() < 2e-4
    left, right = (model.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    basis = model.expression_basis_m
    assert (basis[left][skin.upper.ravel()] - basis[right][mirrored.ravel()] * flip).abs().max() < 2e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_lids_close_over_the_eyeball(model: FaceModel, side: str) -> None:
    head = build_head()
    loop = head.skin.loops[f"{side}_eye"]
    row = head.skin.rows["lids"]
    columns = np.unique(head.skin.grid[loop, 0]).astype(int)[1:-1]
    name = f"eyeBlink{side.capitalize()}"
    origin = head.vertices[0] - model.mean_m[0].double().numpy() * 1e3
    centre = EYE_CENTRE * (1 if side == "left" else -1, 1, 1) - origin
    gaps = []
    for amount in (0.0, 0.5 * FULL_BLINK, FULL_BLINK):
        v = _with(model, **{name: amount})
        upper, lower = v[head.skin.upper[row, columns]], v[head.skin.lower[row, columns]]
        gaps.append((upper - lower)[:, 1])
        lid = np.concatenate([v[head.skin.upper[row - 4 : row + 1, columns]].reshape(-1, 3), lower])
        assert np.linalg.norm(lid - centre, axis=1).min() > EYE_RADIUS - 0.2, f"lids cut the eyeball at {amount}"
    assert gaps[0].max() > 8  # mm
    assert 0.3 < (gaps[1] / gaps[0])[2:-2].mean() < 0.7
    assert np.abs(gaps[2]).max() < 0.3


def test_mouth_is_shut_at_rest_and_opens_over_the_teeth(model: FaceModel) -> None:
    head = build_head()
    row = head.skin.rows["mouth"]
    inner = np.flatnonzero(head.skin.upper[row] != head.skin.lower[row])
    rest, open_ = _with(model), _with(model, jawOpen=3.0)
    gap = lambda v: (v[head.skin.upper[row, inner]] - v[head.skin.lower[row, inner]])[:, 1]  # noqa: E731
    assert np.abs(gap(rest)).max() < 1e-3
    assert gap(open_).max() > 22
    upper, lower = head.of("upper_teeth"), head.of("lower_teeth")
    assert np.abs(open_[upper] - rest[upper]).max() < 1e-3
    assert (open_[lower] - rest[lower])[:, 1].max() < -8
    # At rest the teeth are behind the lips' skin.
    skin = rest[head.skin.parts["face"]]
    near = skin[(np.abs(skin[:, 0]) < 4) & (np.abs(skin[:, 1] - rest[upper, 1].mean()) < 6)]
    assert rest[upper, 2].max() < near[:, 2].max() - 4


def test_dense_landmarks_of_lids_and_lips_meet_when_those_close(model: FaceModel) -> None:
    _, _, basis = model.landmark_bases("mediapipe478")
    rest = model.landmark_bases("mediapipe478")[0]
    blink = sum(basis[model.expression_names.index(f"eyeBlink{side}")] for side in ("Left", "Right"))
    closed = (rest + FULL_BLINK * blink) * 1e3
    for upper, lower in ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373)):
        assert (rest[upper] - rest[lower])[1] > 0.006
        assert abs(float((closed[upper] - closed[lower])[1])) < 1
    for upper, lower in ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402)):
        assert (rest[upper] - rest[lower]).norm() < 0.002


def test_jaw_moves_the_chin_only(model: FaceModel) -> None:
    p = model.landmark_bases("ibug68")[2][model.expression_names.index("jawOpen")] * 1e3
    assert p[8, 1] < -7 and p[57, 1] < -7  # chin and lower lip
    assert p[17:48].abs().max() < 1  # brows, nose, eyes
    head = build_head()
    scalp = head.of("skull")
    still = np.concatenate([scalp[head.vertices[scalp, 1] > -40], head.of("left_ear", "right_ear", "upper_teeth")])
    assert np.abs(model.expression_basis_m[0].numpy()[still]).max() < 2e-4  # m


def test_identities_keep_lips_together_and_heads_plausible(model: FaceModel) -> None:
    head = build_head()
    row = head.skin.rows["mouth"]
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        v = model.vertices_m(torch.randn(80, generator=generator), torch.zeros(32)).numpy() * 1e3
        assert np.abs(v[head.skin.upper[row]] - v[head.skin.lower[row]]).max() < 1e-2
        assert 120 < np.ptp(v[head.skin.parts["face"], 0]) < 185
    variance = (model.identity_basis_m**2).sum((0, 2))  # of a vertex, over people
    face = (model.vertex_part == 0) & (model.mean_m[:, 2] > -0.03)
    assert 3e-3 < float(variance[face].mean().sqrt()) < 9e-3


def test_landmarks_lie_where_they_should(model: FaceModel) -> None:
    p = model.landmark_bases("mediapipe478")[0].numpy() * 1e3
    mean_68 = model.landmark_bases("ibug68")[0].numpy() * 1e3
    for mediapipe, ibug in ((33, 36), (133, 39), (362, 42), (263, 45), (1, 30), (61, 48), (291, 54), (152, 8)):
        assert np.linalg.norm(p[mediapipe] - mean_68[ibug]) < 8, mediapipe
    assert np.abs(p[468] - (-31, 0, 5)).max() < 4 and np.abs(p[473] - (31, 0, 5)).max() < 4  # irises
    part = model.vertex_part[model.triangles[model.embedding("mediapipe478").triangle[468:]]]
    assert set(part.ravel().tolist()) == {model.part_names.index(n) for n in ("left_eyeball", "right_eyeball")}


def test_rays_end_on_the_surface() -> None:
    origin = np.tile([0.0, -15, -50], (3, 1))
    direction = np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, -1.0]])
    found = trace(origin, direction)
    assert found[0, 1] == pytest.approx(116, abs=3)  # crown
    assert found[1, 0] == pytest.approx(68, abs=4)  # before the ear
    assert found[2, 2] == pytest.approx(-163, abs=6)  # back of the head


def test_fits_faces_it_never_saw(model: FaceModel, shared_data: Path) -> None:
    """The 68 landmarks of 200 random ICT-FaceKit faces with random expressions: at most 3 mm median (measured 1.9)."""
    folder = shared_data / "face_models"
    mean, identity, expression = (basis.double().numpy() for basis in model.landmark_bases("ibug68"))
    basis = np.concatenate([identity, expression]).reshape(112, -1).T
    table = json.loads((folder / "ict_vertex_indices.json").read_text())
    with np.load(folder / "ict_facekit_light.npz") as data:
        neutral, people, shapes = (
            data[key][..., table["idx_to_landmark_verts"], :] for key in ("neutral", "identity", "expression")
        )
        chosen = np.isin(data["names"], table["fitting_expressions"])
    rng = np.random.default_rng(1)
    noise_m = 1e-3  # how far a landmark may be off before a coefficient has to stretch by one standard deviation
    errors = []
    for _ in range(200):
        activation = rng.random(len(shapes)) * 0.8 * (rng.random(len(shapes)) < 0.3) * chosen
        face = (
            neutral + np.tensordot(rng.standard_normal(len(people)), people, 1) + np.tensordot(activation, shapes, 1)
        ) / 100
        coefficients = np.zeros(112)
        for _ in range(8):
            points = mean + (basis @ coefficients).reshape(-1, 3)
            scale, rotation, shift = similarity(points, face)
            goal = ((face - shift) @ rotation / scale - mean).ravel()
            coefficients = np.linalg.solve(basis.T @ basis + noise_m**2 * np.eye(112), basis.T @ goal)
        points = mean + (basis @ coefficients).reshape(-1, 3)
        scale, rotation, shift = similarity(points, face)
        errors.append(np.linalg.norm(scale * points @ rotation.T + shift - face, axis=1))
        assert np.sqrt((coefficients**2).mean()) < 2.5  # plausible people, not contortions
    assert np.median(errors) < 2.2e-3
