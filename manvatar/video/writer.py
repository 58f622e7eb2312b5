"""Writing videos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from torch import Tensor

from manvatar.errors import UserError
from manvatar.files import replacing

SYNTHETIC_COMMENT = "Synthetic: this video was rendered by software (manvatar); it is not a recording."


class VideoWriter:
    """Takes frames one by one; made by :func:`writer`.

    Attributes:
        frame_count: frames written so far.
    """

    def __init__(
        self, container: av.container.OutputContainer, stream: av.VideoStream, rate: Fraction, size_px: tuple[int, int]
    ) -> None:
        self._container, self._stream, self._rate, self._size_px = container, stream, rate, size_px
        self.frame_count = 0

    def write(self, image: UInt8[Tensor, "height width 3"] | np.ndarray) -> None:
        """Add one (height, width, 3) uint8 sRGB frame of the video's size.

        Raises:
            ValueError: another shape or type.
        """
        pixels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
        width, height = self._size_px
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                f"VideoWriter.write(): expected ({height}, {width}, 3) uint8, got {pixels.shape} {pixels.dtype}"
            )
        # H.264 with 4:2:0 chroma needs even sides: the last column and row are repeated.
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        source = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = source.reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts = self.frame_count
        frame.time_base = 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self.frame_count += 1


@contextmanager
def writer(
    path: str | os.PathLike[str],
    frame_rate_hz: float,
    size_px: tuple[int, int],
    *,
    synthetic: bool,
    quality: int = 18,
) -> Iterator[VideoWriter]:
    """Write an H.264 video (4:2:0, BT.709, index at the front); it appears at ``path`` when the block ends well.

    Odd sides are padded by one pixel. Nothing is left behind when the block raises.

    Args:
        path: ends in ``.mp4``, ``.mov`` or ``.mkv``.
        frame_rate_hz: constant rate.
        size_px: (width, height) of the frames that will be given.
        synthetic: whether the pictures were rendered; written into the file's comment and description.
        quality: x264's constant rate factor; smaller is better and larger.

    Raises:
        UserError: the path cannot be written to or has another ending, or no frame was written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".mp4", ".mov", ".mkv"):
        raise UserError(f"cannot write a video called {target.name}; choose a name that ends in .mp4, .mov or .mkv")
    rate = Fraction(frame_rate_hz).limit_denominator(1001)
    options = {"movflags": "+faststart+use_metadata_tags"} if target.suffix.lower() != ".mkv" else {}
    with replacing(target) as temporary:
        with av.open(str(temporary), "w", options=options) as container:
            if synthetic:
                container.metadata.update(
                    {"comment": SYNTHETIC_COMMENT, "description": SYNTHETIC_COMMENT, "synthetic": "true"}
                )
            stream = container.add_stream("libx264", rate=rate, options={"crf": str(quality), "preset": "medium"})
            width, height = size_px
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            context = stream.codec_context
            context.color_range, context.colorspace = ColorRange.MPEG, 1
            context.color_primaries, context.color_trc = 1, 1  # BT.709 throughout
            result = VideoWriter(container, stream, rate, size_px)
            yield result
            if not result.frame_count:
                raise UserError(f"no frame was written to {target}; ask for at least one")
            container.mux(stream.encode(None))
