"""rasterize: parity, registration, CPU = CUDA, answers, invariants, errors, empty and NaN input. It has no gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from manvatar import face_models
from manvatar.errors import UserError
from manvatar.ops import Rasterized, _library, rasterize, rasterize_reference


@dataclass(frozen=True)
class Case:
    """What is drawn."""

    points_px: Tensor  # (B, V, 2)
    depth_m: Tensor  # (B, V)
    triangles: Tensor  # (T, 3)
    size_px: tuple[int, int] = (37, 29)
    cull: bool = False

    def arguments(self) -> tuple:
        return self.points_px, self.depth_m, self.triangles, self.size_px, self.cull

    def to(self, target: torch.dtype | torch.device) -> Case:
        triangles = self.triangles if isinstance(target, torch.dtype) else self.triangles.to(target)
        return replace(self, points_px=self.points_px.to(target), depth_m=self.depth_m.to(target), triangles=triangles)


def make_case(frames: int = 2, triangles: int = 60, side_px: float = 20.0, size_px: tuple[int, int] = (37, 29)) -> Case:
    """Triangles of about one size that reach over the borders; some corners behind the camera, some on centres."""
    middle = torch.rand(triangles, 1, 2) * (torch.tensor(size_px) + 10.0) - 5.0
    corners = (middle + (torch.rand(frames, triangles, 3, 2) - 0.5) * side_px).flatten(1, 2)
    corners[:, ::7] = (corners[:, ::7] - 0.5).round() + 0.5
    depth = torch.rand(frames, 3 * triangles) * 2 + 0.5
    depth[:, ::40] *= -1
    return Case(corners, depth, torch.arange(3 * triangles).view(-1, 3), size_px)


def make_grid(columns: int, rows: int, low: float, high: float) -> Case:
    """A sheet of two triangles a cell, its inner vertices moved at random: every point inside lies in one triangle."""
    y, x = torch.meshgrid(torch.linspace(low, high, rows), torch.linspace(low, high, columns), indexing="ij")
    points = torch.stack([x, y], -1)
    step = torch.tensor([(high - low) / (columns - 1), (high - low) / (rows - 1)])
    points[1:-1, 1:-1] += (torch.rand(rows - 2, columns - 2, 2) - 0.5) * 0.6 * step
    index = torch.arange(rows * columns).view(rows, columns)
    a, b, c, d = (index[i : i + rows - 1, j : j + columns - 1].reshape(-1) for i in (0, 1) for j in (0, 1))
    triangles = torch.cat([torch.stack([a, b, c], -1), torch.stack([b, c, d], -1)])  # neighbours wind in both ways
    return Case(points.view(1, -1, 2), torch.ones(1, rows * columns), triangles, (40, 40))


def make_head(yaw: float, pitch: float, size: int) -> Case:
    """The builtin head, 60 cm away, turned."""
    model = face_models.load("builtin")
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    turn = torch.tensor([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    x, y, z = (model.mean_m @ turn.T).unbind(-1)
    depth = 0.6 - z
    points = torch.stack([x, -y], -1) / depth[:, None] * (1.8 * size) + size / 2
    return Case(points[None], depth[None], model.triangles, (size, size))


def single_coverage(case: Case) -> Tensor:
    """(high, wide): in how many triangles of the first frame a pixel centre lies, each drawn by itself."""
    alone = [replace(case, triangles=case.triangles[t : t + 1]) for t in range(len(case.triangles))]
    return sum((rasterize(*one.arguments()).triangle[0] == 0).int() for one in alone)


def by_the_book(case: Case, frame: int) -> dict[tuple[int, int], tuple[int, list[float], float]]:
    """(column, row) -> (triangle, barycentric, depth), pixel after pixel in Python's whole numbers."""
    corners = [[round(float(v) * 1024) for v in point] for point in case.points_px[frame]]
    depth, (width, height) = case.depth_m[frame].tolist(), case.size_px
    seen: dict[tuple[int, int], tuple[int, list[float], float]] = {}
    for row in range(height):
        for column in range(width):
            p = (1024 * column + 512, 1024 * row + 512)
            for t, triangle in enumerate(case.triangles.tolist()):
                if min(depth[v] for v in triangle) <= 0:
                    continue
                edges, inside = [], True
                points = [corners[v] for v in triangle]
                area = _turn(*points)
                for i in range(3):
                    a, b = points[(i + 1) % 3], points[(i + 2) % 3]
                    a, b = (a, b) if area > 0 else (b, a)
                    edges.append(_turn(a, b, p))
                    # Inside is on the right of an edge that runs clockwise: up on the left, to the right at the top.
                    owned = b[1] < a[1] or (b[1] == a[1] and b[0] > a[0])
                    inside = inside and (edges[i] > 0 or (edges[i] == 0 and owned))
                if area == 0 or not inside:
                    continue
                weights = [e / depth[v] for e, v in zip(edges, triangle, strict=True)]
                z = abs(area) / sum(weights)
                if z < seen.get((column, row), (0, [], math.inf))[2]:
                    seen[column, row] = (t, [w / sum(weights) for w in weights], z)
    return seen


def _turn(a: list[int] | tuple[int, int], b: list[int] | tuple[int, int], c: list[int] | tuple[int, int]) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("function", [rasterize, rasterize_reference])
@pytest.mark.parametrize("side_px", [12.0, 60.0])
def test_both_follow_the_definition(function, side_px: float) -> None:
    case = make_case(frames=2, triangles=25, side_px=side_px)
    got = function(*case.arguments())
    for frame in range(2):
        expected = by_the_book(case, frame)
        rows, columns = (got.triangle[frame] >= 0).nonzero(as_tuple=True)
        assert set(zip(columns.tolist(), rows.tolist(), strict=True)) == set(expected) and len(expected) > 40
        for (column, row), (triangle, barycentric, depth) in expected.items():
            assert got.triangle[frame, row, column] == triangle
            assert got.barycentric[frame, row, column].tolist() == pytest.approx(barycentric, abs=1e-6)
            assert float(got.depth_m[frame, row, column]) == pytest.approx(depth, rel=1e-6)


def assert_parity(case: Case) -> Rasterized:
    """Coverage to the bit; triangles but for equally near ones; numbers within twice the reference's own error."""
    got, reference = rasterize(*case.arguments()), rasterize_reference(*case.arguments())
    truth = rasterize_reference(*case.to(torch.float64).arguments())
    assert [x.dtype for x in got] == [torch.int32, torch.float32, torch.float32]
    assert torch.equal(got.triangle >= 0, reference.triangle >= 0)
    other = got.triangle != truth.triangle
    assert other.float().mean() < 1e-3
    torch.testing.assert_close(got.depth_m[other].double(), truth.depth_m[other], rtol=1e-6, atol=0)
    same = ~other & (reference.triangle == truth.triangle)
    for ours, theirs, true in zip(got[1:], reference[1:], truth[1:], strict=True):
        error, allowed = ((x[same] - true[same]).abs().max() for x in (ours, theirs))
        assert error <= 2 * allowed
    return got


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("side_px", [1.0, 5.0, 20.0, 100.0, 1000.0, 20000.0])
@pytest.mark.parametrize("cull", [False, True])
def test_equals_the_reference(side_px: float, cull: bool) -> None:
    got = assert_parity(replace(make_case(frames=3, triangles=200, side_px=side_px, size_px=(61, 43)), cull=cull))
    assert (got.triangle >= 0).sum() > 20


@pytest.mark.cpu_kernels
@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.6, -0.3), (-1.2, 0.2), (3.1, 0.1)])
@pytest.mark.parametrize("size", [96, 256])
def test_equals_the_reference_on_a_head(yaw: float, pitch: float, size: int) -> None:
    got = assert_parity(make_head(yaw, pitch, size))
    assert 0.2 < (got.triangle >= 0).float().mean() < 0.6


# ------------------------------------------------------------------------------------------------------- registration


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_opcheck(index: torch.dtype) -> None:
    case = make_case()
    arguments = (case.points_px, case.depth_m, case.triangles.to(index), *case.size_px, True)
    torch.library.opcheck(torch.ops.manvatar.rasterize.default, arguments)


def test_results_do_not_require_grad() -> None:
    case = make_case()
    case.points_px.requires_grad_(), case.depth_m.requires_grad_()
    for function in (rasterize, rasterize_reference):
        assert not any(x.requires_grad for x in function(*case.arguments()))


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("make", [make_case, lambda: make_grid(9, 12, -3.0, 43.0), lambda: make_head(0.6, -0.3, 256)])
def test_cuda_equals_cpu(cuda: torch.device, make) -> None:
    case = make()
    got, expected = (Rasterized(*(x.cpu() for x in rasterize(*c.arguments()))) for c in (case.to(cuda), case))
    assert torch.equal(got.triangle >= 0, expected.triangle >= 0)
    same = got.triangle == expected.triangle
    assert same.float().mean() > 0.999
    torch.testing.assert_close(got.depth_m, expected.depth_m, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.barycentric[same], expected.barycentric[same], rtol=0, atol=1e-6)


@pytest.mark.cuda
def test_cuda_leaves_out_triangles_with_wrong_vertices(cuda: torch.device) -> None:
    case = make_case().to(cuda)
    case.triangles[3, 1], case.triangles[5, 0] = 100000, -1
    seen = rasterize(*case.arguments()).triangle
    assert not ((seen == 3) | (seen == 5)).any() and (seen >= 0).any()


# ------------------------------------------------------------------------------------------------------ known answers


def test_one_triangle() -> None:
    points = torch.tensor([[[1.5, 1.5], [5.5, 1.5], [1.5, 4.5]]])  # its edges run through pixel centres
    got = rasterize(points, torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([[0, 1, 2]]), (7, 6))
    # The left and the top edge belong to it, the slanted one does not: x / 4 + y / 3 < 1 from its right angle.
    columns, rows = torch.meshgrid(torch.arange(7) - 1, torch.arange(6) - 1, indexing="xy")
    inside = (columns >= 0) & (rows >= 0) & (3 * columns + 4 * rows < 12)
    assert torch.equal(got.triangle[0] == 0, inside)
    assert torch.equal(got.triangle[0] == -1, ~inside)
    weights = torch.stack([1 - columns / 4 - rows / 3, columns / 4, rows / 3], -1)
    torch.testing.assert_close(got.barycentric[0], weights * inside[..., None], rtol=0, atol=1e-6)
    torch.testing.assert_close(got.depth_m[0], 2.0 * inside)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [2, 1, 0]])
def test_barycentric_weights_give_where_the_ray_hits(order: list[int]) -> None:
    focal_px, size = 60.0, 64
    # Multiples of 1/1024 px, so that nothing is rounded.
    pixels = torch.tensor([[3.25, 7.0], [60.0, 12.125], [30.5, 61.75]])
    corners = torch.cat([(pixels - 32) / focal_px, torch.ones(3, 1)], 1).double() * torch.tensor([[0.5], [4.0], [1.5]])
    got = rasterize(pixels[None], corners[None, :, 2].float(), torch.tensor([order]), (size, size))
    rows, columns = (got.triangle[0] == 0).nonzero(as_tuple=True)
    assert len(rows) > 1000
    hits = got.barycentric[0, rows, columns].double() @ corners[order]
    rays = torch.stack([(columns + 0.5 - 32) / focal_px, (rows + 0.5 - 32) / focal_px, torch.ones(len(rows))], -1)
    normal = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0])
    expected = rays * ((corners[0] @ normal) / (rays.double() @ normal))[:, None]
    torch.testing.assert_close(hits, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(got.depth_m[0, rows, columns].double(), expected[:, 2], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("columns", "rows"), [(4, 3), (9, 12), (41, 41)])
def test_a_sheet_covers_every_pixel_once(columns: int, rows: int) -> None:
    case = make_grid(columns, rows, -0.5, 40.5)  # with 41 the unmoved border vertices lie close to pixel corners
    assert (rasterize(*case.arguments()).triangle >= 0).all()
    if columns < 41:
        assert (single_coverage(case) == 1).all()


def test_vertices_and_edges_on_pixel_centres_are_covered_once() -> None:
    case = make_grid(5, 5, 0.5, 40.5)
    snapped = replace(case, points_px=(case.points_px - 0.5).round() + 0.5)
    assert (single_coverage(snapped) == 1).all()


def test_the_nearer_is_seen_on_either_side_of_an_intersection() -> None:
    corners = torch.tensor([[-200.0, -100.0], [240.0, -100.0], [20.0, 400.0]])  # around the picture
    level = torch.full((3,), 30.0)
    slanted = level + (corners[:, 0] - 20) / 8  # inverse depths: the second triangle is nearer where x > 20
    case = Case(corners.repeat(2, 1)[None], 1 / torch.cat([level, slanted])[None], torch.arange(6).view(2, 3), (40, 40))
    seen = rasterize(*case.arguments()).triangle[0]
    assert torch.equal(seen, (torch.arange(40) >= 20).int().expand(40, 40))


# --------------------------------------------------------------------------------------------------------- invariants


def test_the_order_of_triangles_changes_only_their_numbers() -> None:
    case = make_case(triangles=300, side_px=15.0)
    order = torch.randperm(300)
    got, expected = rasterize(*replace(case, triangles=case.triangles[order]).arguments()), rasterize(*case.arguments())
    seen = got.triangle.long()
    assert torch.equal(torch.where(seen >= 0, order[seen], seen), expected.triangle.long())
    assert torch.equal(got.barycentric, expected.barycentric) and torch.equal(got.depth_m, expected.depth_m)


def test_of_equally_near_triangles_the_first_is_seen() -> None:
    case = make_case(triangles=20)
    thrice = replace(case, triangles=case.triangles.repeat(3, 1))
    assert torch.equal(rasterize(*thrice.arguments()).triangle, rasterize(*case.arguments()).triangle)


@pytest.mark.parametrize("side_px", [8.0, 80.0])
def test_culling_leaves_the_triangles_that_run_counter_clockwise(side_px: float) -> None:
    case = make_case(side_px=side_px)
    case = replace(case, depth_m=case.depth_m.abs())
    turned = replace(case, triangles=case.triangles.flip(1))
    front, back = (rasterize(*replace(c, cull=True).arguments()) for c in (case, turned))
    both = rasterize(*case.arguments())
    far = torch.full_like(both.depth_m, math.inf)
    depths = [torch.where(x.triangle >= 0, x.depth_m, far) for x in (front, back, both)]
    assert torch.equal(torch.minimum(depths[0], depths[1]), depths[2])
    x, y = case.points_px[0, case.triangles].unbind(-1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    assert (area[front.triangle[0][front.triangle[0] >= 0].long()] < 0).all()  # y points down


def test_frames_do_not_see_each_other() -> None:
    case = make_case(frames=5)
    together = rasterize(*case.arguments())
    for frame in range(5):
        part = replace(case, points_px=case.points_px[frame, None], depth_m=case.depth_m[frame, None])
        alone = rasterize(*part.arguments())
        assert all(torch.equal(a[frame], b[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("side_px", [10.0, 100.0])
def test_the_number_of_threads_changes_no_bit(frames: int, side_px: float) -> None:
    case = make_case(frames=frames, triangles=100, side_px=side_px)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(rasterize(*case.arguments()))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.cpu_kernels
def test_barycentric_weights_are_weights_of_the_pixel_centre() -> None:
    case = make_head(0.3, 0.1, 256)
    got = rasterize(*case.arguments())
    rows, columns = (got.triangle[0] >= 0).nonzero(as_tuple=True)
    weights, corners = got.barycentric[0, rows, columns], case.triangles[got.triangle[0, rows, columns].long()]
    assert (weights >= 0).all() and (weights.sum(-1) - 1).abs().max() < 1e-6
    on_screen = weights * case.depth_m[0, corners]  # undoes the perspective
    points = (on_screen[..., None] * case.points_px[0, corners]).sum(1) / on_screen.sum(-1, keepdim=True)
    # Corners are moved by up to 1/2048 px each way.
    assert (points - torch.stack([columns, rows], -1) - 0.5).abs().max() < 1 / 2048 + 1e-4
    assert (got.barycentric[got.triangle < 0] == 0).all() and (got.depth_m[got.triangle < 0] == 0).all()


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"points_px": torch.ones(2, 4, 3)},
            r"rasterize\(\): expected points_px of shape \(\*, \*, 2\), got",
        ),
        ({"points_px": torch.ones(2, 4, 2).double()}, r"expected points_px to be float32, got Double"),
        ({"depth_m": torch.ones(2, 5)}, r"expected depth_m of shape \(2, 4\), got \(2, 5\)"),
        ({"depth_m": torch.ones(2, 4).double()}, r"depth_m of the dtype of points_px \(Float\), got Double"),
        ({"triangles": torch.ones(3, 4).long()}, r"expected triangles of shape \(\*, 3\), got \(3, 4\)"),
        ({"triangles": torch.ones(3, 3)}, r"expected triangles to be int32 or int64, got Float"),
        pytest.param(
            {"triangles": torch.tensor([[0, 1, 2], [0, 4, 1]])},
            r"triangles to hold 0 to 3, got 4 in triangle 1",
            marks=pytest.mark.cpu_kernels,
        ),
        pytest.param(
            {"triangles": torch.tensor([[0, 1, -2]]).int()},
            r"triangles to hold 0 to 3, got -2 in triangle 0",
            marks=pytest.mark.cpu_kernels,
        ),
        ({"width": 0}, r"expected a size_px of 1 to 16384 pixels each way, got 0 x 5"),
        ({"height": 20000}, r"got 6 x 20000"),
    ],
)
def test_errors_say_what_was_expected(change: dict, message: str) -> None:
    arguments = {
        "points_px": torch.ones(2, 4, 2),
        "depth_m": torch.ones(2, 4),
        "triangles": torch.tensor([[0, 1, 2]]),
        "width": 6,
        "height": 5,
        "cull_back_faces": False,
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manvatar.rasterize(**(arguments | change))


def test_an_old_library_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match=r"older than the Python code and lacks rasterize\(\).*make install"):
        _library.require("rasterize", False, torch.zeros(1))


# ------------------------------------------------------------------------------------------- empty, NaN and huge input


@pytest.mark.parametrize("function", [rasterize, rasterize_reference])
@pytest.mark.parametrize(("frames", "vertices", "triangles"), [(0, 6, 2), (2, 6, 0), (2, 0, 0), (0, 0, 0)])
def test_nothing_to_see(function, frames: int, vertices: int, triangles: int) -> None:
    index = torch.arange(3 * triangles).view(-1, 3)
    got = function(torch.rand(frames, vertices, 2), torch.ones(frames, vertices), index, (5, 4))
    assert got.triangle.shape == got.depth_m.shape == (frames, 4, 5) and got.barycentric.shape == (frames, 4, 5, 3)
    assert (got.triangle == -1).all() and (got.barycentric == 0).all() and (got.depth_m == 0).all()


@pytest.mark.parametrize("function", [rasterize, rasterize_reference])
def test_broken_triangles_are_left_out_and_disturb_no_other(function) -> None:
    case = make_case(triangles=60)
    points, depth = case.points_px.clone(), case.depth_m.abs()
    points[:, 4, 0], points[:, 10, 1], points[:, 13, 0] = math.nan, math.inf, -math.inf
    depth[:, 18], depth[:, 22], depth[:, 25], depth[:, 27], depth[:, 31] = math.nan, 0.0, -1.0, math.inf, -0.0
    points[:, 35] = points[:, 34]  # no area
    broken = torch.tensor([1, 3, 4, 6, 7, 8, 9, 10, 11])
    got = function(points, depth, case.triangles, case.size_px)
    whole = torch.ones(60, dtype=torch.bool).index_fill(0, broken, False).nonzero()[:, 0]
    expected = function(case.points_px, case.depth_m.abs(), case.triangles[whole], case.size_px)
    seen = expected.triangle.long()
    assert torch.equal(got.triangle.long(), torch.where(seen >= 0, whole[seen], seen))
    assert torch.equal(got.barycentric, expected.barycentric) and torch.equal(got.depth_m, expected.depth_m)


@pytest.mark.parametrize("far", [1e3, 3e4, 1e6, 1e12, 1e30])
def test_triangles_that_reach_far_outside(far: float) -> None:
    # A fan around a point in the picture, whose other corners are far away on all sides.
    angle = torch.arange(7) * (2 * math.pi / 7) + 0.1
    rim = torch.stack([angle.cos(), angle.sin()], -1) * far
    points = torch.cat([torch.tensor([[17.3, 11.9]]), rim])
    fan = torch.stack([torch.zeros(7), torch.arange(7) + 1, (torch.arange(7) + 1) % 7 + 1], -1).long()
    case = Case(points[None], torch.full((1, 8), 1.5), fan)
    assert (single_coverage(case) == 1).all()
    got = rasterize(*case.arguments())
    assert len(got.triangle.unique()) == 7
    assert (got.barycentric > -1e-6).all() and (got.barycentric < 1 + 1e-6).all()
    torch.testing.assert_close(got.depth_m, torch.full_like(got.depth_m, 1.5))


def test_what_lies_outside_is_not_drawn() -> None:
    case = make_case()
    for shift in (-1e3, 1e3, -1e9, 1e9, 1e20):
        moved = replace(case, points_px=case.points_px + shift)
        assert (rasterize(*moved.arguments()).triangle == -1).all()
