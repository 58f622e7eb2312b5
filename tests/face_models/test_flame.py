"""FLAME: the builtin head written as its pickle comes back; jaw modes, landmark files, files of another kind."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from face_models.as_files import EXPRESSIONS, IDENTITIES, SmallHead, flame_arrays, small_head

from manvatar.errors import UserError
from manvatar.face_models import flame, load
from manvatar.face_models.embedding import embedded_points
from manvatar.types import FaceModel


@lru_cache(maxsize=1)
def arrays() -> dict[str, object]:
    return flame_arrays(small_head())


def write(path: Path, **changed: object) -> Path:
    data = {key: value for key, value in (arrays() | changed).items() if value is not None}
    path.write_bytes(pickle.dumps(data, 2))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("flame") / "generic_model.pkl")


@pytest.fixture(scope="module")
def model(file: Path) -> FaceModel:
    return load(file)


def test_vertices_and_modes(model: FaceModel) -> None:
    assert model.id.startswith("flame-")
    shift = model.mean_m.numpy() - small_head().mean
    assert (
        np.abs(shift - shift[0]).max() < 1e-7
        and np.abs(shift[0] + small_head().points[[36, 39, 42, 45]].mean(0)).max() < 1e-3
    )
    assert np.abs(model.identity_basis_m[:IDENTITIES].numpy() - small_head().identity).max() < 1e-7
    assert len(model.identity_basis_m) == 80 and model.identity_basis_m[IDENTITIES:].abs().max() == 0
    assert np.abs(model.expression_basis_m[:EXPRESSIONS].numpy() - small_head().expression).max() < 1e-7
    assert model.expression_names == (*(f"flame_exp_{k:02d}" for k in range(EXPRESSIONS)), "jawOpen", "jawLeft")
    assert np.array_equal(model.triangles.numpy(), small_head().triangles)


def test_a_folder_is_as_good(file: Path, model: FaceModel) -> None:
    assert torch.equal(load(file.parent).mean_m, model.mean_m)


def test_versions_have_ids_of_their_own(model: FaceModel, tmp_path: Path) -> None:
    directions = np.array(arrays()["shapedirs"])
    directions[0, 0, 301] += 1e-4
    assert load(write(tmp_path / "other.pkl", shapedirs=directions)).id != model.id
    assert load(write(tmp_path / "same.pkl")).id == model.id


def test_eyeballs_are_parts(model: FaceModel) -> None:
    for part, name in ((1, "left_eyeball"), (2, "right_eyeball")):
        found = model.vertex_part == model.part_names.index(name)
        assert np.array_equal(found.numpy(), small_head().eyeballs == part)


def _skinned(data: dict[str, np.ndarray], jaw: np.ndarray) -> np.ndarray:
    """FLAME's vertices with its jaw turned, by 4 x 4 matrices along the chain of joints (the equations of SMPL)."""
    from scipy.spatial.transform import Rotation

    mean = np.asarray(data["v_template"])
    joints = data["J_regressor"] @ mean
    parents = [-1, 0, 1, 1, 1]
    turns = [np.eye(3), np.eye(3), Rotation.from_rotvec(jaw).as_matrix(), np.eye(3), np.eye(3)]
    feature = np.concatenate([(turn - np.eye(3)).ravel() for turn in turns[1:]])
    corrected = mean + data["posedirs"] @ feature
    chain: list[np.ndarray] = []
    for joint, parent in enumerate(parents):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        chain.append(chain[parent] @ local if parent >= 0 else local)
    result = np.zeros_like(mean)
    for joint, matrix in enumerate(chain):
        moved = (corrected - joints[joint]) @ matrix[:3, :3].T + matrix[:3, 3]
        result += data["weights"][:, joint, None] * moved
    return result


@pytest.mark.parametrize("axis", [0, 1])
def test_jaw_modes_are_exact_at_their_chord(axis: int, model: FaceModel) -> None:
    coefficient = flame.JAW_CHORD_RAD[axis] / flame.JAW_SD_RAD[axis]
    moved = coefficient * model.expression_basis_m[axis - 2].double().numpy()
    true = _skinned(arrays(), np.eye(3)[axis] * flame.JAW_CHORD_RAD[axis]) - small_head().mean
    assert np.abs(true).max() > 0.004 and np.abs(moved - true).max() < 1e-7


def test_jaw_modes_between_and_beyond(model: FaceModel) -> None:
    """The figures in the module's text."""
    for angle, bound in ((0.1, 0.8e-3), (0.3, 2.5e-3)):
        moved = angle / flame.JAW_SD_RAD[0] * model.expression_basis_m[-2].double().numpy()
        true = _skinned(arrays(), np.array([angle, 0, 0])) - small_head().mean
        assert np.linalg.norm(moved - true, axis=1).max() < bound


def test_the_jaw_opens_and_goes_left(model: FaceModel) -> None:
    opened, left = model.landmark_bases("ibug68")[2][-2:]
    assert opened[8, 1] < -0.004 and opened[30].norm() < 1e-3
    assert left[8, 0] > 0.001


# ----------------------------------------------------------------------------------------------------------- landmarks


def test_landmarks_without_a_file_beside(model: FaceModel) -> None:
    """The builtin head finds itself, which is the easy case; below it is given a face it never saw."""
    error = np.linalg.norm(
        embedded_points(model, "ibug68") - (small_head().points - small_head().points[[36, 39, 42, 45]].mean(0)), axis=1
    )
    assert np.median(error) < 2e-3
    lips = model.landmark_bases("ibug68")[2][-2, :, 1]
    assert lips[[61, 62, 63]].min() > lips[[65, 66, 67]].max() + 0.002


def test_landmarks_on_a_face_the_builtin_head_never_saw(shared_data: Path, tmp_path: Path) -> None:
    source = load(shared_data / "face_models" / "ict_facekit_light.npz")
    part, names = source.vertex_part.numpy(), source.part_names
    balls = [np.isin(part, names.index(name)) for name in ("left_eyeball", "right_eyeball")]
    kept = np.isin(part, [names.index("face"), names.index("neck")]) | balls[0] | balls[1]
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    triangles = number[source.triangles.numpy()]
    lips = source.landmark_bases("ibug68")[2][:, [62, 66], 1]
    modes = (lips[:, 0] - lips[:, 1]).abs().argsort(descending=True)[:EXPRESSIONS]
    points = embedded_points(source, "ibug68")
    head = SmallHead(
        source.mean_m.double().numpy()[kept],
        source.identity_basis_m[:IDENTITIES].double().numpy()[:, kept],
        source.expression_basis_m[modes].double().numpy()[:, kept],
        triangles[(triangles >= 0).all(1)],
        np.zeros(68, int),
        points,
        np.select([balls[0][kept], balls[1][kept]], [1, 2], 0),
    )
    (tmp_path / "flame2023.pkl").write_bytes(pickle.dumps(flame_arrays(head), 2))
    model = load(tmp_path)
    true = points - points[[36, 39, 42, 45]].mean(0)
    error = np.linalg.norm(embedded_points(model, "ibug68") - true, axis=1)
    assert np.median(error[17:]) < 4e-3 and error[17:].max() < 10e-3 and np.median(error[:17]) < 20e-3


def _tables(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks 68 - count ... 67 of the head as vertices: triangles and weights."""
    flat = small_head().triangles.ravel()
    corner = np.array([int(np.flatnonzero(flat == vertex)[0]) for vertex in small_head().landmarks[68 - count :]])
    return corner // 3, np.eye(3)[corner % 3]


def _static(path: Path, count: int) -> None:
    triangle, weights = _tables(count)
    path.write_bytes(pickle.dumps({"lmk_face_idx": triangle.astype(np.uint32), "lmk_b_coords": weights}, 2))


def _whole(path: Path) -> None:
    triangle, weights = _tables(68)
    inner, inner_weights = _tables(51)
    table = {
        "static_lmk_faces_idx": inner,
        "static_lmk_bary_coords": inner_weights,
        "dynamic_lmk_faces_idx": torch.zeros(79, 17, dtype=torch.long),
        "dynamic_lmk_bary_coords": torch.zeros(79, 17, 3),
        "full_lmk_faces_idx": triangle[None],
        "full_lmk_bary_coords": weights[None],
    }
    np.save(path, np.array(table, dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "save", "first"),
    [
        ("landmark_embedding.npy", _whole, 0),
        ("flame_static_embedding_68.pkl", lambda path: _static(path, 68), 0),
        ("flame_static_embedding.pkl", lambda path: _static(path, 51), 17),
    ],
)
def test_landmark_files_beside_the_model(name: str, save: Callable[[Path], None], first: int, tmp_path: Path) -> None:
    save(tmp_path / name)
    model = load(write(tmp_path / "flame2023.pkl"))
    expected = small_head().mean[small_head().landmarks]
    expected = expected - expected[[36, 39, 42, 45]].mean(0)
    error = np.linalg.norm(embedded_points(model, "ibug68") - expected, axis=1)
    assert error[first:].max() < 1e-6 and np.median(error[:17]) < 6e-3


# ------------------------------------------------------------------------------------------------------------- mistakes


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as failure:
        load(path)
    text = str(failure.value)
    assert "\n" not in text and all(word in text for word in words), text


class _Runs:
    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_code_in_a_model_is_refused(tmp_path: Path) -> None:
    _refused(write(tmp_path / "flame2023.pkl", extra=_Runs(tmp_path / "made")), "mkdir", "not data")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (lambda head: {"weights": np.zeros((len(head.mean), 24))}, "24 joints; FLAME has 5"),
        (lambda head: {"posedirs": None}, "lacks posedirs"),
        (lambda head: {"shapedirs": np.zeros((len(head.mean), 3, 10))}, "shapedirs"),
        (lambda head: {"f": head.triangles + 9}, "triangles name vertices"),
        (lambda head: {"v_template": 1000 * head.mean}, "eye corners"),
    ],
)
def test_other_and_damaged_models(changed: Callable[[SmallHead], dict[str, object]], word: str, tmp_path: Path) -> None:
    _refused(write(tmp_path / "model.pkl", **changed(small_head())), "model.pkl", word)


def test_landmarks_alone(tmp_path: Path) -> None:
    _static(tmp_path / "flame_static_embedding.pkl", 51)
    for path in (tmp_path, tmp_path / "flame_static_embedding.pkl"):
        _refused(path, "generic_model.pkl", "missing", "Max Planck Institute")


def test_a_damaged_landmark_file(tmp_path: Path) -> None:
    _static(tmp_path / "flame_static_embedding_68.pkl", 51)
    _refused(write(tmp_path / "flame2023.pkl"), "flame_static_embedding_68.pkl lists 51 landmarks instead of 68")
