"""What can be set about the tracker, and what the numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of :func:`manvatar.tracking.track`. The defaults suit one person in front of a phone or webcam.

    Lengths marked ``iod`` are fractions of the distance between the outer eye corners, so they do not depend on the
    size of the picture.
    """

    focal: Literal["prior", "estimate"] = "prior"
    """``prior`` keeps ``prior_focal_ratio``; ``estimate`` frees the focal length where the clip can tell it (large head
    turns and a small standard deviation) and keeps the prior elsewhere. A given ``focal_px`` wins over both."""
    prior_focal_ratio: float = 1.35
    """Prior focal length over the longer side of the picture: phones and webcams lie between 1.2 and 1.5."""
    focal_yaw_range_deg: float = 25.0
    """Yaw range (5th to 95th percentile) below which the focal length is never estimated."""
    focal_max_sd: float = 0.05
    """Largest relative standard deviation of an estimated focal length that is believed."""

    landmark_sd_iod: float = 0.01
    """Standard deviation of the detector before it has been measured on the clip."""
    landmark_sd_range: tuple[float, float] = (1.0, 3.0)
    """Bounds of the measured standard deviation of one landmark, as multiples of ``landmark_sd_iod``."""
    huber: float = 3.0
    """Landmark residuals (in standard deviations) beyond which the penalty grows linearly."""
    skin_weight: float = 0.1
    """Least weight of 120 points on plain skin beside the features (1). What a network errs alike in many points does
    not average out, so points get more only as far as the clip shows that their errors are their own (``noise.py``)."""
    aperture_weight: float = 4.0
    """Weight of the opening between paired lid and lip points, relative to the points themselves."""

    offset_sd_m: float = 0.003
    """Prior standard deviation of a personal landmark offset, each axis."""
    effective_frames: float = 4.0
    """How many independent observations of the face's shape a whole clip is worth. Detector errors repeat from frame
    to frame, so the prior on identity and offsets is scaled by (frames / effective_frames)."""

    rotation_sd_deg: float = 0.2
    """Prior second difference of the head's rotation, each axis, degrees a frame^2 at 25 frames/s."""
    translation_sd_m: float = 0.0004
    """Prior second difference of the head's position, each axis, metres a frame^2 at 25 frames/s."""
    expression_sd: float = 1.0
    """Prior second difference of an expression coefficient a frame^2 at 25 frames/s; lids and jaw are left free."""
    motion_huber: float = 1.0
    """Second differences (in standard deviations) beyond which their penalty grows linearly: a nod is not noise."""

    key_frames: int = 200
    """At most so many frames, evenly spread, find the face's shape; all frames get a pose and an expression."""
    first_key_frames: int = 50
    """The same before the noise of the landmarks is known."""
    rounds: int = 2
    """How often everything is fitted; after each time but the last the noise of the landmarks is measured."""
    max_steps: int = 25
    """Most Levenberg-Marquardt steps of one stage."""
    tolerance: float = 1e-4
    """A stage ends when a step lowers the energy by less than this fraction."""

    eye_channels: bool = True
    """Append lids and gaze as coefficients of their own (``manvatar.types.EYE_CHANNELS``), where a clip is tracked."""

    dense: bool = True
    """Refine poses and expressions by what the skin looks like, where the pictures are at hand."""
    dense_points: int = 6000
    """Points on the skin that are compared."""
    dense_strength: float = 0.05
    """What one of these points is worth, relative to an independent measurement."""
    dense_landmark_trust: float = 0.2
    """Weight of the landmark term beside the photometric one: a detector's errors repeat from frame to frame."""
    dense_key_frames: int = 100
    """At most so many frames, evenly spread, find out what the skin looks like."""
    dense_turns: int = 20
    """How often these frames and what they show are fitted in turns."""
    dense_steps: int = 2
    """Most Levenberg-Marquardt steps of all frames frame by frame, then as many under the motion prior; before them,
    twice as many at a quarter of the points."""
