"""Recordings in Apple's 52 blendshapes: CSV files of the Live Link Face app, and tables with the same names.

A Live Link Face file has columns ``Timecode`` (HH:MM:SS:FF.part), ``BlendShapeCount``, the blendshapes with a capital
(``EyeBlinkLeft`` ...) and angles of head and eyes. Columns are known by their names, in any order and case. Gaze
comes from the eyeLook blendshapes; the unit of the angles depends on the app's version, so they are passed over.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.errors import UserError
from manvatar.face_models.arkit import ARKIT_NAMES

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
