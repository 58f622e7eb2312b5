"""The third landmark network: OpenSeeFace (Emiliana, BSD-2), which the press account of ManVatar names as its tracker.

It runs through the optional package ``onnxruntime`` on ONNX files that the user has: the folder ``models`` of the
project's repository. Of ``lm_model0`` ... ``lm_model4`` the best that is there is taken (3, the project's default, then
2, 1, 0; 4 is made for winks and taken last).

==========================  ====================================================================================
mnv3_detection_opt.onnx     (1, 3, 224, 224) -> heatmap of face centres and half sizes / 112, and maxima (2, 56, 56)
lm_model?_opt.onnx          (1, 3, 224, 224) -> (198, 28, 28): 66 heatmaps, 66 offsets down, 66 across, as sigmoids
mnv3_gaze32_split_opt.onnx  (1, 3, 32, 32), across first -> (3, 8, 8): heatmap of the pupil and its offsets
==========================  ====================================================================================

The 66 points are iBUG's 68 without the outer corners of the lips (48 and 54). The inner corners stand in for them with
confidence 0, so nothing is fitted to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.landmarks.blazeface import Face, suppress
from manvatar.landmarks.detector import Box, Observation
from manvatar.types import LandmarkScheme

DETECTION, GAZE = "mnv3_detection_opt.onnx", "mnv3_gaze32_split_opt.onnx"
LANDMARKS = tuple(f"lm_model{number}_opt.onnx" for number in (3, 2, 1, 0, 4))
POINTS = 66
MISSING = {48: 60, 54: 64}  # of iBUG's 68, and what stands in
IN_68 = tuple(index for index in range(68) if index not in MISSING)
SIDE_PX, CELLS = 224, 28
FACE_SCORE, POINT_SCORE = 0.6, 0.6  # as the project has them
_MOST_FACES = 8
_MEAN, _SD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_OFFSET_SCALE, _GAZE_OFFSET_SCALE = 16.0, 8.0
_EYES = ((36, 39, False), (42, 45, True))  # corners, left in the picture first; the second eye is seen mirrored


def is_model_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder with landmark networks of OpenSeeFace."""
    return any((Path(path) / name).is_file() for name in LANDMARKS)


class OpenSeeFaceDetector:
    """OpenSeeFace's networks, as a :class:`manvatar.landmarks.LandmarkDetector`.

    Args:
        models: folder with the ``.onnx`` files above.

    Attributes:
        landmark_model: name of the landmark network in use.

    Raises:
        UserError: ``onnxruntime`` is not installed, or a file is missing or cannot be read.
    """

    scheme: LandmarkScheme = "ibug68"

    def __init__(self, models: str | Path) -> None:
        folder = Path(models)
        found = [name for name in LANDMARKS if (folder / name).is_file()]
        if not found or not (folder / DETECTION).is_file():
            raise UserError(
                f"{folder} lacks {DETECTION} or a landmark network such as {LANDMARKS[0]}; give the folder 'models' of "
                "OpenSeeFace, or use the default backend"
            )
        self.landmark_model = found[0]
        self._landmarks = _session(folder / found[0])
        self._detection = _session(folder / DETECTION)
        self._gaze = _session(folder / GAZE) if (folder / GAZE).is_file() else None

    def discover(self, image: Tensor, *, thorough: bool = False) -> list[Observation]:
        """Every face in the image, largest first; see :class:`manvatar.landmarks.LandmarkDetector`."""
        height, width = image.shape[:2]
        boxes = self._boxes(image, (0, 0, width, height))
        if thorough and not boxes:
            for left in (0, width // 4, width // 2):
                for top in (0, height // 4, height // 2):
                    boxes += self._boxes(image, (left, top, left + width // 2, top + height // 2))
        found = []
        for box in _merged(boxes):
            rough = self._place(image, box)
            if rough is not None and (exact := self._place(image, rough.box)) is not None:
                found.append(exact)
        return found

    def follow(self, image: Tensor, previous: Observation) -> Observation | None:
        """The same face in a neighbouring image; None when it is not there any more."""
        return self._place(image, previous.box)

    def pupils_px(self, image: Tensor, face: Observation) -> np.ndarray:
        """Pupils (2, 2) of a face, the subject's right eye first.

        Raises:
            UserError: the gaze network was not in the folder.
        """
        if self._gaze is None:
            raise UserError(f"the folder of OpenSeeFace's networks lacks {GAZE}; put it there")
        eyes = [_Eye(face.points_px[a], face.points_px[b], mirrored) for a, b, mirrored in _EYES]
        batch = np.stack([eye.cut(image) for eye in eyes])
        # The network was trained on images whose first axis runs across.
        answer = self._gaze.run(None, {self._gaze.get_inputs()[0].name: batch.transpose(0, 3, 2, 1)})[0]
        return np.stack([eye.place(values) for eye, values in zip(eyes, answer, strict=True)])

    def _boxes(self, image: Tensor, part: tuple[int, int, int, int]) -> list[tuple[float, Box]]:
        """(score, box) of faces in a part of the image (left, top, right, bottom)."""
        left, top, right, bottom = part
        if right - left < 8 or bottom - top < 8:
            return []
        maps, highest = self._detection.run(None, {"input": _input(image[top:bottom, left:right])})
        scores = np.where(maps[0, 0] == highest[0, 0], maps[0, 0], 0)
        across, down = (right - left) / SIDE_PX, (bottom - top) / SIDE_PX
        cell = SIDE_PX / scores.shape[0]
        result = []
        for place in np.argsort(-scores, axis=None)[:_MOST_FACES]:
            row, column = divmod(int(place), scores.shape[1])
            if scores[row, column] < FACE_SCORE:
                break
            x, y, reach = cell * column, cell * row, float(maps[0, 1, row, column]) * SIDE_PX / 2
            box = (left + (x - reach) * across, top + (y - reach) * down)
            result.append((float(scores[row, column]), (*box, box[0] + 2 * reach * across, box[1] + 2 * reach * down)))
        return result

    def _place(self, image: Tensor, box: Box) -> Observation | None:
        """Landmarks in a box, enlarged as the project does it; None when the network sees no face there."""
        height, width = image.shape[:2]
        left, top, right, bottom = box
        aside, beyond = int((right - left) * 0.1), int((bottom - top) * 0.125)
        # Whole pixels, and one row further down than one would think: as the project cuts.
        x0, x1 = (int(np.clip(x, 0, width - 1)) for x in (left - aside, right + aside))
        y0, y1 = (int(np.clip(y, 0, height - 1) + 1) for y in (top - beyond, bottom + beyond))
        if x1 - x0 < 4 or y1 - y0 < 4:
            return None
        name = self._landmarks.get_inputs()[0].name
        (answer,) = self._landmarks.run(None, {name: _input(image[y0:y1, x0:x1])})[:1]
        points, confidence = decoded(answer[0])
        if not np.isfinite(points).all() or confidence.mean() <= POINT_SCORE:
            return None
        scale = np.array([x1 - x0, y1 - y0], np.float32) / SIDE_PX
        # The network counts whole pixels of its input; here their centres lie half a pixel further.
        points = np.array([x0, y0], np.float32) + scale * (points + 0.5)
        low, high = points.min(0), points.max(0)
        return Observation(*as_68(points, confidence), (*map(float, low), *map(float, high)))


def decoded(answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The network's (198, 28, 28) as positions (66, 2) in pixels of its input, from 0, and confidence (66,)."""
    maps = answer.reshape(3, POINTS, CELLS * CELLS)
    best = maps[0].argmax(1)
    confidence, down, across = (part[np.arange(POINTS), best] for part in maps)
    row, column = np.divmod(best, CELLS)
    reach = SIDE_PX - 1
    x = reach * (column / (CELLS - 1) + _logit(across) / _OFFSET_SCALE)
    y = reach * (row / (CELLS - 1) + _logit(down) / _OFFSET_SCALE)
    return np.stack([x, y], 1).astype(np.float32), confidence.clip(0, 1).astype(np.float32)


def as_68(points: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """OpenSeeFace's 66 points (66, 2) and confidences in iBUG's order of 68."""
    placed, trust = np.zeros((68, 2), np.float32), np.zeros(68, np.float32)
    placed[list(IN_68)], trust[list(IN_68)] = points, confidence
    for missing, stand_in in MISSING.items():
        placed[missing] = placed[stand_in]
    return placed, trust


class _Eye:
    """The rectangle in which the gaze network looks for a pupil: along the corners of the eye."""

    side_px, cells = 32, 8

    def __init__(self, first: np.ndarray, second: np.ndarray, mirrored: bool) -> None:
        along = (second - first) / max(float(np.linalg.norm(second - first)), 1e-6)
        length = float(np.linalg.norm(second - first))
        self.middle = (first + second) / 2
        self.axes = np.stack([along, np.array([-along[1], along[0]])]) * np.array([[1.4], [1.2]]) * length
        self.mirrored = mirrored

    def cut(self, image: Tensor) -> np.ndarray:
        """(32, 32, 3) float32, normalised."""
        height, width = image.shape[:2]
        size = np.array([width, height])
        theta = np.concatenate([self.axes.T / size[:, None], (self.middle / size * 2 - 1)[:, None]], 1)
        grid = torch.nn.functional.affine_grid(
            torch.tensor(theta[None], dtype=torch.float32), [1, 3, self.side_px, self.side_px], align_corners=False
        )
        part = torch.nn.functional.grid_sample(
            image.permute(2, 0, 1)[None].float(), grid, padding_mode="border", align_corners=False
        )[0].permute(1, 2, 0)
        part = part.flip(1) if self.mirrored else part
        return _normalised(part.numpy())

    def place(self, answer: np.ndarray) -> np.ndarray:
        """The pupil (2,) in the image from the network's (3, 8, 8)."""
        column, row = divmod(int(answer[0].argmax()), self.cells)
        step = np.array([column, row]) / self.cells
        part = step + _logit(answer[1:, column, row]) / _GAZE_OFFSET_SCALE
        if self.mirrored:
            part[0] = 1 - part[0]
        return (self.middle + (part - 0.5) @ self.axes).astype(np.float32)


def _merged(boxes: list[tuple[float, Box]]) -> list[Box]:
    """Boxes of different faces, largest first."""
    nothing = np.zeros((6, 2))
    return [face.box for face in suppress([Face(box, nothing, score) for score, box in boxes])]


def _input(part: Tensor) -> np.ndarray:
    """(1, 3, 224, 224) from (height, width, 3) uint8."""
    small = torch.nn.functional.interpolate(
        part.permute(2, 0, 1)[None].float(), (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False
    )
    return np.ascontiguousarray(_normalised(small[0].permute(1, 2, 0).numpy()).transpose(2, 0, 1)[None])


def _normalised(image: np.ndarray) -> np.ndarray:
    return ((image / 255 - _MEAN) / _SD).astype(np.float32)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "the networks of OpenSeeFace need onnxruntime, which is not installed; run: pip install onnxruntime, or "
            "use the default backend"
        ) from error
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class but Exception
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path} cannot be read as a network ({reason}); download it again") from error
