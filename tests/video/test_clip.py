"""Opening and streaming videos: what comes out is what was put in, whatever the container did to it."""

from __future__ import annotations

import logging
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from video.small_videos import numbered_image, read_number, rotate_metadata, write_video

from manvatar.errors import UserError
from manvatar.video import frames, open_clip, some_frames


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    return write_video(tmp_path / "numbered.mp4", [numbered_image(i) for i in range(24)])


def _numbers(path: Path, start: int = 0, stop: int | None = None, **options) -> list[int]:
    clip = open_clip(path, **options)
    return [read_number(frame.image.numpy()) for frame in frames(clip, start, stop)]


def test_every_frame_in_order(numbered: Path) -> None:
    clip = open_clip(numbered)
    assert (clip.size_px, clip.frame_count, clip.first_frame) == ((96, 64), 24, 0)
    assert clip.frame_rate_hz == pytest.approx(25)
    got = list(frames(clip))
    assert [frame.index for frame in got] == list(range(24))
    assert [read_number(frame.image.numpy()) for frame in got] == list(range(24))
    assert [frame.time_s for frame in got] == pytest.approx([i / 25 for i in range(24)])
    assert got[0].image.dtype == torch.uint8 and got[0].image.shape == (64, 96, 3)


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 13, 23])
def test_starting_anywhere_gives_the_same_pixels(numbered: Path, start: int) -> None:
    clip = open_clip(numbered)
    everything = list(frames(clip))
    part = list(frames(clip, start, start + 3))
    assert [frame.index for frame in part] == list(range(start, min(start + 3, 24)))
    for frame in part:
        assert torch.equal(frame.image, everything[frame.index].image)
        assert frame.time_s == pytest.approx(everything[frame.index].time_s)


@pytest.mark.parametrize("chosen", [[0], [23], [3, 4, 9, 22], list(range(24)), []])
def test_some_frames(numbered: Path, chosen: list[int]) -> None:
    got = list(some_frames(open_clip(numbered), chosen))
    assert [frame.index for frame in got] == chosen
    assert [read_number(frame.image.numpy()) for frame in got] == chosen


def test_some_frames_of_a_part(numbered: Path) -> None:
    got = list(some_frames(open_clip(numbered, 4 / 25), [0, 2, 19]))
    assert [read_number(frame.image.numpy()) for frame in got] == [4, 6, 23]
    assert [frame.index for frame in got] == [0, 2, 19]


def test_start_and_end_in_seconds(numbered: Path) -> None:
    clip = open_clip(numbered, start_s=0.2, end_s=0.6)
    assert (clip.first_frame, clip.frame_count) == (5, 10)
    got = list(frames(clip))
    assert [read_number(frame.image.numpy()) for frame in got] == list(range(5, 15))
    assert got[0].index == 0 and got[0].time_s == 0
    assert _numbers(numbered, 2, 4, start_s=0.2) == [7, 8]


def test_end_before_start_is_refused(numbered: Path) -> None:
    with pytest.raises(UserError, match="no frame between 2 s and its end.*0.96 s long"):
        open_clip(numbered, start_s=2.0)
    with pytest.raises(UserError, match="change start or end"):
        open_clip(numbered, start_s=0.5, end_s=0.4)


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0, 40, 200, 240, 1000, 1033, 1500]
    path = write_video(tmp_path / "variable.mp4", [numbered_image(i) for i in range(7)], times=times)
    clip = open_clip(path)
    assert [frame.time_s for frame in frames(clip)] == pytest.approx([t / 1000 for t in times], abs=1e-3)
    assert clip.frame_rate_hz == pytest.approx(6 / 1.5, rel=1e-3)
    assert _numbers(path, start_s=0.1, end_s=1.02) == [2, 3, 4]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_rotation_metadata(tmp_path: Path, turns: int) -> None:
    image = np.full((64, 96, 3), 40, np.uint8)
    image[:20, :30] = (250, 40, 40)  # upper left as stored
    path = write_video(tmp_path / "turned.mp4", [image] * 3)
    rotate_metadata(path, turns)
    clip = open_clip(path)
    assert clip.size_px == ((64, 96) if turns % 2 else (96, 64))
    shown = next(iter(frames(clip))).image.numpy().astype(int)
    expected = np.rot90(image, -turns).astype(int)
    assert np.abs(shown - expected).mean() < 6


def test_pixels_become_square(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        frame = av.VideoFrame.from_ndarray(numbered_image(37), format="rgb24").reformat(format="yuv420p")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    clip = open_clip(path)
    assert clip.size_px == (128, 64)
    (shown,) = frames(clip)
    assert shown.image.shape == (64, 128, 3) and read_number(shown.image.numpy()) == 37


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [
        ("ffv1", "yuv444p", ".mkv"),
        ("ffv1", "yuv420p10le", ".mkv"),
        ("ffv1", "bgra", ".mkv"),
        ("mjpeg", "yuvj420p", ".avi"),
        ("libvpx-vp9", "yuv420p", ".webm"),
        ("png", "rgb24", ".mov"),
        ("gif", "gray", ".gif"),
        ("mpeg2video", "yuv420p", ".ts"),
    ],
)
def test_containers_codecs_and_pixel_formats(tmp_path: Path, codec: str, pixels: str, suffix: str) -> None:
    images = [numbered_image(i, (97, 65) if codec == "ffv1" else (96, 64)) for i in range(8)]
    path = write_video(tmp_path / f"clip{suffix}", images, codec=codec, pixels=pixels)
    clip = open_clip(path)
    assert clip.frame_count == 8
    assert clip.size_px == images[0].shape[1::-1]
    assert clip.frame_rate_hz == pytest.approx(25, rel=0.02)
    assert _numbers(path) == list(range(8))
    assert _numbers(path, 5) == [5, 6, 7]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["ITU601", "ITU709", "BT2020"])
@pytest.mark.parametrize("accurate", [False, True])
def test_colours_by_matrix_and_range(tmp_path: Path, matrix: str, full_range: bool, accurate: bool) -> None:
    """Red read with the wrong matrix is off by 20 levels, grey with the wrong range by 16."""
    colors = [(200, 30, 30), (30, 180, 40), (40, 50, 210), (0, 0, 0), (255, 255, 255), (128, 128, 128), (225, 180, 150)]
    image = np.zeros((64, 16 * len(colors), 3), np.uint8)
    for i, color in enumerate(colors):
        image[:, 16 * i : 16 * i + 16] = color
    path = tmp_path / "colours.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = image.shape[1], image.shape[0], "yuv444p"
        range_ = ColorRange.JPEG if full_range else ColorRange.MPEG
        tag = {"ITU601": 6, "ITU709": 1, "BT2020": 9}[matrix]
        stream.codec_context.color_range, stream.codec_context.colorspace = range_, tag
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format="yuv444p",
            dst_colorspace=Colorspace[matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=range_,
        )
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    (got,) = frames(open_clip(path), accurate=accurate)
    centers = got.image[32, 8::16].int() - torch.tensor(colors, dtype=torch.int)
    assert centers.abs().max() <= (2 if accurate else 3)


def test_scaling_while_decoding(numbered: Path) -> None:
    clip = open_clip(numbered)
    got = list(frames(clip, size_px=(48, 32)))
    assert got[0].image.shape == (32, 48, 3)
    assert [read_number(frame.image.numpy()) for frame in got] == list(range(24))


def test_truncated_mp4_with_its_index_in_front(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (24, 64, 96, 3), dtype=np.uint8)
    images = [np.where(numbered_image(i) == 128, noise[i] // 8 + 112, numbered_image(i)) for i in range(24)]
    path = write_video(tmp_path / "whole.mp4", images, container={"movflags": "+faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with caplog.at_level(logging.WARNING):
        clip = open_clip(cut)
    assert "damaged" in caplog.text
    assert 5 < clip.frame_count < 20
    got = list(frames(clip))
    assert len(got) == clip.frame_count
    assert [read_number(frame.image.numpy()) for frame in got] == list(range(clip.frame_count))


def test_truncated_matroska(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mkv", [numbered_image(i) for i in range(24)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    clip = open_clip(cut)
    assert 3 < clip.frame_count < 24
    assert _numbers(cut) == list(range(clip.frame_count))


def test_mp4_without_its_index(numbered: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(numbered.read_bytes()[: numbered.stat().st_size // 2])
    with pytest.raises(UserError, match="cut.mp4 is not a video, or its header or index is missing"):
        open_clip(cut)


def test_what_is_not_a_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file: .*nothing.mp4"):
        open_clip(tmp_path / "nothing.mp4")
    with pytest.raises(UserError, match="is a folder, not a video"):
        open_clip(tmp_path)
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 100)
    with pytest.raises(UserError, match="text.mp4 is not a video"):
        open_clip(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="empty.mp4 is not a video"):
        open_clip(tmp_path / "empty.mp4")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    with pytest.raises(UserError, match="sound.wav has no video in it"):
        open_clip(tmp_path / "sound.wav")


def test_each_message_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_clip(tmp_path / "nothing.mp4")
    assert "\n" not in str(caught.value)


def test_real_clips(shared_data: Path) -> None:
    expected = {
        "address_1280x720.mp4": ((1280, 720), 501, 25),
        "beard_1080x1920.mp4": ((1080, 1920), 502, 25),
        "wavy_1080x1920.mp4": ((1080, 1920), 600, 30),
    }
    for name, (size_px, count, rate) in expected.items():
        clip = open_clip(shared_data / "clips" / name)
        assert (clip.size_px, clip.frame_count) == (size_px, count)
        assert clip.frame_rate_hz == pytest.approx(rate)
        (frame,) = frames(clip, 60, 61, size_px=(size_px[0] // 4, size_px[1] // 4), accurate=False)
        assert frame.image.shape == (size_px[1] // 4, size_px[0] // 4, 3)
        assert 20 < float(frame.image.float().mean()) < 235


@pytest.mark.parametrize("curve", [pytest.param(16, marks=pytest.mark.slow), 18])  # PQ and HLG
def test_high_dynamic_range_becomes_srgb(tmp_path: Path, curve: int) -> None:
    """Greys stay grey and in order, and reference white (PQ 58 %, HLG 75 %) is white, or nearly."""
    ramp = np.zeros((32, 256, 3), np.uint16)
    ramp[:] = np.linspace(0, 65535, 256)[None, :, None]
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 32, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = 9, curve, 9, 1
        frame = av.VideoFrame.from_ndarray(ramp, format="rgb48le")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=Colorspace.BT2020, dst_color_range=ColorRange.MPEG)
        frame.color_trc, frame.color_primaries = curve, 9
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    (got,) = frames(open_clip(path))
    row = got.image[16].int()
    assert (row - row[:, :1]).abs().max() <= 2
    assert (row[:, 0].diff() >= -1).all() and row[0, 0] <= 2
    white = round(255 * (0.58 if curve == 16 else 0.75))
    assert row[white, 0] >= 235
    assert 40 < row[white // 2, 0] < 150
