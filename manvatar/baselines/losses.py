"""Losses of the 2D models. All are means, differentiable in their first argument; images are NCHW in [-1, 1].

The perceptual terms need networks that this project does not ship: each takes a weights file. Without one the loss is
built from what needs no weights, and :func:`perceptual_losses` says so in the log.

Sources: Zakharov et al., "Fast Bi-layer Neural Synthesis of One-Shot Realistic Head Avatars" (ECCV 2020), section 3.4;
Zakharov et al., "Few-Shot Adversarial Learning of Realistic Neural Talking Head Models" (ICCV 2019), section 3.3;
Jolicoeur-Martineau, "The relativistic discriminator" (ICLR 2019), relativistic average hinge.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from manvatar.errors import UserError

logger = logging.getLogger(__name__)

Images = Float[Tensor, "images channels height width"]
Scalar = Float[Tensor, ""]
Backbone = Literal["vgg19", "vggface"]

# ------------------------------------------------------------------------------------------------------- adversarial


def relativistic_generator(real: Tensor, fake: Tensor) -> Scalar:
    """Relativistic average hinge for the generator: fakes should score above the mean real, reals below the mean fake.

    Args:
        real: scores of real images, any shape; no gradient flows into them.
        fake: scores of generated images.
    """
    real = real.detach()
    return functional.relu(1 - (fake - real.mean())).mean() + functional.relu(1 + (real - fake.mean())).mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Scalar:
    """The same game seen by the discriminator; give it the scores of detached fakes."""
    return functional.relu(1 - (real - fake.mean())).mean() + functional.relu(1 + (fake - real.mean())).mean()


def hinge_generator(fake: Tensor) -> Scalar:
    """The plain hinge game of the few-shot model: ``-mean(fake)``."""
    return -fake.mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Scalar:
    """``relu(1 - real) + relu(1 + fake)``, means over all scores, which come straight from a linear layer."""
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Scalar:
    """Mean over layers of the L1 between a discriminator's features of fake and real images; reals are detached."""
    if len(fake) != len(real) or not fake:
        raise ValueError(f"feature_matching: {len(fake)} layers of fakes and {len(real)} of reals; give as many")
    terms = [functional.l1_loss(a, b.detach()) for a, b in zip(fake, real, strict=True)]
    return torch.stack(terms).mean()


# ------------------------------------------------------------------------------------------------- without any weights


def pixelwise(image: Images, target: Images) -> Scalar:
    """Mean absolute difference."""
    return functional.l1_loss(image, target)


def gradients(image: Images, target: Images, levels: int = 3) -> Scalar:
    """Mean absolute difference of the images' differences between neighbours, over ``levels`` halvings of the size.

    It asks for edges in the right place, which a mean absolute difference alone leaves soft. The weights-free stand-in
    for a perceptual term.
    """
    error = image - target
    terms = []
    for level in range(levels):
        if level:
            error = functional.avg_pool2d(error, 2)
        terms.append(error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    return torch.stack(terms).sum()


def segmentation(logits: Images, mask: Images, kind: Literal["bce", "dice"] = "bce") -> Scalar:
    """Of a predicted mask: cross entropy of the logits, or the logarithm of the inverse dice coefficient.

    Args:
        logits: before the sigmoid.
        mask: what it should be, [0, 1].
    """
    if kind == "bce":
        return functional.binary_cross_entropy_with_logits(logits, mask)
    fake = logits.sigmoid()
    union = (fake.square() + mask.square()).sum()
    return union.clamp_min(1e-6).log() - (2 * (fake * mask).sum()).clamp_min(1e-6).log()


def warp_regularizer(warp: Float[Tensor, "images 2 height width"]) -> Scalar:
    """Mean absolute displacement, in halves of the image's side."""
    return warp.abs().mean()


def warp_weight(iteration: int, initial: float = 10.0, factor: float = 0.9, every: int = 50) -> float:
    """The weight of :func:`warp_regularizer`: it falls to ``factor`` every ``every`` iterations; 0 when negligible."""
    weight = initial * factor ** (iteration // every)
    return weight if weight > 1e-4 * initial else 0.0


# -------------------------------------------------------------------------------------------------------- perceptual

# Numbers of convolutions, activations and poolings are those of torchvision's ``features``.
_CONVOLUTIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg19": ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512,)),
    "vggface": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512,)),
}
_TAPS = {"vgg19": (1, 6, 11, 20, 29), "vggface": (1, 6, 11, 18, 25)}  # relu1_1, 2_1, 3_1, 4_1, 5_1
LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.680)  # laid on RGB as the released code does, although it is in BGR order


class PerceptualLoss(nn.Module):
    """Weighted L1 between activations of a frozen VGG: relu1_1 to relu5_1, with mean instead of max pooling.

    Args:
        backbone: ``vgg19`` (torchvision's ImageNet weights) or ``vggface`` (the Caffe-trained VGG-16 of faces).
        weights: a state dict in torchvision's layout, ``features.<n>.weight``; read with ``weights_only``.
        layer_weights: of the five activations.

    Raises:
        UserError: there is no such file, or it holds something else.
    """

    def __init__(
        self, backbone: Backbone, weights: str | Path, layer_weights: tuple[float, ...] = LAYER_WEIGHTS
    ) -> None:
        super().__init__()
        self.backbone, self.layer_weights = backbone, layer_weights
        self.features = _vgg(backbone)
        _load_vgg(self.features, Path(weights))
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Images, target: Images) -> Scalar:
        with torch.no_grad():
            wanted = self._activations(target)
        found = self._activations(image)
        pairs = zip(self.layer_weights, found, wanted, strict=True)
        return torch.stack([weight * functional.l1_loss(a, b) for weight, a, b in pairs]).sum()

    def _activations(self, image: Images) -> list[Tensor]:
        taps, found = _TAPS[self.backbone], []
        x = self._normalized(image)
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in taps:
                found.append(x)
        return found

    def _normalized(self, image: Images) -> Images:
        if self.backbone == "vgg19":
            mean, std = (image.new_tensor(v)[:, None, None] for v in (_IMAGENET_MEAN, _IMAGENET_STD))
            return ((image + 1) / 2 - mean) / std
        return 127.5 * (image + 1) - image.new_tensor(_CAFFE_MEAN)[:, None, None]


@dataclass(frozen=True)
class WeightedLoss:
    """A perceptual term and its weight in the sum."""

    name: str
    loss: PerceptualLoss
    weight: float


def perceptual_losses(
    vgg19: str | Path | None, vggface: str | Path | None, vgg19_weight: float = 10.0, vggface_weight: float = 0.01
) -> tuple[WeightedLoss, ...]:
    """The perceptual terms whose weights are at hand; the log says which are left out.

    Raises:
        UserError: a file that is named cannot be used.
    """
    found, missing = [], []
    for name, path, weight in (("vgg19", vgg19, vgg19_weight), ("vggface", vggface, vggface_weight)):
        if path is None:
            missing.append(name)
        else:
            found.append(WeightedLoss(name, PerceptualLoss(name, path), weight))
    if missing:
        logger.info(
            "no weights of %s: the loss has no such perceptual term, but differences of pixels and of gradients",
            " and ".join(missing),
        )
    return tuple(found)


def _vgg(backbone: Backbone) -> nn.Sequential:
    """The convolutional part up to relu5_1, layers numbered like torchvision's."""
    layers: list[nn.Module] = []
    inputs = 3
    for stage, widths in enumerate(_CONVOLUTIONS[backbone]):
        if stage:
            layers.append(nn.AvgPool2d(2))
        for outputs in widths:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
    return nn.Sequential(*layers)


def _load_vgg(features: nn.Sequential, path: Path) -> None:
    advice = "give torchvision's state dict of the network (features.0.weight, ...)"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}; {advice}") from error
    except Exception as error:  # torch.load raises whatever its reader met
        raise UserError(f"{path} is not a PyTorch state dict; {advice}") from error
    try:
        features.load_state_dict({name: state[f"features.{name}"] for name in features.state_dict()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} does not hold the weights of this VGG; {advice}") from error
