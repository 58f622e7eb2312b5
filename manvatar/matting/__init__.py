"""Separating the person from the background, and the head from the body."""

from manvatar.matting.clip import ClipMatte
from manvatar.matting.head import HeadMatte, HeadSample
from manvatar.matting.neck import NeckCut, generic_cut
from manvatar.matting.person import PersonMatte

__all__ = ["ClipMatte", "HeadMatte", "HeadSample", "NeckCut", "PersonMatte", "generic_cut"]
