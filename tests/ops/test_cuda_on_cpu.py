"""The CUDA kernels on the CPU: mistakes are noticed, and no op depends on the order in which threads take turns.

Left out by nature: additions that should be atomic and are not, and rounding of a real GPU's sines and exponentials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from ops import (
    test_add_outer,
    test_composite,
    test_march,
    test_mlp,
    test_mlp_bfloat16,
    test_rasterize,
    test_sample_grid,
    test_sample_warped,
    test_sparse_adam,
)
from torch import Tensor

from manvatar import ops

ORDERS = (0, 1, 2, 3)


def mistake(name: str, threads: int = 64, **options: int) -> Tensor:
    return torch.ops.manvatar_mistakes.run_mistake(torch.zeros(0), name, threads, **options)


def all_right(threads: int = 64) -> Tensor:
    return (torch.arange(threads) + 1.0) % threads


# --------------------------------------------------------------------------------------------- what the machine notices


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [1, 31, 32, 64, 1024])
def test_a_kernel_without_mistake(cuda_on_cpu, order: int, threads: int) -> None:
    with cuda_on_cpu(order):
        assert torch.equal(mistake("without_mistake", threads), all_right(threads))
        assert torch.equal(mistake("only_within_warps", min(threads, 32)), all_right(min(threads, 32)))


@pytest.mark.parametrize("name", ["without_barrier", "overwritten", "only_within_warps", "never_set", "left_out"])
def test_what_shows_in_the_result(cuda_on_cpu, name: str) -> None:
    for order in ORDERS:
        with cuda_on_cpu(order):
            assert not torch.equal(mistake(name), all_right())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("barrier_for_some", {}, "not all threads reach the same barrier"),
        ("behind_the_end", {}, "a thread wrote behind the shared memory"),
        ("askew", {"bytes": 2048}, "a matrix must begin at a multiple of 32 bytes"),
        ("without_mistake", {"threads": 0}, "invalid configuration argument"),
        ("without_mistake", {"threads": 1025}, "invalid configuration argument"),
        ("without_mistake", {"bytes": 50000}, "invalid argument"),  # without asking for so much
    ],
)
def test_what_is_refused(cuda_on_cpu, name: str, options: dict[str, int], message: str) -> None:
    with cuda_on_cpu(2):
        with pytest.raises(RuntimeError, match=message):
            mistake(name, **options)
        assert torch.equal(mistake("without_mistake"), all_right())  # afterwards it still works


def test_the_kernels_for_the_cpu_come_back(cuda_on_cpu) -> None:
    case = test_mlp.make_case()
    wrong = replace(case, frame=case.frame + 1)  # only those for the CPU look at frames
    with cuda_on_cpu(0):
        ops.mlp(*case.arguments())
    with pytest.raises(RuntimeError, match="expected frame to be 0 to 2, got 3"):
        ops.mlp(*wrong.arguments())


# ------------------------------------------------------------------------------------------------ any order, CPU = CUDA


@pytest.mark.parametrize("sizes", [(70, 9, 16, 3, 2), (100, 33, 48, 1, 3), (33, 13, 176, 4, 1, 2)])
def test_bfloat16_with_units_that_a_cpu_does_not_take(cuda_on_cpu, sizes: tuple[int, ...]) -> None:
    with cuda_on_cpu(2):
        test_mlp_bfloat16.test_bfloat16_rounds_factors_and_nothing_else(sizes)
        test_mlp_bfloat16.test_gradients_in_bfloat16(sizes, 1, 1e-2)
        test_mlp_bfloat16.test_gradients_in_bfloat16(sizes, 3, 2e-6)


def run_march() -> list[Tensor]:
    return list(ops.march(*test_march.make_case(rays=2000).arguments()))


def run_composite() -> list[Tensor]:
    case = test_composite.make_case(rays=2000)
    upstream = ops.Composite(torch.randn(2000, 3), *torch.randn(2, 2000), torch.randn(len(case.length_m)))
    result = ops.composite(*case.floats(), case.offsets)
    return [*result, *test_composite.gradients(ops.composite, case, upstream)]


def run_add_outer() -> list[Tensor]:
    return [test_add_outer.after(ops.add_outer_, test_add_outer.make_case(8, 33, 1000))]


def run_sparse_adam() -> list[Tensor]:
    return test_sparse_adam.after(ops.sparse_adam_, test_sparse_adam.make_case((40, 50, 8)))


def run_sample_grid() -> list[Tensor]:
    case = test_sample_grid.make_case(samples=3000)
    values = ops.sample_grid(*case.arguments())
    return [values, *test_sample_grid.gradients(ops.sample_grid, case, torch.randn(values.shape))]


def run_sample_warped() -> list[Tensor]:
    case = test_sample_warped.make_case()
    values = ops.sample_warped(*case.arguments())
    return [values, *test_sample_warped.gradients(ops.sample_warped, case, torch.randn(values.shape))]


def run_mlp(**sizes: int) -> list[Tensor]:
    case = test_mlp.make_case(**sizes)
    values = ops.mlp(*case.arguments(), case.octaves)
    return [values, *test_mlp.gradients(ops.mlp, case, torch.randn(values.shape))]


def run_mlp_in_bfloat16(parts: int, *sizes: int) -> list[Tensor]:
    case = test_mlp.make_case(*sizes).to(torch.float32)
    case = replace(case, hidden_bias=case.hidden_bias.sign() * 20)
    values = ops.mlp(*case.arguments(), case.octaves, bfloat16_parts=parts)
    upstream = torch.randn(values.shape)
    return [values, *test_mlp.gradients(lambda *arguments: ops.mlp(*arguments, parts), case, upstream)]


def run_rasterize(case: test_rasterize.Case) -> list[Tensor]:
    seen, barycentric, depth_m = ops.rasterize(*case.arguments())
    return [seen.double(), barycentric, depth_m]


JOBS: dict[str, Callable[[], list[Tensor]]] = {
    "march": run_march,
    "composite": run_composite,
    "add_outer": run_add_outer,
    "sparse_adam": run_sparse_adam,
    "sample_grid": run_sample_grid,
    "sample_warped": run_sample_warped,
    "mlp of many blocks": lambda: run_mlp(samples=1999, inputs=29, hidden=64, frames=8),
    "mlp of the paper": lambda: run_mlp(samples=301, inputs=15, hidden=128, out=3, octaves=4),
    "bfloat16": lambda: run_mlp_in_bfloat16(1, 1999, 32, 128, 4, 8),
    "bfloat16 of the paper, in three parts": lambda: run_mlp_in_bfloat16(3, 301, 15, 128, 3, 3, 4),
    "bfloat16 at the limits": lambda: run_mlp_in_bfloat16(1, 99, 256, 256, 16, 2),
    "rasterize small": lambda: run_rasterize(test_rasterize.make_case(3, 500, 5.0, (61, 43))),
    "rasterize large": lambda: run_rasterize(test_rasterize.make_case(2, 100, 100.0, (61, 43))),
    "rasterize huge": lambda: run_rasterize(test_rasterize.make_case(2, 60, 20000.0, (61, 43))),
    "rasterize a head": lambda: run_rasterize(test_rasterize.make_head(0.6, -0.3, 128)),
}
_ADDED_IN_ANY_ORDER = ("sample_grid", "sample_warped")


@pytest.mark.parametrize("name", JOBS)
def test_the_order_of_threads_changes_nothing(cuda_on_cpu, name: str) -> None:
    def run() -> list[Tensor]:
        torch.manual_seed(0)
        return JOBS[name]()

    bfloat16, single = name.startswith("bfloat16"), name.startswith("rasterize")
    expected, results = run() if not bfloat16 or ops.mlp_has_bfloat16() else None, []
    for order in ORDERS:
        with cuda_on_cpu(order):
            results.append(run())
    for got, truth in zip(results[0], expected or [], strict=expected is not None):
        if bfloat16:  # the last bit of a sum or a sine decides how a factor is rounded
            assert (got - truth).norm() <= 2e-3 * truth.norm()
        else:
            tolerance = 1e-6 if single else 1e-10
            torch.testing.assert_close(got, truth, rtol=tolerance, atol=tolerance)
    for other in results[1:]:
        if name in _ADDED_IN_ANY_ORDER:
            torch.testing.assert_close(other, results[0], rtol=1e-11, atol=1e-11)
        else:
            assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
