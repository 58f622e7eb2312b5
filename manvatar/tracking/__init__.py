"""Tracking: from 2D landmarks to camera, identity, head pose and expression of a whole clip."""

from __future__ import annotations

from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.files import load_track, save_track
from manvatar.tracking.tracker import track

__all__ = ["TrackerConfig", "load_track", "save_track", "track"]
