"""Pictures of how good an avatar is: a sheet of single frames, and a video of truth beside render."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from manvatar.mark import draw_text, draw_visible_mark, font, save_image
from manvatar.metrics.images import white_composite
from manvatar.metrics.scores import Renderer, ScoredFrame, Scores
from manvatar.types import Dataset
from manvatar.video import VideoWriter, writer

ERROR_GAIN = 4.0
_GAP_PX = 4
_HEADINGS = ("truth", "render", f"error x{ERROR_GAIN:g}")


@dataclass(frozen=True)
class SheetRow:
    """One frame of a contact sheet; images in [0, 1] on white."""

    label: str
    truth: Float[Tensor, "height width 3"]
    image: Float[Tensor, "height width 3"]


def sheet_rows(dataset: Dataset, renderer: Renderer, scores: Scores, count: int = 8) -> list[SheetRow]:
    """The worst, the best and frames evenly between them by PSNR, worst first; renders them anew."""
    order = np.argsort(scores.frame_psnr_db, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
    rows = []
    for position in chosen.tolist():
        row = scores.rows[position]
        truth = white_composite(dataset.images[row])
        image = renderer(row).detach().cpu().float().clamp(0, 1)
        decibels = scores.frame_psnr_db[position]
        rows.append(SheetRow(f"frame {int(dataset.clip_frame[row])}   {decibels:.2f} dB", truth, image))
    return rows


def contact_sheet(rows: Sequence[SheetRow], columns: int = 2) -> UInt8[Tensor, "height width 3"]:
    """Truth, render and absolute error times 4 of each frame, labelled, in ``columns`` columns of such triples."""
    if not rows:
        raise ValueError("contact_sheet: no rows were given")
    height, width = rows[0].truth.shape[:2]
    strip = max(12, height // 14)
    cell = (3 * width + 4 * _GAP_PX, height + strip + _GAP_PX)
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (cell[0] * min(columns, len(rows)), strip + cell[1] * lines), (235, 235, 235))
    draw, letters = ImageDraw.Draw(sheet), font(max(8, round(strip * 0.7)))
    for column in range(min(columns, len(rows))):
        for place, heading in enumerate(_HEADINGS):
            x = column * cell[0] + _GAP_PX + place * (width + _GAP_PX)
            draw.text((x, strip / 2), heading, font=letters, anchor="lm", fill=(20, 20, 20))
    for index, row in enumerate(rows):
        left, top = index % columns * cell[0] + _GAP_PX, strip + index // columns * cell[1]
        draw.text((left, top + strip / 2), row.label, font=letters, anchor="lm", fill=(20, 20, 20))
        error = (row.truth - row.image).abs() * ERROR_GAIN
        for place, image in enumerate((row.truth, row.image, error)):
            tile = Image.fromarray(_to8(image).numpy())
            sheet.paste(tile, (left + place * (width + _GAP_PX), top + strip))
    return torch.from_numpy(np.array(sheet))


def write_contact_sheet(path: str | Path, dataset: Dataset, renderer: Renderer, scores: Scores) -> None:
    """``contact.png``: eight held-out frames from the worst to the best. Raises ``UserError`` where it cannot."""
    save_image(path, contact_sheet(sheet_rows(dataset, renderer, scores)))


class Preview:
    """Takes frames as :func:`manvatar.metrics.score` hands them out; made by :func:`preview`."""

    def __init__(self, video: VideoWriter, dataset: Dataset, visible_mark: bool) -> None:
        self._video, self._dataset, self._visible_mark = video, dataset, visible_mark

    def __call__(self, frame: ScoredFrame) -> None:
        number = int(self._dataset.clip_frame[frame.row])
        truth = draw_text(_to8(frame.truth), f"frame {number}")
        image = draw_text(_to8(frame.image), f"render   {frame.psnr_db:.1f} dB")
        if self._visible_mark:
            image = draw_visible_mark(image)
        self._video.write(torch.cat([truth, image], 1))


@contextmanager
def preview(path: str | Path, dataset: Dataset, *, visible_mark: bool = True) -> Iterator[Preview]:
    """A video of truth beside render, to be fed by ``score(..., on_frame=...)``.

    It runs at the clip's own rate; repeated frames that were left out shorten it.

    Raises:
        UserError: the file cannot be written.
    """
    width, height = dataset.camera.size_px
    with writer(path, dataset.frame_rate_hz, (2 * width, height), synthetic=True) as video:
        yield Preview(video, dataset, visible_mark)


def _to8(image: Float[Tensor, "height width 3"]) -> UInt8[Tensor, "height width 3"]:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
