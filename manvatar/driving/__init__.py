"""Driving an avatar: coefficients and poses from files, timing, and sequences of frames."""

from manvatar.driving.coefficients import Coefficients, limited, read_coefficients
from manvatar.driving.poses import Poses, read_poses
from manvatar.driving.sequence import (
    VIDEO_SUFFIXES,
    output_kind,
    parse_background,
    render_frames,
    write_novel,
    write_sequence,
)
from manvatar.driving.sweep import Sweep, sweep
from manvatar.driving.timing import resampled, sampled_evenly

__all__ = [
    "VIDEO_SUFFIXES",
    "Coefficients",
    "Poses",
    "Sweep",
    "limited",
    "output_kind",
    "parse_background",
    "read_coefficients",
    "read_poses",
    "render_frames",
    "resampled",
    "sampled_evenly",
    "sweep",
    "write_novel",
    "write_sequence",
]
