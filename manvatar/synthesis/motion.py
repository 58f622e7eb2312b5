"""How the person in the demo clip moves: band-limited talking, smiles, blinks, brows and head motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

# Standard deviation of the slow random part of every expression coefficient that nothing else drives (in its own
# standard deviations), so that all of them are seen.
IDLE = 0.45
HELD_OUT = 0.1  # the last part of the clip stays inside what the rest has shown


@dataclass(frozen=True)
class Motion:
    """Per frame: expression coefficients, and the pose of the head about the neck."""

    expression: np.ndarray  # (F, E) standard deviations
    angles_rad: np.ndarray  # (F, 3) yaw (to the subject's left), pitch (down), roll
    shift_m: np.ndarray  # (F, 3) of the head, camera frame


def rotation_from_angles(angles_rad: np.ndarray) -> np.ndarray:
    """``cam_from_head`` rotations (..., 3, 3) for yaw, pitch and roll; all zero looks straight into the camera.

    Positive yaw turns the face to the subject's left, which is the right of the picture.
    """
    yaw, pitch, roll = np.moveaxis(np.asarray(angles_rad, float), -1, 0)
    one, zero = np.ones_like(yaw), np.zeros_like(yaw)

    about_y = _matrices([[np.cos(yaw), zero, np.sin(yaw)], [zero, one, zero], [-np.sin(yaw), zero, np.cos(yaw)]])
    about_x = _matrices(
        [[one, zero, zero], [zero, np.cos(pitch), -np.sin(pitch)], [zero, np.sin(pitch), np.cos(pitch)]]
    )
    about_z = _matrices([[np.cos(roll), -np.sin(roll), zero], [np.sin(roll), np.cos(roll), zero], [zero, zero, one]])
    return np.diag([1.0, -1, -1]) @ about_z @ about_y @ about_x


def _matrices(rows: list[list[np.ndarray | np.floating]]) -> np.ndarray:
    return np.stack([np.stack(row, -1) for row in rows], -2)


def make_motion(
    frames: int, frame_rate_hz: float, names: tuple[str, ...], aperture_mm: np.ndarray, seed: int
) -> Motion:
    """Random but believable motion.

    Args:
        names: of the expression coefficients, as the builtin model's.
        aperture_mm: (P, E) how much each coefficient opens the gap between the lips at P places along them; the jaw
            opens as far as is needed to keep lips from passing through each other.
    """
    rng = np.random.default_rng(seed)
    make = _Maker(rng, frames, frame_rate_hz)
    value = {name: IDLE * make.wander(1.2) for name in names}
    for base in ("mouthFrown", "mouthStretch", "mouthUpperUp", "mouthLowerDown", "browOuterUp", "browDown"):
        both, own = 0.7 * make.wander(1.0), 0.3
        for side in ("Left", "Right"):
            value[base + side] = IDLE * (1.3 * both + own * make.wander(1.0))
    talking = make.gate(on_s=2.6, off_s=1.1)
    syllables = talking * np.clip(0.75 + 0.8 * make.wander(4.5), 0, None)
    value["jawOpen"] = 1.3 * syllables
    rounding = talking * make.wander(2.6)
    value["mouthFunnel"] = 0.9 * np.clip(rounding, 0, None) + 0.2 * make.wander(1.5)
    value["mouthPucker"] = 0.9 * np.clip(-rounding, 0, None) - 0.2 * np.abs(make.wander(1.5))
    smile = make.gate(on_s=1.8, off_s=3.2)
    for side in ("Left", "Right"):
        value[f"mouthSmile{side}"] = 1.4 * smile + 0.25 * make.wander(0.8)
    value["eyeSquint"] = 0.8 * smile + 0.3 * make.wander(0.8)
    value["browInnerUp"] = 1.1 * make.gate(on_s=0.8, off_s=2.6) + 0.3 * make.wander(0.8)
    blink = make.blinks(every_s=2.4)
    for side in ("Left", "Right"):
        idle = np.clip(0.25 * make.wander(0.8), -0.5, 0.6) - 0.15 * value["browInnerUp"]
        value[f"eyeBlink{side}"] = idle * (1 - blink) + 2.0 * blink
    expression = np.stack([np.clip(value[name], -1.6, 3.0) for name in names], 1)
    gap = (expression @ aperture_mm.T).min(1)
    jaw = names.index("jawOpen")
    opening = aperture_mm[:, jaw].min()
    expression[:, jaw] += make.soft(np.clip(0.3 - gap, 0, None)) / opening
    angles = np.radians(np.stack([13 * make.wander(0.35), 5 * make.wander(0.4), 4 * make.wander(0.35)], 1))
    shift = np.stack([0.008 * make.wander(0.3), 0.004 * make.wander(0.3), 0.012 * make.wander(0.25)], 1)
    return Motion(*(_inside(series) for series in (expression, angles, shift)))


class _Maker:
    """Random series over one clip."""

    def __init__(self, rng: np.random.Generator, frames: int, frame_rate_hz: float) -> None:
        self.rng, self.frames, self.rate = rng, frames, frame_rate_hz

    def wander(self, band_hz: float) -> np.ndarray:
        """Band-limited noise of unit variance, within +-2."""
        smooth = self.rate / (2 * np.pi * band_hz) * 1.5
        margin = int(4 * smooth) + 1
        series = gaussian_filter1d(self.rng.standard_normal(self.frames + 2 * margin), smooth)[margin:-margin]
        series *= np.sqrt(2 * np.sqrt(np.pi) * smooth)  # the variance white noise keeps under the filter
        return 2 * np.tanh(series / 2)

    def gate(self, on_s: float, off_s: float) -> np.ndarray:
        """Smoothly 1 for about ``on_s``, then 0 for about ``off_s``, and so on."""
        series = np.zeros(self.frames)
        time = -self.rng.uniform(0, off_s)
        while time < self.frames / self.rate:
            start = time + off_s * self.rng.uniform(0.6, 1.4)
            time = start + on_s * self.rng.uniform(0.6, 1.4)
            series[max(0, int(start * self.rate)) : max(0, int(time * self.rate))] = 1
        return gaussian_filter1d(series, 0.12 * self.rate)

    def blinks(self, every_s: float) -> np.ndarray:
        """Bumps from 0 to 1: closing in 0.1 s, opening in 0.2 s."""
        series, clock = np.zeros(self.frames), np.arange(self.frames) / self.rate
        time = 0.8 * every_s
        while time < clock[-1]:
            bump = np.interp(clock - time, [-0.11, -0.02, 0.04, 0.22], [0, 1, 1, 0])
            series = np.maximum(series, bump**2 * (3 - 2 * bump))
            time += every_s * self.rng.uniform(0.5, 1.5)
        return series

    def soft(self, series: np.ndarray) -> np.ndarray:
        """At least ``series``, without its kinks."""
        wide = np.max([np.roll(series, k) for k in range(-2, 3)], 0)
        return np.maximum(series, gaussian_filter1d(wide, 1.2))


def _inside(series: np.ndarray) -> np.ndarray:
    """The held-out end, clipped to 95 % of what the frames before it have shown."""
    split = round(len(series) * (1 - HELD_OUT))
    if split < 2:
        return series
    low, high = series[:split].min(0), series[:split].max(0)
    margin = 0.025 * (high - low)
    return np.concatenate([series[:split], np.clip(series[split:], low + margin, high - margin)])
