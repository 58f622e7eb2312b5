"""add_outer_ and blend: parity, gradients, registration, CPU = CUDA, invariants, errors, empty and NaN input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.ops import _library, add_outer_, add_outer_reference_, blend


def make_case(
    batch: int = 5, targets: int = 7, count: int = 300, width: int = 8, empty: float = 0.6
) -> tuple[Tensor, Tensor, Tensor]:
    """Target, weights, and rows of which a part is zero in the whole batch and another in some items."""
    target, weights, rows = (
        torch.randn(shape, dtype=torch.float64)
        for shape in ((targets, count, width), (batch, targets), (batch, count, width))
    )
    rows *= (torch.rand(count, 1) > empty) * (torch.rand(batch, count, 1) > 0.3)
    return target, weights, rows


def after(function, case: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    target = case[0].clone()
    function(target, *case[1:])
    return target


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("function", [add_outer_, add_outer_reference_])
def test_both_follow_the_definition(function) -> None:
    target, weights, rows = case = make_case(3, 4, 10, 2)
    expected = [
        [
            [
                float(target[k, n, c]) + sum(float(weights[b, k]) * float(rows[b, n, c]) for b in range(3))
                for c in range(2)
            ]
            for n in range(10)
        ]
        for k in range(4)
    ]
    truth = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(after(function, case), truth, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("batch", [1, 3, 4, 9])
@pytest.mark.parametrize("width", [1, 3, 8, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_size(batch: int, width: int, dtype: torch.dtype) -> None:
    case = tuple(x.to(dtype) for x in make_case(batch, 6, 1000, width))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    ours, expected = after(add_outer_, case), after(add_outer_reference_, case)
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def test_float32_is_as_near_to_float64_as_the_reference_is() -> None:
    single = tuple(x.float() for x in make_case(8, 33, 2000))
    truth = after(add_outer_reference_, tuple(x.double() for x in single))
    ours, reference = after(add_outer_, single), after(add_outer_reference_, single)
    assert (ours - truth).norm() <= 2 * (reference - truth).norm()


def blend_by_the_book(mean: Tensor, bases: list[Tensor], coefficients: list[Tensor]) -> Tensor:
    total = mean.expand(len(coefficients[0]), *mean.shape)
    for basis, weights in zip(bases, coefficients, strict=True):
        total = total + torch.einsum("bk,k...->b...", weights, basis)
    return total


def blend_case(requires_grad: bool = True) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad)

    return normal(3, 4, 2), [normal(5, 3, 4, 2), normal(2, 3, 4, 2)], [normal(3, 5), normal(3, 2)]


def test_blend_follows_the_definition() -> None:
    case = blend_case()
    torch.testing.assert_close(blend(*case), blend_by_the_book(*case), rtol=1e-13, atol=1e-13)


# ------------------------------------------------------------------------------------------------ gradcheck, opcheck


def test_gradcheck_of_blend() -> None:
    mean, bases, coefficients = blend_case()
    torch.autograd.gradcheck(lambda m, *x: blend(m, x[:2], x[2:]), (mean, *bases, *coefficients))


@pytest.mark.parametrize("needed", range(5))
def test_each_gradient_alone(needed: int) -> None:
    mean, bases, coefficients = blend_case(requires_grad=False)
    leaves = [mean, *bases, *coefficients]
    leaves[needed].requires_grad_()
    blend(mean, bases, coefficients).square().sum().backward()
    assert [x.grad is not None for x in leaves] == [i == needed for i in range(5)]


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.manvatar.add_outer_.default, make_case(count=40))


def test_in_place_adds_to_the_gradients_that_are_there() -> None:
    mean, bases, coefficients = blend_case()
    leaves = [mean, *bases, *coefficients]
    usual = torch.autograd.grad(blend_by_the_book(mean, bases, coefficients).square().sum(), leaves)
    start = torch.randn_like(bases[0])
    mean.grad, bases[0].grad = torch.zeros_like(mean), start.clone()
    places = mean.grad.data_ptr(), bases[0].grad.data_ptr()
    blend(mean, bases, coefficients, in_place=True).square().sum().backward()
    assert (mean.grad.data_ptr(), bases[0].grad.data_ptr()) == places
    torch.testing.assert_close(bases[0].grad - start, usual[1])
    for leaf, expected in zip((mean, bases[1], *coefficients), (usual[0], *usual[2:]), strict=True):
        torch.testing.assert_close(leaf.grad, expected)


def test_a_second_derivative_is_refused() -> None:
    mean, bases, coefficients = blend_case()
    (first,) = torch.autograd.grad(blend(mean, bases, coefficients).square().sum(), mean, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
def test_cuda_equals_cpu(cuda: torch.device) -> None:
    case = make_case(8, 33, 2000)
    there = after(add_outer_, tuple(x.to(cuda) for x in case))
    torch.testing.assert_close(there.cpu(), after(add_outer_, case), rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- invariants


def test_rows_of_zeros_are_left_out() -> None:
    target, weights, rows = make_case()
    quiet = ~(rows != 0).any(2).any(0)
    weights[0, 0] = math.inf  # infinity times zero would be seen
    assert 0 < quiet.sum() < len(quiet)
    got = after(add_outer_, (target, weights, rows))
    assert torch.equal(got[:, quiet], target[:, quiet])
    assert not torch.equal(got[:, ~quiet], target[:, ~quiet])


@pytest.mark.cpu_kernels
def test_the_number_of_threads_changes_no_bit() -> None:
    case = tuple(x.float() for x in make_case(8, 9, 20000))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(after(add_outer_, case))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, results[0]) for other in results[1:])


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("position", "tensor", "message"),
    [
        (0, torch.ones(2, 3), r"add_outer_\(\): expected target of shape \(\*, \*, \*\), got \(2, 3\)"),
        (0, torch.ones(2, 4, 3).mT, "expected target to be contiguous"),
        (1, torch.ones(5, 3), r"expected weights of shape \(\*, 2\), got \(5, 3\)"),
        (2, torch.ones(5, 3, 5), r"expected rows of shape \(5, 3, 4\), got \(5, 3, 5\)"),
        (2, torch.ones(5, 3, 4).double(), r"rows of the dtype of target \(Float\), got Double"),
    ],
)
def test_errors_say_what_was_expected(position: int, tensor: Tensor, message: str) -> None:
    arguments = [torch.ones(2, 3, 4), torch.ones(5, 2), torch.ones(5, 3, 4)]
    arguments[position] = tensor
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manvatar.add_outer_(*arguments)


def test_an_old_library_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match=r"older than the Python code and lacks add_outer_\(\).*make install"):
        _library.require("add_outer_", False, torch.zeros(1))


# ----------------------------------------------------------------------------------------------------- empty and NaN


@pytest.mark.parametrize("sizes", [(0, 3, 4, 2), (3, 0, 4, 2), (3, 2, 0, 2), (3, 2, 4, 0)])
@pytest.mark.parametrize("function", [add_outer_, add_outer_reference_])
def test_empty(function, sizes: tuple[int, int, int, int]) -> None:
    case = make_case(*sizes)
    assert torch.equal(after(function, case), case[0])


def test_not_a_number_is_not_hidden() -> None:
    target, weights, rows = make_case(empty=1.0)
    rows[2, 17, 3] = math.nan
    got = after(add_outer_, (target, weights, rows))
    assert got.isnan().nonzero().tolist() == [[k, 17, 3] for k in range(7)]
