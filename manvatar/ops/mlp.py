"""The small network behind a field: one hidden layer whose bias depends on the frame.

    out = W2 leaky_relu(W1 x + b1[frame]) + b2        slope 0.01 below zero

The expression enters as ``b1[frame] = b + W_e e``: it is the same for all samples of a frame, so its product is taken
once a frame instead of once a sample. With ``octaves`` the network sees sines and cosines of its inputs, too
(:func:`embed`), which are made where they are used: of the paper's networks that is most of the memory traffic.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from manvatar.ops._library import has_cuda, has_op, register, require

_BUILT = has_op("mlp")


def mlp(
    inputs: Float[Tensor, "samples in"],
    frame: Int64[Tensor, "samples"],
    hidden_weight: Float[Tensor, "hidden terms"],
    hidden_bias: Float[Tensor, "frames hidden"],
    out_weight: Float[Tensor, "out hidden"],
    out_bias: Float[Tensor, "out"],
    octaves: int = 0,
    bfloat16_parts: int = 0,
) -> Float[Tensor, "samples out"]:
    """Two layers, fused: the hidden layer is never stored, and is computed again for the gradient.

    Args:
        inputs: float32 or float64, as is everything but ``frame``.
        frame: row of ``hidden_bias`` for each sample. Runs of equal frames are fast, frequent changes are slow.
        hidden_weight: a multiple of 16 hidden units, at most 256; a column for each input, or for each term of the
            embedded inputs, at most 256.
        out_weight: at most 16 outputs.
        octaves: of :func:`embed`, 0 to 16.
        bfloat16_parts: 0 = products in the dtype of the inputs. 1 = factors of the hidden layer's products, forward and
            backward, are rounded to bfloat16 (8 bits) and their products summed in float32. 2 or 3 = a factor is cut
            into so many bfloat16 numbers that add up to it, to 16 bits or all 24, and 3 or 6 products of them summed
            (Henry, Tang and Heinecke 2019, arXiv 1904.06376): 3 is as exact as float32. Only where
            :func:`mlp_has_bfloat16`, for float32 and, on a CPU, multiples of 32 hidden units.

    Differentiable in all arguments but ``frame``, once; deterministic for a fixed number of threads.

    Raises:
        RuntimeError: shapes, dtypes, devices or frames that do not fit, in words.
        UserError: the native library is not built.
    """
    require("mlp", _BUILT, inputs)
    return torch.ops.manvatar.mlp(
        inputs, frame, hidden_weight, hidden_bias, out_weight, out_bias, octaves, bfloat16_parts
    )


def mlp_has_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether :func:`mlp` can multiply in bfloat16 there.

    A CPU can that has Intel's matrix unit (AMX), under Linux; a GPU of compute capability 8.0 or newer can.
    """
    device = torch.device(device)
    is_native = has_cuda() if device.type == "cuda" else device.type == "cpu" and has_op("mlp_has_bfloat16")
    return is_native and torch.ops.manvatar.mlp_has_bfloat16(torch.empty(0, device=device))


def mlp_reference(
    inputs: Float[Tensor, "samples in"],
    frame: Int64[Tensor, "samples"],
    hidden_weight: Float[Tensor, "hidden terms"],
    hidden_bias: Float[Tensor, "frames hidden"],
    out_weight: Float[Tensor, "out hidden"],
    out_bias: Float[Tensor, "out"],
    octaves: int = 0,
    bfloat16_parts: int = 0,
) -> Float[Tensor, "samples out"]:
    """:func:`mlp` in plain PyTorch: any float dtype and device, any number of derivatives.

    With ``bfloat16_parts`` the forward factors are rounded to what their parts hold, and gradients are exact (those of
    :func:`mlp` are not).
    """
    seen = embed(inputs, octaves)
    if bfloat16_parts:
        seen, hidden_weight = (_Rounded.apply(values, bfloat16_parts) for values in (seen, hidden_weight))
    hidden = functional.leaky_relu(seen @ hidden_weight.T + hidden_bias[frame], 0.01)
    return hidden @ out_weight.T + out_bias


def embed(values: Float[Tensor, "samples channels"], octaves: int) -> Float[Tensor, "samples terms"]:
    """The values, then sine and cosine of the values times 1, 2, 4, ... (Mildenhall et al. 2020, section 5.1)."""
    terms = [values]
    for octave in range(octaves):
        scaled = values * 2.0**octave
        terms += [scaled.sin(), scaled.cos()]
    return torch.cat(terms, -1)


class _Rounded(torch.autograd.Function):
    """Rounding to a sum of bfloat16 that gradients pass as if it were not there."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, parts: int) -> Tensor:
        total = torch.zeros_like(values)
        for _ in range(parts):
            total = total + (values - total).bfloat16().to(values.dtype)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _fake(
    inputs: Tensor,
    frame: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    octaves: int = 0,
    bfloat16_parts: int = 0,
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], out_weight.shape[0])


def _fake_backward(
    grad: Tensor,
    inputs: Tensor,
    frame: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    out_weight: Tensor,
    octaves: int = 0,
    bfloat16_parts: int = 0,
) -> tuple[Tensor, ...]:
    shapes = (inputs.shape, hidden_weight.shape, hidden_bias.shape, out_weight.shape, (out_weight.shape[0],))
    return tuple(inputs.new_empty(shape) for shape in shapes)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[6:]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    to_inputs, *to_parameters = torch.ops.manvatar.mlp_backward(grad, *ctx.saved_tensors, *ctx.options)
    results = (to_inputs, None, *to_parameters, None, None)[: len(ctx.needs_input_grad)]
    return tuple(value if needed else None for value, needed in zip(results, ctx.needs_input_grad, strict=True))


if _BUILT:
    register("mlp", _fake, _fake_backward, _keep, _backward)
