"""What can be said about a track without knowing the truth: figures, and a verdict in words.

Vocabulary: the eye distance is that of the outer eye corners in the picture. Jitter is what a second difference of the
head's rotation leaves where the head is still: 1.4826 x its median / sqrt(6), per axis, so white noise of that standard
deviation would show it. A fit may be close to its landmarks and still be wrong (the focal length hardly changes the
residual), so the figures say when not to trust a track rather than when to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.geometry import vector_from_rotation
from manvatar.tracking.overlay import head_angles_deg
from manvatar.tracking.projection import landmarks_px
from manvatar.types import EYE_CHANNELS, FaceModel, Track

FEW_VALID = 0.9
HIGH_RESIDUAL, BAD_RESIDUAL = 0.015, 0.03  # of the eye distance
HIGH_JITTER_DEG = 0.3
NARROW_DEG = {"yaw": 12.0, "pitch": 8.0}
HARDLY_MOVED_SD = 0.6  # width of the range of a coefficient
OUTSIDE_SD = 5.0
JUMP_DEG = 5.0  # second difference of the rotation, at 25 frames/s
BLINK = 1.2  # of an eyelid or blink coefficient: the lid covers most of the eye
MOST_WORDS = 8


@dataclass(frozen=True)
class TrackReport:
    """The figures of a track."""

    frame_count: int
    valid_share: float
    gaps: tuple[tuple[int, int], ...]  # (first, one past the last) frames that are not valid
    residual_share: Float[Tensor, "frames"]  # of the eye distance, NaN where not valid
    residual_px: float  # median
    turn_deg: Float[Tensor, "steps"]  # length of the second difference of the rotation, NaN beside gaps
    jitter_deg: float
    angles_deg: Float[Tensor, "frames 3"]  # yaw, pitch, roll
    angle_range_deg: Float[Tensor, "3"]  # 2nd to 98th percentile
    expression_range: Float[Tensor, "expression 2"]  # 1st and 99th percentile over valid frames
    jumps: tuple[int, ...]  # frames at which the head turns more abruptly than heads do
    blinks: int | None  # None: nothing in the track says
    focal_source: str
    focal_ratio: float  # over the longer side of the picture

    @property
    def residual_median(self) -> float:
        """Of the eye distance, over valid frames."""
        return float(self.residual_share.nanmedian())


def measure(track: Track, face_model: FaceModel) -> TrackReport:
    """The figures of ``track``, which was made with ``face_model``."""
    valid = track.valid
    outer = landmarks_px(track, face_model, "ibug68")[:, [36, 45]]
    distance = (outer[:, 0] - outer[:, 1]).norm(dim=-1)
    nothing = torch.full_like(track.residual_px, math.nan)
    angles = head_angles_deg(track.cam_from_head[:, :3, :3].double())
    turn = _second_differences_deg(track)
    some = valid if valid.any() else torch.ones_like(valid)
    quantiles = torch.tensor([0.01, 0.99])
    low, high = angles[some].quantile(torch.tensor([0.02, 0.98]).double(), dim=0)
    still = float(turn.nanmedian()) if turn.isfinite().any() else math.nan
    return TrackReport(
        frame_count=track.frame_count,
        valid_share=float(valid.float().mean()),
        gaps=_runs(~valid),
        residual_share=torch.where(valid, track.residual_px / distance, nothing),
        residual_px=float(track.residual_px[some].nanmedian()),
        turn_deg=turn,
        # The length of three axes: its median is sqrt(2.366) standard deviations of one.
        jitter_deg=still / math.sqrt(2.366 * 6),
        angles_deg=angles,
        angle_range_deg=high - low,
        expression_range=track.expression[some].float().quantile(quantiles, dim=0).T,
        jumps=_jumps(turn, track.frame_rate_hz),
        blinks=_blinks(track),
        focal_source=track.focal_source,
        focal_ratio=float(track.camera.focal_px[0]) / max(track.camera.size_px),
    )


def verdict(report: TrackReport, expression_names: tuple[str, ...]) -> tuple[str, list[str]]:
    """One sentence on the whole, and one for each thing to know."""
    bad, notes = [], []
    residual, lost = report.residual_median, 1 - report.valid_share
    if lost > 1 - FEW_VALID:
        bad.append(f"The face was lost in {100 * lost:.0f} % of the frames; they are not used.")
    elif report.gaps:
        notes.append(f"{round(lost * report.frame_count)} frames were lost and are not used.")
    if residual > BAD_RESIDUAL:
        bad.append(f"The face model misses the landmarks by {100 * residual:.1f} % of the eye distance.")
    elif residual > HIGH_RESIDUAL:
        notes.append(f"The fit is loose: {100 * residual:.1f} % of the eye distance (below 1 % is usual).")
    if report.jitter_deg > HIGH_JITTER_DEG:
        bad.append(f"The head trembles by {report.jitter_deg:.2f} degrees from frame to frame.")
    if report.jumps:
        shown = ", ".join(str(frame) for frame in report.jumps[:MOST_WORDS])
        notes.append(f"The head jumps at frame {shown}: a cut in the video, or a fit that slipped.")
    notes += [
        f"The head turns by {report.angle_range_deg[axis]:.0f} degrees of {name} only: expect a good avatar near the "
        "poses it saw, not beyond."
        for axis, name in enumerate(("yaw", "pitch"))
        if float(report.angle_range_deg[axis]) < NARROW_DEG[name]
    ]
    if report.blinks == 0:
        notes.append("No blink was seen: the avatar will not know how to shut its eyes.")
    width = report.expression_range[:, 1] - report.expression_range[:, 0]
    idle = [name for name, value in zip(expression_names, width.tolist(), strict=True) if value < HARDLY_MOVED_SD]
    if idle:
        shown = ", ".join(idle[:MOST_WORDS]) + (f" and {len(idle) - MOST_WORDS} more" if len(idle) > MOST_WORDS else "")
        notes.append(f"Hardly moved, so hardly learnt: {shown}.")
    far = report.expression_range.abs().amax(1) > OUTSIDE_SD
    if far.any():
        named = [name for name, out in zip(expression_names, far.tolist(), strict=True) if out]
        notes.append(
            f"Beyond {OUTSIDE_SD:.0f} standard deviations: {', '.join(named[:MOST_WORDS])}; look at the overlay."
        )
    notes.append(_focal(report))
    if bad:
        return "Do not trust this track before you have looked at the overlay.", bad + notes
    if residual > HIGH_RESIDUAL or lost > 0.02:
        return "Usable; look at the overlay where the curves stand out.", notes
    return "Nothing here speaks against this track.", notes


def _focal(report: TrackReport) -> str:
    what = f"Focal length {report.focal_ratio:.2f} x the longer side"
    if report.focal_source == "prior":
        return f"{what} is assumed, not measured; give --focal-px if you know it."
    return f"{what} was {'given' if report.focal_source == 'given' else 'estimated from the clip'}."


def _second_differences_deg(track: Track) -> Float[Tensor, "steps"]:
    rotation = track.cam_from_head[:, :3, :3].double()
    if len(rotation) < 3:
        return torch.zeros(0, dtype=torch.float64)
    velocity = vector_from_rotation(rotation[1:] @ rotation[:-1].transpose(1, 2))
    length = torch.rad2deg((velocity[1:] - velocity[:-1]).norm(dim=1))
    whole = track.valid[2:] & track.valid[1:-1] & track.valid[:-2]
    return torch.where(whole, length, torch.full_like(length, math.nan))


def _jumps(turn_deg: Float[Tensor, "steps"], frame_rate_hz: float) -> tuple[int, ...]:
    """The middle frame of each run of large second differences."""
    limit = JUMP_DEG * max(25 / frame_rate_hz, 1.0) ** 2
    return tuple((first + end) // 2 + 1 for first, end in _runs(turn_deg > limit))


def _blinks(track: Track) -> int | None:
    """How often both lids went down, by the lid channels or else the blink coefficients of the face model."""
    for pair in (EYE_CHANNELS[:2], ("eyeBlinkLeft", "eyeBlinkRight")):
        if all(name in track.expression_names for name in pair):
            lids = track.expression[:, [track.expression_names.index(name) for name in pair]]
            usual = lids[track.valid].median(0).values if track.valid.any() else 0.0
            return len(_runs(((lids - usual).amin(1) > BLINK) & track.valid))
    return None


def _runs(mask: Tensor) -> tuple[tuple[int, int], ...]:
    """(first, one past the last) of every run of True."""
    padded = torch.nn.functional.pad(mask.int(), (1, 1))
    step = padded[1:] - padded[:-1]
    return tuple(zip((step == 1).nonzero()[:, 0].tolist(), (step == -1).nonzero()[:, 0].tolist(), strict=True))
