"""Coefficients that no mesh has: lids and gaze, appended to those of any face model.

A face model's own lids are rough, and no model turns its eyeballs. What is seen in the video is measured instead
(``manvatar.tracking.eyelids``, ``manvatar.tracking.gaze``) and given to the avatar as further coefficients. They are
scaled to about unit spread like all others. Their names are ``manvatar.types.EYE_CHANNELS``.
"""

from __future__ import annotations

import math

SHUT = 2.0  # value of an eyelid channel when the lid is shut; 0 is the person's own open eye
GAZE_SD_RAD = 0.15  # one unit of a gaze channel; yaw to the subject's left and pitch up are positive


def readable(name: str, value: float) -> str:
    """A coefficient in the unit a person thinks in: lids in per cent shut, gaze in degrees, all others as they are."""
    if name.startswith("eyelid"):
        return f"{value / SHUT:.0%} shut"
    if name.startswith("gaze"):
        return f"{math.degrees(value * GAZE_SD_RAD):+.0f} degrees"
    return f"{value:+.2f} sd"
