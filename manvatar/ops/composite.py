r"""Volume rendering of packed samples.

Vocabulary. Samples are packed: those of ray ``r`` are ``offsets[r]:offsets[r + 1]``, from near to far. For sample i of
a ray, with density sigma_i and interval length delta_i,

    tau_i = sigma_i delta_i                  optical depth of the interval
    T_i   = exp(-sum_{j<i} tau_j)            transmittance in front of it
    w_i   = T_i (1 - exp(-tau_i))            weight; the weights of a ray sum to its opacity, at most 1

and a ray's colour is sum_i w_i c_i: premultiplied, over black. ``rgb + (1 - opacity) * background`` puts it on a
background. Source: N. Max, "Optical models for direct volume rendering", IEEE TVCG 1(2), 1995, with piecewise constant
density. Gradient, with g_i = dL/dw_i over all outputs: dL/dtau_i = g_i T_{i+1} - sum_{j>i} g_j w_j.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from manvatar.ops._library import has_op, register, require

_BUILT = has_op("composite")


class Composite(NamedTuple):
    """What :func:`composite` returns."""

    rgb: Float[Tensor, "rays channels"]  # premultiplied: sum of w c
    opacity: Float[Tensor, "rays"]  # sum of w, [0, 1]
    depth_m: Float[Tensor, "rays"]  # sum of w t; divide by opacity for the mean distance
    weights: Float[Tensor, "samples"]  # w


def composite(
    density_per_m: Float[Tensor, "samples"],
    length_m: Float[Tensor, "samples"],
    rgb: Float[Tensor, "samples channels"],
    distance_m: Float[Tensor, "samples"],
    offsets: Int64[Tensor, "rays_plus_one"],
) -> Composite:
    """Render packed samples into rays; formulas and vocabulary at the head of this module.

    A ray without samples is black, transparent and at depth 0. Not-finite values stay within their ray.

    Args:
        density_per_m: >= 0 (not checked); float32 or float64, as are the other three.
        length_m: of each interval, >= 0 (not checked).
        rgb: any number of channels, any range.
        distance_m: of each sample from the ray's origin.
        offsets: ascending from 0 to the number of samples. Checked on the CPU; on CUDA not, since that would wait for
            the device.

    Differentiable in the first four arguments, once; deterministic. On the CPU the sums along a ray run in float64, on
    CUDA in the dtype of the arguments.

    Raises:
        RuntimeError: shapes, dtypes, devices or offsets that do not fit, in words.
        UserError: the native library is not built.
    """
    require("composite", _BUILT, density_per_m)
    return Composite(*torch.ops.manvatar.composite(density_per_m, length_m, rgb, distance_m, offsets))


def composite_reference(
    density_per_m: Float[Tensor, "samples"],
    length_m: Float[Tensor, "samples"],
    rgb: Float[Tensor, "samples channels"],
    distance_m: Float[Tensor, "samples"],
    offsets: Int64[Tensor, "rays_plus_one"],
) -> Composite:
    """:func:`composite` in plain PyTorch: any float dtype and device, any number of derivatives.

    Memory is rays times the longest ray.
    """
    counts = offsets.diff()
    rays, longest = counts.shape[0], int(counts.max()) if counts.shape[0] else 0
    ray = torch.repeat_interleave(torch.arange(rays, device=offsets.device), counts)
    place = torch.arange(density_per_m.shape[0], device=offsets.device) - offsets[ray]

    tau = density_per_m.new_zeros(rays, longest).index_put((ray, place), density_per_m * length_m)
    through = tau.cumsum(1)  # optical depth up to the far end of each sample
    before = torch.cat([torch.zeros_like(through[:, :1]), through[:, :-1]], 1)
    weights = ((-before).exp() * -torch.expm1(-tau))[ray, place]

    out = rgb.new_zeros(rays, rgb.shape[1]).index_add(0, ray, weights[:, None] * rgb)
    depth_m = distance_m.new_zeros(rays).index_add(0, ray, weights * distance_m)
    return Composite(out, -torch.expm1(-tau.sum(1)), depth_m, weights)


def _fake(
    density_per_m: Tensor, length_m: Tensor, rgb: Tensor, distance_m: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rays = offsets.shape[0] - 1
    one = density_per_m.new_empty
    return rgb.new_empty(rays, rgb.shape[1]), one(rays), one(rays), one(density_per_m.shape[0])


def _fake_backward(
    grad_rgb: Tensor,
    grad_opacity: Tensor,
    grad_depth_m: Tensor,
    grad_weights: Tensor,
    density_per_m: Tensor,
    length_m: Tensor,
    rgb: Tensor,
    distance_m: Tensor,
    offsets: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    one = density_per_m.new_empty
    samples = density_per_m.shape[0]
    return one(samples), one(samples), rgb.new_empty(rgb.shape), one(samples)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[3])


def _backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    results = torch.ops.manvatar.composite_backward(*gradients, *ctx.saved_tensors)
    kept = (value if needed else None for value, needed in zip(results, ctx.needs_input_grad, strict=False))
    return (*kept, None)  # offsets


if _BUILT:
    register("composite", _fake, _fake_backward, _keep, _backward)
