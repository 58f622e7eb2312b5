"""Landmarks from, and to, a file of the user's own.

Three layouts; the number of points, 68 or 478, decides the scheme. Positions are pixels of the upright video at its
full size, (x, y) from the upper left corner, pixel centres at half-integers. Frames that the file lacks, or whose
numbers are not finite or all zero, have no face.

``.npz``
    ``points_px`` (F, K, 2); optional ``confidence`` (F, K) or (F,), 0..1; optional ``frame`` (F,) frame numbers from 0.
``.csv``
    a header line naming the columns ``frame, x0, y0, x1, y1, ...``, and optionally ``confidence`` or ``c0, c1, ...``;
    one line a frame, any order of columns and lines.
``.json``
    ``{"frames": [{"frame": 0, "points": [[x, y], ...], "confidence": 1.0}, ...]}``; ``frame`` and ``confidence`` (one
    number, or one a point) are optional.
"""

from __future__ import annotations

import csv
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from manvatar.errors import UserError
from manvatar.files import replacing
from manvatar.types import LANDMARK_COUNT, Landmarks

_LAYOUTS = (".npz", ".csv", ".json")


def load_landmarks(path: str | os.PathLike[str], frame_count: int) -> Landmarks:
    """Read landmarks for a clip of ``frame_count`` frames.

    Raises:
        UserError: no such file, another layout, not 68 or 478 points, or no frame of the clip among them.
    """
    source = Path(path)
    if not source.is_file():
        raise UserError(
            f"no such landmark file: {source}; give an existing {', '.join(_LAYOUTS)} file, or name a backend: auto, "
            "mediapipe, face-alignment"
        )
    readers = {".npz": _read_npz, ".csv": _read_csv, ".json": _read_json}
    if source.suffix.lower() not in readers:
        raise UserError(f"{source} is not one of {', '.join(_LAYOUTS)}; convert it to one of them")
    try:
        points, confidence, frame = readers[source.suffix.lower()](source)
    except (KeyError, ValueError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile, csv.Error) as error:
        raise UserError(f"cannot read landmarks from {source} ({error}); see manvatar.landmarks.from_file") from error
    return _assembled(source, points, confidence, frame, frame_count)


def save_landmarks(landmarks: Landmarks, path: str | os.PathLike[str]) -> None:
    """Write landmarks in the ``.npz`` layout; :func:`load_landmarks` reads the same values back.

    Raises:
        UserError: the path cannot be written or does not end in ``.npz``.
    """
    if Path(path).suffix.lower() != ".npz":
        raise UserError(f"landmarks are written as .npz, not as {Path(path).name}; choose a name that ends in .npz")
    with replacing(path) as temporary:
        np.savez_compressed(temporary, points_px=landmarks.points_px.numpy(), confidence=landmarks.confidence.numpy())


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as data:
        points = np.asarray(data["points_px"], np.float32)
        confidence = np.asarray(data["confidence"], np.float32) if "confidence" in data else np.ones(len(points))
        frame = np.asarray(data["frame"]) if "frame" in data else np.arange(len(points))
    return points, confidence, frame


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    names = [name.strip() for name in rows[0]]
    values = np.array([[float(cell) if cell.strip() else np.nan for cell in row] for row in rows[1:]], np.float64)
    column = {name: values[:, i] for i, name in enumerate(names)}
    count = sum(name[:1] == "x" and name[1:].isdigit() for name in names)
    points = np.stack([np.stack([column[f"x{k}"], column[f"y{k}"]], -1) for k in range(count)], 1)
    if "c0" in column:
        confidence = np.stack([column[f"c{k}"] for k in range(count)], -1)
    else:
        confidence = column.get("confidence", np.ones(len(values)))
    return points.astype(np.float32), confidence, column.get("frame", np.arange(len(values)))


def _read_json(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    entries = json.loads(path.read_text(encoding="utf-8"))["frames"]
    points = np.array([entry["points"] for entry in entries], np.float32)
    rows = [np.broadcast_to(np.float32(entry.get("confidence", 1.0)), points.shape[1:2]) for entry in entries]
    return points, np.stack(rows), np.array([entry.get("frame", i) for i, entry in enumerate(entries)])


def _assembled(
    source: Path, points: np.ndarray, confidence: np.ndarray, frame: np.ndarray, frame_count: int
) -> Landmarks:
    schemes = {count: scheme for scheme, count in LANDMARK_COUNT.items()}
    if points.ndim != 3 or points.shape[2] != 2 or points.shape[1] not in schemes:
        raise UserError(f"{source} holds points of shape {points.shape}; 68 or 478 points (x, y) a frame are needed")
    if confidence.shape not in (points.shape[:1], points.shape[:2]) or frame.shape != points.shape[:1]:
        raise UserError(f"{source}: confidence {confidence.shape} or frame {frame.shape} does not fit {points.shape}")
    confidence = confidence[:, None] if confidence.ndim == 1 else confidence
    confidence = np.nan_to_num(np.broadcast_to(confidence, points.shape[:2])).clip(0, 1)
    good = np.isfinite(points).all((1, 2)) & points.any((1, 2)) & confidence.any(1)
    good &= (frame >= 0) & (frame < frame_count)
    if not good.any():
        raise UserError(f"{source} has landmarks for none of the clip's {frame_count} frames; check its frame numbers")
    all_points = np.full((frame_count, *points.shape[1:]), np.nan, np.float32)
    all_confidence = np.zeros((frame_count, points.shape[1]), np.float32)
    where = frame[good].astype(np.int64)
    all_points[where], all_confidence[where] = points[good], confidence[good]
    detected = torch.zeros(frame_count, dtype=torch.bool)
    detected[torch.from_numpy(where)] = True
    return Landmarks(torch.from_numpy(all_points), torch.from_numpy(all_confidence), detected, schemes[points.shape[1]])
