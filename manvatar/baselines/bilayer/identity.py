"""From photos of a person to the values the generators take: the identity embedder and the projectors.

A projector predicts each adaptive item (a norm, a 1x1 convolution) with three linear layers in a row, without
activations, one row of its input for each output channel. That product is one affine map, and the input is a
replicated 8x8 map, so :meth:`Projector.collapsed` gives the same values from 35 to 50 times fewer parameters. The
factored form is for training: the factors and their spectral norms are what regularises it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from manvatar.baselines.bilayer.blocks import (
    AdaptiveParameters,
    ChannelAffine,
    Images,
    PixelAffine,
    PixelLinear,
    ResidualBlock,
)
from manvatar.baselines.bilayer.generators import START_SIZE_PX
from manvatar.errors import UserError

EMBEDDING_SIZE_PX = 8
_ROW_SIZE_PX = 32  # side of the pooled map where a generator is as wide as the embedder


class IdentityEmbedder(nn.Module):
    """Photos and their landmark drawings -> one map for each generator block, all 8x8.

    Args:
        width, max_width: channels at the full size, and the most.
        texture_width, texture_max_width: those of the texture generator; embedding k has as many channels as the
            output of its block k.
    """

    def __init__(
        self,
        width: int = 64,
        max_width: int = 512,
        texture_width: int = 64,
        texture_max_width: int = 512,
        image_size_px: int = 256,
    ) -> None:
        super().__init__()
        down = int(math.log2(image_size_px // EMBEDDING_SIZE_PX))
        blocks = int(math.log2(image_size_px // START_SIZE_PX))
        widths = [min(width * 2**step, max_width) for step in range(down + 1)]
        self.first = nn.Conv2d(6, width, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(a, b, "down") for a, b in zip(widths, widths[1:], strict=False))
        self.widths = [min(texture_width * 2**step, texture_max_width) for step in range(blocks - 1, -1, -1)]
        flat = [widths[-1], *self.widths]
        self.flat = nn.ModuleList(ResidualBlock(a, b) for a, b in zip(flat, flat[1:], strict=False))

    def forward(self, photos: Images, photos_per_person: int = 1) -> list[Tensor]:
        """One (people, C, 8, 8) for each generator block, of lowest resolution first.

        Args:
            photos: (people * photos_per_person, 6, H, W): RGB, black where the matte is 0, and the landmark drawing,
                all in [-1, 1]; the photos of a person follow each other.
        """
        h = self.first(photos)
        for block in self.down:
            h, _ = block(h)
        if photos_per_person > 1:
            h = h.reshape(-1, photos_per_person, *h.shape[1:]).mean(1)
        embeddings = []
        for block in self.flat[:-1]:
            h, features = block(h)
            embeddings.append(features)
        return [*embeddings, self.flat[-1].features(h)]  # nothing reads what the last block would add


class _Rows:
    """How the embedding of one generator block is laid out: one row for each output channel of the block."""

    def __init__(self, embedder_inputs: int, inputs: int, outputs: int) -> None:
        self.hidden = embedder_inputs
        self.inputs, self.outputs = inputs, outputs
        self.maps = embedder_inputs // inputs  # neighbouring maps in a row
        self.size_px = _ROW_SIZE_PX // self.maps
        if self.maps < 1 or self.maps * inputs != embedder_inputs or self.size_px < 1:
            sizes = f"{inputs} channels beside an embedder of {embedder_inputs}"
            raise UserError(f"a generator block of {sizes} is not possible; its width must divide the embedder's")

    @property
    def features(self) -> int:
        return self.maps * self.size_px**2

    def pooled(self, embedding: Images) -> Float[Tensor, "people rows features"]:
        pooled = functional.adaptive_avg_pool2d(embedding, self.size_px)
        return pooled.reshape(len(embedding), -1, self.features)

    def raw(self, embedding: Images) -> Float[Tensor, "people rows features"]:
        return embedding.reshape(len(embedding), -1, self.maps * EMBEDDING_SIZE_PX**2)

    def collapsed(self, factors: nn.Sequential) -> nn.Linear:
        """The one layer on raw rows that equals ``factors`` on pooled rows; worked out in float64."""
        first, middle, last = ((factor.weight.double(), factor.bias.double()) for factor in factors)
        weight = last[0] @ middle[0]
        bias = weight @ first[1] + last[0] @ middle[1] + last[1]
        pixels = EMBEDDING_SIZE_PX**2
        # What pooling does to each pixel of the 8x8 map: for bigger maps, replication.
        each = torch.eye(pixels, dtype=weight.dtype, device=weight.device)
        each = each.reshape(pixels, 1, EMBEDDING_SIZE_PX, EMBEDDING_SIZE_PX)
        pooling = functional.adaptive_avg_pool2d(each, self.size_px).reshape(pixels, -1)
        weight = (weight @ first[0]).reshape(-1, self.maps, self.size_px**2) @ pooling.T
        layer = nn.Linear(self.maps * pixels, len(bias), device=weight.device, dtype=factors[0].weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight.flatten(1))
            layer.bias.copy_(bias)
        return layer


class Projector(nn.Module):
    """Embeddings -> :class:`AdaptiveParameters` of a generator.

    Args:
        generator_widths: channels of the generator at 4, 8, ... pixels.
        embedder_width, embedder_max_width: of the identity embedder.
        spade: for a texture generator, whose norms have two 1x1 convolutions each.
    """

    def __init__(
        self, generator_widths: list[int], spade: bool, embedder_width: int = 64, embedder_max_width: int = 512
    ) -> None:
        super().__init__()
        blocks = len(generator_widths) - 1
        self.spade = spade
        self.rows = []
        self.items = nn.ModuleList()
        for i in range(blocks):
            inputs, outputs = generator_widths[i : i + 2]
            rows = _Rows(min(embedder_width * 2 ** (blocks - i), embedder_max_width), inputs, outputs)
            norm = [outputs + 1] * 2 if spade else [2]
            self.rows.append(rows)
            sizes = [*norm, inputs + 1, *norm]  # norm within the block, skip, norm after the block
            self.items.append(nn.ModuleList(_factors(rows.features, rows.hidden, size) for size in sizes))

    def forward(self, embeddings: list[Tensor]) -> AdaptiveParameters:
        values = [
            [item(rows.pooled(embedding)) for item in items]
            for rows, items, embedding in zip(self.rows, self.items, embeddings, strict=True)
        ]
        return _parameters(values, self.spade)

    def collapsed(self) -> CollapsedProjector:
        """The same function in its small form; of the weights as they are now, spectral norm applied."""
        with torch.no_grad():
            items = [
                [rows.collapsed(item) for item in items] for rows, items in zip(self.rows, self.items, strict=True)
            ]
        return CollapsedProjector(self.rows, items, self.spade).train(self.training)


class CollapsedProjector(nn.Module):
    """A :class:`Projector` with each item's layers multiplied into one."""

    def __init__(self, rows: list[_Rows], items: list[list[nn.Linear]], spade: bool) -> None:
        super().__init__()
        self.spade = spade
        self.rows = rows
        self.items = nn.ModuleList(nn.ModuleList(block) for block in items)

    def forward(self, embeddings: list[Tensor]) -> AdaptiveParameters:
        values = [
            [item(rows.raw(embedding)) for item in items]
            for rows, items, embedding in zip(self.rows, self.items, embeddings, strict=True)
        ]
        return _parameters(values, self.spade)


def _factors(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs))


def _linear(rows: Float[Tensor, "people outputs values"]) -> PixelLinear:
    return PixelLinear(rows[..., :-1], rows[..., -1])


def _parameters(values: list[list[Tensor]], spade: bool) -> AdaptiveParameters:
    """``values``: for each block the items in the order of :class:`Projector`."""
    norms: list[ChannelAffine] | list[PixelAffine] = []
    for items in values:
        if spade:
            norms += [PixelAffine(_linear(items[k]), _linear(items[k + 1])) for k in (0, 3)]
        else:
            norms += [ChannelAffine(items[k][..., 0], items[k][..., 1]) for k in (0, 2)]
    skips = [_linear(items[2 if spade else 1]) for items in values]
    return AdaptiveParameters(tuple(norms), tuple(skips))
