"""sample_warped: parity, gradients, registration, CPU = CUDA, gradients in place, invariants, errors, empty and NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.ops import _library, sample_grid, sample_warped, sample_warped_reference


@dataclass(frozen=True)
class Case:
    """Grids of unequal sides and channels; points in them and a little outside, displaced by up to a cell or two."""

    motion: Tensor
    levels: tuple[Tensor, ...]
    unit_points: Tensor
    frame: Tensor
    tail: Tensor
    scale: tuple[float, float, float] = (0.1, 0.05, 0.2)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Case:
        motion, points, tail, *levels = (
            x.to(device=device, dtype=dtype) for x in (self.motion, self.unit_points, self.tail, *self.levels)
        )
        return Case(motion, tuple(levels), points, self.frame.to(device=device), tail, self.scale)

    def leaves(self) -> list[Tensor]:
        return [self.motion, self.unit_points, self.tail, *self.levels]

    def arguments(self) -> tuple:
        return self.motion, list(self.levels), self.unit_points, self.frame, self.tail, list(self.scale)


def make_case(
    samples: int = 2500,
    ambient: int = 2,
    channels: tuple[int, ...] = (4, 8, 3),
    tail: int = 3,
    batch: int = 3,
    spread: float = 1.2,
) -> Case:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    points = (torch.rand(samples, 3, dtype=torch.float64) - 0.5) * spread + 0.5
    levels = tuple(normal(1, 4 + 2 * i, 5 + i, 3 + 3 * i, c) for i, c in enumerate(channels))
    frame = torch.randint(0, batch, (samples,))
    return Case(normal(batch, 5, 6, 7, 3 + ambient), levels, points, frame, normal(samples, tail))


def with_leaves(case: Case) -> Case:
    leaves = [x.detach().clone().requires_grad_() for x in case.leaves()]
    return replace(case, motion=leaves[0], unit_points=leaves[1], tail=leaves[2], levels=tuple(leaves[3:]))


def gradients(function, case: Case, upstream: Tensor) -> tuple[Tensor, ...]:
    case = with_leaves(case)
    return torch.autograd.grad(function(*case.arguments()), case.leaves(), upstream.to(case.motion))


def columns(case: Case) -> int:
    return sum(level.shape[4] for level in case.levels) + case.motion.shape[4] - 3 + case.tail.shape[1]


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("function", [sample_warped, sample_warped_reference])
def test_both_follow_the_definition(function) -> None:
    case = make_case(samples=300)
    read = sample_grid(case.motion, case.unit_points, case.frame)
    warped = case.unit_points + torch.stack([s * read[:, a] for a, s in enumerate(case.scale)], 1)
    expected = [sample_grid(level, warped) for level in case.levels]
    got = function(*case.arguments())
    torch.testing.assert_close(got, torch.cat([*expected, read[:, 3:], case.tail], 1), rtol=1e-11, atol=1e-12)


SHAPES = [  # (ambient, channels of the levels, tail)
    (0, (1,), 0),
    (1, (2, 2), 1),
    (5, (8, 8, 8), 3),
    (13, (4, 16, 6, 5), 0),
    (61, (7, 1, 2, 3, 4, 5, 6, 8), 2),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("samples", [1, 9, 700])
def test_every_shape(shape: tuple[int, tuple[int, ...], int], samples: int) -> None:
    ambient, channels, tail = shape
    case = make_case(samples, ambient, channels, tail)
    upstream = torch.randn(samples, columns(case), dtype=torch.float64)
    got, expected = sample_warped(*case.arguments()), sample_warped_reference(*case.arguments())
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    ours, theirs = gradients(sample_warped, case, upstream), gradients(sample_warped_reference, case, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def test_float32_is_as_near_to_float64_as_the_reference_is() -> None:
    single = make_case(samples=8000, ambient=5, channels=(8, 8)).to(torch.float32)
    # Displacements of float32 numbers fall into another cell in float64 now and then: none here, and points within.
    single = replace(single, motion=torch.zeros_like(single.motion), unit_points=single.unit_points.clamp(0.01, 0.99))
    double = single.to(torch.float64)
    upstream = torch.randn(8000, columns(single))
    truths = [sample_warped_reference(*double.arguments()), *gradients(sample_warped_reference, double, upstream)]
    ours = [sample_warped(*single.arguments()), *gradients(sample_warped, single, upstream)]
    reference = [sample_warped_reference(*single.arguments()), *gradients(sample_warped_reference, single, upstream)]
    for truth, got, expected in zip(truths, ours, reference, strict=True):
        assert got.dtype == torch.float32
        assert (got - truth).norm() <= 2 * (expected - truth).norm()


@pytest.mark.parametrize(("ambient", "channels"), [(5, (8, 4)), (1, (4,)), (2, (4, 3)), (5, (6,)), (0, (8,))])
def test_float32_of_displaced_points(ambient: int, channels: tuple[int, ...]) -> None:
    """In cells that are the same for all grids, far enough from their faces that no displacement crosses one."""
    case = make_case(300, ambient, channels, batch=2)
    points = (torch.randint(4, (300, 3)) + 0.5 + 0.4 * (torch.rand(300, 3) - 0.5)) / 4
    levels = tuple(torch.randn(1, 5, 5, 5, c) for c in channels)
    motion = torch.randn(2, 5, 5, 5, 3 + ambient)
    single = replace(
        case.to(torch.float32), motion=motion, levels=levels, unit_points=points, scale=(0.005, 0.0075, 0.01)
    )
    double = single.to(torch.float64)
    upstream = torch.randn(300, columns(single))
    truths = [sample_warped_reference(*double.arguments()), *gradients(sample_warped_reference, double, upstream)]
    ours = [sample_warped(*single.arguments()), *gradients(sample_warped, single, upstream)]
    reference = [sample_warped_reference(*single.arguments()), *gradients(sample_warped_reference, single, upstream)]
    for truth, got, expected in zip(truths, ours, reference, strict=True):
        assert (got - truth).norm() <= 2 * (expected - truth).norm()


# ------------------------------------------------------------------------------------------------ gradcheck, opcheck


def test_gradcheck() -> None:
    case = make_case(samples=4, ambient=1, channels=(2, 1), tail=1, batch=2, spread=0.7)
    small = replace(
        case, motion=case.motion[:, :2, :2, :2].clone(), levels=tuple(x[:, :3, :2, :3].clone() for x in case.levels)
    )
    case = with_leaves(small)

    def function(motion: Tensor, points: Tensor, tail: Tensor, *levels: Tensor) -> Tensor:
        return sample_warped(motion, levels, points, case.frame, tail, case.scale)

    torch.autograd.gradcheck(function, case.leaves())


@pytest.mark.parametrize("needed", range(6))
def test_each_gradient_alone(needed: int) -> None:
    case = make_case(samples=200)
    leaves = [x.detach().clone().requires_grad_(i == needed) for i, x in enumerate(case.leaves())]
    alone = replace(case, motion=leaves[0], unit_points=leaves[1], tail=leaves[2], levels=tuple(leaves[3:]))
    sample_warped(*alone.arguments()).square().sum().backward()
    together = with_leaves(case)
    sample_warped(*together.arguments()).square().sum().backward()
    for i, (one, other) in enumerate(zip(leaves, together.leaves(), strict=True)):
        if i == needed:
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)
        else:
            assert one.grad is None


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    case = make_case(samples=20).to(torch.float32)
    case = with_leaves(case) if requires_grad else case
    torch.library.opcheck(torch.ops.manvatar.sample_warped.default, (*case.arguments(), False))


@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True), (False, False)])
def test_opcheck_backward(asked: tuple[bool, bool]) -> None:
    case = make_case(samples=20)
    motion, levels, points, frame, tail, scale = case.arguments()
    _, warped = torch.ops.manvatar.sample_warped(motion, levels, points, frame, tail, scale, False)
    grad = torch.randn(20, columns(case), dtype=torch.float64)
    buffers = [torch.randn_like(level) for level in levels]
    arguments = (grad, motion, levels, points, frame, warped, scale, buffers, *asked)
    torch.library.opcheck(torch.ops.manvatar.sample_warped_backward.default, arguments)


# -------------------------------------------------------------------------------------------------- gradients in place


def test_in_place_adds_to_the_gradients_that_are_there() -> None:
    case = with_leaves(make_case(samples=400))
    usual = with_leaves(case)
    starts = [torch.randn_like(level) for level in case.levels]
    case.levels[0].grad, case.levels[2].grad = starts[0].clone(), starts[2].clone()
    places = [case.levels[i].grad.data_ptr() for i in (0, 2)]
    for _ in range(2):  # twice, as within one graph and over graphs
        sample_warped(*case.arguments(), in_place=True).square().sum().backward()
        sample_warped(*usual.arguments()).square().sum().backward()
    assert [case.levels[i].grad.data_ptr() for i in (0, 2)] == places
    torch.testing.assert_close(case.levels[0].grad, starts[0] + usual.levels[0].grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(case.levels[1].grad, usual.levels[1].grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(case.levels[2].grad, starts[2] + usual.levels[2].grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(case.motion.grad, usual.motion.grad)


def test_in_place_leaves_alone_what_is_no_leaf() -> None:
    case = with_leaves(make_case(samples=100))
    doubled = replace(case, levels=tuple(2 * level for level in case.levels))
    sample_warped(*doubled.arguments(), in_place=True).sum().backward()
    usual = with_leaves(case)
    doubled = replace(usual, levels=tuple(2 * level for level in usual.levels))
    sample_warped(*doubled.arguments()).sum().backward()
    for one, other in zip(case.levels, usual.levels, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_equals_cpu(cuda: torch.device, shape: tuple[int, tuple[int, ...], int]) -> None:
    ambient, channels, tail = shape
    case = make_case(5000, ambient, channels, tail)
    there = case.to(device=cuda)
    upstream = torch.randn(5000, columns(case), dtype=torch.float64)
    torch.testing.assert_close(sample_warped(*there.arguments()).cpu(), sample_warped(*case.arguments()))
    ours, theirs = gradients(sample_warped, there, upstream), gradients(sample_warped, case, upstream)
    torch.testing.assert_close([x.cpu() for x in ours], list(theirs), rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------------------- invariants


def test_without_displacement_it_is_sample_grid() -> None:
    case = make_case()
    still = replace(case, motion=torch.zeros_like(case.motion))
    got = sample_warped(*still.arguments())
    assert torch.equal(got[:, :4], sample_grid(case.levels[0], case.unit_points))
    assert torch.equal(got[:, -3:], case.tail)


@pytest.mark.cpu_kernels
def test_the_number_of_threads_changes_no_bit() -> None:
    case = make_case(samples=20000).to(torch.float32)
    upstream = torch.randn(20000, columns(case))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append([sample_warped(*case.arguments()), *gradients(sample_warped, case, upstream)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": torch.ones(2, 2, 2, 2, 2)}, r"sample_warped\(\): expected motion of 3 to 64 channels, got 2"),
        ({"motion": torch.ones(2, 2, 2, 1, 3)}, "motion of at least 1 frame and 2 nodes along z, y and x"),
        ({"levels": []}, "expected 1 to 8 levels, got 0"),
        ({"levels": [torch.ones(2, 2, 2, 2, 1)]}, r"expected levels of 1 frame, got \(2, 2, 2, 2, 1\)"),
        ({"levels": [torch.ones(1, 2, 2, 2, 1).double()]}, r"levels of the dtype of motion \(Float\), got Double"),
        ({"unit_points": torch.ones(4, 2)}, r"expected unit_points of shape \(\*, 3\), got \(4, 2\)"),
        pytest.param(
            {"frame": torch.tensor([0, 0, 1, 2])},
            "expected frame to be 0 to 1, got 2 at sample 3",
            marks=pytest.mark.cpu_kernels,
        ),
        ({"tail": torch.ones(5, 1)}, r"expected tail of shape \(4, \*\), got \(5, 1\)"),
        ({"scale": [1.0, 1.0]}, "expected scale of 3 numbers, got 2"),
    ],
)
def test_errors_say_what_was_expected(change: dict, message: str) -> None:
    arguments = {
        "motion": torch.ones(2, 2, 2, 2, 3),
        "levels": [torch.ones(1, 2, 2, 2, 1)],
        "unit_points": torch.ones(4, 3),
        "frame": torch.zeros(4, dtype=torch.int64),
        "tail": torch.ones(4, 1),
        "scale": [1.0, 1.0, 1.0],
        "in_place": False,
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manvatar.sample_warped(**(arguments | change))


def test_a_second_derivative_is_refused() -> None:
    case = with_leaves(make_case(samples=5))
    values = sample_warped(*case.arguments())
    with pytest.raises(RuntimeError, match=r"sample_warped\(\) can be differentiated once"):
        torch.autograd.grad(values.square().sum(), case.motion, create_graph=True)


def test_an_old_library_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match=r"older than the Python code and lacks sample_warped\(\).*make install"):
        _library.require("sample_warped", False, torch.zeros(1))


# ----------------------------------------------------------------------------------------------------- empty and NaN


@pytest.mark.parametrize("function", [sample_warped, sample_warped_reference])
def test_no_points(function) -> None:
    case = make_case(samples=0)
    assert function(*case.arguments()).shape == (0, columns(case))
    for gradient in gradients(function, case, torch.zeros(0, columns(case))):
        assert not gradient.any()


def test_not_a_number_stays_with_its_point() -> None:
    case = make_case(samples=100)
    points = case.unit_points.clone()
    points[7, 1] = math.nan
    got, clean = sample_warped(*replace(case, unit_points=points).arguments()), sample_warped(*case.arguments())
    others = torch.arange(100) != 7
    assert got[7, :15].isnan().all() and torch.equal(got[others], clean[others])
