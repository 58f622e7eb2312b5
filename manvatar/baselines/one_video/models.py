"""One person as a 2D model: keypoints in, image and mask out; nothing else depends on who it is.

``bilayer``: the person-specific form of the bi-layer model. Embedder, projectors and texture generator of the model of
many people are constants for one of them, so a free texture and free adaptive values stand in their place; 5.8 M
parameters at 256 pixels. Not in the released model, and switched off by a setting: the texture, with its mean mask, is
laid onto the landmarks by a smooth map (:mod:`manvatar.baselines.one_video.alignment`), to which the network's warp is
added. On a CPU it would take the network most of its time to find that.

``fewshot``: the generator of the few-shot model with free AdaIN values, trained from nothing on one video. It is a
translator from landmark pictures to images, not the published few-shot method, and draws its own background, which is
white here. Not in the paper, and switched off by the same setting: it sees and draws the head upright and as large as
the image, and draws on a picture that begins as the mean of the frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from manvatar.baselines.bilayer.generators import (
    FreePerson,
    InferenceGenerator,
    KeypointEmbedder,
    identity_grid,
)
from manvatar.baselines.fewshot.networks import Generator
from manvatar.baselines.one_video.alignment import aligning_affine, aligning_grid, applied
from manvatar.baselines.one_video.config import MODELS, NetworkConfig
from manvatar.baselines.stickman import draw_stickman
from manvatar.errors import UserError

_LEAST_SPREAD = 1e-3  # of a shape's movement that has a mode; half an eighth of a pixel of 256
_EDGE, _ROOM = 0.1, 1.08  # where the mean matte of a head ends, and the room around it
_HEAD_START = 0.05  # the part of their random weights that the heads begin with

Images = Float[Tensor, "images channels size size"]


@dataclass(frozen=True)
class Portrait:
    """What a model shows; differentiable in its parameters."""

    image: Float[Tensor, "images 3 size size"]  # RGB, [-1, 1] but for overshoots; straight where there is a mask
    mask_logits: Float[Tensor, "images 1 size size"] | None  # None: the image has its own background, white
    low_frequency: Float[Tensor, "images 3 size size"] | None = None
    warp: Float[Tensor, "images 2 size size"] | None = None

    def on_white(self) -> Float[Tensor, "images 3 size size"]:
        """The image before white, in [-1, 1] but for overshoots."""
        return self.image if self.mask_logits is None else composited(self.image, self.mask_logits.sigmoid())


def composited(image: Images, mask: Float[Tensor, "images 1 size size"]) -> Images:
    """An image in [-1, 1] before white."""
    return image * mask + (1 - mask)


class BilayerPortrait(nn.Module):
    """Keypoint embedder, inference generator, free adaptive values, free texture."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        size = config.image_size_px
        self.generator = InferenceGenerator(config.width, config.max_width, size)
        self.embedder = KeypointEmbedder(self.generator.inputs, keypoints=config.points)
        self.person = FreePerson(self.generator.widths)
        self.texture = nn.Parameter(torch.zeros(1, 3, size, size))
        # Where the texture has the landmarks: before the network has learnt, it is laid onto those of the frame.
        self.register_buffer("texture_points", torch.zeros(1, config.points, 2))
        self.aligned = config.aligned
        self.modes = nn.Parameter(torch.zeros(config.texture_modes, 3, size, size)) if config.texture_modes else None
        if config.texture_modes:
            self.register_buffer("shape_mean", torch.zeros(2 * config.points))
            self.register_buffer("shape_map", torch.zeros(2 * config.points, config.texture_modes))
            self.register_buffer("weight_range", torch.zeros(2, config.texture_modes))
        self.register_buffer("mask_start", torch.zeros(1, 1, size, size))  # logits of the mask that comes with it
        # Keypoints as the embedder is given them: an affine map, which its first layer could absorb.
        self.register_buffer("keypoint_mean", torch.zeros(2 * config.points))
        self.register_buffer("keypoint_map", torch.eye(2 * config.points))

    def forward(self, keypoints: Float[Tensor, "images coordinates"]) -> Portrait:
        size, count = self.texture.shape[-1], len(keypoints)
        # Positions need more digits than bfloat16 has, whatever the convolutions are computed in.
        with torch.autocast(keypoints.device.type, enabled=False):
            seen = (keypoints - self.keypoint_mean) @ self.keypoint_map
            grid = identity_grid(size, keypoints.device)
            if self.aligned:
                grid = aligning_grid(keypoints.view(count, -1, 2), self.texture_points, size)
        features = self.embedder(seen).contiguous(memory_format=torch.channels_last)
        output = self.generator(features, self.person())
        warp, low_frequency = output.warp.float(), output.low_frequency.float()
        mask_logits = output.mask_logits.float()
        grid = grid + warp.permute(0, 2, 3, 1)
        laid = torch.cat([self.textures(keypoints), self.mask_start.expand(count, -1, -1, -1)], 1)
        laid = functional.grid_sample(laid, grid, padding_mode="border", align_corners=False)
        image, mask_logits = low_frequency + laid[:, :3], mask_logits + laid[:, 3:]
        return Portrait(image, mask_logits, low_frequency, warp)

    def textures(self, keypoints: Float[Tensor, "images coordinates"]) -> Images:
        """The texture as the face of each image has it."""
        texture = self.texture.float().expand(len(keypoints), -1, -1, -1)
        if self.modes is None:
            return texture
        with torch.autocast(keypoints.device.type, enabled=False):
            return texture + (self.mode_weights(keypoints) @ self.modes.float().flatten(1)).view(texture.shape)

    def mode_weights(self, keypoints: Float[Tensor, "images coordinates"]) -> Float[Tensor, "images modes"]:
        """How much of each mode: principal components of the landmarks' shape, of unit spread; no further than seen."""
        weights = (self._shapes(keypoints) - self.shape_mean) @ self.shape_map
        return weights.clamp(*self.weight_range)

    def _shapes(self, keypoints: Float[Tensor, "images coordinates"]) -> Float[Tensor, "images coordinates"]:
        """What is left of landmarks after the best affine map onto those of the texture."""
        points = keypoints.view(len(keypoints), -1, 2)
        return (applied(aligning_affine(points, self.texture_points), points) - self.texture_points).flatten(1)

    def start_from(
        self,
        texture: Float[Tensor, "1 3 size size"],
        mask: Float[Tensor, "1 1 size size"],
        keypoints: Float[Tensor, "frames coordinates"],
        whitening: float,
    ) -> None:
        """Begin with this texture, in [-1, 1], and its mask, in [0, 1], nearly in place, with little on top of them.

        Args:
            keypoints: of the training frames. The embedder sees them whitened: where a head turns much and its lips
                move little, a network that is given both as they are learns the turning by heart first.
            whitening: movements smaller than this (standard deviation; 1 = half the image) are not made larger;
                0 = keypoints stay as they are.
        """
        with torch.no_grad():
            self.texture_points.copy_(keypoints.mean(0).view(1, -1, 2))
            if whitening:
                mean, scale = _whitening(keypoints, whitening)
                self.keypoint_mean.copy_(mean), self.keypoint_map.copy_(scale)
            self.texture.copy_(texture.to(self.texture))
            if self.modes is not None:
                self._choose_modes(keypoints)
            if self.aligned:
                limit = 4.0  # so that sigmoids leave something to learn from
                self.mask_start.copy_(mask.to(self.texture).logit(1e-4).clamp(-limit, limit))
            for head in (self.generator.warp_head, self.generator.low_frequency_head, self.generator.mask_head):
                head.weight.mul_(_HEAD_START), head.bias.zero_()

    def _choose_modes(self, keypoints: Float[Tensor, "frames coordinates"]) -> None:
        shapes = self._shapes(keypoints.to(self.texture_points))
        mean, directions, spread = _principal(shapes)
        count = min(len(self.modes), int((spread > _LEAST_SPREAD).sum()))
        self.shape_mean.copy_(mean)
        self.shape_map[:, :count] = directions[:, :count] / spread[:count]
        weights = (shapes - mean) @ self.shape_map
        self.weight_range[0], self.weight_range[1] = weights.amin(0), weights.amax(0)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """By what sets their rate: "network", "adaptive", "texture" and "mode"."""
        network = [*self.embedder.parameters(), *self.generator.parameters()]
        groups = {"network": network, "adaptive": list(self.person.parameters()), "texture": [self.texture]}
        return groups if self.modes is None else groups | {"mode": [self.modes]}


class FewShotPortrait(nn.Module):
    """The AdaIN generator of the few-shot model, free AdaIN values, and the picture that it draws on."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.size_px = config.image_size_px
        self.generator = Generator(config.width, config.max_width, config.image_size_px)
        self.person = nn.Parameter(self.generator.neutral())
        self.picture = nn.Parameter(torch.zeros(1, 3, self.size_px, self.size_px)) if config.aligned else None
        if config.aligned:
            # Where generator and picture have the landmarks: upright, the head as large as the image.
            self.register_buffer("points", torch.zeros(1, config.points, 2))

    def forward(self, keypoints: Float[Tensor, "images coordinates"]) -> Portrait:
        if self.picture is None:
            return Portrait(self._drawn(keypoints), None)
        points = keypoints.view(len(keypoints), -1, 2)
        affine = aligning_affine(points, self.points)
        image = self.picture + self._drawn(applied(affine, points).flatten(1))
        grid = applied(affine, identity_grid(self.size_px, keypoints.device).view(1, -1, 2))
        grid = grid.view(len(points), self.size_px, self.size_px, 2)
        return Portrait(functional.grid_sample(image - 1, grid, align_corners=False) + 1, None)  # white beside it

    def _drawn(self, keypoints: Float[Tensor, "images coordinates"]) -> Images:
        stickmen = draw_stickman(keypoints, self.size_px, "fewshot").contiguous(memory_format=torch.channels_last)
        return self.generator(stickmen, self.person).float()

    def start_from(
        self,
        texture: Float[Tensor, "1 3 size size"],
        mask: Float[Tensor, "1 1 size size"],
        keypoints: Float[Tensor, "frames coordinates"],
        whitening: float,
    ) -> None:
        """Begin with this texture and mask as the picture, and with little drawn on it; see the other model's."""
        if self.picture is None:
            return
        line = identity_grid(self.size_px)[0]
        inside = line[mask[0, 0].cpu() > _EDGE] if bool((mask > _EDGE).any()) else line.flatten(0, 1)
        low, high = inside.amin(0), inside.amax(0)
        middle, side = (low + high) / 2, float((high - low).amax()) / 2 * _ROOM
        picture = composited(texture, mask).cpu() - 1
        picture = functional.grid_sample(picture, (line * side + middle)[None], align_corners=False) + 1
        with torch.no_grad():
            self.points.copy_((keypoints.mean(0).view(1, -1, 2).cpu() - middle) / side)
            self.picture.copy_(picture)
            last = self.generator.norm_channels[-1]  # the factors of the last norm are at the end
            self.person[:, -last:] *= _HEAD_START

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {"network": list(self.generator.parameters()), "adaptive": [self.person]}
        return groups if self.picture is None else groups | {"texture": [self.picture]}


def _whitening(
    keypoints: Float[Tensor, "frames coordinates"], floor: float
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n"]]:
    """Mean of keypoints, and the map after which all their directions of movement vary alike, down to ``floor``."""
    mean = keypoints.mean(0)
    centered = (keypoints - mean).double()
    variance, directions = torch.linalg.eigh(centered.T @ centered / len(centered))
    scale = (variance.clamp_min(0) + floor**2).rsqrt()
    scale[variance < (0.02 * floor) ** 2] = 0  # nothing moves that way, and which way that is depends on rounding
    return mean, (directions * scale).float()


def _principal(
    values: Float[Tensor, "frames n"],
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n"], Float[Tensor, "n"]]:
    """Mean, principal directions as columns, the most important first, and standard deviations along them."""
    mean = values.mean(0)
    centered = (values - mean).double()
    variance, directions = torch.linalg.eigh(centered.T @ centered / len(centered))
    return mean, directions.flip(1).float(), variance.flip(0).clamp_min(0).sqrt().float()


PortraitModel = BilayerPortrait | FewShotPortrait
_KINDS = dict(zip(MODELS, (BilayerPortrait, FewShotPortrait), strict=True))


def make_model(name: str, config: NetworkConfig) -> PortraitModel:
    """A fresh model, channels last. Raises ``UserError`` for a name or a size that there is not."""
    if name not in _KINDS:
        raise UserError(f"there is no 2D model {name!r}; this version of manvatar has {', '.join(MODELS)}")
    return _KINDS[name](config).to(memory_format=torch.channels_last)
