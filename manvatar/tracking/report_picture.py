"""The report of a track as one picture: verdict, residual, jitter, poses, lids and gaze, coverage of expressions."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from manvatar.errors import UserError
from manvatar.files import replacing
from manvatar.mark import font
from manvatar.tracking.report import HARDLY_MOVED_SD, HIGH_RESIDUAL, TrackReport, measure, verdict
from manvatar.types import EYE_CHANNELS, FaceModel, Track

WIDTH, MARGIN, LEFT = 1400, 24, 70  # LEFT: room for the numbers of an axis
PLOT, GAP = 150, 46
ROW = 17  # of the table of expressions
INK, PALE, GRID = (30, 30, 30), (120, 120, 120), (225, 225, 225)
RED, LOST = (200, 40, 40), (255, 225, 225)
COLORS = ((30, 100, 200), (210, 110, 20), (40, 150, 70), (140, 60, 170))


@dataclass(frozen=True)
class _Plot:
    """A frame for curves over the frames of a clip."""

    pen: ImageDraw.ImageDraw
    left: int
    top: int
    width: int
    low: float
    high: float
    count: int  # frames

    def x(self, frame: int | float) -> float:
        return self.left + self.width * frame / max(self.count - 1, 1)

    def y(self, value: int | float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return self.top + PLOT * (1 - min(max(part, -0.02), 1.02))

    def curve(self, values: np.ndarray, color: tuple[int, int, int], first: int = 0) -> None:
        """A line through finite values, broken where there are none."""
        points: list[tuple[float, float]] = []
        for index, value in enumerate(values.tolist(), first):
            if np.isfinite(value):
                points.append((self.x(index), self.y(value)))
            if (not np.isfinite(value) or index == first + len(values) - 1) and points:
                self.pen.line(points if len(points) > 1 else points * 2, fill=color, width=2)
                points = []

    def line(self, value: int | float, color: tuple[int, int, int]) -> None:
        self.pen.line((self.left, self.y(value), self.left + self.width, self.y(value)), fill=color)


def write_report(path: str | os.PathLike[str], track: Track, face_model: FaceModel) -> str:
    """Write the report as a PNG file; returns the verdict in one sentence.

    Raises:
        UserError: the name does not end in .png, or the file cannot be written.
    """
    if not str(path).lower().endswith(".png"):
        raise UserError(f"the report is a picture, so {path} must end in .png; choose another name")
    report = measure(track, face_model)
    with replacing(path) as temporary:
        draw_report(report, track).save(temporary, format="PNG")
    return verdict(report, track.expression_names)[0]


def draw_report(report: TrackReport, track: Track) -> Image.Image:
    """The picture."""
    headline, notes = verdict(report, track.expression_names)
    lines = [line for note in notes for line in textwrap.wrap(note, 130, initial_indent="- ", subsequent_indent="  ")]
    rows = (len(track.expression_names) + 1) // 2
    top = MARGIN + 66 + 19 * len(lines) + 40
    eyes = [name for name in EYE_CHANNELS if name in track.expression_names]
    plots = 3 + bool(eyes)
    height = top + plots * (PLOT + GAP) + 30 + rows * ROW + MARGIN
    picture = Image.new("RGB", (WIDTH, height), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    _words(pen, report, track, headline, lines)
    _residual(_plot(pen, report, top, 0.0, max(2 * HIGH_RESIDUAL, _most(report.residual_share))), report)
    top += PLOT + GAP
    _jitter(_plot(pen, report, top, 0.0, max(1.0, _most(report.turn_deg))), report)
    top += PLOT + GAP
    _poses(pen, report, top)
    top += PLOT + GAP
    if eyes:
        _eyes(_plot(pen, report, top, -3.0, 3.0), track, eyes)
        top += PLOT + GAP
    _expressions(pen, report, track.expression_names, top - 10, rows)
    return picture


def _words(pen: ImageDraw.ImageDraw, report: TrackReport, track: Track, headline: str, lines: list[str]) -> None:
    bad = headline.startswith("Do not")
    pen.text((MARGIN, MARGIN), headline, fill=RED if bad else INK, font=font(26))
    yaw, pitch, roll = report.angle_range_deg.tolist()
    facts = (
        f"{report.frame_count} frames, {100 * report.valid_share:.1f} % valid;  residual {report.residual_px:.2f} px = "
        f"{100 * report.residual_median:.2f} % of the eye distance;  jitter {report.jitter_deg:.3f} deg;  "
        f"yaw/pitch/roll range {yaw:.0f}/{pitch:.0f}/{roll:.0f} deg;  "
        + ("" if report.blinks is None else f"{report.blinks} blinks;  ")
        + f"{track.face_model}, {track.landmark_scheme}"
    )
    pen.text((MARGIN, MARGIN + 38), facts, fill=PALE, font=font(14))
    for index, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + 64 + 19 * index), line, fill=INK, font=font(15))


def _plot(
    pen: ImageDraw.ImageDraw, report: TrackReport, top: int, low: float, high: float, width: int | None = None
) -> _Plot:
    width = WIDTH - LEFT - MARGIN if width is None else width
    plot = _Plot(pen, LEFT, top, width, low, high, report.frame_count)
    for first, end in report.gaps:
        pen.rectangle((plot.x(first - 0.5), top, plot.x(end - 0.5), top + PLOT), fill=LOST)
    for part in range(5):
        value = low + (high - low) * part / 4
        plot.line(value, GRID)
        pen.text((LEFT - 6, plot.y(value)), f"{value:.3g}", fill=PALE, font=font(11), anchor="rm")
    pen.rectangle((LEFT, top, LEFT + width, top + PLOT), outline=PALE)
    return plot


def _title(plot: _Plot, text: str) -> None:
    plot.pen.text((plot.left, plot.top - 19), text, fill=INK, font=font(14))


def _residual(plot: _Plot, report: TrackReport) -> None:
    _title(
        plot, "residual of the landmarks, share of the eye distance (red line: loose; pink: frames that are not used)"
    )
    plot.line(HIGH_RESIDUAL, RED)
    plot.curve(report.residual_share.numpy(), COLORS[0])


def _jitter(plot: _Plot, report: TrackReport) -> None:
    _title(plot, "change of the head's turning from frame to frame, degrees (a still head should lie near 0)")
    plot.curve(report.turn_deg.numpy(), COLORS[1], first=1)


def _poses(pen: ImageDraw.ImageDraw, report: TrackReport, top: int) -> None:
    """Angles over time, and which pairs of yaw and pitch were seen."""
    reach = max(10.0, _most(report.angles_deg.abs()))
    plot = _plot(pen, report, top, -reach, reach, WIDTH - LEFT - MARGIN - PLOT - 60)
    _title(plot, "yaw (blue, to the subject's left), pitch (orange, up) and roll (green), degrees")
    for axis in range(3):
        plot.curve(report.angles_deg[:, axis].numpy(), COLORS[axis])
    left = WIDTH - MARGIN - PLOT
    middle, scale = (left + PLOT / 2, top + PLOT / 2), PLOT / 2 / reach
    pen.text((left, top - 19), "yaw by pitch seen", fill=INK, font=font(14))
    pen.line((left, middle[1], left + PLOT, middle[1]), fill=GRID)
    pen.line((middle[0], top, middle[0], top + PLOT), fill=GRID)
    pen.rectangle((left, top, left + PLOT, top + PLOT), outline=PALE)
    lost = {frame for first, end in report.gaps for frame in range(first, end)}
    for frame, (yaw, pitch, _) in enumerate(report.angles_deg.tolist()):
        if frame not in lost:
            x, y = middle[0] + scale * yaw, middle[1] - scale * pitch
            pen.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=COLORS[0])


def _eyes(plot: _Plot, track: Track, names: list[str]) -> None:
    words = ("left lid", "right lid", "gaze to the left", "gaze up")
    colors = ("blue", "orange", "green", "violet")
    shown = [f"{words[EYE_CHANNELS.index(name)]} ({colors[EYE_CHANNELS.index(name)]})" for name in names]
    _title(plot, ", ".join(shown) + "; lids: 0 open, 2 shut")
    for name in names:
        values = track.expression[:, track.expression_names.index(name)]
        plot.curve(values.numpy(), COLORS[EYE_CHANNELS.index(name)])


def _expressions(pen: ImageDraw.ImageDraw, report: TrackReport, names: tuple[str, ...], top: int, rows: int) -> None:
    """A bar for each coefficient, from its 1st to its 99th percentile."""
    pen.text(
        (MARGIN, top), "what each coefficient has done, -4 to 4 standard deviations (grey: hardly moved)", INK, font(14)
    )
    column = (WIDTH - 2 * MARGIN) // 2
    for index, name in enumerate(names):
        low, high = report.expression_range[index].tolist()
        left, y = MARGIN + index // rows * column, top + 24 + index % rows * ROW
        start, width = left + 170, column - 200
        pen.text((left, y), name, fill=INK, font=font(12))
        pen.line((start + width / 2, y, start + width / 2, y + ROW), fill=PALE)
        ends = [start + width * (min(max(value, -4), 4) + 4) / 8 for value in (low, high)]
        color = PALE if high - low < HARDLY_MOVED_SD else COLORS[2]
        pen.rectangle((ends[0], y + 3, max(ends[1], ends[0] + 1), y + ROW - 4), fill=color)


def _most(values: object) -> float:
    """Largest finite value, 0 where there is none."""
    array = np.asarray(values)
    array = array[np.isfinite(array)]
    return float(array.max()) if array.size else 0.0
