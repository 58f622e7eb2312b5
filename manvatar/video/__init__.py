"""Reading clips frame by frame, writing videos, and finding frames that repeat their predecessor."""

from manvatar.video.ahead import ahead
from manvatar.video.clip import frames, key_frames, open_clip, some_frames
from manvatar.video.duplicates import DuplicateFinder
from manvatar.video.writer import VideoWriter, writer

__all__ = ["DuplicateFinder", "VideoWriter", "ahead", "frames", "key_frames", "open_clip", "some_frames", "writer"]
