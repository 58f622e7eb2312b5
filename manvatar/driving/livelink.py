"""Recordings in Apple's 52 blendshapes: CSV files of the Live Link Face app, and tables with the same names.

A Live Link Face file has columns ``Timecode`` (HH:MM:SS:FF.part), ``BlendShapeCount``, the blendshapes with a capital
(``EyeBlinkLeft`` ...) and angles of head and eyes. Columns are known by their names, in any order and case. Gaze
comes from the eyeLook blendshapes; the unit of the angles depends on the app's version, so they are passed over.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.errors import UserError
from manvatar.face_models.arkit import ARKIT_NAMES, arkit_map, channel_weights, unexplained, weights_of
from manvatar.files import replacing
from manvatar.types import FaceModel, Track

_KNOWN = {name.lower(): row for row, name in enumerate(ARKIT_NAMES)}
_PASSED_OVER = {
    *("timecode", "blendshapecount", "_neutral", "frame", "time_s", "frame_rate_hz"),
    *(f"{part}{angle}" for part in ("head", "lefteye", "righteye") for angle in ("yaw", "pitch", "roll")),
}
_RATES_HZ = (24, 25, 30, 48, 50, 60, 120)
_USUAL_RATE_HZ = 60  # of the app


def arkit_weights(table: dict[str, np.ndarray], expression_names: tuple[str, ...]) -> Float[Tensor, "frames 52"] | None:
    """Activations (0 to 1) where a table holds them; None where it holds something else.

    The builtin head's coefficients have ARKit's names, too. A table whose names are all coefficients of the avatar
    holds those, in standard deviations; one of the app has names of the other kind or with a capital.
    """
    columns = {name: np.atleast_1d(array) for name, array in table.items() if name.lower() not in _PASSED_OVER}
    if not columns or any(name.lower() not in _KNOWN for name in columns):
        return None
    if all(name in expression_names for name in columns):
        return None
    frames = {array.shape for array in columns.values()}
    if len(frames) > 1 or any(array.ndim != 1 or array.dtype.kind != "f" for array in columns.values()):
        return None
    weights = np.zeros((*frames.pop(), len(ARKIT_NAMES)), np.float32)
    for name, array in columns.items():
        weights[:, _KNOWN[name.lower()]] = array
    return torch.from_numpy(weights)


def timecode_s(table: dict[str, np.ndarray]) -> np.ndarray | None:
    """Seconds of every row from a column ``Timecode``; None without one.

    Raises:
        UserError: a timecode that is none.
    """
    column = next((array for name, array in table.items() if name.lower() == "timecode"), None)
    if column is None or column.dtype.kind not in "US":
        return None
    parts = []
    for text in column.tolist():
        match = re.fullmatch(r"\s*(\d+)[:;](\d+)[:;](\d+)[:;](\d+(?:\.\d+)?)\s*", text)
        if match is None:
            raise UserError(f"{text!r} is no timecode (HH:MM:SS:FF.part); mend the column Timecode or take it out")
        parts.append([float(group) for group in match.groups()])
    hours, minutes, seconds, frame = np.array(parts).T
    crossed = len(np.unique(seconds)) > 1  # otherwise the highest frame number says nothing
    rate = next((rate for rate in _RATES_HZ if crossed and rate > frame.max()), _USUAL_RATE_HZ)
    return 3600 * hours + 60 * minutes + seconds + frame / rate


def write_recording(path: str | Path, track: Track, model: FaceModel) -> float:
    """Write the expressions of a track as blendshapes, in the layout of the app, and its own times as timecodes.

    Activations are those that show the face model's shape best (:func:`manvatar.face_models.arkit.weights_of`); lids
    and gaze come from their own channels where the track has them. Angles of the head are not written.

    Returns:
        The share of the face's motion (rms over landmarks) that the blendshapes do not show.

    Raises:
        UserError: the file cannot be written, or ``model`` is not the one of the track.
    """
    if model.id != track.face_model:
        raise UserError(f"the track was made with {track.face_model}, not {model.id}; load that face model")
    found = arkit_map(model)
    weights = weights_of(track.face_expression, model, found)
    lost = unexplained(weights, track.face_expression, model, found)
    weights = channel_weights(weights, track)
    names = [name[0].upper() + name[1:] for name in ARKIT_NAMES]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["Timecode", "BlendShapeCount", *names])
        for frame, row in enumerate(weights.tolist()):
            stamp = _timecode(frame / track.frame_rate_hz)
            table.writerow([stamp, len(names), *(f"{value:.5f}" for value in row)])
    return lost


def _timecode(seconds: float) -> str:
    """Of a clock of 60 frames a second, whatever the rate of the track: parts of frames say the rest."""
    ticks = round(seconds * _USUAL_RATE_HZ * 1000)
    whole, part = divmod(ticks, _USUAL_RATE_HZ * 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{part // 1000:02d}.{part % 1000:03d}"
