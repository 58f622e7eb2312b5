"""sparse_adam_: parity, registration, CPU = CUDA, invariants, errors, empty and NaN input. It has no gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.ops import _library, adam_scale, sparse_adam_, sparse_adam_reference_

RATES = {"rate": 0.02, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "step": 7}


def make_case(
    shape: tuple[int, ...] = (11, 13, 8), empty: float = 0.6, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Parameter, gradient with a part of its rows zero, and moments of a few earlier steps."""
    parameter, grad, mean = (torch.randn(shape, dtype=dtype) for _ in range(3))
    grad *= (torch.rand(*shape[:-1], 1) > empty).to(dtype)
    return [parameter, grad, mean, torch.rand(shape, dtype=dtype)]


def after(function: Any, case: list[Tensor], **changes: Any) -> list[Tensor]:
    copies = [tensor.clone() for tensor in case]
    function(*copies, **(RATES | changes))
    return copies


def by_the_book(case: list[Tensor]) -> list[Tensor]:
    """Algorithm 1 of the paper, element after element, in Python's own numbers."""
    result = [tensor.clone() for tensor in case]
    parameter, grad, mean, square = (tensor.flatten(0, -2) for tensor in result)
    for row in range(len(parameter)):
        if not any(float(g) for g in grad[row]):
            continue
        for c in range(parameter.shape[1]):
            g = float(grad[row, c])
            m = 0.9 * float(mean[row, c]) + (1 - 0.9) * g
            v = 0.99 * float(square[row, c]) + (1 - 0.99) * g**2
            parameter[row, c] -= 0.02 * (m / (1 - 0.9**7)) / (math.sqrt(v / (1 - 0.99**7)) + 1e-8)
            mean[row, c], square[row, c] = m, v
    result[1].zero_()
    return result


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("function", [sparse_adam_, sparse_adam_reference_])
def test_both_follow_the_definition(function: Any) -> None:
    case = make_case((5, 6, 3))
    torch.testing.assert_close(after(function, case), by_the_book(case), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("width", range(1, 11))  # 1 to 8 are compiled one by one
@pytest.mark.parametrize("skip", [True, False])
def test_every_width_of_a_row(width: int, skip: bool) -> None:
    case = make_case((700, width))
    got = after(sparse_adam_, case, skip_zero_rows=skip)
    torch.testing.assert_close(got, after(sparse_adam_reference_, case, skip_zero_rows=skip), rtol=1e-12, atol=1e-14)


def test_float32_is_as_near_to_float64_as_the_reference_is() -> None:
    single = make_case((40, 50, 8), dtype=torch.float32)
    truth = after(sparse_adam_reference_, [tensor.double() for tensor in single])
    ours, reference = after(sparse_adam_, single), after(sparse_adam_reference_, single)
    for exact, got, expected in zip(truth, ours, reference, strict=True):
        assert got.dtype == torch.float32
        assert (got - exact).norm() <= 2 * (expected - exact).norm()


# ------------------------------------------------------------------------------------------------------- registration


@pytest.mark.parametrize("skip", [True, False])
def test_opcheck(skip: bool) -> None:
    arguments = (*make_case((9, 8)), 0.1, 0.9, 0.99, 1e-8, 3, skip)
    torch.library.opcheck(torch.ops.manvatar.sparse_adam_.default, arguments)


def test_a_change_of_a_tensor_autograd_kept_is_noticed() -> None:
    case = make_case((9, 8))
    factor = torch.ones(9, 8, dtype=torch.float64, requires_grad=True)
    product = factor * case[0]
    sparse_adam_(*case, **RATES)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("skip", [True, False])
def test_cuda_equals_cpu(cuda: torch.device, skip: bool) -> None:
    case = make_case((60, 70, 8), dtype=torch.float32)
    truth = after(sparse_adam_reference_, [tensor.double() for tensor in case], skip_zero_rows=skip)
    reference = after(sparse_adam_reference_, case, skip_zero_rows=skip)
    there = after(sparse_adam_, [tensor.to(cuda) for tensor in case], skip_zero_rows=skip)
    for exact, got, expected in zip(truth, there, reference, strict=True):
        assert (got.cpu() - exact).norm() <= 2 * (expected - exact).norm()


# --------------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scale_counts_instead_of_rate_and_step(dtype: torch.dtype) -> None:
    case = make_case((40, 8), dtype=dtype)
    scale = torch.tensor(adam_scale(RATES["rate"], 0.9, 0.99, RATES["step"]), dtype=torch.float64)
    got = after(sparse_adam_, case, rate=5.0, step=1, scale=scale)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(got, after(sparse_adam_, case), rtol=tolerance, atol=tolerance)


def test_rows_without_gradient_keep_every_bit() -> None:
    case = make_case((20, 30, 8), dtype=torch.float32)
    quiet = ~(case[1] != 0).any(-1)
    assert 0 < quiet.sum() < quiet.numel()
    got = after(sparse_adam_, case)
    for before, now in zip((case[0], *case[2:]), (got[0], *got[2:]), strict=True):
        assert torch.equal(before[quiet], now[quiet])
        assert not torch.equal(before[~quiet], now[~quiet])
    assert got[1].abs().max() == 0


def test_a_row_with_one_gradient_is_updated_whole() -> None:
    case = make_case((3, 8), empty=1.0)
    case[1][1, 5] = 0.25
    got = after(sparse_adam_, case)
    assert (got[0] != case[0]).any(1).tolist() == [False, True, False]
    assert (got[0][1] != case[0][1]).all()  # momentum moves the other channels


def test_the_first_step_goes_as_far_as_the_rate() -> None:
    zeros = [torch.zeros(4, 8, dtype=torch.float64) for _ in range(4)]
    zeros[1] += torch.randn(4, 8, dtype=torch.float64)
    signs = zeros[1].sign()
    sparse_adam_(*zeros, **(RATES | {"step": 1}))
    torch.testing.assert_close(zeros[0], -0.02 * signs, rtol=1e-5, atol=0)


@pytest.mark.cpu_kernels
def test_the_number_of_threads_changes_no_bit() -> None:
    case = make_case((100, 100, 8), dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(after(sparse_adam_, case))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


# -------------------------------------------------------------------------------------------------------- error texts


@pytest.mark.parametrize(
    ("position", "tensor", "message"),
    [
        (0, torch.ones(4, 8).half(), r"sparse_adam_\(\): expected parameter to be float32 or float64, got Half"),
        (0, torch.ones(8, 4).T, r"expected parameter to be contiguous"),
        (1, torch.ones(4, 7), r"expected grad of shape \(4, 8\), got \(4, 7\)"),
        (2, torch.ones(8, 4).T, r"expected exp_avg to be contiguous"),
        (3, torch.ones(4, 8).double(), r"exp_avg_sq of the dtype of parameter \(Float\), got Double"),
    ],
)
def test_errors_name_the_tensor(position: int, tensor: Tensor, message: str) -> None:
    tensors = [torch.ones(4, 8) for _ in range(4)]
    tensors[position] = tensor
    with pytest.raises(RuntimeError, match=message):
        sparse_adam_(*tensors, **RATES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0}, "expected step to count from 1, got 0"),
        ({"beta2": 1.0}, r"expected beta1 and beta2 in \[0, 1\), got 0.9 and 1"),
        ({"eps": math.nan}, "expected eps not to be negative, got nan"),
        ({"scale": torch.ones(3, dtype=torch.float64)}, r"expected scale of shape \(2,\), got \(3,\)"),
        ({"scale": torch.ones(2)}, "expected scale to be float64, got Float"),
    ],
)
def test_errors_name_the_number(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        sparse_adam_(*(torch.ones(4, 8) for _ in range(4)), **(RATES | change))


def test_an_old_library_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match=r"older than the Python code and lacks sparse_adam_\(\).*make install"):
        _library.require("sparse_adam_", False, torch.zeros(1))


# ----------------------------------------------------------------------------------------------------- empty and NaN


@pytest.mark.parametrize("shape", [(0, 8), (5, 0), ()])
@pytest.mark.parametrize("function", [sparse_adam_, sparse_adam_reference_])
def test_empty_and_scalar(function: Any, shape: tuple[int, ...]) -> None:
    case = [torch.ones(shape) for _ in range(4)]
    function(*case, **RATES)
    assert case[1].shape == shape and not case[1].any()


def test_not_a_number_is_not_hidden() -> None:
    case = make_case((4, 8), empty=1.0)
    case[1][2, 3] = math.nan
    got = after(sparse_adam_, case)
    assert got[0].isnan().nonzero().tolist() == [[2, 3]]
    assert got[1].abs().max() == 0
