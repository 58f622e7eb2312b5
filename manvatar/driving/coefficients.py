"""Expression coefficients from files, and keeping them where the avatar has been."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.driving.livelink import arkit_weights, timecode_s
from manvatar.driving.tables import UNNAMED, read_table
from manvatar.driving.timing import sampled_evenly, stated_times
from manvatar.errors import UserError
from manvatar.tracking.files import load_track
from manvatar.types import EYE_CHANNELS

# Entries of a file that are no coefficients; head poses may stand in the same file.
TIMING_NAMES = ("frame_rate_hz", "time_s", "frame")
POSE_NAMES = ("cam_from_head", "rotation_vector", "translation_m", "yaw_rad", "pitch_rad", "roll_rad")


@dataclass(frozen=True)
class Coefficients:
    """Expressions over time, evenly spaced."""

    expression: Float[Tensor, "frames expression"]  # standard deviations, in the avatar's order
    frame_rate_hz: float | None  # None = the file does not say


def read_coefficients(
    path: str | Path, expression_names: tuple[str, ...], arkit: Float[Tensor, "52 expression"] | None = None
) -> Coefficients:
    """Expression coefficients, in standard deviations of the avatar's face model.

    The file (see :mod:`manvatar.driving.tables`) holds either an array ``expression`` of shape (frames, coefficients)
    or (coefficients,), in the avatar's order or in that of an entry ``names``, or coefficients under their names; those
    it does not name are 0. Unnamed numbers are an ``expression``. ``frame_rate_hz`` or ``time_s`` (seconds, rising)
    may say when the frames are. A track (.safetensors) is read too.

    Activations of Apple's 52 blendshapes, from the Live Link Face app or elsewhere (see
    :mod:`manvatar.driving.livelink`), are turned into coefficients.

    Args:
        arkit: the coefficients of each blendshape at full activation; None = this avatar's are not known.

    Raises:
        UserError: a file that cannot be read, a name the avatar does not have, or shapes that do not fit.
    """
    source = Path(path)
    if source.suffix.lower() == ".safetensors":
        track = load_track(source)
        columns = dict(zip(track.expression_names, track.expression.double().numpy().T, strict=True))
        for name in set(EYE_CHANNELS) - set(expression_names):  # an avatar without them blinks with what it has
            columns.pop(name, None)
        return Coefficients(_ordered(columns, expression_names, source), track.frame_rate_hz)
    table = read_table(source)
    weights = arkit_weights(table, expression_names)
    if weights is not None:
        return _from_arkit(weights, table, arkit, source)
    matrix = table.get("expression", table.get(UNNAMED))
    columns = _named(table, source) if matrix is None else _from_matrix(matrix, table, expression_names, source)
    expression = _ordered(columns, expression_names, source)
    times_s, rate = stated_times(table, len(expression), source)
    if times_s is not None:
        expression, rate = sampled_evenly(expression, times_s)
    return Coefficients(expression, rate)


def _from_arkit(
    weights: Float[Tensor, "frames 52"],
    table: dict[str, np.ndarray],
    arkit: Float[Tensor, "52 expression"] | None,
    source: Path,
) -> Coefficients:
    if arkit is None:
        raise UserError(
            f"{source} holds ARKit blendshapes, but this avatar does not say what they are in its coefficients; "
            "make the avatar again with this version, or give coefficients of its own"
        )
    if len(weights) == 0:
        raise UserError(f"{source} has no frames; give at least one")
    expression = weights @ arkit
    stamped = timecode_s(table)
    if stamped is None:
        times_s, rate = stated_times(table, len(expression), source)
    else:
        rising = np.concatenate([[True], stamped[1:] > np.maximum.accumulate(stamped)[:-1]])  # a time once only
        expression, times_s, rate = expression[torch.from_numpy(rising)], torch.from_numpy(stamped[rising]), None
    if times_s is not None and len(expression) > 1:
        expression, rate = sampled_evenly(expression, times_s)
    return Coefficients(expression, rate)


def limited(
    expression: Float[Tensor, "*frames expression"],
    lower: Float[Tensor, "expression"],
    upper: Float[Tensor, "expression"],
    margin: float = 0.2,
) -> Float[Tensor, "*frames expression"]:
    """Coefficients softly kept to the range an avatar has seen.

    Inside ``[lower, upper]`` nothing changes. What lies beyond by d comes out beyond by ``m tanh(d / m)``, where m is
    ``margin`` times the width of the range: smooth, monotonic, and never further out than m. A margin of infinity
    changes nothing. Differentiable.
    """
    if margin < 0:
        raise UserError(f"the margin {margin:g} is negative; give 0 or more, or inf for no limit")
    if margin == float("inf"):
        return expression
    inside = torch.minimum(torch.maximum(expression, lower), upper)
    beyond = expression - inside
    reach = (margin * (upper - lower)).clamp_min(1e-9)
    return inside + reach * torch.tanh(beyond / reach)


def _named(table: dict[str, np.ndarray], source: Path) -> dict[str, np.ndarray]:
    columns = {name: np.atleast_1d(a) for name, a in table.items() if name not in TIMING_NAMES + POSE_NAMES}
    if not columns:
        raise UserError(f"{source} has no expression coefficients; give an array 'expression' or named columns")
    if text := [name for name, a in columns.items() if a.dtype.kind != "f"]:
        raise UserError(f"{text[0]} in {source} is text, but the coefficients must be numbers; mend the file")
    lengths = {name: a.shape for name, a in columns.items()}
    if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in list(lengths.items())[:4])
        raise UserError(f"the coefficients in {source} must be lists of equal length, but are {listed}; mend the file")
    return columns


def _from_matrix(
    matrix: np.ndarray, table: dict[str, np.ndarray], expression_names: tuple[str, ...], source: Path
) -> dict[str, np.ndarray]:
    matrix = np.atleast_2d(matrix)
    names = tuple(table["names"].tolist()) if "names" in table else expression_names
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or matrix.shape[1] != len(names):
        raise UserError(
            f"the expression array in {source} has shape {matrix.shape} but ({len(matrix)}, {len(names)}) is needed; "
            "give one column for each coefficient, or an entry 'names' that says which they are"
        )
    return dict(zip(names, matrix.T, strict=True))


def _ordered(
    columns: dict[str, np.ndarray], expression_names: tuple[str, ...], source: Path
) -> Float[Tensor, "frames expression"]:
    if unknown := [name for name in columns if name not in expression_names]:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise UserError(
            f"{source} names {shown}, which this avatar does not have; it has {', '.join(expression_names)}"
        )
    frames = len(next(iter(columns.values())))
    if frames == 0:
        raise UserError(f"{source} has no frames; give at least one")
    values = np.zeros((frames, len(expression_names)), np.float32)
    for name, column in columns.items():
        values[:, expression_names.index(name)] = column
    return torch.from_numpy(values)
