"""Opening videos and streaming their frames, upright and in 8-bit sRGB.

A video is decoded by FFmpeg (PyAV). Rotation metadata, non-square pixels, limited and full range, the BT.601, BT.709
and BT.2020 matrices and high-dynamic-range transfer curves are undone here, so that nothing later has to know them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from manvatar.errors import UserError
from manvatar.types import Clip, Frame
from manvatar.video.ahead import ahead
from manvatar.video.pixels import FrameConverter, converter, upright_size

logger = logging.getLogger(__name__)

_FEW = 8  # frames for which a thread is not worth its start


@dataclass(frozen=True)
class _Index:
    """What the container says about its frames without decoding them, in presentation order."""

    pts: np.ndarray  # (packets,) int64 in units of the time base; empty where the container has no time stamps
    key: np.ndarray  # (packets,) bool
    seconds_per_tick: float
    nominal_rate_hz: float
    complete: bool  # the container's own count of frames agrees with what is in the file

    def times_s(self, count: int) -> np.ndarray:
        """Presentation times of the first ``count`` frames, from the first one on."""
        if len(self.pts) >= count > 0:
            return (self.pts[:count] - self.pts[0]) * self.seconds_per_tick
        return np.arange(count) / self.nominal_rate_hz


def open_clip(path: str | Path, start_s: float = 0.0, end_s: float | None = None) -> Clip:
    """Open a video and learn its shape; decodes one frame, and more only where the file looks damaged.

    Args:
        path: any container and codec that FFmpeg reads.
        start_s: the clip starts at the first frame shown at or after this time from the start of the video.
        end_s: and ends before the first frame shown at or after this time; None = the end of the video.

    Returns:
        The clip. ``frame_count`` counts frames that decode: a truncated file gives what is left of it, and a
        warning is logged.

    Raises:
        UserError: no such file, not a video, nothing in it can be decoded, or nothing lies between the two times.
    """
    source = Path(path)
    with contextlib.closing(_decoded(source)) as decoded:
        _, first = next(decoded, (0.0, None))
    if first is None:
        raise UserError(f"no frame of {source} can be decoded; convert it to H.264 with ffmpeg and try again")
    with _opened(source) as (_, stream):
        size_px = upright_size(first, stream.sample_aspect_ratio)
    index = _index(source)
    count = _decodable(source, index)
    seconds = index.times_s(count)
    begin = int(np.searchsorted(seconds, start_s - 1e-6))
    stop = count if end_s is None else int(np.searchsorted(seconds, end_s - 1e-6))
    if stop <= begin:
        length = f"{seconds[-1] + 1 / index.nominal_rate_hz:.2f} s long"
        end = "its end" if end_s is None else f"{end_s:g} s"
        raise UserError(f"{source} has no frame between {start_s:g} s and {end} (it is {length}); change start or end")
    span = seconds[stop - 1] - seconds[begin]
    rate = (stop - 1 - begin) / span if span > 0 else index.nominal_rate_hz
    return Clip(source, float(rate), size_px, stop - begin, begin)


def frames(
    clip: Clip,
    start: int = 0,
    stop: int | None = None,
    *,
    size_px: tuple[int, int] | None = None,
    accurate: bool = True,
) -> Iterator[Frame]:
    """Decode frames ``start`` to ``stop`` (exclusive; None = the end) of a clip, one at a time.

    Args:
        clip: from :func:`open_clip`.
        start: first frame, counted in the clip; decoding begins at the key frame before it.
        stop: the frame after the last.
        size_px: scale to this (width, height); None = the clip's own size. Scaling here is cheaper than decoding at
            full size and scaling afterwards.
        accurate: exact colours; False is several times faster and one grey level too dark.

    Returns:
        Frames in order, decoded a little ahead of their use; ``index`` and ``time_s`` count from the start of the clip.
        A damaged file gives fewer than asked for, and a warning is logged.
    """
    stop = clip.frame_count if stop is None else min(stop, clip.frame_count)
    made = _frames(clip, start, stop, converter(size_px or clip.size_px, accurate=accurate))
    return ahead(made) if stop - start > _FEW else made


def key_frames(clip: Clip) -> list[int]:
    """Frames, counted in the clip, from which decoding can begin; empty where the container does not say."""
    index = _index(clip.path)
    numbers = (np.flatnonzero(index.key) - clip.first_frame).tolist()
    return [number for number in numbers if 0 <= number < clip.frame_count]


def some_frames(clip: Clip, chosen: list[int]) -> Iterator[Frame]:
    """Some frames of a clip, with accurate colours; what lies between is decoded once at most, and not converted.

    Args:
        chosen: ascending numbers of frames, counted in the clip.
    """
    index, convert = _index(clip.path), converter(clip.size_px)
    keys = np.flatnonzero(index.key) - clip.first_frame
    # Those that follow from the same key frame are decoded in one go.
    for _, group in itertools.groupby(chosen, lambda number: int(np.searchsorted(keys, number, side="right"))):
        wanted = list(group)
        with contextlib.closing(_from(clip, clip.first_frame + wanted[0])) as decoded:
            for number, (pts_s, frame) in enumerate(itertools.islice(decoded, wanted[-1] - wanted[0] + 1), wanted[0]):
                if number in wanted:
                    yield Frame(number, number / clip.frame_rate_hz if pts_s is None else pts_s, convert(frame))


def _frames(clip: Clip, start: int, stop: int, convert: FrameConverter) -> Generator[Frame]:
    position = start
    with contextlib.closing(_from(clip, clip.first_frame + start)) as decoded:
        for pts_s, frame in itertools.islice(decoded, max(stop - start, 0)):
            time_s = position / clip.frame_rate_hz if pts_s is None else pts_s
            yield Frame(position, time_s, convert(frame))
            position += 1
    if position < stop:
        logger.warning("%s is damaged: %d of %d frames decoded", clip.path, position - start, stop - start)


def _from(clip: Clip, first: int) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Frames from position ``first`` of the file on, each with its time from the start of the clip where known."""
    index = _index(clip.path) if first > 0 else None
    if index is not None and len(index.pts) > first:
        origin, target = int(index.pts[clip.first_frame]), int(index.pts[first])
        with contextlib.closing(_decoded(clip.path, target)) as decoded:
            tick, head = next(decoded, (0.0, None))
            # A seek may land after its target (broken or missing seek tables): then decode from the start instead.
            if head is not None and head.pts is not None and head.pts <= target:
                for _, frame in itertools.chain([(tick, head)], decoded):
                    if frame.pts is not None and frame.pts >= target:
                        yield (frame.pts - origin) * tick, frame
                return
    origin = None
    with contextlib.closing(_decoded(clip.path)) as decoded:
        for position, (tick, frame) in enumerate(decoded):
            if position == clip.first_frame:
                origin = frame.pts
            if position >= first:
                known = origin is not None and frame.pts is not None
                yield (frame.pts - origin) * tick if known else None, frame


@contextlib.contextmanager
def _opened(path: Path, threads: str = "NONE") -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    advice = "give a video file that ffmpeg can read"
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a video; {advice}")
    if not path.exists():
        raise UserError(f"no such file: {path}; {advice}")
    try:
        container = av.open(str(path))
    except PermissionError as error:
        raise UserError(f"cannot read {path}: permission denied; make it readable") from error
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path} is not a video, or its header or index is missing; {advice}") from error
    with container:
        # Cover pictures of music files are video streams too.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise UserError(f"{path} has no video in it, only sound or data; {advice}")
        stream = max(streams, key=lambda one: (one.width or 0) * (one.height or 0))
        if stream.codec_context is None:
            raise UserError(f"{path} uses an unknown video codec; convert it to H.264 with ffmpeg and try again")
        stream.thread_type = threads
        yield container, stream


def _decoded(path: Path, from_pts: int | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames that decode without damage, in presentation order, each with the seconds of one tick of its time stamp.

    Decoding starts at the key frame before ``from_pts``. Damaged packets are passed over. With several threads the
    decoder also loses sound frames around them, so at the first damage it starts over with one.
    """
    delivered = 0
    for threads in ("AUTO", "NONE"):
        with _opened(path, threads) as (container, stream):
            if from_pts is not None:
                container.seek(from_pts, stream=stream, backward=True, any_frame=False)
            tick = float(stream.time_base)
            try:
                for frame in itertools.islice(_attempt(container, stream, threads == "NONE"), delivered, None):
                    yield tick, frame
                    delivered += 1
                return
            except av.FFmpegError:
                continue


def _attempt(
    container: av.container.InputContainer, stream: av.VideoStream, pass_over_damage: bool
) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the file ends inside a packet: take what the decoder still holds
            packet = None
        try:
            for frame in stream.codec_context.decode(packet):
                if not frame.is_corrupt:
                    yield frame
        except av.FFmpegError:
            if not pass_over_damage:
                raise
        if packet is None or packet.size == 0:
            return


def _index(path: Path) -> _Index:
    pts, key = [], []
    with _opened(path) as (container, stream):
        intact, claimed = True, stream.frames
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        tick = float(stream.time_base)
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    pts.append(packet.pts)
                    key.append(packet.is_keyframe)
                    intact = intact and not packet.is_corrupt
        except av.FFmpegError:
            intact = False
    complete = intact and claimed == len(pts)
    if any(value is None for value in pts):
        pts, key = [], []
    order = np.argsort(np.array(pts, np.int64), kind="stable")
    return _Index(np.array(pts, np.int64)[order], np.array(key, bool)[order], tick, rate, complete)


def _decodable(path: Path, index: _Index) -> int:
    """Number of frames that decode: the packets; where those are in doubt, what comes out of decoding."""
    count = len(index.pts)
    if count and index.complete:
        return count
    if count and index.key.any():
        # Containers without a count of frames (Matroska, MPEG-TS): damage sits at the end, so try only that.
        last_key = int(np.flatnonzero(index.key)[-1])
        tail = [frame.pts for _, frame in _decoded(path, int(index.pts[last_key]))]
        if len(tail) >= count - last_key and tail == index.pts[count - len(tail) :].tolist():
            return count
    found = sum(1 for _ in _decoded(path))
    if count and found < count:
        logger.warning("%s is damaged: %d of %d frames can be decoded; the rest is left out", path, found, count)
    return found
