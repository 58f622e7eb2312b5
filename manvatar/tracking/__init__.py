"""Tracking: from 2D landmarks to camera, identity, head pose and expression of a whole clip."""

from __future__ import annotations

from manvatar.tracking.clip import TrackedClip, track_clip
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.files import load_track, save_track
from manvatar.tracking.projection import landmarks_head_m, landmarks_px
from manvatar.tracking.tracker import track

__all__ = [
    "TrackedClip",
    "TrackerConfig",
    "landmarks_head_m",
    "landmarks_px",
    "load_track",
    "save_track",
    "track",
    "track_clip",
]
