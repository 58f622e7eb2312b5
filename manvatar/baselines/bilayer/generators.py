"""The generators of the bi-layer model: keypoints -> low-frequency image, warp and mask; a person -> texture.

A frame is ``low_frequency + grid_sample(texture, identity grid + warp)``. Images are RGB in [-1, 1], NCHW, square;
keypoints are the 68 iBUG points as x0, y0, x1, y1, ... with -1 and 1 on the borders of the image. Everything is
differentiable in parameters and inputs. Zakharov et al., "Fast Bi-layer Neural Synthesis of One-Shot Realistic Head
Avatars", ECCV 2020, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from manvatar.baselines.bilayer.blocks import (
    AdaptiveBlock,
    AdaptiveNorm,
    AdaptiveParameters,
    ChannelAffine,
    Images,
    PixelLinear,
    SpadeNorm,
    activate,
)
from manvatar.errors import UserError

KEYPOINTS = 68
START_SIZE_PX = 4  # of the input of the generators
_HIDDEN = 256


@dataclass(frozen=True)
class InferenceOutput:
    """What one pose of a person looks like, before the texture is laid on."""

    warp: Float[Tensor, "images 2 height width"]  # (x, y) to add to the identity grid; [-1, 1], 2 is the whole image
    low_frequency: Float[Tensor, "images 3 height width"]  # [-1, 1]
    mask_logits: Float[Tensor, "images 1 height width"] | None  # of the person; None where the model has no such head


def generator_widths(width: int, max_width: int, image_size_px: int) -> list[int]:
    """Channels at 4, 8, ... ``image_size_px`` pixels: ``width`` at the last, doubled at each step down, bounded."""
    blocks = int(math.log2(image_size_px / START_SIZE_PX))
    if blocks < 1 or START_SIZE_PX * 2**blocks != image_size_px:
        raise UserError(f"image_size_px = {image_size_px} is not possible; give a power of two, 8 or more")
    if width < 1 or max_width < width:
        raise UserError(f"width = {width} with max_width = {max_width} is not possible; give 1 <= width <= max_width")
    return [min(width * 2**step, max_width) for step in range(blocks, -1, -1)]


class KeypointEmbedder(nn.Module):
    """Keypoints -> the 4x4 features the inference generator starts from; a network of four linear layers.

    Args:
        features: channels of the output: that of the inference generator's input, :attr:`InferenceGenerator.inputs`.
        keypoints: how many points there are.
        octaves: with k octaves the network sees sin and cos of pi 2^0..2^(k-1) times each coordinate instead of it.
    """

    def __init__(self, features: int = 256, octaves: int = 0, keypoints: int = KEYPOINTS) -> None:
        super().__init__()
        self.octaves = octaves
        inputs = 2 * keypoints * (2 * octaves if octaves else 1)
        sizes = [inputs, _HIDDEN, _HIDDEN, _HIDDEN, features * START_SIZE_PX**2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, keypoints: Float[Tensor, "images coordinates"]) -> Float[Tensor, "images features 4 4"]:
        h = self._harmonics(keypoints) if self.octaves else keypoints
        for layer in self.layers[:-1]:
            h = activate(layer(h))
        return self.layers[-1](h).reshape(keypoints.shape[0], -1, START_SIZE_PX, START_SIZE_PX)

    def _harmonics(self, keypoints: Float[Tensor, "images coordinates"]) -> Float[Tensor, "images terms"]:
        scales = math.pi * 2.0 ** torch.arange(self.octaves, dtype=keypoints.dtype, device=keypoints.device)
        angles = (keypoints[:, :, None] * scales).flatten(1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class _AdaptiveGenerator(nn.Module):
    """The trunk both generators share: blocks that double the size, and a last norm."""

    def __init__(self, width: int, max_width: int, image_size_px: int, spade: bool) -> None:
        super().__init__()
        self.image_size_px = image_size_px
        self.widths = generator_widths(width, max_width, image_size_px)
        self.inputs = self.widths[0]
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        self.blocks = nn.ModuleList(
            AdaptiveBlock(a, b, START_SIZE_PX * 2**i, spade, plain_entry=i == 0) for i, (a, b) in enumerate(pairs)
        )
        self.last_norm = SpadeNorm(width, image_size_px) if spade else AdaptiveNorm(width)

    def _trunk(self, x: Images, person: AdaptiveParameters) -> Images:
        expected = 2 * len(self.blocks), len(self.blocks)
        if (len(person.norms), len(person.skips)) != expected:
            got = f"{len(person.norms)} norms and {len(person.skips)} skips"
            raise ValueError(
                f"a generator of {expected[1]} blocks takes {expected[0]} norms, {expected[1]} skips, got {got}"
            )
        for i, block in enumerate(self.blocks):
            entry = person.norms[2 * i - 1] if i else None
            x = block(x, entry, person.norms[2 * i], person.skips[i])
        return activate(self.last_norm(x, person.norms[-1]))


class InferenceGenerator(_AdaptiveGenerator):
    """Pose features and a person -> warp, low-frequency image and mask. 32/256 is the released, "medium" width.

    Args:
        width, max_width: channels at the full size, and the most; 16/128 is the small, 64/512 the large variant.
        image_size_px: side of the image, a power of two.
        masked: whether there is a head for the person's mask.
    """

    def __init__(self, width: int = 32, max_width: int = 256, image_size_px: int = 256, masked: bool = True) -> None:
        super().__init__(width, max_width, image_size_px, spade=False)
        self.warp_head = nn.Conv2d(width, 2, 3, padding=1)
        self.low_frequency_head = nn.Conv2d(width, 3, 3, padding=1)
        self.mask_head = nn.Conv2d(width, 1, 3, padding=1) if masked else None

    def forward(self, pose_features: Float[Tensor, "images inputs 4 4"], person: AdaptiveParameters) -> InferenceOutput:
        h = self._trunk(pose_features, person)
        mask_logits = None if self.mask_head is None else self.mask_head(h)
        return InferenceOutput(self.warp_head(h).tanh(), self.low_frequency_head(h).tanh(), mask_logits)


class TextureGenerator(_AdaptiveGenerator):
    """A person -> their texture, in [-1, 1]; what differs between people are AdaSPADE maps of a constant start."""

    def __init__(self, width: int = 64, max_width: int = 512, image_size_px: int = 256) -> None:
        super().__init__(width, max_width, image_size_px, spade=True)
        self.start = nn.Parameter(torch.randn(1, self.inputs, START_SIZE_PX, START_SIZE_PX))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, person: AdaptiveParameters) -> Float[Tensor, "people 3 height width"]:
        people = len(person.skips[0].weight)
        return self.head(self._trunk(self.start.expand(people, -1, -1, -1), person)).tanh()


class FreePerson(nn.Module):
    """One person's :class:`AdaptiveParameters` for an inference generator as free parameters (no photo, no projector).

    They start as a model without people would: norms that change nothing, 1x1 convolutions drawn like any other.
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        pairs = list(zip(widths, widths[1:], strict=False))
        channels = [outputs for _, outputs in pairs for _ in range(2)]
        self.scales = nn.ParameterList(torch.zeros(1, count) for count in channels)
        self.shifts = nn.ParameterList(torch.zeros(1, count) for count in channels)
        skips = [nn.Linear(inputs, outputs) for inputs, outputs in pairs]
        self.weights = nn.ParameterList(skip.weight.detach()[None].clone() for skip in skips)
        self.biases = nn.ParameterList(skip.bias.detach()[None].clone() for skip in skips)

    @classmethod
    def from_parameters(cls, person: AdaptiveParameters) -> FreePerson:
        """Start from the values of a known person, e.g. predicted from a photo."""
        norms = [norm for norm in person.norms if isinstance(norm, ChannelAffine)]
        if len(norms) != len(person.norms) or len(norms[0].scale) != 1:
            raise ValueError("FreePerson.from_parameters takes the values of one person for an inference generator")
        free = cls([person.skips[0].weight.shape[2], *(skip.weight.shape[1] for skip in person.skips)])
        with torch.no_grad():
            for mine, theirs in zip(free.values(), _flat(person), strict=True):
                mine.copy_(theirs)
        return free

    def values(self) -> list[Tensor]:
        return [*self.scales, *self.shifts, *self.weights, *self.biases]

    def forward(self) -> AdaptiveParameters:
        norms = tuple(ChannelAffine(*pair) for pair in zip(self.scales, self.shifts, strict=True))
        return AdaptiveParameters(
            norms, tuple(PixelLinear(*pair) for pair in zip(self.weights, self.biases, strict=True))
        )


def _flat(person: AdaptiveParameters) -> list[Tensor]:
    values = [norm.scale for norm in person.norms] + [norm.shift for norm in person.norms]
    return values + [skip.weight for skip in person.skips] + [skip.bias for skip in person.skips]


# --------------------------------------------------------------------------------------------------------- composing


def identity_grid(size_px: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Where each pixel's own centre lies, (1, size, size, 2) as (x, y): -1 + (2 i + 1) / size."""
    line = (2 * torch.arange(size_px, device=device, dtype=dtype) + 1) / size_px - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)[None]


def warped(texture: Images, warp: Float[Tensor, "_images 2 height width"], align_corners: bool = False) -> Images:
    """The texture as ``warp`` places it: bilinear, zeros outside.

    Args:
        texture: of one person or of as many as there are images.
        align_corners: as torch before 1.3 sampled. The released weights may have been trained under it; the two
            differ by half a pixel at the border and not at the centre.
    """
    grid = identity_grid(warp.shape[-1], warp.device, warp.dtype) + warp.permute(0, 2, 3, 1)
    texture = texture.expand(warp.shape[0], -1, -1, -1)  # len() would fix the size of an exported graph
    return functional.grid_sample(texture, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)


def render(texture: Images, output: InferenceOutput, align_corners: bool = False) -> Images:
    """The image: low frequencies plus the warped texture. In [-2, 2]; clamp it to [-1, 1] for display only."""
    return output.low_frequency + warped(texture, output.warp, align_corners)


def masked(image: Images, mask: Float[Tensor, "_images 1 height width"]) -> Images:
    """``image`` on a background of -1 (black) where ``mask``, in [0, 1], is 0."""
    return image * mask - (1 - mask)
