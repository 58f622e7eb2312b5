"""mlp with products of bfloat16, of one to three parts: on the CPU's matrix unit and on tensor cores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ops.test_mlp import gradients, make_case

from manvatar.ops import mlp, mlp_has_bfloat16, mlp_reference

SIZES = [
    (1, 1, 32, 1, 1),
    (300, 17, 64, 3, 2),
    (4000, 32, 128, 4, 5),
    (513, 15, 128, 3, 3, 4),  # of the paper, as are the next two
    (321, 12, 128, 1, 3, 4),
    (321, 6, 128, 3, 3, 4),
]
LARGEST = (97, 256, 256, 16, 2)  # in parts it does not fit into the shared memory of a GPU
ACCURACY = [(1, 1e-2), (2, 2e-5), (3, 2e-6)]  # parts, error of gradients


@pytest.fixture
def bfloat16(kernels: str) -> None:
    """The kernels of this test have products of bfloat16."""
    if not mlp_has_bfloat16():
        pytest.skip("needs a processor with AMX")  # those for CUDA always have


with_bfloat16 = pytest.mark.usefixtures("bfloat16")


@with_bfloat16
@pytest.mark.parametrize("sizes", [*SIZES, LARGEST])
def test_bfloat16_rounds_factors_and_nothing_else(sizes: tuple[int, ...]) -> None:
    case = make_case(*sizes).to(torch.float32)
    got = mlp(*case.arguments(), case.octaves, 1)
    expected = mlp_reference(*case.arguments(), case.octaves, 1)
    # Where a sine lies between two bfloat16 its last bit decides which is taken.
    assert (got - expected).norm() <= (1e-3 if case.octaves else 1e-5) * expected.norm()
    exact = mlp_reference(*case.to(torch.float64).arguments(), case.octaves)
    assert 1e-5 * exact.norm() < (got - exact).norm() < 1e-2 * exact.norm()


@with_bfloat16
@pytest.mark.parametrize(("parts", "error"), ACCURACY)
@pytest.mark.parametrize("sizes", [*SIZES, (100, 12, 96, 1, 1, 4), (33, 40, 32, 2, 1), (70, 200, 64, 5, 7)])
def test_gradients_in_bfloat16(sizes: tuple[int, ...], parts: int, error: float) -> None:
    """With biases that keep every hidden unit far from its kink, where rounding would choose the slope."""
    case = make_case(*sizes)
    case = replace(case, hidden_bias=case.hidden_bias.sign() * 20).to(torch.float32)
    upstream = torch.randn(sizes[0], sizes[3])
    ours = gradients(lambda *arguments: mlp(*arguments, parts), case, upstream)
    truths = gradients(mlp_reference, case.to(torch.float64), upstream)
    for truth, got in zip(truths, ours, strict=True):
        assert (got - truth).norm() <= error * truth.norm()


@with_bfloat16
def test_gradients_of_the_largest() -> None:
    test_gradients_in_bfloat16(LARGEST, *ACCURACY[0])


@with_bfloat16
@pytest.mark.parametrize("sizes", [(300, 17, 64, 3, 2), (4000, 32, 128, 4, 5), (513, 15, 128, 3, 3, 4)])
def test_cut_into_three_it_is_float32(sizes: tuple[int, ...]) -> None:
    case = make_case(*sizes).to(torch.float32)
    exact = mlp_reference(*case.to(torch.float64).arguments(), case.octaves)
    plain = mlp_reference(*case.arguments(), case.octaves)
    two, three = (mlp(*case.arguments(), case.octaves, parts) for parts in (2, 3))
    assert (three - exact).norm() <= 2 * (plain - exact).norm()
    assert (two - exact).norm() <= 1e-5 * exact.norm()


@with_bfloat16
def test_bfloat16_repeats_and_keeps_samples_apart() -> None:
    case = make_case(3000, 29, 64, 4, 8).to(torch.float32)
    upstream = torch.randn(3000, 4)
    first, second = (gradients(lambda *arguments: mlp(*arguments, 1), case, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    broken = replace(case, inputs=case.inputs.clone())
    broken.inputs[7, 1] = math.nan
    got, clean = mlp(*broken.arguments(), 0, 1), mlp(*case.arguments(), 0, 1)
    others = torch.arange(3000) != 7
    assert got[7].isnan().all() and torch.equal(got[others], clean[others])


@with_bfloat16
@pytest.mark.cpu_kernels
def test_bfloat16_takes_multiples_of_32_hidden_units() -> None:
    with pytest.raises(RuntimeError, match="expected a multiple of 32 hidden units for bfloat16 products, got 48"):
        mlp(*make_case(5, 3, 48).to(torch.float32).arguments(), 0, 1)


@with_bfloat16
def test_what_bfloat16_cannot_take() -> None:
    with pytest.raises(RuntimeError, match="at most 256 inputs, 256 hidden units and 16 outputs.* got 300, 32"):
        mlp(*make_case(5, 300, 32).to(torch.float32).arguments(), 0, 1)
    with pytest.raises(RuntimeError, match="expected inputs to be float32 for bfloat16"):
        mlp(*make_case(5, 3, 32).arguments(), 0, 1)
    with pytest.raises(RuntimeError, match="expected bfloat16_parts to be 0 to 3, got 4"):
        mlp(*make_case(5, 3, 32).arguments(), 0, 4)


@pytest.mark.cpu_kernels
@pytest.mark.skipif(mlp_has_bfloat16(), reason="the processor has AMX")
def test_without_a_matrix_unit() -> None:
    with pytest.raises(RuntimeError, match="bfloat16 needs a processor with AMX"):
        mlp(*make_case(5, 3, 32).to(torch.float32).arguments(), 0, 1)


# --------------------------------------------------------------------------------------------------------- CPU = CUDA


@pytest.mark.cuda
@pytest.mark.parametrize(("parts", "error"), ACCURACY)
@pytest.mark.parametrize("sizes", [*SIZES, (80000, 32, 128, 4, 8), (5000, 9, 16, 3, 2), (99, 33, 48, 1, 3)])
def test_cuda_in_bfloat16(cuda: torch.device, sizes: tuple[int, ...], parts: int, error: float) -> None:
    if not mlp_has_bfloat16(cuda):
        pytest.skip("needs a GPU of compute capability 8.0 or newer")
    case = make_case(*sizes)
    case = replace(case, hidden_bias=case.hidden_bias.sign() * 20).to(torch.float32)
    there, upstream = case.to(device=cuda), torch.randn(sizes[0], sizes[3])
    got, expected = (f(*c.arguments(), case.octaves, parts) for f, c in ((mlp, there), (mlp_reference, case)))
    assert (got.cpu() - expected).norm() <= (1e-3 if case.octaves else 1e-5) * expected.norm()
    ours = gradients(lambda *arguments: mlp(*arguments, parts), there, upstream)
    for truth, value in zip(gradients(mlp_reference, case.to(torch.float64), upstream), ours, strict=True):
        assert (value.cpu() - truth).norm() <= error * truth.norm()
    again = gradients(lambda *arguments: mlp(*arguments, parts), there, upstream)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
