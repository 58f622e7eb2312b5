"""When frames are, and what is shown between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.errors import UserError
from manvatar.geometry import rigid, rotation_from_vector, vector_from_rotation


def stated_times(
    table: dict[str, np.ndarray], frames: int, source: Path
) -> tuple[Float[Tensor, "frames"] | None, float | None]:
    """What a file says about time: the time of each frame (``time_s``), and its rate (``frame_rate_hz``)."""
    rate = None
    if "frame_rate_hz" in table:
        given = np.asarray(table["frame_rate_hz"]).reshape(-1)
        if given.dtype.kind != "f" or len(given) == 0 or not (given == given[0]).all() or given[0] <= 0:
            raise UserError(f"frame_rate_hz in {source} must be one positive number; mend the file")
        rate = float(given[0])
    if "time_s" not in table or frames < 2:
        return None, rate
    times_s = table["time_s"]
    if times_s.shape != (frames,) or times_s.dtype.kind != "f" or not (np.diff(times_s) > 0).all():
        raise UserError(f"time_s in {source} must be {frames} rising numbers, one for each frame; mend the file")
    return torch.from_numpy(times_s), rate


def sampled_evenly(
    values: Float[Tensor, "frames *dims"], times_s: Float[Tensor, "frames"], rate_hz: float | None = None
) -> tuple[Float[Tensor, "samples *dims"], float]:
    """Values at evenly spaced times from the first to the last, linear in between; and their rate.

    Values of shape (frames, 4, 4) are poses: they turn about one axis at even speed from frame to frame.

    Args:
        times_s: rising, one for each frame.
        rate_hz: None = the mean rate of the frames.
    """
    if len(values) < 2:
        raise ValueError("sampled_evenly: two frames are needed to know what is between them")
    times_s = times_s.double()
    span = float(times_s[-1] - times_s[0])
    rate_hz = (len(values) - 1) / span if rate_hz is None else rate_hz
    count = int(span * rate_hz + 1e-6) + 1
    wanted = times_s[0] + torch.arange(count, dtype=torch.float64) / rate_hz
    after = torch.searchsorted(times_s, wanted, right=True).clamp(1, len(values) - 1)
    part = ((wanted - times_s[after - 1]) / (times_s[after] - times_s[after - 1])).clamp(0, 1).to(values.dtype)
    before, following = values[after - 1], values[after]
    if values.shape[1:] == (4, 4):
        return _between(before, following, part), rate_hz
    part = part.reshape(-1, *[1] * (values.dim() - 1))
    return before + part * (following - before), rate_hz


def resampled(values: Float[Tensor, "frames *dims"], from_hz: float, to_hz: float) -> Float[Tensor, "samples *dims"]:
    """Evenly spaced values at another rate over the same time; see :func:`sampled_evenly`."""
    if len(values) < 2 or abs(from_hz - to_hz) < 1e-9 * from_hz:
        return values
    return sampled_evenly(values, torch.arange(len(values)) / from_hz, to_hz)[0]


def _between(
    a: Float[Tensor, "samples 4 4"], b: Float[Tensor, "samples 4 4"], part: Float[Tensor, "samples"]
) -> Float[Tensor, "samples 4 4"]:
    turn = vector_from_rotation(a[:, :3, :3].transpose(1, 2) @ b[:, :3, :3])
    rotation = a[:, :3, :3] @ rotation_from_vector(turn * part[:, None])
    return rigid(rotation, a[:, :3, 3] + part[:, None] * (b[:, :3, 3] - a[:, :3, 3]))
