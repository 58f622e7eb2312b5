"""Small videos made for the tests, with contents that can be checked after lossy coding."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered_image(number: int, size_px: tuple[int, int] = (96, 64)) -> np.ndarray:
    """A grey image with ``number`` (0..255) written into it as eight black or white blocks, lowest bit first."""
    width, height = size_px
    image = np.full((height, width, 3), 128, np.uint8)
    for bit in range(8):
        left = bit * width // 8
        image[height // 4 : height // 2, left : left + width // 8] = 255 * ((number >> bit) & 1)
    return image


def read_number(image: np.ndarray) -> int:
    """Inverse of :func:`numbered_image`, at any scale and after lossy coding."""
    height, width = image.shape[:2]
    bits = [image[height * 3 // 8, (2 * bit + 1) * width // 16].mean() > 128 for bit in range(8)]
    return sum(int(value) << bit for bit, value in enumerate(bits))


def write_video(
    path: Path,
    images: list[np.ndarray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    rate: int = 25,
    container: dict[str, str] | None = None,
    gop: int = 5,
    **frame_options: object,
) -> Path:
    """Encode images; ``times`` are presentation times in thousandths of a second; None = constant rate."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        height, width = images[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = gop
        base = Fraction(1, 1000) if times else Fraction(1, rate)
        stream.codec_context.time_base = base
        if codec == "libx264":
            stream.options = {"crf": "12", "bf": "2"}
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels, **frame_options)
            frame.pts, frame.time_base = (times[index] if times else index), base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def rotate_metadata(path: Path, quarter_turns: int) -> None:
    """Write a rotation by ``quarter_turns`` clockwise into the track header of an MP4 file."""
    one = 0x10000
    matrix = {0: (one, 0, 0, one), 1: (0, one, -one, 0), 2: (-one, 0, 0, -one), 3: (0, -one, one, 0)}[quarter_turns]
    content = bytearray(path.read_bytes())
    # tkhd version 0: size, 'tkhd', version and flags, 5 words, 8 bytes, 2 + 2 shorts, then the 3x3 matrix.
    start = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (int(value).to_bytes(4, "big", signed=True) for value in matrix)
    zero = bytes(4)
    content[start : start + 36] = a + b + zero + c + d + zero + zero + zero + (1 << 30).to_bytes(4, "big")
    path.write_bytes(content)
