"""What one training step minimises; a module for each side, so that each can be wrapped for several processes.

Zakharov et al., ECCV 2020, section 3.4, with the weights of the released training script.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from manvatar.baselines import losses
from manvatar.baselines.bilayer.blocks import Images, everyones
from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.generators import InferenceOutput, masked, warped
from manvatar.baselines.bilayer.model import BilayerModel, Person
from manvatar.baselines.bilayer.pairs import Pairs

Stage = Literal["base", "enhancer"]


@dataclass(frozen=True)
class LossWeights:
    """Those of the released script; ``gradients`` stands in where there are no weights of a VGG."""

    adversarial: float = 0.5
    feature_matching: float = 10.0
    pixelwise: float = 10.0
    segmentation: float = 10.0
    vgg19: float = 10.0
    vggface: float = 0.01
    warp: float = 10.0  # at the start; it falls to nothing
    gradients: float = 10.0


@dataclass(frozen=True)
class Shown:
    """A step's pictures, all on black where the predicted mask is 0."""

    image: Images
    low_detached: Images  # the same picture; its low frequencies are a constant to the gradient
    low: Images
    target: Images


class GeneratorSide(nn.Module):
    """The networks that make images and their loss; the discriminator is looked at, not trained."""

    def __init__(
        self,
        model: BilayerModel,
        discriminator: Discriminator,
        weights: LossWeights,
        perceptual: tuple[losses.WeightedLoss, ...] = (),
        stage: Stage = "base",
    ) -> None:
        super().__init__()
        self.model, self.weights, self.perceptual, self.stage = model, weights, perceptual, stage
        self._others = [discriminator]  # in a list: its parameters are not this module's

    def forward(self, pairs: Pairs, iteration: int) -> tuple[Tensor, dict[str, Tensor], Images, Images]:
        """The sum, its terms, and the image and target that the discriminator learns from."""
        output, person = self._outputs(pairs)
        shown = compose(output, person, pairs.target_photos)
        terms = self._adversarial(shown, pairs.target_stickmen)
        terms["pixelwise"] = self.weights.pixelwise * losses.pixelwise(shown.low, shown.target)
        if output.mask_logits is not None:
            terms["segmentation"] = self.weights.segmentation * losses.segmentation(
                output.mask_logits, pairs.target_mattes
            )
        for term in self.perceptual:
            terms[term.name] = term.weight * term.loss(shown.low_detached, shown.target)
        if not self.perceptual:
            error = losses.gradients(shown.low_detached, shown.target)
            terms["gradients"] = self.weights.gradients * (error + losses.pixelwise(shown.low_detached, shown.target))
        warp = losses.warp_weight(iteration, self.weights.warp) if self.stage == "base" else 0.0
        if warp:
            terms["warp"] = warp * losses.warp_regularizer(output.warp)
        if self.stage == "enhancer":  # nothing there to train for these
            terms = {name: term for name, term in terms.items() if name not in ("pixelwise", "segmentation")}
        return torch.stack(list(terms.values())).sum(), terms, shown.image.detach(), shown.target

    def _outputs(self, pairs: Pairs) -> tuple[InferenceOutput, Person]:
        model = self.model
        with torch.set_grad_enabled(self.stage == "base"):
            person = model.person(pairs.source_photos, pairs.source_stickmen, pairs.source_mattes)
            output = model.pose(pairs.target_keypoints, person.adaptive)
        if self.stage == "enhancer":
            person = model.enhanced(person, pairs.source_photos, pairs.source_keypoints)
        return output, person

    def _adversarial(self, shown: Shown, stickmen: Images) -> dict[str, Tensor]:
        discriminator = self._others[0]
        frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
        both = torch.cat([shown.target, shown.image]), stickmen.repeat(2, 1, 1, 1)
        scores, features = functional_call(discriminator, frozen, both)
        real, fake = scores.chunk(2)
        halves = [feature.chunk(2) for feature in features]
        matching = losses.feature_matching([f for _, f in halves], [r for r, _ in halves])
        adversarial = losses.relativistic_generator(everyones(real.detach()), everyones(fake))
        return {
            "adversarial": self.weights.adversarial * adversarial,
            "feature_matching": self.weights.feature_matching * matching,
        }


class DiscriminatorSide(nn.Module):
    """The discriminator and its loss."""

    def __init__(self, discriminator: Discriminator, weight: float) -> None:
        super().__init__()
        self.discriminator, self.weight = discriminator, weight

    def forward(self, image: Images, target: Images, stickmen: Images) -> Tensor:
        scores, _ = self.discriminator(torch.cat([target, image]), stickmen.repeat(2, 1, 1, 1))
        real, fake = scores.chunk(2)
        return self.weight * losses.relativistic_discriminator(everyones(real), everyones(fake))


def compose(output: InferenceOutput, person: Person, target: Images) -> Shown:
    """All pictures of a step; the predicted mask cuts them out and is a constant to the gradient there."""
    high = warped(person.texture, output.warp)
    pictures = output.low_frequency + high, output.low_frequency.detach() + high, output.low_frequency, target
    if output.mask_logits is None:
        return Shown(*pictures)
    mask = output.mask_logits.detach().sigmoid()
    return Shown(*(masked(picture, mask) for picture in pictures))
