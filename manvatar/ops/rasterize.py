r"""Which triangle every pixel of a picture sees, and where on it.

Vocabulary. A corner of a triangle is a vertex at the image position (x, y), rounded to 1/1024 px. With corners 0, 1, 2
and a point p, the edge function opposite corner i, for (i, j, k) = (0, 1, 2), (1, 2, 0), (2, 0, 1), is

    e_i(p) = (x_k - x_j) (y_p - y_j) - (y_k - y_j) (x_p - x_j)

twice the signed area of the triangle p, j, k. The three add up to the signed area A of the whole, and signs are turned
so that A > 0. A point is covered where all are positive; where one is 0, if that edge is a left one or a horizontal
top one: a pixel centre on an edge shared by two triangles is covered by one of them. Rounded corners make this exact.
With depths z_i of the corners, on a plane in space,

    1 / z = sum_i e_i / (A z_i)              linear on the screen
    b_i   = z e_i / (A z_i)                  barycentric, perspective correct: sum_i b_i X_i is the point X seen at p

Sources: J. Pineda, "A parallel algorithm for polygon rasterization", SIGGRAPH 1988 (edge functions); P. Heckbert and
H. Moreton, "Interpolation for polygon texture mapping and shading", 1991 (perspective).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from manvatar.ops._library import has_op, require

_BUILT = has_op("rasterize")
_UNITS = 1024  # of a pixel, to which corners are rounded


class Rasterized(NamedTuple):
    """What :func:`rasterize` returns; a pixel that sees nothing has triangle -1 and 0 elsewhere."""

    triangle: Int32[Tensor, "frames high wide"]  # row of `triangles`, or -1
    barycentric: Float[Tensor, "frames high wide 3"]  # weights of the corners in the order of the row; they sum to 1
    depth_m: Float[Tensor, "frames high wide"]  # along the optical axis, as that of the vertices


@torch.no_grad()
def rasterize(
    points_px: Float[Tensor, "frames vertices 2"],
    depth_m: Float[Tensor, "frames vertices"],
    triangles: Int[Tensor, "triangles 3"],
    size_px: tuple[int, int],
    cull_back_faces: bool = False,
) -> Rasterized:
    """The nearest triangle at the centre of every pixel; formulas and vocabulary at the head of this module.

    Not differentiable: results do not require grad, whatever the inputs do. Positions as functions of the vertices come
    from the barycentric weights, taken as constants. Deterministic; of triangles equally near, the one first in
    ``triangles`` is seen. Frames are drawn independently.

    Args:
        points_px: float32 image positions (x, y), pixel centres at half-integers; anywhere, also far outside.
        depth_m: float32, along the optical axis. A triangle is left out, not clipped, when the depth of a corner is not
            positive or any of its numbers is not finite; so is one without area.
        triangles: int32 or int64 vertices, one mesh for all frames. Checked on the CPU; on CUDA a triangle with a wrong
            vertex is left out, since looking at it first would wait for the device.
        size_px: (width, height), 1 to 16384 each.
        cull_back_faces: leave out triangles whose corners run clockwise on the screen.

    Raises:
        RuntimeError: shapes, dtypes, devices, sizes or vertices that do not fit, in words.
        UserError: the native library is not built.
    """
    require("rasterize", _BUILT, points_px)
    width, height = size_px
    return Rasterized(*torch.ops.manvatar.rasterize(points_px, depth_m, triangles, width, height, cull_back_faces))


@torch.no_grad()
def rasterize_reference(
    points_px: Float[Tensor, "frames vertices 2"],
    depth_m: Float[Tensor, "frames vertices"],
    triangles: Int[Tensor, "triangles 3"],
    size_px: tuple[int, int],
    cull_back_faces: bool = False,
) -> Rasterized:
    """:func:`rasterize` in plain PyTorch: any float dtype and device; edge functions in float64.

    Memory is the sum of the boxes, in pixels, around the triangles of one frame.
    """
    frames = [
        _frame(points, depth, triangles.long(), size_px, cull_back_faces)
        for points, depth in zip(points_px, depth_m, strict=True)
    ]
    width, height = size_px
    triangle = torch.stack([f[0] for f in frames]) if frames else triangles.new_empty(0, height, width)
    barycentric = torch.stack([f[1] for f in frames]) if frames else points_px.new_empty(0, height, width, 3)
    distance = torch.stack([f[2] for f in frames]) if frames else depth_m.new_empty(0, height, width)
    return Rasterized(triangle.int(), barycentric, distance)


def _frame(
    points_px: Tensor, depth_m: Tensor, triangles: Tensor, size_px: tuple[int, int], cull: bool
) -> tuple[Tensor, Tensor, Tensor]:
    width, height = size_px
    corners = (points_px * _UNITS).round()[triangles].double()  # (T, 3, 2)
    inverse = (1 / depth_m)[triangles].double()  # (T, 3)
    smallest, largest = torch.finfo(depth_m.dtype).tiny, torch.finfo(depth_m.dtype).max
    usable = corners.isfinite().all(-1).all(-1) & ((inverse >= smallest) & (inverse <= largest)).all(-1)
    area = _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    usable &= (area < 0) if cull else (area != 0)

    kept = usable.nonzero()[:, 0]
    corners, inverse, area = corners[kept], inverse[kept], area[kept]
    which, column, row = _pixels_of_boxes(corners, width, height)
    centre = torch.stack([column, row], -1) * _UNITS + _UNITS // 2
    value, covered = _edge_functions(corners[which], area[which].sign(), centre.double())

    which, pixel, value = which[covered], (row * width + column)[covered], value[covered]
    weight = value / area[which, None].abs() * inverse[which]
    nearness = weight.sum(-1)
    # By pixel, the nearest first; of equals the first triangle, which is where stable sorting leaves it.
    order = nearness.argsort(descending=True, stable=True)
    order = order[pixel[order].argsort(stable=True)]
    first = order[torch.cat([pixel.new_ones(1), pixel[order].diff()])[: len(order)] != 0]

    pixel, which, weight = pixel[first], which[first], weight[first]
    total = weight.sum(-1)
    triangle = triangles.new_full((height * width,), -1)
    barycentric, distance = points_px.new_zeros(height * width, 3), depth_m.new_zeros(height * width)
    triangle[pixel] = kept[which]
    barycentric[pixel] = (weight / total[:, None]).to(points_px.dtype)
    distance[pixel] = (1 / total).to(depth_m.dtype)
    return triangle.view(height, width), barycentric.view(height, width, 3), distance.view(height, width)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _pixels_of_boxes(corners: Tensor, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """(triangle, column, row) of all pixels whose centres lie in the box around a triangle; triangles in order."""
    last = corners.new_tensor([width - 1, height - 1])
    half = _UNITS // 2
    low = ((corners.amin(1) - half) / _UNITS).ceil().clamp_min(0).minimum(last + 1).long()
    high = ((corners.amax(1) - half) / _UNITS).floor().clamp_min(-1).minimum(last).long()
    span = (high - low + 1).clamp_min(0)
    count = span.prod(-1)
    which = torch.repeat_interleave(torch.arange(len(corners), device=corners.device), count)
    place = torch.arange(len(which), device=corners.device) - (count.cumsum(0) - count)[which]
    wide = span[which, 0]
    return which, low[which, 0] + place % wide, low[which, 1] + place // wide


def _edge_functions(corners: Tensor, sign: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Edge functions (N, 3) of triangles (N, 3, 2) at centres (N, 2), and whether the centre is covered."""
    start, end = corners.roll(-1, 1), corners.roll(-2, 1)
    # Far away float64 rounds; both triangles at an edge must then do it alike, so both start from the same end: the one
    # nearer to the picture, which rounds less.
    (x0, y0), (x1, y1) = start.unbind(-1), end.unbind(-1)
    farther = end.abs().sum(-1) - start.abs().sum(-1)
    swap = (farther < 0) | ((farther == 0) & ((x1 < x0) | ((x1 == x0) & (y1 < y0))))
    anchor = torch.where(swap[..., None], end, start)
    inward = torch.stack([start[..., 1] - end[..., 1], end[..., 0] - start[..., 0]], -1) * sign[:, None, None]
    value = (inward * (centre[:, None] - anchor)).sum(-1)
    top_or_left = (inward[..., 0] > 0) | ((inward[..., 0] == 0) & (inward[..., 1] > 0))
    return value, ((value > 0) | ((value == 0) & top_or_left)).all(-1)


def _fake(
    points_px: Tensor, depth_m: Tensor, triangles: Tensor, width: int, height: int, cull_back_faces: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (points_px.shape[0], height, width)
    return (
        points_px.new_empty(shape, dtype=torch.int32),
        points_px.new_empty(*shape, 3),
        points_px.new_empty(shape),
    )


if _BUILT:
    torch.library.register_fake("manvatar::rasterize", _fake)
