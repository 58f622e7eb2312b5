"""Loads the native libraries, once, when ``manvatar.ops`` is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from manvatar.errors import UserError

_FOLDER = Path(__file__).parent
_HOW = "build it with 'make install', or 'pip install --no-build-isolation -e .' in an environment that has torch"


def _load(name: str) -> bool:
    path = _FOLDER / f"{name}.so"
    if not path.is_file():
        return False
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise UserError(f"{path} does not load into torch {torch.__version__} ({error}); {_HOW}") from error
    return True


_HAS_CPU = _load("_cpu")  # also holds every schema, so it goes first
_HAS_CUDA = _HAS_CPU and torch.cuda.is_available() and _load("_cuda")


def has_op(name: str) -> bool:
    """Whether the library that was loaded knows the op ``name``; if not, its fake and autograd cannot be registered."""
    return _HAS_CPU and hasattr(torch.ops.manvatar, name)


def has_cuda() -> bool:
    """Whether the native ops run on the GPU: there is one, and the library for it is built."""
    return _HAS_CUDA


def register(
    name: str,
    fake: Callable[..., object],
    fake_backward: Callable[..., object],
    setup_context: Callable[..., None],
    backward: Callable[..., object],
) -> None:
    """Tell PyTorch the shapes and the derivative of the native op ``name``; its backward is the op ``name_backward``.

    A second derivative raises; without this PyTorch would return zeros.
    """

    def refuse(ctx: object, *gradients: object) -> None:
        raise RuntimeError(f"{name}() can be differentiated once; use {name}_reference() for higher derivatives")

    torch.library.register_fake(f"manvatar::{name}", fake)
    torch.library.register_fake(f"manvatar::{name}_backward", fake_backward)
    torch.library.register_autograd(f"manvatar::{name}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"manvatar::{name}_backward", refuse)


def require(name: str, built: bool, tensor: Tensor) -> None:
    """Check that the op ``name`` can run where ``tensor`` is.

    Args:
        built: what :func:`has_op` said when the op's module was imported; a constant, so that ``torch.compile`` does
            not look it up.

    Raises:
        UserError: no native library, one that is older than the Python code, or none for this device.
    """
    if not built:
        state = "is older than the Python code and lacks" if _HAS_CPU else "is not built, so there is no"
        raise UserError(f"the native library manvatar/ops/_cpu.so {state} {name}(); {_HOW}")
    if tensor.is_cuda and not _HAS_CUDA:
        raise UserError(
            f"{name}() got tensors on {tensor.device} but manvatar/ops/_cuda.so is not built; build it where nvcc is "
            "installed (MANVATAR_CUDA=1 make install), or use the device cpu"
        )
