"""Making the demo clip: a textured builtin head that talks, rendered with known pose, expression and camera."""

from manvatar.synthesis.clip import make_clip, make_track

__all__ = ["make_clip", "make_track"]
