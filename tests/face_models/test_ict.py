"""The ICT-FaceKit loader: both layouts, units, modes, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manvatar.errors import UserError
from manvatar.face_models import ict, load
from manvatar.types import FaceModel


@pytest.fixture(scope="module")
def packed(shared_data: Path) -> Path:
    return shared_data / "face_models" / "ict_facekit_light.npz"


@pytest.fixture(scope="module")
def model(packed: Path) -> FaceModel:
    return load(packed)


def test_units_axes_and_origin(model: FaceModel) -> None:
    points = model.landmark_bases("ibug68")[0]
    assert points[[36, 39, 42, 45]].mean(0).abs().max() < 1e-5
    assert points[45, 0] > 0.035 and points[36, 0] < -0.035  # x to the subject's left; outer corners 80 to 100 mm apart
    assert points[8, 1] < -0.08 and points[30, 2] > 0.02  # chin below, nose tip in front
    assert model.mean_m.abs().max() < 0.35


def test_sizes_names_and_parts(model: FaceModel) -> None:
    assert model.id == "ict-facekit-light"
    assert model.identity_basis_m.shape == (100, ict.VERTEX_COUNT, 3)
    assert model.expression_names[:2] == ("ict_pca_00", "ict_pca_01") and len(model.expression_names) == 32
    eyes = model.mean_m[model.vertex_part == model.part_names.index("left_eyeball")]
    assert (eyes[:, 0] > 0).all() and eyes[:, 0].std() < 0.02


def test_landmarks_are_the_vertices_of_the_file(model: FaceModel, packed: Path) -> None:
    with np.load(packed) as data:
        expected = data["neutral"][list(ict.LANDMARKS_68)]
    points = model.landmark_bases("ibug68")[0].numpy()
    assert np.abs((points - points[0]) * 100 - (expected - expected[0])).max() < 1e-4


def test_triangles_are_a_surface_of_the_skin(model: FaceModel) -> None:
    triangles = model.triangles.numpy()
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]]), axis=1)
    assert np.unique(pairs, axis=0, return_counts=True)[1].max() <= 2
    v = model.mean_m.double().numpy()
    a, b, c = (v[triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    forehead = (triangles < 9409).all(1) & (np.abs(a[:, 0]) < 0.04) & (a[:, 1] > 0.03)
    assert forehead.sum() > 200 and (normal[forehead, 2] > 0).mean() > 0.99
    head = (triangles < 11248).all(1)
    assert (normal[head] * (a[head] + (0, 0, 0.08))).sum() > 0  # encloses a positive volume


def test_expression_modes_have_unit_variance_over_their_activations(packed: Path) -> None:
    with np.load(packed) as data:
        names = tuple(str(name) for name in data["names"])
        shapes = data["expression"][:, ::20]
    measured = np.arange(0, shapes.shape[1] // 3)
    modes = ict.activation_modes(shapes, names, measured, count=10)
    rms = np.array([ict._activation_rms(name) for name in names])
    rng = np.random.default_rng(0)
    # Activations with the second moments the modes are made for: sides correlated, all else independent.
    activation = rng.standard_normal((4000, len(names)))
    for i, name in enumerate(names):
        if name.endswith("_R"):
            twin = activation[:, names.index(name[:-1] + "L")]
            activation[:, i] = ict.SIDES_CORRELATION * twin + np.sqrt(1 - ict.SIDES_CORRELATION**2) * activation[:, i]
    moved = np.einsum("ne,evc->nvc", activation * rms, shapes[:, measured]).reshape(4000, -1)
    basis = modes[:, measured].reshape(10, -1)
    coefficients = np.linalg.lstsq(basis.T, moved.T, rcond=None)[0]
    assert np.abs(np.sqrt((coefficients**2).mean(1))[:5] - 1).max() < 0.1


def test_folder_of_objs_is_the_same_model(model: FaceModel, packed: Path, tmp_path: Path) -> None:
    with np.load(packed) as data:
        neutral, identity, expression = data["neutral"], data["identity"], data["expression"]
        names = [str(name) for name in data["names"]]
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    chosen = [names.index(name) for name in ("jawOpen", "eyeBlink_L", "eyeBlink_R")]
    faces = "".join(f"f {a}/1/1 {b}/1/1 {c}/1/1\n" for a, b, c in (model.triangles + 1).tolist())
    shapes = {
        "generic_neutral_mesh": neutral,
        "identity000": neutral + identity[0],
        "identity001": neutral + identity[1],
    }
    shapes |= {names[k]: neutral + expression[k] for k in chosen}
    for name, vertices in shapes.items():
        lines = "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in vertices)
        (folder / f"{name}.obj").write_text("# made for a test\n" + lines + faces)
    loaded = load(tmp_path)  # the repository's root is as good as its FaceXModel folder
    assert torch.equal(loaded.triangles, model.triangles)
    assert (loaded.mean_m - model.mean_m).abs().max() < 1e-6
    assert (loaded.identity_basis_m - model.identity_basis_m[:2]).abs().max() < 1e-6
    assert loaded.expression_basis_m.shape[0] == 3  # no more modes than blendshapes
    assert loaded.embedding("mediapipe478").triangle.shape == (478,)


def _npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "other arrays", "few vertices", "cut in half", "empty folder"])
def test_wrong_files_are_one_clear_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "face.npz"
    small = {"neutral": np.zeros((9, 3)), "identity": np.zeros((1, 9, 3)), "expression": np.zeros((1, 9, 3))}
    if kind == "text":
        path.write_text("not a model")
    elif kind == "other arrays":
        _npz(path, images=np.zeros(3))
    elif kind == "few vertices":
        _npz(path, names=np.array(["jawOpen"]), triangles=np.zeros((1, 3), int), **small)
    elif kind == "cut in half":
        whole = _npz(path, names=np.array(["jawOpen"]), **small).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty folder":
        path.mkdir()
    with pytest.raises(UserError, match=r"face\.npz") as failure:
        load(path)
    assert "npz" in str(failure.value).replace("face.npz", "") and "\n" not in str(failure.value)
