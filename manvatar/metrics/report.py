"""Everything that says how good an avatar is, written into one folder."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from manvatar.files import make_folder
from manvatar.metrics.images import LearnedDistance
from manvatar.metrics.nearest import nearest_frame_renderer
from manvatar.metrics.pictures import preview, write_contact_sheet
from manvatar.metrics.scores import Renderer, RunFacts, Scores, score, scores_table, write_scores
from manvatar.types import Dataset


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`write_report` found."""

    scores: Scores
    nearest: Scores | None  # of the rival; None where there are no training frames to show
    facts: RunFacts

    def table(self) -> dict[str, Any]:
        """What stands in ``scores.json``."""
        return scores_table(self.scores, self.nearest, self.facts)

    def summary(self) -> str:
        """One line for people."""
        scores = self.scores
        line = f"{len(scores.rows)} frames: {scores.frame.psnr_db:.2f} dB"
        if scores.head.psnr_db is not None:
            line += f" ({scores.head.psnr_db:.2f} dB in the head)"
        if scores.frame.ssim is not None:
            line += f", SSIM {scores.frame.ssim:.4f}"
        if self.nearest is not None:
            line += f"; the nearest training frame {self.nearest.frame.psnr_db:.2f} dB"
        return line


def write_report(
    out: str | Path,
    dataset: Dataset,
    renderer: Renderer,
    facts: RunFacts,
    *,
    lpips: tuple[LearnedDistance, ...] = (),
    visible_mark: bool = True,
    show_progress: bool = True,
) -> Report:
    """Score ``renderer`` on the held-out frames; write ``scores.json``, ``preview.mp4`` and ``contact.png`` to ``out``.

    Args:
        facts: what the run cost so far; the seconds that scoring took are filled in here unless they are given, and
            then added to the total.

    Raises:
        UserError: ``out`` cannot be written to.
        ValueError: nothing is held out, or the renderer fails.
    """
    start = time.perf_counter()
    folder = make_folder(out)
    with preview(folder / "preview.mp4", dataset, visible_mark=visible_mark) as video:
        progress = "score" if show_progress else None
        scores = score(dataset, renderer, lpips=lpips, on_frame=video, progress=progress)
    nearest = score(dataset, nearest_frame_renderer(dataset), lpips=lpips) if len(dataset.train) else None
    write_contact_sheet(folder / "contact.png", dataset, renderer, scores)
    if facts.score_s is None:
        score_s = time.perf_counter() - start
        total_s = None if facts.total_s is None else facts.total_s + score_s
        facts = dataclasses.replace(facts, score_s=score_s, total_s=total_s)
    write_scores(folder / "scores.json", scores, nearest, facts)
    return Report(scores, nearest, facts)
