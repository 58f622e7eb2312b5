"""What computes :func:`manvatar.ops.mlp`, chosen by name.

``native``; ``native-bf16``, ``native-bf16x2`` and ``native-bf16x3`` (the same with products of bfloat16 on processors
with a matrix unit and GPUs whose tensor cores know it, each factor cut into 1, 2 or 3 of them: 8, 16 or all 24 bits);
``auto`` (``native-bf16`` where it can be had, ``native`` elsewhere); ``torch`` or ``tinycudann``. All take the same
arguments, so parameters are stored in one layout whatever computes with them. ``torch`` is
:func:`manvatar.ops.mlp_reference`. ``tinycudann`` is tiny-cuda-nn (T. Mueller, "Real-time neural radiance caching for
path tracing", SIGGRAPH 2021), which is told apart from the others by

* no biases. Each frame is one more input, 1 for its own samples and 0 for others, whose weights are the hidden bias of
  that frame; the bias of the outputs is added behind the network. Both are exact.
* half precision. Weights, inputs, hidden units and gradients are rounded to about three decimal digits.
* CUDA only. Its package is built by hand and does not even import where there is no CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from manvatar.errors import UserError
from manvatar.ops.mlp import embed, mlp, mlp_has_bfloat16, mlp_reference

_ALIGNMENT = 16  # tiny-cuda-nn widens inputs with ones, and outputs, to multiples of it; here they are so already
_FUSED_WIDTHS = (16, 32, 64, 128)  # hidden units for which it has its fastest kernel


def require_tinycudann(device: torch.device) -> None:
    """Check that tiny-cuda-nn can run on ``device``.

    Raises:
        UserError: the device is not CUDA, or the package is not there or does not load.
    """
    if device.type != "cuda":
        raise UserError(f"the MLP backend tinycudann needs CUDA, but is asked for on the {device.type}; use native")
    try:
        import tinycudann  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: built for another GPU
        raise UserError(
            "the MLP backend tinycudann is not installed; build it with: pip install --no-build-isolation "
            "git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch, or use native"
        ) from error


def mlp_tinycudann(
    inputs: Float[Tensor, "samples in"],
    frame: Int64[Tensor, "samples"],
    hidden_weight: Float[Tensor, "hidden in"],
    hidden_bias: Float[Tensor, "frames hidden"],
    out_weight: Float[Tensor, "out hidden"],
    out_bias: Float[Tensor, "out"],
    octaves: int = 0,
) -> Float[Tensor, "samples out"]:
    """:func:`manvatar.ops.mlp` by tiny-cuda-nn, in half precision; a multiple of 16 hidden units.

    Differentiable in all arguments but ``frame``, once. FullyFusedMLP for 16, 32, 64 or 128 hidden units, CutlassMLP
    otherwise.

    Raises:
        UserError: see :func:`require_tinycudann`.
    """
    require_tinycudann(inputs.device)
    inputs = embed(inputs, octaves)
    arguments = (inputs, frame, hidden_weight, hidden_bias, out_weight, out_bias)
    if len(inputs) == 0:
        return mlp_reference(*arguments)
    hidden, features = hidden_weight.shape
    with torch.cuda.device(inputs.device):
        network = _network(_aligned(features + len(hidden_bias)), hidden, _aligned(len(out_weight)), inputs.device)
        return through_network(network, *arguments)


def through_network(
    network: nn.Module,
    inputs: Float[Tensor, "samples in"],
    frame: Int64[Tensor, "samples"],
    hidden_weight: Float[Tensor, "hidden in"],
    hidden_bias: Float[Tensor, "frames hidden"],
    out_weight: Float[Tensor, "out hidden"],
    out_bias: Float[Tensor, "out"],
) -> Float[Tensor, "samples out"]:
    """The MLP by a network without biases that holds its weights as tiny-cuda-nn does.

    Args:
        network: its one parameter ``params`` is W1 (hidden, in') and then W2 (out', hidden), flat, rows first. in' is
            in + frames and out' is out, each rounded up to a multiple of 16.
    """
    own_frame = functional.one_hot(frame, len(hidden_bias)).to(inputs)
    seen = torch.cat([inputs, own_frame], 1)
    first = torch.cat([hidden_weight, hidden_bias.T], 1)
    spare = _aligned(seen.shape[1]) - seen.shape[1]
    last = functional.pad(out_weight, (0, 0, 0, _aligned(len(out_weight)) - len(out_weight)))
    params = torch.cat([functional.pad(first, (0, spare)).flatten(), last.flatten()])
    out = torch.func.functional_call(network, {"params": params}, (functional.pad(seen, (0, spare)),))
    return out[:, : len(out_weight)].to(inputs) + out_bias


@lru_cache(maxsize=16)
def _network(inputs: int, hidden: int, outputs: int, device: torch.device) -> nn.Module:
    """A network of that shape on the current CUDA device, which is ``device``; its own weights are not used."""
    import tinycudann

    return tinycudann.Network(
        inputs,
        outputs,
        {
            "otype": "FullyFusedMLP" if hidden in _FUSED_WIDTHS else "CutlassMLP",
            "activation": "LeakyReLU",  # its slope below zero is 0.01, as ours
            "output_activation": "None",
            "n_neurons": hidden,
            "n_hidden_layers": 1,
        },
    )


def _aligned(width: int) -> int:
    return -(-width // _ALIGNMENT) * _ALIGNMENT


def mlp_bfloat16(
    inputs: Float[Tensor, "samples in"], *rest: Any, name: str, parts: int
) -> Float[Tensor, "samples out"]:
    """:func:`manvatar.ops.mlp`, arguments and all, with products of ``parts`` bfloat16 numbers for each factor.

    Raises:
        UserError: the device of ``inputs`` has no matrix unit that we use; the backend is called ``name``.
    """
    if not mlp_has_bfloat16(inputs.device):
        raise UserError(
            f"the MLP backend {name} needs a processor with AMX (Intel Xeon of 2023 or newer) and Linux, or a GPU of "
            "compute capability 8.0 or newer; use auto"
        )
    return mlp(inputs, *rest, bfloat16_parts=parts)


def mlp_auto(
    inputs: Float[Tensor, "samples in"], frame: Int64[Tensor, "samples"], hidden_weight: Tensor, *rest: Any
) -> Float[Tensor, "samples out"]:
    """``native-bf16`` where it can be had and the network is made for it, ``native`` elsewhere."""
    made_for = len(hidden_weight) % 32 == 0 and max(hidden_weight.shape) <= 256 and inputs.dtype == torch.float32
    fits = made_for and mlp_has_bfloat16(inputs.device)
    return mlp(inputs, frame, hidden_weight, *rest, bfloat16_parts=int(fits))


_BFLOAT16_PARTS = {"native-bf16": 1, "native-bf16x2": 2, "native-bf16x3": 3}

MLP_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "native": mlp,
    **{name: partial(mlp_bfloat16, name=name, parts=parts) for name, parts in _BFLOAT16_PARTS.items()},
    "auto": mlp_auto,
    "torch": mlp_reference,
    "tinycudann": mlp_tinycudann,
}


def mlp_backend(name: str) -> Callable[..., Tensor]:
    """What has the arguments of :func:`manvatar.ops.mlp` and is called ``name``.

    Raises:
        UserError: there is none of that name.
    """
    if name not in MLP_BACKENDS:
        raise UserError(f"there is no MLP backend {name!r}; choose one of {', '.join(MLP_BACKENDS)}")
    return MLP_BACKENDS[name]
