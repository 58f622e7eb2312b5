"""mlp: parity, gradients, registration, CPU = CUDA, invariants, errors, empty and NaN input."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.ops import _library, mlp, mlp_reference


@dataclass(frozen=True)
class Case:
    """A network and samples of several frames, most of them in runs of one frame."""

    inputs: Tensor
    frame: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    octaves: int = 0

    def arguments(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))[:6]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Case:
        moved = (x.to(device=device, dtype=dtype if x.is_floating_point() else None) for x in self.arguments())
        return Case(*moved, self.octaves)


def make_case(
    samples: int = 301, inputs: int = 13, hidden: int = 32, out: int = 4, frames: int = 3, octaves: int = 0
) -> Case:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    frame = torch.randint(0, frames, (samples,)).sort().values
    frame[: samples // 10] = torch.randint(0, frames, (samples // 10,))
    seen = inputs * (1 + 2 * octaves)
    first, second = normal(hidden, seen) / math.sqrt(seen), normal(out, hidden) / math.sqrt(hidden)
    return Case(normal(samples, inputs), frame, first, normal(frames, hidden), second, normal(out), octaves)


def by_the_book(case: Case) -> list[list[float]]:
    """The definition, number after number."""
    inputs, frame, w1, b1, w2, b2 = (x.tolist() for x in case.arguments())
    rows = []
    for x, f in zip(inputs, frame, strict=True):
        for octave in range(case.octaves):
            x = x + [wave(2**octave * v) for wave in (math.sin, math.cos) for v in x[: case.inputs.shape[1]]]
        sums = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(w1, b1[f], strict=True)]
        hidden = [v if v > 0 else 0.01 * v for v in sums]
        rows.append([sum(w * v for w, v in zip(row, hidden, strict=True)) + b for row, b in zip(w2, b2, strict=True)])
    return rows


def gradients(function, case: Case, upstream: Tensor) -> tuple[Tensor, ...]:
    arguments = [x.detach().clone() for x in case.arguments()]
    leaves = [x.requires_grad_() for x in arguments if x.is_floating_point()]
    return torch.autograd.grad(function(*arguments, case.octaves), leaves, upstream.to(leaves[0]))


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("octaves", [0, 3])
@pytest.mark.parametrize("function", [mlp, mlp_reference])
def test_both_follow_the_definition(function, octaves: int) -> None:
    case = make_case(samples=40, octaves=octaves)
    expected = torch.tensor(by_the_book(case), dtype=torch.float64)
    torch.testing.assert_close(function(*case.arguments(), octaves), expected, rtol=1e-12, atol=1e-13)


SIZES = [  # (samples, inputs, hidden, out, frames, octaves): below, at and above the tiles, up to the limits
    (1, 1, 16, 1, 1),
    (31, 16, 16, 2, 1),
    (33, 17, 48, 3, 2),
    (500, 32, 128, 4, 5),
    (2500, 29, 64, 4, 8),
    (65, 255, 256, 15, 2),
    (64, 256, 240, 16, 64),
    (1, 1, 16, 3, 1, 1),
    (130, 6, 128, 3, 2, 4),
    (70, 12, 128, 1, 1, 4),
    (2500, 15, 32, 3, 4, 4),
    (65, 23, 48, 5, 2, 5),
    (33, 50, 16, 1, 1, 2),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_every_size(sizes: tuple[int, ...]) -> None:
    case = make_case(*sizes)
    upstream = torch.randn(case.inputs.shape[0], case.out_bias.shape[0], dtype=torch.float64)
    got, expected = mlp(*case.arguments(), case.octaves), mlp_reference(*case.arguments(), case.octaves)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    ours, theirs = gradients(mlp, case, upstream), gradients(mlp_reference, case, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("inputs", "octaves"), [(32, 0), (12, 4)])
def test_float32_is_as_near_to_float64_as_the_reference_is(inputs: int, octaves: int) -> None:
    single = make_case(4000, inputs, 128, 4, 4, octaves).to(torch.float32)
    double = single.to(torch.float64)
    upstream = torch.randn(4000, 4)
    truths = [mlp_reference(*double.arguments(), octaves), *gradients(mlp_reference, double, upstream)]
    ours = [mlp(*single.arguments(), octaves), *gradients(mlp, single, upstream)]
    reference = [mlp_reference(*single.arguments(), octaves), *gradients(mlp_reference, single, upstream)]
    for truth, got, expected in zip(truths, ours, reference, strict=True):
        assert got.dtype == torch.float32
        # Where a hidden unit is zero but for rounding its slope is drawn by lot, in the reference as well.
        assert (got - truth).norm() <= 2 * (expected - truth).norm()


# ------------------------------------------------------------------------------------------------ gradcheck, opcheck


@pytest.mark.parametrize("octaves", [0, 2])
def test_gradcheck(octaves: int) -> None:
    case = make_case(samples=7, inputs=3, hidden=16, out=2, octaves=octaves)
    inputs, frame, *parameters = case.arguments()
    leaves = [x.requires_grad_() for x in (inputs, *parameters)]
    torch.autograd.gradcheck(lambda x, *rest: mlp(x, frame, *rest, octaves), leaves)


@pytest.mark.parametrize("needed", [0, 2, 3, 4, 5])
def test_each_gradient_alone(needed: int) -> None:
    case = make_case()
    arguments = [x.detach().requires_grad_(i == needed) for i, x in enumerate(case.arguments())]
    mlp(*arguments).square().sum().backward()
    assert [x.grad is not None for x in arguments] == [i == needed for i in range(6)]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    case = make_case(samples=20).to(torch.float32)
    arguments = [x.requires_grad_(requires_grad and x.is_floating_point()) for x in case.arguments()]
    torch.library.opcheck(torch.ops.manvatar.mlp.default, arguments)


def test_opcheck_backward() -> None:
    case = make_case(samples=20)
    grad = torch.randn(20, 4, dtype=torch.float64)
    torch.library.opcheck(torch.ops.manvatar.mlp_backward.default, (grad, *case.arguments()[:5]))
    embedded = make_case(samples=20, octaves=2)
    torch.library.opcheck(torch.ops.manvatar.mlp_backward.default, (grad, *embedded.arguments()[:5], 2))
    torch.library.opcheck(torch.ops.manvatar.mlp.default, (*embedded.arguments(), 2))


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("sizes", SIZES)
def test_cuda_equals_cpu(cuda: torch.device, sizes: tuple[int, ...]) -> None:
    case = make_case(*sizes).to(torch.float32)
    double, there = case.to(torch.float64), case.to(device=cuda)
    upstream = torch.randn(case.inputs.shape[0], case.out_bias.shape[0])
    octaves = case.octaves
    truths = [mlp_reference(*double.arguments(), octaves), *gradients(mlp_reference, double, upstream)]
    reference = [mlp_reference(*case.arguments(), octaves), *gradients(mlp_reference, case, upstream)]
    ours = [mlp(*there.arguments(), octaves), *gradients(mlp, there, upstream)]
    for truth, got, expected in zip(truths, ours, reference, strict=True):
        assert (got.cpu() - truth).norm() <= 2 * (expected - truth).norm() + 1e-6 * truth.norm()


@pytest.mark.cuda
def test_cuda_repeats_bit_for_bit(cuda: torch.device) -> None:
    case = make_case(50000, 32, 128, 4, 8).to(torch.float32, cuda)
    upstream = torch.randn(50000, 4)
    first, second = (gradients(mlp, case, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --------------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("scale", [1e-6, 1.0, 900.0, 1e5, 1e12])
def test_sines_and_cosines_of_any_size(scale: float) -> None:
    """The network is made to hand on one column, so that its float32 values can be held against exact ones."""
    values = (torch.rand(1000, 1) - 0.5) * 2 * scale
    for column, exact in enumerate([values.double(), values.double().sin(), values.double().cos()]):
        weight, out = torch.zeros(16, 3), torch.zeros(1, 16)
        weight[0, column], weight[1, column], out[0, :2] = 1.0, -1.0, torch.tensor([1.0, -1.0]) / 1.01
        got = mlp(values, torch.zeros(1000, dtype=torch.int64), weight, torch.zeros(1, 16), out, torch.zeros(1), 1)
        torch.testing.assert_close(got.double(), exact, rtol=4e-7, atol=2e-7)


def test_samples_do_not_see_each_other() -> None:
    case = make_case(samples=200)
    together = mlp(*case.arguments())
    order = torch.randperm(200)
    shuffled = replace(case, inputs=case.inputs[order], frame=case.frame[order])
    torch.testing.assert_close(mlp(*shuffled.arguments()), together[order], rtol=1e-13, atol=1e-14)


def test_the_bias_of_a_frame_sees_its_samples_only() -> None:
    case = make_case()
    upstream = torch.randn(301, 4, dtype=torch.float64)
    upstream[case.frame == 1] = 0
    to_bias = gradients(mlp, case, upstream)[2]
    assert to_bias[1].abs().max() == 0 and to_bias[0].abs().min() > 0 and to_bias[2].abs().min() > 0


def test_the_gradient_repeats_bit_for_bit() -> None:
    case = make_case(6000, 29, 64, 4, 8).to(torch.float32)
    upstream = torch.randn(6000, 4)
    first, second = (gradients(mlp, case, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.cpu_kernels
def test_the_number_of_threads_changes_only_rounding() -> None:
    case = make_case(5000)
    upstream = torch.randn(5000, 4, dtype=torch.float64)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([mlp(*case.arguments()), *gradients(mlp, case, upstream)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-10, atol=1e-10)


def test_strided_inputs() -> None:
    case = make_case()
    strided = replace(case, inputs=case.inputs.T.contiguous().T, hidden_weight=case.hidden_weight.T.contiguous().T)
    assert not strided.inputs.is_contiguous()
    assert torch.equal(mlp(*strided.arguments()), mlp(*case.arguments()))


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.ones(5)}, r"mlp\(\): expected inputs of shape \(\*, \*\), got \(5,\)"),
        ({"inputs": torch.ones(5, 3).half()}, "expected inputs to be float32 or float64, got Half"),
        ({"frame": torch.zeros(5)}, "expected frame to be int64, got Float"),
        pytest.param(
            {"frame": torch.tensor([0, 0, 1, 2, 1])},
            r"expected frame to be 0 to 1, got 2 at sample 3",
            marks=pytest.mark.cpu_kernels,
        ),
        pytest.param(
            {"frame": torch.tensor([0, -1, 1, 1, 1])},
            r"expected frame to be 0 to 1, got -1 at sample 1",
            marks=pytest.mark.cpu_kernels,
        ),
        ({"hidden_weight": torch.ones(16, 4)}, r"expected hidden_weight of shape \(\*, 3\), got \(16, 4\)"),
        ({"hidden_weight": torch.ones(20, 3)}, "expected a multiple of 16 hidden units, got 20"),
        ({"hidden_bias": torch.ones(2, 32)}, r"expected hidden_bias of shape \(\*, 16\), got \(2, 32\)"),
        ({"out_weight": torch.ones(4, 16).double()}, r"out_weight of the dtype of inputs \(Float\), got Double"),
        ({"octaves": 1}, r"expected hidden_weight of shape \(\*, 9\), got \(16, 3\)"),
        ({"octaves": -1}, "expected octaves to be 0 to 16, got -1"),
        ({"out_bias": torch.ones(3)}, r"expected out_bias of shape \(4,\), got \(3,\)"),
    ],
)
def test_errors_say_what_was_expected(change: dict[str, Tensor], message: str) -> None:
    arguments = {
        "inputs": torch.ones(5, 3),
        "frame": torch.tensor([0, 0, 1, 1, 1]),
        "hidden_weight": torch.ones(16, 3),
        "hidden_bias": torch.ones(2, 16),
        "out_weight": torch.ones(4, 16),
        "out_bias": torch.ones(4),
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manvatar.mlp(**(arguments | change))


@pytest.mark.cpu_kernels
def test_what_is_too_large_is_refused() -> None:
    case = make_case(samples=3, inputs=257)
    with pytest.raises(RuntimeError, match="expected at most 256 inputs, 256 hidden units and 16 outputs, got 257, 32"):
        mlp(*case.arguments())


def test_a_second_derivative_is_refused() -> None:
    case = make_case(samples=5)
    inputs = case.inputs.requires_grad_()
    (first,) = torch.autograd.grad(mlp(*case.arguments()).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=r"mlp\(\) can be differentiated once"):
        first.sum().backward()


def test_an_old_library_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match=r"older than the Python code and lacks mlp\(\).*make install"):
        _library.require("mlp", False, torch.zeros(1))


# ----------------------------------------------------------------------------------------------------- empty and NaN


@pytest.mark.parametrize("function", [mlp, mlp_reference])
def test_no_samples(function) -> None:
    case = make_case(samples=0)
    assert function(*case.arguments()).shape == (0, 4)
    for gradient in gradients(function, case, torch.zeros(0, 4)):
        assert not gradient.any()


@pytest.mark.parametrize("octaves", [0, 2])
def test_not_a_number_stays_with_its_sample(octaves: int) -> None:
    case = make_case(samples=100, octaves=octaves)
    broken = replace(case, inputs=case.inputs.clone())
    broken.inputs[7, 1] = math.nan
    got, clean = mlp(*broken.arguments(), octaves), mlp(*case.arguments(), octaves)
    others = torch.arange(100) != 7
    assert got[7].isnan().all() and torch.equal(got[others], clean[others])
