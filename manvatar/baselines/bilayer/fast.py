"""The same networks, faster, for inference: equal to rounding, not differentiable.

* A 3x3 convolution of a doubled image sees each pixel up to four times. One 2x2 convolution of the small image with
  four times the outputs gives the same values from 4/9 of the multiplications (:class:`UpConvolution`).
* A 3x3 convolution and then the mean of 2x2 pixels is a 4x4 convolution with stride 2 (:class:`DownConvolution`).
* Running statistics, and for one person scale and shift, are folded into convolutions; the heads are one convolution.
* Channels last: what the CPU's and the GPU's convolutions want.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from manvatar.baselines.bilayer.blocks import (
    AdaptiveBlock,
    BatchNorm,
    Images,
    PixelAffine,
    PixelLinear,
    ResidualBlock,
    SpadeNorm,
    activate,
    apply_pixel_linear,
    halved,
)
from manvatar.baselines.bilayer.generators import InferenceGenerator, InferenceOutput, KeypointEmbedder, warped
from manvatar.baselines.bilayer.model import BilayerModel, Person

# ------------------------------------------------------------------------------------------------------ convolutions


class UpConvolution(nn.Module):
    """A 3x3 convolution of the image doubled (nearest), without doubling it."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.outputs = convolution.out_channels
        weight = convolution.weight.detach()
        # Beside an even row of the result lie small rows i-1, i, i; beside an odd one i, i, i+1. Columns alike.
        rows = [torch.stack([w.sum(2) for w in weight.split(sizes, 2)], 2) for sizes in ([1, 2], [2, 1])]
        kernels = [torch.stack([r.sum(3) for r in row.split(s, 3)], 3) for row in rows for s in ([1, 2], [2, 1])]
        self.weight = nn.Parameter(torch.cat(kernels).contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(convolution.bias.detach().clone())

    def forward(self, x: Images, beside: Images) -> Images:
        """The convolution plus ``beside``, (B, outputs, H, W), doubled."""
        together = functional.conv2d(x, self.weight, padding=1)  # (B, 4 outputs, H + 1, W + 1)
        return _interleaved(together, beside + self.bias[:, None, None])


def _interleaved(four: Images, beside: Images) -> Images:
    """Lay the four results of each place side by side; that of (row parity p, column parity q) starts at (p, q)."""
    images, channels, height, width = beside.shape
    four = four.permute(0, 2, 3, 1).contiguous()
    small = beside.permute(0, 2, 3, 1)[:, :, None, :, None]
    image, row, column, _ = four.stride()
    sizes = images, height, 2, width, 2, channels
    placed = four.as_strided(sizes, (image, row, row + 2 * channels, column, column + channels, 1))
    if torch.compiler.is_compiling():
        doubled = placed + small  # the compiler chooses the layout
    else:
        doubled = torch.empty(sizes, dtype=four.dtype, device=four.device)
        torch.add(placed, small, out=doubled)
    return doubled.reshape(images, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


class DownConvolution(nn.Module):
    """A 3x3 convolution and then the mean of 2x2 pixels, as one convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        spread = sum(functional.pad(convolution.weight.detach(), (q, 1 - q, p, 1 - p)) for p in (0, 1) for q in (0, 1))
        self.weight = nn.Parameter((spread / 4).contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(convolution.bias.detach().clone())

    def forward(self, x: Images) -> Images:
        return functional.conv2d(x, self.weight, self.bias, stride=2, padding=1)


def _scaled(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """The convolution followed by ``y * scale + shift`` for each channel."""
    folded = copy.deepcopy(convolution)
    folded.weight.data = (convolution.weight * scale[:, None, None, None]).detach()
    folded.bias.data = (convolution.bias * scale + shift).detach()
    return folded


def _standing(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in eval mode."""
    scale = (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean * scale
    return (scale * norm.weight, shift * norm.weight + norm.bias) if norm.affine else (scale, shift)


# ------------------------------------------------------------------------------------------------- once for a person


class FastResidualBlock(nn.Module):
    """A :class:`ResidualBlock` without norms."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        if block.norm1 is not None:
            raise ValueError("FastResidualBlock: the block has norms")
        self.resize = block.resize
        self.conv1 = UpConvolution(block.conv1) if block.resize == "up" else copy.deepcopy(block.conv1)
        self.conv2 = DownConvolution(block.conv2) if block.resize == "down" else copy.deepcopy(block.conv2)
        self.skip = copy.deepcopy(block.skip)

    def features(self, x: Images) -> Images:
        h = activate(x)
        if self.resize != "up":
            return functional.leaky_relu_(self.conv1(h), 0.2)
        nothing = h.new_zeros(len(h), self.conv1.outputs, *h.shape[2:])
        return functional.leaky_relu_(self.conv1(h, nothing), 0.2)

    def forward(self, x: Images) -> tuple[Images, Images]:
        features = self.features(x)
        h = self.conv2(features)
        x = halved(x) if self.resize == "down" else x
        x = x if self.skip is None else self.skip(x)
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest") if self.resize == "up" else x
        return h.add_(x), features


class FastSpadeNorm(nn.Module):
    """A :class:`SpadeNorm` in eval mode whose two maps are made by one convolution.

    Args:
        standing: scale and shift of its batch norm; None where the convolution before it has taken them.
    """

    def __init__(self, norm: SpadeNorm, standing: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.register_buffer("features", norm.features.detach().contiguous(memory_format=torch.channels_last))
        ones = torch.ones(norm.features.shape[1])
        scale, shift = standing if standing is not None else (ones, torch.zeros_like(ones))
        self.register_buffer("scale", scale.detach())
        self.register_buffer("shift", shift.detach())

    def forward(self, x: Images, person: PixelAffine) -> Images:
        # (x a + b) (1 + S) + T = x S' + T' with S' = a (1 + S) and T' = b (1 + S) + T, both 1x1 convolutions.
        a, b = self.scale, self.shift
        weight, bias = person.scale.weight, 1 + person.scale.bias
        weights = [a[:, None] * weight, b[:, None] * weight + person.shift.weight]
        biases = [a * bias, b * bias + person.shift.bias]
        both = apply_pixel_linear(self.features, PixelLinear(torch.cat(weights, 1), torch.cat(biases, 1)))
        scale, shift = both.chunk(2, 1)
        return torch.addcmul(shift, x, scale)


class FastTextureBlock(nn.Module):
    """An :class:`AdaptiveBlock` of the texture generator, in eval mode."""

    def __init__(self, block: AdaptiveBlock) -> None:
        super().__init__()
        plain = isinstance(block.norm1, BatchNorm)
        self.norm1 = copy.deepcopy(block.norm1) if plain else FastSpadeNorm(block.norm1, _standing(block.norm1.norm))
        self.conv1 = UpConvolution(_scaled(block.conv1, *_standing(block.norm2.norm)))
        self.norm2 = FastSpadeNorm(block.norm2, None)
        self.conv2 = copy.deepcopy(block.conv2)

    def forward(self, x: Images, entry: PixelAffine | None, middle: PixelAffine, skip: PixelLinear) -> Images:
        h = functional.leaky_relu_(self.norm1(x) if entry is None else self.norm1(x, entry), 0.2)
        h = self.conv1(h, h.new_zeros(len(h), self.conv1.outputs, *h.shape[2:]))
        h = self.conv2(functional.leaky_relu_(self.norm2(h, middle), 0.2))
        return h.add_(functional.interpolate(apply_pixel_linear(x, skip), scale_factor=2.0, mode="nearest"))


def accelerated(model: BilayerModel) -> BilayerModel:
    """A copy for inference of what runs once for a person: embedder, texture generator, enhancer.

    ``model`` is in eval mode, its spectral norm divided out. The copy's ``person`` and ``enhanced`` take and give what
    the model's do; call them under ``torch.no_grad``.
    """
    fast = copy.deepcopy(model).requires_grad_(False).eval()
    with torch.no_grad():
        networks = [fast.identity_embedder, *([fast.texture_enhancer] if fast.texture_enhancer is not None else [])]
        for network in networks:
            for blocks in (module for module in network.modules() if isinstance(module, nn.ModuleList)):
                for i, block in enumerate(blocks):
                    blocks[i] = FastResidualBlock(block)
        texture = fast.texture_generator
        texture.blocks = nn.ModuleList(FastTextureBlock(block) for block in texture.blocks)
        texture.last_norm = FastSpadeNorm(texture.last_norm, _standing(texture.last_norm.norm))
    return fast.to(memory_format=torch.channels_last).requires_grad_(False)


# -------------------------------------------------------------------------------------------------- once for a frame


class _FrameBlock(nn.Module):
    """A block of the inference generator, of one person, in eval mode."""

    def __init__(self, block: AdaptiveBlock, entry: tuple[Tensor, Tensor], middle: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.register_buffer("scale", entry[0][:, None, None].clone())
        self.register_buffer("shift", entry[1][:, None, None].clone())
        self.conv1 = _scaled(block.conv1, *middle)
        self.conv2: nn.Module = copy.deepcopy(block.conv2)
        self.skip = nn.Conv2d(block.conv1.in_channels, block.conv1.out_channels, 1).to(block.conv1.weight)

    def forward(self, x: Images) -> Images:
        h = functional.leaky_relu(torch.addcmul(self.shift, x, self.scale), 0.2)
        h = functional.leaky_relu(self.conv1(h), 0.2)
        if isinstance(self.conv2, UpConvolution):
            return self.conv2(h, self.skip(x))
        doubled = functional.interpolate(h, scale_factor=2.0, mode="nearest")
        return self.conv2(doubled) + functional.interpolate(self.skip(x), scale_factor=2.0, mode="nearest")


class FrameNetwork(nn.Module):
    """Keypoints -> frame of one person; everything that does not change from frame to frame is folded in.

    Args:
        keypoint_embedder, generator: trained, their spectral norm divided out; any device.
        person: of one person.
        exportable: plain layers only, as graph formats know them; slower here.
        align_corners: see :func:`manvatar.baselines.bilayer.generators.warped`.
    """

    def __init__(
        self,
        keypoint_embedder: KeypointEmbedder,
        generator: InferenceGenerator,
        person: Person,
        exportable: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if len(person.texture) != 1:
            raise ValueError(f"FrameNetwork takes one person, got {len(person.texture)}")
        self.exportable = exportable
        self.align_corners = align_corners
        self.keypoint_embedder = copy.deepcopy(keypoint_embedder)
        self.register_buffer("texture", person.texture.detach().clone())
        with torch.no_grad():
            self._fold(generator, person, exportable)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)

    def _fold(self, generator: InferenceGenerator, person: Person, exportable: bool) -> None:
        norms, skips = person.adaptive.norms, person.adaptive.skips

        def affine(norm: BatchNorm, index: int) -> tuple[Tensor, Tensor]:
            scale, shift = _standing(norm)
            factor = 1 + norms[index].scale[0]
            return scale * factor, shift * factor + norms[index].shift[0]

        blocks = []
        for i, block in enumerate(generator.blocks):
            entry = affine(block.norm1.norm, 2 * i - 1) if i else _standing(block.norm1)
            folded = _FrameBlock(block, entry, affine(block.norm2.norm, 2 * i))
            folded.skip.weight.copy_(skips[i].weight[0, :, :, None, None])
            folded.skip.bias.copy_(skips[i].bias[0])
            if not exportable:
                folded.conv2 = UpConvolution(folded.conv2)
            blocks.append(folded)
        self.blocks = nn.ModuleList(blocks)
        scale, shift = affine(generator.last_norm.norm, len(norms) - 1)
        self.register_buffer("scale", scale[:, None, None].clone())
        self.register_buffer("shift", shift[:, None, None].clone())
        heads = [generator.warp_head, generator.low_frequency_head]
        heads += [generator.mask_head] if generator.mask_head is not None else []
        self.head = nn.Conv2d(len(scale), sum(head.out_channels for head in heads), 3, padding=1).to(scale)
        self.head.weight.copy_(torch.cat([head.weight for head in heads]))
        self.head.bias.copy_(torch.cat([head.bias for head in heads]))

    def output(self, keypoints: Float[Tensor, "images coordinates"]) -> InferenceOutput:
        """Warp, low-frequency image and mask, in the precision of the texture."""
        h = self.keypoint_embedder(keypoints).to(self.head.weight.dtype, memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h)
        h = functional.leaky_relu(torch.addcmul(self.shift, h, self.scale), 0.2)
        heads = self.head(h).to(self.texture.dtype)
        logits = heads[:, 5:] if heads.shape[1] > 5 else None
        return InferenceOutput(heads[:, :2].tanh(), heads[:, 2:5].tanh(), logits)

    def forward(self, keypoints: Float[Tensor, "images coordinates"]) -> tuple[Images, Images]:
        """The image, RGB in [-2, 2], and the mask in [0, 1], all ones where the model has none."""
        output = self.output(keypoints)
        image = output.low_frequency + warped(self.texture, output.warp, self.align_corners)
        mask = torch.ones_like(image[:, :1]) if output.mask_logits is None else output.mask_logits.sigmoid()
        return image, mask

    def bfloat16(self) -> FrameNetwork:
        """Convolutions in bfloat16; keypoints, warp and texture stay float32. In place."""
        for module in [*self.blocks, self.head]:
            module.to(torch.bfloat16)
        self.scale, self.shift = self.scale.bfloat16(), self.shift.bfloat16()
        return self
