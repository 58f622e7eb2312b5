"""Layers of the bi-layer model (Zakharov et al., ECCV 2020): residual blocks, and norms that depend on a person.

What depends on a person is an explicit value, :class:`AdaptiveParameters`: projectors predict it from photos, free
``nn.Parameter``s hold it for one person, and the layers only read it. Letters in shapes: P people, B images, C
channels. Either P = B, or P = 1 and one person's values serve all images.

Conventions of the released model: LeakyReLU(0.2) everywhere, nearest x2 up, mean of 2x2 down, zero padding, eps 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as distributed_functional
from torch.nn import functional

EPSILON = 1e-7  # of batch norms and of the spectral norm, as in the released checkpoints
Resize = Literal["none", "up", "down"]
Images = Float[Tensor, "_images _channels _height _width"]  # the axes of two of them may differ


@dataclass(frozen=True)
class ChannelAffine:
    """``y * (1 + scale) + shift``, one pair for a channel of a person."""

    scale: Float[Tensor, "people channels"]
    shift: Float[Tensor, "people channels"]


@dataclass(frozen=True)
class PixelLinear:
    """A 1x1 convolution of a person."""

    weight: Float[Tensor, "people outputs inputs"]
    bias: Float[Tensor, "people outputs"]


@dataclass(frozen=True)
class PixelAffine:
    """``y * (1 + scale(F)) + shift(F)`` with the learned map F of a :class:`SpadeNorm`."""

    scale: PixelLinear
    shift: PixelLinear


@dataclass(frozen=True)
class AdaptiveParameters:
    """All that a generator knows of a person; block 0 is the one of lowest resolution.

    Attributes:
        norms: two for a block i, at 2i and 2i + 1: that between its convolutions, and that at the entry of block i + 1
            (for the last block: that before the heads). The norm at the entry of block 0 is not adaptive.
        skips: the 1x1 convolution beside each block.
    """

    norms: tuple[ChannelAffine, ...] | tuple[PixelAffine, ...]
    skips: tuple[PixelLinear, ...]


def activate(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def upsampled(x: Images) -> Images:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def halved(x: Images) -> Images:
    return functional.avg_pool2d(x, 2)


def apply_pixel_linear(x: Images, linear: PixelLinear) -> Images:
    """The 1x1 convolution of each person; ``x`` of one image serves all people."""
    people, outputs, inputs = linear.weight.shape
    if people == 1:
        return functional.conv2d(x, linear.weight[0, :, :, None, None], linear.bias[0])
    images, _, height, width = x.shape
    if images == 1:
        weight = linear.weight.reshape(people * outputs, inputs, 1, 1)
        return functional.conv2d(x, weight, linear.bias.reshape(-1)).reshape(people, outputs, height, width)
    if images != people:
        raise ValueError(f"apply_pixel_linear: {images} images with the values of {people} people; give one or as many")
    return torch.baddbmm(linear.bias[:, :, None], linear.weight, x.flatten(2)).reshape(people, outputs, height, width)


# ------------------------------------------------------------------------------------------------------------- norms


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with eps 1e-7 whose scale and shift may come from outside.

    While training in several processes (``torch.distributed`` is initialised), its statistics are those of the batch of
    all of them, on any device; every process must bring as many images.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, eps=EPSILON, affine=affine)

    def forward(self, x: Images, weight: Tensor | None = None, bias: Tensor | None = None) -> Images:
        """``weight`` and ``bias``, (C,), stand in for those of the module."""
        weight = self.weight if weight is None else weight
        bias = self.bias if bias is None else bias
        momentum = self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked) if momentum is None else momentum
            if process_count() > 1:
                return self._over_processes(x, weight, bias, momentum)
        mean, variance = self.running_mean, self.running_var
        return functional.batch_norm(x, mean, variance, weight, bias, self.training, momentum or 0.0, self.eps)

    def _over_processes(self, x: Images, weight: Tensor | None, bias: Tensor | None, momentum: float) -> Images:
        here = torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)])
        means, variances = everyones(here[None]).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        with torch.no_grad():
            count = x.numel() / x.shape[1] * process_count()
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), momentum)
        scale = (variance + self.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


def process_count() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def everyones(values: Tensor) -> Tensor:
    """``values`` of all processes, one after the other in the first axis; differentiable, equal sizes needed.

    With a loss of them that all processes compute alike, the mean of the processes' gradients is the gradient of that
    loss: each process's own values receive the sum of all processes' gradients.
    """
    if process_count() == 1:
        return values
    return torch.cat(distributed_functional.all_gather(values.contiguous()))


class AdaptiveNorm(nn.Module):
    """Batch norm, then the scale and shift of a person."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels, affine=False)

    def forward(self, x: Images, person: ChannelAffine) -> Images:
        if len(person.scale) == 1:
            return self.norm(x, 1 + person.scale[0], person.shift[0])
        return torch.addcmul(person.shift[:, :, None, None], self.norm(x), 1 + person.scale[:, :, None, None])


class SpadeNorm(nn.Module):
    """Batch norm, then a scale and a shift for each pixel: a person's 1x1 convolutions of a learned map (AdaSPADE)."""

    def __init__(self, channels: int, size_px: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels, affine=False)
        self.features = nn.Parameter(torch.empty(1, channels, size_px, size_px))
        nn.init.kaiming_uniform_(self.features, a=5**0.5)

    def forward(self, x: Images, person: PixelAffine) -> Images:
        scale = apply_pixel_linear(self.features, person.scale)
        shift = apply_pixel_linear(self.features, person.shift)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


def standing_statistics(model: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """Set the running statistics of all batch norms to their mean over ``passes``; every other layer is in eval mode.

    Each of ``passes`` is called once, without gradients, and must run ``model`` on one batch. Leaves ``model`` in eval
    mode. After training with small batches these means serve better than a decaying average.
    """
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    try:
        with torch.no_grad():
            for run in passes:
                run()
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()


# ------------------------------------------------------------------------------------------------------------ blocks


class ResidualBlock(nn.Module):
    """norm, act, [up], conv, norm, act | conv, [down], plus a 1x1 convolution beside them where the shape changes."""

    def __init__(self, inputs: int, outputs: int, resize: Resize = "none", normed: bool = False) -> None:
        super().__init__()
        self.resize = resize
        self.norm1 = BatchNorm(inputs) if normed else None
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = BatchNorm(outputs) if normed else None
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or resize != "none" else None

    def features(self, x: Images) -> Images:
        """The first half, to its second activation."""
        h = activate(x if self.norm1 is None else self.norm1(x))
        h = self.conv1(upsampled(h) if self.resize == "up" else h)
        return activate(h if self.norm2 is None else self.norm2(h))

    def forward(self, x: Images) -> tuple[Images, Images]:
        """The output of the block, and that of its first half."""
        features = self.features(x)
        h = self.conv2(features)
        # A 1x1 convolution commutes with both resizings, so it is done where there are fewer pixels.
        if self.resize == "down":
            x, h = halved(x), halved(h)
        if self.skip is not None:
            x = self.skip(x)
        return h + (upsampled(x) if self.resize == "up" else x), features


class AdaptiveBlock(nn.Module):
    """A residual block that doubles the size; its second norm and its skip are a person's, the first where it has one.

    Args:
        size_px: of the input; needed for ``spade``.
        spade: scale and shift differ between pixels, and the upsampling stands before the first convolution
            (texture generator). Otherwise they are one pair for a channel, and it stands before the second.
        plain_entry: the first norm is an ordinary batch norm.
    """

    def __init__(self, inputs: int, outputs: int, size_px: int, spade: bool, plain_entry: bool) -> None:
        super().__init__()
        self.spade = spade
        if plain_entry:
            self.norm1: nn.Module = BatchNorm(inputs)
        else:
            self.norm1 = SpadeNorm(inputs, size_px) if spade else AdaptiveNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = SpadeNorm(outputs, 2 * size_px) if spade else AdaptiveNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(
        self,
        x: Images,
        entry: ChannelAffine | PixelAffine | None,
        middle: ChannelAffine | PixelAffine,
        skip: PixelLinear,
    ) -> Images:
        h = activate(self.norm1(x) if entry is None else self.norm1(x, entry))
        if self.spade:
            h = activate(self.norm2(self.conv1(upsampled(h)), middle))
        else:
            h = upsampled(activate(self.norm2(self.conv1(h), middle)))
        return self.conv2(h) + upsampled(apply_pixel_linear(x, skip))
