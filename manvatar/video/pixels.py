"""Decoded pictures in any pixel format to upright 8-bit sRGB, and back."""

from __future__ import annotations

import threading
from fractions import Fraction

import av
import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from jaxtyping import UInt8
from torch import Tensor

# Values of AVFrame.colorspace, color_trc and color_primaries (ITU-T H.273).
_MATRIX_UNKNOWN = (0, 2, 3)
_MATRIX = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601}
_MATRIX |= {7: Colorspace.SMPTE240M, 9: Colorspace.BT2020, 10: Colorspace.BT2020}
_HIGH_DYNAMIC_RANGE = (16, 18)  # PQ and HLG
_WIDE_GAMUT = (9, 11, 12)  # BT.2020, DCI-P3, Display P3
_FULL_RANGE = 2
_kept = threading.local()


def upright_size(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) with square pixels, after rotation metadata.

    Args:
        frame: as decoded.
        pixel_aspect: width of one pixel over its height, as the file says; None or nonsense counts as 1.
    """
    ratio = pixel_aspect if pixel_aspect and Fraction(1, 4) <= pixel_aspect <= 4 else Fraction(1)
    width, height = round(frame.width * ratio), frame.height
    return (height, width) if frame.rotation % 180 else (width, height)


def converter(size_px: tuple[int, int], *, accurate: bool = True) -> FrameConverter:
    """A :class:`FrameConverter` of this thread; kept, because the first high-dynamic-range picture costs seconds."""
    kept = _kept.__dict__.setdefault("converters", {})
    key = (size_px, accurate)
    if key not in kept:
        while len(kept) >= 8:
            kept.pop(next(iter(kept)))
        kept[key] = FrameConverter(size_px, accurate=accurate)
    return kept[key]


class FrameConverter:
    """Makes upright (height, width, 3) uint8 sRGB tensors of one size from decoded frames.

    Args:
        size_px: (width, height) of the result, upright.
        accurate: round instead of truncating, and interpolate colour at full resolution. Without it a picture is one
            grey level too dark and converted five to twenty times as fast, which is enough for finding faces.
    """

    def __init__(self, size_px: tuple[int, int], *, accurate: bool = True) -> None:
        self.size_px = size_px
        self._quality = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT if accurate else Interpolation(0)
        self._reformatter = VideoReformatter()
        self._busy = threading.Lock()  # frames decoded ahead are converted in a thread of their own

    def __call__(self, frame: av.VideoFrame) -> UInt8[Tensor, "height width 3"]:
        turned = frame.rotation % 180 != 0
        width, height = self.size_px[::-1] if turned else self.size_px
        smaller = width < frame.width or height < frame.height
        filtering = Interpolation.AREA if smaller else Interpolation.BICUBIC  # averaging does not alias
        with self._busy:
            converted = self._reformatter.reformat(
                frame,
                width,
                height,
                "rgb24",
                interpolation=filtering | self._quality,
                **_source_colors(frame),
            )
            image = converted.to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4
        if quarter_turns:
            image = np.rot90(image, quarter_turns)
        return torch.from_numpy(np.ascontiguousarray(image))


def _source_colors(frame: av.VideoFrame) -> dict[str, object]:
    """How the numbers of this frame are to be read; where the file does not say, as players do."""
    matrix = int(frame.colorspace)
    if matrix in _MATRIX_UNKNOWN:
        # The convention of players: standard definition is BT.601, high definition BT.709.
        high_definition = max(frame.height, frame.width) >= 1280 or min(frame.height, frame.width) >= 720
        known = Colorspace.ITU709 if high_definition else Colorspace.ITU601
    else:
        known = _MATRIX.get(matrix, Colorspace.ITU709)
    # The old "yuvj" formats are full range by name.
    full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    colors: dict[str, object] = {
        "src_colorspace": known,
        "src_color_range": ColorRange.JPEG if full else ColorRange.MPEG,
        "dst_color_range": ColorRange.JPEG,
    }
    if frame.format.is_rgb:
        colors = {}
    if int(frame.color_trc) in _HIGH_DYNAMIC_RANGE or int(frame.color_primaries) in _WIDE_GAMUT:
        colors |= {"dst_color_trc": ColorTrc.IEC61966_2_1, "dst_color_primaries": ColorPrimaries.BT709}
    return colors
