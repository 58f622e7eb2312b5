"""OpenSeeFace's networks: decoding, the 68 points, and the detector on tiny networks with the same interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from landmarks.faces import face_clip

from manvatar.errors import UserError
from manvatar.landmarks import Observation, detect_clip, make_detector
from manvatar.landmarks.openseeface import (
    CELLS,
    DETECTION,
    GAZE,
    IN_68,
    POINTS,
    SIDE_PX,
    OpenSeeFaceDetector,
    as_68,
    decoded,
)

LANDMARK_FILE = "lm_model1_opt.onnx"


def _sigmoid(value: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(value, np.float64)))


def _answer(points: np.ndarray, confidence: float = 0.9) -> np.ndarray:
    """What the landmark network says of points (66, 2) in pixels of its input, from 0."""
    maps = np.full((3, POINTS, CELLS, CELLS), 0.5, np.float32)
    maps[0] = 0.01
    cell = np.clip(np.round(points / (SIDE_PX - 1) * (CELLS - 1)), 0, CELLS - 1).astype(int)
    for index, ((column, row), (x, y)) in enumerate(zip(cell, points, strict=True)):
        maps[0, index, row, column] = confidence
        maps[1, index, row, column] = _sigmoid(16 * (y / (SIDE_PX - 1) - row / (CELLS - 1)))
        maps[2, index, row, column] = _sigmoid(16 * (x / (SIDE_PX - 1) - column / (CELLS - 1)))
    return maps.reshape(3 * POINTS, CELLS, CELLS)


def test_points_come_out_of_the_heatmaps() -> None:
    points = np.random.default_rng(0).uniform(10, 210, (POINTS, 2))
    found, confidence = decoded(_answer(points, 0.8))
    assert np.abs(found - points).max() < 1e-3
    assert confidence == pytest.approx(np.full(POINTS, 0.8))


def test_the_outer_corners_of_the_lips_are_not_believed() -> None:
    points = np.arange(2 * POINTS, dtype=np.float32).reshape(POINTS, 2)
    placed, trust = as_68(points, np.ones(POINTS, np.float32))
    assert (trust == 0).nonzero()[0].tolist() == [48, 54]
    assert np.array_equal(placed[list(IN_68)], points)
    assert np.array_equal(placed[48], placed[60]) and np.array_equal(placed[54], placed[64])
    assert np.array_equal(placed[36], points[36]) and np.array_equal(placed[67], points[65])


# ------------------------------------------------------------------------------------------------------ tiny networks


def _constant_network(path: Path, side: int, outputs: dict[str, np.ndarray]) -> None:
    """A network with an image as input and answers that are always the same (formally they hang on the input)."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    values = [numpy_helper.from_array(np.float32(0), "zero")]
    described = []
    for name, array in outputs.items():
        values.append(numpy_helper.from_array(array.astype(np.float32), f"{name}_value"))
        nodes.append(helper.make_node("Add", [f"{name}_value", "nothing"], [name]))
        described.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    batch = next(iter(outputs.values())).shape[0]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, side, side])
    graph = helper.make_graph(nodes, "tiny", [image], described, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))


def _face_points() -> np.ndarray:
    """66 points in the network's input: an ellipse, with eyes."""
    turn = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    points = np.stack([112 + 80 * np.cos(turn), 112 + 85 * np.sin(turn)], 1)
    points[36:48] = (
        [[60 + 8 * k, 90] for k in range(4)]
        + [[76, 94], [68, 94]]
        + [[120 + 8 * k, 90] for k in range(4)]
        + [[136, 94], [128, 94]]
    )
    return points


@pytest.fixture
def models(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "models"
    folder.mkdir()
    maps = np.zeros((1, 2, 56, 56))
    maps[0, 0, 28, 28], maps[0, 1, 28, 28] = 0.9, 0.4  # a face in the middle, 0.8 of the picture wide
    _constant_network(folder / DETECTION, SIDE_PX, {"output": maps, "maxpool": maps})
    _constant_network(folder / LANDMARK_FILE, SIDE_PX, {"output": _answer(_face_points())[None]})
    gaze = np.full((2, 3, 8, 8), 0.5)
    gaze[:, 0] = 0
    gaze[:, 0, 4, 4] = 1  # the middle of the rectangle, to the pixel
    _constant_network(folder / GAZE, 32, {"output": gaze})
    return folder


def test_a_face_is_placed_where_the_detection_is(models: Path) -> None:
    image = torch.zeros(360, 480, 3, dtype=torch.uint8)
    detector = OpenSeeFaceDetector(models)
    assert detector.landmark_model == LANDMARK_FILE
    box = (100.0, 60.0, 300.0, 260.0)
    face = detector.follow(image, Observation(np.zeros((68, 2), np.float32), np.ones(68, np.float32), box))
    # The box enlarged by 0.1 and 0.125, cut in whole pixels from one row further down.
    left, top, width, height = 80, 36, 240, 250
    expected = (_face_points()[36] + 0.5) / SIDE_PX * [width, height] + [left, top]
    assert face is not None and face.points_px[36] == pytest.approx(expected, abs=0.01)
    assert face.confidence[48] == 0 and face.confidence[36] == pytest.approx(0.9)
    pupils = detector.pupils_px(image, face)
    middles = [(face.points_px[a] + face.points_px[b]) / 2 for a, b in ((36, 39), (42, 45))]
    assert np.abs(pupils - middles).max() < 0.1
    assert len(detector.discover(image)) == 1


def test_no_face_is_no_face(models: Path) -> None:
    weak = _answer(_face_points(), 0.3)
    _constant_network(models / LANDMARK_FILE, SIDE_PX, {"output": weak[None]})
    assert OpenSeeFaceDetector(models).discover(torch.zeros(90, 120, 3, dtype=torch.uint8)) == []


def test_a_clip_is_tracked_by_the_name_of_the_folder(models: Path, tmp_path: Path) -> None:
    clip = face_clip(tmp_path / "clip.mp4", [[(1.0, (240, 150))]] * 4)
    landmarks = detect_clip(clip, models).landmarks
    assert landmarks.scheme == "ibug68" and bool(landmarks.detected.all())
    assert float(landmarks.confidence[:, [48, 54]].max()) == 0


def test_what_is_missing_is_said(models: Path, tmp_path: Path) -> None:
    (models / GAZE).unlink()
    detector = OpenSeeFaceDetector(models)
    (face,) = detector.discover(torch.zeros(90, 120, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match=GAZE):
        detector.pupils_px(torch.zeros(90, 120, 3, dtype=torch.uint8), face)
    (models / LANDMARK_FILE).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="cannot be read as a network"):
        OpenSeeFaceDetector(models)
    with pytest.raises(UserError, match="lacks mnv3_detection_opt.onnx"):
        make_detector(str(tmp_path))
    with pytest.raises(UserError, match="named by the folder"):
        make_detector("openseeface")
