"""How good a rendering is: scores over held-out frames, the rival to beat, and pictures to judge by."""

from manvatar.metrics.images import LearnedDistance, RegionScore, compare, psnr_db, white_composite
from manvatar.metrics.nearest import nearest_frame, nearest_frame_renderer
from manvatar.metrics.pictures import SheetRow, contact_sheet, preview, sheet_rows, write_contact_sheet
from manvatar.metrics.regions import REGIONS, Region, regions
from manvatar.metrics.report import Report, write_report
from manvatar.metrics.scores import RunFacts, ScoredFrame, Scores, score, scores_table, write_scores

__all__ = [
    "REGIONS",
    "LearnedDistance",
    "Region",
    "RegionScore",
    "Report",
    "RunFacts",
    "ScoredFrame",
    "Scores",
    "SheetRow",
    "compare",
    "contact_sheet",
    "nearest_frame",
    "nearest_frame_renderer",
    "preview",
    "psnr_db",
    "regions",
    "score",
    "scores_table",
    "sheet_rows",
    "white_composite",
    "write_contact_sheet",
    "write_report",
    "write_scores",
]
