"""The bi-layer model as a whole: photos of a person -> that person's values; keypoints -> their image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from manvatar.baselines.bilayer.blocks import EPSILON, AdaptiveParameters, Images
from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.enhancer import STEPS, TextureEnhancer, enhanced
from manvatar.baselines.bilayer.generators import (
    InferenceGenerator,
    InferenceOutput,
    KeypointEmbedder,
    TextureGenerator,
    masked,
)
from manvatar.baselines.bilayer.identity import IdentityEmbedder, Projector


@dataclass(frozen=True)
class BilayerConfig:
    """Sizes of all networks; the defaults are those of the released model."""

    image_size_px: int = 256
    width: int = 32  # of the inference generator at the full size; 16/128 small, 64/512 large
    max_width: int = 256
    masked: bool = True  # it has a head for the person's mask
    keypoint_octaves: int = 0  # 4 where the keypoints enter as sines and cosines
    texture_width: int = 64
    texture_max_width: int = 512
    embedder_width: int = 64
    embedder_max_width: int = 512
    enhancer_width: int = 64
    enhancer_max_width: int = 128
    enhancer_down: int = 1
    enhancer_flat: int = 8
    discriminator_width: int = 64
    discriminator_max_width: int = 512
    discriminator_blocks: int = 6


@dataclass(frozen=True)
class Person:
    """All that frames of one person (or of P people) need."""

    adaptive: AdaptiveParameters  # of the inference generator
    texture: Float[Tensor, "people 3 height width"]


class BilayerModel(nn.Module):
    """The five networks of the generator's side; ``texture_enhancer`` is None where there is none."""

    def __init__(self, config: BilayerConfig, enhancer: bool = True) -> None:
        super().__init__()
        size_px = config.image_size_px
        embedder = config.embedder_width, config.embedder_max_width
        texture = config.texture_width, config.texture_max_width
        self.config = config
        self.identity_embedder = IdentityEmbedder(*embedder, *texture, size_px)
        self.texture_generator = TextureGenerator(*texture, size_px)
        self.texture_projector: nn.Module = Projector(self.texture_generator.widths, True, *embedder)
        self.inference_generator = InferenceGenerator(config.width, config.max_width, size_px, config.masked)
        self.inference_projector: nn.Module = Projector(self.inference_generator.widths, False, *embedder)
        self.keypoint_embedder = KeypointEmbedder(self.inference_generator.inputs, config.keypoint_octaves)
        self.texture_enhancer = make_enhancer(config) if enhancer else None

    def person(
        self, photos: Images, stickmen: Images, matte: Images | None = None, photos_per_person: int = 1
    ) -> Person:
        """The person (or people) of the photos, with the texture before any enhancement. Differentiable.

        Args:
            photos, stickmen: (people * photos_per_person, 3, H, W) in [-1, 1].
            matte: (..., 1, H, W) in [0, 1]; what it leaves out is shown to the embedder as black.
        """
        shown = photos if matte is None else masked(photos, matte)
        embeddings = self.identity_embedder(torch.cat([shown, stickmen], 1), photos_per_person)
        texture = self.texture_generator(self.texture_projector(embeddings))
        return Person(self.inference_projector(embeddings), texture)

    def pose(self, keypoints: Float[Tensor, "images coordinates"], adaptive: AdaptiveParameters) -> InferenceOutput:
        """What people look like with these keypoints, before the texture is laid on."""
        return self.inference_generator(self.keypoint_embedder(keypoints), adaptive)

    def enhanced(
        self,
        person: Person,
        photos: Images,
        keypoints: Float[Tensor, "images coordinates"],
        steps: int = STEPS,
        photos_per_person: int = 1,
        align_corners: bool = False,
    ) -> Person:
        """The person with a texture that shows the photos (unmasked, with these keypoints) better.

        Raises:
            ValueError: the model has no enhancer.
        """
        if self.texture_enhancer is None:
            raise ValueError("BilayerModel.enhanced: this model has no texture enhancer")
        source = self.pose(keypoints, repeated(person.adaptive, photos_per_person))
        options = steps, photos_per_person, align_corners
        return Person(person.adaptive, enhanced(self.texture_enhancer, person.texture, source, photos, *options))


def make_enhancer(config: BilayerConfig) -> TextureEnhancer:
    widths = config.enhancer_width, config.enhancer_max_width
    return TextureEnhancer(*widths, config.enhancer_down, config.enhancer_flat)


def make_discriminator(config: BilayerConfig) -> Discriminator:
    widths = config.discriminator_width, config.discriminator_max_width
    return Discriminator(*widths, config.image_size_px, config.discriminator_blocks)


def repeated(adaptive: AdaptiveParameters, images_per_person: int) -> AdaptiveParameters:
    """The same values for each of several images of every person. One person's values need no repeating."""
    if images_per_person == 1 or len(adaptive.skips[0].weight) == 1:
        return adaptive
    norms = [type(n)(*(v.repeat_interleave(images_per_person, 0) for v in vars(n).values())) for n in adaptive.norms]
    skips = [type(s)(*(v.repeat_interleave(images_per_person, 0) for v in vars(s).values())) for s in adaptive.skips]
    return AdaptiveParameters(tuple(norms), tuple(skips))


# ----------------------------------------------------------------------------------------------------- spectral norm


def normed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that carry a spectral norm while training, by name: every convolution and linear layer."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}


class SpectralNorm(nn.Module):
    """A weight divided by u W v, its largest singular value as far as the vectors u and v have come near it.

    In training mode each use is one power iteration, first v and then u: the order of the released code (torch's
    ``parametrizations.spectral_norm`` has the other). The vectors are constants to the gradient (Miyato et al. 2018).
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows = weight.detach().flatten(1)
        self.register_buffer("u", functional.normalize(torch.randn_like(rows[:, 0]), dim=0, eps=EPSILON))
        self.register_buffer("v", functional.normalize(rows.T @ self.u, dim=0, eps=EPSILON))

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                self.v.copy_(functional.normalize(rows.T @ self.u, dim=0, eps=EPSILON))
                self.u.copy_(functional.normalize(rows @ self.v, dim=0, eps=EPSILON))
        return weight / torch.dot(self.u.clone(), rows @ self.v.clone())  # clones: a later use changes them


def add_spectral_norm(model: nn.Module) -> None:
    """Put a :class:`SpectralNorm` on every convolution and linear layer."""
    for layer in normed_layers(model).values():
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


def remove_spectral_norm(model: nn.Module) -> None:
    """Make the divided weights the weights; exact, for the estimates as they are."""
    training = model.training
    model.eval()  # or reading a weight would iterate once more
    for layer in normed_layers(model).values():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
    model.train(training)
