"""Networks of the few-shot model: embedder, AdaIN generator, projection discriminator (Zakharov et al., ICCV 2019).

There is no official code; widths, norms and counts are those of the co-author's later modules, without the paper's
self-attention. Every convolution and linear layer is spectrally normalised (eps 1e-4), ReLU throughout, zero padding,
nearest upsampling, mean pooling. Images and landmark pictures are RGB in [-1, 1], NCHW, square. All is differentiable
in parameters and images.

What depends on a person is an explicit vector of AdaIN values: the norms in order, for each first the shifts (C), then
the factors (C). One row serves all images, or there is one row for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from manvatar.errors import UserError

EPSILON = 1e-4
EMBEDDING = 512  # length of a person's vector, at the widths of the paper
_DOWN = 4  # halvings of the generator before its residual blocks, and doublings behind them
_RESIDUAL = 4
_SMALLEST_PX = 4  # what embedder and discriminator end with

Images = Float[Tensor, "images channels height width"]


def _conv(inputs: int, outputs: int, size: int = 3, bias: bool = True) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias), eps=EPSILON)


def _linear(inputs: int, outputs: int) -> nn.Module:
    return spectral_norm(nn.Linear(inputs, outputs), eps=EPSILON)


def _steps(image_size_px: int, smallest_px: int) -> int:
    steps = int(math.log2(max(1, image_size_px // smallest_px)))
    if steps < 1 or smallest_px * 2**steps != image_size_px:
        raise UserError(
            f"image_size_px = {image_size_px} is not possible; give a power of two, {2 * smallest_px} or more"
        )
    return steps


def _normalized(x: Images) -> Images:
    return functional.instance_norm(x, eps=EPSILON)


class InstanceNorm(nn.Module):
    """Instance norm whose scale and shift are its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Images) -> Tensor:
        return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPSILON)


class FirstBlock(nn.Module):
    """What every network begins with: convolutions without a norm, halved, and a 1x1 convolution beside them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(inputs, outputs), _conv(outputs, outputs)
        self.skip = _conv(inputs, outputs, 1)

    def forward(self, x: Images) -> Tensor:
        h = self.conv2(functional.relu(self.conv1(x)))
        return functional.avg_pool2d(h, 2) + self.skip(functional.avg_pool2d(x, 2))


class Block(nn.Module):
    """[norm], ReLU, conv, [norm], ReLU, conv, [halved], plus what came in, through a 1x1 convolution where shapes
    differ."""

    def __init__(self, inputs: int, outputs: int, down: bool, normed: bool) -> None:
        super().__init__()
        self.down = down
        self.norm1 = InstanceNorm(inputs) if normed else nn.Identity()
        self.norm2 = InstanceNorm(outputs) if normed else nn.Identity()
        self.conv1, self.conv2 = _conv(inputs, outputs, bias=not normed), _conv(outputs, outputs)
        self.skip = _conv(inputs, outputs, 1) if down or inputs != outputs else None

    def forward(self, x: Images) -> Tensor:
        h = self.conv1(functional.relu(self.norm1(x)))
        h = self.conv2(functional.relu(self.norm2(h)))
        if self.down:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        return h + (x if self.skip is None else self.skip(x))


class AdaptiveBlock(nn.Module):
    """AdaIN, ReLU, [doubled], conv, AdaIN, ReLU, conv, plus what came in."""

    def __init__(self, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        self.up, self.channels = up, (inputs, outputs)
        self.conv1, self.conv2 = _conv(inputs, outputs, bias=False), _conv(outputs, outputs)
        self.skip = _conv(inputs, outputs, 1) if up or inputs != outputs else None

    def forward(self, x: Images, entry: tuple[Tensor, Tensor], middle: tuple[Tensor, Tensor]) -> Tensor:
        h = functional.relu(_adaptive(x, *entry))
        h = self.conv1(functional.interpolate(h, scale_factor=2.0, mode="nearest") if self.up else h)
        h = self.conv2(functional.relu(_adaptive(h, *middle)))
        x = x if self.skip is None else self.skip(x)  # 1x1: the same before the doubling, on a quarter of the pixels
        return h + (functional.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


def _adaptive(x: Images, shift: Float[Tensor, "people channels"], factor: Float[Tensor, "people channels"]) -> Images:
    """AdaIN: instance norm, times ``factor``, plus ``shift``."""
    return torch.addcmul(shift[:, :, None, None].to(x.dtype), _normalized(x), factor[:, :, None, None].to(x.dtype))


# ---------------------------------------------------------------------------------------------------------- networks


def _down_widths(steps: int, width: int, max_width: int) -> list[int]:
    return [min(width * 2**step, max_width) for step in range(steps)]


class Embedder(nn.Module):
    """A person's frames with their landmark pictures -> a vector: summed over 4x4 places, then the mean over frames.

    14.83 M parameters at the paper's widths.
    """

    def __init__(self, width: int = 64, max_width: int = EMBEDDING, image_size_px: int = 256) -> None:
        super().__init__()
        widths = _down_widths(_steps(image_size_px, _SMALLEST_PX), width, max_width)
        self.first = FirstBlock(6, widths[0])
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.ModuleList(Block(a, b, down=True, normed=False) for a, b in pairs)
        self.channels = widths[-1]

    def forward(
        self, images: Float[Tensor, "people frames 3 size size"], stickmen: Float[Tensor, "people frames 3 size size"]
    ) -> Float[Tensor, "people frames channels"]:
        """One vector for each frame; their mean over the frames is the person's."""
        h = self.first(torch.cat([images, stickmen], 2).flatten(0, 1))
        for block in self.blocks:
            h = block(h)
        return functional.relu(h).sum((2, 3)).unflatten(0, images.shape[:2])


class Generator(nn.Module):
    """A landmark picture and a person's AdaIN values -> the image, with whatever background the person was seen with.

    31.2 M parameters at the paper's widths; 13,056 AdaIN values.
    """

    def __init__(self, width: int = 64, max_width: int = EMBEDDING, image_size_px: int = 256) -> None:
        super().__init__()
        _steps(image_size_px, 2**_DOWN)
        widths = [min(width * 2**step, max_width) for step in range(_DOWN)]
        self.first = FirstBlock(3, widths[0])
        self.down = nn.ModuleList(Block(a, b, down=True, normed=True) for a, b in zip(widths, widths[1:], strict=False))
        ups = [widths[-1], *reversed(widths)]
        blocks = [AdaptiveBlock(widths[-1], widths[-1], up=False) for _ in range(_RESIDUAL)]
        blocks += [AdaptiveBlock(a, b, up=True) for a, b in zip(ups, ups[1:], strict=False)]
        self.blocks = nn.ModuleList(blocks)
        self.head = _conv(widths[0], 3)
        self.norm_channels = [count for block in blocks for count in block.channels] + [widths[0]]

    @property
    def adaptive_values(self) -> int:
        """Length of a person's vector of AdaIN values."""
        return 2 * sum(self.norm_channels)

    def neutral(self) -> Float[Tensor, "1 values"]:
        """AdaIN values that leave instance norms as they are: shifts 0, factors 1."""
        parts = [torch.cat([torch.zeros(count), torch.ones(count)]) for count in self.norm_channels]
        return torch.cat(parts)[None]

    def forward(
        self, stickmen: Float[Tensor, "images 3 size size"], person: Float[Tensor, "people values"]
    ) -> Float[Tensor, "images 3 size size"]:
        if person.shape[1] != self.adaptive_values:
            raise ValueError(f"Generator takes {self.adaptive_values} AdaIN values, got {person.shape[1]}")
        parts = iter(person.split([count for count in self.norm_channels for _ in range(2)], dim=1))
        norms = list(zip(parts, parts, strict=True))
        h = self.first(stickmen)
        for block in self.down:
            h = block(h)
        for index, block in enumerate(self.blocks):
            h = block(h, norms[2 * index], norms[2 * index + 1])
        return self.head(functional.relu(_adaptive(h, *norms[-1]))).tanh()


@dataclass(frozen=True)
class Judgement:
    """What a discriminator says."""

    score: Float[Tensor, "images"]
    features: tuple[Tensor, ...]  # outputs of its blocks, for feature matching


class ProjectionDiscriminator(nn.Module):
    """Image, landmark picture and video -> a score: ``V . W_i + V . w0 + b`` (projection discriminator).

    ``W``, (videos, channels), are the vectors of the training videos, kept near the embedder's by the matching loss.
    20.06 M parameters at the paper's widths with 1000 videos.
    """

    def __init__(self, videos: int = 1, width: int = 64, max_width: int = EMBEDDING, image_size_px: int = 256) -> None:
        super().__init__()
        widths = _down_widths(_steps(image_size_px, _SMALLEST_PX), width, max_width)
        self.first = FirstBlock(6, widths[0])
        pairs = zip(widths, widths[1:], strict=False)
        blocks = [Block(a, b, down=True, normed=False) for a, b in pairs]
        self.blocks = nn.ModuleList([*blocks, Block(widths[-1], widths[-1], down=False, normed=False)])
        self.videos = nn.Parameter(torch.empty(videos, widths[-1]).uniform_(-0.1, 0.1))
        self.linear = _linear(widths[-1], 1)

    def forward(
        self,
        images: Float[Tensor, "images 3 size size"],
        stickmen: Float[Tensor, "images 3 size size"],
        video: Int[Tensor, "images"],
    ) -> Judgement:
        features = [self.first(torch.cat([images, stickmen], 1))]
        for block in self.blocks:
            features.append(block(features[-1]))
        pooled = functional.relu(features[-1]).sum((2, 3))
        score = (pooled * self.videos[video]).sum(1) + self.linear(pooled)[:, 0]
        return Judgement(score, tuple(features))


class FewShotModel(nn.Module):
    """Embedder, the projection from a person's vector to AdaIN values, and generator."""

    def __init__(self, width: int = 64, max_width: int = EMBEDDING, image_size_px: int = 256) -> None:
        super().__init__()
        self.embedder = Embedder(width, max_width, image_size_px)
        self.generator = Generator(width, max_width, image_size_px)
        self.projection = _linear(self.embedder.channels, self.generator.adaptive_values)
        with torch.no_grad():  # factors begin at 1 whatever the embedding is: a tiny embedding must not blank images
            self.projection.bias.copy_(self.generator.neutral()[0])

    def forward(
        self,
        images: Float[Tensor, "people frames 3 size size"],
        stickmen: Float[Tensor, "people frames 3 size size"],
        target_stickman: Float[Tensor, "people 3 size size"],
    ) -> tuple[Float[Tensor, "people frames channels"], Float[Tensor, "people 3 size size"]]:
        """The vector of each frame, and each person in one more pose."""
        vectors = self.embedder(images, stickmen)
        return vectors, self.generator(target_stickman, self.person(vectors.mean(1)))

    def person(self, embedding: Float[Tensor, "people channels"]) -> Float[Tensor, "people values"]:
        """AdaIN values of a person from the mean of their frames' vectors."""
        return self.projection(embedding)
