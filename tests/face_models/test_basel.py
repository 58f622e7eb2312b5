"""Basel Face Models: the builtin head written into each layout comes back, in metres and standard deviations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from face_models.as_files import (
    EXPRESSIONS,
    IDENTITIES,
    SmallHead,
    named_points,
    small_head,
    write_bfm2009,
    write_bfm2009_front,
    write_bfm_h5,
)
from scipy.io import loadmat, savemat

from manvatar.errors import UserError
from manvatar.face_models import bfm2009, bfm2009_front, bfm_h5, load
from manvatar.face_models.assembly import vertex_embedding
from manvatar.face_models.completion import warped_template
from manvatar.face_models.embedding import embedded_points
from manvatar.types import FaceModel

ROUNDING_M = 1e-7  # of float32 in micrometres, millimetres or decimetres


def assert_same(model: FaceModel, head: SmallHead, place: np.ndarray | slice, landmarks: np.ndarray) -> None:
    """The model has the head's vertices at ``place``, and its origin between the eye corners of ``landmarks``."""
    mean = head.mean - landmarks[[36, 39, 42, 45]].mean(0)
    assert np.abs(model.mean_m[place].numpy() - mean).max() < ROUNDING_M
    assert np.abs(model.identity_basis_m[:, place].numpy() - head.identity).max() < ROUNDING_M
    assert np.abs(model.expression_basis_m[:, place].numpy() - head.expression).max() < ROUNDING_M


@pytest.mark.parametrize("trimmed", [True, False])
def test_2009_as_published(trimmed: bool, tmp_path: Path) -> None:
    number = write_bfm2009(tmp_path, small_head(), trimmed)
    if trimmed:
        number = (np.cumsum(bfm2009.outside_mouth()) - 1)[number]
    model = load(tmp_path)
    assert model.id == "bfm2009-full" and len(model.mean_m) == (53215 if trimmed else 53490)
    assert_same(model, small_head(), number, small_head().mean[small_head().landmarks])
    assert np.array_equal(
        model.triangles.numpy(), number[small_head().triangles]
    )  # wound the other way than in the file
    points = embedded_points(model, "ibug68")
    assert np.abs(points - model.mean_m[number[small_head().landmarks]].numpy()).max() < ROUNDING_M
    assert model.expression_names == tuple(f"bfm_exp_{k:02d}" for k in range(EXPRESSIONS))


def test_2009_by_its_mat_file(tmp_path: Path) -> None:
    write_bfm2009(tmp_path, small_head())
    assert torch.equal(load(tmp_path / bfm2009.MODEL).mean_m, load(tmp_path).mean_m)


def test_the_inside_of_the_mouth() -> None:
    assert (~bfm2009.outside_mouth()).sum() == bfm2009.VERTEX_COUNT - bfm2009.TRIMMED_COUNT == 275
    assert bfm2009.outside_mouth()[list(bfm2009.LANDMARKS_68)].all() and len(set(bfm2009.LANDMARKS_68)) == 68


@pytest.mark.parametrize("name", bfm2009_front.NAMES)
def test_2009_front(name: str, tmp_path: Path) -> None:
    write_bfm2009_front(tmp_path / name, small_head())
    model = load(tmp_path)  # a folder is as good as the file
    assert model.id == "bfm2009-front"
    assert_same(model, small_head(), slice(None), small_head().mean[small_head().landmarks])
    assert np.array_equal(model.triangles.numpy(), small_head().triangles)
    points = embedded_points(model, "ibug68")
    assert np.abs(points - model.mean_m[small_head().landmarks].numpy()).max() < ROUNDING_M


def test_full_and_front_have_the_same_coefficients(tmp_path: Path) -> None:
    """What the conversion of Deep3DFaceReconstruction does to the original is what the two loaders agree on."""
    number = write_bfm2009(tmp_path, small_head())
    data = loadmat(tmp_path / bfm2009.MODEL)
    deviations = np.loadtxt(tmp_path / bfm2009.DEVIATIONS)
    raw = np.fromfile(tmp_path / bfm2009.EXPRESSIONS, "<f4", offset=4).reshape(-1, 53215, 3)
    place = (np.cumsum(bfm2009.outside_mouth()) - 1)[number]
    front = {
        "meanshape": data["shapeMU"].reshape(-1, 3)[number].reshape(1, -1) / 1e5,
        "idBase": (data["shapePC"] * data["shapeEV"].T).reshape(-1, 3, IDENTITIES)[number].reshape(-1, IDENTITIES)
        / 1e5,
        "exBase": (raw[1:, place] * deviations[:, None, None]).reshape(len(raw) - 1, -1).T / 1e5,
        "tri": small_head().triangles + 1.0,
        "keypoints": small_head().landmarks[None] + 1.0,
    }
    savemat(tmp_path / "front.mat", front)
    whole, part = load(tmp_path / bfm2009.MODEL), load(tmp_path / "front.mat")
    identity, expression = torch.randn(IDENTITIES), torch.randn(EXPRESSIONS)
    difference = whole.vertices_m(identity, expression)[place] - part.vertices_m(identity, expression)
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("landmarks", ["text", "bytes", "int8"])
def test_h5(landmarks: str, tmp_path: Path) -> None:
    write_bfm_h5(tmp_path / "model.h5", small_head(), landmarks)
    model = load(tmp_path / "model.h5")
    assert_same(model, small_head(), slice(None), small_head().points)
    assert np.array_equal(model.triangles.numpy(), small_head().triangles)
    found = embedded_points(model, "ibug68")
    assert np.abs(found - (small_head().points - small_head().points[[36, 39, 42, 45]].mean(0))).max() < 5e-4
    assert model.id == f"basel-{len(small_head().mean)}"


def test_h5_adds_the_mean_expression(tmp_path: Path) -> None:
    write_bfm_h5(tmp_path / "plain.h5", small_head())
    write_bfm_h5(tmp_path / "shifted.h5", small_head(), mean=0.004)
    plain, shifted = load(tmp_path / "plain.h5"), load(tmp_path / "shifted.h5")
    # A shift of everything is taken out again with the origin, but only if it was in the vertices.
    assert torch.allclose(plain.mean_m, shifted.mean_m, atol=1e-6)
    with h5py.File(tmp_path / "shifted.h5", "a") as file:
        file["expression/model/mean"][: 3 * 1000] = 0
    assert (load(tmp_path / "shifted.h5").mean_m[:1000] - plain.mean_m[:1000] + 0.004).abs().max() < 1e-6


@pytest.mark.parametrize(("count", "name"), sorted(bfm_h5.TOPOLOGIES.items()))
def test_h5_topologies_by_their_vertices(count: int, name: str, tmp_path: Path) -> None:
    """Sparse files of the true sizes: vertices beyond those of the head lie at its centre and in no triangle."""
    head = small_head()
    more = count - len(head.mean)
    padded = SmallHead(
        np.concatenate([head.mean, np.zeros((more, 3))]),
        np.concatenate([head.identity[:2], np.zeros((2, more, 3))], axis=1),
        np.concatenate([head.expression[:2], np.zeros((2, more, 3))], axis=1),
        head.triangles, head.landmarks, head.points, head.eyeballs,
    )  # fmt: skip
    write_bfm_h5(tmp_path / "model.h5", padded)
    assert bfm_h5.load(tmp_path / "model.h5").id == name


LOADERS: dict[str, tuple[Callable[[Path], object], Callable[..., FaceModel]]] = {
    "01_MorphableModel.mat": (lambda path: write_bfm2009(path.parent, small_head()), bfm2009.load),
    "BFM_model_front.mat": (lambda path: write_bfm2009_front(path, small_head()), bfm2009_front.load),
    "model.h5": (lambda path: write_bfm_h5(path, small_head()), bfm_h5.load),
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_first_coefficients_are_kept(name: str, tmp_path: Path) -> None:
    write, read = LOADERS[name]
    write(tmp_path / name)
    whole, few = read(tmp_path / name), read(tmp_path / name, identity_count=3, expression_count=2)
    assert torch.equal(few.identity_basis_m, whole.identity_basis_m[:3])
    assert torch.equal(few.expression_basis_m, whole.expression_basis_m[:2]) and len(few.expression_names) == 2


def test_landmarks_are_completed_on_another_face(tmp_path: Path) -> None:
    """A face of other proportions, stretched unevenly: named points exactly, the others where they moved to."""

    def other(points: np.ndarray) -> np.ndarray:
        return points * (1.08, 0.93, 1.1) + 0.004 * np.sin(points[:, [1, 2, 0]] / 0.03)

    head = SmallHead(
        other(small_head().mean),
        small_head().identity,
        small_head().expression,
        small_head().triangles,
        small_head().landmarks,
        other(small_head().points),
        small_head().eyeballs,
    )
    write_bfm_h5(tmp_path / "model.h5", head)
    model = load(tmp_path / "model.h5")
    error = np.linalg.norm(
        embedded_points(model, "ibug68") - (head.points - head.points[[36, 39, 42, 45]].mean(0)), axis=1
    )
    known = [which[0] for which in bfm_h5.LANDMARK_NAMES.values() if len(which) == 1]
    assert error[known].max() < 1e-3  # named in the middle of the lips' slit, found on one of them
    assert np.median(error[17:]) < 1e-3 and error[17:].max() < 4e-3
    assert np.median(error[:17]) < 8e-3  # the jaw line lies beyond all named points but the chin


def test_upper_and_lower_lips_are_apart(tmp_path: Path) -> None:
    write_bfm_h5(tmp_path / "model.h5", small_head())
    model = load(tmp_path / "model.h5")
    jaw = model.landmark_bases("ibug68")[2][0, :, 1]  # the first expression opens the jaw
    assert jaw[[61, 62, 63]].min() > jaw[[65, 66, 67]].max() + 0.003
    detected = model.landmark_bases("mediapipe478")[2][0, :, 1]
    assert detected[[81, 13, 311]].min() > detected[[178, 14, 402]].max() + 0.003


def test_points_of_basel_2017_predict_the_rest() -> None:
    """Against a table of the 68 points on the mean of the 2017 model: the completion alone, before any surface."""
    # Named points of model2017-1_bfm_nomouth.h5 (mm, right and middle; the left is mirrored), and 68 points picked on
    # it.
    named = {
        (8,): (-0.1, -73.4, 103.0), (30,): (0.2, 1.0, 131.8), (33,): (0.0, -11.0, 116.1), (51,): (0.0, -26.2, 115.3),
        (57,): (0.0, -41.5, 111.8), (62,): (0.0, -32.4, 109.9), (66,): (0.0, -32.6, 109.8),
        (18,): (-46.3, 51.8, 95.9), (20,): (-20.4, 50.5, 107.2), (36,): (-44.0, 32.4, 86.6), (39,): (-17.1, 31.8, 93.1),
        (37, 38): (-31.6, 37.1, 95.3), (40, 41): (-31.7, 28.7, 93.8), (31,): (-13.9, -10.6, 106.1),
        (32,): (-7.6, -8.7, 112.0), (48,): (-23.7, -33.5, 98.3), (50,): (-5.5, -25.0, 114.8),
    }  # fmt: skip
    mirrored = {(18,): (25,), (20,): (23,), (36,): (45,), (39,): (42,), (37, 38): (43, 44), (40, 41): (46, 47)}
    mirrored |= {(31,): (35,), (32,): (34,), (48,): (54,), (50,): (52,)}
    both = named | {left: named[right] * np.array((-1, 1, 1)) for right, left in mirrored.items()}
    points = 1000 * warped_template({which: np.array(point) / 1000 for which, point in both.items()})
    picked = {
        17: (-56.0, 47.5, 86.8),
        19: (-34.4, 52.8, 103.1),
        21: (-10.8, 46.8, 107.2),
        37: (-36.9, 38.8, 96.2),
        40: (-27.1, 31.3, 93.7),
        49: (-14.8, -27.6, 110.6),
        58: (-7.4, -41.0, 111.2),
        61: (-6.8, -32.0, 110.0),
    }
    # fmt: skip
    error = {k: np.linalg.norm(points[k] - point) for k, point in picked.items()}
    assert np.mean(list(error.values())) < 3.5 and max(error.values()) < 6


def test_landmark_vertices_need_triangles() -> None:
    triangles = np.array([[0, 1, 2], [2, 1, 3]])
    embedding = vertex_embedding(np.array([0, 3, 1, 2] * 17), triangles)
    corner = embedding.barycentric.argmax(1)
    assert triangles[embedding.triangle.numpy(), corner.numpy()].tolist() == [0, 3, 1, 2] * 17
    with pytest.raises(ValueError, match=r"\[4\] belong to no triangle"):
        vertex_embedding(np.array([0, 1, 2, 4] + [1] * 64), triangles)


# ------------------------------------------------------------------------------------------------------------- mistakes


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as failure:
        load(path)
    text = str(failure.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("name", [bfm2009.EXPRESSIONS, bfm2009.DEVIATIONS])
def test_a_missing_part_of_2009_is_named(name: str, tmp_path: Path) -> None:
    write_bfm2009(tmp_path, small_head())
    (tmp_path / name).unlink()
    _refused(tmp_path, name, "missing", bfm2009.SOURCES[name])


def test_parts_alone_of_2009(tmp_path: Path) -> None:
    write_bfm2009(tmp_path, small_head())
    (tmp_path / bfm2009.MODEL).unlink()
    _refused(tmp_path, bfm2009.MODEL, "missing", "University of Basel")
    _refused(tmp_path / bfm2009.EXPRESSIONS, "Exp_Pca.bin", bfm2009.MODEL)
    savemat(tmp_path / "facemodel_info.mat", {"keypoints": np.ones((1, 68)), "tri": np.ones((5, 3))})
    _refused(tmp_path / "facemodel_info.mat", "Deep3DFaceReconstruction")


def test_damaged_2009(tmp_path: Path) -> None:
    write_bfm2009(tmp_path, small_head())
    whole = (tmp_path / bfm2009.EXPRESSIONS).read_bytes()
    (tmp_path / bfm2009.EXPRESSIONS).write_bytes(whole[:-8])
    _refused(tmp_path, "Exp_Pca.bin", "bytes")
    (tmp_path / bfm2009.EXPRESSIONS).write_bytes(whole)
    (tmp_path / bfm2009.DEVIATIONS).write_text("1 2 3")
    _refused(tmp_path / bfm2009.MODEL, "std_exp.txt has 3 numbers")
    model = (tmp_path / bfm2009.MODEL).read_bytes()
    (tmp_path / bfm2009.MODEL).write_bytes(model[: len(model) // 2])
    _refused(tmp_path, "01_MorphableModel.mat")


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"keypoints": np.ones((1, 5))}, "5 landmark vertices instead of 68"),
        ({"tri": np.full((3, 3), 10**6)}, "triangles name vertices"),
        ({"exBase": np.zeros((30, 2))}, "vertices in meanshape"),
        ({"tri": None}, "lacks tri"),
        ({"meanshape": lambda: 1000 * small_head().mean.reshape(1, -1)}, "eye corners"),
    ],
)
def test_damaged_front(changed: dict[str, object], word: str, tmp_path: Path) -> None:
    path = tmp_path / "BFM_model_front.mat"
    write_bfm2009_front(path, small_head())
    data = {key: value for key, value in loadmat(path).items() if not key.startswith("_")} | changed
    data = {key: value() if callable(value) else value for key, value in data.items() if value is not None}
    savemat(path, data)
    _refused(path, word)


def test_incomplete_h5(tmp_path: Path) -> None:
    write_bfm_h5(tmp_path / "old.h5", small_head(), expressions=False)
    _refused(tmp_path / "old.h5", "no expression model")
    write_bfm_h5(tmp_path / "bare.h5", small_head(), landmarks="none")
    _refused(tmp_path / "bare.h5", "names 0 points")
    content = (tmp_path / "bare.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(content[: len(content) // 2])
    _refused(tmp_path / "half.h5", "half.h5")
    _refused(tmp_path, "2 Basel models", "bare.h5", "old.h5")


def test_points_that_were_cropped_away_are_left_out(tmp_path: Path) -> None:
    write_bfm_h5(tmp_path / "model.h5", small_head())
    points = named_points(small_head())
    with h5py.File(tmp_path / "model.h5", "a") as file:
        text = file["metadata/landmarks/json"][()].decode()
        del file["metadata/landmarks/json"]
        far = (points["center.chin.tip"] * 1000).tolist()
        file["metadata/landmarks/json"] = text.replace(str(far), "[0.0, -400.0, 0.0]")
    model = load(tmp_path / "model.h5")
    chin = embedded_points(model, "ibug68")[8]
    assert np.linalg.norm(chin - (points["center.chin.tip"] - small_head().points[[36, 39, 42, 45]].mean(0))) < 0.01
