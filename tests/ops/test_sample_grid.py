"""sample_grid: parity, gradients, registration, CPU = CUDA, invariants, errors, empty and NaN input."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from manvatar.errors import UserError
from manvatar.ops import _library, sample_grid, sample_grid_reference


@dataclass(frozen=True)
class Case:
    """Grids of unequal sides, and points in them and a little outside."""

    grid: Tensor
    unit_points: Tensor
    frame: Tensor | None

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Case:
        frame = None if self.frame is None else self.frame.to(device=device)
        return Case(self.grid.to(device=device, dtype=dtype), self.unit_points.to(device=device, dtype=dtype), frame)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.grid, self.unit_points, self.frame


def make_case(samples: int = 3000, channels: int = 4, batch: int = 3, spread: float = 1.2) -> Case:
    grid = torch.randn(batch, 5, 6, 7, channels, dtype=torch.float64)
    points = (torch.rand(samples, 3, dtype=torch.float64) - 0.5) * spread + 0.5
    return Case(grid, points, torch.randint(0, batch, (samples,)) if batch > 1 else None)


def by_the_book(case: Case) -> Tensor:
    """The definition, point after point, as a sum over all nodes of tent functions (no corner arithmetic to share)."""
    counts = case.grid.shape[1:4]
    rows = []
    for i, point in enumerate(case.unit_points.clamp(0, 1)):
        tents = [
            (1 - (point[axis] * (n - 1) - torch.arange(n)).abs()).clamp(min=0)
            for axis, n in zip((2, 1, 0), counts, strict=True)
        ]
        frame = 0 if case.frame is None else int(case.frame[i])
        rows.append(torch.einsum("z,y,x,zyxc->c", *tents, case.grid[frame]))
    return torch.stack(rows)


def gradients(function, case: Case, upstream: Tensor) -> tuple[Tensor, Tensor]:
    grid, points = case.grid.detach().requires_grad_(), case.unit_points.detach().requires_grad_()
    return torch.autograd.grad(function(grid, points, case.frame), (grid, points), upstream.to(grid))


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("function", [sample_grid, sample_grid_reference])
@pytest.mark.parametrize("batch", [1, 3])
def test_both_follow_the_definition(function, batch: int) -> None:
    case = make_case(samples=200, batch=batch)
    torch.testing.assert_close(function(*case.arguments()), by_the_book(case), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("channels", range(1, 11))  # 1 to 8 are compiled one by one
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_of_channels(channels: int, dtype: torch.dtype) -> None:
    case = make_case(channels=channels).to(dtype)
    upstream = torch.randn(len(case.unit_points), channels, dtype=dtype)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(sample_grid(*case.arguments()), sample_grid_reference(*case.arguments()), **tolerance)
    ours, theirs = gradients(sample_grid, case, upstream), gradients(sample_grid_reference, case, upstream)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, **tolerance)


def test_float32_is_as_near_to_float64_as_the_reference_is() -> None:
    case = make_case(samples=20000, channels=8)
    single = case.to(torch.float32)
    case = single.to(torch.float64)  # the same points: near a node the float64 twin may lie in another cell
    upstream = torch.randn(len(case.unit_points), 8)
    truths = [sample_grid_reference(*case.arguments()), *gradients(sample_grid_reference, case, upstream)]
    ours = [sample_grid(*single.arguments()), *gradients(sample_grid, single, upstream)]
    reference = [sample_grid_reference(*single.arguments()), *gradients(sample_grid_reference, single, upstream)]
    for truth, got, expected in zip(truths, ours, reference, strict=True):
        assert got.dtype == torch.float32
        assert (got - truth).norm() <= 2 * (expected - truth).norm()


def test_equals_grid_sample_with_aligned_corners() -> None:
    case = make_case(batch=1)
    volume = case.grid.permute(0, 4, 1, 2, 3)
    where = (case.unit_points * 2 - 1).view(1, 1, 1, -1, 3)
    theirs = functional.grid_sample(volume, where, align_corners=True, padding_mode="border")
    torch.testing.assert_close(sample_grid(*case.arguments()), theirs[0, :, 0, 0].T, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------------------------------ gradcheck, opcheck


@pytest.mark.parametrize("batch", [1, 2])
def test_gradcheck(batch: int) -> None:
    case = make_case(samples=6, channels=3, batch=batch, spread=0.9)
    inputs = case.grid[:, :3, :3, :3].clone().requires_grad_(), case.unit_points.requires_grad_()
    torch.autograd.gradcheck(lambda *x: sample_grid(*x, case.frame), inputs)


@pytest.mark.parametrize("needed", [0, 1])
def test_each_gradient_alone(needed: int) -> None:
    case = make_case()
    inputs = [x.detach().requires_grad_(i == needed) for i, x in enumerate(case.arguments()[:2])]
    sample_grid(*inputs, case.frame).square().sum().backward()
    assert [x.grad is not None for x in inputs] == [i == needed for i in range(2)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(batch: int, requires_grad: bool) -> None:
    case = make_case(samples=20, batch=batch).to(torch.float32)
    inputs = [x.requires_grad_(requires_grad) for x in case.arguments()[:2]]
    torch.library.opcheck(torch.ops.manvatar.sample_grid.default, (*inputs, case.frame))


@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True)])
def test_opcheck_backward(asked: tuple[bool, bool]) -> None:
    case = make_case(samples=20)
    arguments = (torch.randn(20, 4, dtype=torch.float64), *case.arguments(), *asked)
    torch.library.opcheck(torch.ops.manvatar.sample_grid_backward.default, arguments)


def test_traces_as_one_graph() -> None:
    case = make_case()
    op = torch.ops.manvatar.sample_grid  # the public function carries the tests' type checks, which cannot be traced
    compiled = torch.compile(lambda *x: op(*x).sin(), fullgraph=True, backend="aot_eager")
    grids = [case.grid.clone().requires_grad_() for _ in range(2)]
    compiled(grids[0], case.unit_points, case.frame).sum().backward()
    op(grids[1], case.unit_points, case.frame).sin().sum().backward()
    torch.testing.assert_close(grids[0].grad, grids[1].grad, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [3, 8])
def test_cuda_equals_cpu(cuda: torch.device, dtype: torch.dtype, channels: int) -> None:
    case = make_case(samples=20000, channels=channels).to(dtype)
    upstream = torch.randn(len(case.unit_points), channels, dtype=dtype)
    there = case.to(device=cuda)
    exact = case.to(torch.float64)
    truths = [sample_grid_reference(*exact.arguments()), *gradients(sample_grid_reference, exact, upstream)]
    reference = [sample_grid_reference(*case.arguments()), *gradients(sample_grid_reference, case, upstream)]
    ours = [sample_grid(*there.arguments()), *gradients(sample_grid, there, upstream)]
    for truth, got, expected in zip(truths, ours, reference, strict=True):
        assert (got.cpu() - truth).norm() <= 2 * (expected - truth).norm() + 1e-12 * truth.norm()


# --------------------------------------------------------------------------------------------------------- invariants


def test_exact_at_the_nodes() -> None:
    case = make_case(batch=1)
    counts = case.grid.shape[1:4]
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in counts), indexing="ij")
    nodes = torch.stack([x / (counts[2] - 1), y / (counts[1] - 1), z / (counts[0] - 1)], -1).double().reshape(-1, 3)
    got = sample_grid(case.grid, nodes).reshape(case.grid.shape[1:])
    torch.testing.assert_close(got, case.grid[0], rtol=0, atol=1e-6)  # the division above is in float32


def test_a_linear_field_is_reproduced_everywhere() -> None:
    axis = [torch.linspace(0, 1, n, dtype=torch.float64) for n in (5, 6, 7)]
    z, y, x = torch.meshgrid(*axis, indexing="ij")
    points = torch.rand(500, 3, dtype=torch.float64)
    got = sample_grid(torch.stack([x, y, z], -1)[None], points)
    torch.testing.assert_close(got, points, rtol=0, atol=1e-14)


def test_outside_is_the_border_with_no_slope() -> None:
    case = make_case(batch=1)
    outside = torch.tensor([[-0.5, 0.3, 0.4], [1.7, 0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    got = sample_grid(case.grid, outside)
    torch.testing.assert_close(got, sample_grid(case.grid, outside.detach().clamp(0, 1)), rtol=0, atol=0)
    got.sum().backward()
    assert outside.grad[:, 0].tolist() == [0.0, 0.0] and outside.grad[:, 1:].abs().min() > 0


def test_nothing_is_lost_in_the_gradient_of_the_grid() -> None:
    case = make_case(samples=50000)
    grid = case.grid.requires_grad_()
    sample_grid(grid, case.unit_points, case.frame).sum().backward()
    counts = torch.bincount(case.frame, minlength=3).double()
    torch.testing.assert_close(grid.grad.sum((1, 2, 3, 4)), counts * 4, rtol=1e-12, atol=0)


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("batch", [1, 3])
def test_the_number_of_threads_changes_no_bit(batch: int) -> None:
    case = make_case(samples=30000, batch=batch).to(torch.float32)
    upstream = torch.randn(len(case.unit_points), 4)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append([sample_grid(*case.arguments()), *gradients(sample_grid, case, upstream)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_strided_inputs() -> None:
    case = make_case()
    grid = case.grid.permute(0, 4, 1, 2, 3).contiguous().permute(0, 2, 3, 4, 1)
    assert not grid.is_contiguous()
    assert torch.equal(sample_grid(grid, case.unit_points, case.frame), sample_grid(*case.arguments()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [2, 4, 8])
def test_tensors_may_begin_at_any_address(dtype: torch.dtype, channels: int) -> None:
    def odd(tensor: Tensor) -> Tensor:
        """A copy that begins one element after an address vectors like."""
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)

    case = make_case(channels=channels).to(dtype)
    shifted = Case(odd(case.grid), odd(case.unit_points), case.frame)
    upstream = torch.randn(len(case.unit_points), channels, dtype=dtype)
    assert torch.equal(sample_grid(*shifted.arguments()), sample_grid(*case.arguments()))
    arguments = (shifted.grid, shifted.unit_points, case.frame, True, True)
    got = torch.ops.manvatar.sample_grid_backward(odd(upstream), *arguments)
    for ours, usual in zip(got, gradients(sample_grid, case, upstream), strict=True):
        assert torch.equal(ours, usual)


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": torch.ones(2, 2, 2, 1)}, r"sample_grid\(\): expected grid of shape \(\*, \*, \*, \*, \*\), got \(2,"),
        ({"grid": torch.ones(1, 2, 1, 2, 1)}, r"at least 1 frame and 2 nodes along z, y and x, got \(1, 2, 1, 2, 1\)"),
        ({"grid": torch.ones(1, 2, 2, 2, 1).half()}, r"grid to be float32 or float64, got Half"),
        ({"unit_points": torch.ones(4, 2)}, r"unit_points of shape \(\*, 3\), got \(4, 2\)"),
        ({"unit_points": torch.ones(4, 3).double()}, r"unit_points of the dtype of grid \(Float\), got Double"),
        ({"frame": torch.zeros(3, dtype=torch.int64)}, r"frame of shape \(4,\), got \(3,\)"),
        ({"frame": torch.zeros(4, dtype=torch.int32)}, r"frame to be int64, got Int"),
        pytest.param(
            {"frame": torch.tensor([0, 0, 1, 0])},
            r"frame to be 0 to 0, got 1 at sample 2",
            marks=pytest.mark.cpu_kernels,
        ),
        pytest.param(
            {"frame": torch.tensor([0, -1, 0, 0])},
            r"frame to be 0 to 0, got -1 at sample 1",
            marks=pytest.mark.cpu_kernels,
        ),
    ],
)
def test_errors_say_what_was_expected(change: dict[str, Tensor], message: str) -> None:
    arguments = {"grid": torch.ones(1, 2, 2, 2, 1), "unit_points": torch.ones(4, 3), "frame": None} | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manvatar.sample_grid(**arguments)


def test_a_second_derivative_is_refused() -> None:
    case = make_case(samples=5)
    points = case.unit_points.requires_grad_()
    values = sample_grid(case.grid, points, case.frame)
    (first,) = torch.autograd.grad(values.square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match=r"sample_grid\(\) can be differentiated once"):
        first.sum().backward()


def test_an_old_library_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match=r"older than the Python code and lacks sample_grid\(\).*make install"):
        _library.require("sample_grid", False, torch.zeros(1))


# ----------------------------------------------------------------------------------------------------- empty and NaN


@pytest.mark.parametrize("function", [sample_grid, sample_grid_reference])
def test_no_points(function) -> None:
    grid = torch.randn(2, 3, 3, 3, 4, requires_grad=True)
    points = torch.zeros(0, 3, requires_grad=True)
    values = function(grid, points, torch.zeros(0, dtype=torch.int64))
    assert values.shape == (0, 4)
    values.sum().backward()
    assert grid.grad.abs().max() == 0 and points.grad.shape == (0, 3)


def test_not_a_number_stays_with_its_point() -> None:
    case = make_case(samples=100)
    points = case.unit_points.clone()
    points[7, 1] = math.nan
    points[8] = math.inf
    got, clean = sample_grid(case.grid, points, case.frame), sample_grid(*case.arguments())
    assert got[7].isnan().all()
    torch.testing.assert_close(got[8], case.grid[case.frame[8], -1, -1, -1])
    others = torch.ones(100, dtype=torch.bool)
    others[7:9] = False
    assert torch.equal(got[others], clean[others])
