"""composite: parity, gradients, registration, CPU = CUDA, invariants, errors, empty and NaN input."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.ops import Composite, _library, composite, composite_reference

OUTPUTS = Composite._fields


@dataclass(frozen=True)
class Case:
    """Packed samples of some rays, the first and another one empty."""

    density_per_m: Tensor
    length_m: Tensor
    rgb: Tensor
    distance_m: Tensor
    offsets: Tensor

    def floats(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.density_per_m, self.length_m, self.rgb, self.distance_m

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Case:
        return Case(*(x.to(device=device, dtype=dtype) for x in self.floats()), self.offsets.to(device=device))


def make_case(rays: int = 200, longest: int = 40, channels: int = 3, density_per_m: float = 400.0) -> Case:
    counts = torch.randint(1, longest + 1, (rays,))
    counts[0] = counts[rays // 2] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    samples = int(offsets[-1])
    density = torch.rand(samples, dtype=torch.float64) ** 4 * density_per_m  # most samples thin, some opaque
    density[torch.rand(samples) < 0.2] = 0
    length = torch.rand(samples, dtype=torch.float64) * 0.008 + 0.001
    rgb, distance = torch.rand(samples, channels, dtype=torch.float64), torch.rand(samples, dtype=torch.float64) + 1
    return Case(density, length, rgb, distance, offsets)


def by_the_book(case: Case) -> Composite:
    """The definition, sample after sample, in Python floats."""
    density, length, rgb, distance = (x.tolist() for x in case.floats())
    rays, channels = len(case.offsets) - 1, case.rgb.shape[1]
    out, opacity, depth, weights = [[0.0] * channels for _ in range(rays)], [0.0] * rays, [0.0] * rays, []
    for r in range(rays):
        transmittance = 1.0
        for i in range(case.offsets[r], case.offsets[r + 1]):
            through = math.exp(-density[i] * length[i])
            weight = transmittance * (1 - through)
            transmittance *= through
            weights.append(weight)
            opacity[r] += weight
            depth[r] += weight * distance[i]
            for c in range(channels):
                out[r][c] += weight * rgb[i][c]
    return Composite(*(torch.tensor(x, dtype=torch.float64) for x in (out, opacity, depth, weights)))


def gradients(function, case: Case, upstream: Composite) -> tuple[Tensor, ...]:
    inputs = [x.detach().requires_grad_() for x in case.floats()]
    result = function(*inputs, case.offsets)
    loss = sum((value * weight.to(value)).sum() for value, weight in zip(result, upstream, strict=True))
    return torch.autograd.grad(loss, inputs)


def random_like(result: Composite) -> Composite:
    return Composite(*(torch.randn_like(x) for x in result))


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("function", [composite, composite_reference])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_both_follow_the_definition(function, channels: int) -> None:
    case = make_case(channels=channels)
    for got, expected in zip(function(*case.floats(), case.offsets), by_the_book(case), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_gradients_equal_those_of_the_reference() -> None:
    case = make_case()
    upstream = random_like(by_the_book(case))
    ours, theirs = gradients(composite, case, upstream), gradients(composite_reference, case, upstream)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_float32_is_as_near_to_float64_as_the_reference_is() -> None:
    case = make_case(rays=2000)
    exact, single = composite_reference(*case.floats(), case.offsets), case.to(torch.float32)
    upstream = random_like(exact)
    pairs = list(
        zip(
            [*exact, *gradients(composite_reference, case, upstream)],
            [*composite(*single.floats(), case.offsets), *gradients(composite, single, upstream)],
            [*composite_reference(*single.floats(), case.offsets), *gradients(composite_reference, single, upstream)],
            strict=True,
        )
    )
    for truth, ours, reference in pairs:
        assert ours.dtype == torch.float32
        assert (ours - truth).norm() <= 2 * (reference - truth).norm()
        assert (ours - truth).abs().max() <= 2 * (reference - truth).abs().max()


# ------------------------------------------------------------------------------------------------ gradcheck, opcheck


def test_gradcheck() -> None:
    case = make_case(rays=6, longest=5)
    inputs = [x.requires_grad_() for x in case.floats()]
    torch.autograd.gradcheck(lambda *x: composite(*x, case.offsets), inputs)


@pytest.mark.parametrize("needed", range(4))
def test_each_gradient_alone(needed: int) -> None:
    case = make_case(rays=20)
    inputs = [x.detach().requires_grad_(i == needed) for i, x in enumerate(case.floats())]
    composite(*inputs, case.offsets).rgb.square().sum().backward()
    assert [x.grad is not None for x in inputs] == [i == needed for i in range(4)]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    case = make_case(rays=10)
    inputs = [x.float().requires_grad_(requires_grad) for x in case.floats()]
    torch.library.opcheck(torch.ops.manvatar.composite.default, (*inputs, case.offsets))


def test_opcheck_backward() -> None:
    case = make_case(rays=10)
    result = composite(*case.floats(), case.offsets)
    arguments = (*random_like(result), *case.floats(), case.offsets, result.weights)
    torch.library.opcheck(torch.ops.manvatar.composite_backward.default, arguments)


def test_traces_as_one_graph() -> None:
    case = make_case(rays=30)
    op = torch.ops.manvatar.composite  # the public function carries the tests' type checks, which cannot be traced
    compiled = torch.compile(lambda *x: op(*x)[0].sin(), fullgraph=True, backend="aot_eager")
    density = case.density_per_m.clone().requires_grad_()
    compiled(density, *case.floats()[1:], case.offsets).sum().backward()
    again = case.density_per_m.clone().requires_grad_()
    composite(again, *case.floats()[1:], case.offsets).rgb.sin().sum().backward()
    torch.testing.assert_close(density.grad, again.grad, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_equals_cpu(cuda: torch.device, dtype: torch.dtype) -> None:
    case = make_case(rays=5000)
    exact, single = composite_reference(*case.floats(), case.offsets), case.to(dtype)
    upstream = random_like(exact)
    truths = [*exact, *gradients(composite_reference, case, upstream)]
    there = single.to(device=cuda)
    ours = [*composite(*there.floats(), there.offsets), *gradients(composite, there, upstream)]
    cpu = [*composite_reference(*single.floats(), case.offsets), *gradients(composite_reference, single, upstream)]
    for truth, got, reference in zip(truths, ours, cpu, strict=True):
        allowed = 2 * (reference - truth).abs().max() + 1e-12 * truth.abs().max()
        assert (got.cpu() - truth).abs().max() <= allowed


# --------------------------------------------------------------------------------------------------------- invariants


def test_weights_sum_to_the_opacity_and_never_exceed_one() -> None:
    case = make_case(density_per_m=1e6)
    result = composite(*case.floats(), case.offsets)
    sums = torch.stack([result.weights[a:b].sum() for a, b in zip(case.offsets[:-1], case.offsets[1:], strict=True)])
    torch.testing.assert_close(sums, result.opacity, rtol=0, atol=1e-14)
    assert result.opacity.max() <= 1 and result.weights.min() >= 0


def test_samples_of_no_ray_count_for_nothing(kernels: str) -> None:
    if kernels == "cpu":
        pytest.skip("on the CPU every sample belongs to a ray")
    case = make_case(rays=50)
    more = [torch.cat([x, torch.ones_like(x)]) for x in case.floats()]
    expected, upstream = composite(*case.floats(), case.offsets), random_like(by_the_book(case))
    got = composite(*more, case.offsets)
    count = len(case.length_m)
    assert all(torch.equal(a, b) for a, b in zip(got[:3], expected[:3], strict=True))
    assert torch.equal(got.weights[:count], expected.weights) and not got.weights[count:].any()
    wider = upstream._replace(weights=torch.cat([upstream.weights, torch.randn(count, dtype=torch.float64)]))
    ours = gradients(composite, Case(*more, case.offsets), wider)
    for gradient, usual in zip(ours, gradients(composite, case, upstream), strict=True):
        assert torch.equal(gradient[:count], usual) and not gradient[count:].any()


def test_splitting_an_interval_changes_nothing() -> None:
    case = make_case(rays=50)
    density, length, rgb, distance = case.floats()
    halves = [x.repeat_interleave(2, 0) for x in (density, length / 2, rgb, distance)]
    whole, split = composite(*case.floats(), case.offsets), composite(*halves, case.offsets * 2)
    for name in ("rgb", "opacity", "depth_m"):
        torch.testing.assert_close(getattr(split, name), getattr(whole, name), rtol=1e-12, atol=1e-14)


def test_thin_samples_keep_their_digits_in_float32() -> None:
    tau = torch.full((8,), 1e-9)
    result = composite(tau, torch.ones(8), torch.ones(8, 1), torch.ones(8), torch.tensor([0, 8]))
    torch.testing.assert_close(result.opacity, torch.tensor([8e-9]), rtol=1e-6, atol=0)
    torch.testing.assert_close(result.weights, tau, rtol=1e-6, atol=0)


def test_nothing_is_seen_behind_an_opaque_sample() -> None:
    rgb = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    density = torch.tensor([1e30, 1e30], requires_grad=True)
    result = composite(density, torch.ones(2), rgb, torch.tensor([2.0, 3.0]), torch.tensor([0, 2]))
    assert result.rgb.tolist() == [[1.0, 0.0]] and result.depth_m.tolist() == [2.0]
    result.rgb.sum().backward()
    assert density.grad.isfinite().all() and rgb.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.cpu_kernels
def test_the_number_of_threads_changes_no_bit() -> None:
    case = make_case(rays=1000).to(torch.float32)
    upstream = random_like(composite(*case.floats(), case.offsets))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append([*composite(*case.floats(), case.offsets), *gradients(composite, case, upstream)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_strided_inputs() -> None:
    case = make_case(rays=30)
    strided = [torch.stack([x, x], -1)[..., 0] for x in case.floats()]
    assert not strided[0].is_contiguous()
    for got, expected in zip(composite(*strided, case.offsets), composite(*case.floats(), case.offsets), strict=True):
        assert torch.equal(got, expected)


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length_m": torch.ones(3)}, r"composite\(\): expected length_m of shape \(4,\), got \(3,\)"),
        ({"rgb": torch.ones(4)}, r"composite\(\): expected rgb of shape \(4, \*\), got \(4,\)"),
        ({"distance_m": torch.ones(4).double()}, r"distance_m of the dtype of density_per_m \(Float\), got Double"),
        ({"density_per_m": torch.ones(4).half()}, r"density_per_m to be float32 or float64, got Half"),
        ({"offsets": torch.tensor([0, 4], dtype=torch.int32)}, r"offsets to be int64, got Int"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, r"offsets of shape \(rays \+ 1,\), got \(0,\)"),
        pytest.param(
            {"offsets": torch.tensor([1, 4])}, r"offsets to begin with 0, got 1", marks=pytest.mark.cpu_kernels
        ),
        pytest.param(
            {"offsets": torch.tensor([0, 3, 2, 4])},
            r"offsets not to decrease, got 3 then 2 at ray 1",
            marks=pytest.mark.cpu_kernels,
        ),
        pytest.param(
            {"offsets": torch.tensor([0, 5])},
            r"offsets to end with the number of samples, 4, got 5",
            marks=pytest.mark.cpu_kernels,
        ),
    ],
)
def test_errors_say_what_was_expected(change: dict[str, Tensor], message: str) -> None:
    one = torch.ones(4)
    arguments = {"density_per_m": one, "length_m": one, "rgb": torch.ones(4, 3), "distance_m": one}
    arguments = arguments | {"offsets": torch.tensor([0, 4])} | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manvatar.composite(**arguments)


def test_a_second_derivative_is_refused() -> None:
    case = make_case(rays=5)
    density = case.density_per_m.requires_grad_()
    rgb = composite(density, *case.floats()[1:], case.offsets).rgb
    (first,) = torch.autograd.grad(rgb.square().sum(), density, create_graph=True)
    with pytest.raises(RuntimeError, match=r"composite\(\) can be differentiated once"):
        first.sum().backward()


def test_a_missing_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "_HAS_CPU", False)
    with pytest.raises(UserError, match="not built.*make install"):
        _library.require("composite", False, torch.zeros(1))


# ----------------------------------------------------------------------------------------------------- empty and NaN


@pytest.mark.parametrize("function", [composite, composite_reference])
@pytest.mark.parametrize("rays", [0, 3])
def test_no_samples(function, rays: int) -> None:
    none = torch.zeros(0, requires_grad=True)
    colour = torch.zeros(0, 3, requires_grad=True)
    result = function(none, none, colour, none, torch.zeros(rays + 1, dtype=torch.int64))
    assert result.rgb.tolist() == [[0.0, 0.0, 0.0]] * rays
    assert result.opacity.tolist() == result.depth_m.tolist() == [0.0] * rays
    sum(x.sum() for x in result).backward()
    assert none.grad.shape == (0,) and colour.grad.shape == (0, 3)


def test_not_a_number_stays_in_its_ray() -> None:
    case = make_case(rays=100).to(torch.float32)
    spoiled = case.density_per_m.clone()
    ray = 7
    spoiled[case.offsets[ray]] = math.nan
    clean, dirty = composite(*case.floats(), case.offsets), composite(spoiled, *case.floats()[1:], case.offsets)
    assert dirty.opacity[ray].isnan() and dirty.rgb[ray].isnan().all()
    others = torch.arange(100) != ray
    assert torch.equal(dirty.rgb[others], clean.rgb[others])
