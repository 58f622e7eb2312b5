"""manvatar: a monocular portrait video in, a drivable 3D head avatar out.

>>> from manvatar import Reconstructor, Avatar
>>> Reconstructor().fit("video.mp4").save("avatar.mav")
>>> image = Avatar.load("avatar.mav").render({"jawOpen": 2.0})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manvatar.avatars import Avatar
    from manvatar.reconstruction import Reconstructor

__version__ = "0.1.0"
__all__ = ["Avatar", "Reconstructor", "load"]


def load(path: str, device: str = "auto") -> Avatar:
    """Read an avatar file; the same as :meth:`Avatar.load`."""
    from manvatar.avatars import Avatar

    return Avatar.load(path, device)


def __getattr__(name: str) -> Any:
    # Loaded when first asked for, so that ``manvatar --help`` does not wait for torch.
    if name == "Avatar":
        from manvatar.avatars import Avatar

        return Avatar
    if name == "Reconstructor":
        from manvatar.reconstruction import Reconstructor

        return Reconstructor
    raise AttributeError(f"module 'manvatar' has no attribute {name!r}")
