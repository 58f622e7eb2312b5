"""What a 2D model of one person is told; a TOML file holds what differs from the defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from manvatar.config import from_table, read_toml
from manvatar.errors import UserError

ModelName = Literal["bilayer", "fewshot"]
MODELS: tuple[str, ...] = ("bilayer", "fewshot")


@dataclass(frozen=True)
class NetworkConfig:
    """Of the network; written into the avatar file. Widths are those of the released bi-layer model."""

    width: int = 32  # channels at the full size; doubled at each halving
    max_width: int = 256
    image_size_px: int = 256  # a power of two
    aligned: bool = True  # by the landmarks before the network has learnt to: False = as published
    points: int = 68  # landmarks that drive it; a track with gaze has two more, the irises
    texture_modes: int = 16  # bilayer: by which the texture changes with the face; 0 = one texture, as released


@dataclass(frozen=True)
class PortraitLossConfig:
    """Weights of the loss terms; images in [-1, 1], composited on white."""

    pixelwise: float = 1.0  # L1 of the image
    gradients: float = 0.5  # L1 of its differences, over three sizes
    segmentation: float = 0.1  # cross entropy of the mask
    low_frequency: float = 0.0  # L1 of the low-frequency image alone
    mouth: float = 0.5  # L1 in the mouth's box
    warp: float = 0.0  # mean |warp|, falling to 0.9 every 50 iterations
    vgg19: float = 0.1  # perceptual; counts where the weights are given
    vggface: float = 1e-4


@dataclass(frozen=True)
class OneVideoConfig:
    """Schedule, rates and losses of one run."""

    seconds: float = 600.0  # training time where nobody asks for another
    iterations: int = 40_000  # and at most
    images_per_iteration: int = 8
    rate: float = 1e-3
    texture_rate: float = 1e-2
    mode_rate: float = 2e-3  # of the texture's modes
    adaptive_rate: float = 1e-3  # of what would depend on the person in a model of many
    final_rate_fraction: float = 0.03  # rates fall to this part along half a cosine
    warmup_iterations: int = 50
    adam_betas: tuple[float, ...] = (0.9, 0.99)
    whitening: float = 0.02  # the smallest movement of keypoints that is made as large as the others; 0 = none is
    average_decay: float = 0.99  # of the running mean of the weights, which is what is kept
    augmentation: float = 0.2  # of position, size and tilt: 1 = 6 % of the image, 6 %, 9 degrees (standard deviations)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of convolutions in training; auto: what the CPU has
    vgg19: str = ""  # weights of the perceptual terms: torchvision's VGG-19, and the Caffe-trained VGG-16 of faces
    vggface: str = ""
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    loss: PortraitLossConfig = dataclasses.field(default_factory=PortraitLossConfig)

    def __post_init__(self) -> None:
        for name in ("iterations", "images_per_iteration"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} is not possible; give 1 or more")
        for name in ("seconds", "rate", "texture_rate", "mode_rate", "adaptive_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} = {getattr(self, name)} is not possible; give a positive number")
        if not 0 < self.final_rate_fraction <= 1 or not 0 <= self.average_decay < 1:
            raise UserError("final_rate_fraction must lie in (0, 1] and average_decay in [0, 1)")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UserError(f"adam_betas = {list(self.adam_betas)} is not possible; give two numbers in [0, 1)")


# What measured better for a model: the few-shot generator learns from few images at a time and fast.
_DEFAULTS: dict[str, dict[str, float | int]] = {
    "bilayer": {},
    "fewshot": {"images_per_iteration": 4, "rate": 3e-3, "adaptive_rate": 3e-3},
}


def load_config(model: str, preset: str, size_px: int | None) -> OneVideoConfig:
    """The settings of a 2D model.

    Args:
        model: ``bilayer`` or ``fewshot``.
        preset: ``fast`` = what is best known, or a TOML file of what differs from an :class:`OneVideoConfig`.
        size_px: side of the images; None = what the preset says.

    Raises:
        UserError: no such model or file, or settings that cannot be.
    """
    if model not in MODELS:
        raise UserError(f"there is no model {model!r}; choose one of manvatar, {', '.join(MODELS)}")
    if preset == "paper":
        raise UserError(f"the preset paper is for the voxel avatar; leave out --preset with --model {model}")
    config = dataclasses.replace(OneVideoConfig(), **_DEFAULTS[model])
    if preset != "fast":
        config = from_table(OneVideoConfig, read_toml(preset), preset)
    size_px = config.network.image_size_px if size_px is None else size_px
    if not 32 <= size_px <= 512 or size_px & (size_px - 1):
        raise UserError(f"--size {size_px} is not possible with --model {model}; give 64, 128, 256 or 512")
    return dataclasses.replace(config, network=dataclasses.replace(config.network, image_size_px=size_px))
