"""march: parity, registration, CPU = CUDA, invariants, errors, empty and NaN input. It has no gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.ops import Marched, _library, march, march_reference


@dataclass(frozen=True)
class Case:
    """Rays from around a box into it, some of which miss; random cells with some emptiness of several blocks."""

    origins_m: Tensor
    directions: Tensor
    shift: Tensor
    occupied: Tensor
    lowest_per_m: Tensor
    lower_m: tuple[float, float, float] = (-0.2, -0.1, -0.15)
    upper_m: tuple[float, float, float] = (0.1, 0.3, 0.2)
    step_m: float = 0.004
    stop_depth: float = 3.0
    margin_steps: int = 4

    def tensors(self) -> list[Tensor]:
        return [self.origins_m, self.directions, self.shift, self.occupied, self.lowest_per_m]

    def with_tensors(self, tensors: list[Tensor]) -> Case:
        names = ("origins_m", "directions", "shift", "occupied", "lowest_per_m")
        return replace(self, **dict(zip(names, tensors, strict=True)))

    def to(self, dtype: torch.dtype) -> Case:
        return self.with_tensors([x if x.dtype == torch.bool else x.to(dtype) for x in self.tensors()])

    def arguments(self) -> tuple:
        numbers = (self.lower_m, self.upper_m, self.step_m, self.stop_depth, self.margin_steps)
        return (*self.tensors(), *numbers)


def make_case(rays: int = 500, cells: tuple[int, int, int] = (21, 33, 18), density: float = 60.0) -> Case:
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, dtype=torch.float64), dim=1)
    directions[::11, 0] = 0  # along faces
    target = torch.rand(rays, 3, dtype=torch.float64) * 0.5 - 0.22
    occupied = torch.rand(cells) < 0.5
    occupied[:, 10:26] = False
    occupied[12, 18, 9] = True
    origins = target - directions * (torch.rand(rays, 1) * 0.6)  # some start inside
    shift = torch.rand(rays, dtype=torch.float64)
    return Case(origins, directions, shift, occupied, torch.rand(cells, dtype=torch.float64) * density)


def by_the_book(case: Case) -> list[list[float]]:
    """Step after step, ray after ray, from far in front of the box to far behind it, in Python's own numbers."""
    cells = case.occupied.shape[::-1]
    result = []
    rays = zip(case.origins_m.tolist(), case.directions.tolist(), case.shift.tolist(), strict=True)
    for origin, direction, shift in rays:
        enters, leaves = 0.0, math.inf
        for a in range(3):
            if direction[a] == 0:
                if not case.lower_m[a] <= origin[a] <= case.upper_m[a]:
                    leaves = -math.inf
                continue
            sides = sorted((side[a] - origin[a]) / direction[a] for side in (case.lower_m, case.upper_m))
            enters, leaves = max(enters, sides[0]), min(leaves, sides[1])
        kept: list[float] = []
        sums: list[float] = []  # of optical depth, one a step
        for k in range(400 if enters < leaves else 0):
            t = enters + (k + shift) * case.step_m
            unit = [
                (o + t * d - low) / (high - low)
                for o, d, low, high in zip(origin, direction, case.lower_m, case.upper_m, strict=True)
            ]
            x, y, z = (math.floor(u * n) for u, n in zip(unit, cells, strict=True))
            here = all(0 <= u < 1 for u in unit) and bool(case.occupied[z, y, x])
            depth = float(case.lowest_per_m[z, y, x]) * case.step_m if here else 0.0
            sums.append((sums[-1] if sums else 0.0) + depth)
            if here and (k < case.margin_steps or sums[k - case.margin_steps] < case.stop_depth):
                kept.append(t)
        result.append(kept)
    return result


def as_lists(marched: Marched) -> list[list[float]]:
    bounds = marched.offsets.tolist()
    return [marched.distance_m[a:b].tolist() for a, b in pairwise(bounds)]


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("function", [march, march_reference])
def test_both_follow_the_definition(function) -> None:
    case = make_case(rays=40)
    got, expected = as_lists(function(*case.arguments())), by_the_book(case)
    assert [len(ray) for ray in got] == [len(ray) for ray in expected]
    assert max(len(ray) for ray in got) > 20 and min(len(ray) for ray in got) == 0
    flat = [torch.tensor([t for ray in rays for t in ray], dtype=torch.float64) for rays in (got, expected)]
    torch.testing.assert_close(flat[0], flat[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "change", [{}, {"stop_depth": math.inf}, {"stop_depth": 0.1}, {"step_m": 0.0007}, {"step_m": 0.3}]
)
@pytest.mark.parametrize("margin_steps", [1, 3, 1000])
def test_equals_the_reference(change: dict[str, float], margin_steps: int) -> None:
    case = replace(make_case(rays=300), margin_steps=margin_steps, **change)
    got, expected = march(*case.arguments()), march_reference(*case.arguments())
    assert torch.equal(got.offsets, expected.offsets) and torch.equal(got.ray, expected.ray)
    torch.testing.assert_close(got.distance_m, expected.distance_m, rtol=1e-12, atol=1e-14)


def test_float32_differs_from_float64_only_at_the_faces_of_cells() -> None:
    single = make_case(rays=800).to(torch.float32)
    truth = march_reference(*single.to(torch.float64).arguments())
    ours, reference = march(*single.arguments()), march_reference(*single.arguments())
    wrong = [(marched.offsets.diff() != truth.offsets.diff()).sum() for marched in (ours, reference)]
    assert ours.distance_m.dtype == torch.float32
    assert wrong[0] <= 2 * wrong[1] + 3


# ------------------------------------------------------------------------------------------------------- registration


def test_opcheck() -> None:
    case = make_case(rays=40).to(torch.float32)
    torch.library.opcheck(torch.ops.manvatar.march.default, case.arguments())


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
def test_cuda_equals_cpu(cuda: torch.device) -> None:
    case = make_case(rays=5000)
    there = case.with_tensors([x.to(cuda) for x in case.tensors()])
    got, expected = march(*there.arguments()), march(*case.arguments())
    assert torch.equal(got.offsets.cpu(), expected.offsets) and torch.equal(got.ray.cpu(), expected.ray)
    torch.testing.assert_close(got.distance_m.cpu(), expected.distance_m, rtol=1e-12, atol=1e-14)


# --------------------------------------------------------------------------------------------------------- invariants


def test_samples_are_packed_in_order() -> None:
    marched = march(*make_case().arguments())
    assert marched.offsets[0] == 0 and marched.offsets[-1] == len(marched.ray) == len(marched.distance_m)
    assert torch.equal(marched.ray, torch.arange(500).repeat_interleave(marched.offsets.diff()))
    same = marched.ray.diff() == 0
    assert (marched.distance_m.diff()[same] > 0).all()


def test_a_full_box_is_sampled_from_side_to_side() -> None:
    case = make_case()
    full = replace(case, occupied=torch.ones_like(case.occupied), lowest_per_m=torch.zeros_like(case.lowest_per_m))
    marched = march(*full.arguments())
    assert len(marched.ray) > 1000
    steps = marched.distance_m.diff()[marched.ray.diff() == 0]
    torch.testing.assert_close(steps, torch.full_like(steps, full.step_m), rtol=0, atol=1e-12)


def test_a_capacity_is_for_cuda(kernels: str) -> None:
    if kernels == "cpu":
        with pytest.raises(RuntimeError, match="expected no capacity on the CPU"):
            march(*make_case().arguments(), capacity=10)
        return
    case = make_case()
    whole = march(*case.arguments())
    count = len(whole.ray)
    assert count > 1000
    for capacity in (0, 1, count // 2, count, count + 700):
        got, kept = march(*case.arguments(), capacity=capacity), min(capacity, count)
        assert len(got.distance_m) == len(got.ray) == capacity
        assert torch.equal(got.offsets, whole.offsets.clamp(max=capacity))
        assert torch.equal(got.distance_m[:kept], whole.distance_m[:kept])
        assert torch.equal(got.ray[:kept], whole.ray[:kept])
        assert (got.distance_m[kept:] == 0).all() and (got.ray[kept:] == 499).all()


def test_light_ends_after_the_margin() -> None:
    case = make_case(density=0.0)
    lowest = torch.full_like(case.lowest_per_m, 500.0)
    wall = replace(case, occupied=torch.ones_like(case.occupied), lowest_per_m=lowest, stop_depth=3.9)
    counts = march(*wall.arguments()).offsets.diff()
    # 500 / m * 4 mm = 2 a step: the second step passes 3.9, and up to four are kept from there on.
    assert counts.max() == 1 + wall.margin_steps


@pytest.mark.cpu_kernels
def test_the_number_of_threads_changes_no_bit() -> None:
    case = make_case(rays=2000)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(march(*case.arguments()))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origins_m": torch.ones(4, 2)}, r"march\(\): expected origins_m of shape \(\*, 3\), got \(4, 2\)"),
        ({"shift": torch.ones(5)}, r"expected shift of shape \(4,\), got \(5,\)"),
        ({"directions": torch.ones(4, 3).double()}, r"directions of the dtype of origins_m \(Float\), got Double"),
        ({"occupied": torch.ones(2, 3, 4)}, "expected occupied to be bool, got Float"),
        ({"lowest_per_m": torch.ones(2, 3, 5)}, r"lowest_per_m of shape \(2, 3, 4\), got \(2, 3, 5\)"),
        ({"upper_m": (1.0, -1.0, 1.0)}, r"expected upper_m to exceed lower_m, got -1 and 0 on axis 1"),
        ({"lower_m": (0.0, 0.0)}, r"expected lower_m and upper_m of 3 numbers, got 2 and 3"),
        ({"step_m": 0.0}, r"expected a positive step_m, got 0"),
        ({"margin_steps": 0}, r"expected margin_steps of at least 1, got 0"),
    ],
)
def test_errors_say_what_was_expected(change: dict, message: str) -> None:
    arguments = {
        "origins_m": torch.ones(4, 3),
        "directions": torch.ones(4, 3),
        "shift": torch.ones(4),
        "occupied": torch.ones(2, 3, 4, dtype=torch.bool),
        "lowest_per_m": torch.ones(2, 3, 4),
        "lower_m": (0.0, 0.0, 0.0),
        "upper_m": (1.0, 1.0, 1.0),
        "step_m": 0.1,
        "stop_depth": 3.0,
        "margin_steps": 2,
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manvatar.march(**(arguments | change))


def test_an_old_library_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match=r"older than the Python code and lacks march\(\).*make install"):
        _library.require("march", False, torch.zeros(1))


# ----------------------------------------------------------------------------------------------------- empty and NaN


@pytest.mark.parametrize("function", [march, march_reference])
@pytest.mark.parametrize("rays", [0, 5])
def test_nothing_to_see(function, rays: int) -> None:
    case = make_case(rays=rays)
    empty = replace(case, occupied=torch.zeros_like(case.occupied))
    marched = function(*empty.arguments())
    assert marched.distance_m.shape == marched.ray.shape == (0,)
    assert marched.offsets.tolist() == [0] * (rays + 1)


def test_broken_rays_have_no_samples_and_disturb_no_other() -> None:
    case = make_case(rays=50)
    clean = as_lists(march(*case.arguments()))
    origins, directions = case.origins_m.clone(), case.directions.clone()
    origins[3, 1] = math.nan
    directions[7, 2] = math.nan
    directions[9] = 0
    origins[11, 0] = math.inf
    got = as_lists(march(*replace(case, origins_m=origins, directions=directions).arguments()))
    for ray in (3, 7, 9, 11):
        clean[ray] = []
    assert got == clean
