"""``manvatar face_models info``: what a file is, in words and as a picture, and what is said of files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from face_models.as_files import SmallHead, small_head, write_bfm2009, write_bfm2009_front, write_bfm_h5
from PIL import Image

from manvatar.errors import UserError
from manvatar.face_models import load, main
from manvatar.face_models.drawing import CELL_PX, COLUMNS, DOT_COLORS, LABEL_PX, sheet
from manvatar.face_models.loading import FORMATS, format_of

ROW_PX = CELL_PX[1] + LABEL_PX + 4


def _cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top = row * ROW_PX + LABEL_PX + 4
    return picture[top : top + CELL_PX[1], column * CELL_PX[0] : (column + 1) * CELL_PX[0]].astype(int)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return sheet(load("builtin")).numpy()


def test_the_sheet_shows_a_face_in_every_cell(picture: np.ndarray) -> None:
    assert picture.shape == (4 * ROW_PX, COLUMNS * CELL_PX[0], 3)
    for row in range(4):
        for column in range(COLUMNS):
            covered = (_cell(picture, row, column) < 250).any(2)
            assert 0.2 < covered.mean() < 0.8 and not covered[:3].any()


def test_the_front_view_is_upright_and_symmetric(picture: np.ndarray) -> None:
    covered = (_cell(picture, 0, 0) < 250).any(2)
    assert (covered != covered[:, ::-1]).mean() < 0.02
    widths = covered.sum(1)
    assert widths[40:120].max() > 1.15 * widths[-5]  # head above, neck below
    profile = (_cell(picture, 0, 3) < 250).any(2)
    columns = np.flatnonzero(profile[100:200].any(0))
    nose = np.flatnonzero(profile[:, columns[0]])
    assert 90 < nose.mean() < 190  # what sticks out furthest on the picture's left is the nose


def test_views_from_both_sides_mirror_each_other(picture: np.ndarray) -> None:
    one, other = ((_cell(picture, 0, column) < 250).any(2) for column in (1, 2))
    assert (one != other[:, ::-1]).mean() < 0.02 and (one != other).mean() > 0.02


def test_landmarks_are_dots_where_the_face_is(picture: np.ndarray) -> None:
    for column, scheme in ((4, "ibug68"), (5, "mediapipe478")):
        dots = (np.abs(_cell(picture, 0, column) - DOT_COLORS[scheme]) < 40).all(2)
        rows, columns = np.nonzero(dots)
        assert 150 < dots.sum() < 4000 and np.ptp(columns) > 0.35 * CELL_PX[0]
        assert abs(columns.mean() - CELL_PX[0] / 2) < 4
        assert not (np.abs(_cell(picture, 0, 0) - DOT_COLORS[scheme]) < 40).all(2).any()


def test_modes_are_drawn_both_ways(picture: np.ndarray) -> None:
    mean = _cell(picture, 0, 0)
    for row in (1, 2, 3):
        for column in range(0, COLUMNS, 2):
            less, more = _cell(picture, row, column), _cell(picture, row, column + 1)
            assert np.abs(less - more).mean() > 0.3
            assert np.abs(less - mean).mean() > 0.1 and np.abs(more - mean).mean() > 0.1


@pytest.mark.parametrize(
    "kind", ["Basel Face Model 2009", "Basel Face Model 2009, front", "Basel Face Model 2017 or 2019"]
)
def test_what_a_file_is(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, unit = {
        "Basel Face Model 2009": (tmp_path, "micrometres"),
        "Basel Face Model 2009, front": (tmp_path / "model.mat", "decimetres"),
        "Basel Face Model 2017 or 2019": (tmp_path / "model.h5", "millimetres"),
    }[kind]
    write = {"micrometres": write_bfm2009, "decimetres": write_bfm2009_front, "millimetres": write_bfm_h5}[unit]
    write(path, small_head())
    assert format_of(path) == kind
    out = tmp_path / "sheet.png"
    assert main(["info", str(path), "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert kind in text and f"{unit} in the file" in text and "ibug68: 68 of 68" in text
    assert "bfm_exp_00 ... bfm_exp_05" in text and "without        eyeballs, teeth, mouth" in text
    with Image.open(out) as image:
        assert image.size == (COLUMNS * CELL_PX[0], 4 * ROW_PX)
        assert (_cell(np.array(image), 0, 0) < 250).any(2).mean() > 0.2


def test_the_builtin_head_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert (
        "builtin-1" in text and "32 coefficients" in text and "jawOpen" in text and "nothing that avatars use" in text
    )


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("a text")
    (tmp_path / "empty.pkl").write_bytes(b"")
    for path in (tmp_path / "nowhere", tmp_path / "notes.txt", tmp_path / "empty.pkl", tmp_path):
        assert main(["info", str(path)]) == 2
        text = capsys.readouterr().err
        assert text.startswith("manvatar face_models: error: ") and text.count("\n") == 1 and str(path) in text
        assert all(name in text for name in FORMATS)


def test_a_folder_with_both_2009_files_is_the_front_one(tmp_path: Path) -> None:
    write_bfm2009(tmp_path, small_head())
    write_bfm2009_front(tmp_path / "BFM_model_front.mat", small_head())
    assert load(tmp_path).id == "bfm2009-front"


def test_models_made_of_nothing_are_refused(tmp_path: Path) -> None:
    write_bfm_h5(tmp_path / "model.h5", small_head())
    broken = SmallHead(
        small_head().mean * np.nan,
        small_head().identity,
        small_head().expression,
        small_head().triangles,
        small_head().landmarks,
        small_head().points,
        small_head().eyeballs,
    )
    write_bfm2009_front(tmp_path / "nan.mat", broken)
    with pytest.raises(UserError, match="mean holds values that are not finite"):
        load(tmp_path / "nan.mat")
