"""Landmark drawings: lines, colours, conventions, points outside the picture."""

from __future__ import annotations

import torch

from manvatar.baselines.stickman import draw_stickman


def _keypoints(size_px: int, **pixels: tuple[float, float]) -> torch.Tensor:
    """All points far outside except those named p<index>, in pixels of the picture."""
    points = torch.full((68, 2), -1000.0)
    for name, point in pixels.items():
        points[int(name[1:])] = torch.tensor(point)
    return (points / size_px * 2 - 1).reshape(1, 136)


def _colors(drawn: torch.Tensor) -> torch.Tensor:
    return ((drawn[0] + 1) / 2 * 255).round().int().permute(1, 2, 0)


def test_a_brow_is_a_red_line_two_pixels_to_each_side_at_most() -> None:
    points = {f"p{17 + k}": (10.9 + 10 * k, 20.9) for k in range(5)}
    drawn = _colors(draw_stickman(_keypoints(64, **points), 64))
    red = (drawn == torch.tensor([255, 0, 0])).all(-1)
    assert red[20, 10:51].all()
    assert red.any(1).nonzero().flatten().tolist() == [19, 20, 21]
    assert (drawn[40] == 1).all()  # the background the released weights know


def test_few_shot_drawing_rounds_and_is_black_behind() -> None:
    points = {f"p{17 + k}": (10.9 + 10 * k, 20.9) for k in range(5)}
    drawn = _colors(draw_stickman(_keypoints(64, **points), 64, "fewshot"))
    assert (drawn[..., 0] == 255).any(1).nonzero().flatten().tolist() == [20, 21, 22]
    assert (drawn[40] == 0).all()


def test_closed_and_open_lines() -> None:
    square = [(10, 10), (20, 10), (30, 10), (30, 30), (20, 30), (10, 30)]
    eye = _colors(draw_stickman(_keypoints(64, **{f"p{36 + k}": p for k, p in enumerate(square)}), 64))
    assert (eye[20, 10] == torch.tensor([255, 0, 255])).all()  # the closing side
    bridge = {f"p{27 + k}": (20.0, 10.0 + 5 * k) for k in range(4)} | {"p33": (20.0, 40.0)}
    keypoints = _keypoints(64, **bridge)
    blue = torch.tensor([0, 0, 255])
    assert (_colors(draw_stickman(keypoints, 64))[35, 20] == blue).all()  # from the bridge to the base
    assert not (_colors(draw_stickman(keypoints, 64, "fewshot"))[35, 20] == blue).all()


def test_points_outside_draw_what_is_inside() -> None:
    drawn = _colors(draw_stickman(_keypoints(64, p0=(-50.0, 32.0), p1=(120.0, 32.0)), 64))
    white = (drawn == 255).all(-1)
    assert white[32].all() and not white[10].any()


def test_not_a_number_draws_nothing() -> None:
    assert (draw_stickman(torch.full((2, 136), float("nan")), 32) < -0.9).all()


def test_a_slanted_line_pixel_by_pixel() -> None:
    """From (5, 5) to (15, 9), as OpenCV draws it with thickness 2."""
    drawn = _colors(draw_stickman(_keypoints(32, p0=(5.0, 5.0), **{f"p{k}": (15.0, 9.0) for k in range(1, 17)}), 32))[
        4:11, 3:18
    ]
    white = (drawn == 255).all(-1)
    rows = ["".join(".#"[int(pixel)] for pixel in row) for row in white.tolist()]
    assert rows == [
        "..##...........",
        ".#####.........",
        "..#######......",
        "....#######....",
        "......#######..",
        ".........#####.",
        "...........##..",
    ]
