"""An avatar file of whatever kind."""

from __future__ import annotations

from pathlib import Path

from manvatar.avatars import Avatar, read_header
from manvatar.baselines.one_video.avatar import PortraitAvatar
from manvatar.baselines.one_video.config import MODELS
from manvatar.devices import Device


def load_avatar(path: str | Path, device: Device = "auto") -> Avatar:
    """The voxel avatar or the 2D model that a file holds; both are driven and rendered the same way.

    Raises:
        UserError: see :meth:`manvatar.avatars.Avatar.load`.
    """
    kind = PortraitAvatar if read_header(path).field_name in MODELS else Avatar
    return kind.load(path, device)
